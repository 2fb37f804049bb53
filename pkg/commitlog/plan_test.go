package commitlog

import (
	"fmt"
	"testing"
)

// TestPlanOfFilters has two runs leave different things of the same offsets: a plan reads
// what it says it reads.
func TestPlanOfFilters(t *testing.T) {
	for _, c := range []struct {
		name           string
		first, second  []string
		want, segments string
	}{
		{"a window and a filter", []string{Window}, []string{"mask:1"}, "[{1 3 [window]} {3 5 [mask:1]}]", "[[1 3) of [1 5) [3 5) of [3 5)]"},
		{"a name behind that of windows", []string{Window}, []string{"xmask:1"}, "[{1 3 [window]} {3 5 [xmask:1]}]", "[[1 3) of [1 5) [3 5) of [3 5)]"},
		{"two filters", []string{"mask:1"}, []string{"mask:2"}, "[{1 5 [mask:1]}]", "[[1 5) of [1 5)]"},
		{"one filter twice", []string{"mask:1"}, []string{"mask:1"}, "[{1 5 [mask:1]}]", "[[1 5) of [1 5)]"},
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
		var got []string
		for i := range plan.Len() {
			seg := plan.Segment(i)
			got = append(got, fmt.Sprintf("[%d %d) of [%d %d)", max(seg.DropBelow, seg.From), min(seg.DropFrom, seg.Next), seg.From, seg.Next))
		}
		if fmt.Sprint(plan.Filtered) != c.want || fmt.Sprint(got) != c.segments {
			t.Errorf("%s: says %v and reads %v, and should say %s and read %s", c.name, plan.Filtered, got, c.want, c.segments)
		}
	}
}
