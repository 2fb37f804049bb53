package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// cmdCommit commits offsets as a group would, with metadata and a leader epoch:
// commit GROUP TOPIC P=OFFSET…
func cmdCommit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: commit GROUP TOPIC P=OFFSET…")
	}
	cl, err := client()
	check(ts, err)
	defer cl.Close()
	set := make(kadm.Offsets)
	for _, a := range args[2:] {
		o := kadm.Offset{Topic: args[1], LeaderEpoch: 0, Metadata: "note of " + args[0]}
		_, err := fmt.Sscanf(a, "%d=%d", &o.Partition, &o.At)
		check(ts, err)
		set.Add(o)
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err = kadm.NewClient(cl).CommitAllOffsets(context.Background(), args[0], set)
		// The coordinator hears of a new topic a moment later.
		if !errors.Is(err, kerr.UnknownTopicOrPartition) || time.Now().After(end) {
			break
		}
	}
	check(ts, err)
}

// cmdCommitted prints what a group has committed, in order.
func cmdCommitted(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 1, "committed GROUP")
	cl, err := client()
	check(ts, err)
	defer cl.Close()
	adm := kadm.NewClient(cl)
	listed, err := adm.ListGroups(context.Background())
	check(ts, err)
	if _, ok := listed[args[0]]; !ok {
		fmt.Fprintln(ts.Stdout(), "no such group")
		return
	}
	all, err := adm.FetchOffsets(context.Background(), args[0])
	check(ts, err)
	for _, o := range all.Sorted() {
		fmt.Fprintf(ts.Stdout(), "%s/%d %d epoch %d %s\n", o.Topic, o.Partition, o.At, o.LeaderEpoch, o.Metadata)
	}
}

// consumerGroups puts a kafka-consumer-groups.sh that runs Kafka's own class into dir.
func consumerGroups(dir string) error {
	cmd := cluster.Tool(context.Background(), "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand")
	var line strings.Builder
	for _, a := range cmd.Args {
		line.WriteString("'" + strings.ReplaceAll(a, "'", `'\''`) + "' ")
	}
	return os.WriteFile(filepath.Join(dir, "kafka-consumer-groups.sh"), []byte("#!/bin/sh\nexec "+line.String()+"\"$@\"\n"), 0o755)
}

// cmdActive keeps a consumer of a group running while a script lasts: active GROUP TOPIC.
func cmdActive(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 2, "active GROUP TOPIC")
	cl, err := client(kgo.ConsumerGroup(args[0]), kgo.ConsumeTopics(args[1]), kgo.DisableAutoCommit())
	check(ts, err)
	ts.Defer(cl.Close)
	for range 600 {
		listed, err := kadm.NewClient(cl).ListGroups(context.Background())
		check(ts, err)
		if listed[args[0]].State == "Stable" {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("group %s has no members", args[0])
}

// cmdStamp copies the committed records of a topic to another, which it creates, as
// kbk-produce --offset-headers does, and puts a record of its own before them. With
// several partitions given they go to these by turns: stamp TOPIC TOPIC PARTITIONS|same.
func cmdStamp(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 3, "stamp TOPIC TOPIC PARTITIONS|same")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	parts, err := consume(ctx, args[0])
	check(ts, err)
	spread := args[2] != "same"
	n := len(parts)
	if spread {
		n, err = strconv.Atoi(args[2])
		check(ts, err)
	}
	cl, err := client()
	check(ts, err)
	defer cl.Close()
	check(ts, create(ctx, cl, args[1], int32(n), nil))
	var out []*kgo.Record
	for p := range int32(n) {
		out = append(out, &kgo.Record{Topic: args[1], Partition: p, Value: []byte("of its own"), Timestamp: time.UnixMilli(0)})
	}
	turn := 0
	for p := range int32(len(parts)) {
		for _, r := range parts[p] {
			to := p
			if spread {
				to = int32(turn % n)
				turn++
			}
			out = append(out, &kgo.Record{Topic: args[1], Partition: to, Key: r.Key, Value: r.Value, Timestamp: r.Timestamp, Headers: append(slices.Clone(r.Headers),
				kgo.RecordHeader{Key: "kbk.source.topic", Value: []byte(r.Topic)},
				kgo.RecordHeader{Key: "kbk.source.partition", Value: strconv.AppendInt(nil, int64(r.Partition), 10)},
				kgo.RecordHeader{Key: "kbk.source.offset", Value: strconv.AppendInt(nil, r.Offset, 10)},
				kgo.RecordHeader{Key: "kbk.source.timestamp", Value: strconv.AppendInt(nil, r.Timestamp.UnixMilli(), 10)},
			)})
		}
	}
	check(ts, cl.ProduceSync(ctx, out...).FirstErr())
}

