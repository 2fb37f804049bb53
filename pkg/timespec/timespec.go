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
func Parse(s string, now time.Time) (time.Time, error) {
	given := s
	s = strings.TrimPrefix(s, "@")
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.UnixMilli(ms), nil
	}
	if d, err := ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time: give RFC 3339, milliseconds since the epoch, or a duration before now such as 24h or 7d", given)
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
