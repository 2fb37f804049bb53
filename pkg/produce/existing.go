package produce

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A print stands for a record of the target: what it holds, as a hash.
type print struct {
	offset int64
	sum    uint64
}

// A span is records that are all the same, at offsets one after another: fillers, mostly.
type span struct {
	print
	count int64
}

func (s span) has(p print) bool {
	return s.sum == p.sum && s.offset <= p.offset && p.offset < s.offset+s.count
}

// A hasher makes prints. Two records that differ have the same with a probability of
// 2⁻⁶⁴; the seed is the process's own.
type hasher struct{ maphash.Hash }

func (h *hasher) field(b []byte) {
	n := int64(len(b))
	if b == nil {
		n = -1
	}
	h.number(n)
	_, _ = h.Write(b)
}

func (h *hasher) number(n int64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	_, _ = h.Write(b[:])
}

// produced is the sum of a record as it is going to be produced.
func (h *hasher) produced(r *kgo.Record) uint64 {
	h.Reset()
	h.number(r.Timestamp.UnixMilli())
	h.field(r.Key)
	h.field(r.Value)
	for i := range r.Headers {
		h.number(int64(len(r.Headers[i].Key)))
		_, _ = h.WriteString(r.Headers[i].Key)
		h.field(r.Headers[i].Value)
	}
	return h.Sum64()
}

// fetched is the sum of a record as it was read.
func (h *hasher) fetched(r *format.Record) uint64 {
	h.Reset()
	h.number(r.Timestamp)
	h.field(r.Key)
	h.field(r.Value)
	for i := range r.Headers {
		h.number(int64(len(r.Headers[i].Name)))
		_, _ = h.Write(r.Headers[i].Name)
		h.field(r.Headers[i].Value)
	}
	return h.Sum64()
}

// newHasher returns a hasher whose sums can be compared with those of others.
func (g *logs) newHasher() *hasher {
	h := new(hasher)
	h.SetSeed(g.seed)
	return h
}

// logs reads the logs of target partitions from their leaders.
type logs struct {
	cl       *kgo.Client
	adm      *kadm.Client
	seed     maphash.Seed
	decoders sync.Pool // each may hold some megabytes
}

func newLogs(cl *kgo.Client) *logs {
	return &logs{
		cl: cl, adm: kadm.NewClient(cl), seed: maphash.MakeSeed(),
		decoders: sync.Pool{New: func() any { return recordbatch.NewDecoder() }},
	}
}

const (
	// settled is how long a partition's end must not have moved. A killed producer's
	// last requests may still be on their way when its successor begins; they are
	// in the broker's hands within milliseconds.
	settled = 500 * time.Millisecond
	// patience is how long a partition may be without a leader, or its replicas behind.
	patience = 2 * time.Minute
	retryMin = 50 * time.Millisecond
	retryMax = time.Second
)

// retry calls f until it succeeds or fails for good.
func retry(ctx context.Context, adm *kadm.Client, f func() error) error {
	began := time.Now()
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		var ke *kerr.Error
		if errors.As(err, &ke) && !ke.Retriable || time.Since(began) > patience {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, _ = adm.BrokerMetadata(ctx) // see kafka.Retry
	}
}

// leader is the broker that leads a partition, by fresh metadata.
func (g *logs) leader(ctx context.Context, topic string, num int32) (broker int32, id [16]byte, err error) {
	meta, err := g.adm.Metadata(ctx, topic)
	if err != nil {
		return 0, id, err
	}
	t := meta.Topics[topic]
	if t.Err != nil {
		return 0, id, t.Err
	}
	p, ok := t.Partitions[num]
	if !ok {
		return 0, id, kerr.UnknownTopicOrPartition
	}
	if p.Leader < 0 {
		return 0, id, kerr.LeaderNotAvailable
	}
	return p.Leader, t.ID, nil
}

// A bounds is where a partition's log starts and ends.
type bounds struct{ start, end int64 }

