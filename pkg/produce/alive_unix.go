//go:build unix

package produce

import (
	"errors"
	"syscall"
)

// alive tells whether a process runs on this host.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
