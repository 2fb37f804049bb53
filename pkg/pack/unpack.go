package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/ordered"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/statusline"
)

// An unpacker turns segments into records on all cores.
type unpacker struct {
	opener                    *segment.Opener
	queue                     *ordered.Queue
	window                    *format.Window
	batches                   bool // put batches out
	order                     segment.Order
	topics                    map[string]bool // that have had a topic frame
	freed                     chan []byte     // the memory of segments that are unpacked
	records                   atomic.Int64
	count                     *metrics.Counters
	plain                     int64 // segments that were not encrypted
	snapshots, plainSnapshots int64 // of clusters, and those that were not encrypted
}

// Unpack reads a stream of segments, checks each, and writes the records in them
// as one stream.
func Unpack(ctx context.Context, cfg Config, env *command.Env, in io.Reader, out io.Writer) error {
	began, count := time.Now(), &env.Counters
	g, ctx := errgroup.WithContext(ctx)
	r := format.NewReader(command.Interruptible(ctx, count.Input.Reader(in, &count.BytesIn)), int(cfg.MaxFrame))
	display := env.NewDisplay(out, statusline.Plan{Flow: []statusline.Size{{Of: statusline.In, Name: "read"}, {Of: statusline.Out, Name: "unpacked"}}, Input: "the input", Output: "the output"})
	defer display.Close()
	display.Doing("waiting for the input to begin")
	display.Kept(func() string { return command.NoEnd })
	h, err := r.Header()
	if err != nil {
		return command.Input(err)
	}
	display.Expect(h)
	display.Doing("")
	if h.Content == format.ContentRecords || h.Content == format.ContentBatches {
		return command.WithHint(command.Usagef("standard input is not packed: it holds %s", h.Content), "to pack it, leave out -d")
	}
	if err := command.Takes(h, "standard input", format.ContentSegments); err != nil {
		return err
	}
	w := command.NewWriterTo(count.Output.Writer(out, &count.BytesOut), out)
	h.Content = format.ContentRecords
	if cfg.Batches {
		h.Content = format.ContentBatches
	}
	if h.Total != nil {
		h.Total.Bytes = 0 // they are of the segments
	}
	if err := errors.Join(w.WriteHeader(h), w.Flush()); err != nil { // the stages behind it show what is to come
		return err
	}
	u := &unpacker{
		count:  count,
		opener: segment.NewOpener(cfg.Identities, cfg.MaxFrame),
		queue:  ordered.NewQueue(cfg.Memory/4, cfg.Memory/4), // the rest is for what is being read, and for the garbage collector
		window: h.Window, batches: cfg.Batches,
		order:  segment.Order{Window: h.Window},
		topics: make(map[string]bool),
		freed:  make(chan []byte, keptBuffers),
	}
	count.Ready()
	end, segments := new(format.End), int64(0)
	g.Go(func() error {
		defer u.queue.Close()
		var err error
		end, segments, err = u.read(ctx, r)
		return err
	})
	// What waits for more to come may wait for long.
	u.queue.Start(ctx, g, func(frames []byte) error { return errors.Join(w.WriteRaw(frames), w.Flush()) })
	if err := g.Wait(); err != nil {
		return err
	}
	end.Records, end.Segments = u.records.Load(), 0
	if err := w.Close(end); err != nil {
		return err
	}
	if u.plain > 0 && len(cfg.Identities) > 0 {
		was := english.PluralWord(int(u.plain), "was", "were")
		env.Log.Warn(fmt.Sprintf("%s of %s %s not encrypted", humanize.Comma(u.plain), command.Count(segments, "segment"), was))
	}
	if u.plainSnapshots > 0 && len(cfg.Identities) > 0 {
		env.Log.Warn("not all snapshots of the cluster were encrypted")
	}
	env.Log.Info(fmt.Sprintf("unpacked %s from %s%s", command.Count(u.records.Load(), "record"), command.Count(segments, "segment"), andSnapshots(u.snapshots)),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	return command.EndStatusThrough(out, end, "what the source had read is unpacked")
}

// keptBuffers is how many buffers of segments wait to be read into again.
const keptBuffers = 4

func (u *unpacker) read(ctx context.Context, r *format.Reader) (end *format.End, segments int64, err error) {
	for {
		select {
		case b := <-u.freed:
			r.Reuse(b)
		default:
		}
		f, err := r.Next()
		if err != nil {
			return nil, 0, command.Input(err)
		}
		switch f.Kind {
		case format.KindSeg:
			segments++
			u.count.Pending.Add(1)
			err = u.segment(ctx, r.Own())
		case format.KindSnapshot:
			u.snapshots++
			err = u.snapshot(ctx, r.Own())
		case format.KindEnd:
			end, err := format.DecodeEnd(f.Raw)
			return end, segments, err
		case format.KindRec, format.KindBatch:
			err = corrupt("a %s frame in a stream of segments", f.Name)
		case format.KindTopic:
			err = u.topic(ctx, f.Raw)
		case format.KindMark:
			var m *format.Mark
			if m, err = format.DecodeMark(f.Raw); err == nil {
				err = u.order.Mark(m)
			}
			if err != nil {
				return nil, 0, command.Input(err)
			}
			err = u.pass(ctx, f.Raw)
		default:
			if f.Kind.OfCluster() {
				err = corrupt("a %s frame in a stream of segments", f.Name)
				break
			}
			err = u.pass(ctx, f.Raw)
		}
		if err != nil {
			return nil, 0, err
		}
	}
}

// segment queues a segment to be unpacked.
func (u *unpacker) segment(ctx context.Context, raw []byte) error {
	m, data, err := format.DecodeSegment(raw)
	if err == nil {
		err = u.order.Segment(m)
	}
	if err != nil {
		return command.Input(err)
	}
	if m.Cipher == "" {
		u.plain++
	}
	withTopic := !u.topics[m.Topic]
	u.topics[m.Topic] = true
	return u.queue.Put(ctx, int64(len(raw)), func(_ context.Context, out *ordered.Output) error {
		err := u.unpack(m, data, withTopic, out)
		select {
		case u.freed <- raw:
		default: // there are enough
		}
		return err
	})
}

// topic passes a topic frame on.
func (u *unpacker) topic(ctx context.Context, raw []byte) error {
	t, err := format.DecodeTopic(raw)
	if err != nil {
		return command.Input(err)
	}
	u.order.Topic(t)
	u.topics[t.Name] = true
	return u.pass(ctx, raw)
}

// pass puts out a copy of a frame.
func (u *unpacker) pass(ctx context.Context, raw []byte) error {
	raw = slices.Clone(raw)
	return u.queue.Put(ctx, int64(len(raw)), func(_ context.Context, out *ordered.Output) error {
		return out.Emit(append(out.Buffer(), raw...))
	})
}

// unpack puts out the frames in a segment, but for the topic where withTopic does not
// ask for it, and what is outside of the bounds.
func (u *unpacker) unpack(m *format.Segment, data []byte, withTopic bool, out *ordered.Output) error {
	w := boundsOf(u.window, m)
	put := int64(0)
	buf := out.Buffer()
	grown := func() (err error) {
		if len(buf) >= ordered.ChunkSize {
			err = out.Emit(buf)
			buf = out.Buffer()
		}
		return err
	}
	frame := func(f *format.Frame) (err error) {
		switch f.Kind {
		case format.KindRec:
			if !w.has(f.Offset, f.Timestamp) {
				return nil
			}
			put++
			buf = append(buf, f.Raw...)
		case format.KindTopic:
			if withTopic { // else the stream around the segments has it
				buf = append(buf, f.Raw...)
			}
		case format.KindMark:
			buf, err = appendMark(buf, m, f.Raw, w.from, w.next)
		default:
			buf = append(buf, f.Raw...)
		}
		return errors.Join(err, grown())
	}
	batch := func(b *segment.Batch) error {
		what, err := w.ofBatch(b, u.batches)
		switch {
		case err != nil || what == none:
			return err
		case what == whole:
			put += b.Batch.Records
			buf = append(buf, b.Raw...)
			return grown()
		}
		err = b.Records(func(r *format.Record) error {
			if !w.has(r.Offset, r.Timestamp) {
				return nil
			}
			put++
			buf = format.AppendRecord(buf, r)
			return grown()
		})
		if errors.Is(err, recordbatch.ErrTooLarge) {
			err = command.WithHint(fmt.Errorf("%s/%d: take records out of a batch: %w", m.Topic, m.Partition, err),
				"kbk-pack -d --batches puts batches out as they are")
		}
		return err
	}
	if err := u.opener.OpenBatches(m, data, frame, batch); err != nil {
		return err
	}
	u.records.Add(put)
	u.count.Pending.Add(-1)
	u.count.Records.Add(put)
	u.count.Segments.Add(1)
	u.count.BytesRaw.Add(m.RawSize)
	u.count.BytesPacked.Add(m.Size)
	return out.Emit(buf)
}

// A bounds is what to put out of a segment: the records of offsets in [from, next), of
// timestamps from since to until, both included.
type bounds struct{ from, next, since, until int64 }

func boundsOf(window *format.Window, m *format.Segment) (w bounds) {
	w.from, w.next, w.since, w.until = window.Bounds(m.Topic, m.Partition)
	w.from = max(w.from, m.DropBelow)
	if m.DropFrom > 0 {
		w.next = min(w.next, m.DropFrom)
	}
	return w
}

func (w *bounds) has(offset, timestamp int64) bool {
	return offset >= w.from && offset < w.next && timestamp >= w.since && timestamp <= w.until
}

// A portion is how much of a batch is put out.
type portion int

const (
	none    portion = iota // nothing
	records                // those of its records that are within the bounds
	whole
)

// ofBatch decides about a batch. It looks into one only where neither its offsets nor the
// times of its segment tell.
func (w *bounds) ofBatch(b *segment.Batch, batches bool) (portion, error) {
	switch {
	case b.Last < w.from || b.First >= w.next:
		// Its times are of the segment's, and have to be right as others have.
		if batches {
			return none, nil
		}
		_, _, err := b.Times()
		return none, err
	case !batches, b.First < w.from, b.Last >= w.next:
		return records, nil
	}
	first, last := b.Within[0], b.Within[1]
	if first < w.since || last > w.until {
		var err error
		if first, last, err = b.Times(); err != nil {
			return none, err
		}
	}
	switch {
	case first > w.until || last < w.since:
		return none, nil
	case first >= w.since && last <= w.until:
		return whole, nil
	}
	return records, nil
}

// appendMark appends a mark that is in segment m, unless it is outside of [from, next]: of
// the bounds themselves the source has marks. What left out or changed records of the
// segment is said by the mark, for nothing else in a stream of records can.
func appendMark(buf []byte, m *format.Segment, raw []byte, from, next int64) ([]byte, error) {
	mark, err := format.DecodeMark(raw)
	if err != nil {
		return nil, err // the opener has decoded it before
	}
	switch {
	case mark.Next < from || mark.Next > next:
		return buf, nil
	case mark.Next == m.From || len(m.Filters) == 0:
		return append(buf, raw...), nil
	}
	mark.Filters = m.Filters
	return mark.AppendFrame(buf)
}
