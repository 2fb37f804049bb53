package commitlog

import (
	"fmt"
	"math"
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

// TestPlanOfPoint has runs read the same offsets again, each with more behind them: as of an
// earlier point, what was read then is chosen. Kafka may have compacted records away since.
func TestPlanOfPoint(t *testing.T) {
	for _, c := range []struct {
		name     string
		runs     [][2]int64
		next     int64 // 0: the newest
		segments string
	}{
		{"the newest", [][2]int64{{0, 10}, {0, 15}, {0, 18}}, 0, "[[0 18) of [0 18)]"},
		{"the first point", [][2]int64{{0, 10}, {0, 15}, {0, 18}}, 10, "[[0 10) of [0 10)]"},
		{"the second point", [][2]int64{{0, 10}, {0, 15}, {0, 18}}, 15, "[[0 15) of [0 15)]"},
		{"between two points", [][2]int64{{0, 10}, {0, 15}, {0, 18}}, 12, "[[0 10) of [0 10) [10 15) of [0 15)]"},
		{"all of a later run", [][2]int64{{0, 18}}, 10, "[[0 18) of [0 18)]"},
		{"a hole before", [][2]int64{{5, 10}, {0, 18}}, 10, "[[0 18) of [0 18)]"},
		{"a hole between", [][2]int64{{0, 3}, {5, 10}, {0, 18}}, 10, "[[0 3) of [0 3) [3 18) of [0 18)]"},
		{"increments", [][2]int64{{0, 10}, {10, 15}, {0, 18}}, 15, "[[0 10) of [0 10) [10 15) of [10 15)]"},
	} {
		var s State
		for _, r := range c.runs {
			add(t, &s, NewRun(), &Entry{Filters: []string{}, Segments: []Segment{segment(t, "t1", 0, r[0], r[1])}})
		}
		plan, ok := s.Plan("orders", "t1", 0)
		if !ok {
			t.Fatal("no plan")
		}
		if c.next > 0 {
			plan.Cut(0, c.next, math.MinInt64, math.MaxInt64)
		}
		if got, _ := describe(plan); got != c.segments {
			t.Errorf("%s: reads %s, and should read %s", c.name, got, c.segments)
		}
	}
}

// TestHasAllBelow has runs read the same offsets again: what the newest plan reads may lack
// records that an earlier restore point has, if Kafka compacts the topic.
func TestHasAllBelow(t *testing.T) {
	type run struct{ from, next, first, last, records int64 }
	whole := func(from, next int64) run { return run{from, next, from, next - 1, next - from} }
	for _, c := range []struct {
		name      string
		runs      []run
		next      int64
		compacted bool
		want      bool
	}{
		{"one run", []run{{0, 10, 0, 9, 4}}, 5, true, true},
		{"increments", []run{{0, 10, 0, 9, 4}, {10, 20, 10, 18, 5}}, 10, true, true},
		{"the newest", []run{{0, 10, 0, 9, 4}, {0, 20, 1, 18, 7}}, 20, true, true},
		{"read again", []run{{0, 10, 0, 9, 4}, {0, 20, 1, 18, 7}}, 10, true, false},
		{"read again, not compacted", []run{{0, 10, 0, 9, 4}, {0, 20, 1, 18, 7}}, 10, false, true},
		{"read again, with all offsets", []run{{0, 10, 0, 9, 4}, whole(0, 20)}, 10, true, true},
		{"its first record is later", []run{{0, 10, 0, 9, 4}, {0, 20, 1, 19, 19}}, 10, true, false},
		{"the rest of it is read", []run{{0, 10, 4, 9, 4}, {0, 20, 4, 19, 16}}, 10, true, true},
		{"the same again", []run{{0, 10, 0, 9, 4}, {0, 10, 0, 9, 4}}, 10, true, true},
		{"a part of it read again", []run{{0, 10, 0, 9, 4}, {8, 20, 9, 18, 7}}, 10, true, true},
		{"below what was read again", []run{whole(0, 10), {10, 20, 10, 19, 4}, {10, 30, 10, 29, 8}}, 10, true, true},
		{"in three segments", []run{{0, 10, 0, 9, 4}, whole(0, 5), whole(5, 8), whole(8, 20)}, 10, true, true},
		{"in three segments, one compacted", []run{{0, 10, 0, 9, 4}, whole(0, 5), {5, 8, 5, 7, 2}, whole(8, 20)}, 10, true, true},
		{"nothing of it is left", []run{{0, 10, 0, 9, 4}, {0, 20, 12, 19, 8}}, 10, true, false},
	} {
		var s State
		for i, r := range c.runs {
			seg := segment(t, "t1", 0, r.from, r.next)
			seg.First, seg.Last, seg.Records = r.first, r.last, r.records
			if r != c.runs[0] {
				seg.SHA256 = HashOf(fmt.Append(nil, i))
			}
			var err error
			if seg.Path, err = SegmentPath(&seg); err != nil {
				t.Fatal(err)
			}
			configs := map[string]string{}
			if c.compacted {
				configs["cleanup.policy"] = "compact,delete"
			}
			add(t, &s, NewRun(), &Entry{Filters: []string{}, Topics: []Topic{{Name: "orders", ID: "t1", Partitions: 1, Configs: configs}}, Segments: []Segment{seg}})
		}
		plan, ok := s.Plan("orders", "t1", 0)
		if !ok || plan.Compacted != c.compacted {
			t.Fatalf("%s: %v, compacted %v", c.name, ok, plan.Compacted)
		}
		if got := plan.HasAllBelow(c.next); got != c.want {
			t.Errorf("%s: has all below %d: %v", c.name, c.next, got)
		}
		if !c.want && !plan.Reread() {
			t.Errorf("%s: no offset was read twice", c.name)
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
