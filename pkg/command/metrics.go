package command

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
)

// A Page shows to Prometheus what a command counts.
type Page struct {
	URL     string           // of the metrics
	Context context.Context  // for the work: what is registered in it is shown too
	Ended   func(status int) // the work has ended, and what has been counted stays to be seen
	Close   func()
}

// A PageOpener opens the page of a command at an address.
type PageOpener func(ctx context.Context, env *Env, addr string) (*Page, error)

// metricsFlags are the flags of a command that has a page.
func metricsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "metrics", Usage: "show metrics for Prometheus, /healthz and /readyz at `ADDR`, such as 127.0.0.1:9101, :9101 or unix:/run/kbk.sock"},
		&cli.DurationFlag{Name: "keep-alive", Usage: "with --metrics: keep the page for `TIME` after the end, so that the last values can be read"},
	}
}

// openPage opens the page that the flags ask for; nil if they ask for none.
func openPage(ctx context.Context, c *cli.Context, env *Env, open PageOpener) (*Page, error) {
	if open == nil {
		return nil, nil
	}
	addr, stay := c.String("metrics"), c.Duration("keep-alive")
	switch {
	case stay < 0:
		return nil, Usagef("--keep-alive %s is below 0", stay)
	case addr == "" && stay > 0:
		return nil, Usagef("--keep-alive is only for --metrics")
	case addr == "":
		return nil, nil
	}
	page, err := open(ctx, env, addr)
	if err != nil {
		return nil, WithStatus(Usage, err)
	}
	l, ok := c.Context.Value(lingererKey{}).(*lingerer)
	if !ok { // the process is another one's
		page.Ended = func(int) { page.Close() }
		return page, nil
	}
	l.page, l.stay = page, stay
	return page, nil
}

type lingererKey struct{}

// A lingerer keeps the process, and its page, for a while after the work has ended and its
// message is printed.
type lingerer struct {
	page *Page
	stay time.Duration
}

// linger stays for as long as --keep-alive says, or until a signal; not after one that has
// ended the work. The stages before and behind see that this one has ended: their pipes are
// closed.
func (l *lingerer) linger(status int) {
	if l.page == nil {
		return
	}
	defer l.page.Close()
	if l.stay == 0 || status == Interrupted {
		return
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(stop)
	closePipes()
	select {
	case <-time.After(l.stay):
	case <-stop:
	case <-orders(): // of whoever started the pipe, or it is dead
	}
}
