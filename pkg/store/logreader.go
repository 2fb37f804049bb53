package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/pkg/commitlog"

	"github.com/rclone/rclone/fs"
)

// LogOptions say how a log is read. The zero value reads all of it, and takes any damage
// for an error.
type LogOptions struct {
	// Keep tells the partitions whose segments are wanted one by one, as
	// [commitlog.State.Keep]. The indexes of topics that have none are not read.
	Keep func(topic string, partition int32) bool
	// Signed checks the signature of a file that was written at a time; signature is nil
	// where there is none. Nil: signatures are not looked at.
	Signed func(data, signature []byte, at time.Time) error
	// SkipDamaged goes on without what is damaged. [Log.Damage] says what that is.
	SkipDamaged bool
	// Begin is called before reading, and once more where it has to begin anew: somebody
	// compacts the backup, or what was read turned out to be damaged.
	Begin func()
	// Snapshot and Entry are called for what becomes part of the state, in this order:
	// snapshots, and then the entries that none of them stands for, by id.
	Snapshot func(n *commitlog.Snapshot) error
	Entry    func(e *commitlog.Entry, sha256 string) error
}

// A Log is what a backup's log says, and the files that say it.
type Log struct {
	*commitlog.State
	Files    commitlog.Files // as they were listed when the log was read
	Damage   []Damage        // what was left out
	Unfolded int             // entries that no snapshot stands for
	Bytes    int64           // of these entries
	Signed   int             // files with a good signature
	Unsealed int             // files of an earlier version, which have no checksum of their own
	Mended   []string        // files in which one bit was wrong: they were read as they were written
	Unknown  []string        // what files say that this version does not know
	Doubts   []Damage        // what does not fit together in a file that has no checksum; it counts all the same

	promised string // id of the backup, as manifest.json has it
}

// ID returns the id of the backup, "" where it has none yet. Where no entry tells it,
// manifest.json may: the list of the log's files may lack what has just been written.
func (l *Log) ID() string { return cmp.Or(l.Backup(), l.promised) }

// Warn says what is in the log's folder and was not read, or was not understood.
func (l *Log) Warn(log *slog.Logger) {
	for _, d := range l.Damage {
		if d.Whole {
			log.Warn(d.Err.Error())
			continue
		}
		log.Warn(fmt.Sprintf("left out: %s: %v", d.Name, d.Err))
	}
	for _, d := range l.Doubts {
		log.Warn(fmt.Sprintf("%s: %v", d.Name, d.Err))
	}
	for _, name := range l.Mended {
		log.Warn(name + " has one wrong bit; it is read as it was written: kbk-catalog repair puts it back")
	}
	for _, name := range l.Files.Strays {
		log.Warn(fmt.Sprintf("%q is no file of the log: it is not read", name))
	}
	for _, what := range l.Unknown {
		log.Warn(what + ", which a newer kbk has written and this one does not know")
	}
}

// A Damage is one thing in a log that is not as it was written.
type Damage struct {
	Kind  DamageKind
	Name  string // of the file
	Err   error
	Whole bool // nothing is wrong with the file itself: it tells of another one that is not there
}

// A DamageKind says what is wrong.
type DamageKind string

// The kinds of damage.
const (
	DamageLog       DamageKind = "log"       // a file is missing, or is not what was written
	DamageSignature DamageKind = "signature" // it is not signed by one who may
)

// LoadLog reads the commit log. Where there is no backup the state has no entries.
func (s *Store) LoadLog(ctx context.Context) (*commitlog.State, error) {
	log, err := s.ReadLog(ctx, LogOptions{})
	if err != nil {
		return nil, err
	}
	return log.State, nil
}

var (
	// errGone is the error for a file that was in the log when it was listed.
	errGone = errors.New("it is being compacted again and again")
	// errSuspect says that a file was folded that should not have been.
	errSuspect = errors.New("a file was used that is damaged")
)

// Several runs may give a new backup its id at once, and say a moment later that these are
// one. A reader that finds two ids looks again until then, and so it does where a file was
// not listed that must be there.
const (
	mostPauses = 5
	pause      = 200 * time.Millisecond
)

