package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/ordered"
)

// maxWindow bounds what a zstd frame may ask of a decoder: kbk's own ask for no
// more than 8 MiB, zstd's --ultra and --long for up to 2 GiB.
const maxWindow = 128 << 20

// An unpacker turns segments into records on all cores.
type unpacker struct {
	cfg      Config
	queue    *ordered.Queue
	decoders sync.Pool
	window   *format.Window
	topics   map[string]bool // that have had a topic frame
	records  atomic.Int64
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
		cfg:    cfg,
		queue:  ordered.NewQueue(cfg.Memory / 2), // as much again is read ahead and decompressed
		window: h.Window,
		topics: make(map[string]bool),
		decoders: sync.Pool{New: func() any {
			d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
			if err != nil {
				panic(err) // the options are constants
			}
			return d
		}},
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
	if err := w.Close(&format.End{Records: u.records.Load(), Interrupted: end.Interrupted, Lost: end.Lost}); err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("unpacked %s from %s", command.Count(u.records.Load(), "record"), command.Count(segments, "segment")),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	if end.Interrupted {
		return command.Stopped("what the source had read is unpacked")
	}
	return nil
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
			withTopic := !u.topics[m.Topic]
			u.topics[m.Topic] = true
			err = u.queue.Put(ctx, int64(len(raw)), func(_ context.Context, out *ordered.Output) error {
				if err := u.unpack(m, data, withTopic, out); err != nil {
					return command.WithStatus(command.Corrupt,
						fmt.Errorf("segment of %s/%d, offsets %d to %d: %w", m.Topic, m.Partition, m.First, m.Last, err))
				}
				return nil
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

// unpack checks a segment and puts out the frames in it, but for the header and
// the end, and for the topic where withTopic does not ask for it. Not a byte is
// decompressed before the checksum is found right.
func (u *unpacker) unpack(m *format.Segment, data []byte, withTopic bool, out *ordered.Output) error {
	if int64(len(data)) != m.Size {
		return fmt.Errorf("%d bytes, not %d", len(data), m.Size)
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], m.SHA256) {
		return fmt.Errorf("its sha256 is %x, not %x", sum, m.SHA256)
	}
	switch {
	case m.Cipher != "":
		return fmt.Errorf("it is encrypted with %s", m.Cipher)
	case m.Codec != "zstd":
		return fmt.Errorf("codec %q is not known", m.Codec)
	}
	d := u.decoders.Get().(*zstd.Decoder)
	defer u.decoders.Put(d)
	if err := d.Reset(bytes.NewReader(data)); err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	plain := &counter{r: d, max: m.RawSize}
	r := format.NewReader(plain, int(u.cfg.MaxFrame))
	if _, err := r.Header(); err != nil {
		return fmt.Errorf("inside: %w", err)
	}
	from, next, since, until := u.window.Bounds(m.Topic, m.Partition)
	from = max(from, m.DropBelow)
	got, put := format.Segment{First: -1, Last: -1}, int64(0)
	buf := out.Buffer()
	for {
		f, err := r.Next()
		if err != nil {
			return fmt.Errorf("inside: %w", err)
		}
		switch f.Kind {
		case format.KindEnd:
			if err := check(m, &got, plain.n); err != nil {
				return err
			}
			u.records.Add(put)
			return out.Emit(buf)
		case format.KindRec:
			if f.Topic != m.Topic || f.Partition != m.Partition {
				return fmt.Errorf("inside is a record of %s/%d", f.Topic, f.Partition)
			}
			if f.Offset <= got.Last || f.Offset < m.From || f.Offset >= m.Next {
				return fmt.Errorf("inside is a record of offset %d behind %d", f.Offset, got.Last)
			}
			if got.Records == 0 {
				got.First, got.MinTimestamp, got.MaxTimestamp = f.Offset, f.Timestamp, f.Timestamp
			}
			got.Records++
			got.Last = f.Offset
			got.MinTimestamp, got.MaxTimestamp = min(got.MinTimestamp, f.Timestamp), max(got.MaxTimestamp, f.Timestamp)
			if f.Offset < from || f.Offset >= next || f.Timestamp < since || f.Timestamp > until {
				continue
			}
			put++
		case format.KindTopic:
			if !withTopic { // the stream around the segments has it
				continue
			}
		case format.KindMark:
			mark, err := format.DecodeMark(f.Raw)
			if err != nil {
				return fmt.Errorf("inside: %w", err)
			}
			if mark.Next < m.DropBelow { // the segment before has marked more
				continue
			}
		}
		buf = append(buf, f.Raw...)
		if len(buf) >= ordered.ChunkSize {
			if err := out.Emit(buf); err != nil {
				return err
			}
			buf = out.Buffer()
		}
	}
}

// check holds what a segment was found to be against what it says it is.
func check(want, got *format.Segment, rawSize int64) error {
	switch {
	case rawSize != want.RawSize:
		return fmt.Errorf("%d bytes uncompressed, not %d", rawSize, want.RawSize)
	case got.Records != want.Records:
		return fmt.Errorf("%d records, not %d", got.Records, want.Records)
	case got.First != want.First || got.Last != want.Last:
		return fmt.Errorf("offsets %d to %d, not %d to %d", got.First, got.Last, want.First, want.Last)
	case got.MinTimestamp != want.MinTimestamp || got.MaxTimestamp != want.MaxTimestamp:
		return fmt.Errorf("timestamps %d to %d, not %d to %d", got.MinTimestamp, got.MaxTimestamp, want.MinTimestamp, want.MaxTimestamp)
	}
	return nil
}

// A counter counts what is read through it, and fails at more than max: what a
// segment may decompress to is what it says.
type counter struct {
	r      io.Reader
	n, max int64
}

// Read implements io.Reader.
func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if c.n += int64(n); c.n > c.max {
		return 0, fmt.Errorf("more than %d bytes uncompressed", c.max)
	}
	return n, err
}
