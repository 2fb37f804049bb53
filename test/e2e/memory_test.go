package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
)

// fetchMemory is what kbk-fetch takes at most with its defaults, as documented in
// docs/performance.md.
const fetchMemory = 320 << 20

// TestFetchMemory reads 10,000 partitions of an embedded broker and looks at the
// resident memory, in which all that Go holds is counted. Half of the records compress a
// hundred to one, so that a response is far more than it seems; half do not.
func TestFetchMemory(t *testing.T) {
	const topics, partitions = 10, 1000
	fake, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	brokers := strings.Join(fake.ListenAddrs(), ",")
	cl, err := connect(brokers, kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.MaxBufferedRecords(1<<17))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	values := [][]byte{bytes.Repeat([]byte("compressible "), 100_000/13), noise[:20_000]}
	for topic := range topics {
		name := fmt.Sprint("many-", topic)
		if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, nil, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, value := range values {
		for topic := range topics {
			for p := range int32(partitions) {
				cl.Produce(t.Context(), &kgo.Record{Topic: fmt.Sprint("many-", topic), Partition: p, Value: value}, func(_ *kgo.Record, err error) {
					if err != nil {
						t.Error(err)
					}
				})
			}
		}
		if err := cl.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, args := range map[string]string{"one shot": "", "all at once": "--concurrency 10000"} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "kbk-fetch -t ^many- "+args+" -b "+brokers, "dd of=/dev/null bs=1M status=none")
			rss := p.peak(source)
			if status := p.wait(); status[0] != 0 || !strings.Contains(p.said(0), fmt.Sprintf("read 20,000 records of %d topics", topics)) {
				t.Fatalf("status %d\n%s", status[0], p)
			}
			t.Logf("%d MiB", rss>>20)
			if rss > fetchMemory {
				t.Errorf("%d MiB of memory, more than %d", rss>>20, fetchMemory>>20)
			}
		})
	}
}

