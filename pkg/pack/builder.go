package pack

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/segment"
)

// A builder is an open segment, that records are gathered for, or an open snapshot of a
// cluster.
type builder struct {
	meta     format.Segment   // of a snapshot only how it is packed
	snapshot *format.Snapshot // nil: it is a segment
	opened   time.Time
	chunk    []byte       // not yet compressed
	batches  [][2]int     // where batches are in it
	chunks   []*chunk     // compressed, or being so
	times    times        // of records outside of batches; when it is sealed, of all
	plain    int64        // bytes in all, as they count for the size of a segment
	left     []string     // filters that marks say have left out or changed records of it
	taken    atomic.Int64 // bytes of memory that chunks take
	counted  int64        // of held, what the packer knows

	sealed chan struct{} // closed when parts are there, and meta has their size and sum
	parts  [][]byte
}

// name says for people what it is.
func (s *builder) name() string {
	if s.snapshot != nil {
		return "snapshot " + s.snapshot.ID + " of a cluster"
	}
	return fmt.Sprintf("a segment of %s/%d", s.meta.Topic, s.meta.Partition)
}

// held is how many bytes of memory the segment takes.
func (s *builder) held() int64 { return s.taken.Load() + int64(cap(s.chunk)) }

// A chunk is a part of a segment; what is behind done may be read once done is closed.
type chunk struct {
	raw     []byte
	batches [][2]int // where batches are in it

	done   chan struct{}
	packed []byte
	size   int64 // bytes in it, uncompressed
	times  times // of the records in its batches
}

// times are the bounds of the timestamps of records.
type times struct {
	some     bool
	min, max int64
}

func (t *times) add(first, last int64) {
	if !t.some {
		*t = times{true, first, last}
	}
	t.min, t.max = min(t.min, first), max(t.max, last)
}

// append adds a record's frame.
func (s *builder) append(ctx context.Context, out *output, f *format.Frame) error {
	s.times.add(f.Timestamp, f.Timestamp)
	s.plain += int64(len(f.Raw))
	return s.add(ctx, out, f.Raw, f.Offset, f.Offset, 1)
}

// packedCounts is how many times a batch that is compressed counts for the size of a segment.
// What its records come to is not known, and the object is to be about as large as one of
// records, which are compressed here.
const packedCounts = 8

// appendBatch adds a batch's frame. What is in it is looked at when it is compressed.
func (s *builder) appendBatch(ctx context.Context, out *output, b *format.Batch, raw []byte) error {
	size := int64(len(raw))
	if recordbatch.Compressed(b.Data) {
		size *= packedCounts
	}
	s.plain += size
	s.batches = append(s.batches, [2]int{len(s.chunk), len(s.chunk) + len(raw)})
	return s.add(ctx, out, raw, b.First, b.Last, b.Records)
}

// add adds the frame of records of these offsets.
func (s *builder) add(ctx context.Context, out *output, raw []byte, first, last, records int64) error {
	m := &s.meta
	if m.Records == 0 {
		m.First = first
	}
	m.Records += records
	m.Last = last
	m.Next = last + 1
	s.chunk = append(s.chunk, raw...)
	if len(s.chunk) < segment.ChunkSize {
		return nil
	}
	return s.cutOff(ctx, out)
}

// scanned takes a mark of the segment's partition, behind its records.
func (s *builder) scanned(m *format.Mark) {
	s.meta.Next = max(s.meta.Next, m.Next)
	s.meta.TopicID = cmp.Or(s.meta.TopicID, m.TopicID)
	for _, f := range m.Filters {
		if !slices.Contains(s.meta.Filters, f) {
			s.meta.Filters = append(slices.Clip(s.meta.Filters), f) // those of all segments stay as they are
			s.left = append(s.left, f)
		}
	}
}

// mark appends a mark frame of the segment's partition.
func (s *builder) mark(next int64) error {
	var err error
	s.chunk, err = (&format.Mark{
		Topic: s.meta.Topic, Partition: s.meta.Partition, Next: next, MarkInfo: format.MarkInfo{TopicID: s.meta.TopicID, Filters: s.left},
	}).AppendFrame(s.chunk)
	return err
}

// cutOff hands the current chunk to the compressors.
func (s *builder) cutOff(ctx context.Context, out *output) error {
	c := &chunk{raw: s.chunk, batches: s.batches, done: make(chan struct{})}
	s.chunks = append(s.chunks, c)
	s.taken.Add(int64(cap(s.chunk))) // until it is compressed
	s.chunk, s.batches = nil, nil
	if recyclable(c.raw) {
		s.chunk = out.buffer()
	}
	return out.do(ctx, job{of: s, chunk: c})
}

// finish ends the segment's inner stream and queues it to be sealed and put out.
func (s *builder) finish(ctx context.Context, out *output) error {
	if err := s.mark(s.meta.Next); err != nil {
		return err
	}
	return s.end(ctx, out)
}

// end is finish without the mark.
func (s *builder) end(ctx context.Context, out *output) error {
	var err error
	if s.chunk, err = (&format.End{Records: s.meta.Records}).AppendFrame(s.chunk); err != nil {
		return err
	}
	if err := s.cutOff(ctx, out); err != nil {
		return err
	}
	out.recycle(s.chunk)
	s.chunk = nil
	s.sealed = make(chan struct{})
	if err := out.do(ctx, job{of: s}); err != nil { // behind its chunks
		return err
	}
	return out.put(ctx, s)
}
