package pack

import (
	"errors"
	"fmt"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/segment"
)

// A worker checks the batches in chunks, and compresses chunks. It belongs to one goroutine.
type worker struct {
	out      *output
	compress segment.Compress // nil: not at all
	decoder  *recordbatch.Decoder
	scratch  []byte       // what was compressed last
	plain    []byte       // what is to be compressed, where that is not the chunk itself
	data     []byte       // a batch, decompressed
	frame    format.Batch // the last one
}

func newWorker(out *output, compress segment.Compress) *worker {
	return &worker{out: out, compress: compress, decoder: recordbatch.NewDecoder()}
}

// pack checks the batches in a chunk, and compresses it.
func (w *worker) pack(j job) error {
	c, before := j.chunk, cap(j.chunk.raw)
	c.size = int64(len(c.raw))
	if w.out.recompress && len(c.batches) > 0 {
		if err := w.recompress(c); err != nil {
			return err
		}
	} else {
		compressed, err := w.check(c)
		if err != nil {
			return corruptBatch(err)
		}
		switch {
		case w.compress == nil:
			c.packed = c.raw
		case w.out.store != nil && compressed > len(c.raw)/2:
			c.packed = w.out.store(c.raw)
		default:
			if w.scratch, err = w.compress(w.scratch[:0], c.raw); err != nil {
				return fmt.Errorf("compress: %w", err)
			}
			c.packed = slices.Clone(w.scratch)
			w.out.recycle(c.raw)
		}
	}
	j.of.taken.Add(int64(cap(c.packed) - before))
	c.raw = nil
	close(c.done)
	for _, b := range []*[]byte{&w.scratch, &w.plain, &w.data} {
		if cap(*b) > 4*segment.ChunkSize { // one that a huge record made larger is not kept
			*b = nil
		}
	}
	return nil
}

// corruptBatch is the error for a batch that is not what it should be.
func corruptBatch(err error) error {
	return command.WithStatus(command.Corrupt, command.Input(err))
}

// check opens the batches in a chunk, and finds out between which times their records are. It
// returns how many bytes of the chunk are compressed already.
func (w *worker) check(c *chunk) (compressed int, err error) {
	for _, at := range c.batches {
		b, err := w.open(c.raw[at[0]:at[1]])
		if err != nil {
			return 0, err
		}
		if b.Codec() != kgo.CodecNone {
			compressed += b.Size()
		}
		if err := w.times(c, b); err != nil {
			return 0, err
		}
	}
	return compressed, nil
}

// open opens the batch of a frame, which is w.frame then.
func (w *worker) open(raw []byte) (recordbatch.Batch, error) {
	if err := w.frame.Decode(raw); err != nil {
		return recordbatch.Batch{}, err
	}
	return recordbatch.Open(&w.frame)
}

// times adds the times of the batch of w.frame to those of the chunk.
func (w *worker) times(c *chunk, b recordbatch.Batch) error {
	first, last, known, err := segment.TimesOf(w.decoder, b)
	if err != nil {
		return fmt.Errorf("%s/%d: %w", w.frame.Topic, w.frame.Partition, err)
	}
	if !known {
		w.out.tooLarge.Do(func() {
			w.out.log.Warn(fmt.Sprintf("%s/%d: the batch of offsets %d to %d comes to more than %s uncompressed: it is packed without checking its records, and its segment may hold any earlier time; others like it are not named",
				w.frame.Topic, w.frame.Partition, w.frame.First, w.frame.Last, humanize.IBytes(uint64(w.decoder.MaxSize))))
		})
	}
	c.times.add(first, last)
	return nil
}

// recompress decompresses the batches in a chunk, and compresses all of it.
func (w *worker) recompress(c *chunk) error {
	var packed []byte
	w.plain, c.size = w.plain[:0], 0
	flush := func() (err error) {
		c.size += int64(len(w.plain))
		if packed, err = w.compress(packed, w.plain); err != nil {
			return fmt.Errorf("compress: %w", err)
		}
		w.plain = w.plain[:0]
		return nil
	}
	done := 0
	for _, at := range c.batches {
		w.plain = append(w.plain, c.raw[done:at[0]]...)
		done = at[1]
		if err := w.uncompress(c, c.raw[at[0]:at[1]]); err != nil {
			return err
		}
		if len(w.plain) >= segment.ChunkSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	w.plain = append(w.plain, c.raw[done:]...)
	if len(w.plain) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	c.packed = slices.Clip(packed)
	w.out.recycle(c.raw)
	return nil
}

// uncompress appends a batch's frame to w.plain, decompressed, unless that would take too
// much memory.
func (w *worker) uncompress(c *chunk, raw []byte) error {
	b, err := w.open(raw)
	if err != nil {
		return corruptBatch(err)
	}
	codec := recordbatch.CodecName(b.Codec())
	if b.Codec() != kgo.CodecNone {
		unlock, err := w.decompress(b)
		defer unlock()
		switch {
		case errors.Is(err, recordbatch.ErrTooLarge):
			codec = "" // as it is
		case err != nil:
			return corruptBatch(fmt.Errorf("%s/%d: %w", w.frame.Topic, w.frame.Partition, err))
		default:
			if b, _, err = recordbatch.CutChecked(w.data); err != nil {
				return err
			}
			w.frame.Data, w.frame.Codec = w.data, codec
		}
	}
	if err := w.times(c, b); err != nil {
		return corruptBatch(err)
	}
	if codec == "" {
		w.plain = append(w.plain, raw...)
		return nil
	}
	w.plain, err = w.frame.AppendFrame(w.plain)
	return err
}

// usual is what most batches come to, at most, when they are decompressed. A larger one is
// decompressed by one worker at a time.
const usual = 4 << 20

// decompress decompresses a batch into w.data. What unlock returns is to be called when that
// is not needed any more.
func (w *worker) decompress(b recordbatch.Batch) (unlock func(), err error) {
	unlock = func() {}
	limit := w.decoder.MaxSize
	defer func() { w.decoder.MaxSize = limit }()
	w.decoder.MaxSize = usual
	data, err := w.decoder.Uncompressed(w.data[:0], b)
	if errors.Is(err, recordbatch.ErrTooLarge) && w.out.largest > usual {
		w.out.large.Lock()
		unlock = w.out.large.Unlock
		w.decoder.MaxSize = w.out.largest
		data, err = w.decoder.Uncompressed(w.data[:0], b)
	}
	if err == nil {
		w.data = data
	}
	return unlock, err
}
