package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// mirrorMaker is how MirrorMaker 2 is told to do about what kbk does: the same names of
// topics, compression as in the source, large batches, as many tasks as there are processors.
// Without the lines of the producer it writes uncompressed batches of 16 KB.
const mirrorMaker = `clusters = A, B
A.bootstrap.servers = %s
B.bootstrap.servers = %s
A->B.enabled = true
B->A.enabled = false
A->B.topics = ` + topic + `
replication.policy.class = org.apache.kafka.connect.mirror.IdentityReplicationPolicy
tasks.max = 2
replication.factor = 1
checkpoints.topic.replication.factor = 1
heartbeats.topic.replication.factor = 1
offset-syncs.topic.replication.factor = 1
offset.storage.replication.factor = 1
status.storage.replication.factor = 1
config.storage.replication.factor = 1
emit.heartbeats.enabled = false
sync.topic.acls.enabled = false
refresh.topics.interval.seconds = 5
`

const mirrorMakerTuned = `A.consumer.max.poll.records = 20000
A.consumer.fetch.max.bytes = 52428800
A.consumer.max.partition.fetch.bytes = 4194304
B.producer.compression.type = lz4
B.producer.batch.size = 1048576
B.producer.linger.ms = 20
B.producer.buffer.memory = 134217728
`

// A mirroring is something that copies cluster A to cluster B until it is told to stop.
type mirroring struct {
	name   string
	stages func(a, b *kafkatest.Cluster, dir string) ([]*exec.Cmd, error)
}

// A mirrored is what one run took. What came before the first record was in B is apart.
type mirrored struct {
	wall, cpu           time.Duration
	brokers             time.Duration // processor time of both clusters
	startWall, startCPU time.Duration
	rss                 int64
}

// benchMirror measures mirrors of a cluster beside MirrorMaker 2: the same topic, each time to
// an empty cluster, until that has all of it.
func benchMirror(ctx context.Context, bin string, size int64, runs int, only string) (err error) {
	dir, err := os.MkdirTemp("", "kbk-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, set := range []struct {
		name  string
		batch int
	}{{"lz4, batches of up to 1 MB", 1 << 20}, {"lz4, batches of 16 KB", 46 << 10}, {"lz4, batches of 6 KB", 16 << 10}} {
		if !strings.Contains(set.name, only) {
			continue
		}
		f := filling{topic: topic, valueSize: valueSize, batch: set.batch, codec: "lz4"}
		if err := mirrorSet(ctx, bin, dir, set.name, f, size, runs); err != nil {
			return fmt.Errorf("%s: %w", set.name, err)
		}
	}
	return nil
}

func mirrorSet(ctx context.Context, bin, dir, name string, f filling, size int64, runs int) (err error) {
	a, err := kafkatest.Start(ctx, kafkatest.Options{HeapMB: 1024})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// By another process: what starts a process lends it its own peak of memory.
	filler := exec.CommandContext(ctx, self, "-fill", a.Bootstrap(), "-bytes", fmt.Sprint(size), "-fill-batch", fmt.Sprint(f.batch), "-fill-codec", f.codec)
	filler.Stderr = os.Stderr
	if err := filler.Run(); err != nil {
		return fmt.Errorf("fill the topic: %w", err)
	}
	fmt.Printf("\n%s: %d records of %d B in %d partitions\n\n", name, size/valueSize, valueSize, partitions)
	fmt.Println("| mirror | wall s | CPU s | CPU s/GiB of values | brokers CPU s/GiB | peak RSS MiB | before the first record: wall s | CPU s |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, m := range mirrorings(bin) {
		var all []mirrored
		for range runs {
			one, err := m.run(ctx, a, dir, size/valueSize)
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			all = append(all, one)
		}
		slices.SortFunc(all, func(a, b mirrored) int { return int(a.cpu - b.cpu) })
		r := all[len(all)/2]
		perGiB := (1 << 30) / float64(size)
		fmt.Printf("| %s | %.2f | %.2f | %.2f | %.2f | %d | %.2f | %.2f |\n", m.name, r.wall.Seconds(), r.cpu.Seconds(), r.cpu.Seconds()*perGiB, r.brokers.Seconds()*perGiB, r.rss, r.startWall.Seconds(), r.startCPU.Seconds())
	}
	return nil
}

