//go:build unix

package pipeline

import (
	"os"
	"syscall"
)

const canOrder = true

// shellStatus is the status that a shell gives a process that has ended.
func shellStatus(p *os.ProcessState) int {
	if w, ok := p.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return p.ExitCode()
}
