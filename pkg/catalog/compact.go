package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// Compact folds the log of a backup into a snapshot. signed says that the store signs
// what it writes to the log.
func Compact(ctx context.Context, st *store.Store, signed bool, env *command.Env) error {
	r, err := newRewrite(ctx, st, signed, env)
	if err != nil {
		return err
	}
	if len(r.foldable()) == 0 {
		env.Log.Info(st.Name() + ": there is nothing to compact")
		return nil
	}
	return r.write(ctx, nil)
}

// Prune says what r does not keep, and deletes it if really is set.
func Prune(ctx context.Context, st *store.Store, keep commitlog.Retention, really, signed bool, env *command.Env, out io.Writer) error {
	r, err := newRewrite(ctx, st, signed || !really, env)
	if err != nil {
		return err
	}
	gone, points, err := r.prune(ctx, keep)
	if err != nil {
		return err
	}
	if err := printGone(gone, points, out); err != nil {
		return err
	}
	var size int64
	for i := range gone {
		size += gone[i].Size
	}
	what := fmt.Sprintf("%s and %s, %s", command.Count(int64(len(points)), "restore point"), command.Count(int64(len(gone)), "segment"), humanize.IBytes(uint64(size)))
	switch {
	case len(gone)+len(points) == 0:
		env.Log.Info(st.Name() + ": there is nothing to prune")
		return nil
	case !really:
		env.Log.Info(what + " would go; --yes deletes them")
		return nil
	}
	if err := r.write(ctx, gone); err != nil {
		return err
	}
	env.Log.Info("deleted " + what)
	return nil
}

// A rewrite makes a new snapshot of a log, and deletes what it stands for.
//
// The order makes every moment of it a valid backup: first what the snapshot needs, then
// the snapshot, which readers take from now on, then the entries and files that it
// supersedes, and the segments that it does not list at the very end.
type rewrite struct {
	store *store.Store
	env   *command.Env
	names []string // of the files in the log
	state *commitlog.State
	open  map[string]*commitlog.Moment // of runs that may go on
	fresh *bytes.Buffer                // a file of the moments of points that were not in one
	any   bool                         // there are any
}

func newRewrite(ctx context.Context, st *store.Store, signed bool, env *command.Env) (*rewrite, error) {
	r := &rewrite{store: st, env: env}
	var err error
	if r.names, err = st.ListLog(ctx); err != nil {
		return nil, err
	}
	if !signed && slices.ContainsFunc(r.names, func(n string) bool { return strings.HasSuffix(n, store.SignatureSuffix) }) {
		return nil, command.WithHint(command.Usagef("%s: the log is signed", st.Name()), "give --sign KEY: what stands for signed entries is to be signed too")
	}
	var add func(*commitlog.Moment) error
	var end func() error
	var failed error
	r.state, err = load(ctx, st, store.LogOptions{
		Begin: func() {
			r.open, r.fresh, r.any = make(map[string]*commitlog.Moment), new(bytes.Buffer), false
			add, end, failed = commitlog.WriteMoments(r.fresh)
		},
		Snapshot: func(n *commitlog.Snapshot, _ string, _ []byte) error {
			if n.Open == nil {
				return nil
			}
			return st.ReadFile(ctx, *n.Open, func(in io.Reader) error {
				return commitlog.ReadMoments(in, func(m *commitlog.Moment) error {
					r.open[m.Run] = m
					return nil
				})
			})
		},
		Entry: func(e *commitlog.Entry, _ string, _ []byte) error {
			m := r.open[e.Run]
			if m == nil {
				m = new(commitlog.Moment)
				r.open[e.Run] = m
			}
			m.Add(e)
			if e.Final {
				delete(r.open, e.Run)
			}
			if len(e.Points) == 0 || failed != nil {
				return failed
			}
			r.any = true
			return add(m)
		},
	})
	if err != nil {
		return nil, err
	}
	return r, end()
}

// foldable are the entries that were in the log when the rewrite began, and their
// signatures.
func (r *rewrite) foldable() (paths []string) {
	for _, name := range r.names {
		plain := strings.TrimSuffix(name, store.SignatureSuffix)
		if commitlog.IsEntry(plain) && r.state.Folded(strings.TrimSuffix(path.Base(plain), ".json")) {
			paths = append(paths, name)
		}
	}
	return paths
}

