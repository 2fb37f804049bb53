package commitlog

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"time"
)

// A State is what the entries of a log add up to. The zero value is the state of a
// log without entries. It may be read by several goroutines at once, but not while
// entries are added.
type State struct {
	// Keep tells the partitions whose segments are kept one by one; nil: all. Of the
	// others there are only coverage and sums, whatever the number of their segments.
	// It must be set before the first entry is added.
	Keep func(topic string, partition int32) bool

	entries   int
	lastID    string
	updated   time.Time
	source    Source
	snapshots []string // ids of those it was made from
	lineage   lineage
	skipped   map[string]bool // ids of entries in the log that are not part of the state

	runs     map[string]link
	parts    map[partitionKey]*partition
	topics   map[string][]*incarnation // by name, oldest first
	groups   groupSet
	points   []RestorePoint
	others   [][]byte
	clusters []ClusterSnapshot // by time, the newest last
	forms    forms
	heads    map[string]int // of runs, the last entry that a snapshot stands for
	untold   bool           // a snapshot does not tell what was kept whole
	moments  []File
	open     *File
	lossy    bool // a partition has losses
}

// A RestorePoint is a point and the entry that has it.
type RestorePoint struct {
	Point
	Entry string // id; of a point that was copied from another backup, the id that it had there
	Run   string
	Seq   int
	In    string // id of the entry in this log
	// Topics is how many topics the run had spoken of, 0 where that is not known.
	Topics int
	file   int // of State.moments, where its moment is, or -1
}

// A link is the end of a run's chain.
type link struct {
	seq   int
	id    string
	sha   string
	final bool // nothing comes behind it
	// interrupted and lossy are what the run's end says: see [RunEnd].
	interrupted, lossy bool
	group              string // of which the run was a worker, or ""
	// skipped: it could not be read, so that its hash is not known.
	skipped bool
	filters []string // of an earlier version, which has them in segments alone
	// topics that the run has spoken of, until it ends; not all of them where a snapshot
	// stands for its beginning.
	topics  map[string]bool
	partial bool
}

// speak notes that a run speaks of a topic.
func (l *link) speak(topic string) {
	if l.topics == nil {
		l.topics = make(map[string]bool)
	}
	l.topics[topic] = true
}

type partitionKey struct {
	topic, id string
	partition int32
}

// An incarnation is one life of a topic's name. They are in the order in which the
// log first speaks of them, so that a slow writer that still finishes a deleted
// topic does not bring it back.
type incarnation struct {
	id    string
	topic *Topic // its description written last, if there is one
	parts []int32
}

// Add folds an entry into the state. sha is the SHA-256 of the entry's bytes, from
// [Decode]. Entries must come in the order of their ids, those of a run that a
// snapshot has left out. It fails with [ErrCorrupt] when e does not follow the entry
// before it in its run. A run's last entries can go without a trace: nothing was
// written after them.
func (s *State) Add(e *Entry, sha string) error {
	if err := s.Check(e); err != nil {
		return err
	}
	s.Fold(e, sha)
	return nil
}

// ErrRepeated is the error for an entry with the number of another one of its run.
var ErrRepeated = fmt.Errorf("%w: there is another entry of this number", ErrCorrupt)

// A ChangedError says that an entry is not what the next one of its run was written after.
type ChangedError struct{ Before, ID string }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%v: entry %q is not what %q was written after: one of them was changed", ErrCorrupt, e.Before, e.ID)
}

func (e *ChangedError) Unwrap() error { return ErrCorrupt }

// Check tells whether e follows what the state has. Where an entry before it was skipped
// it can only go by its number.
func (s *State) Check(e *Entry) error {
	last := s.runs[e.Run]
	switch {
	case e.Seq == last.seq+2:
		return fmt.Errorf("%w: entry %d of run %s, before %q, is missing", ErrCorrupt, last.seq+1, e.Run, e.ID)
	case e.Seq > last.seq+2:
		return fmt.Errorf("%w: entries %d to %d of run %s, before %q, are missing", ErrCorrupt, last.seq+1, e.Seq-1, e.Run, e.ID)
	case e.Seq <= last.seq:
		return fmt.Errorf("entry %q, number %d of run %s: %w", e.ID, e.Seq, e.Run, ErrRepeated)
	case e.Prev != last.sha && !last.skipped:
		return &ChangedError{last.id, e.ID}
	}
	return s.checkSeen(e)
}

