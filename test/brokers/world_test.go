package brokers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

const (
	// The topic "gaps" has transactions, and starts above 0: what exact offsets have to make up.
	gapPartitions = 2
	gapRounds     = 60
	gapRecords    = gapPartitions * gapRounds * 5 // as many again are aborted
	gapStart      = 7
	readersAt     = records / 2 // what the group "readers" has committed in each partition
)

// A world is a cluster with something in it, and what kbk-fetch has read of that while all
// brokers were well.
type world struct {
	cluster *kafkatest.Cluster
	cl      *kgo.Client
	adm     *kadm.Client
	brokers int

	plain, gaps string // streams of the topics of that name
	restored    string // the map of a restore of plain to the topic "restored"
}

func newWorld(t *testing.T, brokers int) *world {
	t.Helper()
	c, err := kafkatest.Start(t.Context(), kafkatest.Options{Brokers: brokers, HeapMB: 256})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{cluster: c, brokers: brokers}
	w.cl, err = kgo.NewClient(kgo.SeedBrokers(strings.Split(c.Bootstrap(), ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.AlwaysRetryEOF())
	w.check(t, err)
	t.Cleanup(w.cl.Close)
	w.adm = kadm.NewClient(w.cl)

	w.create(t, "plain", partitions)
	w.create(t, "restored", partitions)
	w.create(t, "gaps", gapPartitions)
	w.create(t, "live", partitions)
	w.fillPlain(t)
	w.fillGaps(t)
	set := make(kadm.Offsets)
	for p := range int32(partitions) {
		set.Add(kadm.Offset{Topic: "plain", Partition: p, At: readersAt, LeaderEpoch: -1})
	}
	w.check(t, w.adm.CommitAllOffsets(t.Context(), "readers", set))

	w.plain = w.done(t, nil, "kbk-fetch -t plain")
	w.gaps = w.done(t, nil, "kbk-fetch -t gaps")
	w.restored = w.done(t, w.open(t, w.plain), "kbk-produce --rename plain=restored")
	return w
}

// done runs a command to its end and returns the file with its output.
func (w *world) done(t *testing.T, in *os.File, line string) string {
	t.Helper()
	p := w.start(t, in, line)
	if err := p.ended(0); err != nil {
		t.Fatal(err)
	}
	return p.output
}

func (w *world) check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) open(t *testing.T, name string) *os.File {
	f, err := os.Open(name)
	if err != nil {
		t.Error(err)
	}
	return f
}

// until waits until it is so. Errors of a moment are none.
func (w *world) until(t *testing.T, what string, is func() (bool, error)) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		ok, err := is()
		if err == nil && ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s: %v", what, err)
		}
	}
}

func (w *world) create(t *testing.T, topic string, n int32) {
	t.Helper()
	configs := map[string]*string{"min.insync.replicas": kadm.StringPtr(fmt.Sprint(min(2, w.brokers))), "retention.ms": kadm.StringPtr(retention)}
	_, err := w.adm.CreateTopic(t.Context(), n, int16(w.brokers), configs, topic)
	w.check(t, err)
}

// createTarget creates a topic for a restore, and waits until it has leaders.
func (w *world) createTarget(t *testing.T, topic string) {
	t.Helper()
	w.create(t, topic, partitions)
	w.until(t, topic+" is there", func() (bool, error) {
		ends, err := w.adm.ListEndOffsets(t.Context(), topic)
		return len(ends[topic]) == partitions && ends.Error() == nil, err
	})
}

// awaitInSync waits until no partition lacks a replica, Kafka's own topics among them.
func (w *world) awaitInSync(t *testing.T) {
	t.Helper()
	w.until(t, "all replicas are in sync", func() (bool, error) {
		meta, err := w.adm.Metadata(t.Context())
		if err != nil || len(meta.Brokers) < w.brokers {
			return false, err
		}
		for _, topic := range meta.Topics {
			for _, p := range topic.Partitions {
				if len(p.ISR) < len(p.Replicas) || p.Leader < 0 {
					return false, nil
				}
			}
		}
		return true, nil
	})
}

func value(topic string, p int32, i int) []byte {
	return fmt.Appendf(nil, "%s/%d record %d %080d", topic, p, i, i)
}

func (w *world) fillPlain(t *testing.T) {
	t.Helper()
	var failed error
	for i := range records {
		for p := range int32(partitions) {
			r := &kgo.Record{Topic: "plain", Partition: p, Key: fmt.Append(nil, i), Value: value("plain", p, i)}
			w.cl.Produce(t.Context(), r, func(_ *kgo.Record, err error) { failed = errors.Join(failed, err) })
		}
	}
	w.check(t, w.cl.Flush(t.Context()))
	w.check(t, failed)
}

// fillGaps writes committed and aborted transactions by turns, and deletes the first records.
func (w *world) fillGaps(t *testing.T) {
	t.Helper()
	tx, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(w.cluster.Bootstrap(), ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("gaps"))
	w.check(t, err)
	defer tx.Close()
	for round := range 2 * gapRounds {
		w.check(t, tx.BeginTransaction())
		for i := range 5 {
			for p := range int32(gapPartitions) {
				tx.Produce(t.Context(), &kgo.Record{Topic: "gaps", Partition: p, Value: value("gaps", p, 5*round+i)}, nil)
			}
		}
		w.check(t, tx.Flush(t.Context()))
		w.check(t, tx.EndTransaction(t.Context(), kgo.TransactionEndTry(round%2 == 0)))
	}
	below := make(kadm.Offsets)
	for p := range int32(gapPartitions) {
		below.Add(kadm.Offset{Topic: "gaps", Partition: p, At: gapStart})
	}
	resps, err := w.adm.DeleteRecords(t.Context(), below)
	w.check(t, err)
	w.check(t, resps.Error())
}

