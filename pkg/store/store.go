// Package store keeps a backup in any place that rclone reaches. It is the only
// package that imports rclone.
//
// An object is written once: a segment under a name made from its content, a log
// entry under its id. Only the manifest, a summary that nothing depends on, is
// replaced. On a local disk, also below an encrypting remote, all that a log entry
// lists is on the disk before the entry is.
package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/throttle"

	"github.com/dustin/go-humanize"
	"github.com/rclone/rclone/backend/crypt"
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fserrors"
	"github.com/rclone/rclone/fs/hash"
	"github.com/rclone/rclone/fs/object"
	"github.com/rclone/rclone/lib/atexit"
)

// What a caller may want to tell apart.
var (
	ErrNotFound = errors.New("not found in the store")
	ErrDamaged  = errors.New("damaged in the store")
	ErrExists   = errors.New("exists in the store already")
	ErrUnsigned = errors.New("not signed by one who may")
	ErrSum      = errors.New("not what its SHA-256 says")
)

// IsDamage tells whether err says that the backup is not as it was written: an object
// that a log entry lists is missing or altered, or the log itself is, or somebody else
// has written it.
func IsDamage(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnsigned) || errors.Is(err, commitlog.ErrCorrupt)
}

// MaxSegment bounds the size of a segment, in bytes: it is read into memory whole.
const MaxSegment = 1 << 30

const (
	maxEntry     = 256 << 20 // bytes of a log entry
	maxSignature = 1 << 20
)

// A Verify says how an upload is verified, in addition to its size.
type Verify string

// The ways to verify.
const (
	VerifyAuto   Verify = "auto"   // by a hash that the remote has, else by reading it again
	VerifyReread Verify = "reread" // by reading it again, always
	VerifySize   Verify = "size"   // by a hash that the remote has, else not
)

// Options are how a backup is written and read. The zero value is good.
type Options struct {
	Log      *slog.Logger  // is told of a store that fails for a while, and of each try
	RetryFor time.Duration // how long an operation is tried that may succeed yet; 0: DefaultRetryFor
	Verify   Verify        // empty: VerifyAuto
	MaxRate  int64         // bytes a second, sent and received; 0: as fast as can be
	// StoreTimes has times of objects be those of the store's clock, where it has any.
	StoreTimes bool
	// Counters are told of tries that failed and of bytes that go over the wire; nil: nobody is.
	Counters *metrics.Counters
	// Sign returns the signature of a log entry's bytes, which is stored beside it.
	Sign func(entry []byte) ([]byte, error)
}

// A Store is the folder of one backup. Its methods may be called from several
// goroutines, but for WriteManifest, which is for one at a time.
type Store struct {
	fs      fs.Fs
	name    string
	opts    Options
	secrets *strings.Replacer
	hashes  func() hash.Set // that the remote can compute
	tmp     string          // what this store adds to a name to make a temporary one
	disk    disk
	retrier *retrier
	rate    *throttle.Limit
	count   *metrics.Counters

	appended atomic.Int64 // bytes of entries
}

// opened counts the stores that are open: rclone is shut down with the last.
var opened atomic.Int32

// Open opens the backup at remote: a path on a local disk, remote:path, or a
// connection string such as :s3,provider=Minio,…:bucket/path. The folder need not
// exist yet. Close the store after use.
//
// Remotes come from the user's own rclone.conf (RCLONE_CONFIG, or where rclone looks
// for it) and from RCLONE_* variables; rclone never asks for a password.
func Open(ctx context.Context, remote string) (*Store, error) {
	return OpenWith(ctx, remote, Options{})
}

// OpenWith is [Open] with options.
func OpenWith(ctx context.Context, remote string, opts Options) (s *Store, err error) {
	s = &Store{name: DisplayName(remote), opts: opts, rate: throttle.New(opts.MaxRate)}
	defer s.describe(&err, "open")
	if err := startRclone(); err != nil {
		return nil, err
	}
	s.secrets = secrets(remote) // rclone's configuration is known now
	if err := checkRemote(remote); err != nil {
		return nil, err
	}
	if s.count = opts.Counters; s.count == nil {
		s.count = new(metrics.Counters)
	}
	s.retrier = newRetrier(opts.RetryFor, opts.Log, s.plain)
	s.retrier.retries = &s.count.Retries
	if opts.StoreTimes {
		var ci *fs.ConfigInfo
		ctx, ci = fs.AddConfig(ctx)
		ci.UseServerModTime = true
	}
	if s.fs, err = newFs(ctx, remote); err != nil {
		return nil, err
	}
	// SFTP finds out by running commands there, and is not made for two at a time.
	s.hashes = sync.OnceValue(s.fs.Hashes)
	s.tmp = "." + commitlog.NewRun().Name() + commitlog.TemporarySuffix
	opened.Add(1)
	return s, nil
}

