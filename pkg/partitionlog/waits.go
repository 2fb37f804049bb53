package partitionlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// What keeps a run waiting is said for the first time after quietWait, and then as often
// as repeatWait.
const (
	quietWait  = 5 * time.Second
	repeatWait = 30 * time.Second
)

// waits are what is being waited for.
type waits struct {
	log *slog.Logger

	mu   sync.Mutex
	open map[*Wait]struct{}
	said time.Time // when it was last said; zero while nothing takes long
}

// A Wait is a partition that is waited for.
type Wait struct {
	all    *waits
	p      Partition
	since  time.Time
	reason error
}

func newWaits(log *slog.Logger) *waits { return &waits{log: log, open: make(map[*Wait]struct{})} }

// Wait begins to wait for a partition: if it takes long, that is said until End.
func (g *Logs) Wait(p Partition) *Wait { return g.waits.begin(p, time.Now()) }

func (w *waits) begin(p Partition, since time.Time) *Wait {
	one := &Wait{all: w, p: p, since: since}
	w.mu.Lock()
	w.open[one] = struct{}{}
	w.mu.Unlock()
	return one
}

// Because says what is waited for.
func (one *Wait) Because(reason error) {
	one.all.mu.Lock()
	one.reason = reason
	one.all.mu.Unlock()
}

// Moved says that something has come, and that the next is waited for.
func (one *Wait) Moved() {
	one.all.mu.Lock()
	one.since, one.reason = time.Now(), nil
	one.all.mu.Unlock()
}

// End says that it is not waited for any more.
func (one *Wait) End() {
	one.all.mu.Lock()
	delete(one.all.open, one)
	one.all.mu.Unlock()
}

// watch says what is waited for, until ctx ends.
func (w *waits) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if line := w.line(now); line != "" {
				w.log.Warn(line)
			}
		case <-ctx.Done():
			return
		}
	}
}

// before reports whether one is to be spoken of rather than other: the older one, and of two of the same age and
// partition the one that knows why it waits.
func (one *Wait) before(other *Wait) bool {
	return cmp.Or(
		one.since.Compare(other.since),
		strings.Compare(one.p.Topic, other.p.Topic),
		cmp.Compare(one.p.Num, other.p.Num),
	) < 0 || one.since.Equal(other.since) && one.p == other.p && one.reason != nil && other.reason == nil
}

// line is what is to be said now; empty where nothing is.
func (w *waits) line(now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var oldest *Wait
	late := make(map[Partition]bool)
	for one := range w.open {
		if now.Sub(one.since) < quietWait {
			continue
		}
		late[one.p] = true
		if oldest == nil || one.before(oldest) {
			oldest = one
		}
	}
	if oldest == nil {
		w.said = time.Time{}
		return ""
	}
	if !w.said.IsZero() && now.Sub(w.said) < repeatWait {
		return ""
	}
	w.said = now
	reason := oldest.reason
	if reason == nil {
		reason = errors.New("no answer")
	}
	who := oldest.p.String()
	if oldest.p.Num < 0 {
		who = oldest.p.Topic
	}
	if n := len(late); n > 1 {
		who = fmt.Sprintf("%s and %d more", who, n-1)
	}
	return fmt.Sprintf("waiting for %s, for %s: %v", who, now.Sub(oldest.since).Round(time.Second), reason)
}
