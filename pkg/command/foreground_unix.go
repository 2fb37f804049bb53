//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package command

import "golang.org/x/sys/unix"

// mayDraw tells whether a terminal is this process's to draw on: the shell has not put it into the
// background, and nobody asks for a password there, another stage of the pipe perhaps. Where the
// terminal does not tell, it is.
func mayDraw(terminal int) bool {
	if group, err := unix.IoctlGetInt(terminal, unix.TIOCGPGRP); err == nil && group != unix.Getpgrp() {
		return false
	}
	settings, err := unix.IoctlGetTermios(terminal, getTermios)
	return err != nil || settings.Lflag&unix.ECHO != 0
}
