package produce

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/throttle"
)

// A producer hands records to the client, which keeps them until they are
// acknowledged, and turns acknowledgements into map frames.
type producer struct {
	cfg     Config
	env     *command.Env
	targets *targets
	arena   arena
	hasher  *hasher
	bytes   *throttle.Limit
	records *throttle.Limit
	fail    context.CancelCauseFunc
	connect func(...kgo.Opt) (*kgo.Client, error)
	cl      *kgo.Client // nil before the first topic is ready, and at a dry run

	largeLock sync.Mutex
	large     *kgo.Client // see produceLarge; nil until it is needed

	// Of exact offsets.
	lanes   errgroup.Group      // one goroutine a partition
	queued  *semaphore.Weighted // bytes that wait for it
	markers markers
	filler  filler

	check tooLarge // of a dry run

	there  int64  // records that the target had already
	spoken spoken // what target frames are written of

	mu    sync.Mutex // what promises and follow share
	maps  *format.Writer
	acked int64
	sent  []*route // all that have had a record
}

func newProducer(cfg Config, env *command.Env, t *targets, maps *format.Writer) *producer {
	h := t.logs.newHasher()
	p := &producer{
		cfg: cfg, env: env, targets: t, maps: maps, hasher: h,
		arena:   arena{origin: cfg.OffsetHeaders, strip: make(map[string]bool)},
		bytes:   throttle.New(cfg.MaxRate),
		records: throttle.New(cfg.MaxRecords),
		queued:  semaphore.NewWeighted(cfg.Memory / 2),
		spoken:  make(spoken),
		filler:  filler{sum: h.produced(emptyRecord)},
	}
	for _, name := range cfg.StripHeaders {
		p.arena.strip[name] = true
	}
	return p
}

// A partition is a partition of the stream.
type partition struct {
	source      *source
	num         int32
	first, next int64  // of its first mark and its last; -1: there was none
	fixed       *route // where all of its records go; or, by target partition:
	routes      []*route
}

// A route is a partition of the stream on its way to a partition of the target.
type route struct {
	from *partition
	to   *lane
	sent []run      // offsets handed to the client and not acknowledged, in order
	done format.Map // the run of records in the target that grows

	promise func(*kgo.Record, error) // one for all records
}

// A run is count offsets from first.
type run struct{ first, count int64 }

// follow produces records until the end of the stream.
func (p *producer) follow(ctx context.Context, r *format.Reader) (*format.End, error) {
	var rec format.Record
	var last *partition
	for {
		f, err := r.Next()
		if err != nil {
			return nil, command.Input(err)
		}
		switch f.Kind {
		case format.KindTopic:
			t, err := format.DecodeTopic(f.Raw)
			if err != nil {
				return nil, command.Input(err)
			}
			p.targets.describe(t)
		case format.KindMark:
			if err := p.pass(f.Raw); err != nil {
				return nil, err
			}
			m, err := format.DecodeMark(f.Raw)
			if err != nil {
				return nil, command.Input(err)
			}
			p.spoken.add(m.Topic, m.Partition)
			if !p.cfg.Exact {
				continue
			}
			if err := p.mark(ctx, m); err != nil {
				return nil, err
			}
		case format.KindRec:
			if err := f.Record(&rec); err != nil {
				return nil, command.Input(err)
			}
			if last == nil || last.num != rec.Partition || last.source.name != rec.Topic {
				if last, err = p.partition(ctx, rec.Topic, rec.Partition); err != nil {
					return nil, err
				}
			}
			if err := p.record(ctx, last, &rec); err != nil {
				return nil, err
			}
		case format.KindGroup, format.KindGroups:
			if err := p.pass(f.Raw); err != nil {
				return nil, err
			}
		case format.KindSeg:
			return nil, command.WithStatus(command.Corrupt, errors.New("standard input: a segment in a stream of records"))
		case format.KindBatch:
			return nil, command.WithStatus(command.Corrupt, errors.New("standard input: a raw batch, which this version cannot produce"))
		case format.KindEnd:
			return format.DecodeEnd(f.Raw)
		}
	}
}

