package commitlog

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// A Policy says which restore points are kept. Those that any rule keeps are kept, and the
// newest one always is.
type Policy struct {
	All    bool          // all of them
	Last   int           // so many of the newest
	Within time.Duration // those that are not older than this, counted from the newest one
	Since  time.Time     // those that are not older than this
	// The newest of each of the last so many hours, days, ISO weeks, months and years, in
	// UTC, that have any. -1: of every one.
	Hourly, Daily, Weekly, Monthly, Yearly int
}

// Apply says of each point why it is kept; of one that goes, nothing. times are those of
// the points in the order of the log, oldest first: which point is newer than another is
// told by it, and not by the clocks of those who made them.
func (p Policy) Apply(times []int64, now time.Time) [][]string {
	why := make([][]string, len(times))
	if len(times) == 0 {
		return why
	}
	at := func(i int) time.Time { return time.UnixMilli(min(times[i], now.UnixMilli())).UTC() } // none is from the future
	newest := len(times) - 1
	why[newest] = append(why[newest], "newest")
	buckets := []struct {
		why  string
		left int
		of   func(time.Time) string
		last string
	}{
		{"hourly", p.Hourly, func(t time.Time) string { return t.Format("2006010215") }, ""},
		{"daily", p.Daily, func(t time.Time) string { return t.Format("20060102") }, ""},
		{"weekly", p.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, "/", w) }, ""},
		{"monthly", p.Monthly, func(t time.Time) string { return t.Format("200601") }, ""},
		{"yearly", p.Yearly, func(t time.Time) string { return t.Format("2006") }, ""},
	}
	for i := newest; i >= 0; i-- {
		t := at(i)
		keep := func(yes bool, reason string) {
			if yes {
				why[i] = append(why[i], reason)
			}
		}
		keep(p.All, "all")
		keep(p.Last < 0 || newest-i < p.Last, "last")
		keep(p.Within > 0 && !t.Before(at(newest).Add(-p.Within)), "within")
		keep(!p.Since.IsZero() && !t.Before(p.Since), "not older")
		for b := range buckets {
			k := &buckets[b]
			if key := k.of(t); k.left != 0 && key != k.last {
				k.last = key
				k.left = max(k.left-1, -1)
				keep(true, k.why)
			}
		}
	}
	return why
}

// A Retention says what of a backup is kept.
type Retention struct {
	Policy
	// Records keeps records that are not older than this, whether or not a point needs
	// them. Zero: for their age none are kept.
	Records time.Time
	// Forget names topics of which nothing is kept. Nil: none.
	Forget func(topic, id string) bool
}

// A Retainer finds out what a [Retention] keeps. Points count for the partitions that they
// speak of: the policy is applied to each partition by itself. It is told of the moments of
// all points twice: [Retainer.Note], in any order, then [Retainer.Keep].
type Retainer struct {
	retention Retention
	points    []RestorePoint
	now       time.Time
	place     map[string]int32         // of each point, in the order of the log
	speaks    map[partitionKey][]int32 // the points that speak of a partition, later only those that are kept
	noted     map[string]bool
	decided   bool
	needs     map[partitionKey][]need
}

// A need is what a point that is kept needs of a partition.
type need struct {
	entry       string // id
	start, next int64
}

// NewRetainer returns a Retainer for points, which are in the order of the log.
func NewRetainer(r Retention, points []RestorePoint, now time.Time) *Retainer {
	t := &Retainer{
		retention: r, points: points, now: now, place: make(map[string]int32),
		speaks: make(map[partitionKey][]int32), noted: make(map[string]bool), needs: make(map[partitionKey][]need),
	}
	for i, p := range points {
		t.place[p.Entry] = int32(i)
	}
	return t
}

// Note takes down which partitions a point speaks of.
func (t *Retainer) Note(m *Moment) {
	place, known := t.place[m.Entry]
	if !known || t.noted[m.Entry] {
		return
	}
	t.noted[m.Entry] = true
	nothing := true
	for _, topic := range m.Topics {
		if t.forgets(topic.Name, topic.ID) {
			continue
		}
		for n := range topic.Partitions {
			key := partitionKey{topic.Name, topic.ID, n}
			t.speaks[key] = append(t.speaks[key], place)
			nothing = false
		}
	}
	if nothing { // such points are held against each other
		t.speaks[partitionKey{}] = append(t.speaks[partitionKey{}], place)
	}
}

func (t *Retainer) forgets(topic, id string) bool {
	return t.retention.Forget != nil && t.retention.Forget(topic, id)
}

