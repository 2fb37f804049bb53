package produce

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// An exact keeps the offsets of a lane. What must wait for the records before it, a
// gap, must not hold up other partitions: so each lane has a queue and a goroutine.
type exact struct {
	queue queue

	// Of the stream's side.
	opened                bool
	first                 int64 // where the log is to start
	next                  int64 // offset that the next record would get
	filled, gaps, written int64 // what it costs

	samples []print // of records that were produced
	stride  int64   // of records from one sample to the next
	seen    int64

	leader int32 // as the lane's goroutine knows it; -1: it does not

	// Of acknowledgements, under the producer's lock.
	inFlight int64
	idle     chan struct{} // closed when nothing is in flight any more; nil: nobody waits
}

// An item is a record, or an offset to go to.
type item struct {
	rec   *kgo.Record // nil: a gap
	route *route
	size  int
	held  int64 // of the memory for what waits
	to    int64 // offset behind it
	fill  bool  // of a gap: the log is to start there
}

// A queue is what waits for a lane. It takes what it is given: the bytes that all
// lanes have waiting are bounded, see [producer.queue].
type queue struct {
	mu     sync.Mutex
	items  []item
	closed bool
	more   chan struct{} // of one place: there may be something to take
}

func (q *queue) change(f func()) {
	q.mu.Lock()
	f()
	q.mu.Unlock()
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// take returns all that waits, in the memory of what it returned before; nothing when
// the queue is closed and empty.
func (q *queue) take(ctx context.Context, spent []item) ([]item, error) {
	for {
		q.mu.Lock()
		items, closed := q.items, q.closed
		if len(items) > 0 {
			clear(spent)
			q.items = spent[:0]
		}
		q.mu.Unlock()
		if len(items) > 0 || closed {
			return items, nil
		}
		select {
		case <-q.more:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

const (
	itemSize   = 128 // bytes in memory, about
	maxSamples = 16
	// markersAtOnce is how many markers go into a request.
	markersAtOnce = 2000
)

// serve begins the work on a lane.
func (p *producer) serve(ctx context.Context, l *lane) error {
	if p.markers.allowed == nil {
		may, err := p.mayMark(ctx)
		if err != nil {
			return err
		}
		p.markers.allowed = &may
	}
	l.exact = &exact{queue: queue{more: make(chan struct{}, 1)}, stride: 1, leader: -1}
	if p.cfg.DryRun {
		return nil
	}
	p.lanes.Go(func() error {
		if err := p.work(ctx, l); err != nil {
			p.fail(fmt.Errorf("topic %s, partition %d: %w", l.target.name, l.num, err))
		}
		return nil
	})
	return nil
}

// mayMark asks whether the cluster would let this client write markers: that takes ALTER
// or CLUSTER_ACTION (KafkaApis.handleWriteTxnMarkersRequest, AclOperation's codes).
func (p *producer) mayMark(ctx context.Context) (bool, error) {
	const alter, clusterAction = 1 << 7, 1 << 9
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	resp, err := req.RequestWith(ctx, p.targets.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return false, fmt.Errorf("ask for rights on the cluster: %w", err)
	}
	return resp.ClusterAuthorizedOperations&(alter|clusterAction) != 0, nil
}

// mark takes a mark: the first of a partition says where its log is to start, the last
// where it is to end.
func (p *producer) mark(ctx context.Context, m *format.Mark) error {
	part, err := p.partition(ctx, m.Topic, m.Partition)
	if err != nil {
		return err
	}
	if part.first < 0 {
		part.first = m.Next
	}
	part.next = max(part.next, m.Next)
	return nil
}

// open decides where a lane's log starts, when the offset of its first record is known:
// where the source's did, so that an offset between is in no gap; but where that
// is too far below, at the record.
func (p *producer) open(ctx context.Context, l *lane, record int64) error {
	x := l.exact
	x.opened = true
	first := l.from.first
	if first < 0 {
		first = record
	}
	if record-first > p.cfg.MaxGap {
		p.env.Log.Warn(fmt.Sprintf("topic %s, partition %d: the log starts at its first record, offset %d, and not at %d where the source's did: there are more than --max-gap between",
			l.target.name, l.num, record, first))
		first = record
	}
	if err := p.skipFillers(ctx, l, first); err != nil {
		return err
	}
	x.first, x.next = first, max(l.bounds.end, first)
	x.filled = max(first-l.bounds.end, 0)
	if l.bounds.start < first {
		return p.queue(ctx, l, item{to: first, fill: true})
	}
	return nil
}

// skipFillers passes over what a run that was killed has left below the first offset:
// its fillers, and nothing else.
func (p *producer) skipFillers(ctx context.Context, l *lane, first int64) error {
	for l.existing != nil {
		is, ok, err := l.existing.peek(ctx)
		switch {
		case err != nil:
			return err
		case !ok:
			l.existing = nil
			return nil
		case is.offset >= first:
			return nil
		case is.sum != p.filler.sum:
			return notEmpty(l, is.offset, fmt.Sprintf("this restore begins at offset %d", first))
		}
		l.existing.pop()
	}
	return nil
}

// align lets a lane go on to an offset.
func (p *producer) align(ctx context.Context, l *lane, offset int64) error {
	x := l.exact
	at := x.next
	x.next = offset + 1
	switch gap := offset - at; {
	case gap < 0:
		return command.WithHint(fmt.Errorf("topic %s, partition %d: offset %d cannot be had: the log is at %d already", l.target.name, l.num, offset, at),
			"delete the topic, or write to another one with --rename")
	case gap == 0:
		return nil
	case gap > p.cfg.MaxGap:
		return command.WithHint(fmt.Errorf("topic %s, partition %d: %s between the records below %d and that of offset %d, more than --max-gap", l.target.name, l.num, command.Count(gap, "offset"), at, offset),
			fmt.Sprintf("--max-gap %d would have them filled with markers", gap))
	case !*p.markers.allowed:
		return refusedMarkers(kerr.ClusterAuthorizationFailed)
	default:
		x.gaps++
		x.written += gap
		return p.queue(ctx, l, item{to: offset})
	}
}

// queue hands an item to a lane's goroutine, when there is room for it.
func (p *producer) queue(ctx context.Context, l *lane, it item) error {
	if p.cfg.DryRun {
		return nil
	}
	it.held = min(int64(it.size)+itemSize, p.cfg.Memory/2)
	if err := p.queued.Acquire(ctx, it.held); err != nil {
		return context.Cause(ctx)
	}
	q := &l.exact.queue
	q.change(func() { q.items = append(q.items, it) })
	return nil
}

// closeLanes takes every partition to where its last mark is, and waits until all is
// written.
func (p *producer) closeLanes(ctx context.Context, end *format.End) error {
	for _, r := range p.sent {
		l := r.to
		if r.from.next >= 0 && !l.exact.opened {
			if err := p.open(ctx, l, r.from.next); err != nil {
				return err
			}
		}
		if r.from.next > l.exact.next && !end.Interrupted {
			if err := p.align(ctx, l, r.from.next); err != nil {
				return err
			}
			l.exact.next = r.from.next // nothing comes behind it
		}
		if r.from.next >= 0 && r.from.next < l.exact.next && !end.Interrupted {
			return fmt.Errorf("topic %s, partition %d: the log goes to offset %d, and this restore to %d: somebody else has written to it", l.target.name, l.num, l.exact.next, r.from.next)
		}
	}
	p.closeQueues()
	_ = p.lanes.Wait() // each has told the context
	return context.Cause(ctx)
}

func (p *producer) closeQueues() {
	for _, r := range p.sent {
		if x := r.to.exact; x != nil {
			x.queue.change(func() { x.queue.closed = true })
		}
	}
}

// work does what a lane's items say.
func (p *producer) work(ctx context.Context, l *lane) error {
	at := l.bounds.end
	var items []item
	for {
		var err error
		if items, err = l.exact.queue.take(ctx, items); err != nil || len(items) == 0 {
			return err
		}
		for i := range items {
			if err := p.do(ctx, l, &items[i], at); err != nil {
				return err
			}
			p.queued.Release(items[i].held)
			at = max(at, items[i].to)
		}
	}
}

func (p *producer) do(ctx context.Context, l *lane, it *item, at int64) error {
	if it.rec != nil {
		p.mu.Lock()
		l.exact.inFlight++
		p.mu.Unlock()
		return p.send(ctx, it.route, it.rec, it.to-1, it.size)
	}
	if err := p.rest(ctx, l); err != nil {
		return err
	}
	var err error
	if it.fill {
		err = p.start(ctx, l, at, it.to)
	} else {
		err = p.mind(ctx, l, at, it.to)
	}
	p.mu.Lock()
	l.due = max(at, it.to)
	p.mu.Unlock()
	return err
}

// rest waits until all records of a lane are acknowledged.
func (p *producer) rest(ctx context.Context, l *lane) error {
	p.mu.Lock()
	if l.exact.inFlight == 0 {
		p.mu.Unlock()
		return nil
	}
	idle := make(chan struct{})
	l.exact.idle = idle
	p.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// acknowledged counts a record off. The producer's lock is held.
func (x *exact) acknowledged() {
	if x.inFlight--; x.inFlight == 0 && x.idle != nil {
		close(x.idle)
		x.idle = nil
	}
}

// start makes a lane's log start at an offset: what is missing below is filled, and
// then deleted, so that nobody ever sees it.
func (p *producer) start(ctx context.Context, l *lane, at, first int64) error {
	if at < first {
		p.env.Log.Debug(fmt.Sprintf("topic %s, partition %d: filling offsets %d to %d", l.target.name, l.num, at, first-1))
		if err := p.fill(ctx, l, at, first); err != nil {
			return fmt.Errorf("fill the offsets below %d: %w", first, err)
		}
	}
	return p.deleteBelow(ctx, l, first)
}

func (p *producer) deleteBelow(ctx context.Context, l *lane, first int64) error {
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: l.target.name, Partition: l.num, At: first})
	return p.targets.deleteRecords(ctx, offsets)
}

// mind writes markers from one offset up to another. Nothing but markers may have
// come in between.
func (p *producer) mind(ctx context.Context, l *lane, at, to int64) error {
	for moved := time.Now(); at < to; {
		n := min(to-at, markersAtOnce)
		err := p.markers.write(ctx, p.targets.logs, l, int(n))
		if err == nil && n == 1 { // an answer about one marker is about that one
			at++
			continue
		}
		if err != nil {
			l.exact.leader = -1
		}
		var ke *kerr.Error
		if errors.As(err, &ke) && !ke.Retriable {
			return refusedMarkers(err)
		}
		look := p.targets.logs.end
		if err != nil { // they may still come
			look = p.targets.logs.settledEnd
		}
		end, lookErr := look(ctx, l.target.name, l.num)
		switch {
		case lookErr != nil:
			return lookErr
		case end > to || end < at:
			return fmt.Errorf("the log's end is %d where markers from %d to %d were written: somebody else writes to it", end, at, to-1)
		case end > at:
			moved = time.Now()
		case err != nil && time.Since(moved) > patience:
			return refusedMarkers(err)
		}
		at = end
	}
	return nil
}

func refusedMarkers(err error) error {
	err = fmt.Errorf("write transaction markers: %w", err)
	if errors.Is(err, kerr.ClusterAuthorizationFailed) {
		return command.WithHint(err, "--offsets exact fills gaps between records with markers, which takes the right to ALTER the cluster")
	}
	return err
}

// markers writes transaction markers (WriteTxnMarkers, KIP-98): control records, one
// offset each, which no consumer is shown. They abort a transaction of a producer that
// has none, and change nothing. No two in a partition have the same producer and
// epoch: the broker loses count of markers that are equal, and may take one for a
// retry of the last (KIP-890 strictly so).
type markers struct {
	mu       sync.Mutex
	producer int64
	epoch    int32 // the last used
	begun    bool
	allowed  *bool // nil: nobody has asked
}

// maxEpoch is the highest epoch a producer's marker may have: one below is left for
// the producer itself (ProducerIdAndEpoch, Short.MAX_VALUE).
const maxEpoch = 1<<15 - 2

// take returns a producer and the first of n epochs.
func (m *markers) take(ctx context.Context, cl *kgo.Client, n int) (producer int64, epoch int16, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.begun || m.epoch+int32(n) > maxEpoch {
		if m.producer, _, err = newProducerID(ctx, cl); err != nil {
			return 0, 0, err
		}
		m.begun, m.epoch = true, 0
	}
	epoch = int16(m.epoch + 1)
	m.epoch += int32(n)
	return m.producer, epoch, nil
}

// newProducerID has the cluster give out a producer id.
func newProducerID(ctx context.Context, cl *kgo.Client) (id int64, epoch int16, err error) {
	resp, err := kmsg.NewPtrInitProducerIDRequest().RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("ask for a producer id: %w", err)
	}
	return resp.ProducerID, resp.ProducerEpoch, nil
}

// write writes n markers to a lane. They are written once or not at all; after an error
// that is not the broker's it is not known how many.
func (m *markers) write(ctx context.Context, g *logs, l *lane, n int) error {
	if l.exact.leader < 0 {
		var err error
		if l.exact.leader, _, err = g.leader(ctx, l.target.name, l.num); err != nil {
			l.exact.leader = -1
			return err
		}
	}
	producer, epoch, err := m.take(ctx, g.cl, n)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	req.Markers = make([]kmsg.WriteTxnMarkersRequestMarker, n)
	topics := []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: l.target.name, Partitions: []int32{l.num}}}
	for i := range req.Markers {
		mk := &req.Markers[i]
		mk.ProducerID, mk.ProducerEpoch, mk.Topics = producer, epoch+int16(i), topics
	}
	// Not one that the client would send again.
	answer, err := g.cl.Broker(int(l.exact.leader)).Request(ctx, req)
	if err != nil {
		return err
	}
	for _, mk := range answer.(*kmsg.WriteTxnMarkersResponse).Markers {
		for _, t := range mk.Topics {
			for _, part := range t.Partitions {
				if err := kerr.ErrorForCode(part.ErrorCode); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// sample remembers some of the records, spread over all.
func (x *exact) sample(h *hasher, offset int64, out *kgo.Record) {
	if x.seen%x.stride == 0 {
		if len(x.samples) == maxSamples {
			for i := range maxSamples / 2 {
				x.samples[i] = x.samples[2*i]
			}
			x.samples = x.samples[:maxSamples/2]
			x.stride *= 2
		}
		if x.seen%x.stride == 0 {
			x.samples = append(x.samples, print{offset, h.produced(out)})
		}
	}
	x.seen++
}

// prove holds what the target has against what it should: where each log ends, and some
// records at their offsets.
func (p *producer) prove(ctx context.Context) error {
	began := time.Now()
	var sampled, partitions int64
	ends := make(map[string]map[int32]bounds)
	for _, r := range p.sent {
		l := r.to
		name := l.target.name
		if ends[name] == nil {
			at, behind, err := p.targets.logs.look(ctx, []string{name})
			if err == nil && behind != "" {
				at, err = p.targets.logs.bounds(ctx, []string{name})
			}
			if err != nil {
				return err
			}
			ends[name] = at[name]
		}
		if !l.exact.opened {
			continue
		}
		if got := ends[name][l.num].end; got != l.exact.next {
			return fmt.Errorf("topic %s, partition %d: the log ends at offset %d, not at %d: somebody else writes to it", name, l.num, got, l.exact.next)
		}
		// A broker that crashes forgets what was deleted in the last minute
		// (log.flush.start.offset.checkpoint.interval.ms).
		if ends[name][l.num].start < l.exact.first {
			if err := p.deleteBelow(ctx, l, l.exact.first); err != nil {
				return err
			}
		}
		partitions++
		s := p.targets.logs.scan(name, l.num, 1<<10)
		samples := l.exact.samples
		if len(samples) > 4 { // the ends and two between
			i := 1 + rand.IntN(len(samples)-2)
			j := 1 + rand.IntN(len(samples)-2)
			samples = []print{samples[0], samples[min(i, j)], samples[max(i, j)], samples[len(samples)-1]}
		}
		for _, want := range samples {
			got, _, err := s.read(ctx, want.offset)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(got, func(s span) bool { return s.has(want) }) {
				return fmt.Errorf("topic %s, partition %d: the record of offset %d is not there", name, l.num, want.offset)
			}
			sampled++
		}
	}
	p.env.Log.Info(fmt.Sprintf("proved the offsets of %s by their ends and %s", command.Count(partitions, "partition"), command.Count(sampled, "sampled record")), "in", since(began))
	return nil
}
