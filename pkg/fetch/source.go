package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/throttle"
)

const (
	tendEvery    = 250 * time.Millisecond // a look at partitions in trouble
	confirmEmpty = 3                      // see settle
)

// A partition is one of those being read. Its fields from leader on change
// during the run, under the source's lock.
type partition struct {
	topic    string
	id       [16]byte
	num      int32
	end      int64 // the first offset not to read; openEnd while following
	target   int64 // a restore point needs what is below it
	logStart int64
	lost     [2]int64 // offsets below the first to read that are gone; empty if equal
	resumed  position // where earlier runs have come to
	branch   bool     // what they have read from the first offset on is not there any more

	leader   int32
	epoch    int32 // the leader's, or -1
	pos      int64 // the next offset to fetch
	lastSeen int32 // leader epoch of the last batch, -1 before it
	aligned  bool  // a batch ended at pos
	state    state
	empty    int           // fetches of it alone that brought nothing, in a row
	moved    time.Duration // on the source's clock, when pos last went on, or a broker said that there is no more
	trouble  error         // why it does not
	advanced time.Time     // when pos last went on
	marked   int64         // the last mark's offset
	missing  bool          // from the metadata, when they were last refreshed
	begins   bool          // a mark has to say that it may not be the stream's first time
	leaving  bool          // to others of the group: it is not fetched any more

	// Of its jobs, which are fetched ahead of what is written: see turn.
	jobs    int64 // put; whoever has the partition counts them
	line    *sync.Cond
	begun   int64 // jobs that have had their turn
	reached int64 // offset below which all is written, or being so
	epoch0  int32 // leader epoch there
	halted  bool
	closed  bool // the last mark is written
}

// turn decides whether a job is done, when it is its turn among the partition's: once
// one has been left out because the run is told to stop, so are all after it. So a
// stop need not wait until everything is written that was fetched ahead, which may
// be far more than it was as it came over the network.
func (p *partition) turn(j *job, stop <-chan struct{}) bool {
	p.line.L.Lock()
	defer p.line.L.Unlock()
	for p.begun != j.seq {
		p.line.Wait() // for one that another worker has just taken
	}
	p.begun++
	p.line.Broadcast()
	switch j.role {
	case marking:
		return !p.halted
	case opening, closing:
		return true
	}
	select {
	case <-stop:
		p.halted = true
	default:
	}
	if p.halted {
		return false
	}
	p.reached, p.epoch0, p.closed = j.next, j.epoch, len(j.tail) > 0
	return true
}

// markHere appends to b a mark of what has been written of the partition, unless it is
// to be the last and there has been one.
func (p *partition) markHere(b []byte, last bool) ([]byte, error) {
	p.line.L.Lock()
	defer p.line.L.Unlock()
	if last && p.closed {
		return b, nil
	}
	p.closed = p.closed || last
	return p.mark(b, p.reached, p.epoch0, nil)
}

type state uint8

const (
	waiting state = iota // not begun
	idle                 // to be fetched
	busy                 // being fetched
	ailing               // waits for fresh metadata
	done
)

func (p *partition) String() string { return fmt.Sprintf("%s/%d", p.topic, p.num) }

// A source fetches partitions from their leaders: one goroutine a broker, each
// with one request on the way for all idle partitions that the broker leads.
// Where a partition has come to is told by the batches' own offsets, so that
// markers, aborted and compacted records count as read.
type source struct {
	cl       *kgo.Client
	adm      *kadm.Client
	cfg      Config
	log      *slog.Logger
	stop     <-chan struct{}
	e        *encoder
	lost     *losses
	parts    []*partition
	limit    int  // partitions read at once
	isolated int8 // read_committed is 1 (IsolationLevel)
	progress func(done int64)
	bytes    *throttle.Limit
	records  *throttle.Limit
	follower *follower // nil where the run has an end
	member   *member   // nil where the run is in no group
	events   chan event
	yielding []*yielding

	over chan struct{} // there is something for run to look at

	mu      sync.Mutex
	changed *sync.Cond
	next    int // index of the next partition to begin
	left    int // partitions begun and not done, or not begun
	active  []*partition
	brokers map[int32]bool // that have a goroutine
	scanned int64
	// Goroutines that wait for the stages downstream, or for a limit, and since when
	// there are any; how long there were some until then.
	waiting int
	since   time.Time
	waited  time.Duration
	began   time.Time
	pausing bool // nothing more is claimed
	stopped bool // by the stop channel
	failed  bool
}

