package produce

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A batch is what is used again from one batch of the stream to the next.
type batch struct {
	frame   format.Batch
	decoder *recordbatch.Decoder
	first   *recordbatch.Decoder // of the first records of batches that stay as they are
}

// batch produces a batch of the stream: as it is, where nothing is to be done to its records
// and the topic takes it so; else record by record.
func (p *producer) batch(ctx context.Context, raw []byte) error {
	f := &p.batched.frame
	if err := f.Decode(raw); err != nil {
		return command.Input(err)
	}
	b, err := recordbatch.Open(f)
	if err != nil {
		return corruptBatch(err)
	}
	name, err := codecOf(f, &b)
	if err != nil {
		return corruptBatch(err)
	}
	if err := p.order.Batch(f.Topic, f.Partition, f.First, f.Last); err != nil {
		return command.Input(err)
	}
	part, err := p.partition(ctx, f.Topic, f.Partition)
	if err != nil {
		return err
	}
	p.passed(part, f.First, f.Last+1, f.Records)
	t := part.source.target
	codec, err := p.targets.compressor(name)
	if err != nil {
		return err
	}
	if part.fixed != nil && !p.editor.edits() && staysWhole(&b, codec, t) && !p.joins(part.fixed.to, &b) {
		var anew *recordbatch.Compressor
		if f.Codec != "" {
			anew = codec
		}
		if done, err := p.whole(ctx, part, &b, anew); done || err != nil {
			return err
		}
	}
	if !t.keeps {
		codec = t.compressor
	}
	return p.unpack(ctx, part, &b, codec)
}

// corruptBatch is the error for a batch that is not what it should be. One that merely takes
// too much memory is no corrupt one.
func corruptBatch(err error) error {
	err = command.Input(err)
	if errors.Is(err, recordbatch.ErrTooLarge) {
		return err
	}
	return command.WithStatus(command.Corrupt, err)
}

// A batch costs the broker and the client as such, whatever is in it: below some size, more
// than it costs to decompress it and to compress what it holds together with others. A
// request with batches of many partitions has that size moved down; measurements are in
// docs/performance.md, "Restores". What is not compressed costs next to nothing to join.
const (
	joinBelow   = 32 << 10 // where there is one partition
	neverJoined = 4 << 10  // from this size on, with however many
	joinPlain   = 64 << 10 // of what is not compressed
)

// small decides whether a batch is worth joining with others, for a run to so many partitions.
func small(size, partitions int, compressed bool) bool {
	if !compressed {
		return size < joinPlain
	}
	return size < max(int(joinBelow/math.Sqrt(float64(max(partitions, 1)))), neverJoined)
}

// joins says whether a batch is better joined with those before it and behind it: where it
// is small, and would have to wait for others.
func (p *producer) joins(l *lane, b *recordbatch.Batch) bool {
	if p.cfg.DryRun || !small(b.Size(), len(p.lanes), b.Codec() != kgo.CodecNone) {
		return false
	}
	if !l.queue.empty() {
		return true
	}
	p.gathering.Lock()
	grows := l.gather != nil
	p.gathering.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	return grows || l.inFlight > 0
}

// staysWhole decides whether a topic takes a batch with a codec as it is, with the same
// records and times in the end. The broker would compress it again where the topic has
// another codec, and might then find it too large.
func staysWhole(b *recordbatch.Batch, codec *recordbatch.Compressor, t *target) bool {
	return !b.LogAppendTime() && b.Size() <= t.maxBatch && (t.keeps || codec == t.compressor)
}

// codecOf is what the producer of a batch compressed it with, as a topic's compression.type
// has it.
func codecOf(f *format.Batch, b *recordbatch.Batch) (string, error) {
	name := recordbatch.CodecName(b.Codec())
	switch {
	case f.Codec != "" && b.Codec() != kgo.CodecNone:
		return "", fmt.Errorf("%s/%d: batch of offsets %d to %d: its frame says that it is decompressed, and it is not", f.Topic, f.Partition, f.First, f.Last)
	case f.Codec != "":
		name = f.Codec
	case b.Codec() == kgo.CodecNone:
		return "none", nil
	}
	if name == "" || !recordbatch.IsCodec(name) {
		return "", fmt.Errorf("%s/%d: batch of offsets %d to %d: codec %q, %d, which is not known", f.Topic, f.Partition, f.First, f.Last, f.Codec, b.Codec())
	}
	return name, nil
}

