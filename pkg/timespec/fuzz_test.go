package timespec

import (
	"strconv"
	"testing"
	"time"
)

// FuzzParse reads any text as a time. One that is read is the same as RFC 3339.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"2026-11-20T22:00:00Z", "2026-11-20T22:00:00.123+01:00", "2026-11-20", "2026-11-20T22:00", "1764000000000", "@17", "24h", "1w2d12h", "@-5", "2026"} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 20, 22, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		at, err := Parse(s, now)
		if d, err := ParseDuration(s); err == nil {
			if d < 0 {
				t.Fatalf("%q is %v", s, d)
			}
			if _, isNumber := strconv.ParseInt(s, 10, 64); isNumber != nil && !at.Equal(now.Add(-d)) {
				t.Fatalf("%q before now is %v", s, at)
			}
		}
		if err != nil || at.Year() < 0 || at.Year() > 9999 {
			return
		}
		if again, err := Parse(at.UTC().Format(time.RFC3339Nano), now); err != nil || !again.Equal(at) {
			t.Fatalf("%q is %v, and that is %v, %v", s, at, again, err)
		}
	})
}
