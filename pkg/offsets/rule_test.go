package offsets

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/kbkio/kbk/format"
)

// A pair is one restored record.
type pair struct {
	source int64
	target int64
}

// TestRule holds the rule against what it says, tried record by record, on random maps:
// with gaps, out of order, of several streams, spread over target partitions, doubled.
func TestRule(t *testing.T) {
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		sources, targets := 1+rnd.IntN(3), 1+rnd.IntN(3)
		restored := make(map[int32]map[int32][]pair) // by target and source
		var runs []*format.Map
		end := make(map[int32]int64)
		for times := 1 + rnd.IntN(2); times > 0; times-- {
			for p := range int32(sources) {
				for at := int64(rnd.IntN(4)); at < 30; at += int64(rnd.IntN(4)) {
					n := 1 + rnd.Int64N(5)
					to := int32(rnd.IntN(targets))
					end[to] += int64(rnd.IntN(3) / 2 * 3)
					runs = append(runs, &format.Map{Topic: "t", Partition: p, SourceFirst: at, TargetTopic: "u", TargetPartition: to, TargetFirst: end[to], Count: n})
					if restored[to] == nil {
						restored[to] = make(map[int32][]pair)
					}
					for range n {
						restored[to][p] = append(restored[to][p], pair{at, end[to]})
						at++
						end[to]++
					}
				}
			}
		}
		rnd.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
		r := newRule()
		var groups []map[int32]int64
		for range 4 {
			g := make(map[int32]int64)
			for p := range int32(sources) {
				if rnd.IntN(4) > 0 {
					g[p] = rnd.Int64N(36)
					r.ask(place{"t", p}, g[p])
				}
			}
			groups = append(groups, g)
		}
		r.ready()
		for _, m := range runs {
			r.add(m)
		}
		r.finish()
		for _, g := range groups {
			placed := make(map[int32]bool)
			for p := range g {
				placed[p] = rnd.IntN(5) > 0
			}
			got := r.targets("t", g, placed)
			for to, from := range restored {
				concerns := false
				want := target{offset: math.MaxInt64, next: make(map[int32]int64)}
				behind, lastRead := int64(0), int64(-1)
				for p, pairs := range from {
					concerns = concerns || placed[p]
					want.next[p] = math.MaxInt64
					for _, x := range pairs {
						behind = max(behind, x.target+1)
						if x.source >= g[p] {
							want.offset = min(want.offset, x.target)
							want.next[p] = min(want.next[p], x.source)
						} else {
							lastRead = max(lastRead, x.target)
						}
					}
				}
				f, ok := got[place{"u", to}]
				if ok != concerns {
					t.Fatalf("seed %d: partition %d: a place is %v, not %v", seed, to, ok, concerns)
				}
				if !ok {
					continue
				}
				if want.offset == math.MaxInt64 {
					want.offset = behind
				}
				want.again = max(0, lastRead+1-want.offset)
				if f.offset != want.offset || f.again != want.again || !maps.Equal(f.next, want.next) {
					t.Fatalf("seed %d: partition %d: %+v, not %+v", seed, to, f, want)
				}
			}
		}
	}
}

// TestRuleCases names what the random maps may or may not have.
func TestRuleCases(t *testing.T) {
	// Offsets 10 to 19, 21 to 29 (20 is a transaction marker) and 40 to 49 of t/0.
	runs := []*format.Map{
		{Topic: "t", SourceFirst: 10, TargetTopic: "u", TargetFirst: 100, Count: 10},
		{Topic: "t", SourceFirst: 21, TargetTopic: "u", TargetFirst: 110, Count: 9},
		{Topic: "t", SourceFirst: 40, TargetTopic: "u", TargetFirst: 119, Count: 10},
	}
	for _, c := range []struct {
		name     string
		at, want int64
		next     int64
	}{
		{"before the first", 0, 100, 10},
		{"the first", 10, 100, 10},
		{"inside a run", 15, 105, 15},
		{"the last of a run", 19, 109, 19},
		{"a marker", 20, 110, 21},
		{"behind a marker", 21, 110, 21},
		{"a wide gap", 30, 119, 40},
		{"deep in it", 39, 119, 40},
		{"the last", 49, 128, 49},
		{"the end", 50, 129, math.MaxInt64},
		{"behind a marker at the end", 51, 129, math.MaxInt64},
	} {
		r := newRule()
		r.ask(place{"t", 0}, c.at)
		r.ready()
		for _, m := range runs {
			r.add(m)
		}
		r.finish()
		got := r.targets("t", map[int32]int64{0: c.at}, map[int32]bool{0: true})
		if f := got[place{"u", 0}]; len(got) != 1 || f.offset != c.want || f.again != 0 || f.next[0] != c.next {
			t.Errorf("%s: offset %d is at %+v, not at %d", c.name, c.at, got, c.want)
		}
	}
}

