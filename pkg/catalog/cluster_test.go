package catalog

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/store"
)

// takeSnapshot backs up a snapshot of a cluster from a time, with a user of this name.
func takeSnapshot(t *testing.T, dir string, ms int64, user string) {
	t.Helper()
	var records, segments bytes.Buffer
	w := format.NewWriter(&records)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentRecords, Source: &format.Source{Cluster: "c", Tool: "kbk-cluster"}}))
	ok(t, w.Write(&format.Cluster{ID: fmt.Sprint("id-", ms), Time: ms, ClusterInfo: format.ClusterInfo{Cluster: "c", Kinds: []string{format.ClusterUsers}, LeftOut: []string{"x"}}}))
	ok(t, w.Write(&format.User{Name: user}))
	ok(t, w.Close(new(format.End)))
	ok(t, pack.Pack(t.Context(), pack.Config{SegmentSize: 1 << 20, Memory: 64 << 20, Level: 1, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd")}, env(), &records, &segments))
	ok(t, push.Run(t.Context(), push.Config{Remote: dir, Transfers: 2, Checkpoint: time.Hour, CheckpointSegments: 1, MaxFrame: 1 << 20}, env(), &segments, io.Discard))
}

// users are those of the snapshots in what a pull gives, in order, and how many records there
// are with them.
func users(t *testing.T, cfg pull.Config) (names []string, records int, status int) {
	t.Helper()
	cfg.Transfers, cfg.Memory = 2, 1<<20
	var segments, out bytes.Buffer
	err := pull.Run(t.Context(), cfg, env(), &segments)
	if status = command.StatusOf(err); status != command.OK && status != command.Loss {
		return []string{err.Error()}, 0, status
	}
	err = pack.Unpack(t.Context(), pack.Config{Memory: 64 << 20, MaxFrame: 1 << 20}, env(), &segments, &out)
	if s := command.StatusOf(err); s != command.OK && s != command.Loss {
		t.Fatal(err)
	}
	for r := format.NewReader(&out, 1<<20); ; {
		f, err := r.Next()
		if err == io.EOF {
			return names, records, status
		}
		ok(t, err)
		switch f.Kind {
		case format.KindRec:
			records++
		case format.KindUser:
			u, err := format.DecodeUser(f.Raw)
			ok(t, err)
			names = append(names, u.Name)
		}
	}
}

// withSnapshots is [backup], whose points are at 100, 200 and 300, with snapshots of the cluster
// before the first point, between the first two, and behind the last.
func withSnapshots(t *testing.T) string {
	dir := backup(t)
	takeSnapshot(t, dir, 50, "alice")
	takeSnapshot(t, dir, 60, "bert")
	takeSnapshot(t, dir, 150, "carol")
	takeSnapshot(t, dir, 350, "dora")
	return dir
}

// TestSnapshotsPulled: which snapshots a pull reads.
func TestSnapshotsPulled(t *testing.T) {
	dir := withSnapshots(t)
	points := open(t, dir)
	log, err := points.ReadLog(t.Context(), store.LogOptions{})
	ok(t, err)
	first := log.Points()[0].Entry
	for _, c := range []struct {
		name    string
		cfg     pull.Config
		users   string
		records int
	}{
		{"all, as for a copy", pull.Config{}, "alice bert carol dora", 60},
		{"none", pull.Config{Cluster: pull.ClusterNone}, "", 60},
		{"the newest", pull.Config{Cluster: pull.ClusterOnly}, "dora", 0},
		{"a topic is exported", pull.Config{Selection: partitions.Selection{Topics: []string{"t"}}}, "", 60},
		{"a point", pull.Config{Point: first}, "bert", 20},
		{"of a point", pull.Config{Point: first, Cluster: pull.ClusterOnly}, "bert", 0},
		{"a time", pull.Config{At: at(210)}, "carol", 40},
		{"of a time", pull.Config{At: at(155), Cluster: pull.ClusterOnly}, "carol", 0},
		{"records up to a time", pull.Config{Until: at(110)}, "bert", 24},
		{"records from a time", pull.Config{Since: at(290)}, "dora", 2},
	} {
		c.cfg.Remote = dir
		names, records, status := users(t, c.cfg)
		if got := strings.Join(names, " "); got != c.users || records != c.records || status != command.OK {
			t.Errorf("%s: users %q with %d records, status %d; want %q with %d", c.name, got, records, status, c.users, c.records)
		}
	}
	if said, _, status := users(t, pull.Config{Remote: dir, At: at(10), Cluster: pull.ClusterOnly}); status != command.Failed || !strings.Contains(said[0], "no snapshot of the cluster is from") {
		t.Errorf("before the first one: status %d, %q", status, said)
	}
	if said, _, status := users(t, pull.Config{Remote: backup(t), Cluster: pull.ClusterOnly}); status != command.Failed || !strings.Contains(said[0], "no snapshot of a cluster") {
		t.Errorf("of a backup without: status %d, %q", status, said)
	}
}

// TestSnapshotsStay: snapshots are the same when the log is compacted, in a copy, and when they
// are copied twice. A run that takes one changes nothing of what is known of records.
func TestSnapshotsStay(t *testing.T) {
	dir := withSnapshots(t)
	other := filepath.Join(t.TempDir(), "copy")
	for range 2 {
		var segments bytes.Buffer
		ok(t, pull.Run(t.Context(), pull.Config{Remote: dir, Transfers: 2, Memory: 1 << 20}, env(), &segments))
		ok(t, push.Run(t.Context(), push.Config{Remote: other, Transfers: 2, Checkpoint: time.Hour, CheckpointSegments: 1, MaxFrame: 1 << 20}, env(), &segments, io.Discard))
	}
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	for _, d := range []string{dir, other} {
		names, records, status := users(t, pull.Config{Remote: d})
		if got := strings.Join(names, " "); got != "alice bert carol dora" || records != 60 || status != command.OK {
			t.Errorf("users %q, %d records, status %d", got, records, status)
		}
		if p := problems(t, d, VerifyConfig{Deep: true}); p != nil {
			t.Errorf("problems %q", p)
		}
		if files, _ := filepath.Glob(filepath.Join(d, "cluster/*")); len(files) != 4 {
			t.Errorf("objects %q", files)
		}
	}
	var out bytes.Buffer
	ok(t, Show(t.Context(), open(t, dir), store.LogOptions{}, everything(t), false, false, env(), &out))
	if got := out.String(); !strings.Contains(got, "SNAPSHOT OF THE CLUSTER") || !strings.Contains(got, "1 user, 1 thing left out") {
		t.Errorf("shown as\n%s", got)
	}
	out.Reset()
	ok(t, CatCluster(t.Context(), open(t, dir), CatClusterConfig{ID: Latest, MaxFrame: 1 << 20, JSON: true}, env(), &out))
	if got := out.String(); !strings.Contains(got, `{"kbk":"user","data":{"name":"dora"`) {
		t.Errorf("printed as %s", got)
	}
	out.Reset()
	ok(t, CatCluster(t.Context(), open(t, dir), CatClusterConfig{ID: "id-150", MaxFrame: 1 << 20}, env(), &out))
	if !bytes.Contains(out.Bytes(), []byte("carol")) {
		t.Error("another snapshot was printed")
	}
}

// TestSnapshotsPruned keeps what restore points need that are kept, what the policy keeps of the
// snapshots themselves, and what is newer than all points.
func TestSnapshotsPruned(t *testing.T) {
	for _, c := range []struct {
		name   string
		points bool
		policy commitlog.Policy
		left   string
	}{
		{"the last point", true, commitlog.Policy{Last: 1}, "carol dora"},
		{"all points", true, commitlog.Policy{All: true}, "alice bert carol dora"},
		{"the last two points", true, commitlog.Policy{Last: 2}, "carol dora"},
		{"three points", true, commitlog.Policy{Last: 3}, "bert carol dora"},
		{"no points, the last one", false, commitlog.Policy{Last: 1}, "dora"},
		{"no points, the last three", false, commitlog.Policy{Last: 3}, "bert carol dora"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "b")
			if c.points {
				dir = withSnapshots(t)
			} else {
				for i, name := range strings.Fields("alice bert carol dora") {
					takeSnapshot(t, dir, int64(50+i), name)
				}
			}
			var out bytes.Buffer
			ok(t, Prune(t.Context(), open(t, dir), PruneConfig{Retention: commitlog.Retention{Policy: c.policy}, Really: true}, env(), &out))
			names, _, _ := users(t, pull.Config{Remote: dir})
			if got := strings.Join(names, " "); got != c.left {
				t.Errorf("left are %q, want %q\n%s", got, c.left, out.String())
			}
			if files, _ := filepath.Glob(filepath.Join(dir, "cluster/*")); len(files) != len(names) {
				t.Errorf("objects %q for %d snapshots", files, len(names))
			}
			if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
				t.Errorf("problems %q", p)
			}
		})
	}
}

