package pack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/statusline"
)

// minMemory is the least memory that packing can be done in with some sense.
const minMemory = 16 << 20

// A partition is what a packer knows of one partition of the stream.
type partition struct {
	topic    string
	num      int32
	topicID  string
	next     int64    // every offset below it is in a segment that was closed, or was marked
	begun    bool     // next is known
	open     *builder // nil while nothing is gathered
	mark     []byte   // a mark frame that waits for the open segment
	marked   bool     // there was a mark,
	markedAt int64    // at this offset
}

type key struct {
	topic string
	num   int32
}

// A packer gathers records into segments. It belongs to the goroutine that reads the
// input, and so does the closing of segments by their age, which the input calls for
// while it waits.
type packer struct {
	cfg Config
	out *output

	order  segment.Order
	parts  map[key]*partition
	topics map[string][]byte // the topic frame of each topic, as it came
	ids    map[string]string // and its topic id
	header []byte            // what a segment begins with
	// content is what segments say that they hold: "" or format.ContentBatches.
	content string
	batch   format.Batch // the last one
	// The stages before that may have dropped or changed records.
	filters []string
	held    int64       // bytes of open segments
	asked   atomic.Bool // all of them are to be closed now

	snapshot *builder // of a cluster, that is open; nil: none is
}

// Pack reads a stream of records and writes it as a stream of segments.
func Pack(ctx context.Context, cfg Config, env *command.Env, in io.Reader, out io.Writer) error {
	began, count := time.Now(), &env.Counters
	g, ctx := errgroup.WithContext(ctx)
	p := &packer{
		cfg:    cfg,
		parts:  make(map[key]*partition),
		topics: make(map[string][]byte),
		ids:    make(map[string]string),
	}
	var aged <-chan time.Time
	if cfg.SegmentAge > 0 {
		ticker := time.NewTicker(max(cfg.SegmentAge/10, 10*time.Millisecond))
		defer ticker.Stop()
		aged = ticker.C
	}
	asked, stop := flushSignals()
	defer stop()
	tick := p.due(ctx, aged, asked)
	r := format.NewReader(command.Ticking(ctx, count.Input.Reader(in, &count.BytesIn), tick, func() error { return p.closeDue(ctx, env.Log) }), int(cfg.MaxFrame))
	display := env.NewDisplay(out, statusline.Plan{Flow: []statusline.Size{{Of: statusline.In, Name: "read"}, {Of: statusline.Packed, Name: "packed"}}, Input: "the input", Output: "the output"})
	defer display.Close()
	display.Doing("waiting for the input to begin")
	display.Kept(func() string { return command.NoEnd })
	h, err := r.Header()
	if err != nil {
		return command.Input(err)
	}
	display.Expect(h)
	display.Doing("")
	if h.Content == format.ContentSegments {
		return command.WithHint(command.Usagef("standard input is packed already"), "to unpack it, use kbk-pack -d")
	}
	if err := command.Takes(h, "standard input", format.ContentRecords, format.ContentBatches); err != nil {
		return err
	}
	if p.header, err = segmentHeader(h); err != nil {
		return err
	}
	if h.Content == format.ContentBatches {
		p.content = h.Content
	}
	p.filters = h.Filters
	if h.Window != nil {
		p.filters = append(slices.Clone(h.Filters), windowed)
	}
	w := command.NewWriterTo(count.Output.Writer(out, &count.BytesOut), out)
	h.Content, h.Window, h.Filters = format.ContentSegments, nil, p.filters // the window is in the segments; of the marks the header says it
	if h.Total != nil {
		h.Total.Bytes = 0 // nobody knows yet
	}
	if err := errors.Join(w.WriteHeader(h), w.Flush()); err != nil { // the stages behind it show what is to come
		return err
	}
	if p.out, err = newOutput(ctx, g, w, cfg, env); err != nil {
		return err
	}
	count.Ready()
	end := new(format.End)
	g.Go(func() error {
		defer p.out.close()
		var err error
		end, err = p.read(ctx, r)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	segments, raw, packed := p.out.segments, p.out.raw, p.out.packed
	end.Records, end.Segments = p.out.records, segments
	if err := w.Close(end); err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("packed %s in %s, %s to %s%s",
		command.Count(p.out.records, "record"), command.Count(segments, "segment"), humanize.IBytes(uint64(raw)), humanize.IBytes(uint64(packed)), andSnapshots(p.out.snapshots)),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	return command.EndStatusThrough(out, end, "what the source had read is packed")
}

// windowed stands among the filters of a segment for a window: not all of the records
// that were scanned need be here.
const windowed = "window"

// segmentHeader is the header that segments begin with: like the stream's, but
// without what is different in every run, so that the same records give the same
// bytes.
func segmentHeader(h *format.Header) ([]byte, error) {
	inner := *h
	inner.ID, inner.Created, inner.Follow, inner.Total = "", 0, false, nil
	return inner.Append(nil)
}

// read takes the input apart, down to its end frame.
func (p *packer) read(ctx context.Context, r *format.Reader) (*format.End, error) {
	var last *partition
	for {
		f, err := r.Next()
		if err != nil {
			return nil, command.Input(err)
		}
		switch f.Kind {
		case format.KindRec:
			if last == nil || last.num != f.Partition || last.topic != f.Topic {
				last = p.partition(f.Topic, f.Partition)
			}
			if err := p.record(ctx, last, f); err != nil {
				return nil, err
			}
			continue
		case format.KindTopic:
			last = nil // it may begin a new incarnation
			err = p.topic(ctx, f)
		case format.KindMark:
			err = p.marked(ctx, f)
		case format.KindPoint, format.KindMoment:
			// All that the point covers comes before it.
			if err = p.closeAll(ctx); err == nil {
				err = p.out.pass(ctx, f.Raw)
			}
		case format.KindBatch:
			err = p.batchFrame(ctx, f)
		case format.KindSeg:
			err = corrupt("a %s frame in a stream of records", f.Name)
		case format.KindEnd:
			if err := errors.Join(p.closeAll(ctx), p.closeSnapshot(ctx)); err != nil {
				return nil, err
			}
			return format.DecodeEnd(f.Raw)
		case format.KindCluster:
			err = p.beginSnapshot(ctx, f.Raw)
		case format.KindSnapshot:
			err = corrupt("a packed snapshot of a cluster in a stream of records")
		default:
			if f.Kind.OfCluster() {
				err = p.snapshotFrame(ctx, f)
				break
			}
			err = p.out.pass(ctx, f.Raw)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *packer) partition(topic string, num int32) *partition {
	k := key{topic, num}
	part := p.parts[k]
	if part == nil {
		part = &partition{topic: topic, num: num, topicID: p.ids[topic]}
		p.parts[k] = part
	}
	return part
}

// record appends a record, as it is, to its partition's open segment.
func (p *packer) record(ctx context.Context, part *partition, f *format.Frame) error {
	if err := p.order.Record(part.topic, part.num, f.Offset); err != nil {
		return command.Input(err)
	}
	s, err := p.segmentFor(part, f.Offset)
	if err != nil {
		return err
	}
	if err := s.append(ctx, p.out, f); err != nil {
		return err
	}
	return p.appended(ctx, part)
}

// batchFrame appends a batch, as it is, to its partition's open segment.
func (p *packer) batchFrame(ctx context.Context, f *format.Frame) error {
	if p.content != format.ContentBatches {
		return corrupt("a batch frame in a stream of records")
	}
	b := &p.batch
	err := b.Decode(f.Raw)
	if err == nil {
		err = p.order.Batch(b.Topic, b.Partition, b.First, b.Last)
	}
	if err != nil {
		return command.Input(err)
	}
	part := p.partition(b.Topic, b.Partition)
	s, err := p.segmentFor(part, b.First)
	if err != nil {
		return err
	}
	if err := s.appendBatch(ctx, p.out, b, f.Raw); err != nil {
		return err
	}
	return p.appended(ctx, part)
}

// segmentFor is the open segment that a record or batch of this offset goes to.
func (p *packer) segmentFor(part *partition, first int64) (*builder, error) {
	part.mark = nil // what comes is past it
	if part.open != nil {
		return part.open, nil
	}
	if !part.begun {
		part.next, part.begun = first, true
	}
	return p.openSegment(part)
}

// appended closes segments, if what was appended asks for it.
func (p *packer) appended(ctx context.Context, part *partition) error {
	s := part.open
	p.count(s)
	if s.plain >= p.cfg.SegmentSize {
		return p.closeSegment(ctx, part)
	}
	if p.held > p.cfg.Memory/2 {
		return p.makeRoom(ctx)
	}
	return nil
}

// count brings what is known of a segment's memory up to date.
func (p *packer) count(s *builder) {
	held := s.held()
	p.held += held - s.counted
	s.counted = held
}

// makeRoom closes segments, the largest first, until those that are open leave an eighth
// of their memory free. Theirs is half of all: a quarter is for segments that are closed and
// on their way out, and the last for what the compressors and the garbage collector
// take. What chunks came to when they were compressed is found here only; and as an
// eighth is gathered between two calls, thousands of partitions may be looked through.
func (p *packer) makeRoom(ctx context.Context) error {
	var open []*partition
	for _, part := range p.parts {
		if part.open != nil {
			p.count(part.open)
			open = append(open, part)
		}
	}
	slices.SortFunc(open, func(a, b *partition) int {
		return cmp.Or(cmp.Compare(b.open.counted, a.open.counted), strings.Compare(a.topic, b.topic), cmp.Compare(a.num, b.num))
	})
	for _, part := range open {
		if p.held <= p.cfg.Memory/2-p.cfg.Memory/16 {
			return nil
		}
		if err := p.closeSegment(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// corrupt is the error for an input that says what cannot be.
func corrupt(why string, args ...any) error {
	return command.WithStatus(command.Corrupt, command.Input(fmt.Errorf(why, args...)))
}

func (p *packer) openSegment(part *partition) (*builder, error) {
	s := &builder{opened: time.Now(), meta: format.Segment{
		Topic: part.topic, TopicID: part.topicID, Partition: part.num, From: part.next, Next: part.next, Content: p.content, Codec: p.cfg.Codec.Name, Filters: p.filters,
	}}
	s.chunk = append(s.chunk, p.header...)
	s.chunk = append(s.chunk, p.topics[part.topic]...)
	if err := s.mark(part.next); err != nil {
		return nil, err
	}
	p.count(s)
	part.open = s
	return s, nil
}

// closeSegment hands a partition's open segment on, and the mark that waits for
// it. Without one it does nothing.
func (p *packer) closeSegment(ctx context.Context, part *partition) error {
	s := part.open
	if s == nil {
		return nil
	}
	part.open, part.next = nil, s.meta.Next
	p.held -= s.counted
	if err := s.finish(ctx, p.out); err != nil {
		return err
	}
	mark := part.mark
	part.mark = nil
	if mark == nil {
		return nil
	}
	return p.out.pass(ctx, mark)
}

// closeAll closes every open segment, in an order that does not depend on chance.
func (p *packer) closeAll(ctx context.Context) error {
	var open []*partition
	for _, part := range p.parts {
		if part.open != nil {
			open = append(open, part)
		}
	}
	slices.SortFunc(open, func(a, b *partition) int {
		return cmp.Or(strings.Compare(a.topic, b.topic), cmp.Compare(a.num, b.num))
	})
	for _, part := range open {
		if err := p.closeSegment(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// topic takes a topic frame. With another topic id it is a new incarnation: its
// offsets have nothing to do with those before.
func (p *packer) topic(ctx context.Context, f *format.Frame) error {
	t, err := format.DecodeTopic(f.Raw)
	if err != nil {
		return command.Input(err)
	}
	if was, ok := p.ids[t.Name]; ok && was != t.ID {
		for k, part := range p.parts {
			if k.topic == t.Name {
				if err := p.closeSegment(ctx, part); err != nil {
					return err
				}
				delete(p.parts, k)
			}
		}
	}
	p.order.Topic(t)
	p.topics[t.Name], p.ids[t.Name] = slices.Clone(f.Raw), t.ID
	return p.out.pass(ctx, f.Raw)
}

// marked takes a mark: it comes behind the segment that holds what it covers.
func (p *packer) marked(ctx context.Context, f *format.Frame) error {
	m, err := format.DecodeMark(f.Raw)
	if err != nil {
		return command.Input(err)
	}
	part := p.partition(m.Topic, m.Partition)
	if err := p.order.Mark(m); err != nil {
		return command.Input(err)
	}
	if m.TopicID != "" && part.topicID != "" && m.TopicID != part.topicID {
		return corrupt("%s/%d: a mark of topic id %s where the topic's id is %s", m.Topic, m.Partition, m.TopicID, part.topicID)
	}
	part.topicID = cmp.Or(part.topicID, m.TopicID)
	// A mark speaks of the offsets behind the mark before. One that says at the same offset
	// that filters left something out says it of what is to come.
	announces := len(m.Filters) > 0 && part.marked && part.markedAt == m.Next
	part.marked, part.markedAt = true, m.Next
	if len(m.Lost) > 0 || m.Begins || announces { // the segment scanned what is before, and no more
		if err := p.closeSegment(ctx, part); err != nil {
			return err
		}
	}
	if part.open == nil {
		part.next, part.begun = m.Next, true
		return p.out.pass(ctx, f.Raw)
	}
	part.open.scanned(m)
	part.mark = slices.Clone(f.Raw)
	// It has to be kept: as the partition's last one, or for what it says beside how far
	// the partition was scanned.
	if m.End != nil && m.Next >= *m.End || !progress(m, f.Raw) {
		return p.closeSegment(ctx, part)
	}
	return nil
}

// progress tells whether all that a mark says is how far its partition was scanned: then a
// later one of the same segment takes its place.
func progress(m *format.Mark, raw []byte) bool {
	only := format.Mark{Topic: m.Topic, Partition: m.Partition, Next: m.Next,
		MarkInfo: format.MarkInfo{TopicID: m.TopicID, LeaderEpoch: m.LeaderEpoch, LogStart: m.LogStart, End: m.End}}
	encoded, err := only.AppendFrame(nil)
	return err == nil && bytes.Equal(encoded, raw)
}

// due tells when segments are to be looked at: as they age, or when a signal asks for all.
func (p *packer) due(ctx context.Context, aged <-chan time.Time, asked <-chan os.Signal) <-chan time.Time {
	due := make(chan time.Time)
	go func() {
		for {
			var now time.Time
			select {
			case now = <-aged:
			case <-asked:
				p.asked.Store(true)
				now = time.Now()
			case <-ctx.Done():
				return
			}
			select {
			case due <- now:
			case <-ctx.Done():
				return
			}
		}
	}()
	return due
}

// closeDue closes the segments whose time has come.
func (p *packer) closeDue(ctx context.Context, log *slog.Logger) error {
	if !p.asked.Swap(false) {
		return p.closeAged(ctx)
	}
	open := int64(0)
	for _, part := range p.parts {
		if part.open != nil {
			open++
		}
	}
	log.Info("closed " + command.Count(open, "open segment") + ", as a signal asks")
	return p.closeAll(ctx)
}

// closeAged closes segments that are open for too long.
func (p *packer) closeAged(ctx context.Context) error {
	if p.cfg.SegmentAge == 0 {
		return nil
	}
	for _, part := range p.parts {
		if part.open != nil && time.Since(part.open.opened) >= p.cfg.SegmentAge {
			if err := p.closeSegment(ctx, part); err != nil {
				return err
			}
		}
	}
	return nil
}
