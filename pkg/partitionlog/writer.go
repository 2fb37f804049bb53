package partitionlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/recordbatch"
)

const (
	// maxFlying is how many requests may be on their way to a broker, and so how many
	// batches of a partition: a broker knows that many again (ProducerStateEntry,
	// NUM_BATCHES_TO_RETAIN).
	maxFlying = 5
	// maxRequest bounds what goes into a request, unless a single batch is larger.
	maxRequest = 1 << 20
	// smallRequest is a request that costs about as much as one of half its size. It waits
	// for more as long as another is on its way, and no longer than gatherFor.
	smallRequest = 64 << 10
	gatherFor    = 20 * time.Millisecond
	// ackTimeout is how long a broker may wait for its followers.
	ackTimeout = 30 * time.Second
)

// ErrSequence says that a broker expects another sequence number of this producer.
var ErrSequence = errors.New("the broker has another batch of this producer last")

// A Batch is a record batch that is to be written, with its producer and checksum.
type Batch struct {
	Raw []byte
	// Done is told the offset of the first record, and the timestamp that the broker
	// gave all of them; -1 where it left theirs. Calls for one partition come in order,
	// from the writer's own goroutine: Done must not wait for anything.
	Done func(base, appendTime int64, err error)
}

// A Writer writes batches to partitions, each partition's in order. All state belongs to
// one goroutine, which takes messages.
type Writer struct {
	logs   *Logs
	ctx    context.Context
	events chan func()
	ended  chan struct{}

	all     []*Log
	senders map[int32]*sender
}

// A Log is a partition that is written to.
type Log struct {
	w *Writer
	p Partition

	queue  []item // not yet acknowledged, or behind one that is not
	next   int    // of queue, the first that is not on its way
	flying int    // how many are
	// What a broker writes and does not say is in the log behind acked, the end of what it
	// has acknowledged. unsure says that there may be such batches, of the first tried in queue.
	acked  int64
	tried  int
	unsure bool
	// proven says that the leader has taken a batch. Before that it may not know the
	// producer, and would take any sequence: of two batches on their way the second
	// could come to be the first (KAFKA-15591). So one goes alone.
	proven bool
	leader int32 // -1: it is not known
	id     [16]byte
	line   *sender // in whose line it is

	trouble error     // with an answer; cleared when the batches go out again
	retries int       // since the last success
	moved   time.Time // when there was progress
	wait    *Wait     // while it takes long
	failed  error
}

type item struct {
	Batch
	done                  bool
	base, end, appendTime int64
}

// written notes where a batch has got to.
func (it *item) written(base, appendTime int64) {
	it.done, it.base, it.end, it.appendTime = true, base, base, appendTime
	if b, _, err := recordbatch.Cut(it.Raw); err == nil {
		it.end = base + b.Last - b.First + 1
	}
}

// A sender sends requests to one broker, in order.
type sender struct {
	broker    int32
	line      []*Log // with a batch to send
	flying    int
	throttled time.Time // by a quota, until then
	sent      time.Time // the last request
	gathering bool      // small batches wait for more
	requests  chan *request
}

type request struct {
	*kmsg.ProduceRequest
	logs    []*Log // in the order of its partitions
	raws    [][]byte
	written func() // called when it is being written
}

// AppendTo implements kmsg.Request. The client calls it when it writes the request to
// the connection: the next one that it is given can only be behind.
func (r *request) AppendTo(b []byte) []byte {
	b = r.ProduceRequest.AppendTo(b)
	r.written()
	return b
}

// NewWriter returns a writer that works until ctx ends.
func (g *Logs) NewWriter(ctx context.Context) *Writer {
	w := &Writer{logs: g, ctx: ctx, events: make(chan func()), ended: make(chan struct{}), senders: make(map[int32]*sender)}
	go w.run()
	return w
}

// Open returns the log of a partition, which ends at an offset or behind it. One goroutine
// may append to it.
func (w *Writer) Open(p Partition, end int64) *Log {
	l := &Log{w: w, p: p, leader: -1, acked: end}
	w.do(func() { w.all = append(w.all, l) })
	return l
}

// Append writes a batch behind those before it.
func (l *Log) Append(b Batch) {
	if !l.w.do(func() { l.append(b) }) {
		b.Done(0, -1, context.Cause(l.w.ctx))
	}
}

// do has the writer's goroutine call f, unless it has ended.
func (w *Writer) do(f func()) bool {
	select {
	case w.events <- f:
		return true
	case <-w.ended:
		return false
	}
}

