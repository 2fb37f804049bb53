package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/test/need"
)

// patience is how long a test waits for what is to come.
var patience = 2 * time.Minute

func init() {
	if os.Getenv("GORACE") != "" { // make test-race: the commands take several times as long
		patience *= 4
	}
}

func client(opts ...kgo.Opt) (*kgo.Client, error) { return connect(cluster.Bootstrap(), opts...) }

func connect(brokers string, opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(opts,
		kgo.SeedBrokers(strings.Split(brokers, ",")...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(50*time.Millisecond), // tests wait for topics to come and go
		kgo.UnknownTopicRetries(-1),             // a broker may answer for a topic a while after it is created
		kgo.TransactionTimeout(10*time.Minute),  // what a test leaves open stays open for as long as it runs
	)...)
}

// cmdSeed makes a topic with records of one kind.
func cmdSeed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || (len(args) == 3) != (args[0] == "records") || len(args) > 3 {
		ts.Fatalf("usage: seed mixed|transactions|compacted TOPIC, seed records TOPIC N")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch kind, topic := args[0], args[1]; kind {
	case "mixed":
		check(ts, seedMixed(ctx, topic))
	case "transactions":
		end, err := seedTransactions(ctx, topic)
		check(ts, err)
		ts.Defer(end)
	case "compacted":
		check(ts, seedCompacted(ctx, topic))
	case "records": // N records in each of two partitions, and none in a third
		n, err := strconv.Atoi(args[2])
		check(ts, err)
		check(ts, seedRecords(ctx, topic, 3, 2, n, 100))
	default:
		ts.Fatalf("seed %s?", kind)
	}
}

func create(ctx context.Context, cl *kgo.Client, topic string, partitions int32, configs map[string]string) error {
	c := make(map[string]*string)
	for k, v := range configs {
		c[k] = &v
	}
	_, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, c, topic)
	return err
}

// seedRecords produces to a topic, which it creates where it is not there: n records of
// size bytes or a little more to each of the first filled partitions.
func seedRecords(ctx context.Context, topic string, partitions, filled int32, n, size int) error {
	cl, err := client()
	if err != nil {
		return err
	}
	defer cl.Close()
	// It may exist: then there are more records.
	if err := create(ctx, cl, topic, partitions, nil); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return err
	}
	return fill(ctx, cluster.Bootstrap(), topic, filled, n, size)
}

// fill is the part of seedRecords that produces. A broker sends what it has; so that
// many records are not read at once, neither the batches nor what is in them is
// compressed to much less.
func fill(ctx context.Context, brokers, topic string, filled int32, n, size int) error {
	cl, err := connect(brokers, kgo.MaxBufferedRecords(1<<15), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return err
	}
	defer cl.Close()
	var failed error
	for i := range n {
		for p := range filled {
			v := append(fmt.Appendf(nil, "%s/%d record %d ", topic, p, i), somewhere(i*int(filled)+int(p), size)...)
			cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: p, Key: strconv.AppendInt(nil, int64(i), 10), Value: v}, func(_ *kgo.Record, err error) {
				failed = errors.Join(failed, err)
			})
		}
	}
	return errors.Join(cl.Flush(ctx), failed)
}

// noise is letters and digits without a pattern, the same in every run.
var noise = func() []byte {
	b := make([]byte, 8<<20)
	for i, x := 0, uint32(1); i < len(b); i++ {
		x = x*1664525 + 1013904223
		b[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"[x>>26]
	}
	return b
}()

// somewhere returns the i-th piece of noise of so many bytes, which comes again, if at
// all, too late for a compressor.
func somewhere(i, size int) []byte {
	at := i * size % (len(noise) - size)
	return noise[at : at+size]
}

// codecs are what a batch can be compressed with, by their number in its attributes
// (CompressionType).
var codecs = []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}

// seedMixed produces what is hard to keep: null, empty and large keys and values,
// tombstones, headers that repeat, are null, or have no UTF-8 name, timestamps out of
// order, also within a batch, and batches of every codec.
func seedMixed(ctx context.Context, topic string) error {
	return seedMixedIn(ctx, cluster.Bootstrap(), topic)
}