// cmdUnread wants all records of a topic that a group has not read to be among those that
// another group has not read of another topic, and prints how many it has not read, and
// how many it would read again: unread GROUP TOPIC GROUP TOPIC.
func cmdUnread(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 4, "unread GROUP TOPIC GROUP TOPIC")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := client()
	check(ts, err)
	defer cl.Close()
	left := make([]map[string]int, 2)
	for i := range left {
		left[i] = make(map[string]int)
		group, topic := args[2*i], args[2*i+1]
		committed, err := kadm.NewClient(cl).FetchOffsets(ctx, group)
		check(ts, err)
		parts, err := consume(ctx, topic)
		check(ts, err)
		for num, records := range parts {
			at, ok := committed.Lookup(topic, num)
			if !ok {
				ts.Fatalf("group %s has no offset for %s/%d", group, topic, num)
			}
			for _, r := range records {
				if r.Offset >= at.At {
					left[i][fmt.Sprintf("%s %s %d", r.Key, r.Value, r.Timestamp.UnixMilli())]++
				}
			}
		}
	}
	unread, again := 0, 0
	for r, n := range left[0] {
		if unread += n; left[1][r] < n {
			ts.Fatalf("%q would be skipped", r)
		}
	}
	for _, n := range left[1] {
		again += n
	}
	fmt.Fprintf(ts.Stdout(), "%d unread, %d again\n", unread, again-unread)
}

// A member reads a topic as one of a group, until it has max records or, where that is 0,
// until none has come for a while.
type member struct {
	group, protocol, topic string
	max                    int
}

