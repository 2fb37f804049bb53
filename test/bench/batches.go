package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// A set is records as some producer writes them.
type set struct {
	name          string
	values        int64 // bytes of them in all; of 1 GiB
	valueSize     int
	batch         int    // bytes of a batch, uncompressed, at most
	codec         string // of the producer
	transactional bool   // 100 records each
	compacted     bool
}

// sets are what is measured. The first two are the ones that goals are set for.
var sets = []set{
	{name: "lz4, 500 B", values: 1 << 30, valueSize: 500, batch: 1 << 20, codec: "lz4"},
	{name: "lz4, 500 B, small batches", values: 1 << 30, valueSize: 500, batch: 46 << 10, codec: "lz4"},
	{name: "lz4, 500 B, tiny batches", values: 1 << 28, valueSize: 500, batch: 3 << 10, codec: "lz4"},
	{name: "lz4, 100 B", values: 1 << 28, valueSize: 100, batch: 1 << 20, codec: "lz4"},
	{name: "lz4, 10 KiB", values: 1 << 29, valueSize: 10 << 10, batch: 1 << 20, codec: "lz4"},
	{name: "uncompressed, 500 B", values: 1 << 29, valueSize: 500, batch: 1 << 20, codec: "none"},
	{name: "uncompressed, 500 B, small batches", values: 1 << 29, valueSize: 500, batch: 16 << 10, codec: "none"},
	{name: "snappy, 500 B", values: 1 << 29, valueSize: 500, batch: 1 << 20, codec: "snappy"},
	{name: "gzip, 500 B", values: 1 << 29, valueSize: 500, batch: 1 << 20, codec: "gzip"},
	{name: "zstd, 500 B", values: 1 << 29, valueSize: 500, batch: 1 << 20, codec: "zstd"},
	{name: "a transaction marker every 100 records", values: 1 << 27, valueSize: 500, batch: 1 << 20, codec: "lz4", transactional: true},
	{name: "compacted", values: 1 << 28, valueSize: 500, batch: 1 << 20, codec: "lz4", compacted: true},
}

