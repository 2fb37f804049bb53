package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/kbkio/kbk/format"
)

// What this process knows of the pipe that it is a stage of.
var (
	// output is the stream on standard output, where there is one.
	output atomic.Pointer[format.Writer]
	// outPiped says that a stage reads standard output, if that is a stream.
	outPiped atomic.Bool
	// piped says that standard input is a stream that comes through a pipe, inputEnded that
	// it is over: nobody upstream is there any more.
	piped, inputEnded atomic.Bool
	// stoppedNow says that a second signal came.
	stoppedNow atomic.Bool
)

// NewWriter returns a writer of the stream that a stage writes to out. If the command fails, the
// stream says so where its end would be.
func NewWriter(out io.Writer) *format.Writer { return NewWriterTo(out, out) }

// NewWriterTo is [NewWriter] where what is written to out goes through something else first.
func NewWriterTo(through, out io.Writer) *format.Writer {
	w := format.NewWriter(through)
	if out == io.Writer(os.Stdout) {
		output.Store(w)
	}
	return w
}

// failPatience is how long a stage that has failed waits for the one behind it to read that.
const failPatience = time.Second

// fail writes to the output that the command name has failed. What a stage before has said of
// itself is passed on.
func fail(name string, err error) {
	w := output.Load()
	if w == nil || stoppedNow.Load() || StatusOf(err) == Loss || StatusOf(err) == Interrupted || downstreamEnded(err) {
		return
	}
	by, why := name, err.Error()
	if f, ok := errors.AsType[*format.FailError](err); ok {
		by, why = f.By, f.Why
	}
	done := make(chan struct{})
	go func() {
		w.Fail(by, why[:min(len(why), maxWhy)])
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(failPatience):
	}
}

const maxWhy = 4 << 10

// A place is where a stage is in its pipe, as far as it knows.
type place struct {
	piped  bool // the input comes through a pipe, and not from a file
	before bool // a stage before this one writes its input, and is there still
	behind bool // a stage behind this one reads its output
}

func placeInPipe() place {
	return place{piped: piped.Load(), before: piped.Load() && !inputEnded.Load() && !hungUp(os.Stdin.Fd()), behind: outPiped.Load()}
}

// speaks decides whether a stage says why it failed. Of a pipe that breaks one stage does, and
// the last one says what is kept:
//
//   - who fails by itself says so, and writes it to its stream;
//   - whoever reads that, or nothing at all, leaves it at that, unless it is the last stage, and
//     even the last one has nothing to add where it has done nothing yet;
//   - whoever reads a stream that breaks off says so: the one that wrote it was killed;
//   - of those that nobody reads any more only the first stage says so.
func speaks(err error, at place) bool {
	_, told := errors.AsType[*format.FailError](err)
	switch {
	case downstreamEnded(err):
		return !at.before || !at.behind // what it was is no stream, where nothing is behind
	case told && at.piped && errors.Is(err, errNothingDone):
		return false
	case told, errors.Is(err, format.ErrEmpty):
		return !at.behind
	case errors.Is(err, errStopped):
		return !at.behind
	}
	return true
}

// said is the message of an error. Of a stage before this one, which has just said why it failed, it
// tells no more than that it did. A file may be read long after.
func said(err error) string {
	f, failed := errors.AsType[*format.FailError](err)
	if !failed {
		return err.Error()
	}
	what, then := fmt.Sprintf("the input is incomplete: %s, which wrote it, failed: %s", f.By, f.Why), "; "
	if piped.Load() {
		what, then = f.By+" failed, and this is not finished", ": "
	}
	if kept, ok := errors.AsType[*keptError](err); ok {
		what += then + kept.kept
	}
	return what
}

// A keptError says what a run that failed leaves behind.
type keptError struct {
	err  error
	kept string
}

func (e *keptError) Error() string { return e.err.Error() + "; " + e.kept }
func (e *keptError) Unwrap() error { return e.err }

// WithKept says with err what is kept of the run: "nothing was committed".
func WithKept(err error, kept string) error { return &keptError{err, kept} }

// errNothingDone is in what [WithNothingDone] returns.
var errNothingDone = errors.New("nothing was done")

// WithNothingDone says of an error in the input that the command had done nothing by then, as
// one has that reads all of its input before it acts. Where a stage of the pipe has said why it
// failed, such a command has nothing to add.
func WithNothingDone(err error) error { return &nothingDoneError{err} }

type nothingDoneError struct{ err error }

func (e *nothingDoneError) Error() string   { return e.err.Error() }
func (e *nothingDoneError) Unwrap() []error { return []error{e.err, errNothingDone} }

// NoEnd is what is kept of a stream that is stopped at once.
const NoEnd = "the stream has no end, and its reader will say so"

// errStopped is in what [Stopped] returns.
var errStopped = errors.New("interrupted")

// atOnce is what a command returns that a second signal has ended, in place of what that led to.
func atOnce(err error) error {
	switch {
	case err == nil || !stoppedNow.Load():
		return err
	case StatusOf(err) != Interrupted && StatusOf(err) != Corrupt && StatusOf(err) != NoReader: // the command says better what came of it
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, format.ErrTruncated), downstreamEnded(err):
		return WithStatus(Interrupted, stoppedAtOnce())
	}
	return err
}

// stoppedAtOnce says what is kept of a run that a second signal ends.
func stoppedAtOnce() error {
	what := "stopped at once"
	if d := displayed.Load(); d != nil {
		if kept := d.keeps(); kept != "" {
			what += ": " + kept
		}
	}
	return &stoppedError{what}
}

type stoppedError struct{ what string }

func (e *stoppedError) Error() string { return e.what }
func (e *stoppedError) Unwrap() error { return errStopped }
