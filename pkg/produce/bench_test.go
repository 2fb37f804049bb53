package produce

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// BenchmarkRun is a whole restore of 64 MiB to an embedded broker that forgets what it is
// given. The broker's share is in it.
func BenchmarkRun(b *testing.B) {
	benchmarkRun(b, func(frames frameList) []byte { return stream(b, &format.End{}, frames...) })
}

// BenchmarkRunBatches is the same in batches of some 140 KB, which stay as they are.
func BenchmarkRunBatches(b *testing.B) {
	benchmarkRun(b, func(frames frameList) []byte { return batches(b, batched(b, "lz4", 1000, frames)...) })
}

// BenchmarkRunSmall is the same in batches of some 3 KB, which are joined.
func BenchmarkRunSmall(b *testing.B) {
	benchmarkRun(b, func(frames frameList) []byte { return batches(b, batched(b, "lz4", 20, frames)...) })
}

func benchmarkRun(b *testing.B, encode func(frameList) []byte) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BlackholeProduce())
	if err != nil {
		b.Fatal(err)
	}
	defer fake.Close()
	const n = 64 << 20 / 500
	frames := frameList{topic("t", 4)}
	for i := range int64(n) {
		value := fmt.Appendf(nil, `{"order":"o-%09d","customer":"c-%06d","note":"`, i, i*7919%100_000)
		for len(value) < 490 {
			value = fmt.Appendf(value, "shipped pending %x ", i*int64(len(value))%9973)
		}
		frames = append(frames, format.Record{Topic: "t", Partition: int32(i / 20_000 % 4), Offset: i, Timestamp: time.Now().UnixMilli(), Key: fmt.Appendf(nil, "o-%09d", i), Value: value[:490]})
	}
	in := encode(frames)
	naming, err := parseNaming(nil, "")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(n * 500)
	began := processor(b)
	for i := 0; b.Loop(); i++ {
		naming.Prefix = fmt.Sprint("run", i, ".")
		err := Run(b.Context(), Config{
			Kafka: kafka.Config{Brokers: fake.ListenAddrs()}, Naming: naming, CreateTopics: true, IfNotEmpty: appending,
			Timeout: time.Minute, Memory: 128 << 20, MaxFrame: 1 << 30,
		}, &command.Env{Log: slog.New(slog.DiscardHandler)}, bytes.NewReader(in), io.Discard)
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((processor(b)-began).Seconds()/(float64(b.N)*n*500/(1<<30)), "cpu-s/GiB")
}

// processor is the processor time of this process.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
