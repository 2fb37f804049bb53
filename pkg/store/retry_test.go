package store

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rclone/rclone/fs/fserrors"
)

var errPasses = fserrors.RetryError(errors.New("try later"))

func same(err error) error { return err }

// TestRetrier has its own clock: it takes no time.
func TestRetrier(t *testing.T) {
	for _, test := range []struct {
		name     string
		fails    int   // so many times
		with     error // this
		answered bool  // before
		tries    [2]int
		took     [2]time.Duration
		gaveUp   bool
	}{
		{"good", 0, nil, false, [2]int{1, 1}, [2]time.Duration{}, false},
		{"passes", 3, errPasses, true, [2]int{4, 4}, [2]time.Duration{time.Second, 10 * time.Second}, false},
		{"passes late", 30, errPasses, true, [2]int{31, 31}, [2]time.Duration{time.Minute, 4 * time.Minute}, false},
		{"lasts", 1 << 30, errPasses, true, [2]int{30, 120}, [2]time.Duration{4 * time.Minute, 5*time.Minute + 2*longestPause}, true},
		{"never answered", 1 << 30, errPasses, false, [2]int{3, 10}, [2]time.Duration{retryAtFirst, 3 * retryAtFirst}, true},
		{"refused", 1 << 30, errors.New("403"), true, [2]int{1, 1}, [2]time.Duration{}, false},
		{"disk full", 1 << 30, fmt.Errorf("write: %w", syscall.ENOSPC), true, [2]int{1, 1}, [2]time.Duration{}, false},
		{"no retry", 1 << 30, fserrors.NoRetryError(errPasses), true, [2]int{1, 1}, [2]time.Duration{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRetrier(0, nil, same)
				r.answered.Store(test.answered)
				began, tries := time.Now(), 0
				err := r.do(t.Context(), func() error {
					if tries++; tries > test.fails {
						return nil
					}
					return test.with
				})
				took := time.Since(began)
				if tries < test.tries[0] || tries > test.tries[1] || took < test.took[0] || took > test.took[1] {
					t.Errorf("%d tries in %s", tries, took)
				}
				_, gaveUp := errors.AsType[*gaveUp](err)
				if lasts := test.fails == 1<<30; lasts != errors.Is(err, test.with) && test.with != nil || gaveUp != test.gaveUp {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// TestRetrierHangs has a store that does not answer, so that each try takes longer than the
// limit: there is another one all the same.
func TestRetrierHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRetrier(time.Minute, nil, same)
		r.answered.Store(true)
		tries := 0
		err := r.do(t.Context(), func() error {
			if tries++; tries > 1 {
				return nil
			}
			time.Sleep(5 * time.Minute)
			return errPasses
		})
		if err != nil || tries != 2 {
			t.Errorf("%d tries, %v", tries, err)
		}
	})
}

// TestBreaker has many operations at once on a store that is down for a minute: few
// of them reach it, and all get through in the end.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRetrier(0, nil, same)
		r.answered.Store(true)
		began, calls := time.Now(), make(chan struct{}, 1<<16)
		done := make(chan error, 64)
		for range cap(done) {
			go func() {
				done <- r.do(t.Context(), func() error {
					if time.Since(began) < time.Minute {
						calls <- struct{}{}
						return errPasses
					}
					return nil
				})
			}()
		}
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := len(calls) - cap(done); n > 30 { // that many came at first
			t.Errorf("%d calls of a store that was down", n)
		}
		if took := time.Since(began); took > 90*time.Second {
			t.Errorf("back after %s", took)
		}
	})
}

func TestRetrierIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := newRetrier(0, nil, same).do(ctx, func() error { return errPasses })
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}
