package fetch

import (
	"math"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/pattern"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func TestParseOffsets(t *testing.T) {
	const day = 24 * 60 * 60 * 1000
	ms := noon.UnixMilli()
	for in, want := range map[string][2]Bound{
		"beginning":             {{kind: atBeginning}, {}},
		"earliest":              {{kind: atBeginning}, {}},
		"end":                   {{kind: atEnd}, {}},
		"17":                    {{atOffset, 17}, {}},
		"-17":                   {{atLast, 17}, {}},
		"s@1700000000000":       {{atTime, 1700000000000}, {}},
		"e@1700000000000":       {{}, {atTime, 1700000000000}},
		"s@24h":                 {{atTime, ms - day}, {}},
		"5:9":                   {{atOffset, 5}, {atOffset, 9}},
		":9":                    {{}, {atOffset, 9}},
		"5:":                    {{atOffset, 5}, {}},
		"5:end":                 {{atOffset, 5}, {kind: atEnd}},
		"-10:-5":                {{atLast, 10}, {atLast, 5}},
		"@1000:2000":            {{atTime, 1000}, {atTime, 2000}},
		"@1000:@2000":           {{atTime, 1000}, {atTime, 2000}},
		"@48h:24h":              {{atTime, ms - 2*day}, {atTime, ms - day}},
		"@24h:":                 {{atTime, ms - day}, {}},
		"@:24h":                 {{}, {atTime, ms - day}},
		"@2026-11-20T11:00:00Z": {{atTime, ms - 60*60*1000}, {}},
		"@2026-11-20T11:00:00Z:2026-11-20T11:30:00Z": {{atTime, ms - 60*60*1000}, {atTime, ms - 30*60*1000}},
	} {
		var from, to Bound
		if err := parseOffsets(in, noon, &from, &to); err != nil || from != want[0] || to != want[1] {
			t.Errorf("%q: %v to %v, %v; want %v", in, from, to, err, want)
		}
	}
	for _, in := range []string{"", "x", "5:6:7", "s@", "@", "@x", "@x:1", "1:x", "--1", "9999999999999999999"} {
		var from, to Bound
		if err := parseOffsets(in, noon, &from, &to); err == nil {
			t.Errorf("%q was taken as %v to %v", in, from, to)
		}
	}
}

func TestOffsetOf(t *testing.T) {
	for _, c := range []struct {
		b    Bound
		want int64
	}{
		{Bound{}, 100}, {Bound{kind: atBeginning}, 10}, {Bound{kind: atEnd}, 100},
		{Bound{atOffset, 50}, 50}, {Bound{atOffset, 500}, 100}, {Bound{atOffset, 5}, 5}, // which is lost
		{Bound{atLast, 3}, 97}, {Bound{atLast, 1000}, 10}, {Bound{atLast, 0}, 100},
		{Bound{atTime, 1}, 42},
	} {
		if got := c.b.offsetOf(10, 100, 42); got != c.want {
			t.Errorf("%v: %d, want %d", c.b, got, c.want)
		}
	}
}

func TestParsePartitions(t *testing.T) {
	got, err := pattern.Partitions("0,3-5")
	if err != nil || len(got) != 4 || !got[0] || !got[3] || !got[4] || !got[5] {
		t.Errorf("%v, %v", got, err)
	}
	for _, in := range []string{"", "x", "1,", "5-3", "-1", "1-", "4294967296", "0-2147483647"} {
		if got, err := pattern.Partitions(in); err == nil {
			t.Errorf("%q was taken as %v", in, got)
		}
	}
}

func TestTimeWindow(t *testing.T) {
	w := timeWindow(Bound{atTime, 5}, Bound{atTime, 9})
	if w.holds(4) || !w.holds(5) || !w.holds(9) || w.holds(10) {
		t.Error("both ends are to be included, and no more")
	}
	if w := timeWindow(Bound{atOffset, 5}, Bound{}); !w.holds(math.MinInt64) || !w.holds(math.MaxInt64) {
		t.Error("offsets ask nothing of timestamps")
	}
}
