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
	"github.com/kbkio/kbk/pkg/ordered"
	"github.com/kbkio/kbk/pkg/segment"
)

// An unpacker turns segments into records on all cores.
type unpacker struct {
	opener  *segment.Opener
	queue   *ordered.Queue
	window  *format.Window
	topics  map[string]bool // that have had a topic frame
	records atomic.Int64
	plain   int64 // segments that were not encrypted
}

// Unpack reads a stream of segments, checks each, and writes the records in them
// as one stream.
func Unpack(ctx context.Context, cfg Config, env *command.Env, in io.Reader, out io.Writer) error {
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	r := format.NewReader(command.Interruptible(ctx, in), int(cfg.MaxFrame))
	h, err := r.Header()
	if err != nil {
		return command.Input(err)
	}
	if h.Content == format.ContentRecords {
		return command.WithHint(command.Usagef("standard input is not packed: it holds records"), "to pack it, leave out -d")
	}
	w := format.NewWriter(out)
	h.Content = format.ContentRecords
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	u := &unpacker{
		opener: segment.NewOpener(cfg.Identities, cfg.MaxFrame),
		queue:  ordered.NewQueue(cfg.Memory/4, cfg.Memory/4), // the rest is for what is being read, and for the garbage collector
		window: h.Window,
		topics: make(map[string]bool),
	}
	end, segments := new(format.End), int64(0)
	g.Go(func() error {
		defer u.queue.Close()
		var err error
		end, segments, err = u.read(ctx, r)
		return err
	})
	u.queue.Start(ctx, g, w.WriteRaw)
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
	env.Log.Info(fmt.Sprintf("unpacked %s from %s", command.Count(u.records.Load(), "record"), command.Count(segments, "segment")),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	return command.EndStatusThrough(out, end, "what the source had read is unpacked")
}

func (u *unpacker) read(ctx context.Context, r *format.Reader) (end *format.End, segments int64, err error) {
	for {
		f, err := r.Next()
		if err != nil {
			return nil, 0, command.Input(err)
		}
		switch f.Kind {
		case format.KindSeg:
			raw := r.Own()
			m, data, err := format.DecodeSegment(raw)
			if err != nil {
				return nil, 0, command.Input(err)
			}
			segments++
			if m.Cipher == "" {
				u.plain++
			}
			withTopic := !u.topics[m.Topic]
			u.topics[m.Topic] = true
			err = u.queue.Put(ctx, int64(len(raw)), func(_ context.Context, out *ordered.Output) error {
				return u.unpack(m, data, withTopic, out)
			})
			if err != nil {
				return nil, 0, err
			}
		case format.KindEnd:
			end, err := format.DecodeEnd(f.Raw)
			return end, segments, err
		case format.KindRec:
			return nil, 0, command.WithStatus(command.Corrupt, errors.New("standard input: a record in a stream of segments"))
		case format.KindTopic:
			if err := u.topic(ctx, f.Raw); err != nil {
				return nil, 0, err
			}
		default:
			if err := u.pass(ctx, f.Raw); err != nil {
				return nil, 0, err
			}
		}
	}
}

// topic passes a topic frame on.
func (u *unpacker) topic(ctx context.Context, raw []byte) error {
	t, err := format.DecodeTopic(raw)
	if err != nil {
		return command.Input(err)
	}
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
	from, next, since, until := u.window.Bounds(m.Topic, m.Partition)
	from = max(from, m.DropBelow)
	put := int64(0)
	buf := out.Buffer()
	err := u.opener.Open(m, data, func(f *format.Frame) error {
		switch f.Kind {
		case format.KindRec:
			if f.Offset < from || f.Offset >= next || f.Timestamp < since || f.Timestamp > until {
				return nil
			}
			put++
		case format.KindTopic:
			if !withTopic { // the stream around the segments has it
				return nil
			}
		case format.KindMark:
			mark, err := format.DecodeMark(f.Raw)
			if err != nil {
				return command.WithStatus(command.Corrupt, fmt.Errorf("segment of %s/%d: inside: %w", m.Topic, m.Partition, err))
			}
			if mark.Next < from || mark.Next > next { // of the bounds themselves the source has marks
				return nil
			}
		}
		buf = append(buf, f.Raw...)
		if len(buf) < ordered.ChunkSize {
			return nil
		}
		err := out.Emit(buf)
		buf = out.Buffer()
		return err
	})
	if err != nil {
		return err
	}
	u.records.Add(put)
	return out.Emit(buf)
}
