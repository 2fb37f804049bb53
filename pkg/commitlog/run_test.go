package commitlog

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestLastRuns asks how the runs ended that read a topic last, also through snapshots that
// need not remember them for anything else.
func TestLastRuns(t *testing.T) {
	const minute = 60_000
	entry := func(run *Run, at int64, e Entry, partitions ...int32) *Entry {
		for _, p := range partitions {
			e.Marks = append(e.Marks, Mark{Topic: "t", TopicID: "a", Partition: p, Next: 10})
		}
		run.Stamp(&e, time.UnixMilli(at*minute))
		run.Advance("0")
		return &e
	}
	lost := []string{"t/0: gone"}
	for name, c := range map[string]struct {
		entries func(a, b *Run) []*Entry
		want    []string
	}{
		"finished":    {func(a, _ *Run) []*Entry { return []*Entry{entry(a, 1, Entry{Final: true}, 0, 1)} }, []string{"a final"}},
		"under way":   {func(a, _ *Run) []*Entry { return []*Entry{entry(a, 1, Entry{}, 0, 1)} }, []string{"a"}},
		"interrupted": {func(a, _ *Run) []*Entry { return []*Entry{entry(a, 1, Entry{Final: true, Interrupted: true}, 0)} }, []string{"a final interrupted"}},
		"with loss":   {func(a, _ *Run) []*Entry { return []*Entry{entry(a, 1, Entry{Final: true, Losses: lost}, 0)} }, []string{"a final lossy"}},
		"joined ids": {func(a, _ *Run) []*Entry {
			return []*Entry{entry(a, 1, Entry{Final: true, Losses: lost}, 0), entry(a, 2, Entry{Final: true})}
		}, []string{"a final lossy"}},
		"each a part": {func(a, b *Run) []*Entry { return []*Entry{entry(b, 1, Entry{Final: true}, 1), entry(a, 2, Entry{}, 0)} }, []string{"b final", "a"}},
		"one and later": {func(a, b *Run) []*Entry {
			return []*Entry{entry(a, 1, Entry{Final: true, Losses: lost}, 0, 1), entry(b, 2, Entry{}, 0, 1)}
		}, []string{"b"}},
		"of workers": {func(a, b *Run) []*Entry {
			workers := Source{Group: "g"}
			return []*Entry{entry(a, 1, Entry{Source: workers, Final: true, Interrupted: true}, 0), entry(b, 2, Entry{Source: workers}, 1), entry(a, 3, Entry{Final: true})}
		}, []string{"b of g", "a final interrupted of g"}},
		"went on behind": {func(a, _ *Run) []*Entry { return []*Entry{entry(a, 1, Entry{}, 0), entry(a, 2, Entry{Final: true})} }, []string{"a final"}},
	} {
		t.Run(name, func(t *testing.T) {
			for cut := range 3 { // a snapshot takes the place of so many entries
				s := new(State)
				a, b := NewRun(), NewRun()
				compact := func() {
					n := s.Snapshot(time.UnixMilli(9*minute), func(string, string) []IndexFile { return nil }, func(_ string, h Head) bool { return !h.Final })
					data, err := n.Encode()
					if err != nil {
						t.Fatal(err)
					}
					if n, err = DecodeSnapshot(SnapshotPath(n.ID), data); err != nil {
						t.Fatal(err)
					}
					s = new(State)
					s.AddSnapshot(n)
				}
				entries := c.entries(a, b)
				for i, e := range entries {
					if i == cut && i > 0 {
						compact()
					}
					s.Fold(e, "0")
				}
				if cut == 2 {
					compact()
					compact()
				}
				var got []string
				for _, r := range s.LastRuns("t", "a") {
					text := map[string]string{a.Name(): "a", b.Name(): "b"}[r.Run]
					for _, x := range []struct {
						is   bool
						what string
					}{{r.Final, " final"}, {r.Interrupted, " interrupted"}, {r.Lossy, " lossy"}, {r.Damaged, " damaged"}} {
						if x.is {
							text += x.what
						}
					}
					if r.Group != "" {
						text += " of " + r.Group
					}
					got = append(got, text)
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("snapshot of %d entries: %q, want %q", cut, got, c.want)
				}
			}
		})
	}
	// One whose last entry cannot be read.
	s := new(State)
	a := NewRun()
	s.Fold(entry(a, 1, Entry{}, 0), "0")
	s.Skip(entry(a, 2, Entry{Final: true}).ID)
	if got := fmt.Sprint(s.LastRuns("t", "a")); got != fmt.Sprint([]RunEnd{{Run: a.Name(), Entry: s.runs[a.Name()].id, Damaged: true}}) {
		t.Errorf("damaged: %s", got)
	}
}