// Skip says that the entry with this id is there, and that it is damaged.
func (s *State) Skip(id string) {
	if run, seq, ok := splitID(id); ok && seq > s.runs[run].seq {
		s.init()
		s.runs[run] = link{seq: seq, id: id, skipped: true}
		if s.skipped == nil {
			s.skipped = make(map[string]bool)
		}
		s.skipped[id] = true
	}
}

// Fold adds an entry without looking at what it follows.
func (s *State) Fold(e *Entry, sha string) {
	s.init()
	was := s.runs[e.Run]
	s.lineage.fold(e, sha, was.id)
	now := link{seq: e.Seq, id: e.ID, sha: sha, final: e.Final, filters: was.filters, topics: was.topics, partial: was.partial,
		interrupted: e.Interrupted, lossy: len(e.Losses) > 0, group: cmp.Or(e.Source.Group, was.group)}
	if was.final { // this one only joins two ids of the backup
		now.final, now.interrupted, now.lossy = true, was.interrupted, was.lossy
	}
	for i := range e.Segments {
		now.speak(e.Segments[i].Topic)
	}
	for i := range e.Marks {
		now.speak(e.Marks[i].Topic)
	}
	spoken := len(now.topics)
	if now.partial {
		spoken = 0
	}
	if e.Final {
		now.topics = nil
	}
	s.runs[e.Run] = now
	s.entries++
	if e.ID > s.lastID { // a snapshot may have one of a clock that was ahead
		s.lastID, s.updated = e.ID, e.Time
	}
	// A run that only takes a snapshot of the cluster does not say how records are read.
	ofCluster := len(e.ClusterSnapshots) > 0 && len(e.Segments)+len(e.Marks)+len(e.Topics) == 0
	if e.Source != (Source{}) && (!ofCluster || s.source == (Source{})) {
		s.source = e.Source
	}
	for i := range e.Topics {
		t := &e.Topics[i]
		s.incarnation(t.Name, t.ID).topic = t
	}
	for i := range e.Marks {
		if m := &e.Marks[i]; m.Branch {
			s.partition(m.Topic, m.TopicID, m.Partition, m.From).fork(e.ID, m.From)
		}
	}
	for i := range e.Segments {
		s.foldSegment(&e.Segments[i])
		seg := &e.Segments[i]
		s.parts[partitionKey{seg.Topic, seg.TopicID, seg.Partition}].run = e.Run
	}
	for i := range e.Marks {
		s.foldMark(e, &e.Marks[i])
		m := &e.Marks[i]
		s.parts[partitionKey{m.Topic, m.TopicID, m.Partition}].run = e.Run
	}
	s.groups.fold(e.GroupLists, e.Groups, s.currentID)
	for _, p := range e.Points {
		r := RestorePoint{Point: p, Entry: e.ID, Run: e.Run, Seq: e.Seq, In: e.ID, Topics: spoken, file: -1}
		if m := p.Moment; m != nil {
			r.Entry, r.Run, r.Seq, r.Topics = m.Entry, m.Run, m.Seq, len(m.Topics)
			r.Moment = nil // there may be many, and they are large: whoever needs one reads the entry again
		}
		s.points = append(s.points, r)
	}
	s.others = append(s.others, e.Others...)
	s.foldClusters(e.ClusterSnapshots)
	if !was.final {
		s.foldLosses(e)
	}
}

func (s *State) foldSegment(seg *Segment) {
	p := s.partition(seg.Topic, seg.TopicID, seg.Partition, seg.From)
	b := p.newest()
	if known := b.scanned(); len(seg.Filters) == 0 {
		if !b.whole.covers(seg.From, seg.Next) {
			p.sums.add(&seg.Content)
		}
	} else if !known.covers(seg.From, seg.Next) {
		p.partial.add(&seg.Content)
	}
	b.scan(seg.From, seg.Next, seg.Filters)
	if s.keeps(seg.Topic, seg.Partition) {
		p.insert(held{s.forms.share(seg.Content), int32(len(p.branches) - 1)})
	}
}

func (s *State) foldMark(e *Entry, m *Mark) {
	b := s.partition(m.Topic, m.TopicID, m.Partition, m.From).newest()
	filters := s.filters(e, m)
	var lost spans
	for _, l := range m.Lost {
		lost.add(l[0], l[1])
		b.lose(l[0], l[1], filters)
	}
	b.scan(m.From, m.From, filters) // it is spoken of, whatever lies behind
	for _, r := range (spans{{m.From, m.Next}}).without(lost) {
		b.scan(r[0], r[1], filters)
	}
	b.scan(m.Next, m.Next, filters)
	if m.LeaderEpoch != nil && b.reach == m.Next {
		b.epoch = m.LeaderEpoch
	}
}

