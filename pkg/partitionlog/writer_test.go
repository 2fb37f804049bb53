package partitionlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command/commandtest"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A world is a cluster, its logs and a writer.
type world struct {
	*testing.T
	fake   *kfake.Cluster
	logs   *Logs
	writer *Writer
	cancel context.CancelFunc
	said   commandtest.Messages
}

func newWorld(t *testing.T, partitions int32, timeout time.Duration) *world {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(partitions, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	w := &world{T: t, fake: fake}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	w.cancel = cancel
	w.logs = New(ctx, cl, slog.New(slog.NewTextHandler(&w.said, nil)), timeout)
	w.writer = w.logs.NewWriter(ctx)
	return w
}

// batchOf makes a batch of records that are numbered from first on.
func (w *world) batchOf(producer int64, sequence int32, first, n int) []byte {
	w.Helper()
	c, err := recordbatch.NewCompressor("none", 0)
	if err != nil {
		w.Fatal(err)
	}
	var b recordbatch.Builder
	for i := range n {
		b.Append(&format.Record{Timestamp: 1, Value: fmt.Append(nil, first+i)})
	}
	raw, err := b.Build(nil, c)
	if err != nil {
		w.Fatal(err)
	}
	recordbatch.Stamp(raw, producer, 0, sequence)
	return raw
}

// TestReplaced wants the answer about a batch that the broker had already to be no sign of
// LogAppendTime: a restore ended with status 4 when a broker hung.
func TestReplaced(t *testing.T) {
	w := &world{T: t}
	raw := w.batchOf(7, 0, 0, 3) // of time 1
	for given, want := range map[int64]int64{-1: -1, 1: -1, 1790000000000: 1790000000000} {
		if got := replaced(raw, given); got != want {
			t.Errorf("the broker answers with %d: %d", given, got)
		}
	}
}

// read returns the values of a partition's records, in order.
func (w *world) read(p Partition) (values []string) {
	w.Helper()
	end, err := w.logs.End(w.Context(), p)
	if err != nil {
		w.Fatal(err)
	}
	d := recordbatch.NewDecoder()
	for at := int64(0); at < end; {
		answer, err := w.logs.Read(w.Context(), p, at, 1<<20, Uncommitted)
		if err != nil {
			w.Fatal(err)
		}
		for b := answer.RecordBatches; len(b) > 0; {
			batch, rest, err := recordbatch.Cut(b)
			if err == nil {
				err = d.Open(batch)
			}
			if err != nil {
				w.Fatal(err)
			}
			var r format.Record
			for {
				ok, err := d.Next(&r)
				if err != nil {
					w.Fatal(err)
				}
				if !ok {
					break
				}
				values = append(values, string(r.Value))
			}
			b, at = rest, batch.Last+1
		}
	}
	return values
}

// result is what a batch came to.
type result struct {
	base int64
	err  error
}

// write appends batches of some records each to partitions and waits for all of them.
func (w *world) write(partitions, batches, each int) [][]result {
	out := make([][]result, partitions)
	var wg sync.WaitGroup
	for num := range partitions {
		l := w.writer.Open(Partition{"t", int32(num)}, 0)
		for i := range batches {
			wg.Add(1)
			l.Append(Batch{Raw: w.batchOf(int64(num), int32(i*each), i*each, each), Done: func(base, _ int64, err error) {
				out[num] = append(out[num], result{base, err})
				wg.Done()
			}})
		}
	}
	wg.Wait()
	return out
}

func (w *world) want(results [][]result, batches, each int) {
	w.Helper()
	for num, got := range results {
		for i, r := range got {
			if r.err != nil || r.base != int64(i*each) {
				w.Fatalf("batch %d of partition %d: offset %d, %v", i, num, r.base, r.err)
			}
		}
		values := w.read(Partition{"t", int32(num)})
		var want []string
		for i := range batches * each {
			want = append(want, fmt.Sprint(i))
		}
		if !slices.Equal(values, want) {
			w.Fatalf("partition %d has %d records, not %d, or in another order", num, len(values), len(want))
		}
	}
}

func TestWriter(t *testing.T) {
	w := newWorld(t, 8, time.Minute)
	w.want(w.write(8, 40, 3), 40, 3)
}

// TestWriterFaults has requests fail in every way that a broker knows, many at a time.
func TestWriterFaults(t *testing.T) {
	t.Parallel()
	for _, fault := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend,
		kerr.KafkaStorageError, kerr.UnknownTopicOrPartition, kerr.CorruptMessage, kerr.LeaderNotAvailable,
	} {
		t.Run(fault.Message, func(t *testing.T) {
			w := newWorld(t, 4, time.Minute)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: fault, Count: 20, When: func(kmsg.Request) bool { return r.IntN(3) == 0 }})
			w.want(w.write(4, 30, 2), 30, 2)
		})
	}
}

