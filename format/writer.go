package format

import (
	"errors"
	"io"
	"strings"
)

// writeSize is how many bytes a Writer gathers before it writes: enough for few
// system calls, and a quarter of a pipe of 1 MiB, so that the reader is never
// without work.
const writeSize = 256 << 10

// A Writer writes a stream: WriteHeader, then frames, then Close. Its errors are
// sticky. It is for one goroutine at a time.
type Writer struct {
	dst    io.Writer
	buf    []byte
	err    error
	opened bool
	closed bool
}

// NewWriter returns a Writer that writes to dst.
func NewWriter(dst io.Writer) *Writer {
	return &Writer{dst: dst, buf: make([]byte, 0, writeSize+writeSize/4)}
}

var (
	errNoHeader = errors.New("stream written to before its header")
	errHeader   = errors.New("second header in a stream")
	errClosed   = errors.New("stream written to after its end")
)

// WriteHeader begins the stream.
func (e *Writer) WriteHeader(h *Header) error {
	if e.err == nil && e.opened {
		e.err = errHeader
	}
	if e.err != nil {
		return e.err
	}
	raw, err := h.Append(nil)
	if err != nil {
		e.err = err
		return err
	}
	e.opened = true
	return e.WriteRaw(raw)
}

// ready tells whether a frame may be written now.
func (e *Writer) ready() error {
	if e.err == nil {
		if !e.opened {
			e.err = errNoHeader
		} else if e.closed {
			e.err = errClosed
		}
	}
	return e.err
}

// WriteRecord writes one rec frame.
func (e *Writer) WriteRecord(r *Record) error {
	if err := e.ready(); err != nil {
		return err
	}
	e.buf = AppendRecord(e.buf, r)
	if len(e.buf) >= writeSize {
		return e.Flush()
	}
	return nil
}

// WriteRaw writes frames that are encoded already. What is large is not copied.
func (e *Writer) WriteRaw(raw []byte) error {
	if err := e.ready(); err != nil {
		return err
	}
	if len(e.buf)+len(raw) > writeSize {
		if err := e.Flush(); err != nil {
			return err
		}
	}
	if len(raw) >= writeSize {
		return e.write(raw)
	}
	e.buf = append(e.buf, raw...)
	return nil
}

// Write writes one frame of any kind but the header, seg, snapshot and end.
func (e *Writer) Write(f Encoder) error {
	if err := e.ready(); err != nil {
		return err
	}
	raw, err := f.AppendFrame(nil)
	if err != nil {
		e.err = err
		return err
	}
	return e.WriteRaw(raw)
}

// WriteSegment writes one seg frame, whose content is the parts joined. They are
// not copied.
func (e *Writer) WriteSegment(s *Segment, parts ...[]byte) error {
	return e.writeData("seg", s, parts)
}

// WriteSnapshot writes one snapshot frame, whose content is the parts joined. They are not
// copied.
func (e *Writer) WriteSnapshot(s *Snapshot, parts ...[]byte) error {
	return e.writeData("snapshot", s, parts)
}

func (e *Writer) writeData(kind string, info any, parts [][]byte) error {
	if err := e.ready(); err != nil {
		return err
	}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	head, err := appendDataHead(nil, kind, info, size)
	if err != nil {
		e.err = err
		return err
	}
	if err := e.WriteRaw(head); err != nil {
		return err
	}
	for _, p := range parts {
		if err := e.WriteRaw(p); err != nil {
			return err
		}
	}
	return nil
}

// Flush writes what is gathered. A follower of a live stream sees frames no
// later than this.
func (e *Writer) Flush() error {
	if e.err != nil || len(e.buf) == 0 {
		return e.err
	}
	err := e.write(e.buf)
	e.buf = e.buf[:0]
	return err
}

func (e *Writer) write(b []byte) error {
	if e.err != nil {
		return e.err
	}
	n, err := e.dst.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	e.err = err
	return err
}

// Close writes the end frame and what is gathered. It does not close the
// underlying writer. Nothing can be written after it.
func (e *Writer) Close(end *End) error {
	if err := e.ready(); err != nil {
		return err
	}
	raw, err := end.AppendFrame(nil)
	if err != nil {
		e.err = err
		return err
	}
	if err := e.WriteRaw(raw); err != nil {
		return err
	}
	if err := e.Flush(); err != nil {
		return err
	}
	e.closed = true
	return nil
}

// Fail writes a fail frame instead of the end, and what is gathered: whoever reads the stream
// learns that by failed, and why. Nothing can be written after it. It does nothing where the
// stream has not begun, is over, or cannot be written.
func (e *Writer) Fail(by, why string) {
	if e.ready() != nil {
		return
	}
	raw, err := appendFrame(nil, "fail", failInfo{by, strings.ToValidUTF8(why, "\ufffd")})
	if err == nil {
		err = e.WriteRaw(raw)
	}
	if err == nil {
		err = e.Flush()
	}
	e.closed = err == nil
}
