package pack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"sync"

	"filippo.io/age"
	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/segment"
)

// A job is a chunk to compress, or, without one, a segment to seal.
type job struct {
	of    *builder
	chunk *chunk
}

// An item of output is a segment or frames to pass on.
type item struct {
	segment *builder
	weight  int64
	raw     []byte
}

// An output compresses chunks and encrypts segments on all cores, and writes segments
// and other frames in the order in which they are put in.
type output struct {
	w        *format.Writer
	log      *slog.Logger
	count    *metrics.Counters
	store    func([]byte) []byte // makes a frame of what is compressed already; nil: compress
	to       []age.Recipient     // nobody: not encrypted
	jobs     chan job
	items    chan item
	room     *semaphore.Weighted // for segments that are closed
	capacity int64
	buffers  sync.Pool
	tooLarge sync.Once // a batch: it is said of the first

	recompress bool
	large      sync.Mutex // of whoever decompresses a large batch,
	largest    int64      // of so many bytes at most

	// Of what was written; to be read when the group is done.
	segments, snapshots, records, raw, packed int64
}

func newOutput(ctx context.Context, g *errgroup.Group, w *format.Writer, cfg Config, env *command.Env) (*output, error) {
	o := &output{
		w:     w,
		log:   env.Log,
		count: &env.Counters,
		store: cfg.Codec.Store,

		recompress: cfg.Recompress, largest: cfg.Memory / 16,

		to:       cfg.Recipients,
		jobs:     make(chan job, runtime.GOMAXPROCS(0)),
		items:    make(chan item, 64),
		room:     semaphore.NewWeighted(cfg.Memory / 4),
		capacity: cfg.Memory / 4,
		buffers:  sync.Pool{New: func() any { b := make([]byte, 0, segment.ChunkSize+segment.ChunkSize/16); return &b }},
	}
	for range runtime.GOMAXPROCS(0) {
		compress, err := cfg.Codec.Compressor(cfg.Level)
		if err != nil {
			return nil, fmt.Errorf("set up %s: %w", cfg.Codec.Name, err)
		}
		g.Go(func() error { return o.work(ctx, compress) })
	}
	g.Go(func() error { return o.write(ctx) })
	return o, nil
}

// close says that nothing more is put in. It is for whoever puts in, as all that does so.
func (o *output) close() {
	close(o.jobs)
	close(o.items)
}

func (o *output) buffer() []byte { return *o.buffers.Get().(*[]byte) }

// recyclable tells a buffer of a chunk from small ones, and from those that a huge
// record made larger.
func recyclable(b []byte) bool {
	return cap(b) >= segment.ChunkSize && cap(b) <= 2*segment.ChunkSize
}

func (o *output) recycle(b []byte) {
	if recyclable(b) {
		b = b[:0]
		o.buffers.Put(&b)
	}
}

func (o *output) do(ctx context.Context, j job) error {
	select {
	case o.jobs <- j:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *output) putItem(ctx context.Context, it item) error {
	select {
	case o.items <- it:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pass writes a copy of raw frames behind what was put in before.
func (o *output) pass(ctx context.Context, raw []byte) error {
	return o.putItem(ctx, item{raw: slices.Clone(raw)})
}

// put writes a segment behind what was put in before. It waits while closed segments
// take more than their share of the memory.
func (o *output) put(ctx context.Context, s *builder) error {
	weight := min(s.held(), o.capacity)
	if err := o.room.Acquire(ctx, weight); err != nil {
		return err
	}
	o.count.Pending.Add(1)
	return o.putItem(ctx, item{segment: s, weight: weight})
}

// work does jobs. A segment's chunks come before the job that seals it, so whoever
// seals waits for chunks that others are at work on, and never for one that waits.
func (o *output) work(ctx context.Context, compress segment.Compress) error {
	w := newWorker(o, compress)
	for {
		select {
		case j, ok := <-o.jobs:
			if !ok {
				return nil
			}
			var err error
			if j.chunk == nil {
				err = o.seal(ctx, j.of)
			} else {
				err = w.pack(j)
			}
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// seal encrypts a segment, if so asked, and finds its size and its sum.
func (o *output) seal(ctx context.Context, s *builder) error {
	p := &parts{out: o, sum: sha256.New()}
	add, end := p.keep, func() error { return nil }
	if len(o.to) > 0 {
		w, err := age.Encrypt(p, o.to...)
		if err != nil {
			return fmt.Errorf("encrypt %s: %w", s.name(), err)
		}
		s.meta.Cipher = segment.Age
		end = w.Close
		add = func(packed []byte) error {
			_, err := w.Write(packed)
			o.recycle(packed)
			return err
		}
	}
	for _, c := range s.chunks {
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := add(c.packed); err != nil {
			return err
		}
		c.packed = nil
		s.meta.RawSize += c.size
		if c.times.some {
			s.times.add(c.times.min, c.times.max)
		}
	}
	s.meta.MinTimestamp, s.meta.MaxTimestamp = s.times.min, s.times.max
	if err := end(); err != nil {
		return err
	}
	s.parts, s.meta.Size, s.meta.SHA256 = p.all, p.size, p.sum.Sum(nil)
	close(s.sealed)
	return nil
}

// parts gathers a segment's content.
type parts struct {
	out  *output
	sum  hash.Hash
	size int64
	all  [][]byte
}

// keep adds b itself.
func (p *parts) keep(b []byte) error {
	p.sum.Write(b)
	p.size += int64(len(b))
	p.all = append(p.all, b)
	return nil
}

// Write implements io.Writer: it adds a copy, in the buffers of chunks.
func (p *parts) Write(b []byte) (int, error) {
	p.sum.Write(b)
	p.size += int64(len(b))
	for rest := b; len(rest) > 0; {
		last := len(p.all) - 1
		if last < 0 || len(p.all[last]) == cap(p.all[last]) {
			p.all = append(p.all, p.out.buffer())
			last++
		}
		n := min(len(rest), cap(p.all[last])-len(p.all[last]))
		p.all[last] = append(p.all[last], rest[:n]...)
		rest = rest[n:]
	}
	return len(b), nil
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
	select {
	case <-s.sealed:
	case <-ctx.Done():
		return ctx.Err()
	}
	m := &s.meta
	if m.Size > math.MaxInt32 {
		return fmt.Errorf("pack %s of %s: use a smaller --segment-size", s.name(), humanize.IBytes(uint64(m.Size)))
	}
	var err error
	if s.snapshot == nil {
		err = o.writeSegment(s)
	} else {
		err = o.writeSnapshot(s)
	}
	if err != nil {
		return err
	}
	for _, b := range s.parts {
		o.recycle(b)
	}
	o.room.Release(it.weight)
	o.count.Pending.Add(-1)
	return nil
}

func (o *output) writeSegment(s *builder) error {
	m := &s.meta
	if err := o.w.WriteSegment(m, s.parts...); err != nil {
		return err
	}
	o.segments++
	o.records += m.Records
	o.raw += m.RawSize
	o.packed += m.Size
	o.count.Segments.Add(1)
	o.count.Records.Add(m.Records)
	o.count.Offsets.Add(m.Next - m.From)
	o.count.BytesRaw.Add(m.RawSize)
	o.count.BytesPacked.Add(m.Size)
	return nil
}