// TestWriterDrops closes connections before requests are looked at, and answers only
// after the connection is gone.
func TestWriterDrops(t *testing.T) {
	w := newWorld(t, 3, time.Minute)
	n := 0
	w.fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if n++; n%4 == 2 && n < 80 {
			return nil, errors.New("dropped"), true
		}
		return nil, nil, false
	})
	w.want(w.write(3, 30, 2), 30, 2)
}

// TestWriterFinds has a batch written whose answer is lost, behind one of somebody else: it
// must not be sent again, since a broker may have forgotten its producer.
func TestWriterFinds(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	p := Partition{"t", 0}
	append1 := func(l *Log, raw []byte) <-chan result {
		got := make(chan result, 1)
		l.Append(Batch{Raw: raw, Done: func(base, _ int64, err error) { got <- result{base, err} }})
		return got
	}
	for _, raw := range [][]byte{w.batchOf(8, 0, 100, 2), w.batchOf(7, 0, 0, 3)} { // as it comes to be in the log
		if r := <-append1(w.writer.Open(p, 0), raw); r.err != nil {
			t.Fatal(r.err)
		}
	}
	var produced atomic.Int32
	w.fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if produced.Add(1) == 1 {
			return nil, errors.New("the answer is lost"), true
		}
		return nil, nil, false
	})
	l := w.writer.Open(p, 0)
	first, second := append1(l, w.batchOf(7, 0, 0, 3)), append1(l, w.batchOf(7, 3, 3, 4))
	if r := <-first; r.err != nil || r.base != 2 {
		t.Errorf("the first went to %d: %v", r.base, r.err)
	}
	if r := <-second; r.err != nil || r.base != 5 {
		t.Errorf("the second went to %d: %v", r.base, r.err)
	}
	if n := produced.Load(); n != 2 {
		t.Errorf("there were %d requests, and not one for each batch", n)
	}
}

// TestWriterMoves has partitions change their leaders all the time.
func TestWriterMoves(t *testing.T) {
	w := newWorld(t, 6, time.Minute)
	stop := make(chan struct{})
	var moving sync.WaitGroup
	moving.Go(func() {
		for i := int32(0); ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				if err := w.fake.MoveTopicPartition("t", i%6, i%3); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	results := w.write(6, 100, 2)
	close(stop)
	moving.Wait()
	w.want(results, 100, 2)
}

// TestWriterSequence has the predecessor's request come late, before and behind the first
// of its successor.
func TestWriterSequence(t *testing.T) {
	for _, first := range []bool{true, false} {
		w := newWorld(t, 1, time.Minute)
		p := Partition{"t", 0}
		w.want(w.write(1, 2, 2), 2, 2) // sequences 0 to 3
		append1 := func(sequence int32, from, n int) error {
			got := make(chan error, 1)
			w.writer.Open(p, 0).Append(Batch{Raw: w.batchOf(0, sequence, from, n), Done: func(_, _ int64, err error) { got <- err }})
			return <-got
		}
		late := func() error { return append1(4, 4, 3) }
		ours := func() error { return append1(4, 4, 5) }
		calls := []func() error{ours, late}
		if first {
			calls = []func() error{late, ours}
		}
		if err := calls[0](); err != nil {
			t.Fatal(err)
		}
		if err := calls[1](); !errors.Is(err, ErrSequence) {
			t.Errorf("the second ended with %v", err)
		}
		if got := len(w.read(p)); got != map[bool]int{true: 7, false: 9}[first] {
			t.Errorf("%d records", got)
		}
	}
}

// TestWriterRefusal wants an error that is final to fail what is behind it, and nothing in
// other partitions.
func TestWriterRefusal(t *testing.T) {
	w := newWorld(t, 2, time.Minute)
	w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidTimestamp, Partitions: []int32{1}, Count: -1})
	got := w.write(2, 5, 1)
	w.want(got[:1], 5, 1)
	for _, r := range got[1] {
		if !errors.Is(r.err, kerr.InvalidTimestamp) {
			t.Errorf("%v", r.err)
		}
	}
	l := w.writer.Open(Partition{"none", 0}, 0)
	done := make(chan error, 2)
	w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Err: kerr.TopicAuthorizationFailed, Topic: "none", Count: -1})
	for i := range 2 {
		l.Append(Batch{Raw: w.batchOf(1, int32(i), 0, 1), Done: func(_, _ int64, err error) { done <- err }})
		if err := <-done; !errors.Is(err, kerr.TopicAuthorizationFailed) {
			t.Errorf("%v", err)
		}
	}
}