func newSource(cl *kgo.Client, cfg Config, env *command.Env, parts []*partition, e *encoder) *source {
	s := &source{
		cl: cl, adm: kadm.NewClient(cl), cfg: cfg, log: env.Log, stop: env.Stop, e: e, lost: e.lost, parts: parts,
		limit: cfg.Concurrency, left: len(parts), brokers: make(map[int32]bool),
		bytes: throttle.New(cfg.MaxRate), records: throttle.New(cfg.MaxRecords),
		over: make(chan struct{}, 1), began: time.Now(),
	}
	if cfg.Follow {
		s.limit = math.MaxInt
	}
	if !cfg.Uncommitted {
		s.isolated = 1
	}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// run fetches until every partition is at its end, or until it is told to stop.
func (s *source) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wake := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.failed = true
		s.changed.Broadcast()
	})
	defer wake()
	halted := make(chan struct{})
	defer close(halted)
	// What is on its way from a broker is given up at once; what has come is kept.
	fetching, halt := context.WithCancel(ctx)
	defer halt()
	go func() {
		select {
		case <-s.stop:
			s.mu.Lock()
			s.stopped = !s.finishedAll()
			s.mu.Unlock()
			halt()
			s.changed.Broadcast()
		case <-halted:
		}
	}()
	var serving sync.WaitGroup
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		if err := s.begin(ctx); err != nil {
			cancel(err)
			break
		}
		s.mu.Lock()
		for _, p := range s.active {
			if p.state == idle && !s.brokers[p.leader] {
				s.brokers[p.leader] = true
				broker := p.leader
				serving.Go(func() {
					if err := s.serve(ctx, fetching, broker); err != nil {
						cancel(err)
					}
				})
			}
		}
		finished := s.finishedAll() || s.stopped || s.failed
		s.mu.Unlock()
		if finished {
			break
		}
		if err := s.yield(ctx); err != nil {
			cancel(err)
		}
		select {
		case <-s.over:
		case ev := <-s.events:
			if err := s.assigned(ctx, fetching, ev); err != nil && fetching.Err() == nil {
				cancel(err)
			}
		case <-fetching.Done():
		case <-tick.C:
			if err := s.tend(fetching); err != nil {
				cancel(err)
			}
			if s.follower != nil {
				if err := s.follower.tend(ctx, fetching, s); err != nil {
					cancel(err)
				}
			}
		}
	}
	serving.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return s.finish(ctx)
}

// finishedAll tells whether there is no more to come. The lock is held.
func (s *source) finishedAll() bool { return s.left == 0 && s.follower == nil }

// begin takes up partitions while fewer than the limit are active.
func (s *source) begin(ctx context.Context) error {
	for {
		s.mu.Lock()
		s.active = slices.DeleteFunc(s.active, func(p *partition) bool { return p.state == done })
		if len(s.active) >= s.limit || s.next == len(s.parts) || s.stopped || s.failed {
			s.mu.Unlock()
			return nil
		}
		p := s.parts[s.next]
		s.next++
		s.mu.Unlock()
		p.line = sync.NewCond(new(sync.Mutex))
		if p.lastSeen = -1; !p.branch {
			p.lastSeen = p.resumed.epoch
		}
		p.epoch0 = p.lastSeen
		j := &job{p: p, role: opening}
		var err error
		if j.head, err = p.opening(nil); err != nil {
			return err
		}
		if p.lost[0] < p.lost[1] {
			if j.head, err = p.mark(j.head, p.lost[1], -1, [][2]int64{p.lost}); err != nil {
				return err
			}
			p.pos = p.lost[1]
		}
		p.reached, p.marked = p.pos, p.pos
		over := p.pos >= p.end
		if err := s.put(ctx, j); err != nil {
			return err
		}
		s.mu.Lock()
		p.moved = s.clock()
		if p.state = idle; over {
			s.finished(p)
		} else if p.leader < 0 {
			p.state, p.trouble = ailing, kerr.LeaderNotAvailable
		}
		s.active = append(s.active, p)
		s.changed.Broadcast()
		s.mu.Unlock()
	}
}

// opening appends the partition's first mark to b.
func (p *partition) opening(b []byte) ([]byte, error) {
	m := p.newMark(p.pos, -1)
	m.Begins, m.Branch = p.begins, p.branch
	return m.AppendFrame(b)
}

