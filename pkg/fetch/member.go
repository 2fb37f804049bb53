package fetch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/receipt"
)

const (
	// rebalanceTimeout is how long a group waits for a member that has to give
	// partitions back, and handOver how much of it the member takes to have stored what
	// it had read of them.
	rebalanceTimeout = 3 * time.Minute
	handOver         = rebalanceTimeout - 30*time.Second
	receiptsEvery    = 100 * time.Millisecond // a look at a file of receipts
)

// A member takes part in a consumer group, which deals out the partitions of its topics
// to all who are in it. It reads no records itself, and commits only what receipts say
// is stored.
type member struct {
	cl     *kgo.Client
	adm    *kadm.Client
	group  string
	log    *slog.Logger
	events chan event
	over   chan struct{} // the run takes no more events

	mu      sync.Mutex
	changed *sync.Cond
	held    map[topicPartition]*holding
}

type topicPartition struct {
	topic string
	num   int32
}

// A holding is a partition that the member has.
type holding struct {
	id        string // of the topic
	stored    int64  // as receipts say
	committed int64
}

// An event is what the group wants: partitions to take up or to give up, or a failure.
// Whoever gives up closes done when the others may have them.
type event struct {
	given, taken map[string][]int32
	lost         bool // they are with others already
	done         chan struct{}
	err          error
}

// join joins the group, without a topic yet.
func join(ctx context.Context, cfg Config, log *slog.Logger) (*member, error) {
	m := &member{group: cfg.Group, log: log, events: make(chan event), over: make(chan struct{}), held: make(map[topicPartition]*holding)}
	m.changed = sync.NewCond(&m.mu)
	var err error
	m.cl, err = kafka.NewClient(ctx, cfg.Kafka,
		kgo.ConsumerGroup(cfg.Group),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(cfg.SessionTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, cfg.SessionTimeout/3)),
		kgo.RebalanceTimeout(rebalanceTimeout),
		kgo.OnPartitionsAssigned(func(ctx context.Context, _ *kgo.Client, parts map[string][]int32) { m.send(ctx, event{given: parts}) }),
		kgo.OnPartitionsRevoked(func(ctx context.Context, _ *kgo.Client, parts map[string][]int32) { m.send(ctx, event{taken: parts}) }),
		kgo.OnPartitionsLost(func(ctx context.Context, _ *kgo.Client, parts map[string][]int32) {
			m.send(ctx, event{taken: parts, lost: true})
		}),
	)
	if err != nil {
		return nil, err
	}
	m.adm = kadm.NewClient(m.cl)
	go m.poll(ctx)
	return m, nil
}

// send hands an event to the run, and waits until it is done with.
func (m *member) send(ctx context.Context, ev event) {
	if len(ev.given)+len(ev.taken) == 0 && ev.err == nil {
		return
	}
	ev.done = make(chan struct{})
	select {
	case m.events <- ev:
	case <-m.over:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-ev.done:
	case <-m.over:
	case <-ctx.Done():
	}
}

// poll hears what goes wrong with the group: no records come, as all topics are paused.
func (m *member) poll(ctx context.Context) {
	for {
		fetches := m.cl.PollFetches(ctx)
		if fetches.IsClientClosed() || ctx.Err() != nil {
			return
		}
		fetches.EachError(func(_ string, _ int32, err error) {
			if errors.Is(err, kerr.GroupAuthorizationFailed) || errors.Is(err, kerr.InconsistentGroupProtocol) || errors.Is(err, kerr.FencedInstanceID) {
				m.send(ctx, event{err: fmt.Errorf("group %s: %w", m.group, err)})
				return
			}
			m.log.Warn(fmt.Sprintf("group %s: %v", m.group, err))
		})
	}
}

// subscribe adds topics to those that the member wants partitions of.
func (m *member) subscribe(topics ...string) {
	m.cl.PauseFetchTopics(topics...)
	m.cl.AddConsumeTopics(topics...)
}

