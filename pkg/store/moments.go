package store

import (
	"context"
	"fmt"
	"io"

	"github.com/kbkio/kbk/pkg/commitlog"

	"github.com/rclone/rclone/fs"
)

// EachMoment calls each for the moments of all restore points of state, those of one run in
// their order. Where the log was compacted since state was read it fails with an error of
// [IsDamage]. damaged is told what is wrong with a file; if it returns nil, the points that
// it has, or that the run of an entry came to from there on, are left out.
func (s *Store) EachMoment(ctx context.Context, state *commitlog.State, damaged func(error) error, each func(*commitlog.Moment) error) (err error) {
	files, open := state.Moments()
	for _, f := range files {
		err := s.ReadFile(ctx, f, func(r io.Reader) error { return commitlog.ReadMoments(r, each) })
		if IsDamage(err) {
			err = damaged(err)
		}
		if err != nil {
			return err
		}
	}
	runs := make(map[string]*commitlog.Moment) // that go on where a snapshot ends, or are in the log alone
	if open != nil {
		err := s.ReadFile(ctx, *open, func(r io.Reader) error {
			return commitlog.ReadMoments(r, func(m *commitlog.Moment) error {
				runs[m.Run] = m
				return nil
			})
		})
		if IsDamage(err) {
			err = damaged(err)
		}
		if err != nil {
			return err
		}
	}
	defer s.describe(&err, "read", commitlog.LogDir)
	objects, err := s.listLog(ctx)
	if err != nil {
		return err
	}
	skipped := make(map[string]bool)
	for _, name := range sortObjects(objects).Entries {
		id, _ := commitlog.EntryID(name)
		run, _, _ := commitlog.RunOf(id)
		if !state.InLog(id) || skipped[run] {
			continue
		}
		m := runs[run]
		if m == nil {
			m = new(commitlog.Moment)
			runs[run] = m
		}
		e, err := s.follows(ctx, objects[name], name, m)
		if err != nil {
			if err := damaged(err); err != nil {
				return err
			}
			skipped[run] = true
			continue
		}
		m.Add(e)
		for _, at := range m.AtPoints() {
			if err := each(at); err != nil {
				return err
			}
		}
		if e.Final {
			delete(runs, run)
		}
	}
	return nil
}

// follows reads the entry that comes behind a moment in its run.
func (s *Store) follows(ctx context.Context, o fs.Object, name string, m *commitlog.Moment) (*commitlog.Entry, error) {
	data, err := s.read(ctx, o, maxEntry)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	e, _, err := commitlog.Decode(name, data)
	if err == nil && e.Seq != m.Seq+1 && !joinsOnly(e) {
		err = fmt.Errorf("%w: entry %d of run %s is missing", commitlog.ErrCorrupt, m.Seq+1, e.Run)
	}
	return e, err
}

// joinsOnly tells whether an entry says nothing but which ids are of one backup: it comes
// behind the one that ended its run, and has no part in what belongs to a point.
func joinsOnly(e *commitlog.Entry) bool { return e.Final && len(e.Joins) > 0 }
