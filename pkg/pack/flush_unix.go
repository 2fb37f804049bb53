//go:build unix

package pack

import (
	"os"
	"os/signal"
	"syscall"
)

// flushSignals are the signals that ask for the open segments to be closed.
func flushSignals() (signals chan os.Signal, stop func()) {
	signals = make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	return signals, func() { signal.Stop(signals) }
}
