// Command bench measures whole pipes against a real Kafka, and prints what each
// stage of them took: `make bench` runs it. Processor seconds and peak memory are
// the operating system's own account of each process. The figures of a machine
// are in docs/performance.md. With -pack it measures packing alone, beside zstd, lz4, gzip
// and age on the same bytes; with -batches backups and restores of batches beside those of
// records, for producers of several kinds; with -mirror mirrors of a cluster beside
// MirrorMaker 2.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

const (
	topic      = "orders"
	partitions = 8
	valueSize  = 500
)

func main() {
	bin := flag.String("bin", "bin", "folder of the built commands")
	size := flag.Int64("bytes", 1<<30, "bytes of values to measure with")
	runs := flag.Int("runs", 3, "runs of each pipe; the one of median duration is printed")
	packing := flag.Bool("pack", false, "measure kbk-pack and the public tools on the same bytes, without Kafka")
	filtering := flag.Bool("filter", false, "measure kbk-filter beside cat and jq, without Kafka")
	keep := flag.Bool("exact", false, "measure what it costs to keep offsets, beside kafka-producer-perf-test")
	raw := flag.Bool("batches", false, "measure batches beside records, for producers of several kinds")
	mirrors := flag.Bool("mirror", false, "measure mirrors of a cluster beside MirrorMaker 2")
	only := flag.String("only", "", "with -batches or -mirror: only sets whose name contains this")
	brokers := flag.String("fill", "", "only fill a topic of these brokers")
	f := filling{topic: topic, valueSize: valueSize, batch: 1 << 20, codec: "lz4"}
	flag.StringVar(&f.topic, "fill-topic", f.topic, "with -fill: the topic")
	flag.IntVar(&f.valueSize, "fill-value", f.valueSize, "with -fill: bytes of a value")
	flag.IntVar(&f.batch, "fill-batch", f.batch, "with -fill: bytes of a batch, uncompressed, at most")
	flag.StringVar(&f.codec, "fill-codec", f.codec, "with -fill: what batches are compressed with")
	flag.BoolVar(&f.transactional, "fill-transactions", false, "with -fill: 100 records each")
	flag.BoolVar(&f.compacted, "fill-compacted", false, "with -fill: a compacted topic, whose keys repeat")
	stores := flag.Bool("store", false, "measure push and pull beside rclone instead, on bytes that do not compress")
	flag.Parse()
	if *stores {
		if err := benchStore(*bin, *size, *runs); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *brokers != "" {
		if err := f.fill(context.Background(), *brokers, int(*size/int64(f.valueSize))); err != nil {
			fmt.Fprintln(os.Stderr, "bench: fill the topic:", err)
			os.Exit(1)
		}
		return
	}
	if *raw {
		if err := batches(context.Background(), *bin, *size, *runs, *only); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *mirrors {
		if err := benchMirror(context.Background(), *bin, *size, *runs, *only); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	measure := run
	if *packing {
		measure = pack
	}
	if *filtering {
		measure = filter
	}
	if *keep {
		measure = exact
	}
	if err := measure(context.Background(), *bin, int(*size/valueSize), *runs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, records, runs int) (err error) {
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
	began := time.Now()
	// By another process: what starts a process lends it its own peak of memory.
	self, err := os.Executable()
	if err != nil {
		return err
	}
	filler := exec.CommandContext(ctx, self, "-fill", c.Bootstrap(), "-bytes", fmt.Sprint(records*valueSize))
	filler.Stderr = os.Stderr
	if err := filler.Run(); err != nil {
		return fmt.Errorf("fill the topic: %w", err)
	}
	fmt.Printf("%d records of %d B in %d partitions, lz4 in the topic, made in %.1f s\n\n", records, valueSize, partitions, time.Since(began).Seconds())
	fmt.Println("| pipe | stage | wall s | CPU s | CPU s/GB of values | peak RSS MiB | records/s of the pipe |")
	fmt.Println("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
	b := bench{bin: bin, records: records, runs: runs}
	b.measure("fetch > /dev/null", nil, []string{"kbk-fetch", "-b", c.Bootstrap(), "-t", topic})
	// What people read a topic with today, on the same one.
	if kcat, err := exec.LookPath("kcat"); err == nil {
		b.measure("kcat > /dev/null", nil, []string{kcat, "-C", "-e", "-q", "-D", "", "-b", c.Bootstrap(), "-t", topic})
	} else {
		fmt.Fprintln(os.Stderr, "bench: there is no kcat to compare with")
	}
	perf := c.PerfTool(ctx, "org.apache.kafka.tools.ConsumerPerformance",
		"--bootstrap-server", c.Bootstrap(), "--topic", topic, "--num-records", fmt.Sprint(records), "--timeout", "60000").Args
	b.measure("consumer-perf-test", nil, perf)
	backup := filepath.Join(dir, "backup")
	b.measure("backup", func(int) error { return os.RemoveAll(backup) },
		[]string{"kbk-fetch", "-b", c.Bootstrap(), "-t", topic}, []string{"kbk-pack"}, []string{"kbk-push", backup})
	b.measure("pull, unpack > /dev/null", nil, []string{"kbk-pull", backup}, []string{"kbk-pack", "-d"})
	target := ""
	b.measure("restore", func(i int) error {
		if target != "" { // make room
			if err := drop(ctx, c.Bootstrap(), target); err != nil {
				return err
			}
		}
		target = fmt.Sprint("restored-", i)
		return nil
	}, []string{"kbk-pull", backup}, []string{"kbk-pack", "-d"},
		[]string{"kbk-produce", "-b", c.Bootstrap(), "--create-topics", "--rename", topic + "=TARGET"})
	return b.err
}

type bench struct {
	bin     string
	records int
	runs    int
	err     error
}

// usage is what one stage took in one run.
type usage struct {
	name string
	wall time.Duration // of a line of shell
	cpu  time.Duration
	rss  int64 // MiB
}

// measure runs a pipe some times, each after prepare, and prints the median run.
// TARGET in an argument is restored-<run>.
func (b *bench) measure(name string, prepare func(i int) error, stages ...[]string) {
	type result struct {
		wall  time.Duration
		usage []usage
	}
	var results []result
	for i := range b.runs {
		if b.err != nil {
			return
		}
		if prepare != nil {
			if b.err = prepare(i); b.err != nil {
				return
			}
		}
		wall, u, err := b.pipe(i, stages)
		if err != nil {
			b.err = fmt.Errorf("%s: %w", name, err)
			return
		}
		results = append(results, result{wall, u})
	}
	slices.SortFunc(results, func(a, b result) int { return int(a.wall - b.wall) })
	r := results[len(results)/2]
	for i, u := range r.usage {
		wall, rate := "", ""
		if i == 0 {
			wall, rate = fmt.Sprintf("%.2f", r.wall.Seconds()), fmt.Sprintf("%.0f", float64(b.records)/r.wall.Seconds())
		} else {
			name = ""
		}
		fmt.Printf("| %s | %s | %s | %.2f | %.2f | %d | %s |\n", name, u.name, wall, u.cpu.Seconds(), u.cpu.Seconds()*1e9/float64(b.records*valueSize), u.rss, rate)
	}
}

func (b *bench) pipe(run int, stages [][]string) (time.Duration, []usage, error) {
	var cmds []*exec.Cmd
	var errs []*strings.Builder
	var ends []io.Closer
	began := time.Now()
	for i, args := range stages {
		words := make([]string, 0, len(args))
		for _, w := range args[1:] {
			words = append(words, strings.ReplaceAll(w, "TARGET", fmt.Sprint("restored-", run)))
		}
		name := args[0]
		if !filepath.IsAbs(name) {
			name = filepath.Join(b.bin, name)
		}
		cmd := exec.Command(name, words...)
		stderr := new(strings.Builder)
		cmd.Stderr = stderr
		if i > 0 {
			r, w, err := os.Pipe()
			if err != nil {
				return 0, nil, err
			}
			cmds[i-1].Stdout, cmd.Stdin = w, r
			ends = append(ends, r, w)
		}
		cmds, errs = append(cmds, cmd), append(errs, stderr)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	cmds[len(cmds)-1].Stdout = null
	for _, cmd := range cmds {
		if err := cmd.Start(); err != nil {
			return 0, nil, err
		}
	}
	for _, e := range ends {
		e.Close()
	}
	var out []usage
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			return 0, nil, fmt.Errorf("%s: %w: %s", stages[i][0], err, errs[i])
		}
		s := cmd.ProcessState
		out = append(out, usage{name: filepath.Base(stages[i][0]), cpu: s.UserTime() + s.SystemTime(), rss: peak(s) >> 20})
	}
	return time.Since(began), out, nil
}

// peak is a process's peak memory in bytes.
func peak(s *os.ProcessState) int64 {
	if u, ok := s.SysUsage().(*syscall.Rusage); ok {
		return int64(u.Maxrss) << 10 // KiB on Linux
	}
	return 0
}

// A filling is what a topic is filled with.
type filling struct {
	topic                    string
	valueSize, batch         int
	codec                    string
	transactional, compacted bool
}

// transaction is how many records a transaction has.
const transaction = 100

// fill produces JSON events of valueSize bytes that compress about as orders do.
func (f filling) fill(ctx context.Context, brokers string, records int) error {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	opts := []kgo.Opt{kgo.SeedBrokers(brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(1 << 18),
		kgo.ProducerBatchCompression(codecs[f.codec]), kgo.ProducerBatchMaxBytes(int32(f.batch)), kgo.ProducerLinger(100 * time.Millisecond)}
	if f.transactional {
		opts = append(opts, kgo.TransactionalID("bench"))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	configs := map[string]*string{}
	if f.compacted {
		for k, v := range map[string]string{"cleanup.policy": "compact", "segment.bytes": "16777216", "min.cleanable.dirty.ratio": "0.01"} {
			configs[k] = &v
		}
	}
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, configs, f.topic); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, 2))
	var failed error
	for i := range records {
		if f.transactional && i%transaction == 0 {
			if err := nextTransaction(ctx, cl, i > 0); err != nil {
				return err
			}
		}
		rec := &kgo.Record{Topic: f.topic, Partition: int32(i % partitions), Key: fmt.Appendf(nil, "o-%09d", f.key(i, records)), Value: event(r, i, f.valueSize)}
		cl.Produce(ctx, rec, func(_ *kgo.Record, err error) {
			if err != nil && failed == nil {
				failed = err
			}
		})
	}
	if err := errors.Join(cl.Flush(ctx), failed); err != nil || !f.transactional {
		return err
	}
	return cl.EndTransaction(ctx, kgo.TryCommit)
}

// key numbers a record's key. Those of a compacted topic come twice, the second time
// in another order.
func (f filling) key(i, records int) int {
	if half := records / 2; f.compacted && i >= half {
		return (i - half) * 7919 % max(half, 1)
	}
	return i
}

func nextTransaction(ctx context.Context, cl *kgo.Client, begun bool) error {
	if begun {
		if err := errors.Join(cl.Flush(ctx), cl.EndTransaction(ctx, kgo.TryCommit)); err != nil {
			return err
		}
	}
	return cl.BeginTransaction()
}

var words = strings.Fields("shipped pending returned express standard gift invoice warehouse parcel locker morning evening fragile insured signature neighbour")

// event is a value of so many bytes.
func event(r *rand.Rand, i, valueSize int) []byte {
	v := make([]byte, 0, valueSize+32)
	v = fmt.Appendf(v, `{"order":"o-%09d","customer":"c-%06d","country":"DE","amount":%d.%02d,"trace":"%016x","note":"`, i, r.IntN(100_000), r.IntN(1000), r.IntN(100), r.Uint64())
	for len(v) < valueSize-2 {
		v = append(append(v, words[r.IntN(len(words))]...), ' ')
	}
	return append(v[:valueSize-2], `"}`...)
}

func createTopic(ctx context.Context, brokers, name string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, nil, name)
	return err
}

func drop(ctx context.Context, brokers, name string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).DeleteTopic(ctx, name)
	return err
}