var (
	// errBeginning says that two ids were found, which may be of one backup in a moment.
	errBeginning = errors.New("the log has two ids")
	// errUnlisted says that an entry was not listed that must be there. Some stores list
	// what is new only after a while.
	errUnlisted = errors.New("the list of the log's files is not complete")
)

// loadTries is how often reading the log begins anew because somebody compacts it.
const loadTries = 10

// ReadLog is [Store.LoadLog] with options.
func (s *Store) ReadLog(ctx context.Context, opts LogOptions) (log *Log, err error) {
	defer s.describe(&err, "read", commitlog.LogDir)
	suspects := suspects{files: make(map[string]error), backups: make(map[string]bool)}
	var earlier *commitlog.Manifest
	for try, pauses := 1, 0; ; {
		r := &logReader{store: s, opts: opts, last: try == loadTries, patient: pauses < mostPauses, suspects: suspects, earlier: earlier}
		err := r.read(ctx)
		earlier = r.earlier
		switch {
		case errors.Is(err, errUnlisted) && fs.UnWrapFs(s.fs).Features().IsLocal: // it was written behind the list, or is lost
			pauses = mostPauses
		case errors.Is(err, errBeginning), errors.Is(err, errUnlisted):
			pauses++
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case errors.Is(err, errGone) && !r.last:
			try++
		case errors.Is(err, errSuspect): // each time there is one more of them
		case err != nil:
			return nil, err
		default:
			return r.log, nil
		}
	}
}

// A logReader reads a log once, in steps: list, fold the snapshots, add their indexes,
// fold the entries that no snapshot stands for, hold what was read against what it says of
// other files, and look whether the log is still what was listed.
//
// Nothing is folded that is known to be damaged. Where a later file shows that one was
// folded all the same, it becomes a suspect, and reading begins anew without it.
type logReader struct {
	store    *Store
	opts     LogOptions
	last     bool                // reading will not begin anew for what is gone
	patient  bool                // nor for two ids of the backup and what was not listed, unless this is set
	suspects suspects            // outlive the reader; not changed while entries are read
	found    map[string]error    // suspects that were found while entries were read
	earlier  *commitlog.Manifest // read before the list, nil if it was not; then as it is now

	log     *Log
	objects map[string]fs.Object // of the listing, by name
}

// suspects are not to be folded, though nothing is wrong with them by themselves.
type suspects struct {
	files   map[string]error // by name
	backups map[string]bool  // ids of other backups
}

func (s suspects) len() int { return len(s.files) + len(s.backups) }

func (r *logReader) read(ctx context.Context) error {
	if r.opts.Begin != nil {
		r.opts.Begin()
	}
	objects, err := r.store.listLog(ctx)
	if err != nil {
		return err
	}
	r.objects = objects
	r.log = &Log{State: &commitlog.State{Keep: r.opts.Keep}, Files: sortObjects(objects)}
	snapshots, err := r.snapshots(ctx)
	if err != nil {
		return err
	}
	for _, n := range snapshots {
		if err := r.indexes(ctx, n); err != nil {
			return err
		}
	}
	before := r.suspects.len()
	if err := r.entries(ctx); err != nil {
		return err
	}
	if err := r.oneBackup(); err != nil {
		return err
	}
	if r.suspects.len() > before {
		return errSuspect
	}
	if err := r.complete(ctx); err != nil {
		return err
	}
	return r.unchanged(ctx)
}

// complete looks whether the log has what manifest.json says that it has. A list may show
// nothing of what was written a moment ago; an object is found by its name at once. Of a log
// that is known to be damaged it is no news.
//
// What runs have written since the list was made is not missing: then the log has all that
// an earlier manifest names, one that was read before the list.
func (r *logReader) complete(ctx context.Context) error {
	m, err := r.store.manifest(ctx)
	if m == nil || err != nil {
		return err
	}
	before := r.earlier
	r.earlier, r.log.promised = m, m.Backup
	if len(r.log.Damage) > 0 || !m.Missing(r.log.State, r.log.Files) || before != nil && !before.Missing(r.log.State, r.log.Files) {
		return nil
	}
	if r.patient {
		return errUnlisted
	}
	what := fmt.Errorf("%w: %q is missing, which was there when %s was written", commitlog.ErrCorrupt, m.LastID, commitlog.ManifestName)
	if len(r.log.Files.Entries)+len(r.log.Files.Snapshots) == 0 {
		what = fmt.Errorf("%w: it tells of %d log entries, and there is none: the log was lost, or the store does not list it yet", commitlog.ErrCorrupt, m.Entries)
	}
	err = r.damage(DamageLog, commitlog.ManifestName, what)
	if err == nil {
		r.log.Damage[len(r.log.Damage)-1].Whole = true
	}
	return err
}

