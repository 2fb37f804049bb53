package fetch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A broker is asked for records by a goroutine of its own, with one request at a time.
type broker struct {
	id     int32
	orders chan *order
	busy   bool          // from an order until what it brought is in the queue
	held   time.Time     // since when that waits to be put into the queue; zero where it does not
	pause  time.Duration // before the next
}

// An order is a Fetch request to be made.
type order struct {
	parts   []orderPart
	session bool          // the answer may leave out what the broker has nothing to say of
	pause   time.Duration // to make before
}

// An orderPart is what is to be fetched of a partition. The partition itself is the
// source's, and only named.
type orderPart struct {
	p     *partition
	topic string
	id    [16]byte
	num   int32
	from  place
	end   int64
	epoch int32 // the leader's
}

func newOrder(parts []*partition, session bool, pause time.Duration) *order {
	o := &order{parts: make([]orderPart, len(parts)), session: session, pause: pause}
	for i, p := range parts {
		o.parts[i] = orderPart{p: p, topic: p.topic, id: p.id, num: p.num, from: place{p.pos, p.aligned, p.lastEpoch()}, end: p.end, epoch: p.epoch}
	}
	return o
}

// An answer is what came of an order.
type answer struct {
	from      *broker
	order     *order
	err       error // of all of it
	parts     []partAnswer
	throttled bool
	took      time.Duration
	bytes     int64
	records   int64
}

// A partAnswer is the part of one partition.
type partAnswer struct {
	p       *partition
	err     error
	next    int64        // behind the last whole batch
	seen    []epochStart // leader epochs that begin in it
	batches []byte       // whole ones
	partial bool         // there is none, but part of one
	aborted []kmsg.FetchResponseTopicPartitionAbortedTransaction
	stable  int64 // the offset below which all is readable
	high    int64 // the high watermark
}

// errDiverging says that the leader has other records below the offset that was asked
// for than were read (KIP-320, KIP-595).
var errDiverging = errors.New("the leader's log is not the one that was read")

// serve makes a broker's orders until there are no more.
func (b *broker) serve(ctx context.Context, cl *kgo.Client, cfg Config, tell func(*answer)) {
	session := newSession()
	for o := range b.orders {
		if o.pause > 0 {
			select {
			case <-time.After(o.pause):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return
		}
		a := &answer{from: b, order: o}
		if err := a.ask(ctx, cl, cfg, session); err != nil {
			session.end()
			a.err = fmt.Errorf("broker %d: %w", b.id, err)
		}
		tell(a)
	}
}

// ask makes the order, and takes the response apart.
func (a *answer) ask(ctx context.Context, cl *kgo.Client, cfg Config, s *session) error {
	began := time.Now()
	answer, err := cl.Broker(int(a.from.id)).RetriableRequest(ctx, s.request(a.order, cfg))
	if err != nil {
		return err
	}
	resp := answer.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); sessionOver(err) && s.epoch > 0 {
		s.end()
		return a.ask(ctx, cl, cfg, s)
	} else if err != nil {
		return err
	}
	if a.took = time.Since(began); a.order.session {
		s.answered(resp)
	}
	a.throttled = resp.ThrottleMillis > 0
	find := s.parts(a.order, resp)
	for i := range resp.Topics {
		t := &resp.Topics[i]
		for j := range t.Partitions {
			rp := &t.Partitions[j]
			p, err := find(t, rp.Partition)
			if err != nil {
				return err
			}
			part, records := readPart(p, rp, cfg.Uncommitted)
			a.parts = append(a.parts, part)
			a.bytes += int64(len(rp.RecordBatches))
			a.records += records
		}
	}
	return nil
}

// readPart finds the whole batches of a partition that are wanted, and where they lead:
// batches tell their own offsets, so that markers, aborted and compacted records count as
// read.
func readPart(p *orderPart, rp *kmsg.FetchResponseTopicPartition, uncommitted bool) (a partAnswer, records int64) {
	a = partAnswer{p: p.p, err: kerr.ErrorForCode(rp.ErrorCode), high: rp.HighWatermark, stable: rp.LastStableOffset}
	if uncommitted {
		a.stable = a.high // the other was not asked for
	}
	if a.err == nil && rp.DivergingEpoch.EndOffset >= 0 {
		a.err = errDiverging
	}
	if a.err != nil {
		return a, 0
	}
	got, err := scan(rp.RecordBatches, p.from, p.end, rp.HighWatermark)
	if err != nil {
		a.err = err
		return a, 0
	}
	a.next, a.seen, a.partial = got.next, got.seen, got.size == 0 && len(rp.RecordBatches) > 0
	a.batches, a.aborted = rp.RecordBatches[:got.size], rp.AbortedTransactions
	return a, got.records
}
