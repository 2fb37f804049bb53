package metrics

import (
	"io"
	"sync/atomic"
	"time"
)

// A Wait is for how long one thing has been waited for: another stage of the pipe where Reader or Writer is used, and
// else the cluster or the store. One goroutine waits at a time.
type Wait struct {
	stage atomic.Bool
	sum   atomic.Int64 // nanoseconds, of what is over
	since atomic.Int64 // nanoseconds since 1970, of what goes on; 0: nothing does
}

// Begin says that the waiting begins.
func (w *Wait) Begin() { w.since.Store(time.Now().UnixNano()) }

// End says that it is over.
func (w *Wait) End() {
	if since := w.since.Swap(0); since != 0 {
		w.sum.Add(max(0, time.Now().UnixNano()-since)) // the clock may be set back
	}
}

// total returns the time in all, and whether something is waited for now.
func (w *Wait) total(now time.Time) (time.Duration, bool) {
	sum, since := w.sum.Load(), w.since.Load()
	if since != 0 {
		sum += max(0, now.UnixNano()-since)
	}
	return time.Duration(sum), since != 0
}

// Reader returns a reader of r that counts bytes, and the time that reads take.
func (w *Wait) Reader(r io.Reader, bytes *atomic.Int64) io.Reader {
	w.stage.Store(true)
	return reader{transfer{r.Read, w, bytes}}
}

// Writer returns a writer to w that counts bytes, and the time that writes take.
func (w *Wait) Writer(to io.Writer, bytes *atomic.Int64) io.Writer {
	w.stage.Store(true)
	return writer{transfer{to.Write, w, bytes}}
}

type reader struct{ transfer }

// Read implements io.Reader.
func (r reader) Read(b []byte) (int, error) { return r.do(b) }

type writer struct{ transfer }

// Write implements io.Writer.
func (w writer) Write(b []byte) (int, error) { return w.do(b) }

// A transfer is a Read or a Write that is counted.
type transfer struct {
	of    func(b []byte) (int, error)
	wait  *Wait
	bytes *atomic.Int64
}

func (t *transfer) do(b []byte) (int, error) {
	t.wait.Begin()
	n, err := t.of(b)
	t.wait.End()
	t.bytes.Add(int64(n))
	return n, err
}

// uploadBounds are the upper bounds of the buckets of [Durations].
var uploadBounds = [...]time.Duration{
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
}

// Durations are how long uploads took, in buckets.
type Durations struct {
	n   [len(uploadBounds) + 1]atomic.Int64 // the last one has no bound
	sum atomic.Int64                        // nanoseconds
}

// Add counts one.
func (d *Durations) Add(took time.Duration) {
	i := 0
	for i < len(uploadBounds) && took > uploadBounds[i] {
		i++
	}
	d.n[i].Add(1)
	d.sum.Add(int64(took))
}

// Buckets returns how many took no longer than each bound, in seconds, how many there are, and the sum of what they
// took.
func (d *Durations) Buckets() (atMost map[float64]uint64, count uint64, sum time.Duration) {
	atMost = make(map[float64]uint64, len(uploadBounds))
	for i, bound := range uploadBounds {
		count += uint64(d.n[i].Load())
		atMost[bound.Seconds()] = count
	}
	count += uint64(d.n[len(uploadBounds)].Load())
	return atMost, count, time.Duration(d.sum.Load())
}
