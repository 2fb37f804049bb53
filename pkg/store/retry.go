package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rclone/rclone/fs/fserrors"
	"github.com/sony/gobreaker/v2"

	"github.com/kbkio/kbk/pkg/metrics"
)

// DefaultRetryFor is how long an operation is tried that fails with what may pass.
const DefaultRetryFor = 5 * time.Minute

const (
	// A store that has never answered is not down: its address is wrong, more likely.
	retryAtFirst = 5 * time.Second
	firstPause   = 500 * time.Millisecond
	longestPause = 5 * time.Second // to look at an open circuit costs nothing
	// So many failures in a row, of all that is going on, open the circuit: for so long
	// nothing is sent, and then one operation tries for all.
	failuresInARow = 5
	openFor        = 3 * time.Second
)

// A retrier runs operations again that fail with what may pass: after a pause that
// grows and is never the same, and through one circuit breaker, so that a store
// that is down is not called by everything that goes on at once. Each operation
// is tried several times by rclone itself, too.
type retrier struct {
	limit    time.Duration
	log      *slog.Logger
	breaker  *gobreaker.CircuitBreaker[struct{}]
	answered atomic.Bool           // the store has, once
	failure  atomic.Pointer[error] // the last that may pass
	retries  *metrics.Kinds        // nil: nobody counts
	hide     func(error) error     // takes secrets out
}

func newRetrier(limit time.Duration, log *slog.Logger, hide func(error) error) *retrier {
	r := &retrier{limit: limit, log: log, hide: hide}
	if r.limit == 0 {
		r.limit = DefaultRetryFor
	}
	r.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:      openFor,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failuresInARow },
		IsSuccessful: func(err error) bool { return err == nil || !mayPass(err) },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case log == nil:
			case from == gobreaker.StateClosed:
				log.Warn(fmt.Sprintf("the store fails, and is retried from time to time: %v", hide(r.lastFailure())))
			case to == gobreaker.StateClosed:
				log.Info("the store works again")
			}
		},
	})
	return r
}

func (r *retrier) lastFailure() error {
	if err := r.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// do runs op until it succeeds, fails with what retrying cannot help, or has failed for
// long enough. That counts from the first failure on: a store that hangs may take minutes
// to fail.
func (r *retrier) do(ctx context.Context, op func() error) error {
	began, tries := time.Now(), 0
	var failing time.Time // since when
	once := func() (struct{}, error) {
		tries++
		err := op()
		switch {
		case err == nil || !mayPass(err):
			r.answered.Store(true)
		case ctx.Err() == nil:
			r.failure.Store(&err)
		}
		return struct{}{}, err
	}
	again := func() (struct{}, error) {
		_, err := r.breaker.Execute(once)
		waits := errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests)
		if failing.IsZero() {
			failing = time.Now()
		}
		switch {
		case err == nil:
		case ctx.Err() != nil: // whatever op made of it
			err = backoff.Permanent(context.Cause(ctx))
		case !waits && !mayPass(err):
			err = backoff.Permanent(err)
		case !r.answered.Load() && time.Since(began) > retryAtFirst, time.Since(failing) > r.limit:
			err = backoff.Permanent(&gaveUp{r.lastFailure(), time.Since(began)})
		}
		return struct{}{}, err
	}
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = firstPause, longestPause
	_, err := backoff.Retry(ctx, again, backoff.WithBackOff(pauses), backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, pause time.Duration) {
			if r.retries != nil {
				r.retries.Add("store")
			}
			if r.log != nil {
				r.log.Debug(fmt.Sprintf("tried %d times, again in %s: %v", tries, pause.Round(time.Millisecond), r.hide(err)))
			}
		}))
	if permanent, ok := errors.AsType[*backoff.PermanentError](err); ok {
		return permanent.Unwrap()
	}
	return err
}

// gaveUp is the error of an operation that was tried for long enough.
type gaveUp struct {
	err   error
	after time.Duration
}

func (g *gaveUp) Error() string {
	return fmt.Sprintf("gave up after %s: %v", g.after.Round(100*time.Millisecond), g.err)
}

func (g *gaveUp) Unwrap() error { return g.err }

// mayPass tells whether another try may succeed. rclone's backends say so of what
// servers answer and networks do; what they do not say it of, a refusal, a bucket
// that is not there, a full disk, is there the next time too.
func mayPass(err error) bool {
	if fserrors.IsFatalError(err) || fserrors.IsNoRetryError(err) || fserrors.IsErrNoSpace(err) {
		return false
	}
	return fserrors.IsRetryError(err) || fserrors.ShouldRetry(err)
}
