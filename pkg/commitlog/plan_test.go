package commitlog

import (
	"fmt"
	"strings"
	"testing"
)

// TestPlanOfFilters has two runs leave different things of the same offsets: a plan reads
// what it says it reads.
func TestPlanOfFilters(t *testing.T) {
	for _, c := range []struct {
		name           string
		first, second  []string
		want, segments string
		hidden         string
	}{
		{"a window and a filter", []string{Window}, []string{"mask:1"}, "[{1 3 [window]} {3 5 [mask:1]}]", "[[1 3) of [1 5) [3 5) of [3 5)]", "[3 5) [window]"},
		{"a name behind that of windows", []string{Window}, []string{"xmask:1"}, "[{1 3 [window]} {3 5 [xmask:1]}]", "[[1 3) of [1 5) [3 5) of [3 5)]", "[3 5) [window]"},
		{"two filters", []string{"mask:1"}, []string{"mask:2"}, "[{1 5 [mask:1]}]", "[[1 5) of [1 5)]", "[3 5) [mask:2]"},
		{"one filter twice", []string{"mask:1"}, []string{"mask:1"}, "[{1 5 [mask:1]}]", "[[1 5) of [1 5)]", ""},
		{"a filter and a whole run", []string{"mask:1"}, nil, "[{1 3 [mask:1]}]", "[[1 3) of [1 5) [3 5) of [3 5)]", ""},
	} {
		var s State
		for i, filters := range [][]string{c.first, c.second} {
			seg := segment(t, "t1", 0, []int64{1, 3}[i], 5)
			seg.Form = &Form{Codec: "zstd", Filters: filters}
			run := NewRun()
			add(t, &s, run, &Entry{Filters: filters, Segments: []Segment{seg}})
		}
		plan, ok := s.Plan("orders", "t1", 0)
		if !ok {
			t.Fatal("no plan")
		}
		got, hidden := describe(plan)
		if fmt.Sprint(plan.Filtered) != c.want || got != c.segments || hidden != c.hidden {
			t.Errorf("%s: says %v, reads %v and hides %v, and should say %s, read %s and hide %s", c.name, plan.Filtered, got, hidden, c.want, c.segments, c.hidden)
		}
	}
}

// describe says what a plan reads and hides.
func describe(plan Plan) (segments, hidden string) {
	var read, left []string
	for i := range plan.Len() {
		seg := plan.Segment(i)
		read = append(read, fmt.Sprintf("[%d %d) of [%d %d)", max(seg.DropBelow, seg.From), min(seg.DropFrom, seg.Next), seg.From, seg.Next))
	}
	for _, h := range plan.Hidden {
		left = append(left, fmt.Sprintf("[%d %d) %v", h.From, h.Next, h.Filters))
	}
	return fmt.Sprint(read), strings.Join(left, ", ")
}

// TestPlanOfWindows has runs scan the same offsets for different times: a plan reads what each
// of them has, or says what it does not read.
func TestPlanOfWindows(t *testing.T) {
	type run struct{ from, next, first, last, since, until int64 }
	for _, c := range []struct {
		name             string
		runs             []run
		segments, hidden string
	}{
		{"one after the other", []run{{0, 20, 0, 9, 100, 199}, {10, 20, 10, 19, 200, 299}}, "[[0 10) of [0 20) [10 20) of [10 20)]", ""},
		{"the later one first", []run{{10, 20, 10, 19, 200, 299}, {0, 20, 0, 9, 100, 199}}, "[[0 10) of [0 20) [10 20) of [10 20)]", ""},
		{"between", []run{{0, 30, 10, 19, 200, 299}, {0, 30, 0, 9, 100, 199}, {0, 30, 20, 29, 300, 399}}, "[[0 10) of [0 30) [10 20) of [0 30) [20 30) of [0 30)]", ""},
		{"a gap between", []run{{0, 30, 2, 5, 100, 199}, {0, 30, 20, 22, 200, 299}}, "[[0 6) of [0 30) [6 30) of [0 30)]", ""},
		{"a few records late", []run{{0, 20, 0, 11, 100, 199}, {9, 20, 9, 19, 200, 299}}, "[[0 12) of [0 20) [12 20) of [9 20)]", "[9 12) [window]"},
		{"the same once more", []run{{0, 20, 3, 9, 100, 199}, {0, 20, 3, 9, 100, 199}}, "[[0 20) of [0 20)]", ""},
		{"the same, and more", []run{{0, 10, 3, 9, 100, 199}, {0, 20, 3, 18, 100, 250}}, "[[0 20) of [0 20)]", ""},
		{"the same, and scanned less", []run{{0, 20, 3, 15, 150, 160}, {0, 10, 2, 9, 100, 199}}, "[[0 10) of [0 10) [10 20) of [0 20)]", ""},
		{"all among one another", []run{{0, 20, 0, 19, 100, 199}, {0, 20, 1, 18, 200, 299}}, "[[0 20) of [0 20)]", "[1 19) [window]"},
	} {
		var s State
		for i, r := range c.runs {
			seg := segment(t, "t1", 0, r.from, r.next)
			seg.First, seg.Last, seg.Records, seg.MinTimestamp, seg.MaxTimestamp = r.first, r.last, 2, r.since, r.until
			seg.Form, seg.SHA256 = &Form{Codec: "zstd", Filters: []string{Window}}, HashOf([]byte{byte(i)})
			var err error
			if seg.Path, err = SegmentPath(&seg); err != nil {
				t.Fatal(err)
			}
			add(t, &s, NewRun(), &Entry{Filters: []string{Window}, Segments: []Segment{seg}})
		}
		plan, _ := s.Plan("orders", "t1", 0)
		if got, hidden := describe(plan); got != c.segments || hidden != c.hidden {
			t.Errorf("%s: reads %v and hides %v, and should read %s and hide %s", c.name, got, hidden, c.segments, c.hidden)
		}
	}
}
