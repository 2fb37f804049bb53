package kafkatest

import (
	"bufio"
	"context"
	"errors"
	"io"
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

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func start(t *testing.T, o Options) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closeCluster(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// client returns a client of c that sends records to the partition they name.
func client(t *testing.T, c *Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts,
		kgo.SeedBrokers(strings.Split(c.Bootstrap(), ",")...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func createTopic(t *testing.T, cl *kgo.Client, topic string, partitions int32, replicas int16) {
	t.Helper()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, replicas, nil, topic); err != nil {
		t.Fatal(err)
	}
}

func produce(t *testing.T, cl *kgo.Client, rs ...*kgo.Record) {
	t.Helper()
	if err := cl.ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func wantConsole(t *testing.T, c *Cluster, topic string, partition int, want string, opts ...ConsoleOption) {
	t.Helper()
	got, err := c.Console(t.Context(), topic, partition, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("console of %s partition %d:\n got %q\nwant %q", topic, partition, got, want)
	}
}

func TestConsole(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	defer closeCluster(t, c)
	cl := client(t, c)
	createTopic(t, cl, "odd", 2, 1)

	type h = kgo.RecordHeader
	at := time.UnixMilli(1700000000000)
	record := func(key, value []byte, headers ...h) *kgo.Record {
		return &kgo.Record{Topic: "odd", Partition: 1, Timestamp: at, Key: key, Value: value, Headers: headers}
	}
	empty := []byte{}
	produce(t, cl,
		record(nil, []byte("no key")),
		record(empty, []byte("empty key")),
		record([]byte("tombstone"), nil),
		record([]byte("k"), empty),
		record([]byte("k"), []byte("\x00\xff\n"), h{Key: "b", Value: []byte("1")}, h{Key: "a", Value: []byte("\xfe")}, h{Key: "b", Value: []byte("2")}),
		record([]byte("k"), []byte("v"), h{Key: "null", Value: nil}, h{Key: "empty", Value: empty}, h{Key: "é\xff", Value: []byte("x")}),
	)

	lines := []string{
		"\tNO_HEADERS\t\\N\tno key\n",
		"\tNO_HEADERS\t\tempty key\n",
		"\tNO_HEADERS\ttombstone\t\\N\n",
		"\tNO_HEADERS\tk\t\n",
		"\tb:1,a:\xfe,b:2\tk\t\x00\xff\n\n",
		"\tnull:\\N,empty:,é\ufffd:x\tk\tv\n",
	}
	var plain, numbered strings.Builder
	for i, l := range lines {
		plain.WriteString("CreateTime:1700000000000\tPartition:1" + l)
		numbered.WriteString("CreateTime:1700000000000\tPartition:1\tOffset:" + strconv.Itoa(i) + l)
	}
	wantConsole(t, c, "odd", 1, plain.String())
	wantConsole(t, c, "odd", 1, numbered.String(), PrintOffset)
	wantConsole(t, c, "odd", 0, "")

	out, err := c.Tool(t.Context(), "org.apache.kafka.tools.GetOffsetShell",
		"--bootstrap-server", c.Bootstrap(), "--topic", "odd").Output()
	if err != nil || string(out) != "odd:0:0\nodd:1:6\n" {
		t.Errorf("GetOffsetShell printed %q, %v", out, err)
	}
	for topic, partition := range map[string]int{"odd": 2, "absent": 0} {
		if _, err := c.Console(t.Context(), topic, partition); err == nil {
			t.Errorf("no error for %s partition %d", topic, partition)
		}
	}
}

func TestConsoleTransactions(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	defer closeCluster(t, c)
	plain := client(t, c)
	createTopic(t, plain, "tx", 1, 1)

	begin := func(id string) *kgo.Client {
		cl := client(t, c, kgo.TransactionalID(id), kgo.TransactionTimeout(10*time.Minute))
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		return cl
	}
	send := func(cl *kgo.Client, value string) {
		produce(t, cl, &kgo.Record{Topic: "tx", Value: []byte(value), Timestamp: time.UnixMilli(1)})
	}
	end := func(cl *kgo.Client, how kgo.TransactionEndTry) {
		if err := cl.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
	// The coordinator writes the markers of a transaction after it has answered.
	awaitStable := func(want int64) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for {
			got, err := bound(ctx, kadm.NewClient(plain).ListCommittedOffsets, "tx", 0)
			if err != nil {
				t.Fatalf("waiting for last stable offset %d: %v", want, err)
			}
			if got == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	const prefix = "CreateTime:1\tPartition:0\tOffset:"

	a, b := begin("a"), begin("b")
	send(a, "aborted")
	send(b, "committed")
	end(a, kgo.TryAbort)
	end(b, kgo.TryCommit)
	awaitStable(4)
	committed := prefix + "1\tNO_HEADERS\t\\N\tcommitted\n"
	wantConsole(t, c, "tx", 0, committed, PrintOffset)

	// The last record below the last stable offset is part of a transaction that
	// was aborted behind it, so only silence tells the partition's end.
	a, b = begin("a"), begin("b")
	send(plain, "between")
	send(a, "aborted later")
	send(b, "open")
	end(a, kgo.TryAbort)
	awaitStable(6)
	wantConsole(t, c, "tx", 0, committed+prefix+"4\tNO_HEADERS\t\\N\tbetween\n", PrintOffset)
	end(b, kgo.TryAbort)
}

func TestRestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cluster")
	c := start(t, Options{Dir: dir})
	id, bootstrap := c.ID, c.Bootstrap()
	cl := client(t, c)
	createTopic(t, cl, "kept", 1, 1)
	produce(t, cl, &kgo.Record{Topic: "kept", Value: []byte("v"), Timestamp: time.UnixMilli(1)})
	const want = "CreateTime:1\tPartition:0\tNO_HEADERS\t\\N\tv\n"

	for _, end := range []func(int) error{c.StopBroker, c.KillBroker} {
		if err := end(0); err != nil {
			t.Fatal(err)
		}
		if err := end(0); err == nil {
			t.Error("ended a broker that did not run")
		}
		if err := c.StartBroker(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if err := c.StartBroker(t.Context(), 0); err == nil {
			t.Error("started a broker that ran")
		}
		wantConsole(t, c, "kept", 0, want)
	}
	if c.Bootstrap() != bootstrap {
		t.Errorf("moved from %s to %s", bootstrap, c.Bootstrap())
	}
	closeCluster(t, c)

	c = start(t, Options{Dir: dir})
	defer closeCluster(t, c)
	if c.ID != id {
		t.Errorf("cluster id %s became %s", id, c.ID)
	}
	wantConsole(t, c, "kept", 0, want)
}

func TestThreeBrokers(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Brokers: 3, HeapMB: 192})
	dir := c.dir
	cl := client(t, c)
	createTopic(t, cl, "r3", 3, 3)
	waitISR(t, cl, "r3", 0, 1, 2)

	if err := c.KillBroker(1); err != nil {
		t.Fatal(err)
	}
	waitISR(t, cl, "r3", 0, 2)
	if err := c.StartBroker(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	waitISR(t, cl, "r3", 0, 1, 2)

	closeCluster(t, c)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Close left the temporary folder: %v", err)
	}
}

// waitISR waits until the in-sync replicas of each partition are those given.
func waitISR(t *testing.T, cl *kgo.Client, topic string, want ...int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		topics, err := kadm.NewClient(cl).ListTopics(ctx, topic)
		if err == nil {
			err = topics.Error()
		}
		in := 0 // not all brokers know a topic as soon as it is created
		for _, p := range topics[topic].Partitions {
			if slices.Equal(slices.Sorted(slices.Values(p.ISR)), want) {
				in++
			}
		}
		if err == nil && in > 0 && in == len(topics[topic].Partitions) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("in-sync replicas did not become %v: %v, %v", want, topics[topic].Partitions, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestBrokenConfig(t *testing.T) {
	t.Parallel()
	for key, value := range map[string]string{
		"log.retention.hours": "soon",          // refused when formatting
		"metric.reporters":    "no.such.Class", // refused by the broker
	} {
		begin := time.Now()
		c, err := Start(t.Context(), Options{Config: map[string]string{key: value}})
		if err == nil {
			closeCluster(t, c)
			t.Errorf("started with %s=%s", key, value)
			continue
		}
		if !strings.Contains(err.Error(), value) {
			t.Errorf("%s=%s: no log in the error: %v", key, value, err)
		}
		if d := time.Since(begin); d > startLimit/3 {
			t.Errorf("%s=%s: noticed after %v", key, value, d)
		}
	}
	if _, err := Start(t.Context(), Options{Brokers: 2}); err == nil {
		t.Error("started 2 brokers")
	}
}

func TestMissingPrograms(t *testing.T) {
	java, err := findJava()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("JAVA_HOME", "")
	t.Setenv("PATH", t.TempDir())
	if _, err := Start(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "need java 17") {
		t.Errorf("without java: %v", err)
	}
	bin := t.TempDir()
	if err := os.Symlink(java, filepath.Join(bin, "java")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	t.Setenv("KBK_TEST_CACHE", t.TempDir())
	if _, err := Start(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "need Maven (mvn)") {
		t.Errorf("without mvn: %v", err)
	}
}

// TestDownload puts a shell script in Maven's place.
func TestDownload(t *testing.T) {
	bin, cache := t.TempDir(), t.TempDir()
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	mvn := func(script string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, "mvn"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, runs := filepath.Join(cache, "kafka"), filepath.Join(cache, "runs")

	mvn("touch " + dir + ".part/half.jar; echo no network; exit 1\n")
	if err := download(t.Context(), dir, pom); err == nil || !strings.Contains(err.Error(), "no network") {
		t.Errorf("a failed mvn gave %v", err)
	}

	mvn("echo run >> " + runs + "\ntouch " + dir + ".part/whole.jar\n")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			unlock, err := lock(t.Context(), dir+".lock")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			if err := download(t.Context(), dir, pom); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := os.ReadFile(runs); err != nil || string(got) != "run\n" {
		t.Errorf("mvn ran %q, %v", got, err)
	}
	jars, err := filepath.Glob(filepath.Join(dir, "*.jar"))
	if err != nil || !slices.Equal(jars, []string{filepath.Join(dir, "whole.jar")}) {
		t.Errorf("jars %q, %v", jars, err)
	}
}

// TestGuard kills a process that has started another by startProcess. The end of
// the latter shows as the end of the named pipe that is its log.
func TestGuard(t *testing.T) {
	if fifo := os.Getenv("KAFKATEST_GUARD"); fifo != "" {
		if _, err := startProcess(fifo, "sh", "-c", "echo up; exec sleep 600"); err != nil {
			t.Fatal(err)
		}
		select {} // until killed
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Two minutes are the test's limit: a child that never starts leaves the
	// pipe without a writer, and opening it waits for one.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	parent := exec.CommandContext(ctx, exe, "-test.run=^TestGuard$")
	parent.Env = append(os.Environ(), "KAFKATEST_GUARD="+fifo)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Wait()
	log, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r := bufio.NewReader(log)
	if line, err := r.ReadString('\n'); line != "up\n" {
		t.Fatalf("read %q, %v", line, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := log.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Errorf("the child has outlived its parent: %v", err)
	}
}
