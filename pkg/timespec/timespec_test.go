package timespec

import (
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	berlin := time.FixedZone("CET", 3600)
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, berlin)
	for in, want := range map[string]string{
		"2026-11-20T22:00:00Z":          "2026-11-20T22:00:00Z",
		"2026-11-20T22:00:00.123+02:00": "2026-11-20T20:00:00.123Z",
		"2026-11-20T22:00:00":           "2026-11-20T21:00:00Z",
		"2026-11-20T22:00":              "2026-11-20T21:00:00Z",
		"2026-11-20":                    "2026-11-19T23:00:00Z",
		"1700000000123":                 "2023-11-14T22:13:20.123Z",
		"0":                             "1970-01-01T00:00:00Z",
		"24h":                           "2026-11-19T11:00:00Z",
		"7d":                            "2026-11-13T11:00:00Z",
		"1w1d1h":                        "2026-11-12T10:00:00Z",
		"90s":                           "2026-11-20T10:58:30Z",
	} {
		got, err := Parse(in, now)
		if err != nil || got.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %s, %v; want %s", in, got.UTC().Format(time.RFC3339Nano), err, want)
		}
	}
	for _, in := range []string{"", "yesterday", "-24h", "d", "1d2w", "1x", "2026-13-01", "1.5d", "99999999999d"} {
		if got, err := Parse(in, now); err == nil {
			t.Errorf("%q was taken as %s", in, got)
		}
	}
}