// TestWriterDuplicate has the broker say that it has had a batch, and not where: clients take that
// for written (KIP-98, DUPLICATE_SEQUENCE_NUMBER), though it need not be in the log.
func TestWriterDuplicate(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.DuplicateSequenceNumber, Count: 1})
	for _, r := range w.write(1, 3, 1)[0] {
		if !errors.Is(r.err, ErrSequence) || !errors.Is(r.err, kerr.DuplicateSequenceNumber) {
			t.Errorf("%v", r.err)
		}
	}
}

// TestWriterTimeout wants a partition that cannot be written to be named, and given up.
func TestWriterTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 9*time.Second)
	w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	got := w.write(1, 2, 1)
	for _, r := range got[0] {
		if !errors.Is(r.err, kerr.NotEnoughReplicas) || !strings.Contains(r.err.Error(), "for 9s") {
			t.Errorf("%v", r.err)
		}
	}
	if said := w.said.String(); !strings.Contains(said, "waiting for t/0, for ") || !strings.Contains(said, "NOT_ENOUGH_REPLICAS") {
		t.Errorf("it said %s", said)
	}
}

// TestWriterEnds wants that whoever appends is told when the writer ends.
func TestWriterEnds(t *testing.T) {
	w := newWorld(t, 1, time.Minute)
	w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	l := w.writer.Open(Partition{"t", 0}, 0)
	done := make(chan error, 1)
	l.Append(Batch{Raw: w.batchOf(1, 0, 0, 1), Done: func(_, _ int64, err error) { done <- err }})
	w.cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("on its way: %v", err)
	}
	<-w.writer.Ended()
	l.Append(Batch{Raw: w.batchOf(1, 1, 1, 1), Done: func(_, _ int64, err error) { done <- err }})
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("afterwards: %v", err)
	}
}

// TestThrottled lets a quota make the client wait for longer than the timeout is: it is
// named, and is no reason to give up.
func TestThrottled(t *testing.T) {
	w := newWorld(t, 1, 2*time.Second)
	done := make(chan error, 1)
	l := w.writer.Open(Partition{"t", 0}, 0)
	l.Append(Batch{Raw: w.batchOf(1, 0, 0, 1), Done: func(_, _ int64, err error) { done <- err }})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.writer.do(func() { // a quota, and a batch that is not answered
		l.queue, l.moved, l.proven = []item{{Batch: Batch{Raw: w.batchOf(1, 1, 1, 1), Done: func(_, _ int64, err error) { done <- err }}}}, began, true
		l.flying, l.next = 1, 1
		w.writer.senders[l.leader].throttled = began.Add(time.Minute)
		l.check(began.Add(4 * time.Second))
		if l.wait != nil || l.failed != nil {
			t.Errorf("after 4 s: %v", l.failed)
		}
		l.check(began.Add(30 * time.Second))
		if l.failed != nil || l.wait == nil || l.wait.reason == nil || !strings.HasPrefix(l.wait.reason.Error(), "a quota: broker ") {
			t.Errorf("after 30 s: %v, %+v", l.failed, l.wait)
		}
		l.check(began.Add(61 * time.Second))
		if l.failed != nil {
			t.Errorf("after 61 s: %v", l.failed)
		}
		l.check(began.Add(63 * time.Second))
	})
	if err := <-done; err == nil || !strings.Contains(err.Error(), "no answer from broker") {
		t.Errorf("%v", err)
	}
}
