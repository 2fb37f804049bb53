package fetch

import (
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

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
