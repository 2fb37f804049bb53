package kafkatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// toolHeapMB is the Java heap of a tool in MiB.
	toolHeapMB = 128

	// countQuiet is after how long without a record counting gives up. To give
	// up too early costs time only.
	countQuiet = 2 * time.Second

	// consoleQuiet is after how long without a record the console consumer is
	// taken to have come to the end, where nothing better than waiting tells.
	consoleQuiet = 5 * time.Second

	// consoleStall is how long the console consumer may wait for a record that
	// is known to be there.
	consoleStall = 30 * time.Second
)

// Tool returns a command that runs one of Kafka's own tools, such as
// org.apache.kafka.tools.consumer.group.ConsumerGroupCommand or
// org.apache.kafka.tools.DumpLogSegments. The address of the cluster is not
// among its arguments. Logging goes to stderr, warnings and errors only.
func (c *Cluster) Tool(ctx context.Context, mainClass string, args ...string) *exec.Cmd {
	all := append(c.kit.flags(toolHeapMB, c.logConfig(), c.dir), mainClass)
	return exec.CommandContext(ctx, c.kit.java, append(all, args...)...)
}

// PerfTool returns a command that runs one of Kafka's own tools to be measured, such as
// org.apache.kafka.tools.ConsumerPerformance, with the JVM flags that
// kafka-run-class.sh and those scripts give it.
func (c *Cluster) PerfTool(ctx context.Context, mainClass string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, c.kit.java, append([]string{
		"-Xmx512M", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
		"-Djava.awt.headless=true", "-Dlog4j2.configurationFile=" + c.logConfig(), "-cp", c.kit.classPath, mainClass,
	}, args...)...)
}

// A ConsoleOption is a property of the console consumer's formatter, as in
// "line.separator=\x00".
type ConsoleOption string

// PrintOffset makes Console print each record's offset, as "Offset:12", after
// the partition.
const PrintOffset ConsoleOption = "print.offset=true"

// Console returns what Kafka's own console consumer prints for one partition,
// from its earliest record to its last stable offset, without aborted
// transactions. (A commit returns before the broker has written its markers, and
// until then the last stable offset is before the transaction.) A record is one
// line of fields with tabs between them:
//
//	CreateTime:1700000000000	Partition:0	name:value,name:value	key	value
//
// The timestamp is in milliseconds and named for its type, CreateTime or
// LogAppendTime. A key, value or header value that is null is printed as \N, an
// empty one as nothing, any other as its bytes without quoting. So a tab, a
// newline, a comma or a \N inside of them looks like the real one: data to be
// compared should not play such tricks. No headers at all are NO_HEADERS. A
// header name that is not valid UTF-8 shows as U+FFFD where it is not.
//
// The console consumer cannot be told to stop at the end of a partition, so
// franz-go counts the records first, and Console fails if Kafka's consumer then
// finds fewer. Where the counting does not get to see the very last offset, as
// after compaction, Console waits for 5 s without a record instead.
func (c *Cluster) Console(ctx context.Context, topic string, partition int, opts ...ConsoleOption) ([]byte, error) {
	out, err := c.console(ctx, topic, int32(partition), opts)
	if err != nil {
		return nil, fmt.Errorf("console consumer of %s partition %d: %w", topic, partition, err)
	}
	return out, nil
}

func (c *Cluster) console(ctx context.Context, topic string, partition int32, opts []ConsoleOption) ([]byte, error) {
	count, exact, err := c.count(ctx, topic, partition)
	if err != nil {
		return nil, fmt.Errorf("counting records: %w", err)
	}
	if exact && count == 0 {
		return nil, nil // the consumer takes --max-messages 0 for no record, after waiting for one
	}
	args := []string{
		"--bootstrap-server", c.Bootstrap(),
		"--topic", topic, "--partition", strconv.Itoa(int(partition)), "--offset", "earliest",
		"--isolation-level", "read_committed",
		"--formatter-property", "print.timestamp=true",
		"--formatter-property", "print.partition=true",
		"--formatter-property", "print.headers=true",
		"--formatter-property", "print.key=true",
		"--formatter-property", `null.literal=\N`,
	}
	for _, o := range opts {
		args = append(args, "--formatter-property", string(o))
	}
	if exact {
		args = append(args, "--max-messages", strconv.Itoa(count), "--timeout-ms", millis(consoleStall))
	} else {
		args = append(args, "--timeout-ms", millis(consoleQuiet))
	}
	var out, log bytes.Buffer
	cmd := c.Tool(ctx, "org.apache.kafka.tools.consumer.ConsoleConsumer", args...)
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, tail(log.Bytes()))
	}
	// It exits with 0 after a time-out, too.
	if exact && !strings.Contains(log.String(), fmt.Sprintf("Processed a total of %d messages", count)) {
		return nil, fmt.Errorf("not all of %d records came\n%s", count, tail(log.Bytes()))
	}
	return out.Bytes(), nil
}

// count returns the number of records that a reader of committed records gets
// from a partition. It is exact if the offset just before the last stable one
// was seen, be it a record or the end of a transaction.
func (c *Cluster) count(ctx context.Context, topic string, partition int32) (n int, exact bool, err error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(c.Bootstrap(), ",")...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
	)
	if err != nil {
		return 0, false, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	start, err := bound(ctx, adm.ListStartOffsets, topic, partition)
	if err != nil {
		return 0, false, err
	}
	end, err := bound(ctx, adm.ListCommittedOffsets, topic, partition)
	if err != nil {
		return 0, false, err
	}
	for next := start; next < end; {
		quiet, cancel := context.WithTimeout(ctx, countQuiet)
		fetches := cl.PollFetches(quiet)
		cancel()
		if err := ctx.Err(); err != nil {
			return 0, false, err
		}
		if err := fetches.Err(); errors.Is(err, context.DeadlineExceeded) {
			return n, false, nil
		} else if err != nil {
			return 0, false, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if r.Offset < end && !r.Attrs.IsControl() {
				n++
			}
		})
	}
	return n, true, nil
}

// bound returns the offset of one partition from one of kadm's listings.
func bound(ctx context.Context, list func(context.Context, ...string) (kadm.ListedOffsets, error), topic string, partition int32) (int64, error) {
	offsets, err := list(ctx, topic)
	if err != nil {
		return 0, err
	}
	o, ok := offsets.Lookup(topic, partition)
	if !ok {
		return 0, errors.New("no such partition")
	}
	return o.Offset, o.Err
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