// filters are those that a mark was made behind. An entry of an earlier version does not
// tell: its marks are as the segments of its run are.
func (s *State) filters(e *Entry, m *Mark) []string {
	if e.Filters != nil {
		return slices.Concat(m.Filters, e.Filters)
	}
	run := s.runs[e.Run]
	for i := range e.Segments {
		if f := e.Segments[i].Filters; len(f) > 0 && run.filters == nil {
			run.filters = f
			s.runs[e.Run] = run
		}
	}
	return run.filters
}

// CutOf is the offset from which on later branches of a partition have taken the place of
// one.
func (s *State) CutOf(topic, id string, partition int32, branch int) int64 {
	p := s.parts[partitionKey{topic, id, partition}]
	if p == nil || branch >= len(p.branches) {
		return math.MaxInt64
	}
	return p.cuts(len(p.branches) - 1)[branch]
}

// currentID is the id of a topic's newest incarnation.
func (s *State) currentID(topic string) string {
	if ins := s.topics[topic]; len(ins) > 0 {
		return ins[len(ins)-1].id
	}
	return ""
}

func (s *State) init() {
	if s.runs == nil {
		s.lineage.init()
		s.runs = make(map[string]link)
		s.parts = make(map[partitionKey]*partition)
		s.topics = make(map[string][]*incarnation)
		s.forms = make(forms)
		s.heads = make(map[string]int)
	}
}

func (s *State) keeps(topic string, partition int32) bool {
	return s.Keep == nil || s.Keep(topic, partition)
}

// incarnation returns the record of (name, id), a new one at need.
func (s *State) incarnation(name, id string) *incarnation {
	for _, in := range s.topics[name] {
		if in.id == id {
			return in
		}
	}
	in := &incarnation{id: id}
	s.topics[name] = append(s.topics[name], in)
	return in
}

// partition returns the record of a partition, a new one that begins at offset at need.
func (s *State) partition(topic, id string, number int32, offset int64) *partition {
	key := partitionKey{topic, id, number}
	p := s.parts[key]
	if p == nil {
		p = newPartition(offset)
		s.parts[key] = p
		in := s.incarnation(topic, id)
		in.parts = append(in.parts, number)
	}
	return p
}

// Entries returns how many entries the state is made of: none means that there is
// no backup.
func (s *State) Entries() int { return s.entries }

// Source returns where the records come from, as the last entry that tells has it.
func (s *State) Source() Source { return s.source }

// After returns now, or a time just behind the log's last entry where clocks
// disagree: ids that a run stamps with it sort behind all that the state has.
func (s *State) After(now time.Time) time.Time {
	if now.After(s.updated) {
		return now
	}
	return s.updated.Add(time.Millisecond)
}

// Covered tells whether a run that has scanned [from, next) of a partition through filters
// has nothing that is not in the backup: it was kept whole, or scanned in the same way. What
// was lost or pruned is not covered.
func (s *State) Covered(topic, id string, partition int32, from, next int64, filters []string) bool {
	p := s.parts[partitionKey{topic, id, partition}]
	if p == nil {
		return false
	}
	v := p.now()
	return v.covers(from, next, filters)
}

// Next returns the highest offset that is spoken of in a partition, and false when
// the log does not know the partition.
func (s *State) Next(topic, id string, partition int32) (int64, bool) {
	p := s.parts[partitionKey{topic, id, partition}]
	if p == nil {
		return 0, false
	}
	v := p.now()
	return v.next, true
}

// UpToHole returns how far something is known of a partition from offset 0 on, and false
// where nothing is: where the lowest offset that the log speaks of is above it, what spoke of
// those below may be gone. What filters have left counts if filtered is set.
func (s *State) UpToHole(topic, id string, partition int32, filtered bool) (next int64, ok bool) {
	p := s.parts[partitionKey{topic, id, partition}]
	if p == nil {
		return 0, false
	}
	v := p.now()
	if v.from > 0 {
		return 0, false
	}
	if !filtered {
		v.partial = nil
	}
	if holes := v.holes(); len(holes) > 0 {
		return holes[0][0], true
	}
	return v.next, true
}

