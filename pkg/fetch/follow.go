package fetch

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// openEnd is the end of a partition that is followed.
const openEnd = math.MaxInt64

// A follower is what a run without an end has to do from time to time: look for topics
// and partitions that come and go, and make restore points. It belongs to the source's
// goroutine.
type follower struct {
	refresh time.Time // when to look
	looking bool      // that is under way

	points  bool      // they are wanted
	point   time.Time // when to begin the next
	aiming  bool      // its offsets are being asked for
	pending *pointing // it is waited for
	said    []string  // what the one before has left out of groups
}

// A pointing is a restore point to be made once every partition has reached its target.
type pointing struct {
	groups *groups.Snapshot
	starts kafka.Offsets // of the logs
	hidden []hidden      // by transactions that have been open for too long
	time   time.Time
}

// newFollower returns a follower of what a plan begins with. The plan's end is its first
// restore point; where there is nothing yet, the first is made of what comes.
func newFollower(cfg Config, p *plan) *follower {
	now := time.Now()
	f := &follower{refresh: now.Add(cfg.Refresh), points: cfg.PointEvery > 0, point: now}
	if f.points && len(p.parts) > 0 {
		f.pending, f.point = &pointing{groups: p.groups, hidden: p.hidden, time: p.time}, p.time.Add(cfg.PointEvery)
	}
	if p.groups != nil {
		f.said = p.groups.LeftOut
	}
	return f
}

// unsaid returns those lines that were not there at the restore point before.
func (f *follower) unsaid(lines []string) []string {
	before := f.said
	f.said = lines
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return slices.Contains(before, line) })
}

// follow does what is due.
func (s *source) follow(now time.Time) error {
	f := s.follower
	if !f.looking && !now.Before(f.refresh) {
		f.looking = true
		s.look()
	}
	if f.points && f.pending == nil && !f.aiming && pointDue(s.parts, f.point, now) {
		f.aiming = true
		s.aim()
	}
	if f.pending != nil && s.begun == len(s.parts) && pointReached(s.parts) {
		if err := s.makePoint(); err != nil {
			return err
		}
	}
	return s.markIdle(now)
}

// look asks for topics that came and went.
func (s *source) look() {
	s.ask(func(ctx context.Context) func() error {
		meta, err := s.adm.Metadata(ctx)
		return func() error {
			if err != nil {
				s.looked(fmt.Errorf("list topics: %w", err), s.cfg.Refresh)
				return nil
			}
			return s.change(meta)
		}
	})
}

// looked ends a look.
func (s *source) looked(err error, again time.Duration) {
	if err != nil && s.reading.Err() == nil {
		s.log.Warn(fmt.Sprintf("cannot look for new topics, and will try again: %v", err))
	}
	s.follower.looking, s.follower.refresh = false, time.Now().Add(again)
}

