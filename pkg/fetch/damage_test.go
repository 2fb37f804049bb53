package fetch

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/command"
)

// batches is what a broker has of partition 0 of topic t, from an offset on.
func (w *world) batches(offset int64) *kmsg.FetchResponseTopicPartition {
	w.Helper()
	meta, err := w.adm.Metadata(w.Context(), "t")
	if err != nil {
		w.Fatal(err)
	}
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxBytes, req.SessionEpoch, req.IsolationLevel = -1, 1<<30, -1, 1
	t, p := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	t.Topic, t.TopicID = "t", meta.Topics["t"].ID
	p.FetchOffset, p.PartitionMaxBytes = offset, 1<<30
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(w.Context(), w.cl)
	if err != nil {
		w.Fatal(err)
	}
	rp := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
		w.Fatal(err)
	}
	return &rp
}

// serve answers fetches of partition 0 of topic t with rp.
func (w *world) serve(rp *kmsg.FetchResponseTopicPartition) {
	w.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		fetch := req.(*kmsg.FetchRequest)
		resp := fetch.ResponseKind().(*kmsg.FetchResponse)
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.TopicID = fetch.Topics[0].Topic, fetch.Topics[0].TopicID
		rt.Partitions = append(rt.Partitions, *rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
}

// TestDamage flips a bit in each byte of a batch's header, and one in what it holds, of
// a batch between two others: data, data of a transaction, and a marker; read whole, and
// from a time on that lets batches be passed over. No run ends as if nothing had been.
func TestDamage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const headerSize = 61
	w := newWorld(t, 1, "t", 1, kgo.TransactionalID("tx"))
	now := time.Now()
	for range 2 { // offsets 0 to 2 and a marker, 4 to 6 and a marker
		if err := w.cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		var records []*kgo.Record
		for range 3 {
			records = append(records, &kgo.Record{Topic: "t", Timestamp: now, Value: []byte("value")})
		}
		if err := w.cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := w.cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	good := w.batches(0)
	starts := []int{0}
	for at := 0; at < len(good.RecordBatches); {
		at += 12 + int(uint32(good.RecordBatches[at+8])<<24|uint32(good.RecordBatches[at+9])<<16|uint32(good.RecordBatches[at+10])<<8|uint32(good.RecordBatches[at+11]))
		starts = append(starts, at)
	}
	if len(starts) != 5 {
		t.Fatalf("%d batches", len(starts)-1)
	}
	bad := *good
	w.serve(&bad)
	for batch, first := range map[int]int64{1: 3, 2: 4} {
		for at := range headerSize + 5 {
			bit := rnd.IntN(8)
			if at >= 12 && at < 16 {
				continue // the leader epoch: no checksum covers it, and no record depends on it
			}
			bad.RecordBatches = bytes.Clone(good.RecordBatches)
			bad.RecordBatches[starts[batch]+at] ^= 1 << bit
			for _, since := range []int64{0, 1} {
				r := w.fetch(func(c *Config) {
					c.Timeout = 400 * time.Millisecond
					if since > 0 {
						c.From = Bound{atTime, now.UnixMilli()}
					}
				}, nil)
				name := fmt.Sprintf("batch %d, bit %d of byte %d, from time %v", batch, bit, at, since > 0)
				if r.err == nil || r.end != nil || command.StatusOf(r.err) != command.Failed {
					t.Errorf("%s: %v, end %+v, records %d", name, r.err, r.end, r.offsets["t/0"])
				} else if at >= 8 && !strings.Contains(r.err.Error(), fmt.Sprint("offset ", first)) {
					t.Errorf("%s: %v", name, r.err)
				}
			}
		}
	}
}

// TestLargeBatch has a batch that comes to more than is allowed, in one of two
// partitions: what is too much of it is lost, and nothing else.
func TestLargeBatch(t *testing.T) {
	w := newWorld(t, 1, "t", 2, kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerBatchMaxBytes(20<<20), kgo.ProducerLinger(10*time.Millisecond))
	w.produce("t", 0, 2)
	w.produce("t", 1, 3)
	var records []*kgo.Record
	for range 5 {
		records = append(records, &kgo.Record{Topic: "t", Value: make([]byte, 1<<20)})
	}
	if err := w.cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.produce("t", 0, 1)
	limit := func(c *Config) { c.MaxBatch = 3<<20 + 1000 }
	r := w.fetch(limit, nil)
	what := "t/0: offsets 5 to 6 cannot be read: record batch at offset 2: too large: it holds more than 3146728 bytes"
	if command.StatusOf(r.err) != command.Loss || !r.end.Lost || !slices.Equal(r.end.Losses, []string{what}) || !strings.Contains(r.log, what) {
		t.Errorf("%v, end %+v\n%s", r.err, r.end, r.log)
	}
	if !slices.Equal(r.lost, [][2]int64{{5, 7}}) || !slices.Contains(r.kinds, "point") {
		t.Errorf("lost %d, frames %q", r.lost, r.kinds)
	}
	r.err = nil
	w.want(r, "t/0", []int64{0, 1, 2, 3, 4, 7}, 0, 7, 8)
	w.want(r, "t/1", upTo(3), 0, 3)
	r = w.fetch(func(c *Config) { limit(c); c.FailOnLoss = true }, nil)
	if command.StatusOf(r.err) != command.Loss || r.end != nil || !strings.Contains(r.err.Error(), "offsets 5 to 6") {
		t.Errorf("to fail on loss: %v, end %+v", r.err, r.end)
	}
	// What is too large and not wanted is no loss.
	if r = w.fetch(func(c *Config) { limit(c); c.To = Bound{atOffset, 5} }, nil); r.err != nil || len(r.lost) > 0 {
		t.Errorf("up to offset 5: %v, lost %d", r.err, r.lost)
	}
}