// Name returns the remote for messages: as it was given, without the parameters of
// a connection string.
func (s *Store) Name() string { return s.name }

// VerifiedBy names the hash that uploads are verified by, as rclone does, and is empty
// where the remote has none and they are read again.
func (s *Store) VerifiedBy() string {
	if s.opts.Verify == VerifyReread || s.hashes().Count() == 0 {
		return ""
	}
	return s.hashType().String()
}

// hashType is a hash that the remote can compute, or hash.None.
func (s *Store) hashType() hash.Type {
	offered := s.hashes()
	for _, kind := range []hash.Type{
		hash.SHA256, // which is known already
		hash.MD5,    // what object stores check while they receive
	} {
		if offered.Contains(kind) {
			return kind
		}
	}
	return offered.GetOne()
}

// Close lets go of connections. Nothing is buffered: it cannot lose data.
func (s *Store) Close() (err error) {
	defer s.describe(&err, "close")
	if shutdown := s.fs.Features().Shutdown; shutdown != nil {
		err = shutdown(context.Background())
	}
	if opened.Add(-1) == 0 {
		atexit.Run()
	}
	return err
}

// PutSegment stores data at path (see [commitlog.SegmentPath], [commitlog.ClusterPath]) and verifies what
// arrived: its size, and a hash that the remote can compute, or the whole of it where
// there is none. sum is data's SHA-256 in hexadecimal; it fails with [ErrSum] when that is
// another. When the object already exists nothing is sent; an object that differs, half
// written by somebody who was killed, is replaced. data is not copied and must not
// change before PutSegment returns.
func (s *Store) PutSegment(ctx context.Context, path string, data []byte, sum string) (err error) {
	defer s.describe(&err, "store", path)
	if !iofs.ValidPath(path) || !strings.HasPrefix(path, commitlog.TopicsDir+"/") && !strings.HasPrefix(path, commitlog.ClusterDir+"/") {
		return errors.New("not a path of a segment")
	}
	if len(data) > MaxSegment {
		return fmt.Errorf("%s are more than the %s of the largest segment", command.Count(int64(len(data)), "byte"), humanize.Comma(MaxSegment))
	}
	if !s.verifiesSHA256() && digest(data) != sum {
		return ErrSum
	}
	c := s.content(data, sum)
	return s.retry(ctx, func() error { return s.put(ctx, path, c) })
}

// verifiesSHA256 tells whether every upload is verified by its SHA-256, so that there is no
// need to compute it before, too.
func (s *Store) verifiesSHA256() bool {
	return s.opts.Verify == VerifyReread || s.opts.Verify != VerifySize && s.hashType() == hash.SHA256
}

// AppendEntry writes an entry of the commit log and returns the SHA-256 of its bytes
// in hexadecimal, for [commitlog.Run.Advance]. Readers see all of the entry or none,
// and its signature, if there is one, before it. Nothing is overwritten: it fails with
// [ErrExists] when there is another entry of this id. After an error it is not known
// whether the entry was stored.
func (s *Store) AppendEntry(ctx context.Context, e *commitlog.Entry) (sha string, err error) {
	path := commitlog.EntryPath(e.ID)
	defer s.describe(&err, "store", path)
	data, sha, err := commitlog.Encode(e)
	if err != nil {
		return "", err
	}
	if len(data) > maxEntry {
		return "", fmt.Errorf("%s are more than the %s of the largest log entry", command.Count(int64(len(data)), "byte"), humanize.Comma(maxEntry))
	}
	if err := s.disk.syncFolders(); err != nil {
		return "", err
	}
	if s.opts.Sign != nil {
		sig, err := s.opts.Sign(data)
		if err != nil {
			return "", err
		}
		if err := s.append(ctx, path+SignatureSuffix, s.content(sig, digest(sig))); err != nil {
			return "", fmt.Errorf("its signature: %w", err)
		}
		if err := s.disk.syncFolders(); err != nil {
			return "", err
		}
	}
	if err := s.append(ctx, path, s.content(data, sha)); err != nil {
		return "", err
	}
	s.appended.Add(int64(len(data)))
	return sha, s.disk.syncFolders()
}

