package commitlog

import (
	"fmt"
	"math"
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

// TestPruneLost prunes a partition that was read twice, with a loss between, and says what is
// known of the loss then.
func TestPruneLost(t *testing.T) {
	const line = "orders/0: offsets 10 to 19 were deleted before they were read"
	type change = func(first, second *Entry)
	newest := Retention{Policy: Policy{Last: 1}}
	logStart := func(at int64) change { return func(_, second *Entry) { second.Marks[0].LogStart = &at } }
	for _, c := range []struct {
		name   string
		change change
		r      Retention
		letGo  string
		lost   string
		pruned string
	}{
		{"the only kept point begins above it", nil, newest, "[{0 10 20}]", "[]", "[[0 20]]"},
		{"it lies between two points", nil, Retention{Policy: Policy{All: true}}, "[{0 10 20}]", "[]", "[[10 20]]"},
		{"the point begins in it", logStart(19), newest, "[]", "[[10 20]]", "[[0 10]]"},
		{"the point begins below it", logStart(10), newest, "[]", "[[10 20]]", "[[0 10]]"},
		{"where the point begins is not known", func(_, second *Entry) { second.Marks[0].LogStart = nil }, newest, "[]", "[[10 20]]", "[]"},
		{"it lies above all points", func(_, second *Entry) { second.Points = nil }, newest, "[]", "[[10 20]]", "[]"},
		{"there is no point", func(first, second *Entry) { first.Points, second.Points = nil, nil }, newest, "[]", "[[10 20]]", "[]"},
		{"no point includes it", func(first, second *Entry) {
			without := map[string][]int32{"orders": {0}}
			first.Points[0].Without, second.Points[0].Without = without, without
		}, newest, "[]", "[[10 20]]", "[]"},
		{"it is older", nil, Retention{Policy: Policy{Last: 1}, Records: time.UnixMilli(1031)}, "[{0 10 20}]", "[]", "[[0 20]]"},
		{"it may not be older", nil, Retention{Policy: Policy{Last: 1}, Records: time.UnixMilli(1030)}, "[]", "[[10 20]]", "[[0 10]]"},
		{"nobody knows how old it is", func(_, second *Entry) { second.Segments, second.Marks[0].Next = nil, 30 },
			Retention{Policy: Policy{Last: 1}, Records: time.UnixMilli(9999)}, "[]", "[[10 20]]", "[[0 10]]"},
		{"something else is forgotten", nil, Retention{Policy: Policy{All: true}, Records: time.UnixMilli(math.MinInt64)}, "[]", "[[10 20]]", "[]"},
		{"another run has it", func(first, _ *Entry) { first.Segments = append(first.Segments, segment(t, "t1", 0, 10, 20)) }, newest, "[]", "[]", "[[0 20]]"},
		{"a kept point of an earlier branch has it", func(first, second *Entry) {
			first.Marks = append(first.Marks, Mark{Topic: "orders", TopicID: "t1", From: 10, Next: 20, Lost: [][2]int64{{10, 20}}})
			second.Marks = []Mark{{Topic: "orders", TopicID: "t1", From: 20, Next: 20, LogStart: ptr(int64(20)), Branch: true}}
		}, Retention{Policy: Policy{All: true}}, "[]", "[[10 20]]", "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := &Entry{Segments: []Segment{segment(t, "t1", 0, 0, 10)}, // timestamps 1000 + offset
				Marks:  []Mark{{Topic: "orders", TopicID: "t1", Next: 10, LogStart: ptr(int64(0))}},
				Points: []Point{{Time: 1010}}, Final: true}
			second := &Entry{Segments: []Segment{segment(t, "t1", 0, 20, 30)},
				Marks:  []Mark{{Topic: "orders", TopicID: "t1", From: 10, Next: 20, LogStart: ptr(int64(20)), Lost: [][2]int64{{10, 20}}}},
				Points: []Point{{Time: 1030}}, Losses: []string{line, "orders: said without offsets"}, Final: true}
			if c.change != nil {
				c.change(first, second)
			}
			var b backupOf
			b.add(t, NewRun(), first)
			b.add(t, NewRun(), second)
			_, topics := b.prune(t, c.r, start)
			b.PlaceMoments(File{Path: "index/points/0.jsonl.zst", SHA256: Sum(nil)})
			back := folded(t, &b.State, nil)
			for what, s := range map[string]*State{"the state": &b.State, "a snapshot of it": back} {
				plan, _ := s.Plan("orders", "t1", 0)
				if letGo, lost, pruned := fmt.Sprint(topics[0].LetGo), fmt.Sprint(plan.Lost), fmt.Sprint(plan.Pruned); letGo != c.letGo || lost != c.lost || pruned != c.pruned {
					t.Errorf("%s: let go %s, lost %s, pruned %s; want %s, %s, %s", what, letGo, lost, pruned, c.letGo, c.lost, c.pruned)
				}
				if len(plan.Holes) > 0 || plan.Next != 30 {
					t.Errorf("%s: holes %v, next %d", what, plan.Holes, plan.Next)
				}
				want := []string{line, "orders: said without offsets"}
				if c.lost == "[]" {
					want = want[1:]
				}
				if got := s.Losses("orders", "t1", 0); !slices.Equal(got, want) || !slices.Equal(plan.Losses, want) {
					t.Errorf("%s: losses %q and %q, want %q", what, got, plan.Losses, want)
				}
			}
			// A later run that loses the same again, as one with an older cursor does.
			b.add(t, NewRun(), &Entry{Marks: []Mark{{Topic: "orders", TopicID: "t1", From: 10, Next: 20, Lost: [][2]int64{{10, 20}}}}})
			if plan, _ := b.Plan("orders", "t1", 0); c.letGo != "[]" && fmt.Sprint(plan.Lost) != "[[10 20]]" {
				t.Errorf("lost again: %v", plan.Lost)
			}
		})
	}
}

// TestOffsetsOf reads which offsets lines of losses are about.
func TestOffsetsOf(t *testing.T) {
	for line, want := range map[string]string{
		"a/b/3: offsets 5 to 9 were deleted":                    "[5 10] true",
		"a/b/3: offsets 5 to 9":                                 "[5 10] true",
		"a/b/3: offsets 5 to 5 cannot be read: bad":             "[5 6] true",
		"a/b/3: offsets 9 to 5 were deleted":                    "[] false",
		"a/b/3: offsets 5 to x were":                            "[] false",
		"a/b/3: offsets 5":                                      "[] false",
		"a/b/33: offsets 5 to 9 were deleted":                   "[] false",
		"b/3: offsets 5 to 9 were deleted":                      "[] false",
		"a/b/3: no leader for 2m: offsets 5 to 9 were not read": "[] false",
	} {
		r, ok := offsetsOf(line, "a/b", 3)
		got := fmt.Sprint(r, ok)
		if !ok {
			got = "[] false"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
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
