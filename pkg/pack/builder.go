package pack

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/segment"
)

// A builder is an open segment, that records are gathered for.
type builder struct {
	meta    format.Segment
	opened  time.Time
	chunk   []byte       // not yet compressed
	chunks  []*chunk     // compressed, or being so
	raw     int64        // bytes in all, uncompressed
	left    []string     // filters that marks say have left out or changed records of it
	cutOff  atomic.Int64 // bytes of memory that chunks take
	counted int64        // of held, what the packer knows

	sealed chan struct{} // closed when parts are there, and meta has their size and sum
	parts  [][]byte
}

// held is how many bytes of memory the segment takes.
func (s *builder) held() int64 { return s.cutOff.Load() + int64(cap(s.chunk)) }

// A chunk is a part of a segment; packed may be read once done is closed.
type chunk struct {
	raw    []byte
	packed []byte
	done   chan struct{}
}

// append adds a record's frame.
func (s *builder) append(ctx context.Context, out *output, f *format.Frame) error {
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
	if len(s.chunk) < segment.ChunkSize {
		return nil
	}
	return s.cut(ctx, out)
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

// cut hands the current chunk to the compressors.
func (s *builder) cut(ctx context.Context, out *output) error {
	c := &chunk{raw: s.chunk, done: make(chan struct{})}
	s.chunks = append(s.chunks, c)
	s.meta.RawSize += int64(len(s.chunk))
	s.cutOff.Add(int64(cap(s.chunk))) // until it is compressed
	s.chunk = nil
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
	var err error
	if s.chunk, err = (&format.End{Records: s.meta.Records}).AppendFrame(s.chunk); err != nil {
		return err
	}
	if err := s.cut(ctx, out); err != nil {
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
