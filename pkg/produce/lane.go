package produce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/partitionlog"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A lane is a partition of a target. Records come to it in the stream's order and are
// gathered to batches by whoever reads the stream; a goroutine of its own compresses
// these and writes them; the writer's goroutine tells of acknowledgements.
type lane struct {
	target *target
	num    int32
	at     partitionlog.Partition
	bounds partitionlog.Bounds // of its log when the run began

	// Of the stream's side.
	opened   bool
	existing *existing  // what an earlier run has written and this one has not come to; nil when there is no more
	came     adopted    // the producer that has written it
	from     *partition // exact offsets: the one partition that goes there
	exact    *exact     // how offsets are kept, where they are to be
	working  bool       // its goroutine has been started

	gather *gathering // under producer.gathering: the batch that grows
	queue  queue

	// Of acknowledgements, under the producer's lock.
	due      int64 // offset of the next batch; -1: others may write there too
	inFlight int
	idle     chan struct{} // closed when nothing is in flight any more; nil: nobody waits
	written  int64         // bytes in the log, of this run and those before
}

// A run is count offsets of a route from first on.
type run struct {
	route        *route
	first, count int64
}

const runSize = 32 // bytes in memory

// A gathering is a batch that grows, or one of the stream that is whole already.
type gathering struct {
	builder *recordbatch.Builder
	raw     []byte                  // in place of builder: a batch that lacks a producer
	codec   *recordbatch.Compressor // what the records are to be compressed with; nil: raw stays as it is
	whole   bool                    // it came as a batch
	runs    []run
	held    int64 // of the memory
	since   time.Time
}

// An item is a batch, or an offset to go to.
type item struct {
	batch *gathering // nil: a gap
	to    int64      // of a gap: the offset behind it
	fill  bool       // the log is to start there
}

// A queue is what waits for a lane. It takes what it is given: the bytes that all
// lanes have waiting are bounded, see [producer.reserve].
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

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0
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
	// largeBatch is how large a batch grows, uncompressed. Only a record that needs
	// more gets more: brokers hold several batches in memory for each that asks.
	largeBatch = 1 << 20
	smallBatch = 16 << 10 // room that a batch begins with
	// lingering is how long a batch may wait for more records.
	lingering = 100 * time.Millisecond
	// lingeringMirror is that of a mirror, where it adds to how far it is behind.
	lingeringMirror = 20 * time.Millisecond
)

// limit is how large a batch of a lane may grow. What a codec adds where nothing can be
// compressed must fit, too.
func (p *producer) limit(t *target) int {
	return min(p.batchSize, t.maxBatch-t.maxBatch/64-512)
}

// add puts a record into the batch that grows in a lane, and waits while there is no
// memory for it.
func (p *producer) add(ctx context.Context, l *lane, r *route, rec *format.Record, codec *recordbatch.Compressor) error {
	offset := rec.Offset
	room := recordbatch.RecordSize(rec)
	p.gathering.Lock()
	defer p.gathering.Unlock()
	g := l.gather
	if g != nil && (g.codec != codec || g.builder.Size()+len(g.runs)*runSize+room > p.limit(l.target)) {
		p.seal(l)
		g = nil
	}
	for g == nil || !g.has(r, offset, room) {
		var b *recordbatch.Builder
		var need int64
		if g == nil {
			b = p.builder()
			need = int64(max(smallBatch, room, b.Capacity()))
		} else { // doubled, at least
			b, need = new(recordbatch.Builder), int64(g.builder.Capacity()+cap(g.runs)*runSize+room)
		}
		if err := p.reserve(ctx, need); err != nil {
			return err
		}
		if g = l.gather; g == nil { // or it was sent off while memory was waited for
			g = &gathering{builder: b, codec: codec, since: time.Now()}
			l.gather, p.open[l] = g, struct{}{}
		}
		g.held += need
		g.grow(room, int(need))
	}
	if n := len(g.runs); n > 0 && g.runs[n-1].route == r && g.runs[n-1].first+g.runs[n-1].count == offset {
		g.runs[n-1].count++
	} else {
		g.runs = append(g.runs, run{r, offset, 1})
	}
	g.builder.Append(rec)
	return nil
}

// addWhole puts a batch behind what grows in a lane, and waits while there is no memory for
// it. Where codec is not nil its records are not compressed, and are to be.
func (p *producer) addWhole(ctx context.Context, l *lane, r *route, b *recordbatch.Batch, codec *recordbatch.Compressor) error {
	p.gathering.Lock()
	defer p.gathering.Unlock()
	p.seal(l)
	g := &gathering{whole: true, codec: codec, held: int64(2*b.Size() + runSize)} // the client copies a request to write it
	if err := p.reserve(ctx, g.held); err != nil {
		return err
	}
	if g.raw = bytes.Clone(b.Raw()); codec == nil {
		g.raw = b.AppendUnsent(g.raw[:0])
	}
	g.runs = []run{{r, b.First, int64(b.Records)}}
	l.queue.change(func() { l.queue.items = append(l.queue.items, item{batch: g}) })
	return nil
}