// TestSnapshotsDamaged: verify names what is wrong, pull gives nothing wrong, repair forgets
// what is gone and lists what nothing lists.
func TestSnapshotsDamaged(t *testing.T) {
	object := func(t *testing.T, dir string, i int) string {
		files, err := filepath.Glob(filepath.Join(dir, "cluster/*"))
		ok(t, err)
		slices.Sort(files)
		return files[i]
	}
	t.Run("gone", func(t *testing.T) {
		dir := withSnapshots(t)
		ok(t, os.Remove(object(t, dir, 3)))
		if p := problems(t, dir, VerifyConfig{}); len(p) != 1 || !strings.HasPrefix(p[0], "missing: cluster/") {
			t.Errorf("problems %q", p)
		}
		if said, _, status := users(t, pull.Config{Remote: dir}); status != command.Corrupt {
			t.Errorf("status %d, %q", status, said)
		}
		if names, records, status := users(t, pull.Config{Remote: dir, SkipDamaged: true}); strings.Join(names, " ") != "alice bert carol" || records != 60 || status != command.Loss {
			t.Errorf("status %d, %q, %d records", status, names, records)
		}
		if said, status := fix(t, dir, RepairConfig{}); !strings.HasPrefix(said, "forget: cluster/") || status != command.Loss {
			t.Errorf("status %d, it says %s", status, said)
		}
		if names, _, status := users(t, pull.Config{Remote: dir}); strings.Join(names, " ") != "alice bert carol" || status != command.OK {
			t.Errorf("repaired: status %d, %q", status, names)
		}
	})
	t.Run("each byte", func(t *testing.T) {
		dir := withSnapshots(t)
		name := object(t, dir, 3)
		whole, err := os.ReadFile(name)
		ok(t, err)
		for i := range whole {
			bad := slices.Clone(whole)
			bad[i] ^= 0x10
			ok(t, os.WriteFile(name, bad, 0o644))
			if p := problems(t, dir, VerifyConfig{Deep: true}); len(p) != 1 || !strings.HasPrefix(p[0], "content: cluster/") {
				t.Fatalf("byte %d: problems %q", i, p)
			}
			if said, _, status := users(t, pull.Config{Remote: dir, Cluster: pull.ClusterOnly}); status != command.Corrupt {
				t.Fatalf("byte %d: status %d, %q", i, status, said)
			}
		}
	})
	t.Run("a file of the log", func(t *testing.T) {
		dir := withSnapshots(t)
		entries, err := filepath.Glob(filepath.Join(dir, "log/*.json"))
		ok(t, err)
		ok(t, os.WriteFile(entries[len(entries)-1], []byte("{"), 0o644))
		skip := store.LogOptions{SkipDamaged: true}
		for what, err := range map[string]error{
			"a snapshot":             CatCluster(t.Context(), open(t, dir), CatClusterConfig{ID: Latest, MaxFrame: 1 << 20, Log: skip}, env(), io.Discard),
			"a snapshot, as lines":   CatCluster(t.Context(), open(t, dir), CatClusterConfig{ID: Latest, MaxFrame: 1 << 20, Log: skip, JSON: true}, env(), io.Discard),
			"records, as a stream":   Cat(t.Context(), open(t, dir), CatConfig{Topic: "t", To: 5, Until: 1 << 40, MaxFrame: 1 << 20, Log: skip}, env(), io.Discard),
			"records, as JSON lines": Cat(t.Context(), open(t, dir), CatConfig{Topic: "t", To: 5, Until: 1 << 40, MaxFrame: 1 << 20, Log: skip, JSON: true}, env(), io.Discard),
		} {
			if command.StatusOf(err) != command.Loss {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("not listed", func(t *testing.T) {
		dir := withSnapshots(t)
		entries, err := filepath.Glob(filepath.Join(dir, "log/*.json"))
		ok(t, err)
		ok(t, os.Remove(entries[len(entries)-1]))
		ok(t, os.Remove(filepath.Join(dir, "manifest.json")))
		if said, status := fix(t, dir, RepairConfig{Unlisted: true}); strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "list: cluster/") || status != command.OK {
			t.Errorf("status %d, it says %s", status, said)
		}
		if names, _, status := users(t, pull.Config{Remote: dir}); strings.Join(names, " ") != "alice bert carol dora" || status != command.OK {
			t.Errorf("repaired: status %d, %q", status, names)
		}
	})
}
