// Command demo is what `make demo` runs: it starts an embedded broker, fills it
// with topics that look real, lets examples/quickstart.sh back them up and restore
// them, and compares every record with its copy.
//
// The broker is franz-go's kfake: it needs no Java, and proves nothing about a real
// Kafka. `make test` does that.
package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/examples/sample"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		return fmt.Errorf("start the embedded broker: %w", err)
	}
	defer cluster.Close()
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	fmt.Printf("--- An embedded broker listens on %s\n", brokers)
	if err := sample.Fill(ctx, brokers); err != nil {
		return fmt.Errorf("fill the broker: %w", err)
	}
	for _, t := range sample.Topics {
		fmt.Printf("topic %s: %d records in %d partitions\n", t.Name, t.Records, t.Partitions)
	}
	dir, err := os.MkdirTemp("", "kbk-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := filepath.Abs(cmp.Or(os.Getenv("KBK_BIN"), "bin"))
	if err != nil {
		return err
	}
	script := exec.CommandContext(ctx, "bash", "examples/quickstart.sh")
	script.Env = append(os.Environ(), "BROKERS="+brokers, "BACKUP="+filepath.Join(dir, "nightly"),
		"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	script.Stdout, script.Stderr = os.Stdout, os.Stderr
	if err := script.Run(); err != nil {
		return fmt.Errorf("examples/quickstart.sh: %w", err)
	}
	fmt.Println("--- Compare every record with its copies")
	for _, t := range sample.Topics {
		for _, how := range []string{"-restored", "-batches"} {
			if err := compare(ctx, brokers, t.Name, t.Name+how, t.Records); err != nil {
				return err
			}
			fmt.Printf("%s: all %d records are the same in %s, bit for bit\n", t.Name, t.Records, t.Name+how)
		}
	}
	return nil
}

// compare reads two topics to their ends, partition by partition.
func compare(ctx context.Context, brokers, a, b string, want int) error {
	ra, err := readAll(ctx, brokers, a)
	if err != nil {
		return err
	}
	rb, err := readAll(ctx, brokers, b)
	if err != nil {
		return err
	}
	got := 0
	for p, recs := range ra {
		if len(recs) != len(rb[p]) {
			return fmt.Errorf("%s/%d has %d records, %s/%d has %d", a, p, len(recs), b, p, len(rb[p]))
		}
		for i, rec := range recs {
			if err := same(rec, rb[p][i]); err != nil {
				return fmt.Errorf("%s/%d, record %d: %w", a, p, i, err)
			}
		}
		got += len(recs)
	}
	if got != want || len(ra) != len(rb) {
		return fmt.Errorf("%s: %d records, not %d", a, got, want)
	}
	return nil
}

func readAll(ctx context.Context, brokers, topic string) (map[int32][]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	out := make(map[int32][]*kgo.Record)
	for left > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read %s: %w", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			out[r.Partition] = append(out[r.Partition], r)
			left--
		})
	}
	return out, nil
}

func same(a, b *kgo.Record) error {
	switch {
	case !bytes.Equal(a.Key, b.Key) || (a.Key == nil) != (b.Key == nil):
		return fmt.Errorf("keys %q and %q", a.Key, b.Key)
	case !bytes.Equal(a.Value, b.Value) || (a.Value == nil) != (b.Value == nil):
		return fmt.Errorf("values %q and %q", a.Value, b.Value)
	case !a.Timestamp.Equal(b.Timestamp):
		return fmt.Errorf("timestamps %s and %s", a.Timestamp, b.Timestamp)
	case !slices.EqualFunc(a.Headers, b.Headers, func(x, y kgo.RecordHeader) bool {
		return x.Key == y.Key && bytes.Equal(x.Value, y.Value) && (x.Value == nil) == (y.Value == nil)
	}):
		return fmt.Errorf("headers %v and %v", a.Headers, b.Headers)
	}
	return nil
}
