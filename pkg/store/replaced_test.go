package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rclone/rclone/fs"

	"github.com/kbkio/kbk/pkg/commitlog"
)

// A replacing remote has an object that cannot be read so many times: each time, somebody puts
// another one in its place.
type replacing struct {
	fs.Fs
	gone   int
	stays  bool  // it is the same object all the time
	opened error // what reading it says: at once, or at its first byte
	read   error
}

func (r *replacing) NewObject(context.Context, string) (fs.Object, error) {
	o := replacedObject{remote: r, time: time.Unix(1, 0)}
	if !r.stays {
		o.time = o.time.Add(-time.Duration(r.gone))
	}
	return o, nil
}

type replacedObject struct {
	fs.Object
	remote *replacing
	time   time.Time
}

func (o replacedObject) ModTime(context.Context) time.Time { return o.time }

func (replacedObject) Size() int64 { return 4 }

func (o replacedObject) Open(context.Context, ...fs.OpenOption) (io.ReadCloser, error) {
	if o.remote.gone--; o.remote.gone < 0 {
		return io.NopCloser(strings.NewReader("here")), nil
	}
	return io.NopCloser(iotest.ErrReader(o.remote.read)), o.remote.opened
}

var errOther = errors.New("unexpected EOF")

// TestReplacedWhileRead reads an object that others replace meanwhile. It was seen with two
// pushes over SFTP: one wrote manifest.json while the other read it.
func TestReplacedWhileRead(t *testing.T) {
	for _, test := range []struct {
		name string
		replacing
		want error
	}{
		{"before it is opened", replacing{gone: 3, opened: fs.ErrorObjectNotFound}, nil},
		{"on a disk", replacing{gone: 3, opened: iofs.ErrNotExist}, nil},
		{"before its first byte", replacing{gone: 3, read: iofs.ErrNotExist}, nil},
		{"with its old size", replacing{gone: 3, read: errOther}, nil},
		{"for ever", replacing{gone: 1000, read: iofs.ErrNotExist}, ErrNotFound},
		{"not at all", replacing{gone: 3, read: errOther, stays: true}, errOther},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t, t.TempDir())
			test.Fs = s.fs
			s.fs = &test.replacing
			data, err := s.ReadLoose(t.Context(), "manifest.json")
			if !errors.Is(err, test.want) || err == nil && string(data) != "here" {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
}

// A strict remote does not rename over an object. Each time it has refused to, another writer
// removes the object, or renames its own to that place.
type strict struct {
	fs.Fs
	others int // writers that remove the object when it has been refused to rename over it
}

func (r *strict) Features() *fs.Features {
	f := *r.Fs.Features()
	move := f.Move
	f.Move = func(ctx context.Context, src fs.Object, path string) (fs.Object, error) {
		o, err := r.NewObject(ctx, path)
		if err != nil {
			return move(ctx, src, path)
		}
		if r.others--; r.others >= 0 {
			return nil, errors.Join(errors.New("it exists"), o.Remove(ctx))
		}
		return nil, errors.New("it exists")
	}
	return &f
}

// TestReplaceWithoutOverwriting replaces manifest.json on a remote that does not rename over an
// object, while others do the same.
func TestReplaceWithoutOverwriting(t *testing.T) {
	for _, others := range []int{0, 1, 3} {
		s := open(t, t.TempDir())
		write := func(backup string) {
			t.Helper()
			if err := s.WriteManifest(t.Context(), commitlog.NewManifest(backup, time.Now())); err != nil {
				t.Fatalf("%d others: %v", others, err)
			}
		}
		first, second := commitlog.NewBackup(), commitlog.NewBackup()
		write(first)
		s.fs = &strict{s.fs, others}
		write(second)
		if m, err := s.manifest(t.Context()); err != nil || m == nil || m.Backup != second {
			t.Errorf("%d others: %+v, %v", others, m, err)
		}
		objects, err := s.fs.List(t.Context(), "")
		if err != nil || len(objects) != 1 {
			t.Errorf("%d others: %v, %v", others, objects, err)
		}
	}
}

// A forgetful remote does not find what it has just stored, the first time.
type forgetful struct {
	fs.Fs
	forgot bool
}

func (r *forgetful) Put(ctx context.Context, in io.Reader, src fs.ObjectInfo, options ...fs.OpenOption) (fs.Object, error) {
	o, err := r.Fs.Put(ctx, in, src, options...)
	if err == nil && !r.forgot {
		r.forgot = true
		return nil, fmt.Errorf("Update SetModTime failed: %w", iofs.ErrNotExist)
	}
	return o, err
}

// TestStoredAndNotFound stores an object that the remote does not find right behind the upload. It
// was seen with rclone's SFTP server while three pushes wrote to one folder.
func TestStoredAndNotFound(t *testing.T) {
	s := open(t, t.TempDir())
	remote := &forgetful{Fs: s.fs}
	s.fs = remote
	if err := s.WriteManifest(t.Context(), commitlog.NewManifest(commitlog.NewBackup(), time.Now())); err != nil {
		t.Fatal(err)
	}
	if m, err := s.manifest(t.Context()); err != nil || m == nil || !remote.forgot {
		t.Errorf("%+v, %v", m, err)
	}
}
