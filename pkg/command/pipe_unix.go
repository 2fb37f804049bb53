//go:build unix

package command

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchFor is how long a watch may outlast its context.
const watchFor = time.Second

// unread waits until nobody reads a pipe any more; it returns false when ctx ends first.
func unread(ctx context.Context, pipe uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(pipe)}} // errors are told unasked
	for ctx.Err() == nil {
		n, err := unix.Poll(fds, int(watchFor.Milliseconds()))
		if err != nil && err != unix.EINTR {
			return false // then the next write has to tell
		}
		if n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
			return ctx.Err() == nil
		}
	}
	return false
}

// closePipes closes standard input and output. Something else takes their numbers, because
// a read of one may be under way.
func closePipes() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil { // the stages beside wait until the process ends
		return
	}
	defer null.Close()
	for _, fd := range []uintptr{os.Stdin.Fd(), os.Stdout.Fd()} {
		_ = unix.Dup2(int(null.Fd()), int(fd))
	}
}
