package command

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize is what a pipe between two stages should hold: with the default of
// 64 KiB the stages spend their time waking one another.
const pipeSize = 1 << 20

// growPipe enlarges f where it is a pipe. An unprivileged user may be past
// /proc/sys/fs/pipe-user-pages-soft; the pipe then stays as it is.
func growPipe(f *os.File) {
	_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize)
}
