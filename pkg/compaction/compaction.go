// Package compaction folds a backup's log into a snapshot, and deletes what the snapshot
// stands for.
//
// A [Rewrite] goes through steps in an order that makes every moment of it a valid backup:
// store what the snapshot needs; then the snapshot, which readers take from now on; look
// whether somebody else made one meanwhile; and only then delete the entries, the old
// snapshots, the files that they needed, and at the very end segments that are let go.
package compaction

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// ErrConcurrent is the error for a backup that somebody else compacts at the same time.
var ErrConcurrent = errors.New("somebody else has compacted or pruned the backup at the same time")

// A Rewrite is a log that was read, and is to become a snapshot. All that it does is about
// the files that were listed when it was read, whatever has come since.
type Rewrite struct {
	*store.Log
	// OpenLost says why it is not known what the runs that go on have spoken of: the
	// points that they come to are not to be had.
	OpenLost error
	store    *store.Store
	moments  moments
}

// Read reads the log. opts.Keep must be nil: a snapshot has all segments.
func Read(ctx context.Context, st *store.Store, opts store.LogOptions) (*Rewrite, error) {
	r := &Rewrite{store: st}
	opts.Begin = r.moments.begin
	opts.Snapshot = func(n *commitlog.Snapshot) error {
		err := r.moments.snapshot(ctx, st, n)
		if opts.SkipDamaged && store.IsDamage(err) {
			r.OpenLost = err
			err = nil
		}
		return err
	}
	opts.Entry = r.moments.entry
	var err error
	if r.Log, err = st.ReadLog(ctx, opts); err != nil {
		return nil, err
	}
	return r, r.moments.end()
}

// MaySign tells whether the log may be folded by one who signs, or does not: what stands
// for signed entries has to be signed as well.
func (r *Rewrite) MaySign(signs bool) error {
	if !signs && len(r.Files.Signatures) > 0 {
		return command.WithHint(command.Usagef("%s: the log is signed", r.store.Name()), "give --sign KEY: what stands for signed entries is to be signed too")
	}
	return nil
}

// moments follows what every run has spoken of, for the restore points that it has come to
// and may still come to.
type moments struct {
	open   map[string]*commitlog.Moment // of runs that may go on
	points *bytes.Buffer                // a file of the moments of points that were in no file
	any    bool                         // there are any
	add    func(*commitlog.Moment) error
	end    func() error
	failed error
}

func (m *moments) begin() {
	m.open, m.points, m.any = make(map[string]*commitlog.Moment), new(bytes.Buffer), false
	m.add, m.end, m.failed = commitlog.WriteMoments(m.points)
}

func (m *moments) snapshot(ctx context.Context, st *store.Store, n *commitlog.Snapshot) error {
	if n.Open == nil {
		return nil
	}
	return st.ReadFile(ctx, *n.Open, func(in io.Reader) error {
		return commitlog.ReadMoments(in, func(open *commitlog.Moment) error {
			m.open[open.Run] = open
			return nil
		})
	})
}

func (m *moments) entry(e *commitlog.Entry, _ string) error {
	at := m.open[e.Run]
	if at == nil {
		at = new(commitlog.Moment)
		m.open[e.Run] = at
	}
	at.Add(e)
	if e.Final {
		delete(m.open, e.Run)
	}
	if len(e.Points) == 0 || m.failed != nil {
		return m.failed
	}
	m.any = true
	for _, point := range at.AtPoints() {
		if err := m.add(point); err != nil {
			return err
		}
	}
	at.Points = nil // they are told
	return nil
}

// Foldable returns the entries that the snapshot will stand for, and their signatures.
func (r *Rewrite) Foldable() (paths []string) {
	for _, name := range slices.Concat(r.Files.Entries, r.Files.Signatures) {
		id, ok := commitlog.EntryID(strings.TrimSuffix(name, store.SignatureSuffix))
		if ok && r.Folded(id) {
			paths = append(paths, name)
		}
	}
	return paths
}

// EachMoment calls each for the moments of all restore points.
func (r *Rewrite) EachMoment(ctx context.Context, each func(*commitlog.Moment) error) error {
	files, _ := r.Moments()
	for _, f := range files {
		err := r.store.ReadFile(ctx, f, func(in io.Reader) error { return commitlog.ReadMoments(in, each) })
		if err != nil {
			return err
		}
	}
	return commitlog.ReadMoments(bytes.NewReader(r.moments.points.Bytes()), each)
}