func seedMixedIn(ctx context.Context, brokers, topic string) error {
	large := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB, which compresses well
	for i, codec := range codecs {
		cl, err := connect(brokers, kgo.ProducerBatchCompression(codec), kgo.ProducerBatchMaxBytes(8<<20), kgo.ProducerLinger(100*time.Millisecond))
		if err != nil {
			return err
		}
		defer cl.Close()
		if i == 0 {
			configs := map[string]string{"max.message.bytes": "8388608", "retention.ms": "-1", "min.insync.replicas": "1"}
			if err := create(ctx, cl, topic, 3, configs); err != nil {
				return err
			}
		}
		at := func(ms int64) time.Time { return time.UnixMilli(1_700_000_000_000 + ms) }
		for p := range int32(2) { // the third partition stays empty
			batch := []*kgo.Record{
				{Key: []byte("key"), Value: []byte("value"), Timestamp: at(5000)},
				{Value: []byte("no key"), Timestamp: at(1000)},
				{Key: []byte{}, Value: []byte("empty key"), Timestamp: at(9000)},
				{Key: []byte("tombstone"), Timestamp: time.UnixMilli(0)},
				{Key: []byte("empty value"), Value: []byte{}, Timestamp: at(8000)},
				{Timestamp: at(7000)},
				{Key: []byte("headers"), Value: []byte("v"), Timestamp: at(6000), Headers: []kgo.RecordHeader{
					{Key: "b", Value: []byte("1")}, {Key: "a", Value: nil}, {Key: "b", Value: []byte("2")}, {Key: "b", Value: []byte("1")}, {Key: "e", Value: []byte{}}, {Key: "", Value: []byte("nameless")},
				}},
				{Key: []byte("not utf-8"), Value: []byte{0xff, 0xfe, 0x00, 0x80}, Timestamp: at(1), Headers: []kgo.RecordHeader{{Key: "\xff\xfe", Value: []byte("x")}}},
				{Key: []byte("large"), Value: large, Timestamp: at(2)},
			}
			alone := []*kgo.Record{
				{Key: noise[:1<<20], Value: noise[:2<<20], Timestamp: at(3)},
				{Key: []byte("last"), Value: fmt.Appendf(nil, "codec %d", i), Timestamp: at(int64(i))},
			}
			for _, r := range append(batch, alone...) {
				r.Topic, r.Partition = topic, p
			}
			if err := cl.ProduceSync(ctx, batch...).FirstErr(); err != nil {
				return fmt.Errorf("a batch of codec %d: %w", i, err)
			}
			for _, r := range alone {
				if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
					return fmt.Errorf("a record of codec %d: %w", i, err)
				}
			}
		}
	}
	return nil
}

// TestMixedIsMixed makes sure of what seedMixed is to be: a client is free to send a
// batch uncompressed.
func TestMixedIsMixed(t *testing.T) {
	if err := seedMixed(t.Context(), "is-mixed"); err != nil {
		t.Fatal(err)
	}
	parts, err := consume(t.Context(), "is-mixed")
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(2) {
		compressed := make(map[uint8]int)
		backwards := 0
		for i, r := range parts[p] {
			compressed[r.Attrs.CompressionType()]++
			if i > 0 && r.Timestamp.Before(parts[p][i-1].Timestamp) {
				backwards++
			}
		}
		for codec := range codecs {
			if n := compressed[uint8(codec)]; n < 9 {
				t.Errorf("partition %d: only %d records are in batches of codec %d", p, n, codec)
			}
		}
		if backwards < 10 {
			t.Errorf("partition %d: only %d timestamps are before that of the record before", p, backwards)
		}
	}
	if len(parts[2]) > 0 {
		t.Errorf("the empty partition holds %d records", len(parts[2]))
	}
}

// seedTransactions leaves committed, aborted and one open transaction behind. What it
// returns ends the open one.
func seedTransactions(ctx context.Context, topic string) (end func(), err error) {
	cl, err := client(kgo.TransactionalID(topic))
	if err != nil {
		return nil, err
	}
	if err := create(ctx, cl, topic, 2, nil); err != nil {
		return nil, err
	}
	for i := range 7 {
		if err := cl.BeginTransaction(); err != nil {
			return nil, err
		}
		what := kgo.TryCommit
		if i%2 == 1 {
			what = kgo.TryAbort
		}
		for n := range 10 {
			for p := range int32(2) {
				if p == 1 && i == 6 {
					continue // nothing of partition 1 stays open
				}
				v := fmt.Appendf(nil, "transaction %d, commit %v, record %d", i, what, n)
				if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: p, Value: v}).FirstErr(); err != nil {
					return nil, err
				}
			}
		}
		if i < 6 {
			if err := cl.EndTransaction(ctx, what); err != nil {
				return nil, err
			}
		}
	}
	return func() {
		_ = cl.EndTransaction(context.Background(), kgo.TryAbort)
		cl.Close()
	}, nil
}