// TestFetchMemoryBomb has a batch of a few kilobytes that decompresses to more than
// --max-batch, between others.
func TestFetchMemoryBomb(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	brokers := strings.Join(fake.ListenAddrs(), ",")
	cl, err := connect(brokers, kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerBatchMaxBytes(600<<20), kgo.BrokerMaxWriteBytes(700<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 2, 1, nil, "bomb"); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{100, 400 << 20, 200} {
		for p := range int32(2) {
			value := make([]byte, size)
			if p == 1 {
				value = value[:100]
			}
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "bomb", Partition: p, Value: value}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	// So slowly that it lasts long enough to be looked at.
	p := start(t, "kbk-fetch -t bomb --max-records 2/s -b "+brokers, "dd of=/dev/null bs=1M status=none")
	rss := p.peak(source)
	if status := p.wait(); status[0] != 4 || !strings.Contains(p.said(0), "bomb/0: offsets 1 to 1 cannot be read") || !strings.Contains(p.said(0), "read 5 records") {
		t.Fatalf("status %d\n%s", status[0], p)
	}
	t.Logf("%d MiB", rss>>20)
	if rss > fetchMemory/2 {
		t.Errorf("%d MiB of memory", rss>>20)
	}
}

// TestFetchMemoryLarge is TestFetchMemory with records of 1 to 20 MB: half of them compress well,
// half do not.
func TestFetchMemoryLarge(t *testing.T) {
	const partitions, each = 12, 8
	fake, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	brokers := strings.Join(fake.ListenAddrs(), ",")
	cl, err := connect(brokers, kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerBatchMaxBytes(30<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	limit := "31457280"
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, map[string]*string{"max.message.bytes": &limit}, "large"); err != nil {
		t.Fatal(err)
	}
	loud := bytes.Repeat(noise, 3)
	soft := bytes.Repeat([]byte("compressible "), 20<<20/13)
	for i := range partitions * each {
		size := 1_000_000 * (1 + i*7%20)
		value := loud[i:][:size]
		if i%2 == 0 {
			value = soft[:size]
		}
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "large", Partition: int32(i % partitions), Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, "kbk-fetch -t large -b "+brokers, "dd of=/dev/null bs=1M status=none")
	rss := p.peak(source)
	if status := p.wait(); status[0] != 0 || !strings.Contains(p.said(0), fmt.Sprintf("read %d records", partitions*each)) {
		t.Fatalf("status %d\n%s", status[0], p)
	}
	used := p.stages[source].ProcessState
	t.Logf("%d MiB, %.2f CPU s", rss>>20, (used.UserTime() + used.SystemTime()).Seconds())
	if rss > fetchMemory {
		t.Errorf("%d MiB of memory, more than %d", rss>>20, fetchMemory>>20)
	}
}

// peak waits until a stage ends, and returns the most resident memory that it had. The
// system's account of an ended process does not do: it begins with the memory of the
// process that started it.
func (p *pipeline) peak(i int) (bytes int64) {
	p.t.Helper()
	status := fmt.Sprintf("/proc/%d/status", p.stages[i].Process.Pid)
	for {
		select {
		case <-p.stages[i].done:
			if bytes == 0 {
				p.t.Fatal("it was too short to be looked at")
			}
			return bytes
		case <-time.After(5 * time.Millisecond):
		}
		b, err := os.ReadFile(status)
		if err != nil {
			continue // it has ended
		}
		if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b); m != nil {
			kb, err := strconv.ParseInt(string(m[1]), 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			bytes = max(bytes, kb<<10)
		}
	}
}

// produceMemory is what kbk-produce takes beside --memory, as documented in its man page.
const produceMemory = 48 << 20

// TestProduceMemory restores records of two bytes, as they are and partitioned anew, and
// records of ten megabytes.
func TestProduceMemory(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BlackholeProduce())
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	for _, c := range []struct {
		name       string
		size, n    int
		partitions int
		memory     int64
		flags      string
	}{
		{"two", 2, 2_000_000, 4, 16 << 20, ""},
		{"anew", 2, 1_000_000, 4, 16 << 20, "--partitioner murmur2"},
		{"large", 10_000_000, 40, 2, 128 << 20, ""},
		{"many", 100, 500_000, 1000, 16 << 20, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := streamFile(t, func(write func(format.Encoder), record func(*format.Record)) {
				write(&format.Topic{Name: c.name, Partitions: c.partitions, Configs: map[string]string{"max.message.bytes": "20000000"}})
				value := make([]byte, c.size)
				for i := range value {
					value[i] = noise[i%len(noise)] ^ byte(i>>12)
				}
				for i := range c.n {
					record(&format.Record{
						Topic: c.name, Partition: int32(i % c.partitions), Offset: int64(i / c.partitions), Timestamp: time.Now().UnixMilli(), Key: fmt.Append(nil, i%9973), Value: value,
					})
				}
			})
			var rss int64
			for range 2 { // Go's limit is a soft one: on a busy machine its collector may be late, but not twice
				p := start(t, "cat "+file, fmt.Sprintf("kbk-produce -b %s --create-topics --if-not-empty append --memory %d %s", strings.Join(fake.ListenAddrs(), ","), c.memory, c.flags))
				rss = p.peak(1)
				if status := p.wait(); status[1] != 0 {
					t.Fatalf("status %d\n%s", status, p)
				}
				if t.Logf("%d MiB", rss>>20); rss <= c.memory+produceMemory {
					return
				}
			}
			t.Errorf("%d MiB of memory with --memory %d MiB", rss>>20, c.memory>>20)
		})
	}
}

// streamFile writes a stream of what content gives to a file, and returns the file's name.
func streamFile(t *testing.T, content func(write func(format.Encoder), record func(*format.Record))) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "stream.kbk")
	f, err := os.Create(file)
	must(err)
	w := format.NewWriter(f)
	must(w.WriteHeader(&format.Header{Content: format.ContentRecords}))
	var n int64
	content(func(e format.Encoder) { must(w.Write(e)) }, func(r *format.Record) { n++; must(w.WriteRecord(r)) })
	must(w.Close(&format.End{Records: n}))
	must(f.Close())
	return file
}
