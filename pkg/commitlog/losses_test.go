package commitlog

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestLosses follows what runs say that they could not have, also through a snapshot.
func TestLosses(t *testing.T) {
	parts := []partitionKey{{"t", "a", 0}, {"t", "a", 1}, {"u.x", "b", 0}}
	entry := func(run *Run, losses []string, final, interrupted bool, of ...partitionKey) *Entry {
		e := &Entry{Losses: losses, Final: final, Interrupted: interrupted}
		for _, k := range of {
			e.Marks = append(e.Marks, Mark{Topic: k.topic, TopicID: k.id, Partition: k.partition, Next: 10})
		}
		run.Stamp(e, time.UnixMilli(1))
		return e
	}
	lines := []string{"t/1: gone", "u.x/0: hidden", "u.x: deleted", "v: nobody has it", "said without a subject", "t/one: odd"}
	shared := []string{"v: nobody has it", "said without a subject", "t/one: odd"}
	want := func(own ...[]string) [][]string { return own }
	all := want(shared, append([]string{"t/1: gone"}, shared...), append([]string{"u.x/0: hidden", "u.x: deleted"}, shared...))
	none := want(nil, nil, nil)
	for name, c := range map[string]struct {
		entries func(a, b *Run) []*Entry
		want    [][]string
	}{
		"a run that lost": {func(a, _ *Run) []*Entry { return []*Entry{entry(a, lines, true, false, parts...)} }, all},
		"it is under way": {func(a, _ *Run) []*Entry { return []*Entry{entry(a, nil, false, false, parts...)} }, none},
		"a later run lost none": {func(a, b *Run) []*Entry {
			return []*Entry{entry(a, lines, true, false, parts...), entry(b, nil, true, false, parts...)}
		}, none},
		"a later one of a part": {func(a, b *Run) []*Entry {
			return []*Entry{entry(a, lines, true, false, parts...), entry(b, nil, true, false, parts[1])}
		}, want(all[0], nil, all[2])},
		"a later one, cut short": {func(a, b *Run) []*Entry {
			return []*Entry{entry(a, lines, true, false, parts...), entry(b, nil, true, true, parts...)}
		}, all},
		"what lost joins two ids": {func(a, _ *Run) []*Entry {
			lost := entry(a, lines, true, false, parts...)
			a.Advance("0")
			joins := entry(a, nil, true, false)
			joins.Joins = []string{"x"}
			return []*Entry{lost, joins}
		}, all},
		"a later one, killed": {func(a, b *Run) []*Entry {
			return []*Entry{entry(a, lines, true, false, parts...), entry(b, nil, false, false, parts...)}
		}, all},
	} {
		t.Run(name, func(t *testing.T) {
			for cut := range 3 { // a snapshot takes the place of so many entries
				var s State
				runs := [2]*Run{NewRun(), NewRun()}
				for i, e := range c.entries(runs[0], runs[1]) {
					if i == cut {
						s = again(t, &s)
					}
					s.Fold(e, fmt.Sprint(i))
				}
				if cut == 2 {
					s = again(t, &s)
				}
				for i, k := range parts {
					if got := s.Losses(k.topic, k.id, k.partition); !slices.Equal(got, c.want[i]) {
						t.Errorf("snapshot of %d entries: %v: %q, want %q", cut, k, got, c.want[i])
					}
				}
			}
		})
	}
	// Entries on both sides of a snapshot are of one run.
	var s State
	run := NewRun()
	s.Fold(entry(run, nil, false, false, parts...), "0")
	s = again(t, &s)
	run.Advance("0")
	s.Fold(entry(run, lines, true, false, parts[0]), "1")
	if got := s.Losses("t", "a", 1); !slices.Equal(got, all[1]) {
		t.Errorf("over a snapshot: %q, want %q", got, all[1])
	}
}

// again is a state as its snapshot has it.
func again(t *testing.T, s *State) State {
	t.Helper()
	n := s.Snapshot(time.UnixMilli(2), func(string, string) []IndexFile { return nil }, func(string, Head) bool { return true })
	data, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	n, err = DecodeSnapshot(SnapshotPath(n.ID), data)
	if err != nil {
		t.Fatal(err)
	}
	var out State
	out.AddSnapshot(n)
	return out
}