// change takes up new topics and partitions, and gives up those that are gone.
func (s *source) change(meta kadm.Metadata) error {
	before := make(map[*partition]bool) // done
	for _, p := range s.parts {
		before[p] = p.state == done
	}
	if err := s.found(meta.Topics, func(*partition) bool { return true }); err != nil {
		return err
	}
	gone := make(map[string][]int32)
	known := make(map[topicPartition]bool)
	unsure := make(map[string]bool) // they may be gone
	for _, p := range s.parts {
		switch {
		case p.state == done && !before[p]:
			gone[p.topic] = append(gone[p.topic], p.num)
		case p.state == done:
		case !p.missing.IsZero():
			unsure[p.topic] = true
		default:
			known[topicPartition{p.topic, p.num}] = true
		}
	}
	again := s.cfg.Refresh
	if len(unsure) > 0 {
		again = min(soon, again)
	}
	selected, err := selectNew(meta.Topics, s.cfg)
	if err != nil {
		s.looked(err, again)
		return nil
	}
	if s.member != nil { // the group says who reads what
		s.looked(nil, again)
		s.member.subscribe(slices.Sorted(maps.Keys(selected))...)
		maps.DeleteFunc(gone, func(topic string, _ []int32) bool { return selected[topic] == nil })
		if s.retake(); len(gone) > 0 { // for the group nothing has changed, though a topic was created again
			s.take(gone)
		}
		return nil
	}
	for topic, nums := range selected {
		maps.DeleteFunc(nums, func(num int32, _ bool) bool { return known[topicPartition{topic, num}] })
		if len(nums) == 0 || unsure[topic] {
			delete(selected, topic)
		}
	}
	if len(selected) == 0 {
		s.looked(nil, again)
		return nil
	}
	first := s.takeUnplaced(selected)
	s.ask(func(ctx context.Context) func() error {
		cfg := s.cfg
		cfg.Groups = nil
		late, err := s.planner(cfg).plan(ctx, meta, first)
		var more *plan
		if err == nil { // all of what is new came after the start
			cfg.From, cfg.To, cfg.Cursor = Bound{}, Bound{}, nil
			more, err = s.planner(cfg).plan(ctx, meta, selected)
		}
		return func() error {
			if s.looked(err, again); err != nil {
				return endsRun(err)
			}
			s.unplaced = late.unplaced
			for _, p := range more.parts {
				s.log.Info(fmt.Sprintf("%s: new, and followed from now on", p))
			}
			for _, p := range late.parts {
				s.log.Info(fmt.Sprintf("%s: has a leader, and is followed from now on", p))
			}
			if err := s.add(late); err != nil {
				return err
			}
			return s.add(more)
		}
	})
	return nil
}

// takeUnplaced takes the partitions that were left out when the run began out of a
// selection: those are begun where that run had to begin.
func (s *source) takeUnplaced(selected selection) selection {
	out := make(selection)
	for _, u := range s.unplaced {
		if !selected[u.topic][u.num] {
			continue
		}
		if out[u.topic] == nil {
			out[u.topic] = make(map[int32]bool)
		}
		out[u.topic][u.num] = true
		if delete(selected[u.topic], u.num); len(selected[u.topic]) == 0 {
			delete(selected, u.topic)
		}
	}
	return out
}

// endsRun returns err where it is one that ends the run.
func endsRun(err error) error {
	if command.StatusOf(err) == command.Loss {
		return err
	}
	return nil
}

// selectNew selects of the topics that there are. Those that are named need not be there.
func selectNew(all kadm.TopicDetails, cfg Config) (selection, error) {
	there := make(kadm.TopicDetails)
	for name, t := range all {
		if t.Err == nil {
			there[name] = t
		}
	}
	cfg.Topics = slices.DeleteFunc(slices.Clone(cfg.Topics), func(t string) bool { return !selects(t, there) })
	return selectTopics(there, cfg)
}

// selects tells whether a selector can be applied to the topics that there are.
func selects(selector string, all kadm.TopicDetails) bool {
	if pattern.IsRegexp(selector) {
		return true
	}
	name, _, _ := strings.Cut(selector, ":")
	_, there := all[name]
	return there
}

// add takes up what a plan has.
func (s *source) add(p *plan) error {
	if len(p.parts) == 0 {
		return nil
	}
	var head []byte
	for i := range p.topics {
		var err error
		if head, err = p.topics[i].AppendFrame(head); err != nil {
			return err
		}
	}
	s.queue.add(parcel{job: &job{head: head, always: true}})
	s.parts = append(s.parts, p.parts...)
	return nil
}

