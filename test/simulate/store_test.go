package simulate

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/config/configmap"
	"github.com/rclone/rclone/fs/fserrors"
	"github.com/rclone/rclone/fs/hash"
)

// A storage is what a store holds, in memory. Processes reach it as an rclone remote.
type storage struct {
	mu      sync.Mutex
	objects map[string]*stored
	// renames: it shows half-written objects and can rename, as disks and SFTP servers do,
	// and knows no hashes. Otherwise objects come whole and have an MD5, as those of S3.
	renames bool
	// late: an object that was just written is missing from some listings.
	late     bool
	unlisted map[string]int // from so many yet
	prompt   bool           // for now all listings are whole

	recording bool
	states    []map[string]*stored // after each change, and in the midst of each write
}

// record notes the state as it is. The storage is locked.
func (s *storage) record() {
	if s.recording {
		s.states = append(s.states, maps.Clone(s.objects))
	}
}

type stored struct {
	data []byte
	at   time.Time
}

func newStorage(renames bool) *storage {
	return &storage{objects: make(map[string]*stored), unlisted: make(map[string]int), renames: renames}
}

// becomeConsistent lets all that was written be listed.
func (s *storage) becomeConsistent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.unlisted)
}

// listWhole has listings miss nothing until what it returns is called.
func (s *storage) listWhole() (end func()) {
	s.becomeConsistent()
	set := func(prompt bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.prompt = prompt
	}
	set(true)
	return func() { set(false) }
}

// copied is the same content somewhere else.
func (s *storage) copied() *storage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &storage{objects: maps.Clone(s.objects), unlisted: make(map[string]int), renames: s.renames} // objects are never changed
}

func (s *storage) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// Faults are what happens to the calls of one process.
type faults struct {
	Kill   int     // the process is killed in its call of this number, which may have had its effect or a half of it; 0: never
	Fail   float64 // so many of the calls fail, before or after they had their effect
	Pauses bool    // calls take time, so that processes are woven into one another
}

// A process is one user of a storage: its root is in processes.
type process struct {
	*storage
	faults faults

	mu    sync.Mutex
	rng   *rand.Rand
	calls int
	dead  bool
	hurt  int // calls that failed
}

var (
	processes     sync.Map // by root, *process
	processNumber int
	processMu     sync.Mutex
)

// attach makes a remote of s for a process.
func (s *storage) attach(f faults, rng *rand.Rand) (remote string, p *process) {
	processMu.Lock()
	processNumber++
	root := fmt.Sprintf("process%d", processNumber)
	processMu.Unlock()
	p = &process{storage: s, faults: f, rng: rng}
	processes.Store(root, p)
	return ":simulated:" + root, p
}

var errKilled = errors.New("the process was killed")

// A fate is what becomes of a call.
type fate int

const (
	works fate = iota
	failsBefore
	failsAfter // it had its effect, and the answer was lost
	half       // of what was written a part arrived
)

// call decides what becomes of the next call.
func (p *process) call() (fate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return failsBefore, fserrors.FatalError(errKilled)
	}
	p.calls++
	if p.calls == p.faults.Kill {
		p.dead = true
		p.hurt++
		return []fate{failsBefore, failsAfter, half}[p.rng.IntN(3)], fserrors.FatalError(errKilled)
	}
	if p.faults.Fail > 0 && p.rng.Float64() < p.faults.Fail {
		p.hurt++
		return []fate{failsBefore, failsAfter, half}[p.rng.IntN(3)], fserrors.RetryError(errors.New("the store failed"))
	}
	return works, nil
}

// kill has the process do nothing any more.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	p.hurt++
}

// pause lets others come in between.
func (p *process) pause() {
	if p.faults.Pauses {
		p.mu.Lock()
		d := time.Duration(p.rng.IntN(40)) * time.Millisecond
		p.mu.Unlock()
		time.Sleep(d)
	}
}

func init() {
	// Not fs.Register, which misses rclone's documentation of it.
	fs.Registry = append(fs.Registry, &fs.RegInfo{Name: "simulated", Prefix: "simulated", Description: "a store in memory, with faults", NewFs: func(_ context.Context, name, root string, _ configmap.Mapper) (fs.Fs, error) {
		root = strings.Trim(root, "/")
		p, ok := processes.Load(root)
		if !ok {
			return nil, fmt.Errorf("no process %q", root)
		}
		return newRemote(name, root, p.(*process)), nil
	}})
}

// A remote is a storage as rclone sees it.
type remote struct {
	*process
	name, root string
	features   *fs.Features
}

func newRemote(name, root string, p *process) *remote {
	r := &remote{process: p, name: name, root: root}
	r.features = (&fs.Features{}).Fill(context.Background(), r)
	if p.renames {
		r.features.Move = r.move
	}
	return r
}

func (r *remote) Name() string             { return r.name }
func (r *remote) Root() string             { return r.root }
func (r *remote) String() string           { return "simulated " + r.root }
func (r *remote) Precision() time.Duration { return time.Nanosecond }
func (r *remote) Features() *fs.Features   { return r.features }
func (r *remote) Hashes() hash.Set {
	if r.renames {
		return hash.NewHashSet()
	}
	return hash.NewHashSet(hash.MD5)
}
func (r *remote) Mkdir(context.Context, string) error { return nil }
func (r *remote) Rmdir(context.Context, string) error { return nil }

