package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// cmdTopic creates a topic, or gives one that exists configs.
func cmdTopic(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: topic NAME PARTITIONS KEY=VALUE…")
	}
	n, err := strconv.Atoi(args[1])
	check(ts, err)
	configs := make(map[string]string)
	var alter []kadm.AlterConfig
	for _, a := range args[2:] {
		k, v, _ := strings.Cut(a, "=")
		configs[k] = v
		alter = append(alter, kadm.AlterConfig{Name: k, Value: &v})
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := client()
	check(ts, err)
	defer cl.Close()
	err = create(ctx, cl, args[0], int32(n), configs)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		var resps kadm.AlterConfigsResponses
		if resps, err = kadm.NewClient(cl).AlterTopicConfigs(ctx, alter, args[0]); err == nil {
			err = resps[0].Err
		}
	}
	check(ts, err)
}

// cmdBounds prints where the logs of a topic's partitions start and end.
func cmdBounds(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 1, "bounds TOPIC")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	at, err := boundsOf(ctx, cluster.Bootstrap(), args[0])
	check(ts, err)
	for p, b := range at {
		fmt.Fprintf(ts.Stdout(), "%s/%d %d to %d, stable %d\n", args[0], p, b[0], b[1], b[2])
	}
}

// boundsOf returns, by partition, where a topic's logs start and end, and the last
// stable offset.
func boundsOf(ctx context.Context, brokers, topic string) ([][3]int64, error) {
	cl, err := connect(brokers)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var listed [3]kadm.ListedOffsets
	for i, list := range []func(context.Context, ...string) (kadm.ListedOffsets, error){adm.ListStartOffsets, adm.ListEndOffsets, adm.ListCommittedOffsets} {
		if listed[i], err = list(ctx, topic); err != nil {
			return nil, err
		}
		if err := listed[i].Error(); err != nil {
			return nil, err
		}
	}
	out := make([][3]int64, len(listed[0][topic]))
	for p := range out {
		for i := range listed {
			out[p][i] = listed[i][topic][int32(p)].Offset
		}
	}
	return out, nil
}

// cmdExact is same, for records that are to have kept their offsets: in franz-go's
// consumer and in Kafka's own, with read_committed, and to the log's ends.
func cmdExact(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 3, "exact SOURCE TARGET COUNT|some")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n := recordsWanted(ctx, ts, args[0], args[2])
	check(ts, exactly(ctx, args[0], args[1], n))
	a, err := boundsOf(ctx, cluster.Bootstrap(), args[0])
	check(ts, err)
	for p := range a {
		x, err := cluster.Console(ctx, args[0], p, kafkatest.PrintOffset)
		check(ts, err)
		y, err := cluster.Console(ctx, args[1], p, kafkatest.PrintOffset)
		check(ts, err)
		if !bytes.Equal(x, y) {
			ts.Fatalf("Kafka's console consumer prints %s/%d and %s/%d differently, %d and %d bytes", args[0], p, args[1], p, len(x), len(y))
		}
	}
}

// exactly compares two topics' committed records, their offsets and the stable ends of
// their logs. The source has n records.
func exactly(ctx context.Context, source, target string, n int) error {
	if err := same(ctx, source, target, n); err != nil {
		return err
	}
	a, err := consume(ctx, source)
	if err != nil {
		return err
	}
	b, err := consume(ctx, target)
	if err != nil {
		return err
	}
	for p := range a {
		for i, x := range a[p] {
			if y := b[p][i]; x.Offset != y.Offset {
				return fmt.Errorf("record %d of partition %d has offset %d in %s and %d in %s", i, p, x.Offset, source, y.Offset, target)
			}
		}
	}
	was, err := boundsOf(ctx, cluster.Bootstrap(), source)
	if err != nil {
		return err
	}
	is, err := boundsOf(ctx, cluster.Bootstrap(), target)
	if err != nil {
		return err
	}
	for p := range was {
		// An open transaction of the source is beyond what was read.
		if is[p][0] != was[p][0] || is[p][1] != was[p][2] || is[p][2] != was[p][2] {
			return fmt.Errorf("partition %d: the log of %s goes from %d to %d, that of %s from %d to %d, stable to %d", p, source, was[p][0], was[p][2], target, is[p][0], is[p][1], is[p][2])
		}
	}
	return nil
}

// cmdHeader prints the headers of a partition's first record, one a line.
func cmdHeader(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 2, "header TOPIC PARTITION")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := strconv.Atoi(args[1])
	check(ts, err)
	parts, err := consume(ctx, args[0])
	check(ts, err)
	if len(parts[int32(p)]) == 0 {
		ts.Fatalf("%s/%d is empty", args[0], p)
	}
	for _, h := range parts[int32(p)][0].Headers {
		fmt.Fprintf(ts.Stdout(), "%s=%s\n", h.Key, h.Value)
	}
}

