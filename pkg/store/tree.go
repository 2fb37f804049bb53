package store

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"

	"github.com/rclone/rclone/fs"
)

// OpenFile opens a file below the backup's folder, whatever it is. Its reader fails where
// the remote does.
func (s *Store) OpenFile(ctx context.Context, path string) (in io.ReadCloser, err error) {
	defer s.describe(&err, "read", path)
	err = s.retry(ctx, func() error {
		o, err := s.find(ctx, path)
		if err != nil {
			return err
		}
		in, err = o.Open(ctx)
		if errors.Is(err, fs.ErrorObjectNotFound) || errors.Is(err, iofs.ErrNotExist) {
			return ErrNotFound
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{s.limited(ctx, in), in}, nil
}
