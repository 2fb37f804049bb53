package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// dumpBatches lets Kafka's own kafka-dump-log read every record of a topic, and returns what
// it says. It fails where a batch is not valid, or offsets are not one behind the other.
func dumpBatches(t *testing.T, topic string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cluster.Dir(), "broker-0", "data", topic+"-[0-9]*", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no log of %s", topic)
	}
	slices.Sort(files)
	out, err := cluster.Tool(t.Context(), "org.apache.kafka.tools.DumpLogSegments", "--deep-iteration", "--files", strings.Join(files, ",")).Output()
	if err != nil {
		t.Fatalf("kafka-dump-log: %v\n%s", err, out)
	}
	valid := 0
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.HasPrefix(line, "baseOffset: ") && strings.Contains(line, "isvalid: true"):
			valid++
		case strings.HasPrefix(line, "baseOffset: "), strings.Contains(line, "Non-consecutive"):
			t.Errorf("%s: %s", topic, line)
		}
	}
	t.Logf("%s: %d batches are valid", topic, valid)
	return string(out)
}

// TestBatchesRewritten copies batches to topics that do not take them as they are, and those
// that Java's producer makes: its snappy has frames of its own.
func TestBatchesRewritten(t *testing.T) {
	ctx := t.Context()
	copied := func(topic, to, flags string, n int) {
		t.Helper()
		line := fmt.Sprintf("kbk-produce -b %s --create-topics --rename %s=%s %s", cluster.Bootstrap(), topic, to, flags)
		for range 2 { // the second time all is there
			run(t, fmt.Sprintf("kbk-fetch -b %s -t %s --batches", cluster.Bootstrap(), topic), line)
		}
		if err := same(ctx, topic, to, n); err != nil {
			t.Errorf("%s: %v", to, err)
		}
		dumpBatches(t, to)
	}
	if err := seedMixed(ctx, "rewritten-mixed"); err != nil {
		t.Fatal(err)
	}
	n, err := count(ctx, "rewritten-mixed")
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
	copied("rewritten-mixed", "rewritten-lz4", "--topic-config compression.type=lz4", n)
	copied("rewritten-mixed", "rewritten-small", "--topic-config max.message.bytes=3500000", n)
	for _, codec := range []string{"snappy", "zstd"} {
		topic := "rewritten-java-" + codec
		if err := seedRecords(ctx, topic, 1, 1, 1, 10); err != nil {
			t.Fatal(err)
		}
		out, err := cluster.Tool(ctx, "org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--num-records", "5000", "--record-size", "200", "--throughput", "-1",
			"--producer-props", "bootstrap.servers="+cluster.Bootstrap(), "compression.type="+codec, "batch.size=100000", "linger.ms=20").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		copied(topic, topic+"-copy", "", 5001)
	}
}

