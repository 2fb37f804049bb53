// Package prom shows what a stage counts to Prometheus, and says whether it is well.
package prom

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kbkio/kbk/pkg/command"
)

const (
	lookEvery   = time.Second      // at whether there is progress
	headerLimit = 10 * time.Second // for a request to come
)

// A page answers requests about one command.
type page struct {
	env   *command.Env
	watch *watch
	ended atomic.Pointer[ending] // nil while the work goes on
}

// An ending is when and how the work has ended.
type ending struct {
	at     time.Time
	status int
}

type registryKey struct{}

// Registry is where what is done in ctx may register more to be shown; nil where there is
// no page.
func Registry(ctx context.Context) *prometheus.Registry {
	r, _ := ctx.Value(registryKey{}).(*prometheus.Registry)
	return r
}

// Open opens the page of a command at addr, HOST:PORT or unix:PATH.
func Open(ctx context.Context, env *command.Env, addr string) (*command.Page, error) {
	listener, err := listen(addr)
	if err != nil {
		return nil, fmt.Errorf("--metrics %s: %w", addr, err)
	}
	p := &page{env: env, watch: newWatch(time.Now())}
	env.Counters.Partitions.Watch()
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{page: p}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	server := &http.Server{Handler: p.handler(registry), ReadHeaderTimeout: headerLimit}
	stop := make(chan struct{})
	go p.look(stop)
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			env.Log.Warn(fmt.Sprintf("--metrics %s: %v", addr, err))
		}
	}()
	env.Log.Info("metrics are at " + urlOf(listener))
	return &command.Page{
		URL:     urlOf(listener),
		Context: context.WithValue(ctx, registryKey{}, registry),
		Ended:   p.end,
		Close: func() {
			close(stop)
			_ = server.Close() // whoever reads has had the time of --keep-alive
		},
	}, nil
}

// listen listens at addr. The socket that a process left behind which was killed is taken
// over.
func listen(addr string) (net.Listener, error) {
	path, isSocket := strings.CutPrefix(addr, "unix:")
	if !isSocket {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("%w: an address is HOST:PORT, :PORT or unix:PATH", err)
		}
		return net.Listen("tcp", addr)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return nil, errors.New("another process listens there")
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", path)
}

func urlOf(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return "http://" + l.Addr().String() + "/metrics"
}

func (p *page) handler(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		stalled := p.watch.stalled()
		answer(w, stalled < patience, stalled)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		stalled := p.watch.stalled()
		if !p.env.Counters.Snapshot().Ready {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		answer(w, stalled < patience, stalled)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s %s\n\n/metrics\n/healthz\n/readyz\n", p.env.Name, command.Version())
	})
	return mux
}

func answer(w http.ResponseWriter, well bool, stalled time.Duration) {
	if well {
		fmt.Fprintln(w, "ok")
		return
	}
	http.Error(w, fmt.Sprintf("no progress for %s", stalled.Round(time.Second)), http.StatusServiceUnavailable)
}

// look looks now and then whether there is progress, until the page is closed.
func (p *page) look(stop <-chan struct{}) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.watch.look(p.env.Counters.Snapshot(), p.ended.Load() != nil, now)
		case <-stop:
			return
		}
	}
}

// kinds of errors that end a run, by its status.
var kinds = map[int]string{command.Failed: "failed", command.Usage: "usage", command.Corrupt: "input", command.Loss: "loss", command.Interrupted: "interrupted"}

// end notes how the work has ended.
func (p *page) end(status int) {
	if kind, ok := kinds[status]; ok {
		p.env.Counters.Errors.Add(kind)
	}
	p.ended.Store(&ending{time.Now(), status})
}