// pass puts a frame into the map: by the marks it is known that an offset behind a
// partition's last record is in the backup too, and the groups are what the map is for.
func (p *producer) pass(raw []byte) error {
	if p.cfg.DryRun { // there is no map
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.maps.WriteRaw(raw); err != nil {
		return fmt.Errorf("write the map: %w", err)
	}
	return nil
}

func (p *producer) partition(ctx context.Context, topic string, num int32) (*partition, error) {
	s, err := p.targets.source(ctx, topic)
	if err != nil {
		return nil, err
	}
	if p.cl == nil && !p.cfg.DryRun {
		if err := p.begin(); err != nil {
			return nil, err
		}
	}
	part := s.parts[num]
	if part == nil {
		part = &partition{source: s, num: num, first: -1, next: -1}
		if p.cfg.Partitioner != "" {
			part.routes = make([]*route, s.target.partitions)
		} else if part.fixed, err = p.route(ctx, part, p.cfg.partition(num)); err != nil {
			return nil, err
		}
		s.parts[num] = part
		p.spoken.add(topic, num)
	}
	return part, nil
}

// begin connects the client that produces, now that the topics are known.
func (p *producer) begin() error {
	memory := p.cfg.Memory
	if p.cfg.Exact {
		memory /= 2 // the other half may wait for gaps
	}
	opts := []kgo.Opt{
		kgo.ProducerBatchMaxBytesFn(p.targets.maxBatch),
		kgo.MaxBufferedRecords(1 << 20),
		kgo.MaxBufferedBytes(int(memory)),
		kgo.ProducerBatchCompression(codecs[p.targets.codec()], kgo.NoCompression()),
	}
	if p.cfg.Exact { // a gap waits until what is before it has been written
		opts = append(opts, kgo.ProducerLinger(0))
	}
	cl, err := p.connect(opts...)
	p.cl = cl
	return err
}

// codecs are the names of compression.type.
var codecs = map[string]kgo.CompressionCodec{
	"uncompressed": kgo.NoCompression(), "none": kgo.NoCompression(),
	"gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// route begins the way from a partition to one of the target's.
func (p *producer) route(ctx context.Context, from *partition, to int32) (*route, error) {
	target := from.source.target
	if int(to) >= target.partitions {
		return nil, fmt.Errorf("produce %s/%d: topic %s has only %d partitions", from.source.name, from.num, target.name, target.partitions)
	}
	r := &route{from: from, to: target.lanes[to]}
	r.promise = func(rec *kgo.Record, err error) { p.acknowledged(r, rec, err) }
	if p.cfg.Exact {
		if other := r.to.from; other != nil {
			return nil, command.Usagef("--offsets exact: partitions %d and %d of topic %s would both go to partition %d", other.num, from.num, from.source.name, to)
		}
		r.to.from = from
		if err := p.serve(ctx, r.to); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, r)
	return r, nil
}

// way is the route of a record.
func (p *producer) way(ctx context.Context, part *partition, out *kgo.Record) (*route, error) {
	if part.fixed != nil {
		return part.fixed, nil
	}
	target := part.source.target
	to := target.turn
	if p.cfg.Partitioner == murmur2 && out.Key != nil {
		to = target.spread.Partition(out, target.partitions)
	} else if target.turn++; target.turn >= target.partitions {
		target.turn = 0
	}
	var err error
	if part.routes[to] == nil {
		part.routes[to], err = p.route(ctx, part, int32(to))
	}
	return part.routes[to], err
}

// record produces a copy of rec, unless an earlier run has; it waits while the client's
// buffer is full.
func (p *producer) record(ctx context.Context, part *partition, rec *format.Record) error {
	out := p.arena.record(rec)
	r, err := p.way(ctx, part, out)
	if err != nil {
		return err
	}
	l := r.to
	out.Topic, out.Partition = l.target.name, l.num
	l.target.oldest = min(l.target.oldest, rec.Timestamp)
	if p.cfg.Exact && !l.exact.opened {
		if err := p.open(ctx, l, rec.Offset); err != nil {
			return err
		}
	}
	if p.cfg.Exact && part.next >= 0 {
		part.next = max(part.next, rec.Offset+1) // it may have no mark behind it
	}
	if l.existing != nil {
		if found, err := p.found(ctx, r, rec.Offset, out); err != nil || found {
			return err
		}
	}
	size := size(out)
	if p.cfg.DryRun {
		l.target.records++
		l.target.size += int64(size)
		if size > int(l.target.maxBatch) {
			p.check.record(p.env.Log, p.targets.codec(), r, rec.Offset, out, size)
		}
		if p.cfg.Exact {
			return p.align(ctx, l, rec.Offset)
		}
		return nil
	}
	if err := p.records.Wait(ctx, 1); err != nil {
		return err
	}
	if err := p.bytes.Wait(ctx, int64(size)); err != nil {
		return err
	}
	if p.cfg.Exact {
		if err := p.align(ctx, l, rec.Offset); err != nil {
			return err
		}
		l.exact.sample(p.hasher, rec.Offset, out)
		return p.queue(ctx, l, item{rec: out, route: r, size: size, to: rec.Offset + 1})
	}
	return p.send(ctx, r, out, rec.Offset, size)
}

// found tells whether the target has the record from an earlier run. What is there
// must be, record by record, what this run would have produced there.
func (p *producer) found(ctx context.Context, r *route, offset int64, out *kgo.Record) (bool, error) {
	l := r.to
	is, ok, err := l.existing.peek(ctx)
	if err != nil {
		return false, err
	}
	if !ok { // from here on it is new
		l.existing = nil
		return false, nil
	}
	if is.sum != p.hasher.produced(out) || p.cfg.Exact && is.offset != offset {
		return false, notEmpty(l, is.offset, fmt.Sprintf("it is not the record of offset %d that this restore has there", offset))
	}
	l.existing.pop()
	p.there++
	p.mu.Lock()
	defer p.mu.Unlock()
	return true, p.mapped(r, offset, is.offset)
}

func notEmpty(l *lane, offset int64, why string) error {
	return command.WithHint(fmt.Errorf("topic %s is not empty: partition %d, offset %d: %s", l.target.name, l.num, offset, why),
		"write to another topic with --rename, or behind what is there with --if-not-empty append")
}

// send hands a record to the client.
func (p *producer) send(ctx context.Context, r *route, out *kgo.Record, offset int64, size int) error {
	p.mu.Lock()
	if n := len(r.sent); n > 0 && r.sent[n-1].first+r.sent[n-1].count == offset {
		r.sent[n-1].count++
	} else {
		r.sent = append(r.sent, run{offset, 1})
	}
	p.mu.Unlock()
	if size > int(r.to.target.maxBatch) {
		return p.produceLarge(ctx, r, out)
	}
	p.cl.Produce(ctx, out, r.promise)
	return context.Cause(ctx)
}

// maxRequest is the largest batch the client can be made to send.
const maxRequest = 1 << 30

// produceLarge produces a record that is larger than the topic's largest batch. It
// may fit all the same: the broker looks at the batch as it is compressed, which is
// how it got into the source, and the client at the record as it is. So it goes,
// alone, through a client that does not look.
func (p *producer) produceLarge(ctx context.Context, r *route, out *kgo.Record) error {
	p.largeLock.Lock()
	defer p.largeLock.Unlock()
	if p.large == nil {
		cl, err := p.connect(kgo.ProducerBatchMaxBytes(maxRequest), kgo.BrokerMaxWriteBytes(maxRequest),
			kgo.ProducerBatchCompression(codecs[p.targets.codec()], kgo.NoCompression()))
		if err != nil {
			return err
		}
		p.large = cl
	}
	if err := p.cl.Flush(ctx); err != nil { // what is before it in the partition goes first
		return err
	}
	err := p.large.ProduceSync(ctx, out).FirstErr()
	p.acknowledged(r, out, err)
	return context.Cause(ctx)
}

// finish waits until all is written that the stream had, and wants the target to hold
// no more than that.
func (p *producer) finish(ctx context.Context, end *format.End) error {
	if p.cfg.Exact {
		if err := p.closeLanes(ctx, end); err != nil {
			return err
		}
	}
	if p.cl != nil {
		if err := p.cl.Flush(ctx); err != nil {
			return err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if !end.Interrupted {
		if err := p.nothingLeft(ctx); err != nil {
			return err
		}
	}
	if p.cfg.Exact && !p.cfg.DryRun {
		return p.prove(ctx)
	}
	return nil
}

// keep writes what is on its way when the stream is cut short: what came before is to
// be in the topics, and in the map.
func (p *producer) keep(ctx context.Context) error {
	p.closeQueues()
	_ = p.lanes.Wait() // each has told the context
	if p.cl == nil {
		return nil
	}
	return p.cl.Flush(ctx)
}

// nothingLeft wants that all which was in the target was in the stream.
func (p *producer) nothingLeft(ctx context.Context) error {
	for _, target := range p.targets.topics {
		for _, l := range target.lanes {
			if l.existing == nil {
				continue
			}
			if is, ok, err := l.existing.peek(ctx); err != nil {
				return err
			} else if ok {
				return notEmpty(l, is.offset, "this restore ends before it")
			}
		}
	}
	return nil
}

// close lets go of what the producer has connected.
func (p *producer) close() {
	if p.cl != nil {
		p.cl.Close()
	}
	if p.large != nil {
		p.large.Close()
	}
}

// batchOverhead is more than a batch of one record takes besides its key, value and
// headers, and each header besides its name and value (DefaultRecordBatch, DefaultRecord).
const (
	batchOverhead  = 61 + 40
	headerOverhead = 10
)

// size is about how many bytes a batch of r alone takes, uncompressed.
func size(r *kgo.Record) int {
	n := batchOverhead + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += headerOverhead + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// acknowledged takes the fate of the route's oldest record on its way: a client
// keeps promises of one partition in order.
func (p *producer) acknowledged(r *route, rec *kgo.Record, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := &r.sent[0]
	offset := oldest.first
	oldest.first++
	if oldest.count--; oldest.count == 0 {
		r.sent = r.sent[1:]
	}
	if err != nil {
		p.fail(explain(r, offset, rec, err))
		return
	}
	l := r.to
	if l.due >= 0 {
		if rec.Offset != l.due {
			p.fail(fmt.Errorf("produce %s/%d: the record of offset %d went to offset %d of topic %s, where %d was next: somebody else writes to it",
				r.from.source.name, r.from.num, offset, rec.Offset, rec.Topic, l.due))
			return
		}
		l.due++
	}
	if l.exact != nil {
		l.exact.acknowledged()
	}
	p.acked++
	if err := p.mapped(r, offset, rec.Offset); err != nil {
		p.fail(err)
	}
}

// mapped notes which offset became which. The lock is held.
func (p *producer) mapped(r *route, source, target int64) error {
	m := &r.done
	if m.Count > 0 && source == m.SourceFirst+m.Count && target == m.TargetFirst+m.Count {
		m.Count++
		return nil
	}
	if err := p.writeRun(r); err != nil {
		return err
	}
	*m = format.Map{
		Topic: r.from.source.name, Partition: r.from.num, SourceFirst: source,
		TargetTopic: r.to.target.name, TargetPartition: r.to.num, TargetFirst: target, Count: 1,
	}
	return nil
}

func explain(r *route, offset int64, rec *kgo.Record, err error) error {
	err = fmt.Errorf("produce %s/%d: record of offset %d: %w", r.from.source.name, r.from.num, offset, err)
	if errors.Is(err, kerr.MessageTooLarge) {
		return command.WithHint(err, fmt.Sprintf("it takes %s before compression: raise max.message.bytes of topic %s", humanize.IBytes(uint64(size(rec))), rec.Topic))
	}
	return err
}

// writeRun writes what a route's run has grown to. The lock is held.
func (p *producer) writeRun(r *route) error {
	if r.done.Count == 0 || p.cfg.DryRun {
		return nil
	}
	err := p.maps.Write(&r.done)
	r.done.Count = 0
	if err != nil {
		return fmt.Errorf("write the map: %w", err)
	}
	return nil
}

func (p *producer) writeRuns() error {
	for _, r := range p.sent {
		if err := p.writeRun(r); err != nil {
			return err
		}
	}
	return nil
}

// since is how long something took, as messages have it.
func since(began time.Time) time.Duration { return time.Since(began).Round(time.Millisecond) }
