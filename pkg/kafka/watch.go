package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// mentionAfter is how long a broker may be away before people are told: one that restarts
// is back sooner, most of the time.
const mentionAfter = 30 * time.Second

// An outage says since when a broker fails.
type outage struct {
	since     time.Time
	mentioned bool
}

// A watch is a client's hook. It says when a broker has been away for a while, once, and
// when it is back.
type watch struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	outages map[string]*outage // by address
}

func newWatch(log *slog.Logger) *watch {
	return &watch{log: log, now: time.Now, outages: make(map[string]*outage)}
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (w *watch) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil { // only an answer says that it is there
		w.failed(address(meta), err)
	}
}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (w *watch) OnBrokerE2E(meta kgo.BrokerMetadata, _ int16, e2e kgo.BrokerE2E) {
	if err := e2e.Err(); err != nil {
		w.failed(address(meta), err)
	} else {
		w.answered(address(meta))
	}
}

func address(meta kgo.BrokerMetadata) string {
	return net.JoinHostPort(meta.Host, strconv.Itoa(int(meta.Port)))
}

func (w *watch) failed(broker string, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.outages[broker]
	if o == nil {
		o = &outage{since: w.now()}
		w.outages[broker] = o
	}
	if away := w.now().Sub(o.since); away >= mentionAfter && !o.mentioned {
		o.mentioned = true
		w.log.Warn(fmt.Sprintf("broker %s has been away for %s: %s", broker, away.Round(time.Second), reason(err)))
	}
}

func (w *watch) answered(broker string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.outages[broker]
	if o == nil {
		return
	}
	delete(w.outages, broker)
	if o.mentioned {
		w.log.Info(fmt.Sprintf("broker %s is back after %s", broker, w.now().Sub(o.since).Round(time.Second)))
	}
}

// reason is what is wrong with a broker, without its address.
func reason(err error) string {
	var at *brokerError
	var network net.Error
	switch {
	case errors.As(err, &at):
		return at.err.Error()
	case errors.As(err, &network) && network.Timeout():
		return "it does not answer"
	}
	return err.Error()
}

// A franzLogger passes franz-go's messages on to people who ask for details.
type franzLogger struct{ log *slog.Logger }

// Level implements kgo.Logger. What it says below that is about single requests.
func (l franzLogger) Level() kgo.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

// Log implements kgo.Logger.
func (l franzLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if level <= l.Level() {
		l.log.Debug("kafka: "+msg, keyvals...)
	}
}
