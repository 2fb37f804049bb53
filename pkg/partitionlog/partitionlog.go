// Package partitionlog reads and writes the logs of Kafka's partitions at the level of
// record batches: who leads a partition, what to do when that changes, and what to say
// when it takes long are its business alone.
package partitionlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A Partition names one partition of a cluster.
type Partition struct {
	Topic string
	Num   int32
}

func (p Partition) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.Num) }

const (
	retryMin = 50 * time.Millisecond
	retryMax = time.Second
)

// Logs are the logs of a cluster's partitions.
type Logs struct {
	cl      *kgo.Client
	adm     *kadm.Client
	timeout time.Duration
	waits   *waits
	retries *metrics.Kinds // nil: nobody counts

	ctx context.Context

	mu      sync.Mutex // is not held while anything is waited for
	topics  map[string]*topic
	markers map[int32]chan *markerJob // by broker
}

// A topic is what is known of a topic's partitions, once done is closed: it does not change then.
type topic struct {
	asked   time.Time // when the cluster was
	done    chan struct{}
	id      [16]byte
	leaders map[int32]int32
	err     error
}

// New returns the logs of the cluster that cl is connected to. What keeps a caller
// waiting is said in log; what takes longer than timeout fails. It ends with ctx.
func New(ctx context.Context, cl *kgo.Client, log *slog.Logger, timeout time.Duration) *Logs {
	g := &Logs{cl: cl, adm: kadm.NewClient(cl), timeout: timeout, waits: newWaits(log), ctx: ctx, topics: make(map[string]*topic), markers: make(map[int32]chan *markerJob)}
	go g.waits.watch(ctx)
	return g
}

// CountRetries has what is tried again counted in k, by the kind of the error. It must be called before anything else.
func (g *Logs) CountRetries(k *metrics.Kinds) { g.retries = k }

// retry counts an error that is followed by another try.
func (g *Logs) retry(err error) {
	if g.retries != nil {
		g.retries.Add(kafka.ErrorKind(err))
	}
}

// leader returns the broker that leads a partition, and the topic's id. What is known of
// the topic must not be older than since.
func (g *Logs) leader(ctx context.Context, p Partition, since time.Time) (broker int32, id [16]byte, err error) {
	t := g.topic(p, since)
	select {
	case <-t.done:
	case <-ctx.Done():
		return -1, id, context.Cause(ctx)
	}
	if broker, err = t.leader(p.Num); err != nil {
		return -1, id, err
	}
	return broker, t.id, nil
}

// topic is what is known of a partition's topic, or is being asked for, since a time. Whoever waits for the
// answer does so with a context of its own; the question does not end with one of them.
func (g *Logs) topic(p Partition, since time.Time) *topic {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.topics[p.Topic]
	if t == nil || t.asked.Before(since) || t.without(p.Num) {
		t = &topic{asked: time.Now(), done: make(chan struct{}), leaders: make(map[int32]int32)}
		g.topics[p.Topic] = t
		go g.describe(p.Topic, t)
	}
	return t
}

func (g *Logs) describe(name string, t *topic) {
	defer close(t.done)
	ctx, cancel := context.WithTimeout(g.ctx, g.timeout)
	defer cancel()
	meta, err := g.adm.Metadata(ctx, name)
	if err != nil {
		t.err = err
		return
	}
	d := meta.Topics[name]
	t.id, t.err = d.ID, d.Err
	for num, part := range d.Partitions {
		t.leaders[num] = part.Leader
	}
}

// without tells whether it is known that there is no leader of a partition: it is to be asked for again.
func (t *topic) without(partition int32) bool {
	select {
	case <-t.done:
		_, err := t.leader(partition)
		return err != nil
	default:
		return false
	}
}

func (t *topic) leader(partition int32) (int32, error) {
	broker, ok := t.leaders[partition]
	switch {
	case t.err != nil:
		return -1, t.err
	case !ok:
		return -1, kerr.UnknownTopicOrPartition
	case broker < 0:
		return -1, kerr.LeaderNotAvailable
	}
	return broker, nil
}

// retriable tells an error that may be over in a moment from one that is final. An error
// that is not the broker's is one of the connection.
func retriable(err error) bool {
	var ke *kerr.Error
	return !errors.As(err, &ke) || ke.Retriable
}

