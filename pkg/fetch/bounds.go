package fetch

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/timespec"
)

// A Bound is one end of what is read of each partition, before it is known what the
// partition holds.
type Bound struct {
	kind boundKind
	n    int64 // an offset, a number of records, or milliseconds since the epoch
}

type boundKind uint8

const (
	unbounded boundKind = iota
	atBeginning
	atEnd
	atOffset
	atLast // n offsets before the end
	atTime
)

// ParseBound reads beginning, end, an offset, -N (the last N offsets) or a time as
// [timespec.Parse] has it, milliseconds behind an @.
func ParseBound(s string, now time.Time) (Bound, error) {
	switch s {
	case "beginning", "earliest":
		return Bound{kind: atBeginning}, nil
	case "end", "latest":
		return Bound{kind: atEnd}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n != math.MinInt64 {
		if n < 0 || strings.HasPrefix(s, "-") {
			return Bound{atLast, -n}, nil
		}
		return Bound{atOffset, n}, nil
	}
	t, err := timespec.Parse(s, now)
	if err != nil {
		if strings.HasPrefix(s, "@") {
			return Bound{}, err
		}
		return Bound{}, fmt.Errorf("%q is not beginning, end, an offset, -N or a time (RFC 3339, @MILLISECONDS, or a duration before now such as 24h)", s)
	}
	return Bound{atTime, t.UnixMilli()}, nil
}

// parseOffsets reads what kcat and kcl take behind -o, and changes from and to
// accordingly: beginning, end, N, -N; s@TIME and e@TIME, where to start and to end;
// N:M, offsets from N up to and without M; @T1:T2, times. Either side of a colon
// may be missing.
func parseOffsets(s string, now time.Time, from, to *Bound) (err error) {
	if s == "" {
		return errors.New("nothing is not an offset")
	}
	side := func(text, prefix string, b *Bound) {
		if err == nil && text != "" {
			*b, err = ParseBound(prefix+text, now)
		}
	}
	switch kind, rest, _ := strings.Cut(s, "@"); {
	case kind == "s" && rest != "":
		side(rest, "@", from)
		return err
	case kind == "e" && rest != "":
		side(rest, "@", to)
		return err
	case kind == "" && rest != "":
		// A time may hold colons itself; the one between two times is the one that makes
		// both sides times.
		if _, err := timespec.Parse("@"+rest, now); err == nil {
			side(rest, "@", from)
			return err
		}
		for i, c := range rest {
			if c != ':' {
				continue
			}
			f, t := *from, *to
			err = nil
			side(rest[:i], "@", &f)
			side(strings.TrimPrefix(rest[i+1:], "@"), "@", &t)
			if err == nil {
				*from, *to = f, t
				return nil
			}
		}
		return fmt.Errorf("%q is not @TIME or @TIME:TIME", s)
	}
	if a, b, ok := strings.Cut(s, ":"); ok && !strings.Contains(b, ":") {
		side(a, "", from)
		side(b, "", to)
		return err
	}
	side(s, "", from)
	return err
}

// window is the records' timestamps that are wanted, in milliseconds since the
// epoch, both ends included.
type window struct{ since, until int64 }

var always = window{math.MinInt64, math.MaxInt64}

func (w window) holds(ms int64) bool { return ms >= w.since && ms <= w.until }

// header is the window as a stream's header has it.
func (w window) header() *format.Window {
	if w == always {
		return nil
	}
	out := new(format.Window)
	if w.since != math.MinInt64 {
		out.Since = &w.since
	}
	if w.until != math.MaxInt64 {
		out.Until = &w.until
	}
	return out
}

// timeWindow is what two bounds ask of the records' timestamps. Offsets follow the
// order of arrival and not of timestamps, so that times cannot be turned into
// offsets without losing records that came late.
func timeWindow(from, to Bound) window {
	w := always
	if from.kind == atTime {
		w.since = from.n
	}
	if to.kind == atTime {
		w.until = to.n
	}
	return w
}

// bounds are where to begin and to end in a partition, by the flags alone.
func (c *Config) bounds(k known) (from, next int64) {
	from, next = k.start, k.end
	if c.From.kind != unbounded {
		from = c.From.offsetOf(k.start, k.end, k.since)
	}
	// Up to a time means all records of that time: later ones may have come before
	// them. So a time does not bound offsets from above.
	if c.To.kind != atTime {
		next = c.To.offsetOf(k.start, k.end, 0)
	}
	return from, next
}

// offsetOf is where a bound lies in a partition that holds [start, end). What a time
// comes to is given: the offset of the first record of that time or later, -1 where
// there is none.
func (b Bound) offsetOf(start, end int64, ofTime int64) int64 {
	switch b.kind {
	case atBeginning:
		return start
	case atOffset:
		return min(b.n, end)
	case atLast:
		return max(start, end-b.n)
	case atTime:
		if ofTime < 0 {
			return end
		}
		return min(max(start, ofTime), end)
	}
	return end
}
