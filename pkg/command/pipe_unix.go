//go:build unix

package command

import (
	"context"
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
