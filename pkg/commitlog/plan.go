package commitlog

// A Plan is what a restore of one partition reads: segments, in order, that give
// every record that the backup holds exactly once.
type Plan struct {
	Topic     string
	TopicID   string
	Partition int32
	// From and Next bound what the backup knows of the partition. They are equal
	// when it only knows that there was nothing.
	From, Next int64
	Segments   []Chosen
	// Holes are ranges between From and Next that were never scanned: neither a
	// segment nor a mark covers them, and none says that they are lost.
	Holes [][2]int64
}

// A Chosen segment is one of a [Plan]. Its records below DropBelow are in the
// segments before it; without an overlap DropBelow equals From.
type Chosen struct {
	Segment
	DropBelow int64
}

// Select returns the plan for every partition of the newest incarnation of every
// topic, by name and partition.
func (s *State) Select() []Plan {
	var plans []Plan
	for key, p := range s.partitions(true) {
		plans = append(plans, Plan{
			Topic:     key.topic,
			TopicID:   key.id,
			Partition: key.partition,
			From:      p.from,
			Next:      p.next,
			Segments:  choose(p.segments),
			Holes:     p.covered.gaps(),
		})
	}
	return plans
}

// choose returns the fewest of segments, which are sorted by From, that together
// cover what all of them cover: of those that begin at or before the first offset
// that is still to be covered, always the one that reaches furthest.
func choose(segments []Segment) []Chosen {
	var chosen []Chosen
	at := int64(0) // all below is covered, or is in no segment
	for i := 0; i < len(segments); {
		at = max(at, segments[i].From)
		best := i
		for ; i < len(segments) && segments[i].From <= at; i++ {
			if segments[i].Next > segments[best].Next {
				best = i
			}
		}
		if next := segments[best].Next; next > at {
			chosen = append(chosen, Chosen{Segment: segments[best], DropBelow: at})
			at = next
		}
	}
	return chosen
}
