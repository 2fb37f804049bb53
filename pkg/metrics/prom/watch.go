package prom

import (
	"sync"
	"time"

	"github.com/kbkio/kbk/pkg/metrics"
)

// patience is how long a stage may make no progress while it should before it is not
// healthy any more. Everything that a stage waits for and may have to give up on has a
// limit of its own, by default a shorter one.
const patience = 10 * time.Minute

// A watch says for how long a stage has made no progress while it should.
type watch struct {
	mu    sync.Mutex
	moved time.Time // when there was progress, or nothing to do
	seen  time.Time // when it was last looked
	work  work
}

func newWatch(now time.Time) *watch { return &watch{moved: now, seen: now} }

// look takes note of what the stage has counted.
func (w *watch) look(s metrics.Snapshot, ended bool, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	done := workOf(s)
	if done != w.work || ended || nothingToDo(s) {
		w.moved = now
	}
	w.work, w.seen = done, now
}

// stalled is for how long there was no progress.
func (w *watch) stalled() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.Sub(w.moved)
}

// work is what a stage has done: it makes progress while any of it changes.
type work struct{ records, there, offsets, in, out, packed, stored, segments, segmentsThere, commits int64 }

func workOf(s metrics.Snapshot) work {
	return work{s.Records, s.There, s.Offsets, s.BytesIn, s.BytesOut, s.BytesPacked, s.BytesStored, s.Segments, s.SegmentsThere, s.Commits}
}

// nothingToDo tells whether a stage need not make progress: it has done all that it was
// given and waits for the stage before, it waits for the stage behind to take what it has,
// or it has read all there is.
func nothingToDo(s metrics.Snapshot) bool {
	return s.Idle || s.ToStage && s.WaitsForOutput || s.FromStage && s.WaitsForInput && s.Pending == 0
}
