package produce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/partitionlog"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// An exact is what it takes to keep the offsets of a lane, on the stream's side. What must
// wait for the records before it, a gap, is an item of the lane's queue.
type exact struct {
	opened                bool
	first                 int64 // where the log is to start
	next                  int64 // offset that the next record would get
	filled, gaps, written int64 // what it costs

	samples []print // of records that were produced
	stride  int64   // of records from one sample to the next
	seen    int64
}

const maxSamples = 16

// enterExact makes a lane ready for exact offsets.
func (p *producer) enterExact(ctx context.Context, l *lane) error {
	if p.mayMark == nil {
		may, err := p.mayWriteMarkers(ctx)
		if err != nil {
			return err
		}
		p.mayMark = &may
	}
	l.exact = &exact{stride: 1}
	return nil
}

// mayWriteMarkers asks whether the cluster would let this client write markers: that takes
// ALTER or CLUSTER_ACTION (KafkaApis.handleWriteTxnMarkersRequest, AclOperation's codes).
func (p *producer) mayWriteMarkers(ctx context.Context) (bool, error) {
	const alter, clusterAction = 1 << 7, 1 << 9
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	var has int32
	err := p.targets.keeper.retry(ctx, func() error {
		resp, err := req.RequestWith(ctx, p.targets.keeper.cl)
		if err != nil {
			return err
		}
		has = resp.ClusterAuthorizedOperations
		return kerr.ErrorForCode(resp.ErrorCode)
	})
	if err != nil {
		return false, fmt.Errorf("ask for rights on the cluster: %w", err)
	}
	return has&(alter|clusterAction) != 0, nil
}

// openExact decides where a lane's log starts, when the offset of its first record is
// known: where the source's did, so that an offset between is in no gap; but where that
// is too far below, at the record.
func (p *producer) openExact(ctx context.Context, l *lane, record int64) error {
	x := l.exact
	x.opened = true
	if p.mirror != nil {
		within, err := p.mirror.open(l)
		if err != nil {
			return err
		}
		if within {
			x.first, x.next = l.bounds.Start, l.bounds.End
			return p.mirror.dropFillers(ctx, l)
		}
	}
	first := l.from.first
	if first < 0 {
		first = record
	}
	if record-first > p.cfg.MaxGap {
		p.env.Log.Warn(fmt.Sprintf("topic %s, partition %d: the log starts at its first record, offset %d, and not at %d where the source's did: the gap is larger than --max-gap",
			l.target.name, l.num, record, first))
		first = record
	}
	if err := p.skipFillers(ctx, l, first); err != nil {
		return err
	}
	x.first, x.next = first, max(l.bounds.End, first)
	x.filled = max(first-l.bounds.End, 0)
	if l.bounds.Start < first && !p.cfg.DryRun {
		if l.existing != nil { // records are there already: the start is all that is missing
			return p.logs.DeleteBelow(ctx, l.at, min(first, l.bounds.End))
		}
		if err := p.start(ctx, l); err != nil {
			return err
		}
		l.queue.change(func() { l.queue.items = append(l.queue.items, item{to: first, fill: true}) })
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
			l.finishExisting()
			return nil
		case is.offset >= first:
			return nil
		case is.sum != p.filler.sum && p.mirror != nil && l.bounds.End < first:
			return missing(l)
		case is.sum != p.filler.sum:
			return notEmpty(l, is.offset, fmt.Sprintf("this restore begins at offset %d", first))
		}
		l.existing.pop()
	}
	return nil
}