// manifest returns the manifest, nil where there is none, or none that can be read: that is
// no damage of the log.
func (s *Store) manifest(ctx context.Context) (*commitlog.Manifest, error) {
	data, err := s.ReadLoose(ctx, commitlog.ManifestName)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := commitlog.DecodeManifest(data)
	if err != nil {
		return nil, nil
	}
	return m, nil
}

// oneBackup looks whether all that was read says that it belongs to the same backup.
func (r *logReader) oneBackup() error {
	foreign := r.log.Foreign()
	if len(foreign) == 0 {
		return nil
	}
	if r.patient {
		return errBeginning
	}
	if !r.opts.SkipDamaged {
		return fmt.Errorf("%w: there are entries of backup %s, and of %s", commitlog.ErrCorrupt, r.log.Backup(), strings.Join(foreign, ", "))
	}
	for _, id := range foreign {
		r.suspects.backups[id] = true
	}
	return nil
}

// belongs tells whether a file of a backup may be read.
func (r *logReader) belongs(backup string) error {
	if r.suspects.backups[backup] {
		return fmt.Errorf("%w: it belongs to another backup, %s", commitlog.ErrCorrupt, backup)
	}
	return nil
}

// note says what is remarkable about a file that is whole.
func (r *logReader) note(name string, o commitlog.Origin) {
	if !o.Sealed {
		r.log.Unsealed++
	}
	if o.Mended {
		r.log.Mended = append(r.log.Mended, name)
	}
	if o.Unknown != "" {
		r.log.Unknown = append(r.log.Unknown, fmt.Sprintf("%s has %q", name, o.Unknown))
	}
}

// damage is what becomes of err, which came of a file: nil where the rest is wanted.
func (r *logReader) damage(kind DamageKind, name string, err error) error {
	switch {
	case errors.Is(err, ErrNotFound) && !r.last:
		return errGone
	case !r.opts.SkipDamaged || !IsDamage(err):
		return fmt.Errorf("%s: %w", name, err)
	}
	r.log.Damage = append(r.log.Damage, Damage{Kind: kind, Name: name, Err: err})
	return nil
}

// content returns the bytes of a file of the listing.
func (r *logReader) content(ctx context.Context, name string) ([]byte, error) {
	if err := r.suspects.files[name]; err != nil {
		return nil, err
	}
	return r.store.read(ctx, r.objects[name], maxEntry)
}

// signed checks the signature of a file. It fails with [ErrUnsigned].
func (r *logReader) signed(ctx context.Context, name string, data []byte, at time.Time) error {
	if r.opts.Signed == nil {
		return nil
	}
	o, err := r.objects[name+SignatureSuffix], error(nil)
	if o == nil { // it was written before the file, and may be listed later all the same
		o, err = r.store.findAgain(ctx, name+SignatureSuffix)
	}
	var sig []byte
	if err == nil {
		sig, err = r.store.read(ctx, o, maxSignature)
	}
	if err != nil && (r.objects[name+SignatureSuffix] != nil || !errors.Is(err, ErrNotFound)) {
		return err
	}
	if err := r.opts.Signed(data, sig, at); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	return nil
}

// snapshots folds the snapshots that no other one supersedes: there is one, or two when
// two were made at the same time.
func (r *logReader) snapshots(ctx context.Context) (newest []*commitlog.Snapshot, err error) {
	superseded := make(map[string]bool)
	for _, name := range slices.Backward(r.log.Files.Snapshots) {
		id, _ := commitlog.SnapshotID(name)
		if superseded[id] {
			continue
		}
		n, kind, err := r.snapshot(ctx, name)
		if err != nil {
			if err := r.damage(kind, name, err); err != nil {
				return nil, err
			}
			continue
		}
		for _, old := range n.Supersedes {
			superseded[old] = true
		}
		newest = append(newest, n)
	}
	for _, n := range newest {
		r.log.AddSnapshot(n)
		if r.opts.Snapshot != nil {
			if err := r.opts.Snapshot(n); err != nil {
				return nil, err
			}
		}
	}
	return newest, nil
}