func mirrorings(bin string) []mirroring {
	kbk := func(flags ...string) func(a, b *kafkatest.Cluster, dir string) ([]*exec.Cmd, error) {
		return func(a, b *kafkatest.Cluster, _ string) ([]*exec.Cmd, error) {
			return piped(
				exec.Command(filepath.Join(bin, "kbk-offsets"), "cursor", "-q", "-b", b.Bootstrap()),
				exec.Command(filepath.Join(bin, "kbk-fetch"), append([]string{"-q", "-b", a.Bootstrap(), "-t", topic, "--groups", "^", "--from", "-", "--follow", "--point-every", "1s"}, flags...)...),
				exec.Command(filepath.Join(bin, "kbk-produce"), "-q", "-b", b.Bootstrap(), "--offsets", "exact", "--create-topics", "--add-partitions"))
		}
	}
	mm2 := func(more string) func(a, b *kafkatest.Cluster, dir string) ([]*exec.Cmd, error) {
		return func(a, b *kafkatest.Cluster, dir string) ([]*exec.Cmd, error) {
			file := filepath.Join(dir, "mm2.properties")
			if err := os.WriteFile(file, fmt.Appendf(nil, mirrorMaker+more, a.Bootstrap(), b.Bootstrap()), 0o600); err != nil {
				return nil, err
			}
			cmd, err := a.MirrorMaker(context.Background(), file)
			return []*exec.Cmd{cmd}, err
		}
	}
	return []mirroring{
		{"kbk, batches", kbk("--batches")},
		{"kbk, records", kbk()},
		{"MirrorMaker 2, as it is", mm2("")},
		{"MirrorMaker 2, lz4, batches of 1 MB", mm2(mirrorMakerTuned)},
	}
}

// piped connects commands.
func piped(cmds ...*exec.Cmd) ([]*exec.Cmd, error) {
	for i := 1; i < len(cmds); i++ {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		cmds[i-1].Stdout, cmds[i].Stdin = w, r
	}
	return cmds, nil
}

// run mirrors to a new cluster.
func (m *mirroring) run(ctx context.Context, a *kafkatest.Cluster, dir string, records int64) (out mirrored, err error) {
	b, err := kafkatest.Start(ctx, kafkatest.Options{HeapMB: 1024})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Bootstrap()), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		return out, err
	}
	defer cl.Close()
	cmds, err := m.stages(a, b, dir)
	if err != nil {
		return out, err
	}
	var said strings.Builder
	began := time.Now()
	for _, cmd := range cmds {
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			return out, err
		}
		for _, f := range []any{cmd.Stdin, cmd.Stdout} { // the process has them now
			if f, ok := f.(*os.File); ok && f != nil {
				f.Close()
			}
		}
	}
	brokers := func() (sum time.Duration) {
		for _, c := range []*kafkatest.Cluster{a, b} {
			used, cpuErr := c.BrokerCPU(0)
			sum, err = sum+used, errors.Join(err, cpuErr)
		}
		return sum
	}
	waitErr := await(ctx, kadm.NewClient(cl), records, func() {
		out.brokers = -brokers()
		out.startWall = time.Since(began)
		for _, cmd := range cmds {
			out.startCPU += processor(cmd.Process.Pid)
		}
	})
	out.wall = time.Since(began) - out.startWall
	out.brokers += brokers()
	for _, cmd := range cmds {
		out.cpu += processor(cmd.Process.Pid) // of one that has ended: below
	}
	for _, cmd := range cmds {
		_ = cmd.Process.Signal(syscall.SIGTERM) // which is not ignored where bench runs in the background
	}
	for _, cmd := range cmds {
		_ = cmd.Wait() // interrupted
		out.rss += peak(cmd.ProcessState) >> 20
	}
	out.cpu -= out.startCPU
	if waitErr != nil {
		return out, fmt.Errorf("%w: %s", waitErr, &said)
	}
	return out, err
}

// await waits until a cluster has so many records of the topic, and calls first when it has
// one.
func await(ctx context.Context, adm *kadm.Client, records int64, first func()) error {
	begun := false
	for last, moved := int64(0), time.Now(); ; time.Sleep(20 * time.Millisecond) {
		var n int64
		if ends, err := adm.ListEndOffsets(ctx, topic); err == nil {
			ends.Each(func(o kadm.ListedOffset) { n += max(o.Offset, 0) })
		}
		if n > 0 && !begun {
			begun = true
			first()
		}
		switch {
		case n >= records:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case n > last:
			last, moved = n, time.Now()
		case time.Since(moved) > 2*time.Minute:
			return fmt.Errorf("%d of %d records, and no more for two minutes", n, records)
		}
	}
}

// processor is the time that a process has had of the processors, 0 where it is gone. The
// kernel counts it in hundredths of a second (proc_pid_stat, USER_HZ).
func processor(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks int64
	for _, at := range []int{11, 12} { // utime, stime
		n, _ := strconv.ParseInt(fields[at], 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
