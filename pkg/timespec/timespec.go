// Package timespec reads the times and durations that kbk's flags take.
package timespec

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Parse reads a time: RFC 3339 (2026-11-20T22:00:00Z; the zone may be missing and
// is then local, and so may be the time of day), milliseconds since the epoch, or a
// duration before now (24h, 7d). An @ before it, as kcat has it, is passed over.
//
// A number that may be meant as something else than milliseconds is refused: 2026,
// 20261120, and seconds, which a number of 9 to 11 digits is behind an @ too, as date(1)
// has them there.
func Parse(s string, now time.Time) (time.Time, error) {
	text, at := strings.CutPrefix(s, "@")
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if err := ambiguous(s, text, n, at); err != nil {
			return time.Time{}, err
		}
		return time.UnixMilli(n), nil
	}
	if d, err := ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time: give RFC 3339, milliseconds since the epoch, or a duration before now such as 24h or 7d", s)
}

// ambiguous refuses a number that need not be meant as milliseconds. given is how it was
// given, with or without an @ in front.
func ambiguous(given, text string, n int64, at bool) error {
	digits := len(strings.TrimLeft(strings.TrimLeft(text, "+-"), "0"))
	switch {
	case digits >= 9 && digits <= 11:
		return fmt.Errorf("%q looks like seconds: times are RFC 3339 or milliseconds since the epoch, so that is %s or %d000", given, time.Unix(n, 0).UTC().Format(time.RFC3339), n)
	case at || digits == 0 || digits == 12 || digits == 13:
		return nil
	case digits == 4 && n > 0:
		return fmt.Errorf("%q may be a year or milliseconds since the epoch: write %d-01-01, or @%d for milliseconds", given, n, n)
	}
	return fmt.Errorf("%q is not plainly milliseconds since the epoch: write a date as 2026-11-20, or @%s for milliseconds", given, text)
}

// ParseDuration reads a duration as time.ParseDuration does, and with days (d) and
// weeks (w) of 24 and 168 hours as well: 7d, 1w2d12h. It refuses negative ones.
func ParseDuration(s string) (time.Duration, error) {
	var sum time.Duration
	rest := s
	for _, unit := range []struct {
		letter string
		size   time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		count, after, found := strings.Cut(rest, unit.letter)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(count, 10, 31)
		if err != nil || time.Duration(n) > (1<<63-1-sum)/unit.size {
			return 0, notDuration(s)
		}
		sum, rest = sum+time.Duration(n)*unit.size, after
	}
	if rest == "" && s != "" {
		return sum, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || sum+d < sum {
		return 0, notDuration(s)
	}
	return sum + d, nil
}

func notDuration(s string) error {
	return fmt.Errorf("%q is not a duration such as 90s, 24h or 7d", s)
}
