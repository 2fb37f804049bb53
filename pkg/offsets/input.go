package offsets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// input is what the streams that a translation starts from say. Groups may come behind
// the map and the records that they are translated by, so these wait in temporary files:
// of both there may be more than fit in memory.
type input struct {
	groups   map[string]*format.Group
	coverage coverage
	maps     spool // map frames, as a stream
	records  spool // see appendRecord
	parts    []place
	numbers  map[place]uint32 // index in parts
	others   [][]byte         // frames to pass on

	interrupted, lost bool
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
	return &input{groups: make(map[string]*format.Group), coverage: make(coverage), numbers: make(map[place]uint32)}
}

// read takes in one stream, whatever of groups, maps, marks and records is in it.
func (in *input) read(ctx context.Context, src io.Reader, name string, maxFrame int64, withGroups bool) error {
	r := format.NewReader(command.Interruptible(ctx, src), int(maxFrame))
	h, err := r.Header()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if h.Content != format.ContentRecords {
		return command.WithHint(command.Usagef("%s is a stream of segments", name), "put kbk-pack -d before this command")
	}
	marks := in.coverage.marker()
	buffered := make([]byte, 0, 1<<18)
	var rec format.Record
	var run format.Map
	flush := func() error {
		if len(buffered) == 0 {
			return nil
		}
		_, err := in.records.f.Write(buffered)
		buffered = buffered[:0]
		return err
	}
	for {
		f, err := r.Next()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		switch f.Kind {
		case format.KindGroup:
			if !withGroups {
				continue
			}
			g, err := format.DecodeGroup(f.Raw)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if g.By != "" {
				return command.Usagef("%s: the offsets of group %s have been translated already", name, g.ID)
			}
			in.groups[g.ID] = g // a later one replaces it
		case format.KindMark:
			m, err := format.DecodeMark(f.Raw)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			marks.mark(m)
		case format.KindMap:
			if err := run.Decode(f.Raw); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			in.coverage.restored(place{run.Topic, run.Partition}, run.SourceFirst+run.Count)
			if in.maps.f == nil {
				if err := in.maps.open(); err != nil {
					return err
				}
				in.maps.w = format.NewWriter(in.maps.f)
				if err := in.maps.w.WriteHeader(&format.Header{Content: format.ContentRecords}); err != nil {
					return err
				}
			}
			if err := in.maps.w.WriteRaw(f.Raw); err != nil {
				return fmt.Errorf("write a temporary file: %w", err)
			}
		case format.KindRec:
			if err := f.Record(&rec); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := in.records.open(); err != nil {
				return err
			}
			in.records.n++
			if buffered = in.appendRecord(buffered, &rec); len(buffered)+recordSize > cap(buffered) {
				if err := flush(); err != nil {
					return fmt.Errorf("write a temporary file: %w", err)
				}
			}
		case format.KindSeg, format.KindBatch:
			return command.WithStatus(command.Corrupt, fmt.Errorf("%s: a %s frame in a stream of records", name, f.Name))
		case format.KindUnknown, format.KindPoint:
			in.others = append(in.others, slices.Clone(f.Raw))
		case format.KindEnd:
			end, err := format.DecodeEnd(f.Raw)
			if err != nil {
				return err
			}
			in.interrupted, in.lost = in.interrupted || end.Interrupted, in.lost || end.Lost
			return flush()
		}
	}
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

// sorted returns the groups by id.
func sorted(groups map[string]*format.Group) []*format.Group {
	var out []*format.Group
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		out = append(out, groups[id])
	}
	return out
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
