// Package batchtest makes batches for tests.
package batchtest

import (
	"encoding/binary"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// Frame is the batch of records of one partition, whose offsets have to follow one another,
// compressed with a codec of [recordbatch.NewCompressor]. Where the first record has
// [format.LogAppendTime], all of them get the latest of their timestamps.
func Frame(t testing.TB, codec string, recs ...format.Record) *format.Batch {
	t.Helper()
	c, err := recordbatch.NewCompressor(codec, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b recordbatch.Builder
	for i := range recs {
		r := &recs[i]
		if r.Topic != recs[0].Topic || r.Partition != recs[0].Partition || r.Offset != recs[0].Offset+int64(i) {
			t.Fatalf("record %d of a batch is %s/%d, offset %d", i, r.Topic, r.Partition, r.Offset)
		}
		b.Append(r)
	}
	raw, err := b.Build(nil, c)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint64(raw, uint64(recs[0].Offset))
	if recs[0].Attributes&format.LogAppendTime != 0 {
		raw[22] |= 8 // the low byte of the attributes
	}
	recordbatch.Stamp(raw, -1, -1, -1)
	return Raw(t, recs[0].Topic, recs[0].Partition, raw)
}

// Raw is the frame of a batch as it is on disk.
func Raw(t testing.TB, topic string, partition int32, raw []byte) *format.Batch {
	t.Helper()
	batch, rest, err := recordbatch.Cut(raw)
	if err != nil || len(rest) > 0 {
		t.Fatalf("%v, %d bytes behind the batch", err, len(rest))
	}
	f := batch.Frame(topic, partition)
	return &f
}
