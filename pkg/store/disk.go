package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/lib/readers"
)

// disk brings onto a local disk what was written to it; rclone leaves that to the
// kernel. With other remotes it does nothing.
type disk struct {
	mu      sync.Mutex
	folders map[string]bool // those with names that may not be on the disk yet
	outer   bool            // the folders around the backup have been seen to
}

// syncFile puts the content of o on the disk, if it is a local file or a wrapper
// around one, and leaves its name to the next syncFolders.
func (d *disk) syncFile(ctx context.Context, o fs.Object) error {
	o = fs.UnWrapObject(o)
	if !o.Fs().Features().IsLocal {
		return nil
	}
	name, err := fileName(ctx, o)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0) // Windows wants the right to write
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync: %w", err)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if d.folders == nil {
		d.folders = make(map[string]bool)
	}
	dir := filepath.Dir(name)
	for range strings.Count(o.Remote(), "/") {
		d.folders[dir] = true
		dir = filepath.Dir(dir)
	}
	d.folders[dir] = true // the backup's own
	if !d.outer {
		d.outer = true
		// It may be new itself, and the one that it is in. There the right to write can
		// be without the right to read: the best that can be done.
		for dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			_ = syncFolder(dir)
		}
	}
	return nil
}

// fileName returns the absolute name of o, a file of rclone's local backend. The
// name that o tells itself by is in an encoding of rclone's and need not exist.
func fileName(ctx context.Context, o fs.Object) (string, error) {
	in, err := o.Open(ctx)
	if err != nil {
		return "", err
	}
	defer in.Close()
	var file io.Closer = in
	if wrapper, ok := in.(*readers.LimitedReadCloser); ok {
		file = wrapper.Closer
	}
	f, ok := file.(*os.File)
	if !ok {
		return "", fmt.Errorf("no file below %T", in)
	}
	return filepath.Abs(f.Name())
}

// syncFolders puts the names of all files given to syncFile, and of the folders
// they are in, on the disk.
func (d *disk) syncFolders() error {
	d.mu.Lock()
	folders := d.folders
	d.folders = nil
	d.mu.Unlock()
	for folder := range folders {
		if err := syncFolder(folder); err != nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.folders == nil {
				d.folders = folders
			} else {
				maps.Copy(d.folders, folders)
			}
			return err
		}
	}
	return nil
}

func syncFolder(name string) error {
	if runtime.GOOS == "windows" {
		return nil // has no such thing
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer f.Close()
	err = f.Sync()
	// Some network and FUSE file systems know it for files only.
	if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
