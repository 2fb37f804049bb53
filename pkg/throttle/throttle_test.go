package throttle

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, began := New(100), time.Now()
		for _, n := range []int64{50, 50, 250} { // the first second's worth passes at once
			if err := l.Wait(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began).Round(10 * time.Millisecond); took != 2500*time.Millisecond {
			t.Errorf("350 units at 100 a second took %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := l.Wait(ctx, 1000); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
	if err := New(0).Wait(t.Context(), 1<<40); err != nil {
		t.Error(err)
	}
}
