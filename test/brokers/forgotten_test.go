package brokers

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/partitionlog"
	"github.com/kbkio/kbk/pkg/recordbatch"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// TestForgottenProducer kills a broker that has written a batch and not said so. When it
// comes back it does not know the producer of old records any more (ProducerStateManager
// drops, as it loads, whoever has written nothing younger than producer.id.expiration.ms,
// by the records' own timestamps), and takes the same batch for a new one.
func TestForgottenProducer(t *testing.T) {
	c, err := kafkatest.Start(t.Context(), kafkatest.Options{Brokers: 1, HeapMB: 256})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	var mute mute
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.Bootstrap(), ",")...), kgo.Dialer(mute.dial), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, "old"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	logs := partitionlog.New(ctx, cl, slog.New(slog.DiscardHandler), patience)
	producer, epoch, err := logs.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const batches, each = 3, 10
	p := partitionlog.Partition{Topic: "old"}
	log := logs.NewWriter(ctx).Open(p, 0)
	mute.next.Store(true)
	type result struct {
		base int64
		err  error
	}
	results := make(chan result, batches)
	for i := range int32(batches) {
		log.Append(partitionlog.Batch{Raw: oldBatch(t, producer, epoch, i*each, each), Done: func(base, _ int64, err error) { results <- result{base, err} }})
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // until the first is written
		ends, err := adm.ListEndOffsets(ctx, "old")
		if err != nil {
			t.Fatal(err)
		}
		if o, _ := ends.Lookup("old", 0); o.Offset == each {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the first batch was not written")
		}
	}
	if err := c.KillBroker(0); err != nil {
		t.Fatal(err)
	}
	if err := c.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for i := range int64(batches) {
		if r := <-results; r.err != nil || r.base != i*each {
			t.Errorf("batch %d went to offset %d, %v", i, r.base, r.err)
		}
	}
	if end, err := logs.End(ctx, p); err != nil || end != batches*each {
		t.Errorf("the log ends at %d, not at %d: %v", end, batches*each, err)
	}
}

// oldBatch makes a batch of records of the year 1970.
func oldBatch(t *testing.T, producer int64, epoch int16, sequence int32, n int) []byte {
	t.Helper()
	none, err := recordbatch.NewCompressor("none", 0)
	if err != nil {
		t.Fatal(err)
	}
	var b recordbatch.Builder
	for range n {
		b.Append(&format.Record{Timestamp: 1, Value: []byte("old")})
	}
	raw, err := b.Build(nil, none)
	if err != nil {
		t.Fatal(err)
	}
	recordbatch.Stamp(raw, producer, epoch, sequence)
	return raw
}

// mute keeps from the client what comes behind the next Produce request on its connection.
type mute struct{ next atomic.Bool }

func (m *mute) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &muted{Conn: conn, m: m}, nil
}

type muted struct {
	net.Conn
	m      *mute
	silent atomic.Bool
}

// Write looks at a request's key, behind its size: 0 is Produce.
func (c *muted) Write(b []byte) (int, error) {
	if len(b) >= 6 && b[4] == 0 && b[5] == 0 && c.m.next.CompareAndSwap(true, false) {
		c.silent.Store(true)
	}
	return c.Conn.Write(b)
}

// Read gives nothing of what comes once the connection is silent, but its end.
func (c *muted) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.silent.Load() {
			return n, err
		}
	}
}