// cursor is where to begin with partitions: where the group has come to, or else where
// cfg says.
func (m *member) cursor(ctx context.Context, given *cursor.Cursor, topics []string) (*cursor.Cursor, error) {
	var offsets kadm.OffsetResponses
	err := kafka.Retry(ctx, m.adm, kafka.Patience, func() (err error) {
		offsets, err = m.adm.FetchOffsetsForTopics(ctx, m.group, topics...)
		offsets.Each(func(o kadm.OffsetResponse) {
			if o.Err != nil && err == nil {
				err = fmt.Errorf("%s/%d: %w", o.Topic, o.Partition, o.Err)
			}
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the offsets of group %s: %w", m.group, err)
	}
	out := &cursor.Cursor{Version: cursor.Version, Topics: make(map[string]cursor.Topic)}
	if given != nil {
		for _, name := range topics {
			if t, ok := given.Topics[name]; ok {
				out.Topics[name] = t
			}
		}
	}
	for topic, parts := range offsets {
		for num, o := range parts {
			if o.At < 0 {
				continue
			}
			t, ok := out.Topics[topic]
			if !ok || t.ID != "" { // what the group has committed is of the topic that there is
				t = cursor.Topic{Partitions: make(map[int32]int64)}
				if given != nil {
					for n, next := range given.Topics[topic].Partitions {
						t.Partitions[n] = next
					}
				}
			}
			t.Partitions[num] = o.At
			out.Topics[topic] = t
		}
	}
	return out, nil
}

// hold notes that the member reads a partition from an offset on.
func (m *member) hold(p *partition, from int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[topicPartition{p.topic, p.num}] = &holding{id: kafka.FormatTopicID(p.id), stored: from, committed: from}
}

// release lets go of partitions that were read up to these offsets, unless they are lost
// once all of that is stored and committed, or when the others can wait no longer.
func (m *member) release(read map[topicPartition]int64, lost bool) {
	deadline := time.Now().Add(handOver)
	wake := time.AfterFunc(handOver, m.changed.Broadcast)
	defer wake.Stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, next := range read {
		for h := m.held[key]; !lost && h != nil && h.committed < next; h = m.held[key] {
			if !time.Now().Before(deadline) {
				m.log.Warn(fmt.Sprintf("%s/%d: given up at offset %d before it was known that everything read is stored: it will be read again from %d", key.topic, key.num, next, h.committed))
				break
			}
			m.changed.Wait()
		}
		delete(m.held, key)
	}
}

// follow reads receipts from a file or FIFO until its end, or in a file until the
// stream's last one, and commits what they say is stored.
func (m *member) follow(ctx context.Context, name string, ended <-chan struct{}) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("receipts: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("receipts: %w", err)
	}
	var line []byte
	for r := bufio.NewReader(f); ; {
		part, err := r.ReadBytes('\n')
		line = append(line, part...)
		if err == io.EOF && info.Mode().IsRegular() { // more may come
			select {
			case <-time.After(receiptsEvery):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("receipts: %w", err)
		}
		var got receipt.Receipt
		if err := json.Unmarshal(line, &got); err != nil {
			return command.WithHint(fmt.Errorf("receipts: %s: not a receipt: %w", name, err), "it takes the lines that kbk-push prints")
		}
		line = line[:0]
		m.commit(ctx, &got)
		select {
		case <-ended:
			if got.Final {
				return nil
			}
		default: // it is an earlier run's
		}
	}
}

// commit commits what a receipt says is stored, of what the member holds. What cannot
// be committed now is tried again with the next receipt.
func (m *member) commit(ctx context.Context, r *receipt.Receipt) {
	offsets := make(map[string]map[int32]kgo.EpochOffset)
	m.mu.Lock()
	for _, p := range r.Partitions {
		if h := m.held[topicPartition{p.Topic, p.Partition}]; h != nil && h.id == p.TopicID {
			h.stored = max(h.stored, p.Next)
		}
	}
	for key, h := range m.held {
		if h.stored > h.committed {
			if offsets[key.topic] == nil {
				offsets[key.topic] = make(map[int32]kgo.EpochOffset)
			}
			offsets[key.topic][key.num] = kgo.EpochOffset{Epoch: -1, Offset: h.stored}
		}
	}
	m.mu.Unlock()
	if len(offsets) == 0 {
		return
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		groups.MarkOwn(req)
		return nil
	})
	m.cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			m.log.Warn(fmt.Sprintf("group %s: cannot commit, and will try again: %v", m.group, err))
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					m.log.Warn(fmt.Sprintf("group %s: cannot commit %s/%d, and will try again: %v", m.group, t.Topic, p.Partition, err))
				} else if h := m.held[topicPartition{t.Topic, p.Partition}]; h != nil {
					h.committed = max(h.committed, offsets[t.Topic][p.Partition].Offset)
				}
			}
		}
		m.changed.Broadcast()
	})
}

