package filter

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pattern"
)

// A span is offsets of one partition, first to last: those of a batch, or of one record.
type span struct {
	topic       string
	partition   int32
	first, last int64
}

// An answer says for how many records of a span a condition holds.
type answer int

const (
	none answer = iota
	some        // or none, or all: it takes a look at each
	all
)

// ifSo is the answer where it is the same for all records.
func ifSo(holds bool) answer {
	if holds {
		return all
	}
	return none
}

// A routing condition looks at where records are, a deep one at the whole record. Times are
// by themselves: the scan of a record finds its own, and a batch has those of its records
// inside.
type (
	routing func(s span) answer
	deep    func(r *format.Record) bool
)

// A times is bounds of timestamps, both included.
type times struct{ since, until int64 }

var always = times{math.MinInt64, math.MaxInt64}

func (t times) holds(at int64) bool { return at >= t.since && at <= t.until }

// within is the answer to whether the offsets of a span are from..to.
func within(s span, from, to int64) answer {
	switch {
	case s.first >= from && s.last <= to:
		return all
	case s.last < from || s.first > to:
		return none
	}
	return some
}

// not turns an answer round.
func (a answer) not() answer { return all - a }

// pickFlags are the conditions. All of those given must hold.
func pickFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "pick records of `TOPIC`: a name, or a regular expression that begins with ^; repeatable"},
		&cli.StringSliceFlag{Name: "not-topic", Usage: "pick records of other topics than `TOPIC`, likewise"},
		&cli.StringFlag{Name: "partition", Aliases: []string{"p"}, Usage: "pick records of partitions `LIST`, such as 0,3-5"},
		&cli.StringFlag{Name: "not-partition", Usage: "pick records of other partitions than `LIST`"},
		&cli.StringFlag{Name: "offset", Usage: "pick offsets `A..B`, both included; either may be left out"},
		&cli.StringFlag{Name: "not-offset", Usage: "pick offsets outside of `A..B`"},
		&cli.StringFlag{Name: "since", Usage: "pick timestamps at or after `TIME`"},
		&cli.StringFlag{Name: "until", Usage: "pick timestamps at or before `TIME`"},
		&cli.StringFlag{Name: "key", Usage: "pick keys that match `REGEX`"},
		&cli.StringFlag{Name: "not-key", Usage: "pick keys that do not match `REGEX`, and null"},
		&cli.StringFlag{Name: "value", Usage: "pick values that match `REGEX`"},
		&cli.StringFlag{Name: "not-value", Usage: "pick values that do not match `REGEX`, and null"},
		&cli.StringSliceFlag{Name: "header", Usage: "pick records with a header `NAME[=REGEX]`; repeatable"},
		&cli.StringSliceFlag{Name: "not-header", Usage: "pick records without a header `NAME[=REGEX]`; repeatable"},
		&cli.BoolFlag{Name: "tombstones", Usage: "pick records whose value is null"},
		&cli.BoolFlag{Name: "no-tombstones", Usage: "pick records whose value is not null"},
		&cli.StringFlag{Name: "sample", Usage: "pick `PERCENT` of the keys, such as 1%; all records of a key or none"},
		&cli.Uint64Flag{Name: "seed", Usage: "with --sample: a different `N` picks different keys"},
		&cli.BoolFlag{Name: "invert", Usage: "pick exactly the records that do not meet all of these conditions"},
		&cli.Int64Flag{Name: "head", Usage: "pick at most `N` records", DefaultText: "all"},
	}
}

// conditions reads the flags of pickFlags into cfg.
func conditions(c *cli.Context, now time.Time, cfg *Config) (err error) {
	if cfg.where, err = routes(c); err != nil {
		return err
	}
	if cfg.times, err = timesOf(c, now); err != nil {
		return err
	}
	cfg.slow, err = contents(c)
	return err
}

// routes reads the conditions on topics, partitions and offsets.
func routes(c *cli.Context) (where []routing, err error) {
	for _, name := range []string{"topic", "not-topic"} {
		if patterns := c.StringSlice(name); len(patterns) > 0 {
			matches, err := pattern.Compile(patterns)
			if err != nil {
				return nil, command.Usagef("--%s %w", name, err)
			}
			where = append(where, ofTopic(matches, name == "topic"))
		}
	}
	for _, name := range []string{"partition", "not-partition"} {
		if list := c.String(name); list != "" {
			nums, err := pattern.Partitions(list)
			if err != nil {
				return nil, command.Usagef("--%s: %w", name, err)
			}
			want := name == "partition"
			where = append(where, func(s span) answer { return ifSo(nums[s.partition] == want) })
		}
	}
	for _, name := range []string{"offset", "not-offset"} {
		if text := c.String(name); text != "" {
			from, to, err := offsets(text)
			if err != nil {
				return nil, command.Usagef("--%s: %w", name, err)
			}
			if name == "offset" {
				where = append(where, func(s span) answer { return within(s, from, to) })
			} else {
				where = append(where, func(s span) answer { return within(s, from, to).not() })
			}
		}
	}
	return where, nil
}

