package commitlog

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPolicy says of points, oldest first, why each is kept.
func TestPolicy(t *testing.T) {
	const day = 24 * 60
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name string
		p    Policy
		ages []int // minutes before now
		want string
	}{
		{"none", Policy{}, nil, ""},
		{"newest", Policy{}, []int{3, 2, 1}, "- - newest"},
		{"last", Policy{Last: 2}, []int{3, 2, 1}, "- last newest+last"},
		{"last of few", Policy{Last: 9}, []int{3, 2}, "last newest+last"},
		{"unlimited", Policy{Last: -1}, []int{3, 2}, "last newest+last"},
		{"all", Policy{All: true}, []int{3, 2}, "all newest+all"},
		// The last one is of a clock that was behind: it is the newest all the same.
		{"order of the log", Policy{Last: 2}, []int{1, 3, 99}, "- last newest+last"},
		// One is of a clock that was ahead: it is not the newest for ever.
		{"from the future", Policy{Last: 1}, []int{-9999, 2, 1}, "- - newest+last"},
		{"within", Policy{Within: time.Hour}, []int{200, 130, 80, 70}, "- within within newest+within"},
		{"within, from a clock that was behind", Policy{Within: time.Hour}, []int{10, 9999}, "within newest+within"},
		{"since", Policy{Since: now.Add(-time.Hour)}, []int{61, 60, 59}, "- not older newest+not older"},
		{"hourly", Policy{Hourly: 2}, []int{125, 65, 62, 5, 1}, "- - hourly - newest+hourly"},
		{"daily", Policy{Daily: 2}, []int{3 * day, 3*day - 1, day, 1}, "- - daily newest+daily"},
		{"daily with a gap", Policy{Daily: 2}, []int{9 * day, 8 * day, 1}, "- daily newest+daily"},
		{"weekly", Policy{Weekly: 2}, []int{14 * day, 7*day + 1, 7 * day, 1}, "- - weekly newest+weekly"},
		{"monthly", Policy{Monthly: 2}, []int{60 * day, 40 * day, 39 * day, 1}, "- - monthly newest+monthly"},
		{"yearly", Policy{Yearly: -1}, []int{800 * day, 700 * day, 400 * day, 1}, "- yearly yearly newest+yearly"},
		{"several", Policy{Last: 1, Daily: 3}, []int{2 * day, day + 1, day, 1}, "daily - daily newest+last+daily"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var times []int64
			for _, age := range test.ages {
				times = append(times, now.Add(-time.Duration(age)*time.Minute).UnixMilli())
			}
			var got []string
			for _, why := range test.p.Apply(times, now) {
				got = append(got, strings.Join(append(why, map[bool]string{true: "-"}[len(why) == 0]), "+"))
				got[len(got)-1] = strings.TrimSuffix(got[len(got)-1], "+")
			}
			if g := strings.Join(got, " "); g != test.want {
				t.Errorf("got %q, want %q", g, test.want)
			}
		})
	}
}

// versions tells, of each segment by its hash, which version of each offset's record it has.
type versions map[Hash]map[int64]int

// restorable is what a restore of a moment gives: of each partition and offset the version
// of the record, and whether it was kept whole, or that it is lost.
func restorable(s *State, m *Moment, v versions) map[string]string {
	got := make(map[string]string)
	for _, topic := range m.Topics {
		for n, at := range topic.Partitions {
			plan, ok := s.PlanOf(topic.Name, topic.ID, n, s.BranchAt(topic.Name, topic.ID, n, m))
			if !ok {
				continue
			}
			plan.Cut(at[0], max(at[0], at[1]), -1<<63, 1<<63-1)
			for i := range plan.Len() {
				c := plan.Segment(i)
				for o := max(c.DropBelow, at[0]); o < min(c.DropFrom, at[1]); o++ {
					got[fmt.Sprintf("%s/%s/%d@%d", topic.Name, topic.ID, n, o)] = fmt.Sprint(v[c.SHA256][o], " ", len(c.Filters))
				}
			}
			for _, l := range plan.Lost {
				for o := l[0]; o < l[1]; o++ {
					got[fmt.Sprintf("%s/%s/%d@%d", topic.Name, topic.ID, n, o)] += "lost"
				}
			}
		}
	}
	return got
}

