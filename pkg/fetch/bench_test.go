package fetch

import (
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// BenchmarkFetch reads 8 partitions of a broker in the same process, which makes up
// batches of records of 500 bytes.
func BenchmarkFetch(b *testing.B) {
	const partitions, records, size = 8, 200_000, 500
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SyntheticFetch(kfake.SyntheticBatch{Records: 200, RecordBytes: size, RandomFrac: 0.3, Compression: kgo.Lz4Compression()}))
	if err != nil {
		b.Fatal(err)
	}
	defer fake.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(b.Context(), partitions, 1, nil, "t"); err != nil {
		b.Fatal(err)
	}
	to, err := ParseBound(fmt.Sprint(records/partitions), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	cfg := Config{
		Kafka: kafka.Config{Brokers: fake.ListenAddrs()}, Topics: []string{"t"}, To: to, Concurrency: 64, Timeout: time.Minute,
		FetchBytes: 16 << 20, FetchPartitionBytes: 256 << 10, FetchWait: 500 * time.Millisecond,
	}
	b.SetBytes(records * size)
	b.ReportAllocs()
	for b.Loop() {
		if err := Run(b.Context(), cfg, &command.Env{Log: slog.New(slog.DiscardHandler)}, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdle follows 10,000 partitions that are idle but for one. An operation is a
// record of that one, from the broker to the stream.
func BenchmarkIdle(b *testing.B) {
	const partitions = 10_000
	fake, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		b.Fatal(err)
	}
	defer fake.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(b.Context(), partitions, 1, nil, "t"); err != nil {
		b.Fatal(err)
	}
	var asked, fetches atomic.Int64
	fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		fetches.Add(1)
		asked.Add(int64(len(req.AppendTo(nil))))
		return nil, nil, false
	})
	cfg := Config{
		Kafka: kafka.Config{Brokers: fake.ListenAddrs()}, Topics: []string{"t"}, Timeout: time.Minute, Follow: true, Refresh: time.Hour,
		FetchBytes: 16 << 20, FetchPartitionBytes: 256 << 10, FetchWait: 500 * time.Millisecond,
	}
	stop := make(chan struct{})
	ended := make(chan error, 1)
	in, out := io.Pipe()
	go func() {
		err := Run(b.Context(), cfg, &command.Env{Log: slog.New(slog.DiscardHandler), Stop: stop}, out)
		out.Close()
		ended <- err
	}()
	records := make(chan struct{}, 1)
	go func() {
		for r := format.NewReader(in, 0); ; {
			f, err := r.Next()
			if err != nil {
				return
			}
			if f.Kind == format.KindRec {
				records <- struct{}{}
			}
		}
	}()
	one := func() {
		if err := cl.ProduceSync(b.Context(), &kgo.Record{Topic: "t", Partition: 17, Value: []byte("v")}).FirstErr(); err != nil {
			b.Fatal(err)
		}
		<-records
	}
	for range 3 { // it is under way
		one()
	}
	asked.Store(0)
	fetches.Store(0)
	b.ReportAllocs()
	for b.Loop() {
		one()
	}
	b.ReportMetric(float64(asked.Load())/float64(fetches.Load()), "B/request")
	close(stop)
	if err := <-ended; command.StatusOf(err) != command.Interrupted {
		b.Fatal(err)
	}
}
