package offsets

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/kbkio/kbk/format"
)

// A place is a partition of a topic.
type place struct {
	topic string
	num   int32
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.topic, o.topic), cmp.Compare(p.num, o.num))
}

func (p place) String() string { return fmt.Sprintf("%s/%d", p.topic, p.num) }

// A rule finds, for committed offsets that are known beforehand, where the runs of a
// map put them: target(C) is the first restored record whose source offset is C or
// above. It keeps what it has found for each offset and no run, so that its memory
// does not grow with the records restored, and takes runs in any order.
type rule struct {
	asked  map[place]*asked   // by source partition
	topics map[string][]place // the partitions of each topic, in order; once finished
}

// asked are the offsets of one source partition.
type asked struct {
	at []int64 // ascending, no two the same; the first is 0
	to map[place]*found
}

// found is what there is in one target partition, by index of at. While runs come in, an
// index holds what a run has to say to it and all that are before (next, first) or
// behind it (last).
type found struct {
	next  []int64 // of the records not below at, the lowest source offset; math.MaxInt64: none
	first []int64 // and the lowest target offset
	last  []int64 // of the records below at, the highest target offset; -1: none
	end   int64   // behind the highest of all
}

func newRule() *rule { return &rule{asked: make(map[place]*asked)} }

// ask makes an offset known. All are asked before the first run.
func (r *rule) ask(p place, offset int64) {
	a := r.asked[p]
	if a == nil {
		a = &asked{at: []int64{0}, to: make(map[place]*found)}
		r.asked[p] = a
	}
	a.at = append(a.at, offset)
}

// ready ends the asking.
func (r *rule) ready() {
	for _, a := range r.asked {
		slices.Sort(a.at)
		a.at = slices.Compact(a.at)
	}
}

func filled(n int, v int64) []int64 {
	s := make([]int64, n)
	for i := range s {
		s[i] = v
	}
	return s
}

// add takes a run.
func (r *rule) add(m *format.Map) {
	source, target := place{m.Topic, m.Partition}, place{m.TargetTopic, m.TargetPartition}
	a := r.asked[source]
	if a == nil { // no group has an offset here: but see [rule.targets]
		a = &asked{at: []int64{0}, to: make(map[place]*found)}
		r.asked[source] = a
	}
	f := a.to[target]
	if f == nil {
		n := len(a.at)
		f = &found{next: filled(n, math.MaxInt64), first: filled(n, math.MaxInt64), last: filled(n, -1)}
		a.to[target] = f
	}
	f.end = max(f.end, m.TargetFirst+m.Count)
	// What is at or below the run's first record, inside the run, and behind its last.
	inside := sort.Search(len(a.at), func(i int) bool { return a.at[i] > m.SourceFirst })
	behind := sort.Search(len(a.at), func(i int) bool { return a.at[i] > m.SourceFirst+m.Count-1 })
	if inside > 0 {
		f.next[inside-1] = min(f.next[inside-1], m.SourceFirst)
		f.first[inside-1] = min(f.first[inside-1], m.TargetFirst)
	}
	for i := inside; i < behind; i++ {
		t := m.TargetFirst + a.at[i] - m.SourceFirst
		f.next[i] = a.at[i]
		f.first[i] = min(f.first[i], t)
		f.last[i] = max(f.last[i], t-1)
	}
	if behind < len(a.at) {
		f.last[behind] = max(f.last[behind], m.TargetFirst+m.Count-1)
	}
}

// finish ends the runs: what was found for an offset holds for those before it
// (first, next), or behind it (last), too.
func (r *rule) finish() {
	r.topics = make(map[string][]place)
	for p := range r.asked {
		r.topics[p.topic] = append(r.topics[p.topic], p)
	}
	for _, parts := range r.topics {
		slices.SortFunc(parts, place.compare)
	}
	for _, a := range r.asked {
		for _, f := range a.to {
			for i := len(a.at) - 2; i >= 0; i-- {
				f.next[i], f.first[i] = min(f.next[i], f.next[i+1]), min(f.first[i], f.first[i+1])
			}
			for i := 1; i < len(a.at); i++ {
				f.last[i] = max(f.last[i], f.last[i-1])
			}
		}
	}
}

// A target is where a group goes on in one target partition.
type target struct {
	offset int64
	// again bounds the records that are not before offset although the group had read
	// them: where records of several source partitions share a target partition, or
	// were restored twice.
	again int64
	// next is the source offset of the first record here that is not below the group's
	// offset, by source partition with records here; none: math.MaxInt64.
	next map[int32]int64
}

// targets returns where a group with these committed offsets, of partitions of one
// topic, goes on: in each target partition at the lowest record that it had not read, or
// behind all that was restored there. Only target partitions with records of a placed one
// are returned. A partition that shares one of them and that the group has no offset for
// counts as not read.
func (r *rule) targets(topic string, committed map[int32]int64, placed map[int32]bool) map[place]target {
	out := make(map[place]target)
	first, last, end := make(map[place]int64), make(map[place]int64), make(map[place]int64)
	wanted := make(map[place]bool)
	sources := r.topics[topic]
	for _, p := range sources {
		if placed[p.num] {
			for t := range r.asked[p].to {
				wanted[t] = true
			}
		}
	}
	for _, p := range sources {
		a := r.asked[p]
		i, _ := slices.BinarySearch(a.at, committed[p.num])
		for t, f := range a.to {
			if !wanted[t] {
				continue
			}
			o, ok := out[t]
			if !ok {
				o.next = make(map[int32]int64)
				first[t], last[t] = math.MaxInt64, -1
			}
			first[t], last[t], end[t] = min(first[t], f.first[i]), max(last[t], f.last[i]), max(end[t], f.end)
			o.next[p.num] = f.next[i]
			out[t] = o
		}
	}
	for t, o := range out {
		if o.offset = first[t]; o.offset == math.MaxInt64 {
			o.offset = end[t]
		}
		o.again = max(0, last[t]-o.offset+1)
		out[t] = o
	}
	return out
}
