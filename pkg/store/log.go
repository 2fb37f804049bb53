package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"

	"github.com/dustin/go-humanize"
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/walk"
	"golang.org/x/sync/errgroup"
)

// LoadMoment reads what belongs to a restore point of state.
func (s *Store) LoadMoment(ctx context.Context, state *commitlog.State, p commitlog.RestorePoint) (m *commitlog.Moment, err error) {
	if f, ok := state.Moment(p); ok {
		err := s.ReadFile(ctx, f, func(r io.Reader) error {
			return commitlog.ReadMoments(r, func(found *commitlog.Moment) error {
				if found.Entry == p.Entry {
					m = found
				}
				return nil
			})
		})
		if err == nil && m == nil {
			err = fmt.Errorf("%w: %s does not have restore point %s", commitlog.ErrCorrupt, f.Path, p.Entry)
		}
		return m, err
	}
	defer s.describe(&err, "read", commitlog.LogDir)
	run, last, _ := commitlog.RunOf(p.In)
	m = new(commitlog.Moment)
	if _, open := state.Moments(); open != nil { // the run may have been half done when it was compacted
		err := s.ReadFile(ctx, *open, func(r io.Reader) error {
			return commitlog.ReadMoments(r, func(found *commitlog.Moment) error {
				if found.Run == run {
					m = found
				}
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
	}
	objects, err := s.listLog(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range sortObjects(objects).Entries {
		id, _ := commitlog.EntryID(name)
		if of, seq, _ := commitlog.RunOf(id); of != run || seq <= m.Seq || seq > last {
			continue
		}
		data, err := s.read(ctx, objects[name], maxEntry)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		e, _, err := commitlog.Decode(name, data)
		if err != nil {
			return nil, err
		}
		if e.Seq != m.Seq+1 {
			return nil, fmt.Errorf("%w: entry %d of run %s is missing", commitlog.ErrCorrupt, m.Seq+1, run)
		}
		m.Add(e)
	}
	for _, at := range m.AtPoints() {
		if at.Entry == p.Entry {
			return at, nil
		}
	}
	return nil, fmt.Errorf("%w: the entries of restore point %s are missing", commitlog.ErrCorrupt, p.Entry)
}

// ReadFile calls use with the content of a file of a snapshot, once it is known to be what
// was stored.
func (s *Store) ReadFile(ctx context.Context, f commitlog.File, use func(io.Reader) error) (err error) {
	defer s.describe(&err, "read", f.Path)
	o, err := s.findAgain(ctx, f.Path)
	if err != nil {
		return err
	}
	data, err := s.read(ctx, o, f.Size)
	if err != nil {
		return err
	}
	if int64(len(data)) != f.Size || digest(data) != f.SHA256 {
		return fmt.Errorf("%w: it is not what was stored", ErrDamaged)
	}
	return use(bytes.NewReader(data))
}

// ReadLoose returns the content of an object that no log lists, and that others may replace
// while it is read.
func (s *Store) ReadLoose(ctx context.Context, path string) (data []byte, err error) {
	defer s.describe(&err, "read", path)
	o, err := s.findAgain(ctx, path)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		if data, err = s.read(ctx, o, MaxSegment); err == nil || try == replacedTries {
			return data, err
		}
		// Remotes that cannot replace an object in one step say all kinds of things then.
		now, findErr := s.findAgain(ctx, path)
		switch {
		case findErr != nil:
			return nil, findErr
		case !errors.Is(err, ErrNotFound) && now.Size() == o.Size() && now.ModTime(ctx).Equal(o.ModTime(ctx)):
			return nil, err
		}
		o = now
	}
}

// replacedTries is how often an object is read that is replaced while it is read.
const replacedTries = 10

// WriteFile stores a file that belongs to the log, a snapshot or what it needs. What is
// there already under this name is not written over, if it is the same.
func (s *Store) WriteFile(ctx context.Context, path string, data []byte) (f commitlog.File, err error) {
	defer s.describe(&err, "store", path)
	f = commitlog.File{Path: path, Size: int64(len(data)), SHA256: digest(data)}
	c := s.content(data, f.SHA256)
	if err := s.retry(ctx, func() error { return s.put(ctx, path, c) }); err != nil {
		return f, err
	}
	return f, s.disk.syncFolders()
}

// WriteSnapshot writes a snapshot of the log, and its signature before it. What it needs
// must be there already.
func (s *Store) WriteSnapshot(ctx context.Context, n *commitlog.Snapshot) (err error) {
	path := commitlog.SnapshotPath(n.ID)
	defer s.describe(&err, "store", path)
	data, err := n.Encode()
	if err != nil {
		return err
	}
	if len(data) > maxEntry {
		return fmt.Errorf("%s are more than the %s of the largest snapshot", command.Count(int64(len(data)), "byte"), humanize.Comma(maxEntry))
	}
	if s.opts.Sign != nil {
		sig, err := s.opts.Sign(data)
		if err != nil {
			return err
		}
		if err := s.append(ctx, path+SignatureSuffix, s.content(sig, digest(sig))); err != nil {
			return fmt.Errorf("its signature: %w", err)
		}
	}
	if err := s.disk.syncFolders(); err != nil {
		return err
	}
	if err := s.append(ctx, path, s.content(data, digest(data))); err != nil {
		return err
	}
	return s.disk.syncFolders()
}

// Remove deletes objects, several at once. One that is not there is none to delete.
func (s *Store) Remove(ctx context.Context, paths []string) (err error) {
	defer s.describe(&err, "delete from")
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fs.GetConfig(ctx).Checkers)
	for _, path := range paths {
		g.Go(func() error {
			err := s.retry(ctx, func() error {
				o, err := s.find(ctx, path)
				if errors.Is(err, ErrNotFound) {
					return nil
				}
				if err != nil {
					return err
				}
				return o.Remove(ctx)
			})
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// List calls each for every object below dir, "" for all of the backup, in any order
// and from one goroutine: its path below the backup, and its size, -1 where the remote
// does not tell. It takes as few requests as the remote allows, and no memory that grows
// with the number of objects in all. A folder that does not exist has none.
func (s *Store) List(ctx context.Context, dir string, each func(path string, size int64) error) (err error) {
	defer s.describe(&err, "list", dir)
	objects := make(chan fs.DirEntries)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(objects)
		err := walk.ListR(ctx, s.fs, dir, true, -1, walk.ListObjects, func(entries fs.DirEntries) error {
			select {
			case objects <- slices.Clone(entries): // rclone fills the slice anew when this returns
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if errors.Is(err, fs.ErrorDirNotFound) {
			return nil
		}
		return err
	})
	g.Go(func() error {
		for entries := range objects {
			for _, e := range entries {
				if err := each(e.Remote(), e.Size()); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return g.Wait()
}

// HasSegments tells whether there are any segments, or snapshots of clusters, whether a log
// lists them or not.
func (s *Store) HasSegments(ctx context.Context) (bool, error) {
	errFound := errors.New("found")
	for _, dir := range []string{commitlog.TopicsDir, commitlog.ClusterDir} {
		err := s.List(ctx, dir, func(string, int64) error { return errFound })
		if errors.Is(err, errFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// LogLost is what to say of segments without a log.
const LogLost = "there are segments, and no log that lists them: a run was killed before its first log entry, or the log was lost; then run kbk-catalog repair first"

// Backups calls each for the folders at dir and below, to a depth, that hold a backup's
// log. It does not look for backups in backups.
func (s *Store) Backups(ctx context.Context, dir string, depth int, each func(dir string) error) (err error) {
	defer s.describe(&err, "list", dir)
	return s.backups(ctx, dir, depth, each)
}

func (s *Store) backups(ctx context.Context, dir string, depth int, each func(dir string) error) error {
	var entries fs.DirEntries
	err := s.retry(ctx, func() (err error) {
		entries, err = s.fs.List(ctx, dir)
		return err
	})
	if errors.Is(err, fs.ErrorDirNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var below []string
	for _, e := range entries {
		if _, isDir := e.(fs.Directory); !isDir {
			continue
		}
		if e.Remote() == commitlog.LogDir || strings.HasSuffix(e.Remote(), "/"+commitlog.LogDir) {
			return each(dir)
		}
		below = append(below, e.Remote())
	}
	if depth == 0 {
		return nil
	}
	slices.Sort(below)
	for _, d := range below {
		if err := s.backups(ctx, d, depth-1, each); err != nil {
			return err
		}
	}
	return nil
}
