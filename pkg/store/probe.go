package store

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/object"
)

// longAgo is what a probe says of when it was made. A store that keeps the times that it is
// told gives it back, and tells nothing of its own clock.
var longAgo = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// StoreTime writes a small object at path and returns when that was by the store's clock. It is
// not known where the remote keeps the times that it is told, or none. The store must have been
// opened with [Options.StoreTimes].
func (s *Store) StoreTime(ctx context.Context, path string) (at time.Time, known bool, err error) {
	defer s.describe(&err, "store", path)
	data := []byte("kbk asks for the time")
	err = s.retry(ctx, func() error {
		info := object.NewStaticObjectInfo(path, longAgo, int64(len(data)), true, nil, nil)
		_, err := s.fs.Put(ctx, bytes.NewReader(data), info)
		return err
	})
	if err != nil {
		return time.Time{}, false, err
	}
	o, err := s.find(ctx, path) // what Put returns may have the time of this machine
	if err != nil {
		return time.Time{}, false, err
	}
	at = o.ModTime(ctx)
	return at, at.Year() > longAgo.Year(), nil
}

// HasFolder tells whether there is a folder dir below the backup's, "" for this one, on a remote
// that has folders without anything in them.
func (s *Store) HasFolder(ctx context.Context, dir string) bool {
	if !s.fs.Features().CanHaveEmptyDirectories {
		return false
	}
	_, err := s.fs.List(ctx, dir)
	return !errors.Is(err, fs.ErrorDirNotFound)
}

// RemoveFolder removes a folder in which there is nothing, as far as it may.
func (s *Store) RemoveFolder(ctx context.Context, dir string) {
	if s.fs.Features().CanHaveEmptyDirectories {
		_ = s.fs.Rmdir(ctx, dir) // which refuses one that is not empty
	}
}