// unpack produces the records of a batch, in batches of a codec.
func (p *producer) unpack(ctx context.Context, part *partition, b *recordbatch.Batch, codec *recordbatch.Compressor) error {
	var failed error
	err := p.batched.decoder.Records(*b, func(rec *format.Record) error {
		rec.Topic, rec.Partition = part.source.name, part.num
		failed = p.record(ctx, part, rec, codec)
		return failed
	})
	if failed != nil || err == nil {
		return failed
	}
	return corruptBatch(fmt.Errorf("%s/%d: %w", part.source.name, part.num, err))
}

// whole produces a batch as it is, unless an earlier run has; it waits while the memory is
// full. Where codec is not nil its records have been decompressed, and are to be compressed
// anew. It returns false where the log goes on with something else: only the records can
// tell whether that is the same.
func (p *producer) whole(ctx context.Context, part *partition, b *recordbatch.Batch, codec *recordbatch.Compressor) (bool, error) {
	r := part.fixed
	l := r.to
	if p.cfg.Exact && !l.exact.opened {
		if err := p.openExact(ctx, l, b.First); err != nil {
			return false, err
		}
	}
	if l.existing != nil {
		found, other, err := p.foundBatch(ctx, r, b)
		if err != nil || other {
			return false, err
		}
		if found {
			p.noteBatch(part, b, b.MaxTimestamp)
			return true, nil
		}
	}
	oldest, err := p.scan(part, b)
	if err != nil {
		return false, err
	}
	p.noteBatch(part, b, oldest)
	if p.cfg.DryRun {
		return true, p.count(ctx, l, b.First, b.Last, b.Size())
	}
	if err := p.records.Wait(ctx, int64(b.Records)); err != nil {
		return false, err
	}
	if err := p.bytes.Wait(ctx, int64(b.Size())); err != nil {
		return false, err
	}
	if p.cfg.Exact {
		if err := p.align(ctx, l, b.First, b.Last); err != nil {
			return false, err
		}
		if err := p.sampleBatch(l.exact, part, b); err != nil {
			return false, err
		}
	}
	if err := p.start(ctx, l); err != nil {
		return false, err
	}
	if err := p.addWhole(ctx, l, r, b, codec); err != nil {
		return false, err
	}
	return true, context.Cause(ctx)
}

// noteBatch notes of a batch what is noted of a record. Retention deletes batches as a
// whole, by their latest record: so the oldest that counts may be that one.
func (p *producer) noteBatch(part *partition, b *recordbatch.Batch, oldest int64) {
	t := part.source.target
	t.oldest = min(t.oldest, oldest)
	if part.next >= 0 {
		part.next = max(part.next, b.Last+1) // it may have no mark behind it
	}
}

// foundBatch tells whether the target has a batch from an earlier run; or has another there,
// or none of which that can be said without its records.
func (p *producer) foundBatch(ctx context.Context, r *route, b *recordbatch.Batch) (found, other bool, err error) {
	l := r.to
	is, over, err := l.existing.peekBatch(ctx)
	switch {
	case err != nil:
		return false, false, err
	case over && p.mirror != nil && b.First < l.bounds.End:
		return false, true, nil
	case over: // from here on it is new
		l.finishExisting()
		return false, false, nil
	case is == nil || !is.SameRecords(b) || p.cfg.Exact && is.First != b.First:
		return false, true, nil
	}
	first := is.First
	l.existing.popBatch()
	p.there += int64(b.Records)
	p.counters.There.Add(int64(b.Records))
	p.mu.Lock()
	defer p.mu.Unlock()
	return true, false, p.mapped(run{r, b.First, int64(b.Records)}, first)
}

// scan reads the records of a batch that is not compressed: a broker takes any numbers for
// their offsets there, and wrong ones break the log. In a compressed batch the broker
// refuses wrong ones itself. scan returns the earliest timestamp that is known.
func (p *producer) scan(part *partition, b *recordbatch.Batch) (oldest int64, err error) {
	oldest = b.MaxTimestamp
	if b.Codec() != kgo.CodecNone {
		return oldest, nil
	}
	err = p.batched.decoder.Records(*b, func(rec *format.Record) error {
		oldest = min(oldest, rec.Timestamp)
		return nil
	})
	if err != nil {
		err = corruptBatch(fmt.Errorf("%s/%d: %w", part.source.name, part.num, err))
	}
	return oldest, err
}

// sampleBatch remembers the first record of some of the batches.
func (p *producer) sampleBatch(x *exact, part *partition, b *recordbatch.Batch) error {
	var rec format.Record
	if x.sampled() {
		err := p.batched.first.Open(*b)
		if err == nil {
			_, err = p.batched.first.Next(&rec)
		}
		if err != nil {
			return corruptBatch(fmt.Errorf("%s/%d: %w", part.source.name, part.num, err))
		}
	}
	x.sample(p.hasher, &rec)
	return nil
}