// aim begins a restore point: it sets the offset that each partition must reach.
func (s *source) aim() {
	followed := make(selection)
	for _, p := range s.parts {
		if p.state == done {
			continue
		}
		if followed[p.topic] == nil {
			followed[p.topic] = make(map[int32]bool)
		}
		followed[p.topic][p.num] = true
	}
	s.ask(func(ctx context.Context) func() error {
		next := &pointing{}
		var ends kafka.Offsets
		var err error
		// The starts first: what a group is about to read is part of the moment.
		next.starts = kafka.ListOffsets(ctx, s.cl, followed.lists(), kafka.StartOffset, false)
		if next.groups, err = readGroups(ctx, s.adm, s.cfg, followed); err == nil {
			next.time = time.Now()
			p, asked := s.planner(s.cfg), followed.lists()
			var high kafka.Offsets
			high, ends = p.listEnds(ctx, asked, next.groups)
			next.hidden = p.long(ctx, hiddenIn(asked, high, ends))
		}
		return func() error { return s.aimed(next, ends, err) }
	})
}

// aimed ends that: the point is waited for. A partition whose end nobody tells holds it
// up, unless the run goes on without that partition.
func (s *source) aimed(next *pointing, ends kafka.Offsets, err error) error {
	f := s.follower
	f.aiming = false
	if err == nil && next.groups != nil {
		for _, what := range f.unsaid(next.groups.LeftOut) {
			s.log.Warn(what)
		}
	}
	for _, p := range s.parts {
		if err != nil || p.state == done || p.absent || followedSince(p, next.time) {
			continue
		}
		end := ends.Of(p.topic, p.num)
		if end.Err != nil {
			err = fmt.Errorf("list the end offset of %s: %w", p, end.Err)
			continue
		}
		p.target = end.Offset
		if start := next.starts.Of(p.topic, p.num); start.Err == nil {
			p.logStart = start.Offset
		}
	}
	if err != nil {
		if s.reading.Err() == nil {
			s.log.Warn(fmt.Sprintf("cannot make a restore point, and will try again: %v", err))
		}
		f.point = time.Now().Add(s.cfg.Refresh)
		return nil
	}
	f.pending, f.point = next, next.time.Add(s.cfg.PointEvery)
	return nil
}

// followedSince tells whether a partition was taken up after a time: then its own plan has
// said what a point needs of it.
func followedSince(p *partition, t time.Time) bool { return p.state == waiting || p.taken.After(t) }

// makePoint puts the pending restore point into the stream: groups, a mark of every
// partition, the point. All that was read of the partitions is before it.
func (s *source) makePoint() error {
	f := s.follower
	var head []byte
	var err error
	for _, g := range f.pending.groups.Frames() {
		if head, err = g.AppendFrame(head); err != nil {
			return err
		}
	}
	parts := slices.SortedFunc(slices.Values(s.active), func(a, b *partition) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.num, b.num))
	})
	n := 0
	for _, p := range parts {
		if p.state == done {
			continue
		}
		m := p.newMark(p.pos, p.lastEpoch())
		for _, h := range f.pending.hidden {
			if h.at() == (topicPartition{p.topic, p.num}) && h.stable == p.pos {
				m.Open = &[2]int64{h.stable, h.high}
				s.log.Warn(h.text(s.cfg.Kafka.Brokers, time.Now()))
			}
		}
		if head, err = m.AppendFrame(head); err != nil {
			return err
		}
		p.marked = p.pos
		n++
	}
	point := format.Point{Time: f.pending.time.UnixMilli(), Without: without(s.parts, s.unplaced)}
	if head, err = point.AppendFrame(head); err != nil {
		return err
	}
	s.queue.add(parcel{job: &job{head: head}})
	s.count.Point(f.pending.time.UnixMilli())
	s.log.Info(fmt.Sprintf("restore point of %s and %s", command.Count(int64(n), "partition"), command.Count(f.pending.groups.Len(), "consumer group")),
		"at", f.pending.time.UTC().Format(time.RFC3339))
	f.pending = nil
	return nil
}

// markIdle marks partitions that have gone on since their last mark, and then have been
// idle.
func (s *source) markIdle(now time.Time) error {
	for _, p := range s.active {
		if p.state != done && p.pos > p.marked && now.Sub(p.advanced) >= s.cfg.Refresh {
			if err := s.mark(p, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
