package command

import (
	"context"
	"io"
	"time"
)

// Interruptible returns a reader of r whose Read gives up when ctx ends. Reads of
// a pipe cannot be ended otherwise: the one under way is left behind.
func Interruptible(ctx context.Context, r io.Reader) io.Reader { return Ticking(ctx, r, nil, nil) }

// Ticking is [Interruptible], and its Read calls do at each tick. That is on the goroutine
// that reads: what belongs to it can be looked after while no input comes. An error of do
// is one of Read.
func Ticking(ctx context.Context, r io.Reader, tick <-chan time.Time, do func() error) io.Reader {
	i := &interruptible{ctx: ctx, ask: make(chan []byte), got: make(chan readResult, 1), tick: tick, do: do}
	go func() {
		for {
			select {
			case b := <-i.ask:
				n, err := r.Read(b)
				i.got <- readResult{n, err}
			case <-ctx.Done():
				return
			}
		}
	}()
	return i
}

type interruptible struct {
	ctx context.Context
	ask chan []byte
	got chan readResult

	tick <-chan time.Time
	do   func() error
}

type readResult struct {
	n   int
	err error
}

// Read implements io.Reader. After an error of the context or of do it must not be
// called again: b may still be written to.
func (i *interruptible) Read(b []byte) (int, error) {
	select {
	case i.ask <- b:
	case <-i.ctx.Done():
		return 0, context.Cause(i.ctx)
	}
	for {
		select {
		case r := <-i.got:
			if r.err == io.EOF {
				inputEnded.Store(true)
			}
			return r.n, r.err
		case <-i.tick:
			if err := i.do(); err != nil {
				return 0, err
			}
		case <-i.ctx.Done():
			return 0, context.Cause(i.ctx)
		}
	}
}
