package pull

import (
	"slices"
	"testing"

	"github.com/kbkio/kbk/pkg/commitlog"
)

// TestFilteredNotes wants one line for a topic, whatever number of partitions it has: notes are cut
// off after some, and these must not push others out.
func TestFilteredNotes(t *testing.T) {
	mask := func(from, next int64) []commitlog.Filtered {
		return []commitlog.Filtered{{From: from, Next: next, Filters: []string{"kbk-filter:1"}}}
	}
	var plans []commitlog.Plan
	for p := range int32(100) {
		plans = append(plans, commitlog.Plan{Topic: "a", Partition: p, Filtered: mask(0, 10)})
	}
	plans[7].Filtered = append(plans[7].Filtered, commitlog.Filtered{From: 20, Next: 21, Filters: []string{"kbk-filter:2"}})
	plans = append(plans, commitlog.Plan{Topic: "b"}, commitlog.Plan{Topic: "c"}, commitlog.Plan{Topic: "c", Partition: 1, Filtered: mask(5, 6)})
	want := []string{
		"a: the backup has 1,001 offsets only as filters have left them (kbk-filter:1; kbk-filter:2; the first: a/0: offsets 0 to 9)",
		"c: the backup has 1 offset only as filters have left them (kbk-filter:1; the first: c/1: offsets 5 to 5)",
	}
	if got := filteredNotes(plans); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
