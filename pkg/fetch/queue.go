package fetch

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/ordered"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/throttle"
)

// A job is something to become frames: one partition's part of a Fetch response, or
// frames that are ready.
type job struct {
	p       *partition // nil for frames of no partition, or of several
	from    int64      // records of offsets [from, next) are wanted
	next    int64      // what is scanned when the job is done
	epoch   int32      // leader epoch of the last batch, -1 where there is none
	batches []byte
	aborted []kmsg.FetchResponseTopicPartitionAbortedTransaction
	head    []byte      // frames to put before the records
	tail    []byte      // and after
	mark    format.Mark // at its end, where there are batches
	ends    bool        // tail has the partition's last mark
	always  bool        // done even when the run is told to stop

	seq int64 // counts the jobs
}

// fetchedBytes bounds the responses that wait to be decoded.
const fetchedBytes = 32 << 20

// An encoder turns jobs into frames on all cores, in the order in which the jobs
// were put in.
type encoder struct {
	*ordered.Queue
	asBatches bool // put batches out as they are
	wanted    window
	strict    bool // fail on a loss
	lost      *losses
	stop      <-chan struct{}
	decoders  sync.Pool
	records   atomic.Int64
	count     *metrics.Counters
	put       int64 // jobs

	mu      sync.Mutex
	begun   int64 // the last job begun of those put in, whichever worker has it
	cut     int64 // jobs from here on are left out, because the run is told to stop; 0: none are
	skipped bool  // some were
}

func newEncoder(cfg Config, stop <-chan struct{}, lost *losses, count *metrics.Counters) *encoder {
	return &encoder{
		asBatches: cfg.Batches,
		wanted:    timeWindow(cfg.From, cfg.To),
		strict:    cfg.FailOnLoss,
		lost:      lost,
		count:     count,
		stop:      stop,
		Queue:     ordered.NewQueue(fetchedBytes, fetchedBytes),
		decoders: sync.Pool{New: func() any {
			d := recordbatch.NewDecoder()
			d.MaxSize = cmp.Or(cfg.MaxBatch, d.MaxSize)
			return d
		}},
	}
}

// add puts a job in; it waits while too much is queued. One goroutine puts in all.
func (e *encoder) add(ctx context.Context, j *job) error {
	e.put++
	j.seq = e.put
	return e.Put(ctx, int64(len(j.batches)+len(j.head)), func(_ context.Context, out *ordered.Output) error {
		if !e.admit(j) {
			return nil
		}
		d := e.decoders.Get().(*recordbatch.Decoder)
		defer e.decoders.Put(d)
		if err := e.encode(d, j, out); err != nil {
			return fmt.Errorf("fetch %s: %w", j.p, err)
		}
		return nil
	})
}

// admit decides whether a job is done, when a worker takes it up. Once the run is told
// to stop, those that nobody has begun are left out: what was fetched ahead may be far
// more, written out, than it was as it came over the network. Those behind one that is
// left out are left out too, so that what a job says of earlier ones is true.
func (e *encoder) admit(j *job) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cut == 0 {
		select {
		case <-e.stop:
			e.cut = e.begun + 1
		default:
		}
	}
	if e.cut != 0 && j.seq >= e.cut && !j.always {
		e.skipped = true
		return false
	}
	e.begun = max(e.begun, j.seq)
	if j.p != nil && j.seq > j.p.written.seq { // workers take jobs up at once
		j.p.written = written{seq: j.seq, next: j.next, epoch: j.epoch, ended: j.ends}
	}
	return true
}

// leftSome tells whether a stop has left out jobs.
func (e *encoder) leftSome() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.skipped
}

// A parcel is what the source hands to the queue at once.
type parcel struct {
	job            *job
	from           *broker // which may fetch again afterwards; nil for none
	bytes, records int64   // read from it, for the limits
}

// A queue puts jobs into the encoder for the source, which must not wait for the stages
// downstream.
type queue struct {
	encoder *encoder
	bytes   *throttle.Limit
	records *throttle.Limit

	pending []parcel
	putting bool
	parcels chan []parcel // to the goroutine that puts them in
	free    chan *broker  // from it: a broker that may fetch again; nil: it has put in all that it got
}

func newQueue(e *encoder, cfg Config) *queue {
	return &queue{
		encoder: e, bytes: throttle.New(cfg.MaxRate), records: throttle.New(cfg.MaxRecords),
		parcels: make(chan []parcel, 1), free: make(chan *broker),
	}
}

// add hands over a parcel.
func (q *queue) add(p parcel) { q.pending = append(q.pending, p) }

// flush lets what was added be put in, if that of before has been.
func (q *queue) flush() {
	if !q.putting && len(q.pending) > 0 {
		q.parcels <- q.pending // has room: one at a time
		q.pending, q.putting = nil, true
	}
}

// last hands over what was added last. It may wait.
func (q *queue) last() { q.parcels <- q.pending }

// run puts parcels in until there are no more. Limits count only while reading goes
// on; over says that nobody listens any more.
func (q *queue) run(ctx, reading context.Context, over <-chan struct{}) error {
	tell := func(b *broker) {
		select {
		case q.free <- b:
		case <-over:
		}
	}
	for parcels := range q.parcels {
		for i := range parcels {
			p := &parcels[i]
			if p.job != nil {
				if err := q.encoder.add(ctx, p.job); err != nil {
					return err
				}
				p.job = nil // and what it holds
			}
			if p.from == nil {
				continue
			}
			// The limits are not for what is here, but for the next request.
			if q.bytes.Wait(reading, p.bytes) == nil {
				_ = q.records.Wait(reading, p.records) // both fail only when reading ends
			}
			tell(p.from)
		}
		tell(nil)
	}
	return nil
}
