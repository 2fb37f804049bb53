package metrics

import (
	"sync"
	"sync/atomic"
)

// Partitions are what is counted of each partition. Nothing is, until Watch is called.
type Partitions struct {
	mu    sync.Mutex
	watch bool
	all   []*Partition // in the order in which they came
	known map[topicPartition]*Partition
}

type topicPartition struct {
	topic string
	num   int32
}

// Watch says that somebody looks at the partitions. It comes before the stage begins.
func (ps *Partitions) Watch() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.watch, ps.known = true, make(map[topicPartition]*Partition)
}

// Open returns a partition to count for; nil, which counts nothing, where nobody looks. A
// topic that was created again takes the place of the one before.
func (ps *Partitions) Open(topic string, num int32) *Partition {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if !ps.watch {
		return nil
	}
	at := topicPartition{topic, num}
	p := ps.known[at]
	if p == nil {
		p = &Partition{topic: topic, num: num}
		ps.known[at] = p
		ps.all = append(ps.all, p)
	}
	p.next.Store(unknown)
	p.end.Store(unknown)
	p.committed.Store(unknown)
	return p
}

// All returns what is known of each partition, in the order in which they came.
func (ps *Partitions) All() []Position {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	all := make([]Position, 0, len(ps.all))
	for _, p := range ps.all {
		if !p.closed.Load() {
			all = append(all, Position{Topic: p.topic, Partition: p.num, Next: p.next.Load(), End: p.end.Load(), Committed: p.committed.Load()})
		}
	}
	return all
}

// A Partition is where a stage is in one partition. Its methods do nothing for nil.
type Partition struct {
	topic                string
	num                  int32
	next, end, committed atomic.Int64
	closed               atomic.Bool
}

// unknown stands for an offset that nobody has told.
const unknown = -1

// Read says that everything below the offset next is read, of a log that ends at end.
func (p *Partition) Read(next, end int64) {
	if p != nil {
		p.next.Store(next)
		p.end.Store(end)
		p.closed.Store(false)
	}
}

// Commit says that everything below the offset next stays whatever comes.
func (p *Partition) Commit(next int64) {
	if p != nil {
		p.committed.Store(next)
		p.closed.Store(false)
	}
}

// Close says that the partition is there no more, or is another one's business.
func (p *Partition) Close() {
	if p != nil {
		p.closed.Store(true)
	}
}

// A Position is where a stage is in a partition: offsets, -1 where they are not known.
type Position struct {
	Topic     string
	Partition int32
	Next      int64 // to be read
	End       int64 // of the log
	Committed int64 // everything below it is
}

// Lag is how many offsets are not read yet; false where that is not known.
func (p Position) Lag() (int64, bool) {
	if p.Next == unknown || p.End == unknown {
		return 0, false
	}
	return max(0, p.End-p.Next), true
}