// mark appends another. The leader epoch is -1 before the first batch.
func (p *partition) mark(b []byte, next int64, epoch int32, lost [][2]int64) ([]byte, error) {
	m := p.newMark(next, epoch)
	m.Lost = lost
	return m.AppendFrame(b)
}

func (p *partition) newMark(next int64, epoch int32) *format.Mark {
	m := &format.Mark{Topic: p.topic, Partition: p.num, Next: next}
	m.TopicID, m.LogStart = kafka.FormatTopicID(p.id), &p.logStart
	if p.end != openEnd {
		m.End = &p.end
	}
	if epoch >= 0 {
		m.LeaderEpoch = &epoch
	}
	return m
}

// serve fetches from one broker.
func (s *source) serve(ctx, fetching context.Context, broker int32) error {
	for {
		set := s.claim(broker)
		if set == nil {
			return nil
		}
		req, byID := s.request(set)
		answer, err := s.cl.Broker(int(broker)).RetriableRequest(fetching, req)
		if fetching.Err() != nil {
			s.release(set)
			return nil // the next claim says whether this was the end
		}
		if err != nil {
			s.ail(set, fmt.Errorf("broker %d: %w", broker, err))
			continue
		}
		resp := answer.(*kmsg.FetchResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			s.ail(set, fmt.Errorf("broker %d: %w", broker, err))
			continue
		}
		if err := s.handle(ctx, set, byID, resp); err != nil {
			return err
		}
		if s.follower != nil {
			if err := s.markIdle(ctx, set); err != nil {
				return err
			}
		}
		if err := s.throttle(fetching, resp); err != nil && fetching.Err() == nil {
			return err
		}
		s.release(set)
	}
}

// claim waits for idle partitions that a broker leads and takes all of them, or
// nil when there is no more to do.
func (s *source) claim(broker int32) []*partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.finishedAll() || s.stopped || s.failed {
			return nil
		}
		var set []*partition
		for _, p := range s.active {
			if p.state == idle && p.leader == broker && !s.pausing && !p.leaving {
				if p.empty > 0 { // see settle
					set = []*partition{p}
					break
				}
				set = append(set, p)
			}
		}
		if len(set) > 0 {
			for _, p := range set {
				p.state = busy
			}
			return set
		}
		s.changed.Wait()
	}
}

// release makes what is left of a claim idle again, those of which least was
// heard first: a broker fills a response in the order of the request.
func (s *source) release(set []*partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range set {
		if p.state == busy {
			p.state = idle
		}
	}
	slices.SortStableFunc(s.active, func(a, b *partition) int { return cmp.Compare(a.moved, b.moved) })
	s.changed.Broadcast()
	if len(s.yielding) > 0 {
		s.look()
	}
}

// look wakes run. The lock is held.
func (s *source) look() {
	select {
	case s.over <- struct{}{}:
	default: // it has a look to take already
	}
}

func (s *source) ail(set []*partition, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range set {
		if p.state == busy {
			p.state, p.trouble = ailing, why
		}
	}
}

