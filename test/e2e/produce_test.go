package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

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
	only(ts, neg, args, 3, "exact SOURCE TARGET COUNT")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n, err := strconv.Atoi(args[2])
	check(ts, err)
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
		r := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "record %d", i)}
		if i%3 > 0 {
			r.Key = fmt.Appendf(nil, "key %d", i%50)
		}
		cl.Produce(ctx, r, nil)
	}
	return cl.Flush(ctx)
}
