package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	strict   bool // fail on a loss
	lost     *losses
	stop     <-chan struct{}
	skipped  atomic.Bool // a job was left out, because of stop
	decoders sync.Pool
	records  atomic.Int64
}

func newEncoder(cfg Config, stop <-chan struct{}, lost *losses) *encoder {
	return &encoder{
		wanted: timeWindow(cfg.From, cfg.To),
		strict: cfg.FailOnLoss,
		lost:   lost,
		stop:   stop,
		Queue:  ordered.NewQueue(fetchedBytes, fetchedBytes),
		decoders: sync.Pool{New: func() any {
			d := recordbatch.NewDecoder()
			d.MaxSize = cmp.Or(cfg.MaxBatch, d.MaxSize)
			return d
		}},
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
	w := &frames{encoder: e, d: d, j: j, out: out, buf: append(out.Buffer(), j.head...)}
	if err := w.batches(); err != nil {
		return err
	}
	e.records.Add(w.records)
	if j.role == marking || j.role == closing {
		var err error
		if w.buf, err = j.p.markHere(w.buf, j.role == closing); err != nil {
			return err
		}
	}
	return out.Emit(append(w.buf, j.tail...))
}

// frames writes what one job comes to.
type frames struct {
	*encoder
	d       *recordbatch.Decoder
	j       *job
	out     *ordered.Output
	buf     []byte
	records int64
}

// batches writes the job's committed records.
func (w *frames) batches() error {
	aborted := newAborted(w.j.aborted)
	for b := w.j.batches; len(b) > 0; {
		t, rest, err := recordbatch.CutChecked(b) // by the source
		if err != nil {
			return err
		}
		b = rest
		switch aborted.meaning(&t) {
		case isData:
			if t.MaxTimestamp >= w.wanted.since {
				err = w.batch(t)
			}
		case isMarker:
			if err = w.d.Open(t); err == nil {
				err = aborted.marker(w.d, &t)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// batch writes the records of a batch. Of one that is too large it writes the records up
// to where it is, and says that the others are lost.
func (w *frames) batch(t recordbatch.Batch) error {
	next := max(t.First, w.j.from)
	err := w.d.Open(t)
	for err == nil {
		rec := format.Record{Topic: w.j.p.topic, Partition: w.j.p.num}
		var ok bool
		if ok, err = w.d.Next(&rec); err != nil {
			break
		}
		if !ok {
			return nil
		}
		next = max(next, rec.Offset+1)
		if rec.Offset >= w.j.from && rec.Offset < w.j.next && w.wanted.holds(rec.Timestamp) {
			err = w.record(&rec)
		}
	}
	if errors.Is(err, recordbatch.ErrTooLarge) {
		return w.tooLarge(next, min(t.Last+1, w.j.next), err)
	}
	return err
}

// record writes one record.
func (w *frames) record(rec *format.Record) error {
	w.buf = format.AppendRecord(w.buf, rec)
	w.records++
	if len(w.buf) < ordered.ChunkSize {
		return nil
	}
	full := w.buf
	w.buf = w.out.Buffer()
	return w.out.Emit(full)
}

// tooLarge marks offsets [from, next) as lost.
func (w *frames) tooLarge(from, next int64, why error) error {
	if from >= next { // they are not wanted
		return nil
	}
	what := fmt.Sprintf("%s: offsets %d to %d cannot be read: %v", w.j.p, from, next-1, why)
	if w.strict {
		return lossError(what)
	}
	w.lost.add(what)
	var err error
	w.buf, err = w.j.p.mark(w.buf, next, w.j.epoch, [][2]int64{{from, next}})
	return err
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
