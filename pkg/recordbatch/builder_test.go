package recordbatch

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
)

var allCodecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// extremes are timestamps as they are found where something went wrong, and the ends.
var extremes = []int64{1_700_000_000_000, 1_700_000_000_000_000, -62_135_596_800_000, math.MinInt64, math.MaxInt64, -1, 0, math.MinInt64}

func testCompressor(t testing.TB, codec string) *Compressor {
	t.Helper()
	c, err := NewCompressor(codec, 0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// numbered gives records the offsets that a builder gives them.
func numbered(recs []format.Record) []format.Record {
	out := append([]format.Record(nil), recs...)
	for i := range out {
		out[i].Offset, out[i].Attributes = int64(i), 0
	}
	return out
}

func buildBatch(t testing.TB, b *Builder, c *Compressor, recs []format.Record) []byte {
	t.Helper()
	b.Reset()
	for i := range recs {
		before := b.Size()
		b.Append(&recs[i])
		if grew := b.Size() - before; grew > RecordSize(&recs[i]) {
			t.Errorf("a record took %d bytes, more than %d", grew, RecordSize(&recs[i]))
		}
	}
	out, err := b.Build(nil, c)
	if err != nil {
		t.Fatal(err)
	}
	Stamp(out, 77, 3, 1234)
	return out
}

func TestBuilder(t *testing.T) {
	all := numbered(records)
	for _, ts := range extremes {
		all = append(all, format.Record{Offset: int64(len(all)), Timestamp: ts, Headers: []format.RecordHeader{}})
	}
	var b Builder
	for _, codec := range allCodecs {
		raw := buildBatch(t, &b, testCompressor(t, codec), all)
		if codec == "none" && len(raw) != b.Size() {
			t.Errorf("%d bytes, and not %d", len(raw), b.Size())
		}
		batch, got := decode(t, raw)
		if batch.ProducerID != 77 || batch.ProducerEpoch != 3 || batch.Sequence != 1234 || int(batch.Records) != len(all) || batch.Last != int64(len(all)-1) || batch.Size() != len(raw) {
			t.Errorf("%s: %+v", codec, batch)
		}
		if batch.MaxTimestamp != math.MaxInt64 || b.MinTime() != math.MinInt64 || b.MaxTime() != math.MaxInt64 {
			t.Errorf("%s: timestamps from %d to %d", codec, b.MinTime(), batch.MaxTimestamp)
		}
		for i := range got {
			if !alike(got[i], all[i]) {
				t.Errorf("%s: record %d is %+v, and not %+v", codec, i, got[i], all[i])
			}
		}
	}
	if _, err := NewCompressor("zip", 0); err == nil {
		t.Error("a codec that is none was taken")
	}
}

// alike compares records, of which one has no headers where the other has none of them.
func alike(a, b format.Record) bool {
	if len(a.Headers) == 0 && len(b.Headers) == 0 {
		a.Headers, b.Headers = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// TestBuilderAgainstKmsg holds the builder against franz-go's own reading of a batch.
func TestBuilderAgainstKmsg(t *testing.T) {
	raw := buildBatch(t, new(Builder), testCompressor(t, "none"), records)
	var b kmsg.RecordBatch
	if err := b.ReadFrom(raw); err != nil {
		t.Fatal(err)
	}
	if int(b.Length) != len(raw)-12 || b.NumRecords != int32(len(records)) || b.FirstTimestamp != records[0].Timestamp || b.PartitionLeaderEpoch != -1 || b.Magic != 2 {
		t.Errorf("%+v", b)
	}
}

// TestBuilderKfake lets a broker's checks see a batch, and a consumer read it.
func TestBuilderKfake(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...), kgo.DisableFetchSessions(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"t": {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	all := numbered(records)
	all[len(all)-1].Value = bytes.Repeat([]byte("x"), 100_000) // what a topic takes by default
	var b Builder
	sequence := int32(0)
	for _, codec := range allCodecs {
		raw := buildBatch(t, &b, testCompressor(t, codec), all)
		Stamp(raw, 9, 0, sequence)
		sequence = NextSequence(sequence, int32(len(all)))
		req := kmsg.NewPtrProduceRequest()
		req.Acks = -1
		topic := kmsg.NewProduceRequestTopic()
		topic.Topic, topic.TopicID = "t", fake.TopicInfo("t").TopicID
		part := kmsg.NewProduceRequestTopicPartition()
		part.Records = raw
		topic.Partitions = append(topic.Partitions, part)
		req.Topics = append(req.Topics, topic)
		resp, err := req.RequestWith(t.Context(), cl)
		if err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Fatalf("%s: %v, %+v", codec, err, resp)
		}
	}
	var got []*kgo.Record
	for len(got) < len(all)*len(allCodecs) {
		fetches := cl.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		got = append(got, fetches.Records()...)
	}
	for i, r := range got {
		want := all[i%len(all)]
		if !bytes.Equal(r.Key, want.Key) || (r.Key == nil) != (want.Key == nil) || !bytes.Equal(r.Value, want.Value) || (r.Value == nil) != (want.Value == nil) || len(r.Headers) != len(want.Headers) {
			t.Errorf("record %d is %+v", i, r)
		}
	}
}

func TestNextSequence(t *testing.T) {
	for _, c := range []struct{ at, records, next int32 }{{0, 5, 5}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 2, 5, 2}} {
		if got := NextSequence(c.at, c.records); got != c.next {
			t.Errorf("%d and %d records: %d, not %d", c.at, c.records, got, c.next)
		}
	}
}

// FuzzBuilder wants that whatever is built is decoded again as it was.
func FuzzBuilder(f *testing.F) {
	f.Add(int64(5), int64(-5), []byte("key"), []byte("value"), []byte("name"), uint8(3))
	f.Add(int64(math.MaxInt64), int64(math.MinInt64), []byte{}, []byte{}, []byte{0xff}, uint8(0))
	f.Fuzz(func(t *testing.T, first, second int64, key, value, name []byte, flags uint8) {
		recs := []format.Record{
			{Timestamp: first, Key: key, Headers: []format.RecordHeader{{Name: append([]byte{}, name...), Value: value}}},
			{Offset: 1, Timestamp: second, Value: value, Headers: []format.RecordHeader{}},
		}
		if flags&1 != 0 {
			recs[0].Key, recs[0].Headers[0].Value = nil, nil
		}
		_, got := decode(t, buildBatch(t, new(Builder), testCompressor(t, allCodecs[int(flags>>1)%len(allCodecs)]), recs))
		for i := range recs {
			if !alike(got[i], recs[i]) {
				t.Errorf("record %d is %+v, and not %+v", i, got[i], recs[i])
			}
		}
	})
}

// benchRecords are records of 500 B that compress about four to one.
func benchRecords() []format.Record {
	r := rand.New(rand.NewPCG(1, 2))
	recs := make([]format.Record, 1000)
	for i := range recs {
		value := fmt.Appendf(nil, `{"id":%d,"customer":"%x","items":[`, i, r.Uint64())
		for len(value) < 480 {
			value = fmt.Appendf(value, `{"sku":"A-%d","quantity":%d},`, r.IntN(1000), r.IntN(9))
		}
		recs[i] = format.Record{Timestamp: int64(i), Key: fmt.Appendf(nil, "key-%d", i), Value: value}
	}
	return recs
}

// BenchmarkBuilder is what a batch of 1,000 records costs, by codec.
func BenchmarkBuilder(b *testing.B) {
	recs := benchRecords()
	for _, codec := range allCodecs {
		b.Run(codec, func(b *testing.B) {
			c := testCompressor(b, codec)
			var builder Builder
			var out []byte
			b.ReportAllocs()
			for b.Loop() {
				builder.Reset()
				for i := range recs {
					builder.Append(&recs[i])
				}
				var err error
				if out, err = builder.Build(out[:0], c); err != nil {
					b.Fatal(err)
				}
				Stamp(out, 1, 0, 0)
			}
			b.SetBytes(int64(builder.Size()))
		})
	}
}

// BenchmarkFranz is the same through franz-go's producer, to a broker that takes all.
func BenchmarkFranz(b *testing.B) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"), kfake.BlackholeProduce())
	if err != nil {
		b.Fatal(err)
	}
	defer fake.Close()
	recs := benchRecords()
	for name, codec := range map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "zstd": kgo.ZstdCompression()} {
		b.Run(name, func(b *testing.B) {
			cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec), kgo.DefaultProduceTopic("t"))
			if err != nil {
				b.Fatal(err)
			}
			defer cl.Close()
			var size int64
			b.ReportAllocs()
			for b.Loop() {
				size = 0
				for i := range recs {
					size += int64(len(recs[i].Key) + len(recs[i].Value))
					cl.Produce(b.Context(), &kgo.Record{Key: recs[i].Key, Value: recs[i].Value}, nil)
				}
			}
			if err := cl.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
		})
	}
}
