// Package ordered runs tasks on all cores and writes what they produce in the
// order in which the tasks were put in.
package ordered

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

const (
	// ChunkSize is how many bytes a task gathers before it hands them on.
	ChunkSize = 256 << 10

	chunksAhead = 8 // how many such a task may be ahead of the writer
	queued      = 256
)

// A Task produces bytes through out. It runs on one of the queue's workers.
type Task func(ctx context.Context, out *Output) error

type entry struct {
	run    Task
	weight int64
	out    chan []byte
	failed bool // set before out is closed
}

// A Queue runs tasks. However many are at work, each is at most a few chunks
// ahead of the writer, and those that were put in weigh no more together than
// the queue's capacity.
type Queue struct {
	todo     chan *entry // the same entries, to the workers
	order    chan *entry // and to the writer
	mu       sync.Mutex
	capacity int64
	room     *semaphore.Weighted
	chunks   sync.Pool
}

// NewQueue returns a queue for tasks that weigh up to capacity together. A
// heavier one gets the queue for itself.
func NewQueue(capacity int64) *Queue {
	return &Queue{
		todo:     make(chan *entry, queued),
		order:    make(chan *entry, queued),
		capacity: capacity,
		room:     semaphore.NewWeighted(capacity),
		chunks:   sync.Pool{New: func() any { b := make([]byte, 0, ChunkSize+ChunkSize/4); return &b }},
	}
}

// Put queues a task; it waits while too much is queued.
func (q *Queue) Put(ctx context.Context, weight int64, run Task) error {
	t := &entry{run: run, weight: min(weight, q.capacity), out: make(chan []byte, chunksAhead)}
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
		err := t.run(ctx, &Output{queue: q, ctx: ctx, to: t.out})
		t.run = nil // and what it holds
		t.failed = err != nil
		close(t.out)
		if err != nil {
			return err
		}
		q.room.Release(t.weight)
	}
	return nil
}

func (q *Queue) drain(ctx context.Context, write func([]byte) error) error {
	for t := range q.order {
		for open := true; open; {
			var b []byte
			select {
			case b, open = <-t.out:
			case <-ctx.Done():
				return ctx.Err()
			}
			if len(b) > 0 {
				if err := write(b); err != nil {
					return err
				}
			}
			if cap(b) > 0 && cap(b) <= 2*ChunkSize { // one that a huge record made larger is not kept
				b = b[:0]
				q.chunks.Put(&b)
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
	to    chan []byte
}

// Buffer returns an empty buffer to append to.
func (o *Output) Buffer() []byte { return *o.queue.chunks.Get().(*[]byte) }

// Emit hands b, which came from Buffer, to the writer. It belongs to the task no more.
func (o *Output) Emit(b []byte) error {
	select {
	case o.to <- b:
		return nil
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
}
