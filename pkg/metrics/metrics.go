// Package metrics counts what a stage of a pipe does. Whoever does the work counts, by batches, segments and buffers
// and not by records; whoever shows it, as a progress display or for Prometheus, takes snapshots.
package metrics

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Counters are what one stage counts. The zero value is ready, and everything may be used by several goroutines. What
// a number means in each command is in docs/monitoring.md; those that a command does not know stay 0.
type Counters struct {
	Expected  atomic.Int64 // records in all; of a source no more than these, because some offsets have none
	Records   atomic.Int64 // that are done: written to the next stage, stored, or acknowledged by the cluster
	Committed atomic.Int64 // of these, the ones that stay whatever comes: a log entry lists them, or the cluster has them
	Taken     atomic.Int64 // records that came in: those that are neither done nor there are on their way
	There     atomic.Int64 // records that the backup or the cluster had before

	Offsets atomic.Int64 // scanned in the source's partitions, those without a record too; of what has come in
	Lost    atomic.Int64 // offsets that could not be read, where it is known how many
	Losses  atomic.Int64 // losses that were reported, of any kind

	BytesIn     atomic.Int64 // read: of the stream, from brokers, from the store
	BytesOut    atomic.Int64 // of the stream that was written
	BytesRaw    atomic.Int64 // in segments, before compression
	BytesPacked atomic.Int64 // in segments, as they are stored
	BytesStored atomic.Int64 // sent to the store or the cluster

	Segments      atomic.Int64
	SegmentsThere atomic.Int64 // that the backup had before
	Pending       atomic.Int64 // segments or batches that were taken and are not done

	Retries Kinds
	Errors  Kinds
	Input   Wait // for the stage before, the brokers or the store that is read
	Output  Wait // for the stage behind, or for the store or cluster that is written to
	Uploads Durations

	Partitions Partitions

	commits    atomic.Int64
	lastCommit atomic.Int64 // nanoseconds since 1970; 0: none yet
	point      atomic.Int64 // milliseconds since 1970; 0: none yet
	ready      atomic.Bool
	idle       atomic.Bool
	onCommit   atomic.Pointer[func()]
}

// Commit counts something that stays whatever comes: a log entry, an acknowledged batch.
func (c *Counters) Commit() {
	c.commits.Add(1)
	c.lastCommit.Store(time.Now().UnixNano())
	if f := c.onCommit.Load(); f != nil {
		(*f)()
	}
}

// OnCommit has f called at each Commit, by whoever commits: it must not wait for anything.
func (c *Counters) OnCommit(f func()) { c.onCommit.Store(&f) }

// Point says that a restore point is committed, which is of a time in milliseconds since 1970.
func (c *Counters) Point(at int64) { c.point.Store(at) }

// Ready says that the stage has what it needs to begin: it is connected, its store is open.
func (c *Counters) Ready() { c.ready.Store(true) }

// Idle says whether there is nothing to do for the stage, for a reason that its input does not show: a source that
// follows has read all there is.
func (c *Counters) Idle(idle bool) { c.idle.Store(idle) }

// A Snapshot is what a stage had counted at a time. A number may be newer than the one before it.
type Snapshot struct {
	Time time.Time

	Expected, Records, Committed, Taken, There            int64
	Offsets, Lost, Losses                                 int64
	BytesIn, BytesOut, BytesRaw, BytesPacked, BytesStored int64
	Segments, SegmentsThere, Pending                      int64
	Commits                                               int64
	LastCommit                                            time.Time // zero: none yet
	Point                                                 time.Time // of the newest restore point that is committed; zero: none yet
	Retries, Errors                                       map[string]int64
	InputWait, OutputWait                                 time.Duration // in all, what goes on now included
	WaitsForInput, WaitsForOutput                         bool          // now
	Ready, Idle                                           bool
	FromStage, ToStage                                    bool // Input and Output are other stages of the pipe
}

// Snapshot returns what has been counted until now.
func (c *Counters) Snapshot() Snapshot {
	now := time.Now()
	s := Snapshot{
		Time:     now,
		Expected: c.Expected.Load(), Records: c.Records.Load(), Committed: c.Committed.Load(), Taken: c.Taken.Load(), There: c.There.Load(),
		Offsets: c.Offsets.Load(), Lost: c.Lost.Load(), Losses: c.Losses.Load(),
		BytesIn: c.BytesIn.Load(), BytesOut: c.BytesOut.Load(), BytesRaw: c.BytesRaw.Load(), BytesPacked: c.BytesPacked.Load(), BytesStored: c.BytesStored.Load(),
		Segments: c.Segments.Load(), SegmentsThere: c.SegmentsThere.Load(), Pending: c.Pending.Load(),
		Commits: c.commits.Load(),
		Retries: c.Retries.All(), Errors: c.Errors.All(),
		Ready: c.ready.Load(), Idle: c.idle.Load(),
	}
	s.FromStage, s.ToStage = c.Input.stage.Load(), c.Output.stage.Load()
	s.InputWait, s.WaitsForInput = c.Input.total(now)
	s.OutputWait, s.WaitsForOutput = c.Output.total(now)
	if at := c.lastCommit.Load(); at != 0 {
		s.LastCommit = time.Unix(0, at)
	}
	if at := c.point.Load(); at != 0 {
		s.Point = time.UnixMilli(at)
	}
	return s
}

// Kinds counts by a name, for what is rare.
type Kinds struct {
	mu sync.Mutex
	n  map[string]int64
}

// Add counts one of a kind. There must not be many kinds.
func (k *Kinds) Add(kind string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.n == nil {
		k.n = make(map[string]int64)
	}
	k.n[kind]++
}

// All returns the number of each kind, nil where there is none.
func (k *Kinds) All() map[string]int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.n)
}
