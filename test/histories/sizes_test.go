package histories

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var sizes = flag.Bool("sizes", false, "run TestManyPartitions, TestSmallRecords and TestLargeRecords, which take minutes")

// A rig is a single broker, a backup and what the commands took.
type rig struct {
	*world
	*job
	t       *testing.T
	table   strings.Builder
	watched sync.WaitGroup
}

func newRig(t *testing.T, heapMB int) *rig {
	t.Helper()
	if !*sizes {
		t.Skip("it takes minutes: -sizes")
	}
	w := startWorld(t, 1, heapMB)
	r := &rig{world: w, t: t, job: &job{name: "run", dir: t.TempDir(), env: w.env()}}
	r.table.WriteString("| command | time | CPU | memory |\n| --- | ---: | ---: | ---: |\n")
	return r
}

// must runs a pipe that has to end well, and notes what its commands took.
func (r *rig) must(lines ...string) (output string) {
	r.t.Helper()
	began := time.Now()
	p, err := r.start(lines...)
	if err != nil {
		r.t.Fatal(err)
	}
	highest := make([]float64, len(p.stages))
	for i, s := range p.stages {
		r.watched.Go(func() { highest[i] = highestMemory(s) })
	}
	r.watched.Wait() // however long it takes
	wall := time.Since(began)
	for i, s := range p.stages {
		if s.status() != 0 {
			r.t.Fatalf("status %d of stage %d after %s\n%s", s.status(), i, wall, p)
		}
		cpu := s.ProcessState.UserTime() + s.ProcessState.SystemTime()
		fmt.Fprintf(&r.table, "| %s | %.1f s | %.1f s | %.0f MiB |\n", filepath.Base(s.Path), wall.Seconds(), cpu.Seconds(), highest[i])
	}
	return p.output
}

// highestMemory watches a command until it ends, and returns the most memory that it took,
// in MiB. What Linux tells of a process that has ended counts what its parent had.
func highestMemory(s *stage) (most float64) {
	for {
		select {
		case <-s.done:
			return most
		case <-time.After(20 * time.Millisecond):
			if u, err := usageOf(s.Process.Pid, 0); err == nil {
				most = max(most, u.rss)
			}
		}
	}
}

// backUpAndRestore backs topics up twice, the second time from where the first ended, and
// restores them under other names.
func (r *rig) backUpAndRestore(pattern, flags string) {
	backup := filepath.Join(r.dir, "backup")
	r.must("kbk-fetch -t "+pattern, "kbk-pack", "kbk-push "+backup)
	cursor := r.must("kbk-catalog cursor " + backup)
	r.must("kbk-fetch -t "+pattern+" --from "+cursor, "kbk-pack", "kbk-push "+backup)
	r.must("kbk-catalog verify --deep " + backup)
	r.must("kbk-pull "+backup, "kbk-pack -d", "kbk-produce --create-topics --prefix r. "+flags)
}

// produce writes records, of which each has its number as its key.
func (r *rig) produce(n int, record func(int) *kgo.Record, opts ...kgo.Opt) {
	r.t.Helper()
	cl, err := r.connect(append([]kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1)}, opts...)...) // thousands of partitions take minutes to be led
	if err != nil {
		r.t.Fatal(err)
	}
	defer cl.Close()
	var mu sync.Mutex
	var failed error
	for i := range n {
		cl.Produce(r.t.Context(), record(i), func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
	}
	if err := errors.Join(cl.Flush(r.t.Context()), failed); err != nil {
		r.t.Fatal(err)
	}
}

// same wants what was restored to be what was there.
func (r *rig) same(want *content, topics []topicPlan, exact bool) {
	r.t.Helper()
	var names []string
	for _, t := range topics {
		names = append(names, "r."+t.name)
	}
	got, err := r.consume(r.t.Context(), names...)
	if err != nil {
		r.t.Fatal(err)
	}
	t := compare(want.as(func(s string) string { return "r." + s }), got, exact, func(string) bool { return false })
	if t.bad() {
		r.t.Error(&t)
	}
	r.t.Logf("%s\n%s", &t, &r.table)
}