// TestCoverage holds what is missing against sets of offsets.
func TestCoverage(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	type mark = format.Mark
	for _, c := range []struct {
		name    string
		streams [][]mark
		from    int64
		to      int64
		want    int64
	}{
		{"no marks", nil, 0, 50, 0},
		{"all of it", [][]mark{{{Next: 0}, {Next: 50}}}, 0, 50, 0},
		{"expired before the backup", [][]mark{{{Next: 20, MarkInfo: format.MarkInfo{LogStart: n(20)}}, {Next: 50}}}, 5, 50, 0},
		{"begun late", [][]mark{{{Next: 20, MarkInfo: format.MarkInfo{LogStart: n(10)}}, {Next: 50}}}, 5, 50, 10},
		{"begun late, and behind it", [][]mark{{{Next: 20, MarkInfo: format.MarkInfo{LogStart: n(10)}}, {Next: 50}}}, 25, 50, 0},
		{"a hole", [][]mark{{{Next: 0}, {Next: 20}, {Next: 30, MarkInfo: format.MarkInfo{Begins: true}}, {Next: 50}}}, 5, 50, 10},
		{"in a hole", [][]mark{{{Next: 0}, {Next: 20}, {Next: 30, MarkInfo: format.MarkInfo{Begins: true}}, {Next: 50}}}, 25, 40, 5},
		{"two streams", [][]mark{{{Next: 0}, {Next: 20}}, {{Next: 20}, {Next: 50}}}, 5, 50, 0},
		{"two streams, the later first", [][]mark{{{Next: 20}, {Next: 50}}, {{Next: 0}, {Next: 20}}}, 5, 50, 0},
		{"two streams with a hole", [][]mark{{{Next: 0}, {Next: 20}}, {{Next: 25}, {Next: 50}}}, 5, 50, 5},
		{"lost", [][]mark{{{Next: 0}, {Next: 50, MarkInfo: format.MarkInfo{Lost: [][2]int64{{10, 15}}}}}}, 12, 50, 3},
	} {
		all := make(coverage)
		for _, s := range c.streams {
			m := all.marker()
			for _, f := range s {
				m.mark(&f)
			}
		}
		if got := all.of(place{"", 0}).missing(c.from, c.to); got != c.want {
			t.Errorf("%s: %d of [%d, %d) are missing, not %d", c.name, got, c.from, c.to, c.want)
		}
	}
}

// BenchmarkRule is a topic of one partition that a million runs were restored to, and
// 1,000 groups that have offsets in it.
func BenchmarkRule(b *testing.B) {
	r := newRule()
	for i := range int64(1000) {
		r.ask(place{"t", 0}, i*3000)
	}
	r.ready()
	b.ReportAllocs()
	m := format.Map{Topic: "t", TargetTopic: "u", Count: 1}
	for i := range int64(b.N) {
		m.SourceFirst, m.TargetFirst = i%1_000_000*3, i%1_000_000
		r.add(&m)
	}
}

// TestPlaces makes sure that places sort as people expect it.
func TestPlaces(t *testing.T) {
	all := []place{{"b", 0}, {"a", 10}, {"a", 9}}
	slices.SortFunc(all, place.compare)
	if fmt.Sprint(all) != "[a/9 a/10 b/0]" {
		t.Errorf("%v", all)
	}
}