// batches measures backups and restores of records and of batches, in turns, on the same
// topics.
func batches(ctx context.Context, bin string, size int64, runs int, only string) (err error) {
	c, err := kafkatest.Start(ctx, kafkatest.Options{HeapMB: 1024})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	dir, err := os.MkdirTemp("", "kbk-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Println("Medians of", runs, "runs by wall time. CPU s: of kbk's processes, summed; of the broker meanwhile. Memory: peaks of all stages, summed.")
	fmt.Println()
	fmt.Println("| set | pipe | wall s | CPU s/GiB of values | broker CPU s/GiB | peak RSS MiB | stored MiB |")
	fmt.Println("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
	for i, s := range sets {
		if !strings.Contains(s.name, only) {
			continue
		}
		s.values = s.values * size >> 30
		b := &batchBench{bench: bench{bin: bin, runs: runs}, cluster: c, dir: filepath.Join(dir, fmt.Sprint(i)), set: s, topic: fmt.Sprint("set-", i)}
		if err := b.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

type batchBench struct {
	bench
	cluster *kafkatest.Cluster
	dir     string
	set     set
	topic   string
}

// A cost is what a pipe took once.
type cost struct {
	wall, cpu, broker time.Duration
	rss               int64
}

func (b *batchBench) run(ctx context.Context) error {
	if err := b.fill(ctx); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	mean, err := b.batchSize(ctx)
	if err != nil {
		return err
	}
	b.set.name += fmt.Sprintf(" (batches of %d B)", mean)
	var backups, restores [2][]cost
	modes := [2]string{"records", "batches"}
	for run := range b.runs {
		for i, mode := range modes {
			made, restored, err := b.once(ctx, mode, run)
			if err != nil {
				return fmt.Errorf("%s: %w", mode, err)
			}
			backups[i], restores[i] = append(backups[i], made), append(restores[i], restored)
		}
	}
	for i, mode := range modes {
		stored, err := sizeOf(b.backup(mode))
		if err != nil {
			return err
		}
		b.row("backup of "+mode, backups[i], fmt.Sprint(stored>>20))
		b.row("restore of "+mode, restores[i], "")
	}
	return drop(ctx, b.cluster.Bootstrap(), b.topic)
}

func (b *batchBench) backup(mode string) string { return filepath.Join(b.dir, mode) }

// once makes a backup and restores it.
func (b *batchBench) once(ctx context.Context, mode string, run int) (made, restored cost, err error) {
	fetch := []string{"kbk-fetch", "-b", b.cluster.Bootstrap(), "-t", b.topic}
	unpack := []string{"kbk-pack", "-d"}
	if mode == "batches" {
		fetch, unpack = append(fetch, "--batches"), append(unpack, "--batches")
	}
	if err := os.RemoveAll(b.backup(mode)); err != nil {
		return made, restored, err
	}
	if made, err = b.timed(fetch, []string{"kbk-pack"}, []string{"kbk-push", b.backup(mode)}); err != nil {
		return made, restored, err
	}
	target := fmt.Sprint(b.topic, "-", mode, "-", run)
	restored, err = b.timed([]string{"kbk-pull", b.backup(mode)}, unpack,
		[]string{"kbk-produce", "-b", b.cluster.Bootstrap(), "--create-topics", "--rename", b.topic + "=" + target})
	return made, restored, errors.Join(err, drop(ctx, b.cluster.Bootstrap(), target))
}

// timed runs a pipe.
func (b *batchBench) timed(stages ...[]string) (cost, error) {
	before, err := b.cluster.BrokerCPU(0)
	if err != nil {
		return cost{}, err
	}
	wall, stagesUsed, err := b.pipe(0, stages)
	if err != nil {
		return cost{}, err
	}
	after, err := b.cluster.BrokerCPU(0)
	c := cost{wall: wall, broker: after - before}
	for _, u := range stagesUsed {
		c.cpu, c.rss = c.cpu+u.cpu, c.rss+u.rss
	}
	return c, err
}

// row prints the medians of each figure.
func (b *batchBench) row(what string, costs []cost, stored string) {
	median := func(of func(cost) float64) float64 {
		var all []float64
		for _, c := range costs {
			all = append(all, of(c))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	gib := float64(b.set.values) / (1 << 30)
	fmt.Printf("| %s | %s | %.2f | %.2f | %.2f | %.0f | %s |\n", b.set.name, what,
		median(func(c cost) float64 { return c.wall.Seconds() }),
		median(func(c cost) float64 { return c.cpu.Seconds() })/gib,
		median(func(c cost) float64 { return c.broker.Seconds() })/gib,
		median(func(c cost) float64 { return float64(c.rss) }), stored)
	b.set.name = ""
}

// batchSize is the mean size of a batch in the topic.
func (b *batchBench) batchSize(ctx context.Context) (int64, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "kbk-fetch"), "-b", b.cluster.Bootstrap(), "-t", b.topic, "--batches")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var t format.Batch
	var n, size int64
	for r := format.NewReader(out, 0); ; {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return size / max(n, 1), cmd.Wait()
		}
		if err == nil && f.Kind == format.KindBatch {
			if err = t.Decode(f.Raw); err == nil {
				n, size = n+1, size+int64(len(t.Data))
			}
		}
		if err != nil {
			return 0, errors.Join(err, cmd.Wait())
		}
	}
}

// fill makes the topic and its records, by another process: what starts a process lends it
// its own peak of memory.
func (b *batchBench) fill(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s := b.set
	cmd := exec.CommandContext(ctx, self, "-fill", b.cluster.Bootstrap(), "-bytes", fmt.Sprint(s.values), "-fill-topic", b.topic,
		"-fill-value", fmt.Sprint(s.valueSize), "-fill-batch", fmt.Sprint(s.batch), "-fill-codec", s.codec,
		fmt.Sprint("-fill-transactions=", s.transactional), fmt.Sprint("-fill-compacted=", s.compacted))
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("fill the topic: %w", err)
	}
	if s.compacted {
		return b.awaitCompaction(ctx)
	}
	return nil
}

// awaitCompaction waits until the topic's size has been the same for a while.
func (b *batchBench) awaitCompaction(ctx context.Context) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.Bootstrap()))
	if err != nil {
		return err
	}
	defer cl.Close()
	last, since := int64(-1), time.Now()
	for time.Since(since) < 40*time.Second {
		dirs, err := kadm.NewClient(cl).DescribeAllLogDirs(ctx, nil)
		if err != nil {
			return err
		}
		size := int64(0)
		dirs.Each(func(d kadm.DescribedLogDir) {
			d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
				if p.Topic == b.topic {
					size += p.Size
				}
			})
		})
		if size != last {
			last, since = size, time.Now()
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// sizeOf is how many bytes the files of a folder have.
func sizeOf(dir string) (size int64, err error) {
	return size, filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
}