// DropUnreadable forgets the restore points whose moments cannot be read, and returns them.
func (r *Rewrite) DropUnreadable(ctx context.Context) (dropped []commitlog.RestorePoint, err error) {
	bad := make(map[string]bool)
	files, _ := r.Moments()
	for _, f := range files {
		err := r.store.ReadFile(ctx, f, func(in io.Reader) error {
			return commitlog.ReadMoments(in, func(*commitlog.Moment) error { return nil })
		})
		if err != nil && !store.IsDamage(err) {
			return nil, err
		}
		bad[f.Path] = err != nil
	}
	var kept []commitlog.RestorePoint
	for _, p := range r.Points() {
		if f, ok := r.Moment(p); ok && bad[f.Path] {
			dropped = append(dropped, p)
		} else {
			kept = append(kept, p)
		}
	}
	if len(dropped) == 0 {
		return nil, nil
	}
	left := new(bytes.Buffer)
	add, end, err := commitlog.WriteMoments(left)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if bad[f.Path] {
			continue
		}
		err := r.store.ReadFile(ctx, f, func(in io.Reader) error { return commitlog.ReadMoments(in, add) })
		if err != nil {
			return nil, err
		}
	}
	if err := commitlog.ReadMoments(bytes.NewReader(r.moments.points.Bytes()), add); err != nil {
		return nil, err
	}
	if err := end(); err != nil {
		return nil, err
	}
	r.ReplaceMoments(left, kept)
	return dropped, nil
}

// ReplaceMoments makes file, from [commitlog.WriteMoments], the one that has the moments of
// all points, which are fewer than there were.
func (r *Rewrite) ReplaceMoments(file *bytes.Buffer, kept []commitlog.RestorePoint) {
	r.moments.points, r.moments.any = file, len(kept) > 0
	r.RetainPoints(kept)
}

// Forget takes topics out of what is known of the runs that go on.
func (r *Rewrite) Forget(forgotten func(topic, id string) bool) {
	for _, m := range r.moments.open {
		m.Forget(forgotten)
	}
}

// Write makes the snapshot, and deletes what it stands for, and then the objects gone, of which
// it has the paths.
func (r *Rewrite) Write(ctx context.Context, gone []string, log *slog.Logger) error {
	began := time.Now()
	// Files that are there now are for this one to delete, and none that come later:
	// whoever reads the new snapshot may fold it at once, and store what that takes.
	files, err := r.indexFiles(ctx)
	if err != nil {
		return err
	}
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
	folded := r.Foldable()
	if err := r.remove(ctx, folded, unused(n, files), gone); err != nil {
		return command.WithHint(err, "the backup is complete: what could not be deleted is ignored from now on")
	}
	if err := r.store.WriteManifest(ctx, r.Manifest()); err != nil {
		return command.WithHint(err, "the backup is complete: manifest.json is only a summary")
	}
	log.Info(fmt.Sprintf("%s: folded %s into %s", r.store.Name(), command.Count(int64(len(folded)), "file"), commitlog.SnapshotPath(n.ID)),
		"in", time.Since(began).Round(time.Millisecond))
	return nil
}

// remove deletes what nothing needs now that the snapshot is there: what readers look at
// first goes first.
func (r *Rewrite) remove(ctx context.Context, folded, unused, gone []string) error {
	if err := r.store.Remove(ctx, folded); err != nil {
		return err
	}
	old := slices.Clone(r.Files.Snapshots)
	for _, name := range r.Files.Signatures {
		if _, ok := commitlog.SnapshotID(strings.TrimSuffix(name, store.SignatureSuffix)); ok {
			old = append(old, name)
		}
	}
	if err := r.store.Remove(ctx, old); err != nil {
		return err
	}
	if err := r.store.Remove(ctx, unused); err != nil {
		return err
	}
	return r.store.Remove(ctx, gone)
}

