package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/store"
)

// A ReportSnapshot is a snapshot of what a cluster has besides its records.
type ReportSnapshot struct {
	ID        string           `json:"id"`
	Time      int64            `json:"time"` // when it was begun, in milliseconds since the epoch
	Cluster   string           `json:"cluster,omitempty"`
	Kinds     []string         `json:"kinds"`  // what was read
	Frames    map[string]int64 `json:"frames"` // how many of each kind of frame
	LeftOut   int64            `json:"left_out,omitempty"`
	Bytes     int64            `json:"bytes"` // as stored
	Encrypted bool             `json:"encrypted,omitempty"`
}

func reportSnapshot(s *commitlog.ClusterSnapshot) ReportSnapshot {
	return ReportSnapshot{s.ID, s.Time, s.Cluster, s.Kinds, s.Frames, s.LeftOut, s.Size, s.Cipher != ""}
}

// frameNames are what one frame of each kind stands for, in the order in which they are told.
var frameNames = []struct{ kind, name string }{
	{"acl", "ACL"}, {"quota", "quota"}, {"user", "user"}, {"config", "config"}, {"subject", "subject"}, {"schema", "schema"}, {"connector", "connector"},
}

// holds says for people what a snapshot holds.
func (s *ReportSnapshot) holds() string {
	var parts []string
	for _, f := range frameNames {
		if n := s.Frames[f.kind]; n > 0 {
			parts = append(parts, command.Count(n, f.name))
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "nothing of "+strings.Join(s.Kinds, ", "))
	}
	if s.LeftOut > 0 {
		parts = append(parts, command.Count(s.LeftOut, "thing")+" left out")
	}
	return strings.Join(parts, ", ")
}

// CatClusterConfig says which snapshot of a cluster to print.
type CatClusterConfig struct {
	ID         string // of the snapshot, or Latest
	Identities []age.Identity
	MaxFrame   int64 // bytes
	JSON       bool
	Log        store.LogOptions
}

// Latest stands for the newest snapshot of a cluster.
const Latest = "latest"

// CatCluster writes a snapshot of a cluster to out, as a stream or as lines of JSON.
func CatCluster(ctx context.Context, st *store.Store, cfg CatClusterConfig, env *command.Env, out io.Writer) error {
	opts := cfg.Log
	opts.Keep = noSegments
	log, err := load(ctx, st, opts, env)
	if err != nil {
		return err
	}
	all := log.ClusterSnapshots()
	i := slices.IndexFunc(all, func(s commitlog.ClusterSnapshot) bool { return s.ID == cfg.ID })
	if cfg.ID == Latest {
		i = len(all) - 1
	}
	if i < 0 {
		return command.WithHint(fmt.Errorf("%s has no such snapshot of a cluster: %s", st.Name(), cfg.ID), "kbk-catalog show lists them")
	}
	data, err := st.ReadSegment(ctx, all[i].Object())
	if err != nil {
		return err
	}
	opener := segment.NewOpener(cfg.Identities, cfg.MaxFrame)
	if cfg.JSON {
		if err := opener.OpenSnapshot(all[i].Frame(), data, printer(out)); err != nil {
			return err
		}
		return command.EndStatus(endOf(log), "")
	}
	w := format.NewWriter(out)
	err = w.WriteHeader(&format.Header{Content: format.ContentRecords, Source: &format.Source{Cluster: all[i].Cluster}})
	if err != nil {
		return err
	}
	if err := opener.OpenSnapshot(all[i].Frame(), data, func(f *format.Frame) error { return w.WriteRaw(f.Raw) }); err != nil {
		return err
	}
	end := endOf(log)
	if err := w.Close(end); err != nil {
		return err
	}
	return command.EndStatusThrough(out, end, "")
}

// snapshotObjects are the sizes of the objects that are there, by path; below 0 where one is not
// known.
func snapshotObjects(ctx context.Context, st *store.Store) (map[string]int64, error) {
	here := make(map[string]int64)
	err := st.List(ctx, commitlog.ClusterDir, func(path string, size int64) error {
		here[path] = size
		return nil
	})
	return here, err
}

// snapshots verifies the snapshots of clusters: that each is there, and with deep what is in it.
func (v *verifier) snapshots(ctx context.Context, state *commitlog.State) error {
	here, err := snapshotObjects(ctx, v.store)
	if err != nil {
		return err
	}
	opener := segment.NewOpener(v.cfg.Identities, 1<<30)
	for _, s := range state.ClusterSnapshots() {
		size, ok := here[s.Path]
		delete(here, s.Path)
		v.clusters++
		switch {
		case !ok:
			v.found("missing", s.Path, "the log lists it, and it is not there")
		case size >= 0 && size != s.Size:
			v.found("size", s.Path, "%s instead of %d", command.Count(size, "byte"), s.Size)
		case v.cfg.Deep:
			if err := v.snapshot(ctx, opener, &s); err != nil {
				return err
			}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(here)) {
		v.unlisted(path, here[path])
	}
	return nil
}

// snapshot reads a snapshot of a cluster.
func (v *verifier) snapshot(ctx context.Context, opener *segment.Opener, s *commitlog.ClusterSnapshot) error {
	data, err := v.store.ReadSegment(ctx, s.Object())
	if err != nil && !store.IsDamage(err) {
		return err
	}
	switch sealed := s.Cipher != "" && len(v.cfg.Identities) == 0; {
	case err == nil && sealed: // then the checksum is all that can be told
		v.sealedClusters++
	case err == nil:
		err = opener.OpenSnapshot(s.Frame(), data, func(*format.Frame) error { return nil })
	}
	if err != nil {
		v.found("content", s.Path, "%v", err)
	}
	return nil
}

// diagnoseSnapshots finds out what can be done about the snapshots of clusters: some may not be
// there any more, and others are there and not listed.
func (f *repair) diagnoseSnapshots(ctx context.Context, st *store.Store, state *commitlog.State, cfg RepairConfig) (unlisted []string, err error) {
	here, err := snapshotObjects(ctx, st)
	if err != nil {
		return nil, err
	}
	for _, s := range state.ClusterSnapshots() {
		size, ok := here[s.Path]
		delete(here, s.Path)
		damaged := !ok || size >= 0 && size != s.Size
		if !damaged && cfg.Deep {
			_, err := st.ReadSegment(ctx, s.Object())
			if err != nil && !store.IsDamage(err) {
				return nil, err
			}
			damaged = err != nil
		}
		if damaged {
			f.missingClusters = append(f.missingClusters, s)
		}
	}
	return slices.Sorted(maps.Keys(here)), nil
}

// describeSnapshot reads out of an object what the log would say of it.
func describeSnapshot(opener *segment.Opener, name string, data []byte) (s commitlog.ClusterSnapshot, err error) {
	codec, cipher, ok := commitlog.Layers(path.Base(name))
	run, named := commitlog.ClusterWriterOf(name)
	if !ok || !named {
		return s, errors.New("it is not named like a snapshot of a cluster")
	}
	m, err := opener.DescribeSnapshot(codec, cipher, data)
	if err != nil {
		return s, err
	}
	if s, err = commitlog.ClusterSnapshotOf(m, run); err == nil && s.Path != name {
		err = fmt.Errorf("by its content, it should be %s", s.Path)
	}
	return s, err
}