// TestPruneKeepsWhatPointsNeed prunes logs of random runs: several at a time, of overlapping
// partitions, with filters, branches, losses, logs that begin later and later, runs that never
// end. What was restorable by a point that is kept still is, what was lost of it still is said
// to be, and so is what lies above.
func TestPruneKeepsWhatPointsNeed(t *testing.T) {
	letGo := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var b backupOf
		runs := []*Run{NewRun(), NewRun(), NewRun()}
		var begin, end [3]int64 // of the partitions in Kafka
		var records [3]map[int64]int
		stored, written := make(versions), 0
		now := start
		for range 3 + rng.IntN(12) {
			i := rng.IntN(len(runs))
			e := &Entry{Filters: []string{}}
			now = now.Add(time.Duration(rng.IntN(40)) * time.Hour)
			for p := range int32(len(end)) {
				if rng.IntN(3) == 0 {
					continue
				}
				from := begin[p] + rng.Int64N(end[p]-begin[p]+1)
				if rng.IntN(8) == 0 && end[p] > begin[p] { // the log is cut off
					end[p] = begin[p] + rng.Int64N(end[p]-begin[p])
					from = end[p]
					e.Marks = append(e.Marks, Mark{Topic: "orders", TopicID: "t1", Partition: p, From: from, Next: from, LogStart: ptr(begin[p]), Branch: true})
				}
				for o := end[p]; o < end[p]+6; o++ {
					written++
					if records[p] == nil {
						records[p] = make(map[int64]int)
					}
					records[p][o] = written
				}
				end[p] += rng.Int64N(6)
				if from < end[p] && rng.IntN(4) > 0 {
					seg := segment(t, "t1", p, from, end[p])
					if rng.IntN(4) == 0 {
						seg.Form = &Form{Codec: "zstd", Filters: []string{"mask:1"}}
					}
					written++
					seg.SHA256 = HashOf(fmt.Append(nil, written))
					var err error
					if seg.Path, err = SegmentPath(&seg); err != nil {
						t.Fatal(err)
					}
					stored[seg.SHA256] = maps.Clone(records[p])
					e.Segments = append(e.Segments, seg)
				}
				e.Marks = append(e.Marks, Mark{Topic: "orders", TopicID: "t1", Partition: p, From: end[p], Next: end[p], LogStart: ptr(begin[p])})
				if next := rng.Int64N(end[p] + 1); next > 0 && rng.IntN(4) == 0 { // more often than not of what Kafka has deleted
					lost := [2]int64{max(next-1-rng.Int64N(4), 0), next}
					e.Marks = append(e.Marks, Mark{Topic: "orders", TopicID: "t1", Partition: p, From: lost[0], Next: lost[1], Lost: [][2]int64{lost}})
				}
				begin[p] += rng.Int64N(min(4, end[p]-begin[p]+1))
			}
			if rng.IntN(2) == 0 {
				e.Points = []Point{{Time: now.UnixMilli()}}
			}
			b.add(t, runs[i], e)
			if rng.IntN(6) == 0 {
				runs[i] = NewRun()
			}
		}
		policy := Policy{Last: rng.IntN(3), Daily: rng.IntN(3), Within: time.Duration(rng.IntN(100)) * time.Hour}
		before := make(map[string]map[string]string)
		for _, m := range b.moments {
			before[m.Entry] = restorable(&b.State, m, stored)
		}
		plans := b.Select()
		gone, topics := b.prune(t, Retention{Policy: policy}, now)
		for _, topic := range topics {
			letGo += len(topic.LetGo)
		}
		for _, m := range b.moments { // those that are left, with what is left of them
			after := restorable(&b.State, m, stored)
			for _, topic := range m.Topics {
				for n, at := range topic.Partitions {
					for o := at[0]; o < at[1]; o++ {
						key := fmt.Sprintf("orders/t1/%d@%d", n, o)
						if before[m.Entry][key] != after[key] {
							t.Fatalf("seed %d: point %s, %s: before %q, after %q; gone %v", seed, m.Entry, key, before[m.Entry][key], after[key], gone)
						}
					}
				}
			}
		}
		for i, plan := range b.Select() {
			top := int64(0)
			for _, m := range b.moments {
				for _, topic := range m.Topics {
					if at, ok := topic.Partitions[plan.Partition]; ok {
						top = max(top, at[1])
					}
				}
			}
			if had, have := heldAbove(&plans[i], top), heldAbove(&plan, top); !slices.Equal(had, have) {
				t.Fatalf("seed %d: partition %d above %d: before %v, after %v", seed, plan.Partition, top, had, have)
			}
		}
		b.PlaceMoments(File{Path: "index/points/0.jsonl.zst", SHA256: Sum(nil)})
		back := folded(t, &b.State, nil)
		if got, want := planText(back), planText(&b.State); !slices.Equal(got, want) {
			t.Fatalf("seed %d: a snapshot gives\n%s\nnot\n%s", seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if letGo < 50 {
		t.Errorf("only %d lost ranges went", letGo)
	}
}

// heldAbove are the offsets from one on that a plan gives, and, negative, those that it says
// are lost.
func heldAbove(p *Plan, from int64) (out []int64) {
	for i := range p.Len() {
		c := p.Segment(i)
		for o := max(c.DropBelow, from); o < c.DropFrom; o++ {
			out = append(out, o)
		}
	}
	for _, l := range p.Lost {
		for o := max(l[0], from); o < l[1]; o++ {
			out = append(out, -o)
		}
	}
	return out
}

// TestSpansAgainstModel compares sets of ranges with tables of offsets.
func TestSpansAgainstModel(t *testing.T) {
	const size = 20
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 3))
		fill := func() (s spans, in [size]bool) {
			for range rng.IntN(6) {
				from := rng.Int64N(size)
				next := from + rng.Int64N(size-from+1)
				s.add(from, next)
				for o := from; o < next; o++ {
					in[o] = true
				}
			}
			return s, in
		}
		a, inA := fill()
		b, inB := fill()
		check := func(what string, got spans, want func(o int64) bool) {
			t.Helper()
			for i, r := range got {
				if r[0] >= r[1] || i > 0 && got[i-1][1] > r[0] {
					t.Fatalf("seed %d: %s gives %v", seed, what, got)
				}
			}
			for o := range int64(size) {
				if got.covers(o, o+1) != want(o) {
					t.Fatalf("seed %d: %s of %v and %v gives %v", seed, what, a, b, got)
				}
			}
		}
		check("without", a.without(b), func(o int64) bool { return inA[o] && !inB[o] })
		check("clip", a.clip(5, 15), func(o int64) bool { return inA[o] && o >= 5 && o < 15 })
		check("gaps", a.gaps(3, 17), func(o int64) bool { return !inA[o] && o >= 3 && o < 17 })
		for from := range int64(size) {
			for next := from; next < size; next++ {
				if got, want := a.touches(from, next), slices.Contains(inA[from:next], true); got != want {
					t.Fatalf("seed %d: %v touches [%d, %d): %v", seed, a, from, next, got)
				}
			}
		}
	}
}