// keyed produces n records with a few keys, and some without one, to one partition.
func keyed(ctx context.Context, topic string, n int) error {
	cl, err := client()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := create(ctx, cl, topic, 1, nil); err != nil {
		return err
	}
	for i := range n {
		r := &kgo.Record{Topic: topic, Value: append(fmt.Appendf(nil, "record %d ", i), somewhere(i, 300)...)}
		if i%3 > 0 {
			r.Key = fmt.Appendf(nil, "key %d", i%50)
		}
		cl.Produce(ctx, r, nil)
	}
	return cl.Flush(ctx)
}

// A restoreOf is a way to restore that resumes after a kill.
type restoreOf struct {
	name    string
	flags   string
	source  string
	records int
	exact   bool
}

// TestResume kills restores with SIGKILL at random moments, fifty times in all, and the
// broker too, in between. The same line again and again must come to an end that
// has every record once.
func TestResume(t *testing.T) {
	const each, filled = 6000, 3
	if err := seedRecords(t.Context(), "resume", filled+1, filled, each, 300); err != nil {
		t.Fatal(err)
	}
	if err := keyed(t.Context(), "resume-keys", 3*each); err != nil {
		t.Fatal(err)
	}
	end, err := seedMany(t.Context(), "resume-gaps", each/10, 10)
	if err != nil {
		t.Fatal(err)
	}
	// A broker that is killed forgets what was deleted a moment ago, and must be told
	// again: the target's is kbk-produce's business, the source's is not.
	forget := func() { deleteBelow(t, "resume-gaps", 0, end/3) }
	forget()
	kept, err := count(t.Context(), "resume-gaps")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []restoreOf{
		{"plain", "", "resume", filled * each, false},
		{"headers", "--offset-headers", "resume", filled * each, false},
		{"murmur2", "--partitioner murmur2 --partitions 5", "resume-keys", 3 * each, false},
		{"exact", "--offsets exact", "resume-gaps", kept, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			forget()
			backup := filepath.Join(t.TempDir(), "backup")
			run(t, fmt.Sprintf("kbk-fetch -b %s -t %s", cluster.Bootstrap(), r.source), "kbk-pack --segment-size 64KiB --memory 16MiB", "kbk-push "+backup)
			target := r.source + "-" + r.name
			line := func(rate int) []string {
				return []string{
					"kbk-pull --transfers 1 " + backup, slowStage(rate, ""), "kbk-pack -d --memory 16MiB",
					fmt.Sprintf("kbk-produce -b %s --create-topics --memory 1MiB --rename %s=%s %s", cluster.Bootstrap(), r.source, target, r.flags),
				}
			}
			for killed, tries := 0, 0; killed < 13; tries++ {
				p := start(t, line(3<<20)...)
				if tries == 0 { // the broker goes, too, and the run waits for it
					p.untilProduced(target, 1)
					if err := cluster.KillBroker(0); err != nil {
						t.Fatal(err)
					}
					if err := cluster.StartBroker(t.Context(), 0); err != nil {
						t.Fatal(err)
					}
					forget()
				}
				// At what it does first, at the records, and at what it does last.
				wait := time.Duration(rand.IntN(1800)) * time.Millisecond
				select {
				case <-p.stages[last].done: // it was quicker; the next has nothing to do
				case <-time.After(wait):
					_ = p.stages[last].Process.Kill()
				}
				if status := p.wait(); status[last] == 128+9 {
					killed++
				} else if status[last] != 0 || tries > 60 {
					t.Fatalf("%d\n%s", status, p)
				}
			}
			whole := run(t, line(100<<20)...)
			if r.exact {
				if err := exactly(t.Context(), r.source, target, r.records); err != nil {
					t.Error(err)
				}
			} else if err := once(t.Context(), r.source, target, r.records, r.flags != ""); err != nil {
				t.Error(err)
			}
			if mapped, err := countMap(whole.output); mapped != int64(r.records) || err != nil {
				t.Errorf("the map has %d records, %v\n%s", mapped, err, whole)
			}
			if configs, err := ownConfigs(t.Context(), target); err != nil || len(configs) > 0 {
				t.Errorf("configs are left on the topic: %v, %v", configs, err)
			}
		})
	}
}