// write writes records to a topic all the time, until the function that it returns is
// called, which says how many there are in all.
func (w *world) write(t *testing.T, topic string) (stop func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	t.Cleanup(func() { cancel(); writing.Wait() })
	writing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			r := &kgo.Record{Topic: topic, Partition: int32(i % partitions), Value: value(topic, int32(i%partitions), i)}
			w.cl.Produce(context.WithoutCancel(ctx), r, nil)
			time.Sleep(5 * time.Millisecond)
		}
	})
	return func() int {
		cancel()
		writing.Wait()
		w.check(t, w.cl.Flush(t.Context()))
		ends, err := w.adm.ListEndOffsets(t.Context(), topic)
		w.check(t, errors.Join(err, ends.Error()))
		n := 0
		ends.Each(func(o kadm.ListedOffset) { n += int(o.Offset) })
		return n
	}
}

// A log is the records of a partition: their offsets and values.
type log []entry

type entry struct {
	offset int64
	value  string
}

// consume reads the committed records of a topic with franz-go's consumer.
func (w *world) consume(t *testing.T, topic string) map[int32]log {
	t.Helper()
	ends, err := w.adm.ListCommittedOffsets(t.Context(), topic)
	w.check(t, errors.Join(err, ends.Error()))
	starts, err := w.adm.ListStartOffsets(t.Context(), topic)
	w.check(t, errors.Join(err, starts.Error()))
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(w.cluster.Bootstrap(), ",")...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	w.check(t, err)
	defer cl.Close()
	out, open := make(map[int32]log), make(map[int32]bool)
	for p, end := range ends[topic] {
		if start, _ := starts.Lookup(topic, p); start.Offset < end.Offset {
			open[p] = true
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(open) > 0 {
		fetches := cl.PollFetches(ctx)
		w.check(t, ctx.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], entry{r.Offset, string(r.Value)})
			}
			if end, _ := ends.Lookup(topic, r.Partition); r.Offset+1 >= end.Offset {
				delete(open, r.Partition)
			}
		})
	}
	return out
}

// readStream reads the records of a stream; its end must be there.
func readStream(name string) (map[int32]log, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := make(map[int32]log)
	for r := format.NewReader(f, 0); ; {
		f, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if f.Kind != format.KindRec {
			continue
		}
		var rec format.Record
		if err := f.Record(&rec); err != nil {
			return out, err
		}
		out[rec.Partition] = append(out[rec.Partition], entry{rec.Offset, string(rec.Value)})
	}
}

// countRecords counts those of a stream that may not be at its end.
func countRecords(name string) (n int, err error) {
	all, err := readStream(name)
	for _, l := range all {
		n += len(l)
	}
	return n, err
}

// same wants a stream to hold a topic's records, each exactly once.
func (w *world) same(t *testing.T, topic, stream string) {
	t.Helper()
	got, err := readStream(stream)
	if err != nil {
		t.Errorf("%s: %v", filepath.Base(stream), err)
	}
	compare(t, topic+", as it was read", w.consume(t, topic), got, true)
}

// restoredAs wants a topic to hold the records of a stream, and, if exact, at the same
// offsets. (The source would not do: a broker that crashes forgets what was deleted in the
// last minute.)
func (w *world) restoredAs(t *testing.T, stream, topic string, exact bool) {
	t.Helper()
	want, err := readStream(stream)
	w.check(t, err)
	compare(t, topic, want, w.consume(t, topic), exact)
}

func compare(t *testing.T, what string, want, got map[int32]log, offsets bool) {
	t.Helper()
	for p := range int32(max(len(want), len(got))) {
		same := slices.EqualFunc(want[p], got[p], func(a, b entry) bool { return a.value == b.value && (!offsets || a.offset == b.offset) })
		if !same {
			t.Errorf("%s, partition %d: %d records, not the %d that it should have, or others", what, p, len(got[p]), len(want[p]))
		}
	}
}

// wantConfig wants a topic to have its own retention back.
func (w *world) wantConfig(t *testing.T, topic string) {
	t.Helper()
	all, err := w.adm.DescribeTopicConfigs(t.Context(), topic)
	w.check(t, err)
	for _, c := range all[0].Configs {
		if c.Key == "retention.ms" && (c.Value == nil || *c.Value != retention) {
			t.Errorf("%s: retention.ms is %s", topic, c.MaybeValue())
		}
	}
}

// wantCommitted wants a group to have been carried over to the topic "restored".
func (w *world) wantCommitted(t *testing.T, group string) {
	t.Helper()
	got, err := w.adm.FetchOffsets(t.Context(), group)
	w.check(t, err)
	for p := range int32(partitions) {
		if o, ok := got.Lookup("restored", p); !ok || o.At != readersAt {
			t.Errorf("group %s has committed %d in partition %d", group, o.At, p)
		}
	}
}

// wholeGroup wants a stream to hold the group "readers", with all that it has committed.
func wholeGroup(stream string) error {
	f, err := os.Open(stream)
	if err != nil {
		return err
	}
	defer f.Close()
	n := 0
	for r := format.NewReader(f, 0); ; {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if f.Kind != format.KindGroup {
			continue
		}
		g, err := format.DecodeGroup(f.Raw)
		if err != nil {
			return err
		}
		for p := range int32(partitions) {
			if g.ID == "readers" && g.Offsets["plain"][p].Offset == readersAt {
				n++
			}
		}
	}
	if n != partitions {
		return fmt.Errorf("%d offsets, not %d", n, partitions)
	}
	return nil
}
