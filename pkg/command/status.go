package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/kbkio/kbk/format"
)

// Exit statuses of every command.
const (
	OK          = 0
	Failed      = 1
	Usage       = 2
	Corrupt     = 3
	Loss        = 4
	Interrupted = 130
	// NoReader is what a shell says of a process that SIGPIPE has ended: nobody reads the
	// output any more. The cause is downstream, and has a status of its own.
	NoReader = 141
)

// Stopped is what a command returns that did its work properly on an input or to a
// point that is not all, because somebody stopped the source. what says what came
// of it.
func Stopped(what string) error {
	return WithStatus(Interrupted, &stoppedError{"interrupted: " + what})
}

// EndStatus is what a command returns when its input came to the end frame end, and
// all that it was given is done: nil; [Stopped] with what, where the source was
// stopped; an error of status [Loss] where the source lost something. The error says
// what was lost.
func EndStatus(end *format.End, what string) error {
	switch {
	case end.Interrupted && len(end.Losses) > 0:
		return WithStatus(Interrupted, &lossError{"interrupted: " + what + "; lost", end.Losses})
	case end.Interrupted:
		return Stopped(what)
	case end.Lost && len(end.Losses) == 0:
		return WithStatus(Loss, errors.New("done, but records were lost before they reached this command: the messages of the source say which"))
	case end.Lost:
		return WithStatus(Loss, &lossError{"done, but with loss", end.Losses})
	}
	return nil
}

// EndStatusThrough is [EndStatus] for a stage that has written end, with what was lost, to
// out. Where that is a pipe, the stage behind it has the same status, and leaves it to the
// last one to say what was lost.
func EndStatusThrough(out io.Writer, end *format.End, what string) error {
	if len(end.Losses) == 0 || !isPipe(out) {
		return EndStatus(end, what)
	}
	if end.Interrupted {
		return Stopped(what)
	}
	return WithStatus(Loss, errors.New("done, but with loss, which the end of the stream names"))
}

func isPipe(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// A lossError names losses, in a line for people each.
type lossError struct {
	what   string
	losses []string
}

func (e *lossError) Error() string { return e.what + ": " + strings.Join(e.losses, "; ") }

type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// WithStatus gives err the exit status that the command ends with.
func WithStatus(status int, err error) error { return &statusError{status, err} }

// Usagef is an error in how the command was called.
func Usagef(f string, args ...any) error { return WithStatus(Usage, fmt.Errorf(f, args...)) }

// StatusOf is the exit status that err asks for.
func StatusOf(err error) int {
	var s *statusError
	switch {
	case err == nil:
		return OK
	case errors.As(err, &s):
		return s.status
	case downstreamEnded(err):
		return NoReader
	case errors.Is(err, format.ErrTruncated), errors.Is(err, format.ErrNotStream), errors.Is(err, format.ErrVersion),
		errors.Is(err, format.ErrTrailing), errors.Is(err, format.ErrTooLarge), errors.Is(err, format.ErrCorrupt):
		return Corrupt
	case errors.Is(err, context.Canceled):
		return Interrupted
	}
	return Failed
}

type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// WithHint gives err a line that says what to do next.
func WithHint(err error, hint string) error { return &hintError{err, hint} }

// HintOf is the hint of err, or what is known to help against it; "" where there is none.
func HintOf(err error) string {
	var h *hintError
	switch {
	case errors.As(err, &h):
		return h.hint
	case downstreamEnded(err):
		return "the command downstream ended before it had read everything: its own message says why"
	case isFail(err):
		return "its own message says why"
	case errors.Is(err, format.ErrEmpty):
		return "the command upstream wrote nothing: its own message says why"
	case errors.Is(err, format.ErrTruncated):
		return "the command upstream failed or was killed, or the file is cut short; nothing past this point was kept"
	case errors.Is(err, format.ErrNotStream):
		return "a kbk stream was expected; if this is a stored segment, decrypt and decompress it first"
	case errors.Is(err, format.ErrVersion):
		return "the stream was written by a newer kbk: use that version here too"
	case errors.Is(err, format.ErrTrailing):
		return "streams cannot be joined with cat: run the command once for each"
	case errors.Is(err, format.ErrTooLarge):
		return "raise --max-frame if you trust the input"
	}
	return ""
}

// isFail says of an error that a stage before this one has just failed.
func isFail(err error) bool {
	_, ok := errors.AsType[*format.FailError](err)
	return ok && piped.Load()
}

// downstreamEnded says of an error that it is about standard output, which nobody reads
// any more.
func downstreamEnded(err error) bool {
	var at *fs.PathError
	return errors.As(err, &at) && at.Path == os.Stdout.Name() && errors.Is(at, syscall.EPIPE)
}

// Input says of an error in reading standard input where it was. What ended the reading
// may be that nobody reads the output: see [WhileRead].
func Input(err error) error {
	var at *fs.PathError
	if downstreamEnded(err) && errors.As(err, &at) {
		return at
	}
	return fmt.Errorf("standard input: %w", err)
}