// seedCompacted waits until the cleaner has made gaps, its last offsets included.
func seedCompacted(ctx context.Context, topic string) error {
	cl, err := client()
	if err != nil {
		return err
	}
	defer cl.Close()
	err = create(ctx, cl, topic, 1, map[string]string{
		"cleanup.policy": "compact", "segment.ms": "200", "min.cleanable.dirty.ratio": "0.01",
		"delete.retention.ms": "0", "min.compaction.lag.ms": "0", "max.compaction.lag.ms": "200",
	})
	if err != nil {
		return err
	}
	produce := func(key string, value []byte) error {
		return cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: value}).FirstErr()
	}
	for i := range 300 {
		key := fmt.Sprint("key ", i%20)
		if i%7 == 0 { // one that stays, with gaps around it
			key = fmt.Sprint("unique ", i)
		}
		if err := produce(key, fmt.Appendf(nil, "value %d", i)); err != nil {
			return err
		}
	}
	for range 600 {
		left, err := count(ctx, topic)
		if err != nil {
			return err
		}
		if left < 100 {
			// What is compared later must not change meanwhile.
			adm := kadm.NewClient(cl)
			_, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{
				{Name: "cleanup.policy", Value: kadm.StringPtr("delete")}, {Name: "retention.ms", Value: kadm.StringPtr("-1")},
			}, topic)
			return err
		}
		// A segment is only rolled, and then cleaned, when more comes.
		time.Sleep(250 * time.Millisecond)
		if err := produce("tick", nil); err != nil {
			return err
		}
	}
	return errors.New("the cleaner did not come")
}

// count is how many records of a topic a consumer sees.
func count(ctx context.Context, topic string) (int, error) {
	parts, err := consume(ctx, topic)
	n := 0
	for _, recs := range parts {
		n += len(recs)
	}
	return n, err
}

// consume reads a topic's committed records with franz-go's consumer.
func consume(ctx context.Context, topic string) (map[int32][]*kgo.Record, error) {
	return consumeFrom(ctx, cluster.Bootstrap(), topic)
}

func consumeFrom(ctx context.Context, brokers, topic string) (map[int32][]*kgo.Record, error) {
	cl, err := connect(brokers, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ends, err := adm.ListCommittedOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	open := make(map[int32]bool)
	out := make(map[int32][]*kgo.Record)
	ends.Each(func(o kadm.ListedOffset) {
		out[o.Partition] = nil
		if start, _ := starts.Lookup(topic, o.Partition); start.Offset < o.Offset {
			open[o.Partition] = true
		}
	})
	for len(open) > 0 {
		// Where compaction took the last records, none tells that the end is reached.
		quiet, cancel := context.WithTimeout(ctx, 3*time.Second)
		fetches := cl.PollFetches(quiet)
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if quiet.Err() != nil && fetches.NumRecords() == 0 {
			return out, nil
		}
		if err := fetches.Err(); err != nil && quiet.Err() == nil {
			return nil, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, _ := ends.Lookup(topic, r.Partition)
			if r.Offset < end.Offset && !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], r)
			}
			if r.Offset+1 >= end.Offset {
				delete(open, r.Partition)
			}
		})
	}
	return out, nil
}

// cmdSame compares two topics: record by record as franz-go's consumer has them, and
// byte by byte as Kafka's own console consumer prints them.
func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 3, "same TOPIC TOPIC COUNT|some")
	cmdEqual(ts, neg, args)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := consume(ctx, args[0])
	check(ts, err)
	for p := range a {
		x, err := cluster.Console(ctx, args[0], int(p))
		check(ts, err)
		y, err := cluster.Console(ctx, args[1], int(p))
		check(ts, err)
		if !bytes.Equal(x, y) || len(a[p]) > 0 && len(x) == 0 {
			ts.Fatalf("Kafka's console consumer prints %s/%d and %s/%d differently, %d and %d bytes", args[0], p, args[1], p, len(x), len(y))
		}
	}
}