// snapshot stores what a snapshot of the state needs, and returns it.
func (r *Rewrite) snapshot(ctx context.Context) (*commitlog.Snapshot, error) {
	put := func(name string) func(data []byte) (commitlog.File, error) {
		return func(data []byte) (commitlog.File, error) {
			return r.store.WriteFile(ctx, commitlog.IndexPath(name, commitlog.Sum(data)), data)
		}
	}
	index := make(map[[2]string][]commitlog.IndexFile)
	for _, topic := range r.Topics() {
		for _, id := range r.Incarnations(topic) {
			files, err := r.WriteIndex(topic, id, put(topic))
			if err != nil {
				return nil, err
			}
			index[[2]string{topic, id}] = files
		}
	}
	if r.moments.any {
		f, err := put(pointsName)(r.moments.points.Bytes())
		if err != nil {
			return nil, err
		}
		r.PlaceMoments(f)
	}
	open, err := r.openRuns(put(pointsName))
	if err != nil {
		return nil, err
	}
	r.PlaceOpen(open)
	n := r.Snapshot(time.Now(), func(topic, id string) []commitlog.IndexFile { return index[[2]string{topic, id}] }, r.keepRun())
	n.Tool = "kbk " + command.Version()
	n.Supersedes = nil
	for _, name := range r.Files.Snapshots {
		id, _ := commitlog.SnapshotID(name)
		n.Supersedes = append(n.Supersedes, id)
	}
	return n, nil
}

// keepRun tells whether the snapshot must remember a run: it may go on, or the log has
// entries of it, which the snapshot is to stand for until they are deleted.
func (r *Rewrite) keepRun() func(run string, h commitlog.Head) bool {
	present := make(map[string]bool)
	for _, name := range r.Files.Entries {
		id, _ := commitlog.EntryID(name)
		run, _, _ := commitlog.RunOf(id)
		present[run] = true
	}
	return func(run string, h commitlog.Head) bool { return !h.Final || present[run] }
}

// pointsName is the folder of moments in the index.
const pointsName = "points"

// openRuns stores what is known of the runs that may go on, for points that they may
// still come to.
func (r *Rewrite) openRuns(put func([]byte) (commitlog.File, error)) (*commitlog.File, error) {
	if len(r.moments.open) == 0 {
		return nil, nil
	}
	var buf bytes.Buffer
	add, end, err := commitlog.WriteMoments(&buf)
	if err != nil {
		return nil, err
	}
	runs := make([]string, 0, len(r.moments.open))
	for run := range r.moments.open {
		runs = append(runs, run)
	}
	slices.Sort(runs)
	for _, run := range runs {
		if err := add(r.moments.open[run]); err != nil {
			return nil, err
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	f, err := put(buf.Bytes())
	return &f, err
}

// A store that lists late gets so long to list a snapshot before nothing is deleted for it.
const (
	mostListings = 10
	listingPause = 200 * time.Millisecond
)

// alone makes sure that nobody else has made a snapshot meanwhile, and that n is listed: a
// reader that found neither what it stands for nor n would take the backup for an empty one.
// Whoever finds another snapshot takes his own back before anything is deleted on its strength.
func (r *Rewrite) alone(ctx context.Context, n *commitlog.Snapshot) error {
	own := commitlog.SnapshotPath(n.ID)
	for listings := 1; ; listings++ {
		files, err := r.store.ListLog(ctx)
		if err != nil {
			return err
		}
		for _, name := range files.Snapshots {
			id, _ := commitlog.SnapshotID(name)
			if id == n.ID || slices.Contains(n.Supersedes, id) {
				continue
			}
			if err := r.store.Remove(ctx, []string{own, own + store.SignatureSuffix}); err != nil {
				return err
			}
			return command.WithHint(fmt.Errorf("%s: %w", r.store.Name(), ErrConcurrent), "run it again; nothing was deleted")
		}
		switch {
		case slices.Contains(files.Snapshots, own):
			return nil
		case listings == mostListings:
			return command.WithHint(fmt.Errorf("%s: the store does not list %s, which it has just taken", r.store.Name(), own),
				"the backup is whole, and nothing was deleted; run it again in a while")
		}
		select {
		case <-time.After(listingPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// indexFiles are the files that snapshots need.
func (r *Rewrite) indexFiles(ctx context.Context) (paths []string, err error) {
	err = r.store.List(ctx, commitlog.IndexDir, func(path string, _ int64) error {
		paths = append(paths, path)
		return nil
	})
	return paths, err
}

// unused are those of files that a snapshot does not need.
func unused(n *commitlog.Snapshot, files []string) []string {
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
	return slices.DeleteFunc(files, func(path string) bool { return used[path] })
}
