package command

import (
	"context"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// WhileRead does work with a context that ends when nobody reads out any more, where that
// is a pipe: a stage that waits for its input writes nothing, and would not notice. Then
// it returns the error that a write would have.
func WhileRead(ctx context.Context, out io.Writer, work func(context.Context) error) error {
	f, ok := out.(*os.File)
	if !ok || !isPipe(out) {
		return work(ctx)
	}
	watched, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	gone := &fs.PathError{Op: "write", Path: f.Name(), Err: syscall.EPIPE}
	pipe := f.Fd()
	go func() {
		if unread(watched, pipe) {
			cancel(gone)
		}
	}()
	err := work(watched)
	if err != nil && ctx.Err() == nil && context.Cause(watched) == error(gone) {
		return gone // and not what it led to
	}
	return err
}
