package simulate

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/segment"
)

// A snapshot is one of what the cluster has besides records, as a vault has it.
type snapshot struct {
	time int64 // milliseconds since the epoch
	sure bool  // it was promised, and nothing may have pruned it since
}

// userOf is the only user in a snapshot.
func userOf(id string) string { return "user of " + id }

// takeSnapshot backs up a snapshot of the cluster.
func (w *world) takeSnapshot() {
	v := w.vaults[0]
	w.snapshots++
	c := &format.Cluster{ID: fmt.Sprint("snapshot-", w.snapshots), Time: time.Now().UnixMilli(), ClusterInfo: format.ClusterInfo{Kinds: []string{format.ClusterUsers}}}
	var records, packed bytes.Buffer
	out := format.NewWriter(&records)
	w.must(out.WriteHeader(&format.Header{Content: format.ContentRecords, Source: &format.Source{Cluster: "simulated"}}))
	w.must(out.Write(c))
	w.must(out.Write(&format.User{Name: userOf(c.ID)}))
	w.must(out.Close(new(format.End)))
	cfg := pack.Config{SegmentSize: 1 << 20, Memory: 64 << 20, Codec: segment.CodecOf("zstd"), Level: 1, MaxFrame: 1 << 20}
	if w.rng.IntN(2) == 0 {
		cfg.Recipients = []age.Recipient{identity.Recipient()}
	}
	f := &fetched{stream: w.read("snapshot", records.Bytes()), status: command.OK}
	w.must(pack.Pack(w.ctx, cfg, w.env("kbk-pack"), &records, &packed))
	f.packed = packed.Bytes()
	p := w.newPushing(v, f)
	w.bubble(func() { p.run(w, false) })
	p.book(w)
	v.keepSnapshots(f.stream, status(p.err) == command.OK)
}

// keepSnapshots notes that a push has stored those of a stream, surely or perhaps.
func (v *vault) keepSnapshots(s *stream, sure bool) {
	for id, at := range s.snapshots {
		v.snapshots[id] = snapshot{at, sure || v.snapshots[id].sure}
	}
}

// pruneSnapshots takes back what pruning may have let go: all but the newest, if that one is sure.
func (v *vault) pruneSnapshots() {
	newest := v.newestSnapshot()
	for id, s := range v.snapshots {
		v.snapshots[id] = snapshot{s.time, s.sure && id == newest}
	}
}

// newestSnapshot is the one with the latest time, whether or not it is sure. Of two of the same
// time it is none.
func (v *vault) newestSnapshot() (id string) {
	all := slices.SortedFunc(maps.Keys(v.snapshots), func(a, b string) int { return int(v.snapshots[b].time - v.snapshots[a].time) })
	if len(all) == 0 || len(all) > 1 && v.snapshots[all[0]].time == v.snapshots[all[1]].time {
		return ""
	}
	return all[0]
}

// compareSnapshots holds the snapshots in a restore of the newest state against what was promised.
func (w *world) compareSnapshots(what string, v *vault, s *stream) {
	for id, at := range s.snapshots {
		if known, ok := v.snapshots[id]; !ok || known.time != at {
			w.breaks("%s: the snapshot %s is there, which nobody has taken", what, id)
		}
	}
	for id, known := range v.snapshots {
		if _, ok := s.snapshots[id]; known.sure && !ok {
			w.breaks("%s: the snapshot %s is not there", what, id)
		}
		w.compared++
	}
}

// compareSnapshotAt holds the snapshot in a restore of a time against what was promised: it is
// the newest that is not later.
func (w *world) compareSnapshotAt(what string, v *vault, s *stream, ms int64) {
	if len(s.snapshots) > 1 {
		w.breaks("%s: there are %d snapshots", what, len(s.snapshots))
	}
	got := int64(-1)
	for id, at := range s.snapshots {
		if got = at; at > ms {
			w.breaks("%s: the snapshot %s is of %d, which is later", what, id, at)
		}
	}
	for id, known := range v.snapshots {
		if known.sure && known.time <= ms && known.time > got {
			w.breaks("%s: the snapshot is of %d, and %s of %d is in the backup", what, got, id, known.time)
		}
	}
}

// snapshotFrame takes a frame of a snapshot into a stream that is read.
func (w *world) snapshotFrame(what string, s *stream, f *format.Frame) {
	switch f.Kind {
	case format.KindCluster:
		c, err := format.DecodeCluster(f.Raw)
		w.must(err)
		if _, twice := s.snapshots[c.ID]; twice {
			w.breaks("%s: the snapshot %s is there twice", what, c.ID)
		}
		s.snapshots[c.ID], s.snapshot = c.Time, c.ID
	case format.KindUser:
		u, err := format.DecodeUser(f.Raw)
		w.must(err)
		if u.Name != userOf(s.snapshot) {
			w.breaks("%s: the snapshot %s has %q", what, s.snapshot, u.Name)
		}
		s.snapshot = ""
	}
}
