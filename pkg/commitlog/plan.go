package commitlog

import (
	"math"
	"slices"
)

// A Plan is what a restore of one partition reads: segments, in order, that give
// every record that the backup holds exactly once.
type Plan struct {
	Topic     string
	TopicID   string
	Partition int32
	// From and Next bound what the backup knows of the partition. They are equal
	// when it only knows that there was nothing.
	From, Next int64
	// Holes are ranges between From and Next that were never scanned: neither a
	// segment nor a mark covers them, and none says that they are lost.
	Holes [][2]int64
	// Lost are ranges between From and Next that could not be read, and Pruned those that
	// were let go on purpose.
	Lost, Pruned [][2]int64
	// Losses are what the run that read the partition last could not have of it: see
	// [Entry.Losses]. Of a part that ends before Next they say nothing.
	Losses []string
	// Filtered are the ranges that are here only as filters have left them.
	Filtered []Filtered
	// Hidden is what segments hold of offsets of which other runs' segments are read, which
	// need not have it.
	Hidden []Hidden
	// Branches are the offsets from which on other records stand in the place of ones that
	// were cut off in Kafka.
	Branches []int64
	// Epoch is the leader epoch of the last batch below Next, where it is known.
	Epoch *int32
	// Compacted says that Kafka compacts the topic, as its newest description has it. Of two
	// runs that have scanned the same offsets, the later one may have fewer records then.
	Compacted bool

	segments []chosen
	sources  sources   // that it was chosen from
	coverage *coverage // of the branch
}

// chosen is a segment of a plan, for the offsets [at, end).
type chosen struct {
	*Content
	at, end int64
}

// A Chosen segment is one of a [Plan]. Its records below DropBelow are in the
// segments before it; without an overlap DropBelow equals From. Those at DropFrom and
// above are in the ones behind it, or were cut off; where there are none it is Next.
type Chosen struct {
	Segment
	DropBelow, DropFrom int64
}

// Len returns how many segments there are.
func (p *Plan) Len() int { return len(p.segments) }

// Segment returns one of the segments, from 0.
func (p *Plan) Segment(i int) Chosen {
	return p.chosen(p.segments[i])
}

func (p *Plan) chosen(c chosen) Chosen {
	return Chosen{partitionKey{p.Topic, p.TopicID, p.Partition}.segment(c.Content), c.at, c.end}
}

// Instead returns what to read of the offsets in [at, next) when the segment cannot be read
// that the plan has for them: one of any run that bad does not name, and false when none
// has any of them. Offsets below its DropBelow no other segment has. It may reach further,
// and it may have less than the one that cannot be read: see [Plan.Replaces].
func (p *Plan) Instead(at, next int64, bad func(*Content) bool) (Chosen, bool) {
	var left sources
	for i, list := range p.sources {
		left[i] = slices.DeleteFunc(slices.Clone(list), func(c chosen) bool { return bad(c.Content) })
	}
	given := fewest(nil, left[whole], at, math.MaxInt64, p.Next)
	until := int64(math.MaxInt64)
	if len(given) > 0 {
		until = given[0].at
	}
	if before := fewest(nil, left[filtered], at, until, p.Next); len(before) > 0 {
		given = before
	}
	if len(given) == 0 || given[0].at >= next {
		return Chosen{}, false
	}
	return p.chosen(given[0]), true
}

// Replaces tells whether other surely has every record that seg has at the offsets
// [from, next), as seg has it. Both have scanned them.
func (p *Plan) Replaces(other, seg *Content, from, next int64) bool {
	if other.SHA256 == seg.SHA256 {
		return true
	}
	from, next = max(from, seg.First), min(next, seg.Last+1)
	return from >= next || other.HasAllOf(seg) && (!p.Compacted || other.contiguous(from, next))
}

// Reread tells whether several segments that were kept whole have scanned the same offsets, or
// several that were not. Without that, the plan has all of each earlier restore point.
func (p *Plan) Reread() bool {
	for _, list := range p.sources {
		end := int64(math.MinInt64)
		for _, c := range list {
			if c.at < end {
				return true
			}
			end = max(end, c.end)
		}
	}
	return false
}

