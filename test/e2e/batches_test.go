package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// TestBatches backs topics up as batches, restores them as batches and as records, and
// copies them without a store, through a filter too, all to the offsets that they had. What each has is compared
// with the source by a consumer, by Kafka's own console consumer and by kafka-dump-log.
func TestBatches(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	fails := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fails(seedMixed(ctx, "raw.mixed")) // each codec, two sizes
	end, err := seedTransactions(ctx, "raw.transactions")
	fails(err)
	defer end()
	fails(seedCompacted(ctx, "raw.compacted"))
	fails(seedBrokersTime(ctx, "raw.times"))
	topics := []string{"raw.mixed", "raw.transactions", "raw.compacted", "raw.times"}

	backup := filepath.Join(t.TempDir(), "backup")
	k := cluster.Bootstrap()
	run(t, "kbk-fetch -b "+k+" -t ^raw\\. --batches", "kbk-pack", "kbk-push "+backup)
	restore := "kbk-produce -b " + k + " --create-topics --offsets exact --prefix "
	run(t, "kbk-pull "+backup, "kbk-pack -d --batches", restore+"batches.")
	run(t, "kbk-pull "+backup, "kbk-pack -d", restore+"records.")
	run(t, "kbk-fetch -b "+k+" -t ^raw\\. --batches", restore+"copy.")
	run(t, "kbk-fetch -b "+k+" -t ^raw\\. --batches", "kbk-filter --topic ^raw --not-topic raw.none", restore+"routed.")
	run(t, "kbk-fetch -b "+k+" -t ^raw\\. --batches", "kbk-filter --since @0", restore+"looked-into.")
	run(t, "kbk-catalog verify --deep "+backup)

	codecs, err := dumpCodecs(ctx, cluster)
	fails(err)
	for _, topic := range topics {
		source, err := consume(ctx, topic)
		fails(err)
		for _, prefix := range []string{"batches.", "records.", "copy.", "routed.", "looked-into."} {
			target, err := consume(ctx, prefix+topic)
			fails(err)
			sameAtOffsets(t, topic, source, prefix+topic, target)
			if prefix != "records." && prefix != "looked-into." && topic != "raw.times" { // whose batches come as records
				for p := range source {
					for _, r := range source[p] {
						from, to := codecs[at{topic, p, r.Offset}], codecs[at{prefix + topic, p, r.Offset}]
						if from == "" || from != to && topic != "raw.compacted" {
							t.Fatalf("%s%s/%d: offset %d is compressed with %q, and was with %q", prefix, topic, p, r.Offset, to, from)
						}
					}
				}
			}
		}
	}
	want, err := cluster.Console(ctx, "raw.mixed", 0, kafkatest.PrintOffset)
	fails(err)
	got, err := cluster.Console(ctx, "batches.raw.mixed", 0, kafkatest.PrintOffset)
	fails(err)
	if !bytes.Equal(want, got) || len(want) == 0 {
		t.Errorf("Kafka's console consumer prints other records, %d and %d bytes", len(want), len(got))
	}
}

// sameAtOffsets wants two topics to have the same records at the same offsets. A time that
// a broker set is kept, as one that a producer set.
func sameAtOffsets(t *testing.T, name string, source map[int32][]*kgo.Record, other string, target map[int32][]*kgo.Record) {
	t.Helper()
	if len(source) != len(target) {
		t.Fatalf("%s has %d partitions, %s has %d", name, len(source), other, len(target))
	}
	for p := range source {
		if len(source[p]) != len(target[p]) {
			t.Fatalf("%s/%d has %d records, and %s has %d", name, p, len(source[p]), other, len(target[p]))
		}
		for i, x := range source[p] {
			y := target[p][i]
			if x.Offset != y.Offset || !equal(x, y) {
				t.Fatalf("%s/%d: offset %d is not offset %d of %s", name, p, x.Offset, y.Offset, other)
			}
		}
	}
}

// seedBrokersTime makes a topic whose broker sets the times.
func seedBrokersTime(ctx context.Context, topic string) error {
	cl, err := client(kgo.ProducerLinger(50 * time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := create(ctx, cl, topic, 1, map[string]string{"message.timestamp.type": "LogAppendTime"}); err != nil {
		return err
	}
	for range 3 {
		var recs []*kgo.Record
		for i := range 20 {
			recs = append(recs, &kgo.Record{Topic: topic, Value: fmt.Append(nil, "value ", i), Timestamp: time.UnixMilli(int64(i))})
		}
		if err := cl.ProduceSync(ctx, recs...).FirstErr(); err != nil {
			return err
		}
	}
	return nil
}

// at is a record of a topic.
type at struct {
	topic     string
	partition int32
	offset    int64
}

var (
	dumpedFile  = regexp.MustCompile(`^Dumping .*/([^/]+)-(\d+)/\d+\.log`)
	dumpedBatch = regexp.MustCompile(`^baseOffset: (\d+) lastOffset: (\d+) .*isControl: false .*compresscodec: (\w+) .*isvalid: (\w+)`)
)

// dumpCodecs returns what each record is compressed with in the topics whose names hold
// "raw.", as Kafka's own kafka-dump-log tells.
func dumpCodecs(ctx context.Context, c *kafkatest.Cluster) (map[at]string, error) {
	files, err := filepath.Glob(filepath.Join(c.Dir(), "broker-0", "data", "*raw.*-*", "*.log"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no logs in %s: %v", c.Dir(), err)
	}
	slices.Sort(files)
	out, err := c.Tool(ctx, "org.apache.kafka.tools.DumpLogSegments", "--deep-iteration", "--skip-record-metadata", "--files", strings.Join(files, ",")).Output()
	if err != nil {
		return nil, err
	}
	found := make(map[at]string)
	var file at
	for line := range strings.Lines(string(out)) {
		if m := dumpedFile.FindStringSubmatch(line); m != nil {
			file.topic = m[1]
			p, _ := strconv.Atoi(m[2])
			file.partition = int32(p)
		} else if m := dumpedBatch.FindStringSubmatch(line); m != nil {
			first, _ := strconv.ParseInt(m[1], 10, 64)
			last, _ := strconv.ParseInt(m[2], 10, 64)
			if m[4] != "true" {
				return nil, fmt.Errorf("kafka-dump-log says: %s", line)
			}
			for o := first; o <= last; o++ {
				found[at{file.topic, file.partition, o}] = m[3]
			}
		}
	}
	return found, nil
}