// Appended returns how many bytes of entries were written through s.
func (s *Store) Appended() int64 { return s.appended.Load() }

// SignatureSuffix is what the name of a log entry's signature has behind the entry's.
const SignatureSuffix = commitlog.SignatureSuffix

// append makes an object that must not be there yet, with other content at least.
func (s *Store) append(ctx context.Context, path string, c content) error {
	return s.retry(ctx, func() error {
		o, err := s.find(ctx, path)
		switch {
		case errors.Is(err, ErrNotFound):
			return s.place(ctx, path, nil, c)
		case err != nil:
			return err
		}
		if same, err := s.holds(ctx, o, c, false); err != nil || same { // same: an earlier try got through
			return err
		}
		return ErrExists
	})
}

func digest(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// WriteManifest replaces the manifest. Where the remote can rename, or replaces
// objects in one step, readers see the old one or the new one and nothing between.
func (s *Store) WriteManifest(ctx context.Context, m *commitlog.Manifest) (err error) {
	defer s.describe(&err, "store", commitlog.ManifestName)
	data, err := m.Encode()
	if err != nil {
		return err
	}
	c := s.content(data, digest(data))
	if err := s.retry(ctx, func() error { return s.put(ctx, commitlog.ManifestName, c) }); err != nil {
		return err
	}
	return s.disk.syncFolders()
}

// ReadSegment reads the object of a segment and returns its content, which has the
// size and the SHA-256 that the log says. It fails with [ErrNotFound] when there is
// no such object, with [ErrDamaged] when it is another than the one that was stored.
func (s *Store) ReadSegment(ctx context.Context, seg commitlog.Segment) (data []byte, err error) {
	return s.ReadSegmentInto(ctx, seg, nil)
}

// ReadSegmentInto is [Store.ReadSegment] into the memory of buf, if that is enough.
func (s *Store) ReadSegmentInto(ctx context.Context, seg commitlog.Segment, buf []byte) (data []byte, err error) {
	defer s.describe(&err, "read", seg.Path)
	if seg.Size > MaxSegment {
		return nil, fmt.Errorf("%s are more than the %s of the largest segment", command.Count(seg.Size, "byte"), humanize.Comma(MaxSegment))
	}
	o, err := s.findAgain(ctx, seg.Path)
	if err != nil {
		return nil, err
	}
	if size := o.Size(); size >= 0 && size != seg.Size {
		return nil, fmt.Errorf("%w: it has %s instead of %s", ErrDamaged, command.Count(size, "byte"), humanize.Comma(seg.Size))
	}
	if int64(cap(buf)) <= seg.Size && o.Size() == seg.Size { // the log and the store say the same: it can be believed
		buf = make([]byte, 0, seg.Size+1)
	}
	if data, err = s.readInto(ctx, o, seg.Size, buf); err != nil {
		return nil, err
	}
	if int64(len(data)) != seg.Size {
		return nil, fmt.Errorf("%w: it ends after %s of %s", ErrDamaged, humanize.Comma(int64(len(data))), command.Count(seg.Size, "byte"))
	}
	if sum := commitlog.HashOf(data); sum != seg.SHA256 {
		return nil, fmt.Errorf("%w: its sha256 is %s instead of %s", ErrDamaged, sum, seg.SHA256)
	}
	return data, nil
}

// find returns the object at path, or [ErrNotFound].
func (s *Store) find(ctx context.Context, path string) (fs.Object, error) {
	o, err := s.fs.NewObject(ctx, path)
	if errors.Is(err, fs.ErrorObjectNotFound) || errors.Is(err, fs.ErrorDirNotFound) {
		return nil, ErrNotFound
	}
	return o, err
}

// findAgain is find, tried again where an error may pass.
func (s *Store) findAgain(ctx context.Context, path string) (o fs.Object, err error) {
	err = s.retry(ctx, func() (err error) { o, err = s.find(ctx, path); return err })
	return o, err
}

// read returns the content of o, which may have limit bytes. Memory grows with what
// arrives, not with what o says of itself.
func (s *Store) read(ctx context.Context, o fs.Object, limit int64) ([]byte, error) {
	return s.readInto(ctx, o, limit, nil)
}

// readInto is read into the memory of buf, if that is enough.
func (s *Store) readInto(ctx context.Context, o fs.Object, limit int64, buf []byte) ([]byte, error) {
	err := s.retry(ctx, func() error {
		in, err := o.Open(ctx)
		if err != nil {
			return unreadable(err)
		}
		defer in.Close()
		if n := min(max(o.Size(), 0), limit, trustedSize) + 1; int64(cap(buf)) < n { // 1 for the end to be seen
			buf = make([]byte, 0, n)
		}
		buf, err = appendAll(buf[:0], s.limited(ctx, in), limit+1)
		return unreadable(err)
	})
	if err != nil {
		return nil, err
	}
	if int64(len(buf)) > limit {
		return nil, fmt.Errorf("%w: it has more than %s", ErrDamaged, command.Count(limit, "byte"))
	}
	return buf, nil
}

// trustedSize is how many bytes of memory are taken for an object before they arrive.
const trustedSize = 64 << 20

// appendAll appends what r has, but no more than limit bytes. The memory at most doubles
// each time, and is never more than limit needs.
func appendAll(b []byte, r io.Reader, limit int64) ([]byte, error) {
	for int64(len(b)) < limit {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(2*int64(cap(b))+bytes.MinRead, limit))
			copy(grown, b)
			b = grown
		}
		n, err := r.Read(b[len(b):min(int64(cap(b)), limit)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

// unreadable makes [ErrNotFound] of what a remote says of an object that is gone, which some say
// only when its first bytes are read, and [ErrDamaged] of what an encrypting remote says of one
// that somebody else changed.
func unreadable(err error) error {
	if errors.Is(err, fs.ErrorObjectNotFound) || errors.Is(err, iofs.ErrNotExist) {
		return ErrNotFound
	}
	for _, sign := range []error{
		crypt.ErrorEncryptedFileTooShort, crypt.ErrorEncryptedFileBadHeader,
		crypt.ErrorEncryptedBadMagic, crypt.ErrorEncryptedBadBlock,
	} {
		if errors.Is(err, sign) {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return err
}

// content is what goes into an object.
type content struct {
	data   []byte
	sha256 string
	// A hash that the remote can compute as well, and data's. hash.None where it has none.
	kind hash.Type
	sum  string
}

func (s *Store) content(data []byte, sha256 string) content {
	c := content{data: data, sha256: sha256, kind: s.hashType()}
	if c.kind == hash.SHA256 {
		c.sum = sha256
		return c
	}
	if c.kind != hash.None {
		sums, err := hash.StreamTypes(bytes.NewReader(data), hash.NewHashSet(c.kind))
		if err != nil {
			c.kind = hash.None // not one of rclone's: read it back instead
		}
		c.sum = sums[c.kind]
	}
	return c
}

// info is what rclone wants to know of c before it sends it.
func (c content) info(path string) fs.ObjectInfo {
	hashes := map[hash.Type]string{hash.SHA256: c.sha256, c.kind: c.sum}
	return object.NewStaticObjectInfo(path, time.Now(), int64(len(c.data)), true, hashes, nil)
}

// holds tells whether the content of o is c. An object that was just sent may be
// taken at its size's word, where the caller said so.
func (s *Store) holds(ctx context.Context, o fs.Object, c content, justSent bool) (bool, error) {
	if size := o.Size(); size >= 0 && size != int64(len(c.data)) {
		return false, nil
	}
	if c.kind != hash.None && s.opts.Verify != VerifyReread {
		// A remote may be able to in general, but not for this object.
		if sum, err := o.Hash(ctx, c.kind); err == nil && sum != "" {
			return sum == c.sum, nil
		}
	}
	if justSent && s.opts.Verify == VerifySize {
		return true, nil
	}
	in, err := o.Open(ctx)
	if err != nil {
		return false, err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(s.limited(ctx, in), int64(len(c.data))+1)); err != nil {
		return false, err
	}
	return hex.EncodeToString(h.Sum(nil)) == c.sha256, nil
}

// put makes the object at path hold c. Nothing is sent when it does already.
func (s *Store) put(ctx context.Context, path string, c content) error {
	o, err := s.find(ctx, path)
	switch {
	case errors.Is(err, ErrNotFound):
		return s.place(ctx, path, nil, c)
	case err != nil:
		return err
	}
	// What cannot be read is not what we want: an encrypted object that was cut off, say.
	if same, err := s.holds(ctx, o, c, false); same && err == nil {
		return s.disk.syncFile(ctx, o) // whoever wrote it may have been killed before that
	}
	return s.place(ctx, path, o, c)
}

// place makes the object at path, which is old or nil, hold c in one step: where the
// remote can rename there is never a half-written object at path, not even while
// two writers store the same. Object stores do as much by themselves.
func (s *Store) place(ctx context.Context, path string, old fs.Object, c content) (err error) {
	move := s.fs.Features().Move
	if move == nil || s.fs.Features().DuplicateFiles {
		_, err := s.upload(ctx, path, old, c)
		return err
	}
	old, err = s.find(ctx, path+s.tmp) // of an earlier try
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	defer func() {
		if err != nil && !mayPass(err) { // there is no later try
			s.removeUploaded(ctx, path)
		}
	}()
	tmp, err := s.upload(ctx, path+s.tmp, old, c)
	if err != nil {
		return err
	}
	if err := s.disk.syncFile(ctx, tmp); err != nil {
		return err
	}
	for try := 1; ; try++ {
		if _, err = move(ctx, tmp, path); err == nil {
			return nil
		}
		old, findErr := s.find(ctx, path)
		switch {
		case errors.Is(findErr, ErrNotFound) && try < renameTries: // another writer has removed it, as below
			continue
		case findErr != nil || try == renameTries:
			return err
		}
		if same, _ := s.holds(ctx, old, c, false); same { // moved, and only the answer was lost, or another writer stores the same
			s.removeUploaded(ctx, path)
			return nil
		}
		// This remote does not rename over an object.
		if removeErr := old.Remove(ctx); removeErr != nil && !errors.Is(unreadable(removeErr), ErrNotFound) {
			return err
		}
	}
}

// removeUploaded removes what was sent and is not to be renamed. If it cannot, it is litter.
func (s *Store) removeUploaded(ctx context.Context, path string) {
	if left, err := s.find(ctx, path+s.tmp); err == nil {
		_ = left.Remove(ctx)
	}
}

// renameTries is how often an object is renamed on a remote that does not rename over another
// one, while other writers do the same.
const renameTries = 10

// upload sends c to path, over old unless it is nil, and verifies what arrived.
func (s *Store) upload(ctx context.Context, path string, old fs.Object, c content) (o fs.Object, err error) {
	in := s.limited(ctx, &counted{bytes.NewReader(c.data), &s.count.BytesStored})
	if o = old; o != nil {
		err = o.Update(ctx, in, c.info(path))
	} else {
		o, err = s.fs.Put(ctx, in, c.info(path))
	}
	if err != nil && errors.Is(unreadable(err), ErrNotFound) { // the backend has looked for it, as we would
		return nil, fserrors.RetryError(fmt.Errorf("verify: %w: it did not arrive: %w", ErrDamaged, err))
	}
	if err != nil {
		return nil, err
	}
	same, err := s.holds(ctx, o, c, true)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if !same && digest(c.data) != c.sha256 {
		return nil, ErrSum
	}
	if !same {
		return nil, fserrors.RetryError(fmt.Errorf("verify: %w: not what was sent", ErrDamaged))
	}
	return o, nil
}

func (s *Store) retry(ctx context.Context, op func() error) error { return s.retrier.do(ctx, op) }

// Path returns where an object is, for messages.
func (s *Store) Path(path string) string { return s.at(path) }

// at returns where path is, for messages.
func (s *Store) at(path string) string {
	if strings.HasSuffix(s.name, "/") || strings.HasSuffix(s.name, ":") {
		return s.name + path
	}
	return s.name + "/" + path
}

// describe puts what was done to what in front of *err, and takes secrets out.
func (s *Store) describe(err *error, doing string, path ...string) {
	if *err == nil {
		return
	}
	where := s.name
	if len(path) > 0 {
		where = s.at(path[0])
	}
	*err = fmt.Errorf("%s %s: %w", doing, where, s.plain(*err))
}

// plain is err in a user's words, and without secrets.
func (s *Store) plain(err error) error {
	bucket := ""
	if s.fs != nil {
		bucket = bucketOf(s.fs)
	}
	said := plainly(err, bucket)
	if said != err && s.opts.Log != nil {
		s.opts.Log.Debug(hide(err, s.secrets).Error())
	}
	return hide(said, s.secrets)
}