// timesOf reads the bounds of timestamps.
func timesOf(c *cli.Context, now time.Time) (times, error) {
	out := always
	since, until, err := command.TimesFromFlags(c, now)
	if since != nil {
		out.since = since.UnixMilli()
	}
	if until != nil {
		out.until = until.UnixMilli()
	}
	return out, err
}

// contents reads the conditions on what is in a record.
func contents(c *cli.Context) (slow []deep, err error) {
	for name, of := range map[string]func(*format.Record) []byte{
		"key":   func(r *format.Record) []byte { return r.Key },
		"value": func(r *format.Record) []byte { return r.Value },
	} {
		for _, want := range []bool{true, false} {
			flag := name
			if !want {
				flag = "not-" + name
			}
			if !c.IsSet(flag) {
				continue
			}
			matches, err := matcher(c.String(flag))
			if err != nil {
				return nil, command.Usagef("--%s: %w", flag, err)
			}
			slow = append(slow, func(r *format.Record) bool {
				b := of(r)
				return (b != nil && matches(b)) == want
			})
		}
	}
	for _, flag := range []string{"header", "not-header"} {
		for _, text := range c.StringSlice(flag) {
			name, expr, _ := strings.Cut(text, "=")
			matches, err := matcher(expr)
			if err != nil {
				return nil, command.Usagef("--%s: %w", flag, err)
			}
			any, want := !strings.Contains(text, "="), flag == "header"
			slow = append(slow, func(r *format.Record) bool {
				for i := range r.Headers {
					if h := &r.Headers[i]; string(h.Name) == name && (any || h.Value != nil && matches(h.Value)) {
						return want
					}
				}
				return !want
			})
		}
	}
	switch with, without := c.Bool("tombstones"), c.Bool("no-tombstones"); {
	case with && without:
		return nil, command.Usagef("--tombstones and --no-tombstones leave nothing")
	case with || without:
		slow = append(slow, func(r *format.Record) bool { return (r.Value == nil) == with })
	}
	if text := c.String("sample"); text != "" {
		part, err := percent(text)
		if err != nil {
			return nil, command.Usagef("--sample: %w", err)
		}
		slow = append(slow, sampled(part, c.Uint64("seed")))
	} else if c.IsSet("seed") {
		return nil, command.Usagef("--seed is only for --sample")
	}
	return slow, nil
}

// ofTopic remembers the last topic: the next record is often of the same. Several
// goroutines may ask.
func ofTopic(matches func(string) bool, want bool) routing {
	type known struct {
		topic string
		is    answer
	}
	var last atomic.Pointer[known]
	return func(s span) answer {
		a := last.Load()
		if a == nil || a.topic != s.topic {
			a = &known{s.topic, ifSo(matches(s.topic) == want)}
			last.Store(a)
		}
		return a.is
	}
}

// matcher searches for a regular expression, or quicker for a text that is one only to
// itself.
func matcher(expr string) (func([]byte) bool, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	if regexp.QuoteMeta(expr) == expr {
		text := []byte(expr)
		return func(b []byte) bool { return bytes.Contains(b, text) }, nil
	}
	return re.Match, nil
}

// offsets reads A..B.
func offsets(text string) (from, to int64, err error) {
	a, b, ok := strings.Cut(text, "..")
	if !ok {
		b = a
	}
	to = math.MaxInt64
	if a != "" {
		from, err = strconv.ParseInt(a, 10, 64)
	}
	if b != "" && err == nil {
		to, err = strconv.ParseInt(b, 10, 64)
	}
	if err != nil || from < 0 || from > to {
		return 0, 0, fmt.Errorf("%q is not A..B, two offsets", text)
	}
	return from, to, nil
}

// percent reads a share, such as 1% or 0.5%.
func percent(text string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(n >= 0 && n <= 100) || !strings.HasSuffix(text, "%") {
		return 0, fmt.Errorf("%q is not a percentage from 0%% to 100%%", text)
	}
	return n / 100, nil
}

// sampled picks a share of the keys by their hash (FNV-1a with a finalizer), so that
// the same keys are picked wherever they come; records without one by their offset.
func sampled(part float64, seed uint64) deep {
	limit := uint64(part * (1 << 53))
	return func(r *format.Record) bool {
		x := uint64(0xcbf29ce484222325)
		for _, b := range r.Key {
			x = (x ^ uint64(b)) * 0x100000001b3
		}
		if r.Key == nil {
			x ^= uint64(r.Partition)<<48 ^ uint64(r.Offset)*0x9e3779b97f4a7c15
		}
		x ^= seed * 0x9e3779b97f4a7c15
		x ^= x >> 33 // as MurmurHash3 ends: FNV's upper bits are poor
		x *= 0xff51afd7ed558ccd
		x ^= x >> 33
		x *= 0xc4ceb9fe1a85ec53
		return (x^x>>33)>>11 < limit
	}
}