// Ended is closed when the writer has ended, and no Done is called any more.
func (w *Writer) Ended() <-chan struct{} { return w.ended }

func (w *Writer) run() {
	defer close(w.ended)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case f := <-w.events:
			f()
		case now := <-tick.C:
			for _, l := range w.all {
				l.check(now)
			}
		case <-w.ctx.Done():
			for _, l := range w.all {
				l.fail(context.Cause(w.ctx))
			}
			for _, s := range w.senders {
				close(s.requests)
			}
			return
		}
	}
}

func (l *Log) append(b Batch) {
	if l.failed != nil {
		b.Done(0, -1, l.failed)
		return
	}
	if len(l.queue) == 0 {
		l.moved = time.Now()
	}
	l.queue = append(l.queue, item{Batch: b})
	if l.leader < 0 && len(l.queue) == 1 {
		l.locate(time.Time{})
		return
	}
	l.offer()
}

// offer puts the log into its sender's line, if it has something to send now.
func (l *Log) offer() {
	if !l.ready() {
		return
	}
	s := l.w.sender(l.leader)
	if l.line != s {
		l.line = s // if it is in another's line, it is passed over there
		s.line = append(s.line, l)
	}
	l.w.dispatch(s)
}

// ready tells whether the next batch may be sent now. It may be no more than some batches
// from the oldest that is not acknowledged, or the broker would not know that one again.
func (l *Log) ready() bool {
	return l.leader >= 0 && l.trouble == nil && l.failed == nil && l.next < len(l.queue) &&
		l.next < maxFlying && (l.proven || l.flying == 0)
}

func (w *Writer) sender(broker int32) *sender {
	s := w.senders[broker]
	if s == nil {
		s = &sender{broker: broker, requests: make(chan *request, maxFlying)}
		w.senders[broker] = s
		go w.send(s)
	}
	return s
}

// dispatch fills a broker's free slots. A request has one batch of each of some
// partitions: those that wait.
func (w *Writer) dispatch(s *sender) {
	for s.flying < maxFlying && len(s.line) > 0 {
		if s.flying > 0 && time.Since(s.sent) < gatherFor && s.waiting() < smallRequest {
			if !s.gathering {
				s.gathering = true
				time.AfterFunc(gatherFor, func() { w.do(func() { s.gathering = false; w.dispatch(s) }) })
			}
			return
		}
		r := &request{ProduceRequest: kmsg.NewPtrProduceRequest()}
		r.Acks, r.TimeoutMillis = -1, int32(ackTimeout.Milliseconds())
		size := 0
		topics := make(map[string]int)
		for len(s.line) > 0 {
			l := s.line[0]
			if l.line != s || l.leader != s.broker || !l.ready() { // things have changed since it was put there
				if l.line == s {
					l.line = nil
				}
				s.line = s.line[1:]
				continue
			}
			raw := l.queue[l.next].Raw
			if size += len(raw); size > maxRequest && len(r.logs) > 0 {
				break
			}
			s.line, l.line = s.line[1:], nil
			l.take()
			r.add(l, raw, topics)
		}
		if len(r.logs) == 0 {
			return
		}
		s.flying++
		s.sent = time.Now()
		s.requests <- r
		for _, l := range r.logs {
			if l.ready() && l.line != s {
				l.line = s
				s.line = append(s.line, l)
			}
		}
	}
}

// waiting is how many bytes could be sent, as far as that matters.
func (s *sender) waiting() (n int) {
	for _, l := range s.line {
		if l.line == s && l.ready() {
			n += len(l.queue[l.next].Raw)
		}
		if n >= smallRequest {
			break
		}
	}
	return n
}

// take counts the next batch as being on its way, and goes to the one behind it that is
// not acknowledged.
func (l *Log) take() {
	l.flying++
	for l.next++; l.next < len(l.queue) && l.queue[l.next].done; l.next++ {
	}
	l.tried = max(l.tried, l.next)
}

func (r *request) add(l *Log, raw []byte, topics map[string]int) {
	i, ok := topics[l.p.Topic]
	if !ok {
		t := kmsg.NewProduceRequestTopic()
		t.Topic, t.TopicID = l.p.Topic, l.id
		i = len(r.Topics)
		r.Topics, topics[l.p.Topic] = append(r.Topics, t), i
	}
	part := kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = l.p.Num, raw
	r.Topics[i].Partitions = append(r.Topics[i].Partitions, part)
	r.logs, r.raws = append(r.logs, l), append(r.raws, raw)
}

