package store

import (
	"context"
	"io"
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
		return unreadable(err)
	})
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{s.limited(ctx, in), in}, nil
}