func (r *logReader) snapshot(ctx context.Context, name string) (*commitlog.Snapshot, DamageKind, error) {
	data, err := r.content(ctx, name)
	if err != nil {
		return nil, DamageLog, err
	}
	n, err := commitlog.DecodeSnapshot(name, data)
	if err != nil {
		return nil, DamageLog, err
	}
	if err := r.belongs(n.Backup); err != nil {
		return nil, DamageLog, err
	}
	data, _ = commitlog.Mended(data)
	if err := r.signed(ctx, name, data, n.Time); err != nil {
		return nil, DamageSignature, err
	}
	if r.opts.Signed != nil {
		r.log.Signed++
	}
	r.note(name, n.Origin)
	return n, "", nil
}

// indexes adds the segments of a snapshot that are wanted. What a damaged index lists is
// not covered any more.
func (r *logReader) indexes(ctx context.Context, n *commitlog.Snapshot) error {
	for _, t := range n.Topics {
		for _, f := range t.Index {
			if n.TellsFilters && !wanted(r.opts.Keep, t, f) { // of an earlier version only the indexes tell
				continue
			}
			err := r.store.ReadFile(ctx, f.File, func(in io.Reader) error { return r.log.ReadIndex(in, t.Name, t.ID) })
			if err == nil {
				continue
			}
			if err := r.damage(DamageLog, f.Path, err); err != nil {
				return err
			}
			r.log.LoseIndex(t.Name, t.ID, f)
		}
	}
	return nil
}

func wanted(keep func(string, int32) bool, t commitlog.SnapshotTopic, f commitlog.IndexFile) bool {
	return keep == nil || slices.ContainsFunc(t.Partitions, func(p commitlog.SnapshotPartition) bool {
		return f.First <= p.Partition && p.Partition <= f.Last && keep(t.Name, p.Partition)
	})
}

// A logFile is a file that is to be read, and then what came of it.
type logFile struct {
	name  string
	entry *commitlog.Entry
	sha   string
	kind  DamageKind
	err   error
	done  chan struct{}
}

// entries folds the entries that no snapshot stands for. They are read ahead, a few at a
// time, and folded in the order of their ids.
func (r *logReader) entries(ctx context.Context) error {
	// What is read goes by the state as it is now: it changes while others read.
	var unread []string
	for _, name := range r.log.Files.Entries {
		if id, _ := commitlog.EntryID(name); !r.log.Folded(id) {
			unread = append(unread, name)
		}
	}
	r.found = make(map[string]error)
	readers := fs.GetConfig(ctx).Checkers
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	files := make(chan *logFile, readers)
	slots := make(chan struct{}, readers)
	go func() {
		defer close(files)
		for _, name := range unread {
			f := &logFile{name: name, done: make(chan struct{})}
			select {
			case files <- f:
			case <-ctx.Done():
				return
			}
			slots <- struct{}{}
			go func() {
				defer func() { <-slots; close(f.done) }()
				r.entry(ctx, f)
			}()
		}
	}()
	for f := range files {
		<-f.done
		r.log.Unfolded++
		r.log.Bytes += max(r.objects[f.name].Size(), 0)
		if err := r.fold(f); err != nil {
			return err
		}
	}
	maps.Copy(r.suspects.files, r.found)
	return ctx.Err()
}

// entry reads one entry.
func (r *logReader) entry(ctx context.Context, f *logFile) {
	f.kind = DamageLog
	data, err := r.content(ctx, f.name)
	if err != nil {
		f.err = err
		return
	}
	if f.entry, f.sha, f.err = commitlog.Decode(f.name, data); f.err != nil {
		return
	}
	if f.err = r.belongs(f.entry.Backup); f.err != nil {
		return
	}
	data, _ = commitlog.Mended(data)
	if f.err = r.signed(ctx, f.name, data, f.entry.Time); f.err != nil {
		f.kind = DamageSignature
	}
}

