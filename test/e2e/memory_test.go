package e2e

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fetchMemory is what kbk-fetch takes at most with its defaults, as documented in
// docs/performance.md.
const fetchMemory = 384 << 20

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