// send sends requests one behind the other. The client would send those that come from
// several goroutines in any order, so each waits until the one before is being written.
func (w *Writer) send(s *sender) {
	for r := range s.requests {
		written := make(chan struct{})
		var once sync.Once
		r.written = func() { once.Do(func() { close(written) }) }
		go func() {
			answer, err := w.logs.cl.Broker(int(s.broker)).Request(w.ctx, r)
			r.written()
			resp, _ := answer.(*kmsg.ProduceResponse)
			if err == nil && resp == nil {
				err = errNoAnswer
			}
			w.do(func() { w.answered(s, r, resp, err) })
		}()
		<-written
	}
}

func (w *Writer) answered(s *sender, r *request, resp *kmsg.ProduceResponse, err error) {
	s.flying--
	now := time.Now()
	if err == nil && resp.ThrottleMillis > 0 {
		s.throttled = now.Add(time.Duration(resp.ThrottleMillis) * time.Millisecond)
	}
	for i, l := range r.logs {
		part := resultOf(resp, l)
		if err == nil && part == nil {
			l.answered(r.raws[i], 0, -1, errNoAnswer)
			continue
		}
		if err != nil {
			l.answered(r.raws[i], 0, -1, err)
			continue
		}
		l.answered(r.raws[i], part.BaseOffset, part.LogAppendTime, explained(part))
	}
	w.dispatch(s)
}

func resultOf(resp *kmsg.ProduceResponse, l *Log) *kmsg.ProduceResponseTopicPartition {
	if resp == nil {
		return nil
	}
	for i := range resp.Topics {
		t := &resp.Topics[i]
		if t.Topic != l.p.Topic && (t.Topic != "" || t.TopicID != l.id) {
			continue
		}
		for j := range t.Partitions {
			if t.Partitions[j].Partition == l.p.Num {
				return &t.Partitions[j]
			}
		}
	}
	return nil
}

// explained is the error of an answer with what the broker says of it.
func explained(part *kmsg.ProduceResponseTopicPartition) error {
	err := kerr.ErrorForCode(part.ErrorCode)
	if err == nil {
		return nil
	}
	said := ""
	if part.ErrorMessage != nil && *part.ErrorMessage != "" {
		said = *part.ErrorMessage
	}
	for _, rec := range part.ErrorRecords {
		if rec.ErrorMessage != nil {
			said = *rec.ErrorMessage
			break
		}
	}
	if said == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, said)
}

// answered takes the answer for one batch.
func (l *Log) answered(raw []byte, base, appendTime int64, err error) {
	l.flying--
	if l.failed != nil {
		return
	}
	at := 0
	for at < len(l.queue) && &l.queue[at].Raw[0] != &raw[0] {
		at++
	}
	front := at == 0
	l.unsure = l.unsure || mayBeWritten(err)
	switch {
	case at == len(l.queue):
		return // an earlier try of it was answered
	case err == nil:
		it := &l.queue[at]
		it.written(base, replaced(raw, appendTime))
		l.pop()
	// Clients take a duplicate for written (KIP-98). Where the broker does not remember the batch
	// itself, that proves nothing: such a record was seen to be missing.
	case errors.Is(err, kerr.OutOfOrderSequenceNumber) && front, errors.Is(err, kerr.UnknownProducerID), errors.Is(err, kerr.DuplicateSequenceNumber):
		l.fail(fmt.Errorf("%w: %w", ErrSequence, err))
		return
	case errors.Is(err, kerr.OutOfOrderSequenceNumber): // because one before it failed
		l.trouble = cmp.Or(l.trouble, err)
	case !retriable(err):
		l.fail(err)
		return
	default:
		l.trouble = err
	}
	if l.trouble != nil && l.flying == 0 {
		l.again()
		return
	}
	l.offer()
}

// replaced is the time that the broker has given to the records of a batch in place of
// theirs, -1 where it has not. Of a batch that it had already, a broker that keeps times
// answers with that batch's latest (UnifiedLog.append).
func replaced(raw []byte, appendTime int64) int64 {
	if appendTime < 0 {
		return -1
	}
	if b, _, err := recordbatch.Cut(raw); err == nil && b.MaxTimestamp == appendTime {
		return -1
	}
	return appendTime
}

// pop tells of the batches at the front that are acknowledged.
func (l *Log) pop() {
	for len(l.queue) > 0 && l.queue[0].done {
		it := &l.queue[0]
		it.Done(it.base, it.appendTime, nil)
		l.acked = it.end
		*it = item{}
		l.queue = l.queue[1:]
		l.next, l.tried = max(l.next-1, 0), max(l.tried-1, 0)
		l.proven, l.retries, l.moved = true, 0, time.Now()
		l.endWait()
	}
}