func (r *rig) contentOf(topics []topicPlan) *content {
	r.t.Helper()
	var names []string
	for _, t := range topics {
		names = append(names, t.name)
	}
	c, err := r.consume(r.t.Context(), names...)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// TestManyPartitions backs up and restores 10,000 partitions.
func TestManyPartitions(t *testing.T) {
	r := newRig(t, 1024)
	const each = 100
	var topics []topicPlan
	for i := range 100 {
		topics = append(topics, topicPlan{fmt.Sprintf("many.%03d", i), each, 1})
	}
	if err := r.create(t.Context(), topics); err != nil {
		t.Fatal(err)
	}
	r.produce(10*each*len(topics), func(i int) *kgo.Record {
		p := i % (each * len(topics))
		return &kgo.Record{Topic: topics[p/each].name, Partition: int32(p % each), Key: fmt.Append(nil, i), Value: bytes.Repeat([]byte("v"), i%200)}
	})
	want := r.contentOf(topics)
	// The broker would have too many files open with both.
	backup := filepath.Join(r.dir, "backup")
	r.must(`kbk-fetch -t ^many\.`, "kbk-pack", "kbk-push "+backup)
	cursor := r.must("kbk-catalog cursor " + backup)
	r.must(`kbk-fetch -t ^many\. --from `+cursor, "kbk-pack", "kbk-push "+backup)
	r.must("kbk-catalog verify --deep " + backup)
	r.delete(topics)
	r.must("kbk-pull "+backup, "kbk-pack -d", "kbk-produce --create-topics --prefix r.")
	r.same(want, topics, false)
}

// delete deletes topics, and waits until they are gone.
func (r *rig) delete(topics []topicPlan) {
	r.t.Helper()
	var names []string
	for _, t := range topics {
		names = append(names, t.name)
	}
	if _, err := r.adm.DeleteTopics(r.t.Context(), names...); err != nil {
		r.t.Fatal(err)
	}
	err := until(context.WithoutCancel(r.t.Context()), "topics are gone", func() (bool, error) {
		left, err := r.adm.ListTopics(r.t.Context())
		for _, name := range names {
			if left.Has(name) {
				return false, err
			}
		}
		return err == nil, err
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestSmallRecords backs up and restores a million records of one byte.
func TestSmallRecords(t *testing.T) {
	r := newRig(t, 512)
	topics := []topicPlan{{"small", 4, 1}}
	if err := r.create(t.Context(), topics); err != nil {
		t.Fatal(err)
	}
	// The comparison tells records by their keys.
	r.produce(1_000_000, func(i int) *kgo.Record {
		return &kgo.Record{Topic: "small", Partition: int32(i % 4), Key: fmt.Append(nil, i), Value: []byte{byte(i)}}
	}, kgo.ProducerLinger(50*time.Millisecond))
	want := r.contentOf(topics)
	r.backUpAndRestore("small", "--offsets exact")
	r.same(want, topics, true)
}

// TestLargeRecords backs up and restores records of 50 MB.
func TestLargeRecords(t *testing.T) {
	r := newRig(t, 2048)
	topics := []topicPlan{{"large", 2, 1}}
	if err := r.create(t.Context(), topics, "max.message.bytes=64000000"); err != nil {
		t.Fatal(err)
	}
	noise := (&writer{rng: rand.New(rand.NewPCG(*oneSeed, 0))}).noise(50_000_000)
	r.produce(16, func(i int) *kgo.Record {
		return &kgo.Record{Topic: "large", Partition: int32(i % 2), Key: fmt.Append(nil, i), Value: append([]byte{byte(i)}, noise...)}
	}, kgo.ProducerBatchMaxBytes(64_000_000), kgo.BrokerMaxWriteBytes(200_000_000), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(2))
	want := r.contentOf(topics)
	r.backUpAndRestore("large", "--offsets exact")
	r.same(want, topics, true)
}
