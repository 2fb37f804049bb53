package pack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/kbkio/kbk/format"
)

// chunkSize is how much of a segment is compressed at once, as a zstd frame of its
// own: so a single segment keeps every core busy, and an open one holds no encoder.
const chunkSize = 1 << 20

// A segment is one that records are gathered for.
type segment struct {
	meta   format.Segment
	opened time.Time
	chunk  []byte   // not yet compressed
	chunks []*chunk // compressed, or being so
	raw    int64    // bytes in all, uncompressed
	cutOff int64    // bytes of memory that chunks are counted as
}

// held is how many bytes of memory the segment takes, as far as is known.
func (s *segment) held() int64 { return s.cutOff + int64(cap(s.chunk)) }

// A chunk is a part of a segment; packed may be read once done is closed.
type chunk struct {
	raw    []byte
	packed []byte
	done   chan struct{}
}

// append adds a record's frame.
func (s *segment) append(ctx context.Context, out *output, f *format.Frame) error {
	m := &s.meta
	if m.Records == 0 {
		m.First, m.MinTimestamp, m.MaxTimestamp = f.Offset, f.Timestamp, f.Timestamp
	}
	m.Records++
	m.Last = f.Offset
	m.Next = f.Offset + 1
	m.MinTimestamp, m.MaxTimestamp = min(m.MinTimestamp, f.Timestamp), max(m.MaxTimestamp, f.Timestamp)
	s.chunk = append(s.chunk, f.Raw...)
	s.raw = m.RawSize + int64(len(s.chunk))
	if len(s.chunk) < chunkSize {
		return nil
	}
	return s.cut(ctx, out)
}

// mark appends a mark frame of the segment's partition.
func (s *segment) mark(next int64) error {
	var err error
	s.chunk, err = (&format.Mark{
		Topic: s.meta.Topic, Partition: s.meta.Partition, Next: next, MarkInfo: format.MarkInfo{TopicID: s.meta.TopicID},
	}).AppendFrame(s.chunk)
	return err
}

// cut hands the current chunk to the compressors.
func (s *segment) cut(ctx context.Context, out *output) error {
	c := &chunk{raw: s.chunk, done: make(chan struct{})}
	s.chunks = append(s.chunks, c)
	s.meta.RawSize += int64(len(s.chunk))
	// Until it is known what it comes to, a chunk counts as compressed by half.
	s.cutOff += int64(len(s.chunk) / 2)
	s.chunk = nil
	if len(c.raw) >= chunkSize && cap(c.raw) <= 2*chunkSize {
		s.chunk = out.buffer()
	}
	return out.compress(ctx, c)
}

// finish ends the segment's inner stream and queues it for output.
func (s *segment) finish(ctx context.Context, out *output) error {
	if err := s.mark(s.meta.Next); err != nil {
		return err
	}
	var err error
	if s.chunk, err = (&format.End{Records: s.meta.Records}).AppendFrame(s.chunk); err != nil {
		return err
	}
	if err := s.cut(ctx, out); err != nil {
		return err
	}
	out.recycle(s.chunk)
	s.chunk = nil
	return out.segment(ctx, s)
}

// An item of output is a segment or frames to pass on.
type item struct {
	segment *segment
	weight  int64
	raw     []byte
}

// An output compresses chunks on all cores and writes segments and other frames in
// the order in which they are put in.
type output struct {
	w        *format.Writer
	todo     chan *chunk
	items    chan item
	room     *semaphore.Weighted // for segments that are closed
	capacity int64
	closing  chan struct{} // closed when nothing more is put in
	buffers  sync.Pool

	// Of what was written; to be read when the group is done.
	segments, records, raw, packed int64
}

func newOutput(ctx context.Context, g *errgroup.Group, w *format.Writer, cfg Config) (*output, error) {
	o := &output{
		w:        w,
		todo:     make(chan *chunk, runtime.GOMAXPROCS(0)),
		items:    make(chan item, 64),
		room:     semaphore.NewWeighted(cfg.Memory / 4),
		capacity: cfg.Memory / 4,
		closing:  make(chan struct{}),
		buffers:  sync.Pool{New: func() any { b := make([]byte, 0, chunkSize+chunkSize/16); return &b }},
	}
	for range runtime.GOMAXPROCS(0) {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(cfg.Level)), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("set up zstd: %w", err)
		}
		g.Go(func() error { return o.work(ctx, enc) })
	}
	g.Go(func() error { return o.write(ctx) })
	return o, nil
}

func (o *output) close() {
	close(o.closing)
	close(o.todo)
	close(o.items)
}

func (o *output) buffer() []byte { return *o.buffers.Get().(*[]byte) }

func (o *output) recycle(b []byte) {
	if c := cap(b); c >= chunkSize && c <= 2*chunkSize {
		b = b[:0]
		o.buffers.Put(&b)
	}
}

func (o *output) compress(ctx context.Context, c *chunk) error {
	select {
	case o.todo <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *output) put(ctx context.Context, it item) error {
	select {
	case o.items <- it:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pass writes a copy of raw frames behind what was put in before.
func (o *output) pass(ctx context.Context, raw []byte) error {
	return o.put(ctx, item{raw: slices.Clone(raw)})
}

// segment writes a segment behind what was put in before. It waits while closed
// segments take more than their share of the memory.
func (o *output) segment(ctx context.Context, s *segment) error {
	weight := min(s.held(), o.capacity)
	if err := o.room.Acquire(ctx, weight); err != nil {
		return err
	}
	return o.put(ctx, item{segment: s, weight: weight})
}

func (o *output) work(ctx context.Context, enc *zstd.Encoder) error {
	defer enc.Close()
	var scratch []byte
	for {
		select {
		case c, ok := <-o.todo:
			if !ok {
				return nil
			}
			scratch = enc.EncodeAll(c.raw, scratch[:0])
			c.packed = slices.Clone(scratch)
			o.recycle(c.raw)
			c.raw = nil
			close(c.done)
			if cap(scratch) > 4*chunkSize { // one that a huge record made larger is not kept
				scratch = nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (o *output) write(ctx context.Context) error {
	for {
		select {
		case it, ok := <-o.items:
			if !ok {
				return nil
			}
			if err := o.writeItem(ctx, it); err != nil {
				return err
			}
			if len(o.items) == 0 { // nothing follows at once: let it be seen
				if err := o.w.Flush(); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (o *output) writeItem(ctx context.Context, it item) error {
	s := it.segment
	if s == nil {
		return o.w.WriteRaw(it.raw)
	}
	m := &s.meta
	parts := make([][]byte, len(s.chunks))
	sum := sha256.New()
	for i, c := range s.chunks {
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		parts[i] = c.packed
		sum.Write(c.packed)
		m.Size += int64(len(c.packed))
	}
	m.SHA256 = sum.Sum(nil)
	if m.Size > math.MaxInt32 {
		return fmt.Errorf("pack %s/%d: segment of %d bytes: use a smaller --segment-size", m.Topic, m.Partition, m.Size)
	}
	if err := o.w.WriteSegment(m, parts...); err != nil {
		return err
	}
	o.room.Release(it.weight)
	o.segments++
	o.records += m.Records
	o.raw += m.RawSize
	o.packed += m.Size
	return nil
}
