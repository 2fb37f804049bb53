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
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

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
	check(ts, kadm.NewClient(cl).CommitAllOffsets(context.Background(), args[0], set))
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

var _ = []any{bytes.Equal, errors.Is, exec.Command, sync.OnceFunc, testing.Short, kerr.IsRetriable, kafkatest.Start}