// backoff is how long to wait before the nth try after the first.
func backoff(n int) time.Duration { return min(retryMin<<min(n, 10), retryMax) }

// Retry calls do until it succeeds, fails for good, or the timeout is over. If that
// takes long it is said that p is waited for. do is told since when what it knows of the
// cluster must hold.
func (g *Logs) Retry(ctx context.Context, p Partition, do func(ctx context.Context, since time.Time) error) error {
	began := time.Now()
	limited, cancel := context.WithDeadline(ctx, began.Add(g.timeout))
	defer cancel()
	wait := g.waits.begin(p, began)
	defer wait.End()
	var last error
	for n, since := 0, (time.Time{}); ; n++ {
		err := do(limited, since)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			return nil
		case limited.Err() != nil:
			if last == nil {
				last = errors.New("no answer")
			}
			return fmt.Errorf("%w (for %s)", last, g.timeout)
		case !retriable(err):
			return err
		}
		last, since = err, time.Now()
		g.retry(err)
		wait.Because(err)
		select {
		case <-time.After(backoff(n)):
		case <-limited.Done():
		}
		// franz-go goes to the leaders that it knows until it learns that a broker is gone.
		_, _ = g.adm.BrokerMetadata(limited) // if it fails, so will do
	}
}

// request asks the leader of a partition.
func (g *Logs) request(ctx context.Context, p Partition, since time.Time, req func(id [16]byte) kmsg.Request) (kmsg.Response, error) {
	broker, id, err := g.leader(ctx, p, since)
	if err != nil {
		return nil, err
	}
	return g.cl.Broker(int(broker)).Request(ctx, req(id))
}

var errNoAnswer = errors.New("the broker did not answer for the partition")

// A Bounds is where a partition's log starts and ends.
type Bounds struct{ Start, End int64 }