// List implements fs.Fs.
func (r *remote) List(_ context.Context, dir string) (entries fs.DirEntries, err error) {
	r.pause()
	if _, err := r.call(); err != nil {
		return nil, err
	}
	prefix := ""
	if dir != "" {
		prefix = dir + "/"
	}
	folders := make(map[string]bool)
	r.storage.mu.Lock()
	defer r.storage.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.objects)) {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if r.unlisted[name] > 0 {
			r.unlisted[name]--
			continue
		}
		if folder, _, deeper := strings.Cut(rest, "/"); deeper {
			if !folders[folder] {
				folders[folder] = true
				entries = append(entries, fs.NewDir(prefix+folder, time.Time{}))
			}
			continue
		}
		entries = append(entries, &object{r, name, r.objects[name]})
	}
	if len(entries) == 0 && dir != "" {
		return nil, fs.ErrorDirNotFound
	}
	return entries, nil
}

// writtenLate draws from how many listings an object is missing. The storage is locked.
func (r *remote) writtenLate(name string) {
	r.process.mu.Lock()
	defer r.process.mu.Unlock()
	if r.late && !r.prompt && r.rng != nil && r.rng.IntN(3) == 0 {
		r.unlisted[name] = 1 + r.rng.IntN(3)
	}
}

// NewObject implements fs.Fs.
func (r *remote) NewObject(_ context.Context, name string) (fs.Object, error) {
	r.pause()
	if _, err := r.call(); err != nil {
		return nil, err
	}
	r.storage.mu.Lock()
	defer r.storage.mu.Unlock()
	if o := r.objects[name]; o != nil {
		return &object{r, name, o}, nil
	}
	return nil, fs.ErrorObjectNotFound
}

// Put implements fs.Fs.
func (r *remote) Put(_ context.Context, in io.Reader, src fs.ObjectInfo, _ ...fs.OpenOption) (fs.Object, error) {
	return r.write(in, src.Remote())
}

func (r *remote) write(in io.Reader, name string) (*object, error) {
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	r.pause()
	fate, err := r.call()
	r.storage.mu.Lock()
	defer r.storage.mu.Unlock()
	switch {
	case fate == failsBefore, fate == half && !r.renames:
		return nil, err
	case fate == half:
		data = data[:len(data)/2]
	}
	if r.renames && len(data) > 0 {
		r.objects[name] = &stored{data[:len(data)/2], time.Now()}
		r.record()
	}
	o := &stored{data, time.Now()}
	r.objects[name] = o
	r.writtenLate(name)
	r.record()
	return &object{r, name, o}, err
}

func (r *remote) move(_ context.Context, src fs.Object, to string) (fs.Object, error) {
	r.pause()
	fate, err := r.call()
	if fate == failsBefore || fate == half {
		return nil, err
	}
	r.storage.mu.Lock()
	defer r.storage.mu.Unlock()
	o := r.objects[src.Remote()]
	if o == nil {
		return nil, fs.ErrorObjectNotFound
	}
	delete(r.objects, src.Remote())
	r.objects[to] = o
	r.writtenLate(to)
	r.record()
	return &object{r, to, o}, err
}

// An object is one as a call has seen it.
type object struct {
	r    *remote
	name string
	seen *stored
}

func (o *object) Fs() fs.Info                                 { return o.r }
func (o *object) String() string                              { return o.name }
func (o *object) Remote() string                              { return o.name }
func (o *object) ModTime(context.Context) time.Time           { return o.seen.at }
func (o *object) Size() int64                                 { return int64(len(o.seen.data)) }
func (o *object) Storable() bool                              { return true }
func (o *object) SetModTime(context.Context, time.Time) error { return nil }
func (o *object) Hash(_ context.Context, t hash.Type) (string, error) {
	if o.r.renames || t != hash.MD5 {
		return "", hash.ErrUnsupported
	}
	sum := md5.Sum(o.seen.data)
	return hex.EncodeToString(sum[:]), nil
}

// Open implements fs.Object.
func (o *object) Open(_ context.Context, options ...fs.OpenOption) (io.ReadCloser, error) {
	o.r.pause()
	if _, err := o.r.call(); err != nil {
		return nil, err
	}
	o.r.storage.mu.Lock()
	now := o.r.objects[o.name]
	o.r.storage.mu.Unlock()
	if now == nil {
		return nil, fs.ErrorObjectNotFound
	}
	data := now.data
	for _, option := range options {
		switch x := option.(type) {
		case *fs.RangeOption:
			from, n := x.Decode(int64(len(data)))
			if data = data[from:]; n >= 0 {
				data = data[:n]
			}
		case *fs.SeekOption:
			data = data[x.Offset:]
		}
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Update implements fs.Object.
func (o *object) Update(_ context.Context, in io.Reader, _ fs.ObjectInfo, _ ...fs.OpenOption) error {
	now, err := o.r.write(in, o.name)
	if now != nil {
		o.seen = now.seen
	}
	return err
}

// Remove implements fs.Object.
func (o *object) Remove(context.Context) error {
	o.r.pause()
	fate, err := o.r.call()
	if fate == failsBefore || fate == half {
		return err
	}
	o.r.storage.mu.Lock()
	defer o.r.storage.mu.Unlock()
	if o.r.objects[o.name] == nil {
		return fs.ErrorObjectNotFound
	}
	delete(o.r.objects, o.name)
	o.r.record()
	return err
}
