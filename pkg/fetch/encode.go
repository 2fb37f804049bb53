package fetch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/ordered"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A job is one partition's part of a Fetch response, to become frames.
type job struct {
	p       *partition
	from    int64 // records of offsets [from, next) are wanted
	next    int64 // what is scanned when the job is done
	epoch   int32 // leader epoch of the last batch, -1 where there is none
	batches []byte
	aborted []kmsg.FetchResponseTopicPartitionAbortedTransaction
	head    []byte // frames to put before the records
	tail    []byte // and after
	role    role
	seq     int64 // counts the partition's jobs
}

type role uint8

const (
	scanning role = iota // may be left out when the run is told to stop
	opening              // the partition's first mark
	marking              // a mark of what is written so far
	closing              // its last one, where no job before has written it
)

// fetchedBytes bounds the responses that wait to be decoded.
const fetchedBytes = 64 << 20

// An encoder turns jobs into frames on all cores, in the order in which the jobs
// were put in.
type encoder struct {
	*ordered.Queue
	wanted   window
	stop     <-chan struct{}
	skipped  atomic.Bool // a job was left out, because of stop
	decoders sync.Pool
	records  atomic.Int64
}

func newEncoder(wanted window, stop <-chan struct{}) *encoder {
	return &encoder{
		wanted:   wanted,
		stop:     stop,
		Queue:    ordered.NewQueue(fetchedBytes, fetchedBytes),
		decoders: sync.Pool{New: func() any { return recordbatch.NewDecoder() }},
	}
}

// put queues a job; it waits while too much is queued. Jobs of one partition are
// put by one goroutine at a time.
func (e *encoder) put(ctx context.Context, j *job) error {
	j.seq = j.p.jobs
	j.p.jobs++
	return e.Put(ctx, int64(len(j.batches)), func(ctx context.Context, out *ordered.Output) error {
		d := e.decoders.Get().(*recordbatch.Decoder)
		defer e.decoders.Put(d)
		if err := e.encode(d, j, out); err != nil {
			return fmt.Errorf("fetch %s: %w", j.p, err)
		}
		return nil
	})
}

func (e *encoder) encode(d *recordbatch.Decoder, j *job, out *ordered.Output) error {
	if !j.p.turn(j, e.stop) {
		e.skipped.Store(true)
		return nil
	}
	buf := append(out.Buffer(), j.head...)
	rec := format.Record{Topic: j.p.topic, Partition: j.p.num}
	var records int64
	slices.SortFunc(j.aborted, func(a, b kmsg.FetchResponseTopicPartitionAbortedTransaction) int {
		return cmp.Compare(a.FirstOffset, b.FirstOffset)
	})
	aborting := make(map[int64]bool) // producer ids with an aborted transaction here
	for b := j.batches; len(b) > 0; {
		t, rest, err := recordbatch.Cut(b)
		if err != nil {
			return err
		}
		b = rest
		// As the Java client does it (CompletedFetch.nextFetchedRecord).
		for len(j.aborted) > 0 && j.aborted[0].FirstOffset <= t.Last {
			aborting[j.aborted[0].ProducerID] = true
			j.aborted = j.aborted[1:]
		}
		if !t.Control() && t.Transactional() && aborting[t.ProducerID] {
			continue
		}
		if t.Control() && !aborting[t.ProducerID] {
			continue
		}
		if !t.Control() && t.MaxTimestamp < e.wanted.since {
			continue
		}
		if err := d.Open(t); err != nil {
			return err
		}
		if t.Control() {
			if aborts, err := d.Aborts(); err != nil {
				return err
			} else if aborts {
				delete(aborting, t.ProducerID)
			}
			continue
		}
		for {
			ok, err := d.Next(&rec)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if rec.Offset < j.from || rec.Offset >= j.next || !e.wanted.holds(rec.Timestamp) {
				continue
			}
			buf = format.AppendRecord(buf, &rec)
			records++
			if len(buf) >= ordered.ChunkSize {
				if err := out.Emit(buf); err != nil {
					return err
				}
				buf = out.Buffer()
			}
		}
	}
	e.records.Add(records)
	if j.role == marking || j.role == closing {
		var err error
		if buf, err = j.p.markHere(buf, j.role == closing); err != nil {
			return err
		}
	}
	return out.Emit(append(buf, j.tail...))
}

// frames queues frames that belong to no partition.
func (e *encoder) frames(ctx context.Context, raw []byte) error {
	return e.Put(ctx, int64(len(raw)), func(_ context.Context, out *ordered.Output) error {
		return out.Emit(append(out.Buffer(), raw...))
	})
}

// point queues the groups, a mark of every partition, and the point itself, which is
// left out where a stop has left out records before it. No partition is fetched
// meanwhile.
func (e *encoder) point(ctx context.Context, parts []*partition, groups, point []byte) error {
	jobs := make([]*job, len(parts))
	for i, p := range parts {
		jobs[i] = &job{p: p, role: marking, seq: p.jobs}
		p.jobs++
	}
	return e.Put(ctx, int64(len(groups)), func(_ context.Context, out *ordered.Output) error {
		var marks []byte
		whole := true
		for _, j := range jobs {
			whole = j.p.turn(j, e.stop) && whole
			var err error
			if marks, err = j.p.markHere(marks, false); err != nil {
				return err
			}
		}
		if !whole || e.skipped.Load() {
			groups, point = nil, nil
		}
		for _, b := range [][]byte{groups, marks, point} {
			if err := out.Emit(append(out.Buffer(), b...)); err != nil {
				return err
			}
		}
		return nil
	})
}