// bounds returns the bounds of topics' partitions once they are at rest: nothing that
// the leader has is still to be replicated, and the end has not moved for a while.
func (g *logs) bounds(ctx context.Context, names []string) (map[string]map[int32]bounds, error) {
	var at map[string]map[int32]bounds
	began := time.Now()
	for {
		now, behind, err := g.look(ctx, names)
		if err != nil {
			return nil, err
		}
		if behind == "" && at != nil && sameEnds(at, now) {
			return now, nil
		}
		if time.Since(began) > patience {
			if behind == "" {
				behind = "it keeps growing: somebody else writes to it"
			}
			return nil, fmt.Errorf("the end of the target's log does not come to rest: %s", behind)
		}
		at = now
		select {
		case <-time.After(settled):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func sameEnds(a, b map[string]map[int32]bounds) bool {
	for name, parts := range a {
		for num, x := range parts {
			if b[name][num].end != x.end {
				return false
			}
		}
	}
	return true
}

// look returns the bounds as they are now, and names a partition whose followers are
// behind. A consumer is only shown what all in-sync replicas have; the log's real end
// is told to whoever asks as a debugging consumer does (ListOffsetsRequest,
// DEBUGGING_REPLICA_ID).
func (g *logs) look(ctx context.Context, names []string) (at map[string]map[int32]bounds, behind string, err error) {
	var starts, ends, real kadm.ListedOffsets
	err = retry(ctx, g.adm, func() error {
		var err error
		if starts, err = g.adm.ListStartOffsets(ctx, names...); err == nil {
			err = starts.Error()
		}
		if err != nil {
			return err
		}
		if ends, err = g.adm.ListEndOffsets(ctx, names...); err == nil {
			err = ends.Error()
		}
		if err != nil {
			return err
		}
		real, err = g.realEnds(ctx, ends)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("look at the target's offsets: %w", err)
	}
	at = make(map[string]map[int32]bounds)
	ends.Each(func(o kadm.ListedOffset) {
		if at[o.Topic] == nil {
			at[o.Topic] = make(map[int32]bounds)
		}
		start, _ := starts.Lookup(o.Topic, o.Partition)
		last, _ := real.Lookup(o.Topic, o.Partition)
		at[o.Topic][o.Partition] = bounds{start.Offset, last.Offset}
		if last.Offset != o.Offset {
			behind = fmt.Sprintf("the replicas of %s/%d have %d of %d offsets", o.Topic, o.Partition, o.Offset, last.Offset)
		}
	})
	return at, behind, nil
}

// realEnds asks for the ends of the partitions in like, those not yet replicated
// included.
func (g *logs) realEnds(ctx context.Context, like kadm.ListedOffsets) (kadm.ListedOffsets, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -2
	for name, parts := range like {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = name
		for num := range parts {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.Timestamp = num, -1
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	out := make(kadm.ListedOffsets)
	resp, err := req.RequestWith(ctx, g.cl)
	if err != nil {
		return nil, err
	}
	for _, t := range resp.Topics {
		out[t.Topic] = make(map[int32]kadm.ListedOffset)
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, err
			}
			out[t.Topic][p.Partition] = kadm.ListedOffset{Topic: t.Topic, Partition: p.Partition, Offset: p.Offset}
		}
	}
	return out, nil
}

// end is the real end of one partition's log, now.
func (g *logs) end(ctx context.Context, topic string, num int32) (end int64, err error) {
	err = retry(ctx, g.adm, func() error {
		ends, err := g.realEnds(ctx, kadm.ListedOffsets{topic: {num: {}}})
		end = ends[topic][num].Offset
		return err
	})
	return end, err
}

// settledEnd is the real end of a partition's log when it no longer moves.
func (g *logs) settledEnd(ctx context.Context, topic string, num int32) (int64, error) {
	for last := int64(-1); ; {
		end, err := g.end(ctx, topic, num)
		if err != nil || end == last {
			return end, err
		}
		last = end
		select {
		case <-time.After(settled):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// A scan reads a partition's log: one chunk is decoded at a time.
type scan struct {
	logs   *logs
	topic  string
	num    int32
	size   int32 // bytes to ask for, as they are in the log
	hasher *hasher
}

// read returns the prints of the records from an offset on that one answer of the
// broker holds, and the offset behind them.
func (s *scan) read(ctx context.Context, from int64) (spans []span, next int64, err error) {
	var records []byte
	err = retry(ctx, s.logs.adm, func() error {
		broker, id, err := s.logs.leader(ctx, s.topic, s.num)
		if err != nil {
			return err
		}
		req := kmsg.NewPtrFetchRequest()
		req.ReplicaID, req.SessionEpoch = -1, -1
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 500, 1, s.size
		t := kmsg.NewFetchRequestTopic()
		t.Topic, t.TopicID = s.topic, id
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.CurrentLeaderEpoch, p.PartitionMaxBytes = s.num, from, -1, s.size
		t.Partitions = append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
		answer, err := s.logs.cl.Broker(int(broker)).RetriableRequest(ctx, req)
		if err != nil {
			return err
		}
		resp := answer.(*kmsg.FetchResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return err
		}
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
			return errors.New("the broker did not answer for it")
		}
		rp := &resp.Topics[0].Partitions[0]
		records = rp.RecordBatches
		return kerr.ErrorForCode(rp.ErrorCode)
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read %s/%d from offset %d: %w", s.topic, s.num, from, err)
	}
	next = from
	for len(records) > 0 {
		b, rest, err := recordbatch.Cut(records)
		if errors.Is(err, recordbatch.ErrPartial) {
			break
		}
		if err == nil && !b.Control() && b.Last >= from {
			spans, err = s.decode(spans, b, from)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read %s/%d: %w", s.topic, s.num, err)
		}
		records, next = rest, max(next, b.Last+1)
	}
	return spans, next, nil
}

// decode appends the prints of a batch's records from an offset on.
func (s *scan) decode(spans []span, b recordbatch.Batch, from int64) ([]span, error) {
	d := s.logs.decoders.Get().(*recordbatch.Decoder)
	defer s.logs.decoders.Put(d)
	if err := d.Open(b); err != nil {
		return nil, err
	}
	var r format.Record
	for {
		ok, err := d.Next(&r)
		if err != nil || !ok {
			return spans, err
		}
		if r.Offset < from {
			continue
		}
		sum := s.hasher.fetched(&r)
		if n := len(spans); n > 0 && spans[n-1].sum == sum && spans[n-1].offset+spans[n-1].count == r.Offset {
			spans[n-1].count++
			continue
		}
		spans = append(spans, span{print{r.Offset, sum}, 1})
	}
}

func (g *logs) scan(topic string, num int32, size int32) *scan {
	return &scan{logs: g, topic: topic, num: num, size: size, hasher: g.newHasher()}
}

// existing is what a partition held when the run began, read once, from front to back,
// a chunk ahead of whoever takes it.
type existing struct {
	start, end int64
	scan       *scan
	chunks     chan chunk // nil before the first is asked for
	left       []span
	over       bool
}

type chunk struct {
	spans []span
	err   error
}

// peek returns the next record that was there, and false behind the last.
func (e *existing) peek(ctx context.Context) (print, bool, error) {
	if e.chunks == nil {
		e.chunks = make(chan chunk, 1)
		go e.run(ctx)
	}
	for len(e.left) == 0 && !e.over {
		select {
		case c, ok := <-e.chunks:
			if c.err != nil {
				return print{}, false, c.err
			}
			e.left, e.over = c.spans, !ok
		case <-ctx.Done():
			return print{}, false, context.Cause(ctx)
		}
	}
	if e.over {
		return print{}, false, nil
	}
	return e.left[0].print, true, nil
}

func (e *existing) pop() {
	first := &e.left[0]
	first.offset++
	if first.count--; first.count == 0 {
		e.left = e.left[1:]
	}
}

func (e *existing) run(ctx context.Context) {
	defer close(e.chunks)
	for at := e.start; at < e.end; {
		spans, next, err := e.scan.read(ctx, at)
		// What has come since is not this run's business.
		for len(spans) > 0 && spans[len(spans)-1].offset >= e.end {
			spans = spans[:len(spans)-1]
		}
		if n := len(spans); n > 0 {
			spans[n-1].count = min(spans[n-1].count, e.end-spans[n-1].offset)
		}
		if err == nil && next == at {
			err = fmt.Errorf("read %s/%d: nothing at offset %d, below the log's end", e.scan.topic, e.scan.num, at)
		}
		select {
		case e.chunks <- chunk{spans, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
		at = next
	}
}
