package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/kbkio/kbk/format"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// runOfPartition is how many records of one partition come in a row, as segments have
// them.
const runOfPartition = 10_000

// exact measures what it costs to keep offsets, beside a restore that does not and
// Kafka's own kafka-producer-perf-test.
func exact(ctx context.Context, bin string, records, _ int) (err error) {
	c, err := kafkatest.Start(ctx, kafkatest.Options{HeapMB: 1024})
	if err != nil {
		return err
	}
	defer c.Close()
	dir, err := os.MkdirTemp("", "kbk-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "stream.kbk")
	fmt.Println("| what | wall s | CPU s | peak RSS MiB | records/s |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: |")
	row := func(what string, n int, wall time.Duration, p *os.ProcessState) {
		fmt.Printf("| %s | %.2f | %.2f | %d | %.0f |\n", what, wall.Seconds(), (p.UserTime() + p.SystemTime()).Seconds(), peak(p)>>20, float64(n)/wall.Seconds())
	}
	if err := perf(ctx, c, records, row); err != nil {
		return err
	}
	n := 0
	for _, m := range []struct {
		what       string
		records    int
		start      int64
		gapEvery   int
		partitions int
		flags      string
	}{
		{"kbk-produce, new offsets", records, 0, 0, partitions, ""},
		{"exact, no gaps", records, 0, 0, partitions, "--offsets exact"},
		{"exact, 1 % gaps", records, 0, 100, partitions, "--offsets exact"},
		{"exact, 10 % gaps", records, 0, 10, partitions, "--offsets exact"},
		{"exact, 10,000 records from offset 1,000,000, one partition", 10_000, 1_000_000, 0, 1, "--offsets exact"},
		{"exact, 10,000 records from offset 1,000,000,000, one partition", 10_000, 1_000_000_000, 0, 1, "--offsets exact"},
	} {
		n++
		name := fmt.Sprint("exact-", n)
		if err := stream(file, name, m.records, m.partitions, m.start, m.gapEvery); err != nil {
			return err
		}
		what := []string{m.what}
		if n == 1 { // nothing is left to do for it but to compare
			what = append(what, "the same line again: all is there")
		}
		for _, what := range what {
			in, err := os.Open(file)
			if err != nil {
				return err
			}
			args := append([]string{"-b", c.Bootstrap(), "--create-topics"}, strings.Fields(m.flags)...)
			cmd := exec.CommandContext(ctx, filepath.Join(bin, "kbk-produce"), args...)
			var said strings.Builder
			cmd.Stdin, cmd.Stderr = in, &said
			began := time.Now()
			err = cmd.Run()
			wall := time.Since(began)
			in.Close()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", what, err, &said)
			}
			row(what, m.records, wall, cmd.ProcessState)
		}
		if err := drop(ctx, c.Bootstrap(), name); err != nil {
			return err
		}
	}
	return nil
}

// perf runs kafka-producer-perf-test with about what kbk-produce does.
func perf(ctx context.Context, c *kafkatest.Cluster, records int, row func(string, int, time.Duration, *os.ProcessState)) error {
	if err := createTopic(ctx, c.Bootstrap(), "perf"); err != nil {
		return err
	}
	cmd := c.Tool(ctx, "org.apache.kafka.tools.ProducerPerformance", "--topic", "perf", "--num-records", fmt.Sprint(records), "--record-size", fmt.Sprint(valueSize),
		"--throughput", "-1", "--producer-props", "bootstrap.servers="+c.Bootstrap(), "acks=all", "compression.type=zstd", "batch.size=1000000", "linger.ms=10")
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("kafka-producer-perf-test: %w: %s", err, out)
	}
	row("kafka-producer-perf-test (acks=all, zstd, 1 MB batches)", records, time.Since(began), cmd.ProcessState)
	if m := regexp.MustCompile(`[0-9.]+ records/sec`).FindAllString(string(out), -1); len(m) > 0 {
		fmt.Fprintln(os.Stderr, "kafka-producer-perf-test itself says:", m[len(m)-1])
	}
	return drop(ctx, c.Bootstrap(), "perf")
}

// stream writes a stream of records to a file; every so many offsets of a partition
// have none.
func stream(file, name string, records, partitions int, start int64, gapEvery int) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := format.NewWriter(f)
	if err := w.WriteHeader(&format.Header{Content: format.ContentRecords}); err != nil {
		return err
	}
	if err := w.Write(&format.Topic{Name: name, Partitions: partitions, ReplicationFactor: 1}); err != nil {
		return err
	}
	next := make([]int64, partitions)
	for p := range next {
		next[p] = start
		if err := w.Write(&format.Mark{Topic: name, Partition: int32(p), Next: start}); err != nil {
			return err
		}
	}
	values := rand.New(rand.NewPCG(1, 2))
	var buf []byte
	for i := range records {
		p := i / runOfPartition % partitions
		if gapEvery > 0 && (next[p]+1)%int64(gapEvery) == 0 {
			next[p]++
		}
		r := format.Record{Topic: name, Partition: int32(p), Offset: next[p], Timestamp: 1_700_000_000_000 + int64(i), Key: fmt.Appendf(nil, "o-%09d", i), Value: event(values, i, valueSize)}
		next[p]++
		if buf = format.AppendRecord(buf, &r); len(buf) > 1<<20 {
			if err := w.WriteRaw(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	if err := w.WriteRaw(buf); err != nil {
		return err
	}
	for p := range next {
		if err := w.Write(&format.Mark{Topic: name, Partition: int32(p), Next: next[p]}); err != nil {
			return err
		}
	}
	return w.Close(&format.End{Records: int64(records)})
}