// cmdEqual compares the records of two topics by franz-go alone: Kafka's own consumer takes
// seconds for each partition.
func cmdEqual(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 3, "equal TOPIC TOPIC COUNT|some")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n := recordsWanted(ctx, ts, args[0], args[2])
	if n == 0 {
		ts.Fatalf("%s has no record to compare", args[0])
	}
	check(ts, same(ctx, args[0], args[1], n))
}

// recordsWanted is how many records a topic is to have: as many as arg says, or those that it
// has, where that is "some".
func recordsWanted(ctx context.Context, ts *testscript.TestScript, topic, arg string) int {
	if arg != "some" {
		n, err := strconv.Atoi(arg)
		check(ts, err)
		return n
	}
	n, err := count(ctx, topic)
	check(ts, err)
	return n
}

// same compares two topics' committed records, all but their offsets. The source has
// n of them.
func same(ctx context.Context, source, target string, n int) error {
	found, err := begins(ctx, source, target, n)
	if err == nil && found != n {
		err = fmt.Errorf("%s has %d records, %s has %d", source, n, target, found)
	}
	return err
}

// begins wants each partition of target to begin like that of source, which has n
// records, as far as it goes. It returns how many records target has.
func begins(ctx context.Context, source, target string, n int) (found int, err error) {
	a, err := consume(ctx, source)
	if err != nil {
		return 0, err
	}
	b, err := consume(ctx, target)
	if err != nil {
		return 0, err
	}
	if len(a) != len(b) {
		return 0, fmt.Errorf("%s has %d partitions, %s has %d", source, len(a), target, len(b))
	}
	total := 0
	for p := range a {
		total += len(a[p])
		found += len(b[p])
		if len(a[p]) < len(b[p]) {
			return 0, fmt.Errorf("%s/%d has %d records, %s/%d has %d", source, p, len(a[p]), target, p, len(b[p]))
		}
		for i, y := range b[p] {
			if x := a[p][i]; !equal(x, y) {
				return 0, fmt.Errorf("record %d of partition %d: offset %d of %s is not offset %d of %s", i, p, x.Offset, source, y.Offset, target)
			}
		}
	}
	if total != n {
		return 0, fmt.Errorf("%s has %d records, not %d", source, total, n)
	}
	return found, nil
}

func equal(a, b *kgo.Record) bool {
	exact := func(x, y []byte) bool { return bytes.Equal(x, y) && (x == nil) == (y == nil) }
	return exact(a.Key, b.Key) && exact(a.Value, b.Value) && a.Timestamp.Equal(b.Timestamp) &&
		slices.EqualFunc(a.Headers, b.Headers, func(x, y kgo.RecordHeader) bool { return x.Key == y.Key && exact(x.Value, y.Value) })
}

// cmdFrames prints the frames of a stream, records counted and not printed.
func cmdFrames(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 1, "frames FILE")
	f, err := os.Open(ts.MkAbs(args[0]))
	check(ts, err)
	defer f.Close()
	r := format.NewReader(f, 0)
	records := make(map[string]int)
	for {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		check(ts, err)
		switch f.Kind {
		case format.KindRec:
			records[fmt.Sprintf("%s/%d", f.Topic, f.Partition)]++
		case format.KindTopic:
			m, err := format.DecodeTopic(f.Raw)
			check(ts, err)
			fmt.Fprintf(ts.Stdout(), "topic %s partitions %d\n", m.Name, m.Partitions)
		case format.KindMark:
			m, err := format.DecodeMark(f.Raw)
			check(ts, err)
			fmt.Fprintf(ts.Stdout(), "mark %s/%d %d lost %d\n", m.Topic, m.Partition, m.Next, m.Lost)
		case format.KindMap:
			m, err := format.DecodeMap(f.Raw)
			check(ts, err)
			fmt.Fprintf(ts.Stdout(), "map %s/%d %d %s/%d %d %d\n", m.Topic, m.Partition, m.SourceFirst, m.TargetTopic, m.TargetPartition, m.TargetFirst, m.Count)
		default:
			fmt.Fprintf(ts.Stdout(), "%s\n", f.Name)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(records)) {
		fmt.Fprintf(ts.Stdout(), "%d records of %s\n", records[k], k)
	}
}

