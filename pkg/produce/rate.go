package produce

import (
	"context"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/time/rate"

	"github.com/kbkio/kbk/pkg/command"
)

// A limiter holds the records back that are more than so many a second, or more bytes.
type limiter struct {
	bytes, records *rate.Limiter // nil: no limit
}

// perSecond reads 50MB/s or 50MB, and 10000/s.
func perSecond(flag, s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(strings.TrimSuffix(s, "/s"))
	if err != nil || n < 1 || n > 1<<40 {
		return 0, command.Usagef("--%s %q is not an amount per second", flag, s)
	}
	return n, nil
}

// newLimiter returns a limiter; 0 is no limit.
func newLimiter(bytes, records uint64) *limiter {
	bucket := func(n uint64) *rate.Limiter {
		if n == 0 {
			return nil
		}
		return rate.NewLimiter(rate.Limit(n), max(int(n/10), 1)) // a tenth of a second may come at once
	}
	return &limiter{bucket(bytes), bucket(records)}
}

// wait waits until one more record of size bytes may go.
func (l *limiter) wait(ctx context.Context, size int) error {
	if err := take(ctx, l.records, 1); err != nil {
		return err
	}
	return take(ctx, l.bytes, size)
}

func take(ctx context.Context, l *rate.Limiter, n int) error {
	if l == nil {
		return nil
	}
	for burst := l.Burst(); n > 0; n -= burst {
		if err := l.WaitN(ctx, min(n, burst)); err != nil {
			return err
		}
	}
	return nil
}
