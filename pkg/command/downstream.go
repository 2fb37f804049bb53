package command

import (
	"context"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// WhileRead returns a context that ends when nobody reads out any more, where that is a
// pipe: a stage that waits for its input writes nothing, and would not notice. Stop ends
// the watch; it is for stages that go on when all is written.
func WhileRead(ctx context.Context, out io.Writer) (_ context.Context, stop func()) {
	f, ok := out.(*os.File)
	if !ok || !isPipe(out) {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	watch, stop := context.WithCancel(ctx)
	pipe := f.Fd()
	go func() {
		if unread(watch, pipe) {
			cancel(&fs.PathError{Op: "write", Path: f.Name(), Err: syscall.EPIPE}) // as a write would say it
		}
	}()
	return ctx, stop
}