// HasAllBelow tells whether the plan surely reads every record that a restore up to the offset
// next has: see [Plan.Cut].
func (p *Plan) HasAllBelow(next int64) bool {
	for _, c := range p.sources.choose(p.coverage, next) {
		at, end := max(c.at, c.First), min(c.end, c.Last+1, next)
		if at >= end {
			continue
		}
		left := spans{{at, end}}
		for _, q := range p.segments {
			from, until := max(at, q.at), min(end, q.end)
			if from < until && p.Replaces(q.Content, c.Content, from, until) {
				left = left.without(spans{{from, until}})
			}
		}
		if len(left) > 0 {
			return false
		}
	}
	return true
}

// Size returns the bytes of the segments' objects.
func (p *Plan) Size() int64 {
	var n int64
	for _, c := range p.segments {
		n += c.Size
	}
	return n
}

// Plan returns what to read of a partition as it is now, and false when the log does not
// know it. The state must have kept its segments.
func (s *State) Plan(topic, id string, number int32) (Plan, bool) {
	p := s.parts[partitionKey{topic, id, number}]
	if p == nil {
		return Plan{}, false
	}
	return s.PlanOf(topic, id, number, len(p.branches)-1)
}

// PlanOf is [State.Plan] of an earlier branch of the partition. They count from 0.
func (s *State) PlanOf(topic, id string, number int32, branch int) (Plan, bool) {
	p := s.parts[partitionKey{topic, id, number}]
	if p == nil || branch < 0 || branch >= len(p.branches) {
		return Plan{}, false
	}
	v := p.view(branch)
	plan := Plan{
		Topic: topic, TopicID: id, Partition: number, From: v.from, Next: v.next, sources: p.sources(branch),
		Holes: v.holes(), Lost: v.missing(), Pruned: v.gone(), Filtered: v.onlyFiltered(),
		Compacted: s.Description(topic, id).Compacted(),
	}
	if branch == len(p.branches)-1 {
		plan.Losses = p.lossesLeft(partitionKey{topic, id, number})
	}
	plan.coverage = &v
	plan.choose()
	if v.reach == v.next {
		plan.Epoch = v.epoch
	}
	for i, cut := range p.cuts(branch) {
		if at := p.branches[i].at; i > 0 && at < cut {
			plan.Branches = append(plan.Branches, at)
		}
	}
	return plan, true
}

// Select returns the plan for every partition of the newest incarnation of every
// topic, by name and partition.
func (s *State) Select() []Plan {
	var plans []Plan
	for _, name := range s.Topics() {
		ids := s.Incarnations(name)
		id := ids[len(ids)-1]
		for _, n := range s.Partitions(name, id) {
			plan, _ := s.Plan(name, id, n)
			plans = append(plans, plan)
		}
	}
	return plans
}

// choose chooses what is read, for offsets below p.Next.
func (p *Plan) choose() {
	p.segments = p.sources.choose(p.coverage, p.Next)
	p.Hidden = p.sources.hidden(p.coverage, p.segments)
}

// Cut leaves of the plan what may hold records of offsets in [from, next) with
// timestamps from since to until, both included.
//
// Segments that end at next or below are preferred to those that reach over it. They were read
// when the log ended there; Kafka may have compacted records away since, and a later run has not
// seen these.
func (p *Plan) Cut(from, next, since, until int64) {
	if next < p.Next {
		p.Next = max(next, p.From)
		p.Epoch, p.Losses = nil, nil
		p.choose()
	}
	kept := p.segments[:0:0]
	for _, c := range p.segments {
		if max(c.First, c.at) < min(next, c.end) && min(c.Last, c.end-1) >= from && c.MinTimestamp <= until && c.MaxTimestamp >= since {
			kept = append(kept, c)
		}
	}
	p.segments = kept
	p.From = min(max(p.From, from), p.Next)
	for _, ranges := range []*[][2]int64{&p.Holes, &p.Lost, &p.Pruned} {
		*ranges = spans(*ranges).clip(p.From, p.Next)
	}
	filtered := p.Filtered[:0:0]
	for _, f := range p.Filtered {
		if f.From, f.Next = max(f.From, p.From), min(f.Next, p.Next); f.From < f.Next {
			filtered = append(filtered, f)
		}
	}
	p.Filtered = filtered
	p.Hidden = cutHidden(p.Hidden, p.From, p.Next, since, until)
	p.Branches = slices.DeleteFunc(slices.Clone(p.Branches), func(at int64) bool { return at <= p.From || at >= p.Next })
}
