package command

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// graceAfterSecond is how long a command may take to clean up when it is told to
// stop at once.
const graceAfterSecond = 2 * time.Second

// signals watches for SIGINT, SIGTERM and SIGHUP. The first closes stop, the second
// cancels the context, and if that does not end the process soon, this does. SIGPIPE
// ends nothing: the write that caused it fails, and the command ends as it does after
// any other failed write, with a message. The orders of whoever started the process mean
// the same as signals.
func signals(parent context.Context, log *slog.Logger) (ctx context.Context, stop <-chan struct{}, release func()) {
	ctx, cancel := context.WithCancel(parent)
	stopped := make(chan struct{})
	ch := make(chan os.Signal, 4)
	wanted := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		wanted = append(wanted, syscall.SIGHUP)
	}
	signal.Notify(ch, wanted...)
	pipe := make(chan os.Signal, 1) // nobody reads it. Ignore would be inherited by child processes
	signal.Notify(pipe, syscall.SIGPIPE)
	told := orders()
	go func() {
		// Whoever started a pipe may pass a signal on that the terminal, or a service manager,
		// has sent to this process too: the two are one.
		var received, ordered int
		until := func(level int) bool {
			for max(received, ordered) < level {
				select {
				case <-ch:
					received++
				case n, ok := <-told:
					if !ok {
						told, n = nil, 1
					}
					ordered = max(ordered, n)
				case <-ctx.Done():
					return false
				}
			}
			return true
		}
		if !until(StopProperly) {
			return
		}
		if d := displayed.Load(); d != nil {
			d.stop()
		} else {
			log.Debug("finishing properly; a second signal stops at once")
		}
		close(stopped)
		if until(StopAtOnce) {
			stoppedNow.Store(true)
			cancel()
			time.Sleep(graceAfterSecond)
			if at := placeInPipe(); !at.behind {
				log.Warn(stoppedAtOnce().Error())
			}
			os.Exit(Interrupted)
		}
	}()
	return ctx, stopped, func() {
		signal.Stop(ch)
		cancel()
	}
}
