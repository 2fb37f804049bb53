package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"strings"

	"github.com/kbkio/kbk/pkg/commitlog"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/walk"
	"golang.org/x/sync/errgroup"
)

// LogOptions say how a log is read. The zero value reads all of it.
type LogOptions struct {
	// Keep tells the partitions whose segments are wanted one by one, as
	// [commitlog.State.Keep]. The indexes of topics that have none are not read.
	Keep func(topic string, partition int32) bool
	// Begin is called before reading, and once more where it has to begin anew because
	// somebody compacts the backup.
	Begin func()
	// Snapshot and Entry are called for what is read: snapshots, and then the entries that
	// none of them stands for, in order. data is as it is stored, under name.
	Snapshot func(n *commitlog.Snapshot, name string, data []byte) error
	Entry    func(e *commitlog.Entry, name string, data []byte) error
	// Damaged is told what is wrong with the log; if it returns nil, the rest is read all
	// the same. Nil: that is an error.
	Damaged func(error) error
}

// LoadLog reads the commit log. Where there is no backup the state has no entries.
func (s *Store) LoadLog(ctx context.Context) (*commitlog.State, error) {
	return s.LoadLogWith(ctx, LogOptions{})
}

// errGone is the error for a file that was in the log when it was listed.
var errGone = errors.New("it is being compacted again and again")

// loadTries is how often reading the log begins anew.
const loadTries = 10

// LoadLogWith is [Store.LoadLog] with options.
func (s *Store) LoadLogWith(ctx context.Context, opts LogOptions) (state *commitlog.State, err error) {
	defer s.describe(&err, "read", commitlog.LogDir)
	for try := range loadTries {
		if opts.Begin != nil {
			opts.Begin()
		}
		state, err = s.loadLog(ctx, opts, try == loadTries-1)
		if !errors.Is(err, errGone) {
			break
		}
	}
	return state, err
}

// A logFile is a file that is to be read, and then what came of it.
type logFile struct {
	object fs.Object
	data   []byte
	entry  *commitlog.Entry
	sha    string
	err    error
	done   chan struct{}
}

func (s *Store) loadLog(ctx context.Context, opts LogOptions, last bool) (*commitlog.State, error) {
	objects, err := s.listLog(ctx)
	if err != nil {
		return nil, err
	}
	damaged := func(err error) error {
		if opts.Damaged == nil || !IsDamage(err) {
			return err
		}
		return opts.Damaged(err)
	}
	gone := func(o fs.Object, err error) error {
		if errors.Is(err, ErrNotFound) && !last {
			return errGone
		}
		return fmt.Errorf("%s: %w", o.Remote(), err)
	}
	state := &commitlog.State{Keep: opts.Keep}
	if err := s.loadSnapshots(ctx, objects, state, opts, last, gone, damaged); err != nil {
		return nil, err
	}

	// Entries are read ahead, a few at a time, and folded in their order.
	var entries []fs.Object
	for _, o := range objects {
		if commitlog.IsEntry(o.Remote()) && !state.Folded(entryName(o)) {
			entries = append(entries, o)
		}
	}
	readers := fs.GetConfig(ctx).Checkers
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	files := make(chan *logFile, readers)
	slots := make(chan struct{}, readers)
	go func() {
		defer close(files)
		for _, o := range entries {
			f := &logFile{object: o, done: make(chan struct{})}
			select {
			case files <- f:
			case <-ctx.Done():
				return
			}
			slots <- struct{}{}
			go func() {
				defer func() { <-slots; close(f.done) }()
				if f.data, f.err = s.read(ctx, o, maxEntry); f.err == nil {
					f.entry, f.sha, f.err = commitlog.Decode(o.Remote(), f.data)
				} else {
					f.err = gone(o, f.err)
				}
			}()
		}
	}()
	for f := range files {
		<-f.done
		if f.err != nil {
			if err := damaged(f.err); err != nil {
				return nil, err
			}
			continue
		}
		if opts.Entry != nil {
			if err := opts.Entry(f.entry, f.object.Remote(), f.data); err != nil {
				return nil, err
			}
		}
		if err := state.Check(f.entry); err != nil {
			if err := damaged(err); err != nil {
				return nil, err
			}
		}
		state.Fold(f.entry, f.sha)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return state, s.unchanged(ctx, objects)
}

// unchanged tells whether the log is still as it was listed, but for new entries. A
// listing is not one moment: it may have missed both the snapshot that was being deleted
// and the one that was made in its place.
func (s *Store) unchanged(ctx context.Context, listed []fs.Object) error {
	if len(listed) == 0 {
		return nil
	}
	now, err := s.listLog(ctx)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(listed))
	for _, o := range listed {
		there[o.Remote()] = true
	}
	for _, o := range now {
		if _, isSnapshot := commitlog.SnapshotID(o.Remote()); isSnapshot && !there[o.Remote()] {
			return errGone
		}
		delete(there, o.Remote())
	}
	for name := range there {
		if _, isSnapshot := commitlog.SnapshotID(name); isSnapshot || commitlog.IsEntry(name) {
			return errGone
		}
	}
	return nil
}

