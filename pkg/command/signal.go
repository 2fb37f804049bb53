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

// signals watches for SIGINT and SIGTERM. The first closes stop, the second
// cancels the context, and if that does not end the process soon, this does.
func signals(parent context.Context, log *slog.Logger) (ctx context.Context, stop <-chan struct{}, release func()) {
	ctx, cancel := context.WithCancel(parent)
	stopped := make(chan struct{})
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
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
