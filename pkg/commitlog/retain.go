package commitlog

import (
	"cmp"
	"slices"
	"time"
)

// A Retention says what of a backup is kept. The newest restore point always is.
type Retention struct {
	KeepLast   int       // so many of the newest restore points
	KeepPoints bool      // all of them
	OlderThan  time.Time // what is not older than this; zero: nothing for its age
}

// Points returns the restore points that r keeps, oldest first, and the time before
// which records may go when no point needs them.
func (r Retention) Points(all []RestorePoint) (kept []RestorePoint, before time.Time) {
	kept = slices.Clone(all)
	slices.SortStableFunc(kept, func(a, b RestorePoint) int { return cmp.Compare(a.Time, b.Time) })
	for len(kept) > max(r.KeepLast, 1) && !r.KeepPoints && (r.OlderThan.IsZero() || kept[0].Time < r.OlderThan.UnixMilli()) {
		kept = kept[1:]
	}
	switch {
	case !r.OlderThan.IsZero():
		before = r.OlderThan
	case len(kept) > 0:
		before = time.UnixMilli(kept[0].Time)
	}
	return kept, before
}

// Needs are the offsets that restore points are made of.
type Needs map[partitionKey]*spans

// Add adds what a point needs: of each partition what Kafka had of it at that moment.
func (n Needs) Add(m *Moment) {
	for _, t := range m.Topics {
		for number, at := range t.Partitions {
			key := partitionKey{t.Name, t.ID, number}
			if n[key] == nil {
				n[key] = new(spans)
			}
			n[key].add(at[0], at[1])
		}
	}
}

// Prune lets go of segments whose records are all older than before and that needs does
// not name, and returns them. Of a partition they are the first ones, so that no hole
// comes to be. The state must have kept all segments.
func (s *State) Prune(before time.Time, needs Needs) []Segment {
	var gone []Segment
	for key, p := range s.partitions() {
		var need spans
		if n := needs[key]; n != nil {
			need = *n
		}
		i := 0
		for i < len(p.segments) && p.segments[i].MaxTimestamp < before.UnixMilli() && !need.touches(p.segments[i].From, p.segments[i].Next) {
			gone = append(gone, key.segment(&p.segments[i]))
			p.pruned = max(p.pruned, p.segments[i].Next)
			i++
		}
		if i == 0 {
			continue
		}
		if p.segments = slices.Clone(p.segments[i:]); len(p.segments) > 0 {
			p.pruned = p.segments[0].From
		}
		p.covered, p.lost = clip(p.covered, p.pruned, p.next), clip(p.lost, p.pruned, p.next)
		p.from = max(p.from, p.pruned)
		p.sums = sums{}
		for j := range p.segments {
			p.sums.add(&p.segments[j])
		}
	}
	return gone
}

// touches tells whether any offset of [from, next) is in the set.
func (s spans) touches(from, next int64) bool {
	return slices.ContainsFunc(s, func(r [2]int64) bool { return r[0] < next && from < r[1] })
}

// PlaceMoments says that the moments of the points that are in no file yet are in f.
func (s *State) PlaceMoments(f File) {
	s.moments = append(s.moments, f)
	for i := range s.points {
		if s.points[i].file < 0 {
			s.points[i].file = len(s.moments) - 1
		}
	}
}

// PlaceOpen says where the moments of the runs are that go on; nil: there are none.
func (s *State) PlaceOpen(f *File) { s.open = f }

// RetainPoints forgets all points but those kept, and where their moments are:
// [State.PlaceMoments] has to say it again.
func (s *State) RetainPoints(kept []RestorePoint) {
	s.points, s.moments = slices.Clone(kept), nil
	for i := range s.points {
		s.points[i].file = -1
	}
}