// again sends what is not acknowledged once more, in a moment, to whoever leads then.
func (l *Log) again() {
	if len(l.queue) == 0 {
		l.trouble = nil
		return
	}
	since := time.Now()
	pause := backoff(l.retries)
	l.retries++
	l.w.logs.retry(l.trouble)
	time.AfterFunc(pause, func() { l.w.do(func() { l.locate(since) }) })
}

// locate looks for the leader. What is known of it must not be older than since.
func (l *Log) locate(since time.Time) {
	l.leader = -1
	go func() {
		leader, id, err := l.w.logs.leader(l.w.ctx, l.p, since)
		l.w.do(func() { l.located(leader, id, err) })
	}()
}

func (l *Log) located(leader int32, id [16]byte, err error) {
	if l.failed != nil {
		return
	}
	if err != nil {
		if l.trouble = err; !retriable(err) {
			l.fail(err)
			return
		}
		l.again()
		return
	}
	if l.unsure {
		l.findSent(leader, id)
		return
	}
	l.leader, l.id, l.trouble, l.next = leader, id, nil, 0
	for l.next < len(l.queue) && l.queue[l.next].done {
		l.next++
	}
	l.proven = false
	l.offer()
}

// findSent finds the batches that were written without an answer. A broker that is asked again
// tells them by their sequence, but it forgets the producer of old records when it is
// started anew, and every ten minutes: after producer.id.expiration.ms, which it counts from
// the records' own timestamps (ProducerStateManager.isProducerExpired).
func (l *Log) findSent(leader int32, id [16]byte) {
	var sent []recordbatch.Batch
	var of []int // in queue
	for i := range l.queue[:l.tried] {
		if b, _, err := recordbatch.Cut(l.queue[i].Raw); err == nil && !l.queue[i].done {
			sent, of = append(sent, b), append(of, i)
		}
	}
	from := l.acked
	go func() {
		found, err := l.w.logs.find(l.w.ctx, l.p, from, sent)
		l.w.do(func() {
			if l.failed != nil {
				return
			}
			for _, f := range found {
				l.queue[of[f.sent]].written(f.base, f.appendTime)
			}
			l.pop()
			if l.unsure = err != nil; err == nil {
				l.located(leader, id, nil)
			} else if l.trouble = err; retriable(err) {
				l.again()
			} else {
				l.fail(err)
			}
		})
	}()
}

// mayBeWritten tells whether a batch may be in the log that was answered with err.
func mayBeWritten(err error) bool {
	var ke *kerr.Error
	switch {
	case err == nil:
		return false
	case !errors.As(err, &ke): // the connection's
		return true
	}
	return errors.Is(err, kerr.RequestTimedOut) || errors.Is(err, kerr.NotEnoughReplicasAfterAppend) || errors.Is(err, kerr.UnknownServerError)
}

// check looks whether the log has moved lately.
func (l *Log) check(now time.Time) {
	if len(l.queue) == 0 || l.failed != nil {
		return
	}
	since := l.moved
	reason := l.trouble
	s := l.w.senders[l.leader]
	switch {
	case s != nil && s.throttled.After(now):
		reason = fmt.Errorf("a quota: broker %d makes this client wait", l.leader)
	case reason == nil && l.leader >= 0:
		reason = fmt.Errorf("no answer from broker %d", l.leader)
	case reason == nil:
		reason = errors.New("its leader is not known")
	}
	stuck, counted := now.Sub(since), now.Sub(since)
	if s != nil && s.throttled.After(since) { // that is no fault
		counted = now.Sub(s.throttled)
	}
	if counted > l.w.logs.timeout {
		l.fail(fmt.Errorf("%w (for %s)", reason, l.w.logs.timeout))
		return
	}
	if stuck < quietWait {
		l.endWait()
		return
	}
	if l.wait == nil {
		l.wait = l.w.logs.waits.begin(l.p, since)
	}
	l.wait.Because(reason)
}

// endWait ends the message that the log is waited for, if there is one.
func (l *Log) endWait() {
	if l.wait != nil {
		l.wait.End()
		l.wait = nil
	}
}

// fail gives up what is not acknowledged.
func (l *Log) fail(err error) {
	if l.failed != nil {
		return
	}
	l.failed = err
	l.endWait()
	queue := l.queue
	l.queue, l.next = nil, 0
	for i := range queue {
		queue[i].Done(0, -1, err)
	}
}
