package filter

import (
	"bufio"

	"github.com/kbkio/kbk/format"
)

// A sink takes what is to be written: a stream, lines, or nothing.
type sink interface {
	header(h *format.Header) error
	raw(b []byte) error
	flush() error
	close(end *format.End) error
}

// A stream is written as it is.
type stream struct{ w *format.Writer }

func (s *stream) header(h *format.Header) error { return s.w.WriteHeader(h) }
func (s *stream) raw(b []byte) error            { return s.w.WriteRaw(b) }
func (s *stream) flush() error                  { return s.w.Flush() }
func (s *stream) close(end *format.End) error   { return s.w.Close(end) }

// lines are text.
type lines struct {
	w       *bufio.Writer
	printer *printer
}

func (l *lines) header(h *format.Header) error {
	b, err := l.printer.header(h)
	if err != nil {
		return err
	}
	return l.raw(b)
}

func (l *lines) raw(b []byte) error {
	_, err := l.w.Write(b)
	return err
}

func (l *lines) flush() error { return l.w.Flush() }

func (l *lines) close(end *format.End) error {
	b, err := l.printer.end(end)
	if err != nil {
		return err
	}
	if err := l.raw(b); err != nil {
		return err
	}
	return l.w.Flush()
}

// nothing is for counting.
type nothing struct{}

func (nothing) header(*format.Header) error { return nil }
func (nothing) raw([]byte) error            { return nil }
func (nothing) flush() error                { return nil }
func (nothing) close(*format.End) error     { return nil }