// A Position is where the next run starts to read a topic: for each partition the
// first offset that the backup does not hold, and the leader epoch of the last batch
// below it, where that is known.
type Position struct {
	ID         string          `json:"id,omitempty"`
	Partitions map[int32]int64 `json:"partitions"`
	Epochs     map[int32]int32 `json:"epochs,omitempty"`
}

// Cursor returns the position in the newest incarnation of every topic, by name. What was
// scanned through a filter or a window counts only if filtered is set, and windows never
// do. A partition without a position is to be read from its beginning.
func (s *State) Cursor(filtered bool) map[string]Position {
	cursor := make(map[string]Position, len(s.topics))
	for name, ins := range s.topics {
		in := ins[len(ins)-1]
		pos := Position{ID: in.id, Partitions: make(map[int32]int64, len(in.parts))}
		for _, n := range in.parts {
			v := s.parts[partitionKey{name, in.id, n}].now()
			at := v.reach
			if filtered {
				at = max(at, v.filteredReach())
			}
			if at < 0 {
				continue
			}
			pos.Partitions[n] = at
			if v.epoch != nil && at == v.reach {
				if pos.Epochs == nil {
					pos.Epochs = make(map[int32]int32)
				}
				pos.Epochs[n] = *v.epoch
			}
		}
		cursor[name] = pos
	}
	return cursor
}

// A Filtered range of offsets is in the backup only as filters have left it.
type Filtered struct {
	From, Next int64
	Filters    []string
}

// OnlyFiltered returns what of a partition no run has kept whole.
func (s *State) OnlyFiltered(topic, id string, partition int32) []Filtered {
	p := s.parts[partitionKey{topic, id, partition}]
	if p == nil {
		return nil
	}
	v := p.now()
	return v.onlyFiltered()
}

// Topics returns the names of the topics, sorted.
func (s *State) Topics() []string { return slices.Sorted(maps.Keys(s.topics)) }

// Incarnations returns the ids that a topic has had, the newest last. One whose id is
// not known has "".
func (s *State) Incarnations(topic string) []string {
	var ids []string
	for _, in := range s.topics[topic] {
		ids = append(ids, in.id)
	}
	return ids
}

// Partitions returns the numbers of an incarnation's partitions, sorted.
func (s *State) Partitions(topic, id string) []int32 {
	for _, in := range s.topics[topic] {
		if in.id == id {
			return slices.Sorted(slices.Values(in.parts))
		}
	}
	return nil
}

// Description returns what was last written of an incarnation. Where no entry
// describes it there is only the name and the id.
func (s *State) Description(topic, id string) Topic {
	for _, in := range s.topics[topic] {
		if in.id == id && in.topic != nil {
			return *in.topic
		}
	}
	return Topic{Name: topic, ID: id}
}

// Groups returns what was last written of every consumer group, by id. Where a group has
// offsets in two incarnations of a topic, they are those in the one that id names; nil:
// the newest.
func (s *State) Groups(id func(topic string) string) []Group {
	if id == nil {
		id = s.currentID
	}
	return s.groups.merged(id)
}

// GroupLists returns which groups were asked for, in the order of the log.
func (s *State) GroupLists() []GroupList { return s.groups.lists }

// Points returns the restore points in the order of the log.
func (s *State) Points() []RestorePoint { return s.points }

// HasPoint tells whether there is a restore point of this id.
func (s *State) HasPoint(id string) bool {
	return slices.ContainsFunc(s.points, func(p RestorePoint) bool { return p.Entry == id })
}

// Others returns the frames of unknown kinds in the order of the log.
func (s *State) Others() [][]byte { return s.others }

// Segments yields every segment that is kept, of old incarnations too: by topic,
// incarnation and partition, and in each by offset.
func (s *State) Segments() iter.Seq[Segment] {
	return func(yield func(Segment) bool) {
		for key, p := range s.partitions() {
			for i := range p.segments {
				if !yield(key.segment(&p.segments[i].Content)) {
					return
				}
			}
		}
	}
}

// partitions yields the partitions by topic, incarnation and number.
func (s *State) partitions() iter.Seq2[partitionKey, *partition] {
	return func(yield func(partitionKey, *partition) bool) {
		for _, name := range s.Topics() {
			for _, in := range s.topics[name] {
				for _, n := range slices.Sorted(slices.Values(in.parts)) {
					key := partitionKey{name, in.id, n}
					if !yield(key, s.parts[key]) {
						return
					}
				}
			}
		}
	}
}
