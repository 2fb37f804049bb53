package filter

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/jsonline"
)

// A jsonReader reads a stream from lines of JSON.
type jsonReader struct {
	r      *bufio.Reader
	max    int64
	parser jsonline.Parser
	line   int64
	text   []byte
	raw    []byte
	frame  format.Frame
	header *format.Header
	order  *order
	err    error
}

func newLines(r io.Reader, max int64) *jsonReader {
	return &jsonReader{r: bufio.NewReaderSize(r, 256<<10), max: max, order: newOrder()}
}

// next reads a line that is not empty.
func (j *jsonReader) next() error {
	for {
		j.line++
		j.text = j.text[:0]
		for more := true; more; {
			part, err := j.r.ReadSlice('\n')
			j.text = append(j.text, part...)
			switch {
			case int64(len(j.text)) > j.max:
				return fmt.Errorf("line %d: %w", j.line, format.ErrTooLarge)
			case err == nil:
				more = false
			case errors.Is(err, io.EOF): // before the end, or in the middle of a line
				return fmt.Errorf("line %d: %w", j.line, format.ErrTruncated)
			case !errors.Is(err, bufio.ErrBufferFull):
				return err
			}
		}
		if len(j.text) > 1 {
			return nil
		}
	}
}

// Header reads the first line.
func (j *jsonReader) Header() (*format.Header, error) {
	if j.header == nil && j.err == nil {
		if j.err = j.next(); j.err == nil {
			if j.header, j.err = j.parser.Header(j.text); j.err != nil {
				j.err = j.bad(j.err)
			}
		}
	}
	return j.header, j.err
}

// bad is an error about what is in the line.
func (j *jsonReader) bad(err error) error {
	return command.WithStatus(command.Corrupt, fmt.Errorf("line %d: %w", j.line, err))
}

// ordered wants the frame to be where it may be: lines may have been sorted, or doubled.
func (j *jsonReader) ordered() error {
	f := &j.frame
	if f.Kind == format.KindRec {
		return j.order.records(place{f.Topic, f.Partition}, f.Offset, f.Offset)
	}
	p, moves, err := passageOf(f)
	if err != nil || !moves {
		return err
	}
	return j.order.mark(&p)
}

// Next returns the next frame, which holds until the next call; the end only when
// nothing follows it.
func (j *jsonReader) Next() (*format.Frame, error) {
	if j.err != nil {
		return nil, j.err
	}
	if j.err = j.next(); j.err != nil {
		return nil, j.err
	}
	raw, err := j.parser.Frame(j.raw[:0], j.text)
	if err == nil {
		j.raw = raw
		err = j.frame.Scan(raw)
	}
	if err == nil {
		err = j.ordered()
	}
	if err != nil {
		j.err = j.bad(err)
		return nil, j.err
	}
	if j.frame.Kind == format.KindEnd {
		if _, err := j.r.Peek(1); !errors.Is(err, io.EOF) {
			j.err = fmt.Errorf("line %d: %w", j.line, format.ErrTrailing)
			return nil, j.err
		}
		j.err = io.EOF
	}
	return &j.frame, nil
}
