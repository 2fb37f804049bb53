package pipeline

import (
	"testing"

	"github.com/kbkio/kbk/pkg/command"
)

// TestOutcome has pipes of four stages.
func TestOutcome(t *testing.T) {
	names := []string{"kbk-catalog", "kbk-fetch", "kbk-pack", "kbk-push"}
	for _, test := range []struct {
		what     string
		statuses [4]int
		atOnce   bool
		want     Outcome
	}{
		{"all is well", [4]int{0, 0, 0, 0}, false, Outcome{}},
		{"one lost its reader, which wanted no more", [4]int{141, 0, 0, 0}, false, Outcome{}},
		{"loss reaches the end, and the last one names it", [4]int{0, 4, 4, 4}, false, Outcome{4, "kbk-push", 4}},
		{"loss at a stage in the middle", [4]int{0, 0, 4, 0}, false, Outcome{4, "kbk-pack", 4}},
		{"a source fails, and the others read half a stream", [4]int{0, 1, 3, 3}, false, Outcome{1, "kbk-fetch", 1}},
		{"the last one fails, and the others write to nobody", [4]int{0, 141, 141, 1}, false, Outcome{1, "kbk-push", 1}},
		{"damage in the middle", [4]int{0, 141, 3, 3}, false, Outcome{3, "kbk-pack", 3}},
		{"usage in the middle", [4]int{0, 141, 2, 3}, false, Outcome{2, "kbk-pack", 2}},
		{"out of memory", [4]int{0, 141, 137, 3}, false, Outcome{1, "kbk-pack", 137}},
		{"no such command, says a shell", [4]int{127, 2, 3, 3}, false, Outcome{1, "kbk-catalog", 127}},
		{"a failure is worse than a loss before it", [4]int{0, 4, 4, 1}, false, Outcome{1, "kbk-push", 1}},
		{"a failure is worse than a loss behind it", [4]int{0, 1, 3, 4}, false, Outcome{1, "kbk-fetch", 1}},
		{"interrupted", [4]int{0, 130, 130, 130}, false, Outcome{Status: 130}},
		{"interrupted, and something was lost", [4]int{0, 130, 4, 4}, false, Outcome{Status: 130}},
		{"interrupted before it watched for signals", [4]int{0, 130, 3, 3}, false, Outcome{Status: 130}},
		{"told to end by a service manager before it did", [4]int{0, 143, 3, 3}, false, Outcome{Status: 130}},
		{"it fails while it ends properly", [4]int{0, 130, 130, 1}, false, Outcome{1, "kbk-push", 1}},
		{"damage, and an interruption behind it", [4]int{3, 130, 3, 3}, false, Outcome{3, "kbk-catalog", 3}},
		{"stopped at once", [4]int{130, 1, 3, 137}, true, Outcome{Status: 130}},
		{"an unknown status", [4]int{0, 0, 0, 9}, false, Outcome{command.Failed, "kbk-push", 9}},
	} {
		exits := make([]Exit, len(names))
		for i, name := range names {
			exits[i] = Exit{name, test.statuses[i]}
		}
		if got := outcome(exits, test.atOnce); got != test.want {
			t.Errorf("%s: %+v, not %+v", test.what, got, test.want)
		}
	}
}
