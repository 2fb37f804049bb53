package fetch

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/metrics"
)

// losses is what a run could not have, from all of its goroutines.
type losses struct {
	log   *slog.Logger
	count *metrics.Counters // nil: nobody looks

	mu  sync.Mutex
	end format.End
}

// add warns of a loss, in a line for people, and notes it for the stream's end.
func (l *losses) add(what string) {
	l.log.Warn(what)
	if l.count != nil {
		l.count.Losses.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end.Lose(what)
}

// into puts all that was lost into the stream's end.
func (l *losses) into(end *format.End) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end.Lost, end.Losses = l.end.Lost, l.end.Losses
}

// deleted is the loss of offsets [from, next) to retention.
func deleted(p *partition, from, next int64) string {
	return fmt.Sprintf("%s: offsets %d to %d were deleted before they were read", p, from, next-1)
}

// lossError is what --on-loss fail makes of a loss.
func lossError(what string) error {
	return command.WithStatus(command.Loss, fmt.Errorf("%s", what))
}