func (s *source) request(set []*partition) (*kmsg.FetchRequest, map[[16]byte]string) {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1
	req.MaxWaitMillis = int32(s.cfg.FetchWait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = s.cfg.FetchBytes
	if rate := s.cfg.MaxRate; rate > 0 { // no more than a second's worth
		req.MaxBytes = int32(min(int64(req.MaxBytes), rate))
	}
	req.IsolationLevel = s.isolated
	req.SessionEpoch = -1 // no fetch session: the set changes with every request
	byID := make(map[[16]byte]string)
	topics := make(map[string]int)
	for _, p := range set {
		i, ok := topics[p.topic]
		if !ok {
			i = len(req.Topics)
			topics[p.topic], byID[p.id] = i, p.topic
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = p.topic, p.id
			req.Topics = append(req.Topics, t)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.CurrentLeaderEpoch = p.num, p.pos, p.epoch
		rp.PartitionMaxBytes = max(s.cfg.FetchPartitionBytes, req.MaxBytes/int32(len(set)))
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
	}
	return req, byID
}

// handle takes a response apart.
func (s *source) handle(ctx context.Context, set []*partition, byID map[[16]byte]string, resp *kmsg.FetchResponse) error {
	type key struct {
		topic string
		num   int32
	}
	asked := make(map[key]*partition, len(set))
	for _, p := range set {
		asked[key{p.topic, p.num}] = p
	}
	for i := range resp.Topics {
		t := &resp.Topics[i]
		topic := t.Topic
		if topic == "" {
			topic = byID[t.TopicID]
		}
		for j := range t.Partitions {
			rp := &t.Partitions[j]
			p := asked[key{topic, rp.Partition}]
			if p == nil {
				return fmt.Errorf("fetch: a broker answered for %s/%d, which it was not asked for", topic, rp.Partition)
			}
			if err := s.handlePartition(ctx, p, rp, len(set) == 1 && resp.ThrottleMillis == 0); err != nil {
				return fmt.Errorf("fetch %s: %w", p, err)
			}
		}
	}
	return nil
}

func (s *source) handlePartition(ctx context.Context, p *partition, rp *kmsg.FetchResponseTopicPartition, alone bool) error {
	if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange):
			return s.outOfRange(ctx, p)
		case s.follower != nil && (errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.InconsistentTopicID)):
			s.ail([]*partition{p}, err)
			s.follower.hurry()
			return nil
		case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
			return fmt.Errorf("the topic was deleted, or deleted and created again, while it was read: %w", err)
		case kerr.IsRetriable(err):
			s.ail([]*partition{p}, err)
			return nil
		}
		return err
	}
	got, err := scan(rp.RecordBatches, place{p.pos, p.aligned}, p.end, rp.HighWatermark)
	if err != nil {
		return err
	}
	next := got.next
	if got.size == 0 {
		if next = s.settle(p, rp, alone); next == p.pos {
			return nil
		}
	} else {
		p.lastSeen, p.aligned = got.epoch, true
	}
	j := &job{p: p, from: p.pos, epoch: p.lastSeen, batches: rp.RecordBatches[:got.size], aborted: rp.AbortedTransactions}
	return s.advance(ctx, p, min(next, p.end), j)
}

// advance queues a job that takes p to the offset next.
func (s *source) advance(ctx context.Context, p *partition, next int64, j *job) error {
	j.next = next
	over := next >= p.end
	if over {
		var err error
		if j.tail, err = p.mark(j.tail, next, p.lastSeen, nil); err != nil {
			return err
		}
	}
	if err := s.put(ctx, j); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scanned += next - p.pos
	s.progress(s.scanned)
	p.pos, p.moved, p.advanced, p.empty, p.trouble = next, s.clock(), time.Now(), 0, nil
	if over {
		s.finished(p)
	}
	return nil
}

// finished counts p off. The lock is held.
func (s *source) finished(p *partition) {
	p.state = done
	s.left--
	s.changed.Broadcast()
	s.look()
}

// put queues a job.
func (s *source) put(ctx context.Context, j *job) error {
	defer s.wait()()
	return s.e.put(ctx, j)
}

// wait says that this goroutine waits for the stages downstream, or for a limit, until
// done.
func (s *source) wait() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting++; s.waiting == 1 {
		s.since = time.Now()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.waiting--; s.waiting == 0 {
			s.waited += time.Since(s.since)
		}
	}
}

// clock is the time that the run has taken, without that in which it waited for what
// is not the brokers' fault. Timeouts run by it. The lock is held.
func (s *source) clock() time.Duration {
	now := time.Since(s.began) - s.waited
	if s.waiting > 0 {
		now -= time.Since(s.since)
	}
	return now
}

// throttle waits until the next request may be made, after what a response brought.
func (s *source) throttle(ctx context.Context, resp *kmsg.FetchResponse) error {
	if s.bytes == nil && s.records == nil {
		return nil
	}
	var bytes, records int64
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			rest := resp.Topics[i].Partitions[j].RecordBatches
			bytes += int64(len(rest))
			for len(rest) > 0 && s.records != nil {
				t, more, err := recordbatch.CutChecked(rest)
				if err != nil {
					break // handled before
				}
				records, rest = records+int64(t.Records), more
			}
		}
	}
	defer s.wait()()
	return errors.Join(s.bytes.Wait(ctx, bytes), s.records.Wait(ctx, records))
}