// align lets a lane go on to an offset, from where records up to last come.
func (p *producer) align(ctx context.Context, l *lane, offset, last int64) error {
	x := l.exact
	at := x.next
	x.next = last + 1
	switch gap := offset - at; {
	case gap < 0:
		return command.WithHint(fmt.Errorf("topic %s, partition %d: offset %d is not available: the log is already at %d", l.target.name, l.num, offset, at),
			"delete the topic, or write to another one with --rename")
	case gap == 0:
		return nil
	case gap > p.cfg.MaxGap:
		return command.WithHint(fmt.Errorf("topic %s, partition %d: %s between the records below %d and that of offset %d, more than --max-gap", l.target.name, l.num, command.Count(gap, "offset"), at, offset),
			fmt.Sprintf("--max-gap %d fills them with markers", gap))
	case !*p.mayMark:
		return refusedMarkers(kerr.ClusterAuthorizationFailed)
	default:
		x.gaps++
		x.written += gap
		if p.cfg.DryRun {
			return nil
		}
		if err := p.start(ctx, l); err != nil {
			return err
		}
		p.gathering.Lock()
		defer p.gathering.Unlock()
		p.seal(l)
		l.queue.change(func() { l.queue.items = append(l.queue.items, item{to: offset}) })
		return nil
	}
}

// closeExact takes every partition to where its last mark is. A run that was interrupted
// may not have come to what was there.
func (p *producer) closeExact(ctx context.Context, end *format.End) error {
	for _, l := range p.lanes {
		if !end.Interrupted || p.mirror != nil && l.from.next >= l.bounds.End {
			if err := p.reach(ctx, l); err != nil {
				return err
			}
			continue
		}
		if l.from.next >= 0 && !l.exact.opened {
			if err := p.openExact(ctx, l, l.from.next); err != nil {
				return err
			}
		}
	}
	return nil
}

// gap takes a lane's log to an offset, once all before it is acknowledged.
func (p *producer) gap(ctx context.Context, l *lane, at *place, it *item) error {
	if err := p.rest(ctx, l); err != nil {
		return err
	}
	if it.fill {
		if at.offset < it.to {
			if err := p.fill(ctx, l, at, it.to); err != nil {
				return fmt.Errorf("fill the offsets below %d: %w", it.to, err)
			}
		}
		return p.logs.DeleteBelow(ctx, l.at, it.to)
	}
	if err := p.mind(ctx, l, at, it.to); err != nil {
		return err
	}
	p.mu.Lock()
	l.due = at.offset
	p.mu.Unlock()
	return nil
}

// A filler has batches of records with nothing in them: null key, null value, no
// headers, the timestamp 0. A hundred thousand take 60 KB. Their timestamp lets the
// broker begin a new segment for the records behind them, and so drop theirs.
type filler struct {
	sum uint64 // by which such a record is known again

	once sync.Once
	full []byte // a batch of fillerRecords
	err  error
}

const (
	fillerRecords  = 100_000
	fillersAtOnce  = 16
	fillerCodec    = "zstd"
	fillerLevel    = 3
	emptyTimestamp = 0
)

// batch returns a batch of n empty records that lacks a producer and a checksum.
func (f *filler) batch(c *recordbatch.Compressor, n int64) ([]byte, error) {
	if n < fillerRecords {
		return emptyBatch(c, int(n))
	}
	f.once.Do(func() { f.full, f.err = emptyBatch(c, fillerRecords) })
	return slices.Clone(f.full), f.err
}

func emptyBatch(c *recordbatch.Compressor, n int) ([]byte, error) {
	var b recordbatch.Builder
	b.Grow(n * 12)
	for range n {
		b.Append(&format.Record{Timestamp: emptyTimestamp})
	}
	return b.Build(nil, c)
}

// fill fills a lane up to an offset by records that hold nothing.
func (p *producer) fill(ctx context.Context, l *lane, at *place, to int64) error {
	began, from := time.Now(), at.offset
	p.env.Log.Debug(fmt.Sprintf("topic %s, partition %d: filling offsets %d to %d", l.target.name, l.num, from, to-1))
	records := int64(fillerRecords)
	for n := 0; at.offset < to; {
		count := min(to-at.offset, records)
		raw, err := p.filler.batch(p.targets.fillers, count)
		if err != nil {
			return err
		}
		if len(raw) > l.target.maxBatch && count > 1 {
			records = count / 2
			continue
		}
		p.append(l, at, raw, int(count), nil)
		if n++; n%fillersAtOnce == 0 {
			if err := p.rest(ctx, l); err != nil {
				return err
			}
		}
	}
	if err := p.rest(ctx, l); err != nil {
		return err
	}
	p.env.Log.Info(fmt.Sprintf("filled %s of topic %s, partition %d, to be deleted", command.Count(to-from, "offset"), l.target.name, l.num), "in", since(began))
	return nil
}