// moments calls each for the moments of all points.
func (r *rewrite) moments(ctx context.Context, each func(*commitlog.Moment) error) error {
	files, _ := r.state.Moments()
	for _, f := range files {
		err := r.store.ReadFile(ctx, f, func(in io.Reader) error { return commitlog.ReadMoments(in, each) })
		if err != nil {
			return err
		}
	}
	return commitlog.ReadMoments(bytes.NewReader(r.fresh.Bytes()), each)
}

// prune lets go, in memory, of what is not to be kept.
func (r *rewrite) prune(ctx context.Context, keep commitlog.Retention) (gone []commitlog.Segment, dropped []commitlog.RestorePoint, err error) {
	all := r.state.Points()
	kept, before := keep.Points(all)
	if before.IsZero() {
		return nil, nil, command.WithHint(fmt.Errorf("%s has no restore points to go by", r.store.Name()), "--older-than goes by the age of records")
	}
	isKept := make(map[string]bool)
	for _, p := range kept {
		isKept[p.Entry] = true
	}
	for _, p := range all {
		if !isKept[p.Entry] {
			dropped = append(dropped, p)
		}
	}
	needs := commitlog.Needs{}
	left := new(bytes.Buffer)
	add, end, err := commitlog.WriteMoments(left)
	if err != nil {
		return nil, nil, err
	}
	seen := 0
	err = r.moments(ctx, func(m *commitlog.Moment) error {
		if !isKept[m.Entry] {
			return nil
		}
		seen++
		needs.Add(m)
		return add(m)
	})
	if err = errors.Join(err, end()); err != nil {
		return nil, nil, err
	}
	if seen < len(isKept) {
		return nil, nil, fmt.Errorf("%w: only %d of %d restore points can be read", commitlog.ErrCorrupt, seen, len(isKept))
	}
	gone = r.state.Prune(before, needs)
	if len(dropped) > 0 { // all that are left go into one file
		r.fresh, r.any = left, len(kept) > 0
		r.state.RetainPoints(kept)
	}
	return gone, dropped, nil
}

func printGone(gone []commitlog.Segment, points []commitlog.RestorePoint, out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(points) > 0 {
		fmt.Fprintln(table, "RESTORE POINT\tTIME")
		for _, p := range points {
			fmt.Fprintf(table, "%s\t%s\n", p.Entry, when(p.Time))
		}
	}
	if len(points) > 0 && len(gone) > 0 {
		fmt.Fprintln(table)
	}
	if len(gone) > 0 {
		fmt.Fprintln(table, "TOPIC\tPARTITION\tOFFSETS\tSEGMENTS\tSIZE\tNEWEST RECORD")
	}
	for i := 0; i < len(gone); {
		first, size, newest, j := &gone[i], int64(0), gone[i].MaxTimestamp, i
		for ; j < len(gone) && gone[j].Topic == first.Topic && gone[j].TopicID == first.TopicID && gone[j].Partition == first.Partition; j++ {
			size += gone[j].Size
			newest = max(newest, gone[j].MaxTimestamp)
		}
		fmt.Fprintf(table, "%s\t%d\t%d to %d\t%d\t%s\t%s\n", first.Topic, first.Partition, first.From, gone[j-1].Next-1, j-i, humanize.IBytes(uint64(size)), when(newest))
		i = j
	}
	return table.Flush()
}

// write makes the snapshot and deletes what it supersedes, and then the segments gone.
func (r *rewrite) write(ctx context.Context, gone []commitlog.Segment) error {
	began := time.Now()
	n, err := r.snapshot(ctx)
	if err != nil {
		return err
	}
	if err := r.store.WriteSnapshot(ctx, n); err != nil {
		return err
	}
	if err := r.alone(ctx, n); err != nil {
		return err
	}
	entries := r.foldable()
	for _, step := range []func() ([]string, error){
		func() ([]string, error) { return entries, nil },
		func() (old []string, err error) {
			for _, name := range r.names {
				if _, ok := commitlog.SnapshotID(strings.TrimSuffix(name, store.SignatureSuffix)); ok {
					old = append(old, name)
				}
			}
			return old, nil
		},
		func() ([]string, error) { return r.unused(ctx, n) },
		func() (paths []string, err error) {
			for i := range gone {
				paths = append(paths, gone[i].Path)
			}
			return paths, nil
		},
	} {
		paths, err := step()
		if err == nil {
			err = r.store.Remove(ctx, paths)
		}
		if err != nil {
			return command.WithHint(err, "the backup is whole: what could not be deleted counts for nothing any more")
		}
	}
	if err := r.store.WriteManifest(ctx, r.state.Manifest()); err != nil {
		return command.WithHint(err, "the backup is whole: manifest.json is only a summary")
	}
	r.env.Log.Info(fmt.Sprintf("%s: folded %s into %s", r.store.Name(), command.Count(int64(len(entries)), "file"), commitlog.SnapshotPath(n.ID)),
		"in", time.Since(began).Round(time.Millisecond))
	return nil
}

