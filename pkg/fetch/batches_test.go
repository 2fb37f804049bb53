package fetch

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/kafka"
)

// produceBatch writes records of these times as one batch.
func (w *world) produceBatch(topic string, keyed bool, times ...int64) {
	w.Helper()
	var recs []*kgo.Record
	for i, ms := range times {
		r := &kgo.Record{Topic: topic, Value: fmt.Append(nil, "value ", i), Timestamp: time.UnixMilli(ms)}
		if keyed {
			r.Key = fmt.Append(nil, "key ", i%2)
		}
		recs = append(recs, r)
	}
	if err := w.cl.ProduceSync(w.Context(), recs...).FirstErr(); err != nil {
		w.Fatal(err)
	}
}

// TestBatches reads three batches, of offsets 0 to 3, 4 to 7 and 8 to 10, of which the
// second one's records are out of order by time.
func TestBatches(t *testing.T) {
	w := newWorld(t, 1, "t", 1, kgo.ProducerLinger(50*time.Millisecond))
	w.produceBatch("t", false, 100, 101, 102, 103)
	w.produceBatch("t", false, 204, 201, 209, 205)
	w.produceBatch("t", false, 300, 301, 302)
	meta, err := w.adm.Metadata(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) Bound {
		b, err := ParseBound(s, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	all := [][2]int64{{0, 3}, {4, 7}, {8, 10}}
	for name, c := range map[string]struct {
		change  func(*Config)
		batches [][2]int64
		offsets []int64
	}{
		"whole":          {func(*Config) {}, all, upTo(11)},
		"uncommitted":    {func(c *Config) { c.Uncommitted = true }, all, upTo(11)},
		"from an offset": {func(c *Config) { c.From = at("2") }, all[1:], upTo(11)[2:]},
		"to an offset":   {func(c *Config) { c.To = at("5") }, all[:1], upTo(5)},
		"to the edge":    {func(c *Config) { c.To = at("8") }, all[:2], upTo(8)},
		"a cursor": {func(c *Config) {
			c.Cursor = &cursor.Cursor{Version: 1, Topics: map[string]cursor.Topic{"t": {ID: kafka.FormatTopicID(meta.Topics["t"].ID), Partitions: map[int32]int64{0: 6}}}}
		}, all[2:], upTo(11)[6:]},
		"since the first time of a batch":  {func(c *Config) { c.From = at("@300") }, all[2:], upTo(11)[8:]},
		"since a time in a batch":          {func(c *Config) { c.From = at("@205") }, all[2:], []int64{6, 7, 8, 9, 10}},
		"until a time that cuts":           {func(c *Config) { c.To = at("@204") }, all[:1], []int64{0, 1, 2, 3, 4, 5}},
		"until the latest time of a batch": {func(c *Config) { c.To = at("@209") }, all[:2], upTo(8)},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.with(t)
			r := w.fetch(func(cfg *Config) {
				cfg.Batches = true
				c.change(cfg)
			}, nil)
			if r.err != nil || r.header.Content != format.ContentBatches || r.end.Records != int64(len(c.offsets)) {
				t.Fatalf("%v, header %+v, end %+v\n%s", r.err, r.header, r.end, r.log)
			}
			if !slices.Equal(r.batches, c.batches) || !slices.Equal(r.offsets["t/0"], c.offsets) {
				t.Errorf("batches %d, records %d; want %d, %d", r.batches, r.offsets["t/0"], c.batches, c.offsets)
			}
		})
	}
}

// TestBatchesOfTransactions leaves out what was aborted, and markers.
func TestBatchesOfTransactions(t *testing.T) {
	w := newWorld(t, 1, "t", 1, kgo.TransactionalID("tx"), kgo.ProducerLinger(50*time.Millisecond))
	for i, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		if err := w.cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		w.produceBatch("t", false, 1, 2, int64(i))
		if err := w.cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
	r := w.fetch(func(c *Config) { c.Batches = true }, nil)
	w.want(r, "t/0", []int64{0, 1, 2, 8, 9, 10}, 0, 12)
	if !slices.Equal(r.batches, [][2]int64{{0, 2}, {8, 10}}) {
		t.Errorf("batches %d", r.batches)
	}
}

// TestBatchesWithHoles reads what compaction has left of a batch as records, and the batch
// that it has left whole as it is.
func TestBatchesWithHoles(t *testing.T) {
	w := newWorldOf(t, []kfake.Opt{kfake.NumBrokers(1)}, "u", 1, kgo.ProducerLinger(50*time.Millisecond))
	compact := "compact"
	if _, err := w.adm.CreateTopic(t.Context(), 1, 1, map[string]*string{"cleanup.policy": &compact}, "t"); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UnixMilli()
	w.produceBatch("t", true, now, now, now, now, now) // two keys in turn
	w.produceBatch("t", true, now)                     // the first of them once more
	w.fake.Compact()
	r := w.fetch(func(c *Config) { c.Batches = true }, nil)
	w.want(r, "t/0", []int64{3, 4, 5}, 0, 6) // what was written last is not compacted
	if !slices.Equal(r.batches, [][2]int64{{5, 5}}) {
		t.Errorf("batches %d, frames %q", r.batches, r.kinds)
	}
}