// fold adds an entry to the state, if it is one.
func (r *logReader) fold(f *logFile) error {
	if f.err != nil {
		if err := r.damage(f.kind, f.name, f.err); err != nil {
			return err
		}
		id, _ := commitlog.EntryID(f.name)
		r.log.Skip(id)
		return nil
	}
	if err := r.log.Check(f.entry); err != nil {
		name := f.name
		if changed, ok := errors.AsType[*commitlog.ChangedError](err); ok && r.opts.SkipDamaged {
			name = commitlog.PathOf(changed.Before) // this one vouches for what that was
			if r.objects[name] != nil && r.suspects.files[name] == nil && r.found[name] == nil {
				r.found[name] = err
			}
		}
		if err := r.damage(DamageLog, name, err); err != nil {
			return err
		}
		if errors.Is(err, commitlog.ErrRepeated) {
			return nil
		}
		r.log.Damage[len(r.log.Damage)-1].Whole = name == f.name
	}
	if r.opts.Signed != nil {
		r.log.Signed++
	}
	r.note(f.name, f.entry.Origin)
	if !f.entry.Sealed {
		for _, d := range f.entry.Doubts() {
			r.log.Doubts = append(r.log.Doubts, Damage{Kind: DamageLog, Name: f.name, Err: fmt.Errorf("%w: %s", commitlog.ErrCorrupt, d), Whole: true})
		}
	}
	r.log.Fold(f.entry, f.sha)
	if r.opts.Entry != nil {
		return r.opts.Entry(f.entry, f.sha)
	}
	return nil
}

// unchanged tells whether the log is still as it was listed, but for new entries. A
// listing is not one moment: it may have missed both the snapshot that was being deleted
// and the one that was made in its place.
func (r *logReader) unchanged(ctx context.Context) error {
	if len(r.objects) == 0 {
		return nil
	}
	objects, err := r.store.listLog(ctx)
	if err != nil {
		return err
	}
	for _, name := range sortObjects(objects).Snapshots {
		if r.objects[name] == nil {
			return errGone
		}
	}
	for _, name := range slices.Concat(r.log.Files.Snapshots, r.log.Files.Entries) {
		if objects[name] == nil {
			return errGone
		}
	}
	return nil
}

// listLog returns the objects in the log's folder, by their paths.
func (s *Store) listLog(ctx context.Context) (map[string]fs.Object, error) {
	var entries fs.DirEntries
	err := s.retry(ctx, func() (err error) {
		entries, err = s.fs.List(ctx, commitlog.LogDir)
		return err
	})
	if errors.Is(err, fs.ErrorDirNotFound) {
		return nil, s.refused(ctx)
	}
	if err != nil {
		return nil, err
	}
	objects := make(map[string]fs.Object)
	for _, e := range entries {
		if o, ok := e.(fs.Object); ok {
			objects[o.Remote()] = o
		}
	}
	return objects, nil
}

func sortObjects(objects map[string]fs.Object) commitlog.Files {
	paths := make([]string, 0, len(objects))
	for path := range objects {
		paths = append(paths, path)
	}
	return commitlog.SortFiles(paths)
}

// ListLog returns the files in the log's folder.
func (s *Store) ListLog(ctx context.Context) (files commitlog.Files, err error) {
	defer s.describe(&err, "list", commitlog.LogDir)
	objects, err := s.listLog(ctx)
	return sortObjects(objects), err
}

// BackupIDs returns the ids of backups in manifest.json, and in the entries and snapshots that
// have come since known was listed, sorted.
func (s *Store) BackupIDs(ctx context.Context, known commitlog.Files) (ids []string, err error) {
	defer s.describe(&err, "read", commitlog.LogDir)
	objects, err := s.listLog(ctx)
	if err != nil {
		return nil, err
	}
	m, err := s.manifest(ctx)
	if err != nil {
		return nil, err
	}
	if m != nil && m.Backup != "" {
		ids = append(ids, m.Backup)
	}
	files := sortObjects(objects)
	for _, name := range slices.Concat(files.Entries, files.Snapshots) {
		if slices.Contains(known.Entries, name) || slices.Contains(known.Snapshots, name) {
			continue
		}
		data, err := s.read(ctx, objects[name], maxEntry)
		switch {
		case errors.Is(err, ErrNotFound): // it was compacted
			continue
		case err != nil:
			return nil, err
		}
		id := commitlog.BackupOf(name, data)
		if id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}
