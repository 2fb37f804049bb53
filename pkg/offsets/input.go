package offsets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// input is what the streams that a translation starts from say. Groups may come behind
// the map and the records that they are translated by, so these wait in temporary files:
// of both there may be more than fit in memory.
type input struct {
	groups   *merged
	coverage coverage
	targets  map[place]*format.Target   // what partitions became, where a map says so
	ids      map[string]map[string]bool // topic ids of what was backed up, by topic
	maps     spool                      // map frames, as a stream
	records  spool                      // see appendRecord
	parts    []place
	numbers  map[place]uint32 // index in parts

	// pass takes the frames that are neither groups, maps nor records.
	pass func(*format.Frame) error
	end  format.End // what the ends of all streams say together
}

// A spool is a temporary file without a name.
type spool struct {
	f *os.File
	w *format.Writer // for maps
	n int64          // what is in it
}

func (s *spool) open() error {
	if s.f != nil {
		return nil
	}
	f, err := os.CreateTemp("", "kbk-offsets-")
	if err != nil {
		return fmt.Errorf("make a temporary file: %w", err)
	}
	s.f = f
	return os.Remove(f.Name())
}

func (in *input) close() {
	for _, s := range []*spool{&in.maps, &in.records} {
		if s.f != nil {
			_ = s.f.Close() // it has no name: nothing is left of it
		}
	}
}

func newInput() *input {
	return &input{
		groups: newMerged(), coverage: make(coverage), numbers: make(map[place]uint32),
		targets: make(map[place]*format.Target), ids: make(map[string]map[string]bool),
		pass: func(*format.Frame) error { return nil },
	}
}

// identify notes the id of a topic that was backed up.
func (in *input) identify(topic, id string) {
	if id == "" {
		return
	}
	if in.ids[topic] == nil {
		in.ids[topic] = make(map[string]bool)
	}
	in.ids[topic][id] = true
}

// readAll reads standard input, which may be nil, and then files. Groups in files count
// where standard input has none: where it is nil, or without a byte. An empty one alone
// is an error.
func (in *input) readAll(ctx context.Context, stdin io.Reader, maxFrame int64, log *slog.Logger, files ...string) error {
	if stdin != nil {
		err := in.read(ctx, stdin, "standard input", maxFrame, true)
		switch {
		case errors.Is(err, format.ErrEmpty) && len(files) > 0:
			log.Warn("standard input is empty: the groups are those in the files")
			stdin = nil
		case err != nil:
			return err
		}
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = in.read(ctx, f, name, maxFrame, stdin == nil)
		_ = f.Close() // it was only read
		if err != nil {
			return err
		}
	}
	return nil
}