// mind writes markers up to an offset. Nothing but markers may have come in between.
func (p *producer) mind(ctx context.Context, l *lane, at *place, to int64) error {
	began := time.Now()
	wait := p.logs.Wait(l.at)
	defer wait.End()
	if at.untouched { // markers of a run that was killed may be on their way, where it had come to the same gap
		end, err := p.unmovedEnd(ctx, l.at)
		if err != nil {
			return err
		}
		if at.offset <= end && end <= to {
			at.offset = end
		}
	}
	var known time.Time // since when the leader is known
	for tries := 0; at.offset < to; {
		n := min(to-at.offset, partitionlog.MaxMarkers)
		err := p.writeMarkers(ctx, l, &at.markers, known, int(n))
		if err == nil && n == 1 { // an answer about one marker is about that one
			at.offset++
			continue
		}
		var ke *kerr.Error
		if errors.As(err, &ke) && !ke.Retriable {
			return refusedMarkers(err)
		}
		look := p.logs.End
		if err != nil { // they may still come
			wait.Because(fmt.Errorf("write transaction markers: %w", err))
			known = time.Now()
			look = p.unmovedEnd
		}
		end, lookErr := look(ctx, l.at)
		switch {
		case lookErr != nil:
			return lookErr
		case end > to || end < at.offset:
			return command.WithHint(fmt.Errorf("the log's end is %d where markers from %d to %d were written: somebody else writes to it", end, at.offset, to-1),
				"or markers of a run that was killed have come late: delete the topic, and run the same line again")
		case end > at.offset:
			began, tries = time.Now(), 0
			wait.Moved()
		case time.Since(began) > p.cfg.Timeout:
			return refusedMarkers(fmt.Errorf("%w (for %s)", cmp.Or(err, errNoMarkers), p.cfg.Timeout))
		case tries == 0 && err != nil:
			p.env.Log.Debug(fmt.Sprintf("topic %s, partition %d: write transaction markers: %v", l.target.name, l.num, err))
		}
		tries++
		at.offset = end
	}
	return nil
}

var errNoMarkers = errors.New("the broker says that they are written, but the log does not grow")

// unmovedFor is how long an end must not have moved after an answer that did not come.
const unmovedFor = 500 * time.Millisecond

