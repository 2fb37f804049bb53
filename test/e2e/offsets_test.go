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

var _ = []any{bytes.Equal, errors.Is, exec.Command, slices.Sort[[]int], strconv.Itoa, sync.OnceFunc, testing.Short, kerr.IsRetriable, kafkatest.Start}