// builder returns a builder. Those that have been used hold much memory, which is of use
// as long as few batches grow.
func (p *producer) builder() *recordbatch.Builder {
	if int64(len(p.open))*4*largeBatch > p.memorySize {
		return new(recordbatch.Builder)
	}
	b := p.builders.Get().(*recordbatch.Builder)
	b.Reset()
	return b
}

// has tells whether there is room for one more record.
func (g *gathering) has(r *route, offset int64, room int) bool {
	if g.builder.Capacity()-(g.builder.Size()-61) < room {
		return false
	}
	n := len(g.runs)
	return n < cap(g.runs) || n > 0 && g.runs[n-1].route == r && g.runs[n-1].first+g.runs[n-1].count == offset
}

// grow uses n more bytes: for a record of room bytes, and for runs.
func (g *gathering) grow(room, n int) {
	if len(g.runs) == cap(g.runs) {
		more := make([]run, len(g.runs), max(2*cap(g.runs), 8))
		copy(more, g.runs)
		g.runs = more
	}
	g.builder.Grow(max(n, room))
}

// reserve takes some of the memory. Where there is none left, all batches that grow are
// sent off, and it waits. The lock of gathering is held.
func (p *producer) reserve(ctx context.Context, n int64) error {
	n = min(n, p.memorySize)
	if p.memory.TryAcquire(n) {
		return nil
	}
	for l := range p.open {
		p.seal(l)
	}
	p.gathering.Unlock()
	p.counters.Output.Begin()
	err := p.memory.Acquire(ctx, n)
	p.counters.Output.End()
	p.gathering.Lock()
	if err != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (p *producer) release(n int64) {
	if n > 0 {
		p.memory.Release(n)
	}
}

// seal hands the batch that grows to the lane's goroutine. The lock of gathering is held.
func (p *producer) seal(l *lane) {
	g := l.gather
	if g == nil {
		return
	}
	l.gather = nil
	delete(p.open, l)
	l.queue.change(func() { l.queue.items = append(l.queue.items, item{batch: g}) })
}

// sealAll sends off all batches that grow.
func (p *producer) sealAll() {
	p.gathering.Lock()
	defer p.gathering.Unlock()
	for l := range p.open {
		p.seal(l)
	}
}

// linger sends off batches that have waited for a while, so that what comes slowly is
// written too.
func (p *producer) linger(ctx context.Context) {
	lingering := lingering
	if p.mirror != nil {
		lingering = lingeringMirror
	}
	tick := time.NewTicker(lingering / 2)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.gathering.Lock()
			for l := range p.open {
				if now.Sub(l.gather.since) >= lingering && l.queue.empty() {
					p.seal(l)
				}
			}
			p.gathering.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// start begins the work on a lane. All that an earlier run has written there must have
// been in the stream.
func (p *producer) start(ctx context.Context, l *lane) error {
	if l.working || p.cfg.DryRun {
		return nil
	}
	if err := p.wantNoMore(ctx, l); err != nil {
		return err
	}
	l.working = true
	l.queue.more = make(chan struct{}, 1)
	p.workers.Go(func() error {
		if err := p.work(ctx, l); err != nil {
			p.fail(err)
		}
		return nil
	})
	return nil
}

// A place is how a lane's goroutine knows where it is.
type place struct {
	log      *partitionlog.Log
	producer sequence
	offset   int64 // of the next batch, where others do not write
	markers  markers
	// untouched says that an earlier run has written to the lane, or may have something on
	// its way there, and that this one has not written yet.
	untouched bool
}

// work does what a lane's items say.
func (p *producer) work(ctx context.Context, l *lane) error {
	p.mirror.own(l)
	first, err := p.identify(ctx, l)
	if err != nil {
		return fmt.Errorf("topic %s, partition %d: %w", l.target.name, l.num, err)
	}
	at := &place{log: p.writer.Open(l.at, l.bounds.End), producer: first, offset: l.bounds.End, markers: markers{last: l.came.marker}}
	at.untouched = l.bounds.End > 0 || p.targets.keeper.inherited(l.target.name) != nil
	var items []item
	for {
		if items, err = l.queue.take(ctx, items); err != nil || len(items) == 0 {
			return err
		}
		for i := range items {
			if g := items[i].batch; g != nil {
				err = p.write(l, at, g)
			} else if err = p.gap(ctx, l, at, &items[i]); err != nil {
				err = fmt.Errorf("topic %s, partition %d: %w", l.target.name, l.num, err)
			}
			at.untouched = false
			if err != nil {
				return err
			}
		}
	}
}

// write compresses a batch, unless it is to stay as it is, and writes it.
func (p *producer) write(l *lane, at *place, g *gathering) error {
	if g.raw != nil {
		return p.writeWhole(l, at, g)
	}
	raw, err := p.build(l.target, g.builder, g.codec)
	if err != nil {
		return err
	}
	if len(raw) > l.target.maxBatch {
		return tooLarge(g.runs[0], l.target, len(raw))
	}
	records := g.builder.Records()
	if g.builder.Capacity() <= 2*largeBatch {
		p.builders.Put(g.builder)
	}
	g.builder = nil
	// The client copies a request to write it.
	if keep := min(int64(2*cap(raw)+cap(g.runs)*runSize), g.held); keep < g.held {
		p.release(min(g.held, p.memorySize) - min(keep, p.memorySize))
		g.held = keep
	}
	p.append(l, at, raw, records, g)
	return nil
}

// writeWhole writes a batch of the stream.
func (p *producer) writeWhole(l *lane, at *place, g *gathering) error {
	raw := g.raw
	if g.codec != nil {
		var err error
		if raw, err = compressed(g.raw, g.codec, l.target.maxBatch); err != nil {
			return fmt.Errorf("topic %s, partition %d: %w", l.target.name, l.num, err)
		}
	}
	g.raw = nil
	p.append(l, at, raw, int(g.runs[0].count), g)
	return nil
}

// compressed compresses the records of a batch that are not, unless it gets too large by that.
func compressed(raw []byte, codec *recordbatch.Compressor, most int) ([]byte, error) {
	small, err := codec.Recompress(nil, raw)
	if err != nil {
		return nil, err
	}
	if len(small) > most {
		small = raw
	}
	b, _, err := recordbatch.CutChecked(small)
	if err != nil {
		return nil, err
	}
	return b.AppendUnsent(nil), nil
}

// build makes a batch of what was gathered, as small as it can be where the topic would
// not take it otherwise.
func (p *producer) build(t *target, b *recordbatch.Builder, codec *recordbatch.Compressor) ([]byte, error) {
	scratch := p.scratch.Get().(*[]byte)
	defer p.scratch.Put(scratch)
	raw, err := b.Build((*scratch)[:0], codec)
	if err == nil && len(raw) > t.maxBatch && codec != t.compressor {
		raw, err = b.Build((*scratch)[:0], t.compressor)
	}
	if err == nil && len(raw) > t.maxBatch && b.Size() <= t.maxBatch {
		raw, err = b.Build((*scratch)[:0], p.targets.codecs["none"])
	}
	if err != nil {
		return nil, err
	}
	if cap(raw) <= 2*largeBatch {
		*scratch = raw
	}
	return bytes.Clone(raw), nil
}

func tooLarge(r run, t *target, size int) error {
	from := r.route.from
	return command.WithHint(fmt.Errorf("produce %s/%d: the record of offset %d takes %s, and topic %s takes batches of %s",
		from.source.name, from.num, r.first, humanize.IBytes(uint64(size)), t.name, humanize.IBytes(uint64(t.maxBatch))),
		fmt.Sprintf("raise max.message.bytes of topic %s", t.name))
}

// append writes a batch that is ready; g is nil for fillers.
func (p *producer) append(l *lane, at *place, raw []byte, records int, g *gathering) {
	recordbatch.Stamp(raw, at.producer.id, at.producer.epoch, at.producer.next)
	at.producer.next = recordbatch.NextSequence(at.producer.next, int32(records))
	at.offset += int64(records)
	p.mu.Lock()
	l.inFlight++
	p.mu.Unlock()
	p.counters.Pending.Add(1)
	size := int64(len(raw))
	at.log.Append(partitionlog.Batch{Raw: raw, Done: func(base, appendTime int64, err error) {
		p.acknowledged(l, g, int64(records), size, base, appendTime, err)
	}})
}

// acknowledged takes the fate of a lane's oldest batch on its way.
func (p *producer) acknowledged(l *lane, g *gathering, records, size, base, appendTime int64, err error) {
	p.counters.Pending.Add(-1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if g != nil {
		p.release(min(g.held, p.memorySize))
	}
	if err != nil {
		p.unsure = true
		p.fail(explain(l, g, err))
	} else if l.due >= 0 && base != l.due {
		p.fail(fmt.Errorf("topic %s, partition %d: a batch was written at offset %d and not at %d, which was next: %w", l.target.name, l.num, base, l.due, otherEnd(base, l.due)))
	} else if err := p.arrived(l, g, records, size, base, appendTime); err != nil {
		p.fail(err)
	}
	if l.inFlight--; l.inFlight == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

// otherEnd says what it means that a log went on at an offset other than the one that was due.
func otherEnd(at, due int64) error {
	if at < due {
		return command.WithHint(errors.New("records that the broker had acknowledged are gone"), cutOff+"; delete the topic, and run the same line again")
	}
	return errors.New("somebody else writes to it")
}

// cutOff is how acknowledged records get lost.
const cutOff = "a log is cut off by an unclean leader election"

// arrived notes where a batch has got to. The lock is held.
func (p *producer) arrived(l *lane, g *gathering, records, size, base, appendTime int64) error {
	if l.due >= 0 {
		l.due += records
	}
	l.written += size
	p.counters.BytesStored.Add(size)
	p.counters.Commit()
	if g == nil { // fillers
		return nil
	}
	if appendTime >= 0 {
		p.stamped.add(l, base, base+records)
	}
	p.acked += records
	p.counters.Records.Add(records)
	p.counters.Committed.Add(records)
	for _, r := range g.runs {
		if err := p.mapped(r, base); err != nil {
			return err
		}
		base += r.count
		r.route.from.shown.Commit(r.first + r.count)
	}
	return nil
}

// explain says what could not be written.
func explain(l *lane, g *gathering, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	what := fmt.Sprintf("topic %s, partition %d", l.target.name, l.num)
	if g != nil {
		r := g.runs[0]
		what = fmt.Sprintf("produce %s/%d to topic %s, partition %d, from offset %d on", r.route.from.source.name, r.route.from.num, l.target.name, l.num, r.first)
	}
	err = fmt.Errorf("%s: %w", what, err)
	switch {
	case errors.Is(err, kerr.DuplicateSequenceNumber): // which proves nothing
		return command.WithHint(err, "run the same line again: it continues behind what is in the topic")
	case errors.Is(err, partitionlog.ErrSequence):
		return command.WithHint(err, "requests of a killed run have come late; nothing is duplicated or lost: run the same line again")
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return command.WithHint(err, fmt.Sprintf("raise max.message.bytes of topic %s", l.target.name))
	case g != nil && g.whole && (errors.Is(err, kerr.UnknownServerError) || errors.Is(err, kerr.InvalidRecord) || errors.Is(err, kerr.CorruptMessage)):
		return command.WithHint(err, "the broker refuses a batch as it came: its compressed records may not match its header; a stream without --batches would show it")
	}
	return err
}

// rest waits until all batches of a lane are acknowledged.
func (p *producer) rest(ctx context.Context, l *lane) error {
	p.mu.Lock()
	if l.inFlight == 0 {
		p.mu.Unlock()
		return nil
	}
	idle := make(chan struct{})
	l.idle = idle
	p.mu.Unlock()
	select {
	case <-idle:
		return context.Cause(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A sequence is a producer and its next sequence number in a partition.
type sequence struct {
	id    int64
	epoch int16
	next  int32
}

// adopted is what the log of a partition says of those that wrote to it.
type adopted struct {
	producer sequence // of the last batch of records; id -1: there is none to go on as
	marker   sequence // of the last transaction marker
}

// identify decides as which producer a lane goes on: as the one that wrote the last batch
// to its log, so that whatever a run that was killed still has on its way is refused by
// the broker, in either order; where nothing has landed yet, as the one in the note.
func (p *producer) identify(ctx context.Context, l *lane) (sequence, error) {
	if l.due >= 0 && l.came.producer.id >= 0 {
		return l.came.producer, nil
	}
	own, inherited, err := p.ownProducer(ctx, l.target)
	if err != nil || !inherited && l.bounds.End == 0 {
		return own, err
	}
	// The log may have been emptied; the broker remembers.
	next, known, err := p.logs.Sequence(ctx, l.at, own.id)
	switch {
	case err != nil:
		return own, err
	case known:
		own.next = next
	case inherited && l.exact != nil: // one that cannot tell: it was fillers that were deleted
		own.next = recordbatch.NextSequence(0, int32(l.bounds.End&math.MaxInt32))
	}
	return own, nil
}

// ownProducer is the producer of the run, or of the one that was killed before it.
func (p *producer) ownProducer(ctx context.Context, t *target) (s sequence, inherited bool, err error) {
	if dead := p.targets.keeper.inherited(t.name); dead != nil && dead.Producer >= 0 {
		return sequence{id: dead.Producer, epoch: dead.Epoch}, true, nil
	}
	return sequence{id: p.targets.keeper.me.Producer, epoch: p.targets.keeper.me.Epoch}, false, nil
}

// stamps are ranges of offsets that got the broker's timestamp, by lane.
type stamps map[*lane][2]int64

func (s stamps) add(l *lane, first, next int64) {
	r, ok := s[l]
	if !ok {
		r = [2]int64{math.MaxInt64, 0}
	}
	s[l] = [2]int64{min(r[0], first), max(r[1], next)}
}
