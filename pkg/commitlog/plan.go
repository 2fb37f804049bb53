package commitlog

import "math"

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
	// Lost are ranges between From and Next that were deleted before they were read.
	Lost     [][2]int64
	segments []chosen
}

// chosen is a segment of a plan.
type chosen struct {
	*Content
	dropBelow int64
}

// A Chosen segment is one of a [Plan]. Its records below DropBelow are in the
// segments before it; without an overlap DropBelow equals From.
type Chosen struct {
	Segment
	DropBelow int64
}

// Len returns how many segments there are.
func (p *Plan) Len() int { return len(p.segments) }

// Segment returns one of the segments, from 0.
func (p *Plan) Segment(i int) Chosen {
	c := p.segments[i]
	return Chosen{partitionKey{p.Topic, p.TopicID, p.Partition}.segment(c.Content), c.dropBelow}
}

// Size returns the bytes of the segments' objects.
func (p *Plan) Size() int64 {
	var n int64
	for _, c := range p.segments {
		n += c.Size
	}
	return n
}

// Plan returns what to read of a partition, and false when the log does not know it.
// The state must have kept its segments.
func (s *State) Plan(topic, id string, number int32) (Plan, bool) {
	p := s.parts[partitionKey{topic, id, number}]
	if p == nil {
		return Plan{}, false
	}
	return Plan{
		Topic: topic, TopicID: id, Partition: number, From: p.from, Next: p.next,
		segments: choose(p.segments), Holes: p.covered.gaps(p.from, p.next), Lost: p.lost,
	}, true
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

// Cut leaves of the plan what may hold records of offsets in [from, next) with
// timestamps from since to until, both included.
func (p *Plan) Cut(from, next, since, until int64) {
	kept := p.segments[:0:0]
	for _, c := range p.segments {
		if max(c.First, c.dropBelow) < next && c.Last >= from && c.MinTimestamp <= until && c.MaxTimestamp >= since {
			kept = append(kept, c)
		}
	}
	p.segments = kept
	p.From, p.Next = min(max(p.From, from), p.Next), max(min(p.Next, next), p.From)
	p.Next = max(p.Next, p.From)
	p.Holes, p.Lost = clip(p.Holes, p.From, p.Next), clip(p.Lost, p.From, p.Next)
}

// clip returns what of ranges lies in [from, next).
func clip(ranges [][2]int64, from, next int64) [][2]int64 {
	var out [][2]int64
	for _, r := range ranges {
		if a, b := max(r[0], from), min(r[1], next); a < b {
			out = append(out, [2]int64{a, b})
		}
	}
	return out
}

// choose returns the fewest of segments, which are sorted by from, that together
// cover what all of them cover: of those that begin at or before the first offset
// that is still to be covered, always the one that reaches furthest.
func choose(segments []Content) []chosen {
	var out []chosen
	at := int64(math.MinInt64) // all below is covered, or is in no segment
	for i := 0; i < len(segments); {
		at = max(at, segments[i].From)
		best := i
		for ; i < len(segments) && segments[i].From <= at; i++ {
			if segments[i].Next > segments[best].Next {
				best = i
			}
		}
		if next := segments[best].Next; next > at {
			out = append(out, chosen{&segments[best], at})
			at = next
		}
	}
	return out
}