// consumeAs lets Kafka's own console consumer be each of the members, at once; they commit
// where they stopped. It returns what each has read, a record being "partition value".
func consumeAs(t *testing.T, c *kafkatest.Cluster, members ...member) [][]string {
	t.Helper()
	out := make([][]string, len(members))
	g, ctx := errgroup.WithContext(t.Context())
	for i, m := range members {
		g.Go(func() error {
			args := []string{
				"--bootstrap-server", c.Bootstrap(), "--topic", m.topic, "--group", m.group, "--from-beginning",
				"--isolation-level", "read_committed", "--command-property", "group.protocol=" + m.protocol,
				"--formatter-property", "print.partition=true",
			}
			if m.max > 0 {
				args = append(args, "--max-messages", strconv.Itoa(m.max), "--timeout-ms", "60000")
			} else {
				args = append(args, "--timeout-ms", "12000")
			}
			cmd := c.Tool(ctx, "org.apache.kafka.tools.consumer.ConsoleConsumer", args...)
			var log bytes.Buffer
			cmd.Stderr = &log
			printed, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("console consumer as %s: %w\n%s", m.group, err, log.Bytes())
			}
			out[i] = slices.Collect(strings.Lines(string(printed)))
			if m.max > 0 && len(out[i]) != m.max {
				return fmt.Errorf("group %s read %d records of %s, not %d\n%s", m.group, len(out[i]), m.topic, m.max, log.Bytes())
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestDisasterRecovery loses a cluster. On another one, of three brokers, consumers read
// exactly what they had not read (issue 5).
func TestDisasterRecovery(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	source, err := kafkatest.Start(ctx, kafkatest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lost := false
	defer func() {
		if !lost {
			_ = source.Close()
		}
	}()
	cl, err := connect(source.Bootstrap(), kgo.TransactionalID("ledger"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for topic, partitions := range map[string]int32{"orders": 3, "ledger": 2, "empty": 2} {
		if err := create(ctx, cl, topic, partitions, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := fill(ctx, source.Bootstrap(), "orders", 3, 200, 50); err != nil {
		t.Fatal(err)
	}
	for i := range 4 { // the last of them aborted
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for p := range int32(2) {
			for n := range 10 {
				if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "ledger", Partition: p, Value: fmt.Appendf(nil, "transaction %d, record %d", i, n)}).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cl.EndTransaction(ctx, kgo.TransactionEndTry(i != 3)); err != nil {
			t.Fatal(err)
		}
	}

	// Groups of both protocols that stop in the middle, one that has caught up with a
	// transactional topic and has gone behind its markers, and one that is deleted.
	members := []member{
		{"classic", "classic", "orders", 137},
		{"new", "consumer", "orders", 251},
		{"auditor", "consumer", "ledger", 0},
		{"partly", "classic", "ledger", 25},
		{"all", "classic", "orders", 600},
		{"deleted", "classic", "orders", 1},
	}
	read := consumeAs(t, source, members...)
	members = members[:4]
	if n := len(read[2]); n != 60 {
		t.Fatalf("%d records are committed in ledger, not 60", n)
	}
	all := map[string][]string{"orders": read[4], "ledger": read[2]}
	adm := kadm.NewClient(cl)
	if _, err := adm.DeleteGroup(ctx, "deleted"); err != nil {
		t.Fatal(err)
	}
	was, err := adm.FetchOffsets(ctx, "auditor")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := was.Lookup("ledger", 0); o.At < 33 {
		t.Fatalf("the auditor is at offset %d, before the transactions' markers", o.At)
	}

	dir := t.TempDir()
	recovery := func(env ...string) string {
		t.Helper()
		script, err := filepath.Abs("../../examples/disaster-recovery.sh")
		if err != nil {
			t.Fatal(err)
		}
		what := "recover"
		if strings.HasPrefix(env[0], "SOURCE=") {
			what = "backup"
		}
		cmd := exec.CommandContext(ctx, "bash", script, what)
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), env...), "BACKUP="+filepath.Join(dir, "backup"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		return string(out)
	}
	recovery("SOURCE=" + source.Bootstrap())
	lost = true
	if err := source.Close(); err != nil {
		t.Fatal(err)
	}

	target, err := kafkatest.Start(ctx, kafkatest.Options{Brokers: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	own := ownTopicsAndGroups(t, target)
	said := recovery("TARGET=" + target.Bootstrap())
	t.Log(said)
	if !strings.Contains(said, "13 offsets of 5 groups are committed as planned") {
		t.Errorf("the recovery did not say that it is verified")
	}
	for i := range members {
		members[i].max = 0
	}
	for i, rest := range consumeAs(t, target, members...) {
		m := members[i]
		got := slices.Sorted(slices.Values(append(rest, read[i]...)))
		if want := slices.Sorted(slices.Values(all[m.topic])); !slices.Equal(got, want) {
			t.Errorf("group %s read %d records before and %d after: not each of %d once", m.group, len(read[i]), len(rest), len(want))
		}
	}

	// What is new is all that the auditor reads.
	to, err := connect(target.Bootstrap())
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := to.ProduceSync(ctx, &kgo.Record{Topic: "ledger", Partition: 1, Value: []byte("after")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if got := consumeAs(t, target, members[2])[0]; !slices.Equal(got, []string{"Partition:1\tafter\n"}) {
		t.Errorf("the auditor read %q", got)
	}
	// Beside what the target has by now.
	if said := recovery("TARGET="+target.Bootstrap(), "PREFIX=again."); !strings.Contains(said, "13 offsets of 5 groups are committed as planned") {
		t.Errorf("the recovery beside the first one said %s", said)
	}
	again := []member{{"again.classic", "classic", "again.orders", 0}, {"again.auditor", "consumer", "again.ledger", 0}}
	for i, rest := range consumeAs(t, target, again...) {
		was := []int{0, 2}[i]
		if want := len(all[members[was].topic]) - len(read[was]); len(rest) != want {
			t.Errorf("group %s read %d records, and had not read %d", again[i].group, len(rest), want)
		}
	}
	own()
	listed, err := kadm.NewClient(to).ListGroups(ctx)
	if err != nil {
		t.Fatal(err)
	}
	coordinators := make(map[int32]bool)
	for _, l := range listed {
		coordinators[l.Coordinator] = true
	}
	if _, ok := listed["deleted"]; ok || len(coordinators) < 2 {
		t.Errorf("groups %v", listed)
	}
}

// ownTopicsAndGroups gives a cluster a topic and groups of its own, one of them with the
// name of a group that is recovered. The function it returns wants them as they were.
func ownTopicsAndGroups(t *testing.T, c *kafkatest.Cluster) func() {
	t.Helper()
	ctx := t.Context()
	cl, err := connect(c.Bootstrap())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if err := create(ctx, cl, "payments", 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := fill(ctx, c.Bootstrap(), "payments", 1, 10, 20); err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(cl)
	groups := map[string]int64{"payer": 4, "partly": 7}
	for group, at := range groups {
		var o kadm.Offsets
		o.Add(kadm.Offset{Topic: "payments", At: at, LeaderEpoch: -1})
		if err := adm.CommitAllOffsets(ctx, group, o); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for group, want := range groups {
			got, err := adm.FetchOffsets(ctx, group)
			if err != nil {
				t.Fatal(err)
			}
			if o, ok := got.Lookup("payments", 0); !ok || o.At != want {
				t.Errorf("the target's own group %s is at %+v, and was at %d", group, o, want)
			}
		}
		ends, err := adm.ListEndOffsets(ctx, "payments")
		if err != nil {
			t.Fatal(err)
		}
		if end, _ := ends.Lookup("payments", 0); end.Offset != 10 {
			t.Errorf("the target's own topic ends at %d, and had 10 records", end.Offset)
		}
	}
}

// TestManyGroups times a thousand groups of a hundred partitions on three brokers.
func TestManyGroups(t *testing.T) {
	t.Parallel()
	const groups, partitions, records = 1000, 100, 20
	ctx := t.Context()
	c, err := kafkatest.Start(ctx, kafkatest.Options{Brokers: 3, HeapMB: 384})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cl, err := connect(c.Bootstrap())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := create(ctx, cl, "wide", partitions, nil); err != nil {
		t.Fatal(err)
	}
	if err := fill(ctx, c.Bootstrap(), "wide", partitions, records, 20); err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(cl)
	var wg sync.WaitGroup
	next := make(chan int)
	errs := make(chan error, groups)
	for range 8 {
		wg.Go(func() {
			for g := range next {
				set := make(kadm.Offsets)
				for p := range int32(partitions) {
					set.Add(kadm.Offset{Topic: "wide", Partition: p, At: int64(g+int(p)) % (records + 1), LeaderEpoch: -1, Metadata: "m"})
				}
				if err := adm.CommitAllOffsets(ctx, fmt.Sprintf("group-%04d", g), set); err != nil {
					errs <- err
				}
			}
		})
	}
	for g := range groups {
		next <- g
	}
	close(next)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	dir := t.TempDir()
	timed := func(what, line string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "KAFKA="+c.Bootstrap(), "R=^group=copy")
		began := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		used := cmd.ProcessState.SystemTime() + cmd.ProcessState.UserTime()
		rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss / 1024
		t.Logf("%-10s %6.2f s, %.2f CPU seconds, %d MiB: %s", what, time.Since(began).Seconds(), used.Seconds(), rss, bytes.TrimSpace(out))
		return string(out)
	}
	timed("restore", "kbk-fetch -b $KAFKA -t wide | tee records.kbk | kbk-produce -q -b $KAFKA --create-topics --rename wide=wide-r > map.kbk")
	timed("snapshot", "kbk-offsets snapshot -b $KAFKA > snapshot.kbk")
	timed("next", "kbk-offsets snapshot -b $KAFKA --next > next.kbk")
	timed("translate", `kbk-offsets translate --map map.kbk --rename-group "$R" < snapshot.kbk > plan.kbk`)
	timed("plan", "kbk-offsets plan -b $KAFKA < plan.kbk | tail -1")
	timed("apply", "kbk-offsets apply -b $KAFKA --undo undo.kbk < plan.kbk > applied.kbk")
	said := timed("verify", "kbk-offsets verify -b $KAFKA --records records.kbk < applied.kbk")
	if !strings.Contains(said, "100,000 offsets of 1,000 groups are committed as planned") || !strings.Contains(said, "0 not compared") {
		t.Errorf("verify said %q", said)
	}
	timed("rollback", "kbk-offsets rollback -b $KAFKA < undo.kbk")
	listed, err := adm.ListGroups(ctx)
	if err != nil {
		t.Fatal(err)
	}
	delete(listed, "kbk-produce") // which holds nothing any more; brokers forget it in time
	if len(listed) != groups {
		t.Errorf("%d groups are left, not %d", len(listed), groups)
	}
}
