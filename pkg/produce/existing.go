package produce

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/partitionlog"
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

func newHasher() *hasher { return new(hasher).like(maphash.MakeSeed()) }

func (h *hasher) like(seed maphash.Seed) *hasher {
	h.SetSeed(seed)
	return h
}

// twin returns a hasher whose sums can be compared with those of h.
func (h *hasher) twin() *hasher { return new(hasher).like(h.Seed()) }

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

// sum is the sum of a record's timestamp, key, value and headers.
func (h *hasher) sum(r *format.Record) uint64 {
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

// A scan reads a partition's log, one answer of the broker at a time.
type scan struct {
	logs    *partitionlog.Logs
	at      partitionlog.Partition
	bytes   int32 // to ask for, as they are in the log
	hasher  *hasher
	decoder *recordbatch.Decoder
	whole   bool // batches are left as they are
	// committed leaves out what was aborted: the log may have been written by others than
	// kbk before.
	committed bool
}

func newScan(logs *partitionlog.Logs, at partitionlog.Partition, bytes int32, h *hasher) *scan {
	return &scan{logs: logs, at: at, bytes: bytes, hasher: h.twin(), decoder: recordbatch.NewDecoder()}
}

// A chunk is what one answer of the broker holds.
type chunk struct {
	spans   []span
	batches []recordbatch.Batch // in place of spans, where batches are left as they are
	came    adopted             // who has written the last batches of it; ids -1: there is none
	size    int64               // in the log
	next    int64               // the offset behind it
	err     error
}

// read returns what there is of the records in [from, end), as far as one answer goes.
func (s *scan) read(ctx context.Context, from, end int64) (c chunk) {
	c.came = adopted{producer: sequence{id: -1}, marker: sequence{id: -1}}
	c.next = from
	answer, err := s.ask(ctx, from, end)
	if err != nil {
		c.err = err
		return c
	}
	aborted := recordbatch.NewAborted(answer.AbortedTransactions)
	for records := answer.RecordBatches; len(records) > 0; {
		b, rest, err := recordbatch.Cut(records)
		if errors.Is(err, recordbatch.ErrPartial) {
			break
		}
		if err == nil && b.Last >= from && b.First < end {
			err = s.batch(&c, b, aborted, from, end)
		}
		if err != nil {
			c.err = fmt.Errorf("read %s: %w", s.at, err)
			return c
		}
		records, c.next = rest, max(c.next, b.Last+1)
	}
	if c.next == from && s.committed { // compaction took the rest
		c.next = end
	} else if c.next == from {
		c.err = fmt.Errorf("read %s: nothing at offset %d, below the log's end", s.at, from)
	}
	return c
}

func (s *scan) ask(ctx context.Context, from, end int64) (*kmsg.FetchResponseTopicPartition, error) {
	if s.committed {
		return s.logs.ReadBelow(ctx, s.at, from, end, s.bytes)
	}
	return s.logs.Read(ctx, s.at, from, s.bytes, partitionlog.Uncommitted)
}

// batch takes what there is of a batch in [from, end).
func (s *scan) batch(c *chunk, b recordbatch.Batch, aborted *recordbatch.Aborted, from, end int64) error {
	c.size += int64(b.Size())
	data, err := aborted.Data(b, s.decoder)
	if err != nil {
		return err
	}
	if b.Control() {
		c.came.marker = sequence{id: b.ProducerID, epoch: b.ProducerEpoch}
		return nil
	}
	c.came.producer = sequence{id: -1}
	if b.ProducerID >= 0 && b.Sequence >= 0 && !b.Transactional() {
		c.came.producer = sequence{b.ProducerID, b.ProducerEpoch, recordbatch.NextSequence(b.Sequence, int32(b.Last-b.First+1))}
	}
	if !data {
		return nil
	}
	if s.whole {
		c.batches = append(c.batches, b)
		return nil
	}
	c.spans, err = s.decode(c.spans, b, from, end)
	return err
}

// decode appends the prints of a batch's records in [from, end).
func (s *scan) decode(spans []span, b recordbatch.Batch, from, end int64) ([]span, error) {
	if err := s.decoder.Open(b); err != nil {
		return nil, err
	}
	var r format.Record
	for {
		ok, err := s.decoder.Next(&r)
		if err != nil || !ok {
			return spans, err
		}
		if r.Offset < from || r.Offset >= end { // what has come since is not this run's business
			continue
		}
		sum := s.hasher.sum(&r)
		if n := len(spans); n > 0 && spans[n-1].sum == sum && spans[n-1].offset+spans[n-1].count == r.Offset {
			spans[n-1].count++
			continue
		}
		spans = append(spans, span{print{r.Offset, sum}, 1})
	}
}

// existing is what a partition held when the run began, read once, from front to back,
// a chunk ahead of whoever takes it.
type existing struct {
	bounds partitionlog.Bounds
	scan   *scan
	chunks chan chunk // nil before the first is asked for
	left   []span
	// Behind what is left, where batches are left as they are until records are asked for.
	batches []recordbatch.Batch
	came    adopted
	size    int64 // of what has been read, in the log
	over    bool
}

// newExisting asks for so many bytes at once. whole says that most of what is there may be
// compared batch by batch: then batches are decoded only where that does not do.
func newExisting(logs *partitionlog.Logs, at partitionlog.Partition, bounds partitionlog.Bounds, bytes int32, h *hasher, whole bool) *existing {
	e := &existing{
		bounds: bounds, scan: newScan(logs, at, bytes, h),
		came: adopted{producer: sequence{id: -1}, marker: sequence{id: -1}},
	}
	if e.scan.whole = whole; whole { // what waits to be compared takes memory, too
		e.scan.bytes = bytes / 2
	}
	return e
}

// peek returns the next record that was there, and false behind the last.
func (e *existing) peek(ctx context.Context) (print, bool, error) {
	for {
		if err := e.await(ctx); err != nil || e.over {
			return print{}, false, err
		}
		if len(e.left) > 0 {
			return e.left[0].print, true, nil
		}
		var err error
		if e.left, err = e.scan.decode(nil, e.batches[0], e.bounds.Start, e.bounds.End); err != nil {
			return print{}, false, fmt.Errorf("read %s: %w", e.scan.at, err)
		}
		e.batches = e.batches[1:]
	}
}

// peekBatch returns the next batch that was there, where none of its records has been taken
// and it is not cut by a bound; else nil. There is nothing more where over says so.
func (e *existing) peekBatch(ctx context.Context) (b *recordbatch.Batch, over bool, err error) {
	if err := e.await(ctx); err != nil || e.over {
		return nil, e.over, err
	}
	if len(e.left) > 0 || len(e.batches) == 0 {
		return nil, false, nil
	}
	if b = &e.batches[0]; b.First < e.bounds.Start || b.Last >= e.bounds.End {
		return nil, false, nil
	}
	return b, false, nil
}

// popBatch takes what peekBatch has returned.
func (e *existing) popBatch() { e.batches = e.batches[1:] }

// await waits until there is something left, or it is over.
func (e *existing) await(ctx context.Context) error {
	if e.chunks == nil {
		e.chunks = make(chan chunk, 1)
		go e.run(ctx)
	}
	for len(e.left) == 0 && len(e.batches) == 0 && !e.over {
		select {
		case c, ok := <-e.chunks:
			if c.err != nil {
				return c.err
			}
			e.left, e.batches, e.over = c.spans, c.batches, !ok
			e.note(c, ok)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// note keeps who has written what is last.
func (e *existing) note(c chunk, ok bool) {
	if !ok {
		return
	}
	e.size += c.size
	if len(c.spans) > 0 || len(c.batches) > 0 || c.came.producer.id >= 0 {
		e.came.producer = c.came.producer
	}
	if c.came.marker.id >= 0 {
		e.came.marker = c.came.marker
	}
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
	for at := e.bounds.Start; at < e.bounds.End; {
		c := e.scan.read(ctx, at, e.bounds.End)
		select {
		case e.chunks <- c:
		case <-ctx.Done():
			return
		}
		if c.err != nil {
			return
		}
		at = c.next
	}
}
