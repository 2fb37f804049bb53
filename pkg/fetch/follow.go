package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// openEnd is the end of a partition that is followed.
const openEnd = math.MaxInt64

// soon is when to look again at what may be a change.
const soon = time.Second

// A follower keeps a run going: it looks for topics and partitions that come and go,
// and makes restore points. Only the source's own goroutine uses it, but for hurry.
type follower struct {
	cfg     Config
	refresh time.Time // when to look
	urgent  chan struct{}

	point   time.Time // when to make the next restore point
	pending *pointing // the one that is waited for
}

// A pointing is a restore point to be made once every partition has reached its target.
type pointing struct {
	groups []format.Group
	time   time.Time
}

// newFollower returns a follower of what a plan begins with. The plan's end is its first
// restore point.
func newFollower(cfg Config, p *plan) *follower {
	now := time.Now()
	f := &follower{cfg: cfg, refresh: now.Add(cfg.Refresh), urgent: make(chan struct{}, 1), point: now.Add(cfg.PointEvery)}
	if cfg.PointEvery > 0 && cfg.Shard.IsAll() {
		f.pending = &pointing{groups: p.groups, time: p.time}
	}
	return f
}

// hurry asks for a refresh.
func (f *follower) hurry() {
	select {
	case f.urgent <- struct{}{}:
	default:
	}
}

// tend does what is due. Requests are given up when fetching is; what is put into the
// stream is not.
func (f *follower) tend(ctx, fetching context.Context, s *source) error {
	now := time.Now()
	select {
	case <-f.urgent:
		f.refresh = now
	default:
	}
	if !now.Before(f.refresh) {
		f.refresh = now.Add(f.cfg.Refresh)
		if err := f.look(ctx, fetching, s); errors.Is(err, errUncertain) {
			f.refresh = now.Add(min(soon, f.cfg.Refresh))
		} else if ctx.Err() != nil || command.StatusOf(err) == command.Loss {
			return err
		} else if err != nil && fetching.Err() == nil {
			s.log.Warn(fmt.Sprintf("cannot look for new topics, and will try again: %v", err))
		}
	}
	if f.pending == nil && f.cfg.PointEvery > 0 && f.cfg.Shard.IsAll() && !now.Before(f.point) {
		if err := f.aim(fetching, s); err != nil {
			if fetching.Err() == nil {
				s.log.Warn(fmt.Sprintf("cannot make a restore point, and will try again: %v", err))
			}
			f.point = now.Add(f.cfg.Refresh)
		}
	}
	if f.pending != nil && s.reached() {
		return f.makePoint(ctx, s)
	}
	return nil
}

// errUncertain is the error for a topic that may be gone: a broker that has just started
// may not know it yet.
var errUncertain = errors.New("a topic may be gone")

// look takes up new topics and partitions, and gives up those that are gone.
func (f *follower) look(ctx, fetching context.Context, s *source) error {
	meta, err := s.adm.Metadata(fetching)
	if err != nil {
		return err
	}
	type key struct {
		id    [16]byte
		topic string
		num   int32
	}
	troubled := make(map[string]bool)
	for name, t := range meta.Topics {
		if t.Err != nil { // it is not there, or its metadata is not
			troubled[name] = !errors.Is(t.Err, kerr.UnknownTopicOrPartition)
			delete(meta.Topics, name)
		}
	}
	known := make(map[key]bool)
	uncertain := make(map[string]bool)
	gone := make(map[string][]*partition)
	s.mu.Lock()
	for _, p := range s.parts {
		if p.state == done {
			continue
		}
		known[key{p.id, p.topic, p.num}] = true
		t, there := meta.Topics[p.topic]
		switch {
		case troubled[p.topic] || there && t.ID == p.id:
			p.missing = false
		case !p.missing || p.state == busy:
			p.missing, uncertain[p.topic] = true, true
		default:
			p.state = busy // nobody else's
			gone[p.topic] = append(gone[p.topic], p)
		}
	}
	s.mu.Unlock()
	for topic, parts := range gone {
		text := "was deleted: what there was of it is read as far as it could be"
		if _, again := meta.Topics[topic]; again {
			text = "was deleted and created again: reading the new one from its beginning"
		}
		s.log.Warn(fmt.Sprintf("topic %s %s", topic, text), "was", kafka.FormatTopicID(parts[0].id))
		for _, p := range parts {
			if err := s.retire(ctx, p); err != nil {
				return err
			}
		}
	}

	cfg := f.cfg
	cfg.Topics = slices.DeleteFunc(slices.Clone(cfg.Topics), func(t string) bool { return !selects(t, meta.Topics) })
	selected, err := selectTopics(meta.Topics, cfg)
	if err != nil {
		return err
	}
	if s.member != nil { // the group says who reads what
		s.member.subscribe(slices.Sorted(maps.Keys(selected))...)
		return s.retake(ctx, fetching, gone, meta.Topics, len(uncertain) > 0)
	}
	for topic, nums := range selected {
		for num := range nums {
			if known[key{meta.Topics[topic].ID, topic, num}] {
				delete(nums, num)
			}
		}
		if len(nums) == 0 || uncertain[topic] {
			delete(selected, topic)
		}
	}
	if len(selected) > 0 {
		// All of what is new came after the start.
		cfg.From, cfg.To, cfg.Cursor, cfg.Groups = Bound{}, Bound{}, nil, nil
		more, err := (&planner{s.cl, s.adm, cfg, s.log, s.lost}).plan(fetching, meta, selected)
		if err != nil {
			return err
		}
		if err := s.add(ctx, more); err != nil {
			return err
		}
		for _, p := range more.parts {
			s.log.Info(fmt.Sprintf("%s: new, and followed from now on", p))
		}
	}
	if len(uncertain) > 0 {
		return errUncertain
	}
	return nil
}

