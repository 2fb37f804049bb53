// Package ordered runs tasks on all cores and writes what they produce in the
// order in which the tasks were put in.
package ordered

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

const (
	// ChunkSize is how many bytes a task gathers before it hands them on.
	ChunkSize = 256 << 10

	chunksAhead = 8 // that the task whose turn it is may be ahead of the writer
	queued      = 256
)

// A Task produces bytes through out. It runs on one of the queue's workers.
type Task func(ctx context.Context, out *Output) error

type entry struct {
	run    Task
	weight int64
	turn   chan struct{} // closed when the writer is at this entry

	mu     sync.Mutex
	chunks []chunk
	done   bool // nothing more comes
	failed bool
	news   chan struct{} // there are chunks, or it is done
}

// A chunk is what a task has handed on, and the permit that it did so with; or what it
// wants to be called.
type chunk struct {
	bytes  []byte
	permit chan struct{}
	do     func() error
}

// A Queue runs tasks. The one whose output is being written is at most a few chunks ahead
// of the writer; those behind it are, all together, at most so many bytes ahead; and what
// was put in weighs no more together than the queue's capacity.
type Queue struct {
	todo     chan *entry // the same entries, to the workers
	order    chan *entry // and to the writer
	mu       sync.Mutex
	capacity int64
	room     *semaphore.Weighted
	chunks   sync.Pool
	ahead    chan struct{} // permits for everybody
	first    chan struct{} // and those for the task whose turn it is
}

// NewQueue returns a queue for tasks that weigh up to capacity together, and that may
// have produced so many bytes ahead of their turn. A task that weighs more than capacity
// gets the queue for itself.
func NewQueue(capacity, ahead int64) *Queue {
	return &Queue{
		todo:     make(chan *entry, queued),
		order:    make(chan *entry, queued),
		capacity: capacity,
		room:     semaphore.NewWeighted(capacity),
		chunks:   sync.Pool{New: func() any { b := make([]byte, 0, ChunkSize+ChunkSize/4); return &b }},
		ahead:    make(chan struct{}, ahead/ChunkSize), // a permit is room in the channel
		first:    make(chan struct{}, chunksAhead),
	}
}

// Put queues a task; it waits while too much is queued.
func (q *Queue) Put(ctx context.Context, weight int64, run Task) error {
	t := &entry{run: run, weight: min(weight, q.capacity), turn: make(chan struct{}), news: make(chan struct{}, 1)}
	if err := q.room.Acquire(ctx, t.weight); err != nil {
		return err
	}
	q.mu.Lock() // both channels in one order
	defer q.mu.Unlock()
	for _, c := range []chan *entry{q.todo, q.order} {
		select {
		case c <- t:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Close says that no more tasks come.
func (q *Queue) Close() {
	close(q.todo)
	close(q.order)
}

// Start runs the workers and the writer in g, until the queue is closed and
// empty or a task or write fails. The bytes that write gets are its own until it
// returns.
func (q *Queue) Start(ctx context.Context, g *errgroup.Group, write func([]byte) error) {
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error { return q.work(ctx) })
	}
	g.Go(func() error { return q.drain(ctx, write) })
}

func (q *Queue) work(ctx context.Context) error {
	for t := range q.todo {
		err := t.run(ctx, &Output{queue: q, ctx: ctx, entry: t})
		t.run = nil // and what it holds
		t.tell(func() { t.done, t.failed = true, err != nil })
		if err != nil {
			return err
		}
		q.room.Release(t.weight)
	}
	return nil
}

// tell changes what the writer looks at.
func (t *entry) tell(change func()) {
	t.mu.Lock()
	change()
	t.mu.Unlock()
	select {
	case t.news <- struct{}{}:
	default: // it will look anyway
	}
}

func (q *Queue) drain(ctx context.Context, write func([]byte) error) error {
	for t := range q.order {
		close(t.turn)
		for done := false; !done; {
			select {
			case <-t.news:
			case <-ctx.Done():
				return ctx.Err()
			}
			t.mu.Lock()
			chunks := t.chunks
			t.chunks, done = nil, t.done
			t.mu.Unlock()
			for _, c := range chunks {
				if c.do != nil {
					if err := c.do(); err != nil {
						return err
					}
					continue
				}
				if len(c.bytes) > 0 {
					if err := write(c.bytes); err != nil {
						return err
					}
				}
				<-c.permit
				if cap(c.bytes) <= 2*ChunkSize { // one that a huge record made larger is not kept
					b := c.bytes[:0]
					q.chunks.Put(&b)
				}
			}
		}
		if t.failed {
			return ctx.Err() // the worker says why
		}
	}
	return ctx.Err()
}

// An Output takes what a task produces.
type Output struct {
	queue *Queue
	ctx   context.Context
	entry *entry
}

// Buffer returns an empty buffer to append to.
func (o *Output) Buffer() []byte { return *o.queue.chunks.Get().(*[]byte) }

// Emit hands b, which came from Buffer, to the writer. It belongs to the task no more.
// What has grown large is handed on in pieces, so that what is ahead of the writer is
// counted in bytes.
func (o *Output) Emit(b []byte) error {
	if len(b) <= 2*ChunkSize {
		return o.emit(b)
	}
	for piece := range slices.Chunk(b, ChunkSize) {
		if err := o.emit(append(o.Buffer(), piece...)); err != nil {
			return err
		}
	}
	return nil
}

func (o *Output) emit(b []byte) error {
	q, t := o.queue, o.entry
	c := chunk{bytes: b, permit: q.ahead}
	select {
	case q.ahead <- struct{}{}:
	case <-t.turn:
		select {
		case q.ahead <- struct{}{}:
		case q.first <- struct{}{}:
			c.permit = q.first
		case <-o.ctx.Done():
			return o.ctx.Err()
		}
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
	t.tell(func() { t.chunks = append(t.chunks, c) })
	return nil
}

// Then has do called by the writer when all that was emitted before is written, by this
// task and by those in front of it. When do fails, nothing more is written.
func (o *Output) Then(do func() error) {
	o.entry.tell(func() { o.entry.chunks = append(o.entry.chunks, chunk{do: do}) })
}
