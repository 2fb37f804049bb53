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
	topic   string
	num     int32
	from    int64 // records of offsets [from, end) are wanted
	end     int64
	batches []byte
	aborted []kmsg.FetchResponseTopicPartitionAbortedTransaction
	head    []byte // frames to put before the records
	tail    []byte // and after
}

// fetchedBytes bounds the responses that wait to be decoded.
const fetchedBytes = 64 << 20

// An encoder turns jobs into frames on all cores, in the order in which the jobs
// were put in.
type encoder struct {
	*ordered.Queue
	wanted   window
	decoders sync.Pool
	records  atomic.Int64
}

func newEncoder(wanted window) *encoder {
	return &encoder{
		wanted:   wanted,
		Queue:    ordered.NewQueue(fetchedBytes),
		decoders: sync.Pool{New: func() any { return recordbatch.NewDecoder() }},
	}
}

// put queues a job; it waits while too much is queued.
func (e *encoder) put(ctx context.Context, j *job) error {
	return e.Put(ctx, int64(len(j.batches)), func(ctx context.Context, out *ordered.Output) error {
		d := e.decoders.Get().(*recordbatch.Decoder)
		defer e.decoders.Put(d)
		if err := e.encode(d, j, out); err != nil {
			return fmt.Errorf("fetch %s/%d: %w", j.topic, j.num, err)
		}
		return nil
	})
}

func (e *encoder) encode(d *recordbatch.Decoder, j *job, out *ordered.Output) error {
	buf := append(out.Buffer(), j.head...)
	rec := format.Record{Topic: j.topic, Partition: j.num}
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
			if rec.Offset < j.from || rec.Offset >= j.end || !e.wanted.holds(rec.Timestamp) {
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
	return out.Emit(append(buf, j.tail...))
}