// settle decides whether a fetch that brought nothing means that there is nothing up
// to the partition's end, or to what is wanted of it while it is followed, and returns
// where that takes the partition. It can mean that: compaction removes a tombstone, and with it
// perhaps the last batch below the last stable offset; then a broker answers
// with no records for ever (LocalLog.read: "all messages with offset greater
// than start offset have been deleted"). But an empty answer can also mean that
// the response was full, that a quota held the records back, or that a new
// leader is behind. So ask for the partition alone, several times, with a last
// stable offset that is past the target each time.
func (s *source) settle(p *partition, rp *kmsg.FetchResponseTopicPartition, alone bool) (next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := p.end
	if end == openEnd {
		if end = p.target; p.pos >= end { // a broker has no more of it for now
			p.moved, p.trouble = s.clock(), nil
			return p.pos
		}
	}
	stable := rp.LastStableOffset // -1 where the request did not ask for it
	if s.isolated == 0 {
		stable = rp.HighWatermark
	}
	if len(rp.RecordBatches) > 0 || stable < end || rp.HighWatermark < end {
		p.empty = 0
		if len(rp.RecordBatches) > 0 && alone {
			p.trouble = fmt.Errorf("the record batch at offset %d is cut short, or says that it is longer than it is", p.pos)
		}
		if rp.HighWatermark < end {
			p.trouble = fmt.Errorf("the partition ended at offset %d before and ends at %d now", end, rp.HighWatermark)
		}
		return p.pos
	}
	if p.empty == 0 || alone {
		p.empty++
	}
	if p.empty > confirmEmpty {
		return end
	}
	return p.pos
}

// outOfRange is what to do about an offset that the leader does not have.
func (s *source) outOfRange(ctx context.Context, p *partition) error {
	starts, err := s.adm.ListStartOffsets(ctx, p.topic)
	if err != nil {
		return fmt.Errorf("list start offsets: %w", err)
	}
	start, ok := starts.Lookup(p.topic, p.num)
	if !ok || start.Err != nil {
		s.ail([]*partition{p}, kerr.OffsetOutOfRange)
		return nil
	}
	if start.Offset <= p.pos {
		s.ail([]*partition{p}, fmt.Errorf("offset %d, of records that ended at %d at the start, is past the partition's end now (unclean leader election?)", p.pos, p.end))
		return nil
	}
	to := min(start.Offset, p.end)
	what := deleted(p, p.pos, to)
	if s.cfg.FailOnLoss {
		return lossError(what)
	}
	s.lost.add(what)
	p.aligned = false
	j := &job{p: p, epoch: p.lastSeen}
	if j.head, err = p.mark(nil, to, p.lastSeen, [][2]int64{{p.pos, to}}); err != nil {
		return err
	}
	return s.advance(ctx, p, to, j)
}

// tend looks for fresh leaders of partitions in trouble, and gives up on those
// that have made no progress for the timeout.
func (s *source) tend(ctx context.Context) error {
	s.mu.Lock()
	var names []string
	for _, p := range s.active {
		if p.state == done {
			continue
		}
		if s.clock()-p.moved > s.cfg.Timeout {
			why := p.trouble
			if why == nil {
				why = errors.New("the broker sends nothing")
			}
			s.mu.Unlock()
			return fmt.Errorf("fetch %s: no progress at offset %d for %s: %w", p, p.pos, s.cfg.Timeout, why)
		}
		if p.state == ailing && !slices.Contains(names, p.topic) {
			names = append(names, p.topic)
		}
	}
	s.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	meta, err := s.adm.Metadata(ctx, names...)
	if err != nil {
		s.log.Debug("metadata: " + err.Error())
		return nil // the timeout decides
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.active {
		if p.state != ailing {
			continue
		}
		t := meta.Topics[p.topic]
		if s.follower == nil && t.Err == nil && p.id != [16]byte{} && t.ID != [16]byte{} && p.id != t.ID {
			return fmt.Errorf("fetch %s: the topic was deleted and created again while it was read", p)
		}
		d, ok := t.Partitions[p.num]
		if !ok || d.Leader < 0 || p.id != t.ID {
			continue
		}
		s.log.Debug(fmt.Sprintf("%s: %v; asking broker %d", p, p.trouble, d.Leader))
		p.leader, p.epoch, p.state = d.Leader, d.LeaderEpoch, idle
	}
	s.changed.Broadcast()
	return nil
}

// finish writes the last mark of each partition that was begun and has none: where
// it had come to when the run was told to stop.
func (s *source) finish(ctx context.Context) error {
	for _, p := range s.parts[:s.next] {
		if err := s.put(ctx, &job{p: p, role: closing}); err != nil {
			return err
		}
	}
	return nil
}
