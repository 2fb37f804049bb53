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
	parts []orderPart
	pause time.Duration // to make before
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

func newOrder(parts []*partition, pause time.Duration) *order {
	o := &order{parts: make([]orderPart, len(parts)), pause: pause}
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
		tell(b.ask(ctx, cl, cfg, o))
	}
}

// ask makes one order.
func (b *broker) ask(ctx context.Context, cl *kgo.Client, cfg Config, o *order) *answer {
	a := &answer{from: b, order: o}
	began := time.Now()
	resp, err := cl.Broker(int(b.id)).RetriableRequest(ctx, fetchRequest(o, cfg))
	a.took = time.Since(began)
	if err == nil {
		err = kerr.ErrorForCode(resp.(*kmsg.FetchResponse).ErrorCode)
	}
	if err != nil {
		a.err = fmt.Errorf("broker %d: %w", b.id, err)
		return a
	}
	a.read(resp.(*kmsg.FetchResponse), cfg.Uncommitted)
	return a
}

func fetchRequest(o *order, cfg Config) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1
	req.MaxWaitMillis = int32(cfg.FetchWait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = cfg.FetchBytes
	if rate := cfg.MaxRate; rate > 0 { // no more than a second's worth
		req.MaxBytes = int32(min(int64(req.MaxBytes), rate))
	}
	if !cfg.Uncommitted {
		req.IsolationLevel = 1 // IsolationLevel.READ_COMMITTED
	}
	req.SessionEpoch = -1 // no fetch session: the set changes with every request
	topics := make(map[[16]byte]int)
	names := make(map[string]int) // where brokers give no topic ids
	for i := range o.parts {
		p := &o.parts[i]
		at, ok := topics[p.id]
		if p.id == [16]byte{} {
			at, ok = names[p.topic]
		}
		if !ok {
			at = len(req.Topics)
			topics[p.id], names[p.topic] = at, at
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = p.topic, p.id
			req.Topics = append(req.Topics, t)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = p.num, p.from.offset, p.epoch, p.from.epoch
		rp.PartitionMaxBytes = max(cfg.FetchPartitionBytes, req.MaxBytes/int32(len(o.parts)))
		req.Topics[at].Partitions = append(req.Topics[at].Partitions, rp)
	}
	return req
}

// read takes a response apart.
func (a *answer) read(resp *kmsg.FetchResponse, uncommitted bool) {
	a.throttled = resp.ThrottleMillis > 0
	type key struct {
		id    [16]byte
		topic string
		num   int32
	}
	asked := make(map[key]*orderPart, len(a.order.parts))
	byID := resp.Version >= 13
	for i := range a.order.parts {
		p := &a.order.parts[i]
		k := key{topic: p.topic, num: p.num}
		if byID {
			k.id, k.topic = p.id, ""
		}
		asked[k] = p
	}
	a.parts = make([]partAnswer, 0, len(asked))
	for i := range resp.Topics {
		t := &resp.Topics[i]
		k := key{topic: t.Topic}
		if byID {
			k.id, k.topic = t.TopicID, ""
		}
		for j := range t.Partitions {
			k.num = t.Partitions[j].Partition
			p := asked[k]
			if p == nil {
				a.err = fmt.Errorf("broker %d answered for %s/%d, which it was not asked for", a.from.id, t.Topic, k.num)
				return
			}
			part, records := readPart(p, &t.Partitions[j], uncommitted)
			a.parts = append(a.parts, part)
			a.bytes += int64(len(t.Partitions[j].RecordBatches))
			a.records += records
		}
	}
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