// read takes in one stream, whatever of groups, maps, marks and records is in it.
func (in *input) read(ctx context.Context, src io.Reader, name string, maxFrame int64, withGroups bool) error {
	r := format.NewReader(command.Interruptible(ctx, src), int(maxFrame))
	h, err := r.Header()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := command.Takes(h, name, format.ContentRecords, format.ContentBatches); err != nil {
		return err
	}
	in.groups.begin()
	t := &taking{input: in, name: name, withGroups: withGroups, marks: in.coverage.marker(), buffered: make([]byte, 0, 1<<18)}
	if h.Content == format.ContentBatches {
		t.decoder = recordbatch.NewDecoder()
	}
	for {
		f, err := r.Next()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := t.frame(f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if f.Kind == format.KindEnd {
			return t.flush()
		}
	}
}

// taking is the reading of one stream.
type taking struct {
	*input
	name       string
	withGroups bool
	marks      *marker
	buffered   []byte // records, for the spool
	rec        format.Record
	decoder    *recordbatch.Decoder // nil where the stream has no batches
	batch      format.Batch
	run        format.Map
}

func (t *taking) frame(f *format.Frame) error {
	switch f.Kind {
	case format.KindGroup:
		g, err := format.DecodeGroup(f.Raw)
		if err != nil || !t.withGroups {
			return err
		}
		if g.By != "" {
			return command.WithStatus(command.Usage, fmt.Errorf("the offsets of group %q have been translated already", g.ID))
		}
		if groups.DropOwn(g) {
			t.groups.add(g)
		}
	case format.KindGroups:
		g, err := format.DecodeGroups(f.Raw)
		if err != nil || !t.withGroups {
			return err
		}
		return t.groups.asked(g)
	case format.KindTopic:
		topic, err := format.DecodeTopic(f.Raw)
		if err != nil {
			return err
		}
		t.identify(topic.Name, topic.ID)
		return t.pass(f)
	case format.KindMark:
		m, err := format.DecodeMark(f.Raw)
		if err != nil {
			return err
		}
		t.identify(m.Topic, m.TopicID)
		t.marks.mark(m)
		return t.pass(f)
	case format.KindTarget:
		to, err := format.DecodeTarget(f.Raw)
		if err != nil {
			return err
		}
		t.targets[place{to.Topic, to.Partition}] = to
	case format.KindMap:
		return t.takeRun(f.Raw)
	case format.KindRec:
		if err := f.Record(&t.rec); err != nil {
			return err
		}
		return t.takeRecord(&t.rec)
	case format.KindSeg, format.KindBatch:
		if f.Kind == format.KindSeg || t.decoder == nil {
			return command.WithStatus(command.Corrupt, fmt.Errorf("a %s frame in a stream of records", f.Name))
		}
		if err := t.batch.Decode(f.Raw); err != nil {
			return err
		}
		return t.decoder.Unpack(&t.batch, t.takeRecord)
	case format.KindUnknown, format.KindPoint:
		return t.pass(f)
	case format.KindEnd:
		end, err := format.DecodeEnd(f.Raw)
		if err != nil {
			return err
		}
		t.end.Interrupted, t.end.Lost = t.end.Interrupted || end.Interrupted, t.end.Lost || end.Lost
		for _, l := range end.Losses {
			t.end.Lose(l)
		}
	}
	return nil
}

func (t *taking) takeRun(raw []byte) error {
	if err := t.run.Decode(raw); err != nil {
		return err
	}
	t.coverage.restored(place{t.run.Topic, t.run.Partition}, t.run.SourceFirst+t.run.Count)
	if t.maps.f == nil {
		if err := t.maps.open(); err != nil {
			return err
		}
		t.maps.w = format.NewWriter(t.maps.f)
		if err := t.maps.w.WriteHeader(&format.Header{Content: format.ContentRecords}); err != nil {
			return err
		}
	}
	if err := t.maps.w.WriteRaw(raw); err != nil {
		return fmt.Errorf("write a temporary file: %w", err)
	}
	return nil
}

func (t *taking) takeRecord(r *format.Record) error {
	if err := t.records.open(); err != nil {
		return err
	}
	t.records.n++
	if t.buffered = t.appendRecord(t.buffered, r); len(t.buffered)+recordSize > cap(t.buffered) {
		return t.flush()
	}
	return nil
}

func (t *taking) flush() error {
	if len(t.buffered) == 0 {
		return nil
	}
	_, err := t.records.f.Write(t.buffered)
	t.buffered = t.buffered[:0]
	if err != nil {
		return fmt.Errorf("write a temporary file: %w", err)
	}
	return nil
}

// recordSize is what a record takes in its spool: its partition's number (4 bytes),
// offset and timestamp (8 each) and digest (32).
const recordSize = 4 + 8 + 8 + 32

func (in *input) appendRecord(b []byte, r *format.Record) []byte {
	p := place{r.Topic, r.Partition}
	n, ok := in.numbers[p]
	if !ok {
		n = uint32(len(in.parts))
		in.numbers[p] = n
		in.parts = append(in.parts, p)
	}
	next := nextRecord(r)
	b = binary.BigEndian.AppendUint32(b, n)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Timestamp))
	return append(b, next.Digest...)
}

// eachRecord calls do with each record that was read, in order. The digest holds until
// do returns.
func (in *input) eachRecord(do func(p place, r format.NextRecord)) error {
	if in.records.f == nil {
		return nil
	}
	if _, err := in.records.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	b := make([]byte, recordSize*4096)
	for {
		n, err := io.ReadFull(in.records.f, b)
		for r := b[:n]; len(r) >= recordSize; r = r[recordSize:] {
			do(in.parts[binary.BigEndian.Uint32(r)], format.NextRecord{
				Offset: int64(binary.BigEndian.Uint64(r[4:])), Timestamp: int64(binary.BigEndian.Uint64(r[12:])), Digest: r[20:recordSize],
			})
		}
		switch {
		case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("read a temporary file: %w", err)
		}
	}
}

// eachMap calls do with each run that was read.
func (in *input) eachMap(do func(*format.Map)) error {
	if in.maps.f == nil {
		return nil
	}
	if err := in.maps.w.Close(new(format.End)); err != nil {
		return fmt.Errorf("write a temporary file: %w", err)
	}
	if _, err := in.maps.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := format.NewReader(in.maps.f, 0)
	var run format.Map
	for {
		f, err := r.Next()
		if err != nil {
			return fmt.Errorf("read a temporary file: %w", err)
		}
		if f.Kind == format.KindEnd {
			return nil
		}
		if err := run.Decode(f.Raw); err != nil {
			return err
		}
		do(&run)
	}
}

// open opens what a flag names; - is standard input.
func open(file string) (io.ReadCloser, error) {
	if file == "-" {
		return command.Stdin()
	}
	return os.Open(file)
}

// piped tells whether standard input is a pipe or a file, and not a terminal or /dev/null.
func piped() bool {
	info, err := os.Stdin.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice == 0
}