// forged writes a stream with one batch, whose third record says that it is the seventh.
func forged(t *testing.T, topic, codec string) (file string) {
	t.Helper()
	none, err := recordbatch.NewCompressor("none", 0)
	if err != nil {
		t.Fatal(err)
	}
	var b recordbatch.Builder
	for i := range 2000 {
		b.Append(&format.Record{Timestamp: 1_700_000_000_000, Value: somewhere(i, 100)})
	}
	raw, err := b.Build(nil, none)
	if err != nil {
		t.Fatal(err)
	}
	at := 61
	for range 2 {
		length, n := binary.Varint(raw[at:])
		at += n + int(length)
	}
	_, n := binary.Varint(raw[at:])
	raw[at+n+2] = 2 * 6 // behind attributes and time delta
	recordbatch.Stamp(raw, -1, -1, -1)
	if codec != "none" {
		c, err := recordbatch.NewCompressor(codec, 0)
		if err == nil {
			raw, err = c.Recompress(nil, raw)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return streamOf(t, topic, raw)
}

// streamOf writes a stream with one batch of a topic to a file.
func streamOf(t *testing.T, topic string, raw []byte) (file string) {
	t.Helper()
	whole, _, err := recordbatch.Cut(raw)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := format.NewWriter(&out)
	frame := whole.Frame(topic, 0)
	err = w.WriteHeader(&format.Header{Content: format.ContentBatches})
	for _, f := range []format.Encoder{&format.Topic{Name: topic, Partitions: 1, Configs: map[string]string{"retention.ms": "-1"}}, &frame} {
		if err == nil {
			err = w.Write(f)
		}
	}
	if err == nil {
		err = w.Close(&format.End{Records: frame.Records})
	}
	file = filepath.Join(t.TempDir(), topic)
	if err == nil {
		err = os.WriteFile(file, out.Bytes(), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestForgedBatches has streams whose batches lie about the offsets in them. What is not
// compressed is refused by kbk-produce, and what is by the broker. Nothing is in the log.
func TestForgedBatches(t *testing.T) {
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		topic := "forged-" + codec
		p := start(t, "cat "+forged(t, topic, codec), fmt.Sprintf("kbk-produce -b %s --create-topics --timeout 10s", cluster.Bootstrap()))
		status := p.wait()[1]
		n, err := count(context.WithoutCancel(t.Context()), topic)
		if err != nil {
			t.Fatal(err)
		}
		want, says := 3, "corrupt record in the batch at offset 0"
		if codec != "none" {
			want, says = 1, "kbk-produce: hint: the broker refuses a batch as it came"
		}
		if status != want || n != 0 || !strings.Contains(p.said(1), says) {
			t.Errorf("%s: status %d, %d records\n%s", codec, status, n, p)
		}
		dumpBatches(t, topic)
	}
}

// TestDeleteHorizon has a batch as a source's compaction leaves it where all are tombstones:
// with a time from which they may go (KIP-534). A target would keep that time, and drop them.
func TestDeleteHorizon(t *testing.T) {
	const horizon = 0x40 // of the low byte of the attributes; the base time is the horizon then
	none, err := recordbatch.NewCompressor("none", 0)
	if err != nil {
		t.Fatal(err)
	}
	var b recordbatch.Builder
	for i := range 100 {
		b.Append(&format.Record{Timestamp: 1_700_000_000_000, Key: fmt.Append(nil, i)})
	}
	raw, err := b.Build(nil, none)
	if err != nil {
		t.Fatal(err)
	}
	raw[22] |= horizon
	recordbatch.Stamp(raw, -1, -1, -1)
	run(t, "cat "+streamOf(t, "horizon", raw), fmt.Sprintf("kbk-produce -b %s --create-topics", cluster.Bootstrap()))
	if n, err := count(t.Context(), "horizon"); err != nil || n != 100 {
		t.Errorf("%d tombstones, %v", n, err)
	}
	if said := dumpBatches(t, "horizon"); strings.Contains(said, "deleteHorizonMs: OptionalLong[") || !strings.Contains(said, "deleteHorizonMs: OptionalLong.empty") {
		t.Errorf("kafka-dump-log says: %s", said)
	}
}

// TestBatchesToBrokersTime restores batches to a topic whose broker sets the times, and whose
// configs are left as they are: that is said, with its status.
func TestBatchesToBrokersTime(t *testing.T) {
	ctx := t.Context()
	if err := seedRecords(ctx, "timed", 1, 1, 50, 100); err != nil {
		t.Fatal(err)
	}
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := create(ctx, cl, "timed-by-broker", 1, map[string]string{"message.timestamp.type": "LogAppendTime"}); err != nil {
		t.Fatal(err)
	}
	p := start(t, fmt.Sprintf("kbk-fetch -b %s -t timed --batches", cluster.Bootstrap()),
		fmt.Sprintf("kbk-produce -b %s --keep-configs --rename timed=timed-by-broker", cluster.Bootstrap()))
	if status := p.wait(); status[1] != 4 || !strings.Contains(p.said(1), "the broker replaced timestamps of records between offsets 0 and 49") {
		t.Errorf("%d\n%s", status, p)
	}
}