// leave leaves the group.
func (m *member) leave() {
	m.cl.Close()
}

// assigned does what the group wants.
func (s *source) assigned(ev event) error {
	switch {
	case ev.err != nil:
		return ev.err
	case len(ev.taken) > 0:
		return s.yield(ev)
	}
	close(ev.done)
	s.take(ev.given)
	return nil
}

// yield gives up partitions that others of the group are to have.
func (s *source) yield(ev event) error {
	s.unplaced = slices.DeleteFunc(s.unplaced, func(u unplaced) bool { return slices.Contains(ev.taken[u.topic], u.num) })
	read := make(map[topicPartition]int64)
	for _, p := range s.parts {
		if p.state == done || !slices.Contains(ev.taken[p.topic], p.num) {
			continue
		}
		if err := s.retire(p, nil); err != nil {
			return err
		}
		read[topicPartition{p.topic, p.num}] = p.pos
	}
	s.log.Info(fmt.Sprintf("group %s takes %s from this process", s.member.group, command.Count(int64(len(read)), "partition")))
	go func() { // it may outlast the run, whose last receipts it waits for
		s.member.release(read, ev.lost)
		close(ev.done)
	}()
	return nil
}

// take takes up partitions that the group gives to this process.
func (s *source) take(given map[string][]int32) {
	s.taking = true
	s.ask(func(ctx context.Context) func() error {
		plan, err := s.planGiven(ctx, given)
		return func() error {
			if s.taking = false; err != nil {
				return err
			}
			for _, p := range plan.parts {
				p.begins = true
				s.member.hold(p, max(p.pos, p.lost[1]))
			}
			if n := len(plan.parts); n > 0 {
				s.log.Info(fmt.Sprintf("group %s gives %s to this process", s.member.group, command.Count(int64(n), "partition")))
			}
			s.unplaced = append(s.unplaced, plan.unplaced...)
			return s.add(plan)
		}
	})
}

// retake tries once more to take up what the group gave and could not be planned.
func (s *source) retake() {
	if s.taking || len(s.unplaced) == 0 {
		return
	}
	again := make(map[string][]int32)
	for _, u := range s.unplaced {
		s.log.Warn(fmt.Sprintf("%s: its offsets cannot be read; asking for them again: %v", u.partition, u.why))
		again[u.topic] = append(again[u.topic], u.num)
	}
	s.unplaced = nil
	s.take(again)
}

// planGiven plans to read partitions from where the group has come to.
func (s *source) planGiven(ctx context.Context, given map[string][]int32) (*plan, error) {
	names := slices.Sorted(maps.Keys(given))
	var meta kadm.Metadata
	err := kafka.Retry(ctx, s.adm, s.cfg.Timeout, func() (err error) { meta, err = s.adm.Metadata(ctx, names...); return err })
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	selected := make(selection)
	for topic, nums := range given {
		for _, num := range nums {
			if _, ok := meta.Topics[topic].Partitions[num]; ok { // else it was deleted meanwhile
				if selected[topic] == nil {
					selected[topic] = make(map[int32]bool)
				}
				selected[topic][num] = true
			}
		}
	}
	cfg := s.cfg
	err = kafka.Retry(ctx, s.adm, s.cfg.Timeout, func() (err error) { cfg.Cursor, err = s.member.cursor(ctx, s.cfg.Cursor, names); return err })
	if err != nil {
		return nil, err
	}
	return s.planner(cfg).plan(ctx, meta, selected)
}