// decide applies the policy.
func (t *Retainer) decide() {
	if t.decided {
		return
	}
	t.decided = true
	for key, places := range t.speaks {
		slices.Sort(places)
		times := make([]int64, len(places))
		for i, place := range places {
			times[i] = t.points[place].Time
		}
		kept := places[:0]
		for i, why := range t.retention.Apply(times, t.now) {
			if len(why) > 0 {
				kept = append(kept, places[i])
			}
		}
		t.speaks[key] = slices.Clip(kept)
	}
}

// Keep returns what is kept of a point, or nil.
func (t *Retainer) Keep(m *Moment) *Moment {
	t.decide()
	place, known := t.place[m.Entry]
	if !known {
		return nil
	}
	keeps := func(key partitionKey) bool {
		_, found := slices.BinarySearch(t.speaks[key], place)
		return found
	}
	kept := m.Keep(func(topic, id string, partition int32) bool { return keeps(partitionKey{topic, id, partition}) })
	some := keeps(partitionKey{})
	for _, topic := range kept.Topics {
		for n, at := range topic.Partitions {
			key := partitionKey{topic.Name, topic.ID, n}
			t.needs[key] = append(t.needs[key], need{m.entry(), at[0], at[1]})
			some = true
		}
	}
	if !some {
		return nil
	}
	if t.retention.Forget != nil {
		kept.Forget(t.retention.Forget)
	}
	return kept
}

// Points returns the points of which something is kept and those that go, in the order of
// the log. It fails when the moment of one was not noted.
func (t *Retainer) Points() (kept, gone []RestorePoint, err error) {
	t.decide()
	some := make(map[int32]bool)
	for _, places := range t.speaks {
		for _, place := range places {
			some[place] = true
		}
	}
	for i, p := range t.points {
		switch {
		case !t.noted[p.Entry]:
			return nil, nil, fmt.Errorf("%w: it is not known what belongs to restore point %s", ErrCorrupt, p.Entry)
		case some[int32(i)]:
			kept = append(kept, p)
		default:
			gone = append(gone, p)
		}
	}
	return kept, gone, nil
}

// A PrunedTopic is what pruning does to an incarnation of a topic.
type PrunedTopic struct {
	Name, ID      string
	NewestOfTopic bool // false: the topic was deleted and created again
	Before, After PruneSums
	Point         *RestorePoint // the newest that is kept and speaks of it
	Forgotten     bool
	LetGo         []LetGo // what was lost, and no kept point has
}

// LetGo is a range of offsets that could not be read, and that the backup does not have. It
// counts as pruned from now on, and is no loss any more.
type LetGo struct {
	Partition  int32
	From, Next int64
}

// PruneSums count what is stored.
type PruneSums struct{ Segments, Records, Bytes int64 }

func (p *PruneSums) add(c *Content) {
	p.Segments++
	p.Records += c.Records
	p.Bytes += c.Size
}

// Prune lets go, in memory, of what t does not keep, and returns it. Of a partition what
// goes is below the highest offset that a point which is kept speaks of, and in none of
// these points; a partition that none of them speaks of stays as it is. What was lost goes by
// the same rule as a segment of these offsets would. The state must have kept all segments,
// and t must have been told of all points.
func (s *State) Prune(t *Retainer) (gone []Segment, topics []PrunedTopic) {
	t.decide()
	for key, p := range s.partitions() {
		n := len(topics)
		if n == 0 || topics[n-1].Name != key.topic || topics[n-1].ID != key.id {
			topics = append(topics, PrunedTopic{
				Name: key.topic, ID: key.id, Forgotten: t.forgets(key.topic, key.id), NewestOfTopic: s.currentID(key.topic) == key.id,
			})
			n++
		}
		topic := &topics[n-1]
		for i := range p.segments {
			topic.Before.add(&p.segments[i].Content)
		}
		if places := t.speaks[key]; len(places) > 0 {
			newest := &t.points[places[len(places)-1]]
			if topic.Point == nil || t.place[topic.Point.Entry] < t.place[newest.Entry] {
				topic.Point = newest
			}
		}
		out, lost := p.prune(t.needs[key], t.retention.Records, topic.Forgotten)
		for _, r := range lost {
			topic.LetGo = append(topic.LetGo, LetGo{key.partition, r[0], r[1]})
		}
		for i := range out {
			gone = append(gone, key.segment(&out[i]))
		}
		for i := range p.segments {
			topic.After.add(&p.segments[i].Content)
		}
	}
	for _, topic := range topics {
		if topic.Forgotten {
			s.forget(topic.Name, topic.ID)
		}
	}
	return gone, topics
}

