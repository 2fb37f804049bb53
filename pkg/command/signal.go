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
// any other failed write, with a message.
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
	go func() {
		select {
		case <-ch:
			log.Debug("finishing properly; a second signal stops at once")
			close(stopped)
		case <-ctx.Done():
			return
		}
		select {
		case <-ch:
			cancel()
			time.Sleep(graceAfterSecond)
			os.Exit(Interrupted)
		case <-ctx.Done():
		}
	}()
	return ctx, stopped, func() {
		signal.Stop(ch)
		cancel()
	}
}