// add takes up what a plan has.
func (s *source) add(ctx context.Context, p *plan) error {
	for i := range p.topics {
		raw, err := p.topics[i].AppendFrame(nil)
		if err != nil {
			return err
		}
		if err := s.e.frames(ctx, raw); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts = append(s.parts, p.parts...)
	s.left += len(p.parts)
	return nil
}

// retire writes the last mark of a partition that nobody fetches, and is done with it.
func (s *source) retire(ctx context.Context, p *partition) error {
	s.mu.Lock()
	if p.state == done {
		s.mu.Unlock()
		return nil
	}
	p.state = busy // nobody else's
	s.mu.Unlock()
	p.line.L.Lock()
	p.end = p.pos // so that the stages downstream know that no more comes
	p.line.L.Unlock()
	err := s.put(ctx, &job{p: p, role: closing})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished(p)
	return err
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

// aim begins a restore point: it sets the offset that each partition must reach.
func (f *follower) aim(ctx context.Context, s *source) error {
	s.mu.Lock()
	followed := make(selection)
	for _, p := range s.parts {
		if p.state != done {
			if followed[p.topic] == nil {
				followed[p.topic] = make(map[int32]bool)
			}
			followed[p.topic][p.num] = true
		}
	}
	s.mu.Unlock()
	next := &pointing{}
	if len(followed) > 0 {
		var err error
		if next.groups, err = readGroups(ctx, s.adm, f.cfg, followed); err != nil {
			return err
		}
	}
	next.time = time.Now()
	if len(followed) > 0 {
		asked := make(map[string][]int32)
		for topic, nums := range followed {
			asked[topic] = slices.Collect(maps.Keys(nums))
		}
		ends := kafka.ListOffsets(ctx, s.cl, asked, kafka.EndOffset, !f.cfg.Uncommitted)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range s.parts {
			if p.state == done {
				continue
			}
			end := ends.Of(p.topic, p.num)
			if end.Err != nil {
				return fmt.Errorf("list the end offset of %s: %w", p, end.Err)
			}
			p.target = end.Offset
		}
	}
	f.pending, f.point = next, next.time.Add(f.cfg.PointEvery)
	return nil
}

// reached tells whether every partition is past its target.
func (s *source) reached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next == len(s.parts) && !slices.ContainsFunc(s.parts, func(p *partition) bool { return p.state != done && p.pos < p.target })
}

// makePoint puts the pending restore point into the stream, between two fetches.
func (f *follower) makePoint(ctx context.Context, s *source) error {
	var groups []byte
	for i := range f.pending.groups {
		var err error
		if groups, err = f.pending.groups[i].AppendFrame(groups); err != nil {
			return err
		}
	}
	point, err := (&format.Point{Time: f.pending.time.UnixMilli()}).AppendFrame(nil)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.pausing = true
	for slices.ContainsFunc(s.active, func(p *partition) bool { return p.state == busy }) && !s.stopped && !s.failed {
		s.changed.Wait()
	}
	over := s.stopped || s.failed
	parts := slices.SortedFunc(slices.Values(s.active), func(a, b *partition) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.num, b.num))
	})
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pausing = false
		s.changed.Broadcast()
	}()
	if over {
		return nil
	}
	defer s.wait()()
	if err := s.e.point(ctx, parts, groups, point); err != nil {
		return err
	}
	for _, p := range parts {
		p.marked = p.pos
	}
	s.log.Info(fmt.Sprintf("restore point of %s and %s", command.Count(int64(len(parts)), "partition"), command.Count(int64(len(f.pending.groups)), "consumer group")),
		"at", f.pending.time.UTC().Format(time.RFC3339))
	f.pending = nil
	return nil
}

// markIdle marks those of a claim that have gone on since their last mark, and then
// have been idle.
func (s *source) markIdle(ctx context.Context, set []*partition) error {
	for _, p := range set {
		if p.pos > p.marked && time.Since(p.advanced) >= s.cfg.Refresh {
			if err := s.put(ctx, &job{p: p, role: marking}); err != nil {
				return err
			}
			p.marked = p.pos
		}
	}
	return nil
}