// loadSnapshots folds the snapshots that no other one supersedes into state: there is
// one, or two when two were made at the same time.
func (s *Store) loadSnapshots(ctx context.Context, objects []fs.Object, state *commitlog.State, opts LogOptions, last bool,
	gone func(fs.Object, error) error, damaged func(error) error) error {
	superseded := make(map[string]bool)
	var newest []*commitlog.Snapshot
	for _, o := range slices.Backward(objects) {
		id, ok := commitlog.SnapshotID(o.Remote())
		if !ok || superseded[id] {
			continue
		}
		data, err := s.read(ctx, o, maxEntry)
		if err != nil {
			return gone(o, err)
		}
		n, err := commitlog.DecodeSnapshot(o.Remote(), data)
		if err != nil { // entries may be gone: without it there is no backup
			return err
		}
		if opts.Snapshot != nil {
			if err := opts.Snapshot(n, o.Remote(), data); err != nil {
				return err
			}
		}
		for _, old := range n.Supersedes {
			superseded[old] = true
		}
		newest = append(newest, n)
	}
	for _, n := range newest {
		state.AddSnapshot(n)
	}
	for _, n := range newest {
		for _, t := range n.Topics {
			for _, f := range t.Index {
				if !wanted(opts.Keep, t, f) {
					continue
				}
				err := s.ReadFile(ctx, f.File, func(r io.Reader) error { return state.ReadIndex(r, t.Name, t.ID) })
				if errors.Is(err, ErrNotFound) && !last {
					return errGone
				}
				if err != nil {
					if err := damaged(err); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func wanted(keep func(string, int32) bool, t commitlog.SnapshotTopic, f commitlog.IndexFile) bool {
	return keep == nil || slices.ContainsFunc(t.Partitions, func(p commitlog.SnapshotPartition) bool {
		return f.First <= p.Partition && p.Partition <= f.Last && keep(t.Name, p.Partition)
	})
}

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
	m = new(commitlog.Moment)
	if _, open := state.Moments(); open != nil { // the run may have been half done when it was compacted
		err := s.ReadFile(ctx, *open, func(r io.Reader) error {
			return commitlog.ReadMoments(r, func(found *commitlog.Moment) error {
				if found.Run == p.Run {
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
	for _, o := range objects {
		run, seq, ok := commitlog.RunOf(entryName(o))
		if !ok || !commitlog.IsEntry(o.Remote()) || run != p.Run || seq <= m.Seq || seq > p.Seq {
			continue
		}
		data, err := s.read(ctx, o, maxEntry)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.Remote(), err)
		}
		e, _, err := commitlog.Decode(o.Remote(), data)
		if err != nil {
			return nil, err
		}
		if e.Seq != m.Seq+1 {
			return nil, fmt.Errorf("%w: entry %d of run %s is missing", commitlog.ErrCorrupt, m.Seq+1, run)
		}
		m.Add(e)
	}
	if m.Entry != p.Entry {
		return nil, fmt.Errorf("%w: the entries of restore point %s are missing", commitlog.ErrCorrupt, p.Entry)
	}
	return m, nil
}

// entryName is the id of the entry in o, if it is one.
func entryName(o fs.Object) string {
	return strings.TrimSuffix(strings.TrimPrefix(o.Remote(), commitlog.LogDir+"/"), ".json")
}

// listLog returns the objects in the log's folder, by name.
func (s *Store) listLog(ctx context.Context) ([]fs.Object, error) {
	var entries fs.DirEntries
	err := s.retry(ctx, func() (err error) {
		entries, err = s.fs.List(ctx, commitlog.LogDir)
		return err
	})
	if errors.Is(err, fs.ErrorDirNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var objects []fs.Object
	for _, e := range entries {
		if o, ok := e.(fs.Object); ok {
			objects = append(objects, o)
		}
	}
	slices.SortFunc(objects, func(a, b fs.Object) int { return strings.Compare(a.Remote(), b.Remote()) })
	return objects, nil
}

// ListLog returns the names of the files in the log's folder, as they are below the
// backup's, sorted.
func (s *Store) ListLog(ctx context.Context) (names []string, err error) {
	defer s.describe(&err, "list", commitlog.LogDir)
	objects, err := s.listLog(ctx)
	for _, o := range objects {
		names = append(names, o.Remote())
	}
	return names, err
}

// ReadFile calls use with the content of a file of a snapshot, as it arrives; an error
// that comes afterwards says that it was not what was stored. use may be called again,
// from the beginning.
func (s *Store) ReadFile(ctx context.Context, f commitlog.File, use func(io.Reader) error) (err error) {
	defer s.describe(&err, "read", f.Path)
	return s.retry(ctx, func() error {
		o, err := s.find(ctx, f.Path)
		if err != nil {
			return err
		}
		in, err := o.Open(ctx)
		if errors.Is(err, fs.ErrorObjectNotFound) || errors.Is(err, iofs.ErrNotExist) {
			return ErrNotFound
		}
		if err != nil {
			return damage(err)
		}
		defer in.Close()
		sum, n := sha256.New(), new(counter)
		all := io.TeeReader(io.LimitReader(s.limited(ctx, in), f.Size+1), io.MultiWriter(sum, n))
		useErr := use(all)
		if _, err := io.Copy(io.Discard, all); err != nil {
			return damage(err)
		}
		if int64(*n) != f.Size || hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
			return fmt.Errorf("%w: it is not what was stored", ErrDamaged)
		}
		return useErr
	})
}

type counter int64

// Write implements io.Writer.
func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// ReadSmall returns the content of an object of the log's folder that is no entry, a
// signature say. It fails with [ErrNotFound] when there is none.
func (s *Store) ReadSmall(ctx context.Context, path string) (data []byte, err error) {
	defer s.describe(&err, "read", path)
	var o fs.Object
	if err := s.retry(ctx, func() (err error) { o, err = s.find(ctx, path); return err }); err != nil {
		return nil, err
	}
	return s.read(ctx, o, 1<<20)
}

// ReadLoose returns the content of an object that no log lists.
func (s *Store) ReadLoose(ctx context.Context, path string) (data []byte, err error) {
	defer s.describe(&err, "read", path)
	var o fs.Object
	if err := s.retry(ctx, func() (err error) { o, err = s.find(ctx, path); return err }); err != nil {
		return nil, err
	}
	return s.read(ctx, o, MaxSegment)
}

// WriteFile stores a file that belongs to the log, a snapshot or what it needs. What is
// there already under this name is not written over, if it is the same.
func (s *Store) WriteFile(ctx context.Context, path string, data []byte) (f commitlog.File, err error) {
	defer s.describe(&err, "store", path)
	h := sha256.Sum256(data)
	f = commitlog.File{Path: path, Size: int64(len(data)), SHA256: hex.EncodeToString(h[:])}
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
		return fmt.Errorf("%d bytes are more than the %d of the largest snapshot", len(data), maxEntry)
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
			case objects <- entries:
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