// Bounds returns the bounds of topics' partitions, once all in-sync replicas have what the
// leaders have.
func (g *Logs) Bounds(ctx context.Context, topics []string) (map[Partition]Bounds, error) {
	var at map[Partition]Bounds
	if len(topics) == 0 { // no names would mean all topics
		return at, nil
	}
	err := g.Retry(ctx, Partition{"offsets of the target", -1}, func(ctx context.Context, _ time.Time) error {
		var err error
		at, err = g.look(ctx, topics)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at the target's offsets: %w", err)
	}
	return at, nil
}

// behind says that followers have not caught up.
type behind struct {
	p         Partition
	has, ends int64
}

func (b *behind) Error() string {
	return fmt.Sprintf("the replicas of %s have %d of %d offsets", b.p, b.has, b.ends)
}

// look returns the bounds as they are now.
func (g *Logs) look(ctx context.Context, topics []string) (map[Partition]Bounds, error) {
	var listed [2]kadm.ListedOffsets
	for i, list := range []func(context.Context, ...string) (kadm.ListedOffsets, error){g.adm.ListStartOffsets, g.adm.ListEndOffsets} {
		var err error
		if listed[i], err = list(ctx, topics...); err != nil {
			return nil, err
		}
		listed[i].Each(func(o kadm.ListedOffset) {
			if o.Err != nil && err == nil {
				err = fmt.Errorf("%s: %w", Partition{o.Topic, o.Partition}, o.Err)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	var parts []Partition
	listed[1].Each(func(o kadm.ListedOffset) { parts = append(parts, Partition{o.Topic, o.Partition}) })
	ends, err := g.ends(ctx, parts, debugging)
	if err != nil {
		return nil, err
	}
	at := make(map[Partition]Bounds, len(parts))
	for _, p := range parts {
		start, _ := listed[0].Lookup(p.Topic, p.Num)
		end, _ := listed[1].Lookup(p.Topic, p.Num)
		if ends[p] > end.Offset {
			// It may have come between the two questions.
			return nil, &behind{p, end.Offset, ends[p]}
		}
		at[p] = Bounds{start.Offset, ends[p]}
	}
	return at, nil
}

// As whom one asks where a log ends (ListOffsetsRequest). A consumer is only shown what all
// in-sync replicas have, and a debugging consumer the end of the leader's own log.
const (
	consuming = -1 // CONSUMER_REPLICA_ID
	debugging = -2 // DEBUGGING_REPLICA_ID
)

func (g *Logs) ends(ctx context.Context, parts []Partition, replica int32) (map[Partition]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = replica
	topics := make(map[string]*kmsg.ListOffsetsRequestTopic)
	for _, p := range parts {
		t := topics[p.Topic]
		if t == nil {
			one := kmsg.NewListOffsetsRequestTopic()
			t = &one
			t.Topic = p.Topic
			topics[p.Topic] = t
		}
		part := kmsg.NewListOffsetsRequestTopicPartition()
		part.Partition, part.Timestamp = p.Num, -1
		t.Partitions = append(t.Partitions, part)
	}
	for _, t := range topics {
		req.Topics = append(req.Topics, *t)
	}
	resp, err := req.RequestWith(ctx, g.cl)
	if err != nil {
		return nil, err
	}
	ends := make(map[Partition]int64, len(parts))
	for _, t := range resp.Topics {
		for _, part := range t.Partitions {
			if err := kerr.ErrorForCode(part.ErrorCode); err != nil {
				return nil, err
			}
			ends[Partition{t.Topic, part.Partition}] = part.Offset
		}
	}
	for _, p := range parts {
		if _, ok := ends[p]; !ok {
			return nil, errNoAnswer
		}
	}
	return ends, nil
}

// End is the end of one partition's log, once all in-sync replicas have what the leader has:
// what only a leader has is cut off if another takes over.
func (g *Logs) End(ctx context.Context, p Partition) (end int64, err error) {
	err = g.Retry(ctx, p, func(ctx context.Context, _ time.Time) error {
		own, err := g.ends(ctx, []Partition{p}, debugging)
		if err != nil {
			return err
		}
		shown, err := g.ends(ctx, []Partition{p}, consuming)
		if err != nil {
			return err
		}
		if end = own[p]; shown[p] < end {
			return &behind{p, shown[p], end}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("look for the end of %s: %w", p, err)
	}
	return end, err
}

// DeleteBelow deletes a partition's records below an offset.
func (g *Logs) DeleteBelow(ctx context.Context, p Partition, offset int64) error {
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: p.Topic, Partition: p.Num, At: offset})
	err := g.Retry(ctx, p, func(ctx context.Context, _ time.Time) error {
		resps, err := g.adm.DeleteRecords(ctx, offsets)
		if err == nil {
			err = resps.Error()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("delete records of %s: %w", p, err)
	}
	return nil
}

// ProducerID has the cluster give out a producer id.
func (g *Logs) ProducerID(ctx context.Context) (id int64, epoch int16, err error) {
	err = g.Retry(ctx, Partition{"a producer id", -1}, func(ctx context.Context, _ time.Time) error {
		resp, err := kmsg.NewPtrInitProducerIDRequest().RequestWith(ctx, g.cl)
		if err == nil {
			id, epoch, err = resp.ProducerID, resp.ProducerEpoch, kerr.ErrorForCode(resp.ErrorCode)
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("ask for a producer id: %w", err)
	}
	return id, epoch, err
}

// Sequence is the sequence number that the leader of a partition expects next of a
// producer. It may not know it, or be too old to tell (before Kafka 2.8).
func (g *Logs) Sequence(ctx context.Context, p Partition, producer int64) (next int32, known bool, err error) {
	err = g.Retry(ctx, p, func(ctx context.Context, since time.Time) error {
		next, known = 0, false
		answer, err := g.request(ctx, p, since, func([16]byte) kmsg.Request {
			req := kmsg.NewPtrDescribeProducersRequest()
			t := kmsg.NewDescribeProducersRequestTopic()
			t.Topic, t.Partitions = p.Topic, []int32{p.Num}
			req.Topics = append(req.Topics, t)
			return req
		})
		if err != nil && strings.HasPrefix(err.Error(), "broker is too old") { // franz-go has no name for it
			return nil
		}
		if err != nil {
			return err
		}
		for _, t := range answer.(*kmsg.DescribeProducersResponse).Topics {
			for _, part := range t.Partitions {
				if err := kerr.ErrorForCode(part.ErrorCode); err != nil {
					return err
				}
				for _, active := range part.ActiveProducers {
					if active.ProducerID == producer && active.LastSequence >= 0 {
						next, known = recordbatch.NextSequence(active.LastSequence, 1), true
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, false, fmt.Errorf("ask for the producers of %s: %w", p, err)
	}
	return next, known, nil
}