// snapshot stores what a snapshot of the state needs, and returns it.
func (r *rewrite) snapshot(ctx context.Context) (*commitlog.Snapshot, error) {
	put := func(name string) func(data []byte) (commitlog.File, error) {
		return func(data []byte) (commitlog.File, error) {
			return r.store.WriteFile(ctx, commitlog.IndexPath(name, commitlog.Sum(data)), data)
		}
	}
	index := make(map[[2]string][]commitlog.IndexFile)
	for _, topic := range r.state.Topics() {
		for _, id := range r.state.Incarnations(topic) {
			files, err := r.state.WriteIndex(topic, id, put(topic))
			if err != nil {
				return nil, err
			}
			index[[2]string{topic, id}] = files
		}
	}
	if r.any {
		f, err := put(pointsName)(r.fresh.Bytes())
		if err != nil {
			return nil, err
		}
		r.state.PlaceMoments(f)
	}
	open, err := r.openRuns(put(pointsName))
	if err != nil {
		return nil, err
	}
	r.state.PlaceOpen(open)

	// A run that has ended, and has no entry left in the log, need not be remembered.
	present := make(map[string]bool)
	for _, name := range r.names {
		if run, _, ok := commitlog.RunOf(strings.TrimSuffix(path.Base(name), ".json")); ok {
			present[run] = true
		}
	}
	n := r.state.Snapshot(time.Now(), func(topic, id string) []commitlog.IndexFile { return index[[2]string{topic, id}] },
		func(run string, h commitlog.Head) bool { return !h.Final || present[run] })
	n.Tool = "kbk-catalog " + command.Version()
	n.Supersedes = nil
	for _, name := range r.names {
		if id, ok := commitlog.SnapshotID(name); ok {
			n.Supersedes = append(n.Supersedes, id)
		}
	}
	for _, id := range r.state.Snapshots() {
		if !slices.Contains(n.Supersedes, id) {
			n.Supersedes = append(n.Supersedes, id)
		}
	}
	return n, nil
}

// pointsName is the folder of moments in the index.
const pointsName = "points"

// openRuns stores what is known of the runs that may go on, for points that they may
// still come to.
func (r *rewrite) openRuns(put func([]byte) (commitlog.File, error)) (*commitlog.File, error) {
	if len(r.open) == 0 {
		return nil, nil
	}
	var buf bytes.Buffer
	add, end, err := commitlog.WriteMoments(&buf)
	if err != nil {
		return nil, err
	}
	for _, run := range sortedKeys(r.open) {
		if err := add(r.open[run]); err != nil {
			return nil, err
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	f, err := put(buf.Bytes())
	return &f, err
}

// alone makes sure that nobody else has made a snapshot meanwhile. Whoever finds another
// one takes his own back before anything is deleted on its strength.
func (r *rewrite) alone(ctx context.Context, n *commitlog.Snapshot) error {
	names, err := r.store.ListLog(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := commitlog.SnapshotID(name)
		if !ok || id == n.ID || slices.Contains(n.Supersedes, id) {
			continue
		}
		own := commitlog.SnapshotPath(n.ID)
		if err := r.store.Remove(ctx, []string{own, own + store.SignatureSuffix}); err != nil {
			return err
		}
		return command.WithHint(fmt.Errorf("%s: somebody else has compacted or pruned the backup at the same time", r.store.Name()), "run it again; nothing was deleted")
	}
	return nil
}

// unused are the files of earlier snapshots that this one does not need.
func (r *rewrite) unused(ctx context.Context, n *commitlog.Snapshot) (paths []string, err error) {
	used := make(map[string]bool)
	for _, t := range n.Topics {
		for _, f := range t.Index {
			used[f.Path] = true
		}
	}
	for _, f := range n.Moments {
		used[f.Path] = true
	}
	if n.Open != nil {
		used[n.Open.Path] = true
	}
	err = r.store.List(ctx, commitlog.IndexDir, func(path string, _ int64) error {
		if !used[path] {
			paths = append(paths, path)
		}
		return nil
	})
	return paths, err
}
