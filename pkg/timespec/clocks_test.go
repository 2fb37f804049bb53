package timespec

import (
	"testing"
	"time"
)

func TestApart(t *testing.T) {
	before := time.Date(2026, 11, 28, 8, 0, 0, 0, time.UTC)
	after := before.Add(time.Second)
	for at, want := range map[time.Duration]time.Duration{-time.Hour: time.Hour, 0: 0, time.Second / 2: 0, time.Second: 0, time.Minute: 59 * time.Second} {
		if got := Apart(before.Add(at), before, after); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
}