// once wants every record of source in target, once. Where the partitions are others,
// the records of a key must have their order.
func once(ctx context.Context, source, target string, n int, changed bool) error {
	if !changed {
		return same(ctx, source, target, n)
	}
	a, err := consume(ctx, source)
	if err != nil {
		return err
	}
	b, err := consume(ctx, target)
	if err != nil {
		return err
	}
	values := func(parts map[int32][]*kgo.Record) (all map[string]int, keys map[string][]string, n int) {
		all, keys = make(map[string]int), make(map[string][]string)
		for _, recs := range parts {
			for _, r := range recs {
				all[string(r.Value)]++
				if r.Key != nil {
					keys[string(r.Key)] = append(keys[string(r.Key)], string(r.Value))
				}
				n++
			}
		}
		return all, keys, n
	}
	has, order, total := values(a)
	got, after, restored := values(b)
	if total != n || restored != n {
		return fmt.Errorf("%s has %d records and %s %d, not %d", source, total, target, restored, n)
	}
	if !maps.Equal(has, got) {
		return fmt.Errorf("%s has other records than %s", target, source)
	}
	if len(a) == 1 && !maps.EqualFunc(order, after, slices.Equal[[]string]) {
		return fmt.Errorf("%s has the records of a key in another order than %s", target, source)
	}
	return nil
}

// seedMany commits transactions of some records each, to one partition, and returns
// where its log ends.
func seedMany(ctx context.Context, topic string, transactions, each int) (end int64, err error) {
	cl, err := client(kgo.TransactionalID(topic))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	if err := create(ctx, cl, topic, 1, nil); err != nil {
		return 0, err
	}
	for i := range transactions {
		if err := cl.BeginTransaction(); err != nil {
			return 0, err
		}
		for n := range each {
			cl.Produce(ctx, &kgo.Record{Topic: topic, Value: append(fmt.Appendf(nil, "transaction %d, record %d ", i, n), somewhere(i*each+n, 900)...)}, nil)
		}
		if err := cl.Flush(ctx); err != nil {
			return 0, err
		}
		if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
			return 0, err
		}
	}
	at, err := boundsOf(ctx, cluster.Bootstrap(), topic)
	if err != nil {
		return 0, err
	}
	return at[0][1], nil
}

func deleteBelow(t *testing.T, topic string, num int32, below int64) {
	t.Helper()
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topic, Partition: num, At: below})
	resps, err := kadm.NewClient(cl).DeleteRecords(t.Context(), offsets)
	if err == nil {
		err = resps.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ownConfigs are the configs set on a topic.
func ownConfigs(ctx context.Context, topic string) (map[string]string, error) {
	cl, err := client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	all, err := kadm.NewClient(cl).DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	for _, c := range all[0].Configs {
		if c.Source == kmsg.ConfigSourceDynamicTopicConfig {
			out[c.Key] = c.MaybeValue()
		}
	}
	return out, all[0].Err
}

// TestHeldConfigs looks at the configs of a topic while records are restored to it: when
// the run is killed, at the end of the next, and after a Ctrl-C.
func TestHeldConfigs(t *testing.T) {
	if err := seedRecords(t.Context(), "holds", 1, 1, 20_000, 500); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	run(t, fmt.Sprintf("kbk-fetch -b %s -t holds", cluster.Bootstrap()), "kbk-pack --segment-size 256KiB --memory 16MiB", "kbk-push "+backup)
	was := map[string]string{
		"retention.ms": "315360000000", "retention.bytes": "1000000000", "cleanup.policy": "compact,delete",
		"message.timestamp.type": "LogAppendTime", "message.timestamp.after.max.ms": "1000", "min.insync.replicas": "1",
	}
	during := map[string]string{
		"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete",
		"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": "9223372036854775807", "min.insync.replicas": "1",
	}
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	begin := func(target string) *pipeline {
		line := restoreLine("holds", backup, target)
		line[slowly] = slowStage(3<<20, "")
		p := start(t, line...)
		p.untilProduced(target, 100)
		return p
	}
	want := func(topic string, want map[string]string) {
		t.Helper()
		if got, err := ownConfigs(t.Context(), topic); err != nil || !maps.Equal(got, want) {
			t.Errorf("%s has %v, %v, not %v", topic, got, err, want)
		}
	}
	for _, topic := range []string{"held-killed", "held-stopped"} {
		if err := create(t.Context(), cl, topic, 1, was); err != nil {
			t.Fatal(err)
		}
		p := begin(topic)
		want(topic, during)
		if topic == "held-stopped" {
			p.interrupted()
			want(topic, was)
			continue
		}
		p.kill(last)
		want(topic, during)
		whole := run(t, restoreLine("holds", backup, topic)...)
		if !strings.Contains(whole.said(last), " were already") {
			t.Errorf("nothing was resumed:\n%s", whole)
		}
		want(topic, was)
		if err := same(t.Context(), "holds", topic, 20_000); err != nil {
			t.Error(err)
		}
	}
	groups, err := kadm.NewClient(cl).FetchOffsets(t.Context(), "kbk-produce")
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		t.Fatal(err)
	}
	if len(groups) > 0 {
		t.Errorf("the group has kept %v", groups)
	}
}