// prune lets go of segments, and of lost offsets, that no need and no rule keeps.
func (p *partition) prune(needs []need, records time.Time, forgotten bool) (gone []Content, letGo spans) {
	if len(needs) == 0 && !forgotten {
		return nil, nil
	}
	keep := p.keeper(needs, records)
	if !forgotten { // then all that is known goes
		letGo = p.pruneLost(keep)
	}
	kept := p.segments[:0:0]
	left := make([]spans, len(p.branches))
	dropped := make([]spans, len(p.branches))
	for _, seg := range p.segments {
		if !forgotten && keep(seg.branch, seg.From, seg.Next, seg.MaxTimestamp) {
			kept = append(kept, seg)
			left[seg.branch].add(seg.From, seg.Next)
			continue
		}
		gone = append(gone, seg.Content)
		dropped[seg.branch].add(seg.From, seg.Next)
	}
	if len(gone) == 0 {
		return nil, letGo
	}
	p.segments = kept
	for i := range p.branches {
		p.branches[i].let(dropped[i].without(left[i]))
	}
	p.recount()
	return gone, letGo
}

// pruneLost lets go of lost ranges that keep does not keep. It returns what of them no run
// has scanned: the rest is in segments.
func (p *partition) pruneLost(keep keeper) (letGo spans) {
	for i := range p.branches {
		b := &p.branches[i]
		var gone spans
		for _, r := range b.lost {
			if !keep(int32(i), r[0], r[1], p.timeAbove(r[1])) {
				gone.add(r[0], r[1])
			}
		}
		if len(gone) > 0 {
			letGo.addAll(gone.without(b.scanned()))
			b.letLost(gone)
		}
	}
	return letGo
}

// timeAbove is the latest time that records below an offset had, as far as is known: that of
// the first segment above it.
func (p *partition) timeAbove(offset int64) int64 {
	for i := range p.segments {
		if p.segments[i].From >= offset {
			return p.segments[i].MaxTimestamp
		}
	}
	return math.MaxInt64
}

// recount makes the sums anew from the segments that are left.
func (p *partition) recount() {
	p.sums, p.partial = sums{}, sums{}
	var whole, all spans
	for i := range p.segments {
		seg := &p.segments[i]
		switch {
		case len(seg.Filters) == 0 && !whole.covers(seg.From, seg.Next):
			p.sums.add(&seg.Content)
			whole.add(seg.From, seg.Next)
		case len(seg.Filters) > 0 && !all.covers(seg.From, seg.Next):
			p.partial.add(&seg.Content)
		}
		all.add(seg.From, seg.Next)
	}
}

// LoseSegments takes segments out that are not in the store any more. What they covered is
// covered no longer, unless another segment has it. The state must have kept all segments.
func (s *State) LoseSegments(lost func(*Segment) bool) {
	for key, p := range s.partitions() {
		kept := p.segments[:0:0]
		gone, left := make([]spans, len(p.branches)), make([]spans, len(p.branches))
		for _, h := range p.segments {
			if seg := key.segment(&h.Content); lost(&seg) {
				gone[h.branch].add(h.From, h.Next)
				continue
			}
			kept = append(kept, h)
			left[h.branch].add(h.From, h.Next)
		}
		if len(kept) == len(p.segments) {
			continue
		}
		p.segments = kept
		for i := range p.branches {
			p.branches[i].forget(gone[i].without(left[i]))
		}
		p.recount()
	}
}

// A keeper tells whether offsets [from, next) of a branch stay, whose newest record is of this
// time.
type keeper func(branch int32, from, next, newest int64) bool

// keeper returns the one for these needs, and for records that are not older than a time.
func (p *partition) keeper(needs []need, records time.Time) keeper {
	newest := len(p.branches) - 1
	now := p.cuts(newest)
	byBranch := make([]spans, len(p.branches)) // what points need of the partition as it was on a branch
	cuts := make([][]int64, len(p.branches))
	top := int64(0) // what lies above it may belong to a point that is still to come
	for _, n := range needs {
		b := p.branchAt(n.entry)
		byBranch[b].add(n.start, n.next)
		cuts[b] = p.cuts(b)
		top = max(top, min(n.next, now[b]))
	}
	return func(branch int32, from, next, newest int64) bool {
		if !records.IsZero() && newest >= records.UnixMilli() || min(next, now[branch]) > max(top, from) {
			return true
		}
		for b := int(branch); b < len(byBranch); b++ {
			if len(byBranch[b]) > 0 && byBranch[b].touches(from, min(next, cuts[b][branch])) {
				return true
			}
		}
		return false
	}
}

// forget takes an incarnation out of the state.
func (s *State) forget(topic, id string) {
	s.topics[topic] = slices.DeleteFunc(slices.Clone(s.topics[topic]), func(in *incarnation) bool { return in.id == id })
	if len(s.topics[topic]) == 0 {
		delete(s.topics, topic)
	}
	maps.DeleteFunc(s.parts, func(key partitionKey, _ *partition) bool { return key.topic == topic && key.id == id })
	s.groups.forgetTopics(func(name, of string) bool { return name == topic && of == id })
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