// unmovedEnd is the end of a partition's log when it no longer moves.
func (p *producer) unmovedEnd(ctx context.Context, at partitionlog.Partition) (int64, error) {
	for last := int64(-1); ; {
		end, err := p.logs.End(ctx, at)
		if err != nil || end == last {
			return end, err
		}
		last = end
		select {
		case <-time.After(unmovedFor):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func refusedMarkers(err error) error {
	err = fmt.Errorf("write transaction markers: %w", err)
	if errors.Is(err, kerr.ClusterAuthorizationFailed) {
		return command.WithHint(err, "--offsets exact fills gaps between records with markers, which needs the right to ALTER the cluster")
	}
	return err
}

// markers gives the markers of one partition their producer and epochs. The first epoch is
// above all that a run that was killed may still have on its way there: the broker
// refuses those then.
type markers struct {
	last  sequence // the last used, or found in the log; id -1: none
	begun bool
}

// take returns a producer and the first of n epochs. Where the log has no marker, first
// says where to begin; fresh asks for another producer when the epochs are used up.
func (m *markers) take(n int, first sequence, fresh func() (id int64, err error)) (producer int64, epoch int16, err error) {
	if !m.begun && m.last.id < 0 {
		m.last = first
	} else if !m.begun { // one request more may be on its way
		m.last.epoch = min(m.last.epoch, partitionlog.MaxMarkerEpoch-partitionlog.MaxMarkers) + partitionlog.MaxMarkers
	}
	m.begun = true
	if m.last.id < 0 || int(m.last.epoch)+n > partitionlog.MaxMarkerEpoch {
		if m.last.id, err = fresh(); err != nil {
			return 0, 0, err
		}
		m.last.epoch = 0
	}
	epoch = m.last.epoch + 1
	m.last.epoch += int16(n)
	return m.last.id, epoch, nil
}

// writeMarkers writes n markers to a lane, once.
func (p *producer) writeMarkers(ctx context.Context, l *lane, m *markers, known time.Time, n int) error {
	first := sequence{id: p.targets.keeper.me.Markers}
	if dead := p.targets.keeper.inherited(l.target.name); dead != nil && dead.Markers >= 0 && p.mirror == nil {
		first = sequence{id: dead.Markers, epoch: partitionlog.MaxMarkers}
	}
	producer, epoch, err := m.take(n, first, func() (int64, error) {
		id, _, err := p.logs.ProducerID(ctx)
		return id, err
	})
	if err != nil {
		return err
	}
	return p.logs.WriteMarkers(ctx, l.at, known, producer, epoch, n)
}

// sampled says that the next record is one of those to be remembered.
func (x *exact) sampled() bool { return x.seen%x.stride == 0 }

// sample remembers some of the records, spread over all; of batches, the first record.
func (x *exact) sample(h *hasher, rec *format.Record) {
	if x.sampled() {
		if len(x.samples) == maxSamples {
			for i := range maxSamples / 2 {
				x.samples[i] = x.samples[2*i]
			}
			x.samples = x.samples[:maxSamples/2]
			x.stride *= 2
		}
		if x.sampled() {
			x.samples = append(x.samples, print{rec.Offset, h.sum(rec)})
		}
	}
	x.seen++
}

// proveExact holds what the target has against what it should: where each log ends, and
// some records at their offsets.
func (p *producer) proveExact(ctx context.Context, ends map[partitionlog.Partition]partitionlog.Bounds) error {
	began := time.Now()
	var sampled, partitions int64
	for _, l := range p.lanes {
		name := l.target.name
		if !l.exact.opened {
			continue
		}
		if got := ends[l.at].End; got != l.exact.next {
			return fmt.Errorf("topic %s, partition %d: the log ends at offset %d, not at %d: %w", name, l.num, got, l.exact.next, otherEnd(got, l.exact.next))
		}
		// A broker that crashes forgets what was deleted in the last minute
		// (log.flush.start.offset.checkpoint.interval.ms).
		if ends[l.at].Start < l.exact.first {
			if err := p.logs.DeleteBelow(ctx, l.at, l.exact.first); err != nil {
				return err
			}
		}
		partitions++
		s := newScan(p.logs, l.at, 1<<10, p.hasher)
		samples := l.exact.samples
		if p.mirror != nil { // retention and compaction may have taken them; the next run compares what is last
			samples = nil
		}
		if len(samples) > 4 { // the ends and two between
			i := 1 + rand.IntN(len(samples)-2)
			j := 1 + rand.IntN(len(samples)-2)
			samples = []print{samples[0], samples[min(i, j)], samples[max(i, j)], samples[len(samples)-1]}
		}
		for _, want := range samples {
			got := s.read(ctx, want.offset, want.offset+1)
			if got.err != nil {
				return got.err
			}
			if !slices.ContainsFunc(got.spans, func(s span) bool { return s.has(want) }) {
				return fmt.Errorf("topic %s, partition %d: the record of offset %d is not there", name, l.num, want.offset)
			}
			sampled++
		}
	}
	p.env.Log.Info(fmt.Sprintf("proved the offsets of %s by their ends and %s", command.Count(partitions, "partition"), command.Count(sampled, "sampled record")), "in", since(began))
	return nil
}