// TestExactReplicas restores exact offsets to three brokers, of which the leader is killed
// on the way. All replicas must hold the same, markers included, by Kafka's own tools.
func TestExactReplicas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	three, err := kafkatest.Start(t.Context(), kafkatest.Options{Brokers: 3, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := three.Close(); err != nil {
			t.Error(err)
		}
	})
	const topic = "replicas"
	end, err := seedMany(t.Context(), topic, 800, 10)
	if err != nil {
		t.Fatal(err)
	}
	deleteBelow(t, topic, 0, 123)
	stream := filepath.Join(t.TempDir(), "replicas.kbk")
	run(t, fmt.Sprintf("kbk-fetch -b %s -t %s", cluster.Bootstrap(), topic), slowStage(100<<20, stream))
	leader := func() int {
		cl, err := connect(three.Bootstrap())
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		meta, err := kadm.NewClient(cl).Metadata(t.Context(), topic)
		if err != nil || len(meta.Topics[topic].Partitions) == 0 {
			return -1
		}
		return int(meta.Topics[topic].Partitions[0].Leader)
	}
	p := start(t, "cat "+stream, slowStage(1<<20, ""),
		fmt.Sprintf("kbk-produce -b %s --create-topics --replication-factor 3 --offsets exact", three.Bootstrap()))
	p.until("some records", func() bool {
		at, err := boundsOf(t.Context(), three.Bootstrap(), topic)
		return err == nil && len(at) == 1 && at[0][1] > 1000
	})
	first := leader()
	if err := three.KillBroker(first); err != nil {
		t.Fatal(err)
	}
	p.until("another leader", func() bool { l := leader(); return l >= 0 && l != first })
	if err := three.StartBroker(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(); status[0] != 0 || status[2] != 0 {
		t.Fatalf("%d\n%s", status, p)
	}
	want, err := cluster.Console(t.Context(), topic, 0, kafkatest.PrintOffset)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // as two leaders have it
		got, err := three.Console(t.Context(), topic, 0, kafkatest.PrintOffset)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, got) || len(want) == 0 {
			t.Errorf("Kafka's console consumer prints other records, %d and %d bytes", len(want), len(got))
		}
		at, err := boundsOf(t.Context(), three.Bootstrap(), topic)
		if err != nil || at[0] != [3]int64{123, end, end} {
			t.Errorf("the log goes to %d, %v, not from 123 to %d", at, err, end)
		}
		if i == 1 {
			break
		}
		was := leader()
		if err := three.StopBroker(was); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); leader() == was || leader() < 0; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no other leader")
			}
		}
		if err := three.StartBroker(t.Context(), was); err != nil {
			t.Fatal(err)
		}
	}
	var dumps [3][]string
	for i := range dumps {
		var err error
		if dumps[i], err = dumpLog(t.Context(), three, filepath.Join(dir, fmt.Sprintf("broker-%d", i), "data", topic+"-0")); err != nil {
			t.Fatal(err)
		}
	}
	if markers := slices.DeleteFunc(slices.Clone(dumps[0]), func(s string) bool { return !strings.Contains(s, "ABORT") }); len(markers) != 800-123/11 {
		t.Errorf("%d markers in the log", len(markers))
	}
	for i := range dumps {
		if !slices.Equal(dumps[0], dumps[i]) {
			t.Errorf("the replica of broker %d is not that of broker 0: %d and %d lines", i, len(dumps[i]), len(dumps[0]))
		}
	}
}

// dumpLog returns what Kafka's own kafka-dump-log tells of the records in a log: a line
// each, from its offset on, without what they hold.
func dumpLog(ctx context.Context, c *kafkatest.Cluster, dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no log in %s: %v", dir, err)
	}
	slices.Sort(files)
	out, err := c.Tool(ctx, "org.apache.kafka.tools.DumpLogSegments", "--deep-iteration", "--files", strings.Join(files, ",")).Output()
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if at, ok := strings.CutPrefix(line, "| offset: "); ok {
			if n, _ := strconv.Atoi(strings.Fields(at)[0]); n >= 123 { // a replica may have the fillers still
				lines = append(lines, line)
			}
		} else if strings.Contains(line, "isvalid: false") {
			return nil, fmt.Errorf("kafka-dump-log says: %s", line)
		}
	}
	return lines, nil
}
