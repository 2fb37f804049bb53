package format

import (
	"errors"
	"fmt"
)

// Errors that a [Reader] reports, always inside a [*PositionError]. Test for
// them with errors.Is.
var (
	// ErrTruncated says that the input ended before an end frame: whoever wrote it
	// did not finish.
	ErrTruncated = errors.New("stream ended before its end frame")

	// ErrEmpty says that the input held not one byte. It is a case of [ErrTruncated].
	ErrEmpty = fmt.Errorf("empty input: %w", ErrTruncated)

	// ErrNotStream says that the input does not begin with a kbk header.
	ErrNotStream = errors.New("not a kbk stream")

	// ErrVersion says that the header names a version this package does not know.
	ErrVersion = errors.New("unknown version of the kbk stream")

	// ErrTrailing says that bytes follow the end frame.
	ErrTrailing = errors.New("data after the end frame")

	// ErrTooLarge says that a frame is over the reader's limit.
	ErrTooLarge = errors.New("frame over the size limit")

	// ErrCorrupt says that the input is not well-formed CBOR or that a frame has
	// not the shape that its kind demands.
	ErrCorrupt = errors.New("corrupt frame")
)

// A FailError says that the input ended because a stage before this one failed, and says
// so in the stream. It is a case of [ErrTruncated].
type FailError struct {
	By  string // the command that failed
	Why string // its message, which may hold anything
}

func (e *FailError) Error() string {
	return fmt.Sprintf("%v: %q failed: %q", ErrTruncated, e.By, e.Why)
}

func (e *FailError) Unwrap() error { return ErrTruncated }

// A PositionError is an error at a place in a stream.
type PositionError struct {
	Frame int64 // number of the frame, the header being 0
	Byte  int64 // offset in the stream of the frame's first byte
	Err   error
}

func (e *PositionError) Error() string {
	return fmt.Sprintf("frame %d at byte %d: %v", e.Frame, e.Byte, e.Err)
}

func (e *PositionError) Unwrap() error { return e.Err }

func corrupt(why string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(why, args...))
}