// cmdConfig prints what was set on a topic, and its partitions.
func cmdConfig(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 1, "config TOPIC")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := client()
	check(ts, err)
	defer cl.Close()
	adm := kadm.NewClient(cl)
	meta, err := adm.Metadata(ctx, args[0])
	check(ts, err)
	t := meta.Topics[args[0]]
	check(ts, t.Err)
	fmt.Fprintf(ts.Stdout(), "partitions=%d\nreplicas=%d\n", len(t.Partitions), t.Partitions.NumReplicas())
	all, err := adm.DescribeTopicConfigs(ctx, args[0])
	check(ts, err)
	slices.SortFunc(all[0].Configs, func(a, b kadm.Config) int { return strings.Compare(a.Key, b.Key) })
	for _, c := range all[0].Configs {
		if c.Source.String() == "DYNAMIC_TOPIC_CONFIG" {
			fmt.Fprintf(ts.Stdout(), "%s=%s\n", c.Key, c.MaybeValue())
		}
	}
}

// cmdCursor writes a cursor file for a topic: cursor FILE TOPIC ID P=NEXT…, the id
// "is" being the topic's own.
func cmdCursor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: cursor FILE TOPIC is|ID P=NEXT…")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := client()
	check(ts, err)
	defer cl.Close()
	meta, err := kadm.NewClient(cl).Metadata(ctx, args[1])
	check(ts, err)
	t := cursor.Topic{ID: args[2], Partitions: make(map[int32]int64)}
	if t.ID == "is" {
		t.ID = kafka.FormatTopicID(meta.Topics[args[1]].ID)
	}
	for _, a := range args[3:] {
		var p int32
		var next int64
		_, err := fmt.Sscanf(a, "%d=%d", &p, &next)
		check(ts, err)
		t.Partitions[p] = next
	}
	b, err := json.Marshal(cursor.Cursor{Version: cursor.Version, Topics: map[string]cursor.Topic{args[1]: t}})
	check(ts, err)
	check(ts, os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

// cmdDelete deletes the records of partition 0 below an offset, or a whole topic.
func cmdDelete(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 2, "delete TOPIC BELOW|all")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := client()
	check(ts, err)
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if args[1] == "all" {
		_, err := adm.DeleteTopic(ctx, args[0])
		check(ts, err)
		return
	}
	below, err := strconv.ParseInt(args[1], 10, 64)
	check(ts, err)
	resp, err := adm.DeleteRecords(ctx, kadm.Offsets{args[0]: {0: {Topic: args[0], At: below}}})
	if err == nil {
		err = resp.Error()
	}
	check(ts, err)
}

// cmdUnzstd decompresses a file with zstd, as a person would. Where that is not
// installed, it says so and uses the library that kbk itself is built on.
func cmdUnzstd(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 2, "unzstd GLOB FILE")
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	check(ts, err)
	if len(files) != 1 {
		ts.Fatalf("%d files are like %s", len(files), args[0])
	}
	if need.Have("zstd") {
		check(ts, ts.Exec("zstd", "-d", "-q", "-o", ts.MkAbs(args[1]), files[0]))
		return
	}
	ts.Logf("zstd is not on the PATH: decompressed with a Go library instead of the public tool")
	in, err := os.Open(files[0])
	check(ts, err)
	defer in.Close()
	d, err := zstd.NewReader(in)
	check(ts, err)
	defer d.Close()
	out, err := os.Create(ts.MkAbs(args[1]))
	check(ts, err)
	_, err = io.Copy(out, d)
	check(ts, errors.Join(err, out.Close()))
}

// TestSeedsDiffer makes sure that the comparison can fail.
func TestSeedsDiffer(t *testing.T) {
	if err := seedRecords(t.Context(), "differ-a", 3, 2, 10, 100); err != nil {
		t.Fatal(err)
	}
	if err := seedRecords(t.Context(), "differ-b", 3, 2, 10, 100); err != nil {
		t.Fatal(err)
	}
	if err := same(t.Context(), "differ-a", "differ-b", 20); err == nil {
		t.Error("records that differ were taken as the same")
	}
	if err := same(t.Context(), "differ-a", "differ-a", 20); err != nil {
		t.Error(err)
	}
	if err := seedRecords(t.Context(), "differ-a", 3, 2, 1, 100); err != nil {
		t.Fatal(err)
	}
	if err := same(t.Context(), "differ-a", "differ-a", 20); err == nil {
		t.Error("22 records were taken as 20")
	}
}
