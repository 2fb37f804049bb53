// Package throttle holds a flow down to so much a second.
package throttle

import (
	"context"
	"math"

	"golang.org/x/time/rate"
)

// A Limit lets so many units a second pass, and at most one second's worth at once. A
// nil Limit lets all pass.
type Limit struct{ lim *rate.Limiter }

// New returns a limit of perSecond units a second, nil for 0.
func New(perSecond int64) *Limit {
	if perSecond <= 0 {
		return nil
	}
	return &Limit{rate.NewLimiter(rate.Limit(perSecond), int(min(perSecond, math.MaxInt32)))}
}

// Wait returns when n units more may pass, or with ctx's error. There may be more of
// them than pass in a second.
func (l *Limit) Wait(ctx context.Context, n int64) error {
	for l != nil && n > 0 {
		some := min(n, int64(l.lim.Burst()))
		if err := l.lim.WaitN(ctx, int(some)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		n -= some
	}
	return nil
}
