//go:build unix

package command

import "golang.org/x/sys/unix"

// hungUp tells whether nobody writes to a pipe any more; what was written may be in it yet.
func hungUp(pipe uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(pipe), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLHUP != 0
}
