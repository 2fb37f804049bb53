package produce

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// Offsets in a batch.
const (
	batchAttributes = 21
	batchBaseTime   = 27
	batchRecords    = 61
)

// batchOf makes a batch as a broker has it, of records that follow one another.
func batchOf(t testing.TB, codec string, recs ...format.Record) *format.Batch {
	t.Helper()
	c, err := recordbatch.NewCompressor(codec, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b recordbatch.Builder
	for i := range recs {
		b.Append(&recs[i])
	}
	raw, err := b.Build(nil, c)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint64(raw, uint64(recs[0].Offset))
	binary.BigEndian.PutUint32(raw[12:], 17) // some leader epoch
	return changed(t, recs[0].Topic, recs[0].Partition, raw, func([]byte) {})
}

// changed changes a batch, and makes the checksum right.
func changed(t testing.TB, topic string, num int32, raw []byte, change func(raw []byte)) *format.Batch {
	t.Helper()
	raw = slices.Clone(raw)
	change(raw)
	recordbatch.Stamp(raw, 4711, 3, 99) // of another cluster
	b, rest, err := recordbatch.Cut(raw)
	if err != nil || len(rest) > 0 {
		t.Fatal(err, len(rest))
	}
	f := b.Frame(topic, num)
	return &f
}

// batched makes batches of so many records each of those in frames that follow one another.
func batched(t testing.TB, codec string, n int, frames frameList) (out frameList) {
	t.Helper()
	var some []format.Record
	flush := func() {
		if len(some) > 0 {
			out = append(out, batchOf(t, codec, some...))
			some = nil
		}
	}
	for _, f := range frames {
		rec, ok := f.(format.Record)
		if last := len(some) - 1; !ok || last >= 0 && (len(some) == n || rec.Partition != some[last].Partition || rec.Topic != some[last].Topic || rec.Offset != some[last].Offset+1) {
			flush()
		}
		if !ok {
			out = append(out, f)
			continue
		}
		some = append(some, rec)
	}
	flush()
	return out
}

// noisy gives records so much in their headers that no batch of some of them is small.
func noisy(frames frameList) frameList {
	for i, f := range frames {
		rec := f.(format.Record)
		noise := make([]byte, joinPlain)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		rec.Headers = []format.RecordHeader{{Name: []byte("noise"), Value: noise}}
		frames[i] = rec
	}
	return frames
}

func batches(t testing.TB, frames ...any) []byte {
	t.Helper()
	return streamOf(t, format.ContentBatches, &format.End{}, frames...)
}

// stored are the batches of a partition's log.
func (r *rig) stored(topic string, num int32, end int64) (out []recordbatch.Batch) {
	r.Helper()
	for at := int64(0); at < end; {
		answer, err := r.logs().Read(r.Context(), partitionOf(topic, num), at, 1<<20, 0)
		if err != nil {
			r.Fatal(err)
		}
		for rest := answer.RecordBatches; len(rest) > 0; {
			var b recordbatch.Batch
			if b, rest, err = recordbatch.Cut(rest); err != nil {
				r.Fatal(err)
			}
			out, at = append(out, b), b.Last+1
		}
	}
	return out
}

// payload is what a batch holds, with the codec it is compressed with.
func payload(raw []byte) string {
	return fmt.Sprintf("codec %d, base time %d: %x", raw[batchAttributes+1]&7, binary.BigEndian.Uint64(raw[batchBaseTime:]), raw[batchRecords:])
}

// TestBatches produces batches of each codec, and records between them, and looks for the
// very bytes in the log. The same again, as records and as batches cut otherwise, is there
// already.
func TestBatches(t *testing.T) {
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			frames := join(frameList{topic("t", 2), &format.Mark{Topic: "t", Next: 100}},
				noisy(records("t", 0, 100, 50)), records("t", 1, 7, 25), noisy(records("t", 0, 150, 43)), records("t", 1, 40, 30))
			var in frameList
			for i, f := range batched(t, codec, 10, frames) {
				if b, ok := f.(*format.Batch); ok && b.First == 150 { // some records among batches
					in = append(in, frames[2+50+25:2+50+25+10]...)
					continue
				}
				if b, ok := f.(*format.Batch); ok && i%2 == 0 { // the bits of a transaction and a delete horizon
					f = changed(t, "t", b.Partition, b.Data, func(raw []byte) { raw[batchAttributes+1] |= 0x50 })
				}
				in = append(in, f)
			}
			o := r.produce(batches(t, in...), nil)
			o.want(t, 0, "produced 148 records to 1 topic")
			r.same("t", 2, wanted(false, frames, 2))
			if o.mapped() != 148 || len(o.maps) != 3 {
				t.Errorf("the map: %+v", o.maps)
			}
			var want, got []string
			for _, f := range in {
				if b, ok := f.(*format.Batch); ok && b.Partition == 0 {
					want = append(want, payload(b.Data))
				}
			}
			for _, b := range r.stored("t", 0, 93) {
				if b.Transactional() || b.Raw()[batchAttributes+1]&0xf8 != 0 || b.ProducerID == 4711 || b.LeaderEpoch == 17 {
					t.Errorf("the batch at offset %d has attributes %x of producer %d, leader epoch %d", b.First, b.Raw()[batchAttributes+1], b.ProducerID, b.LeaderEpoch)
				}
				if b.First != 50 { // those that came as records
					got = append(got, payload(b.Raw()))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("the log has other batches:\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for name, again := range map[string][]byte{
				"the same":           batches(t, in...),
				"records":            stream(t, &format.End{}, frames...),
				"cut otherwise":      batches(t, batched(t, codec, 7, frames)...),
				"with another codec": batches(t, batched(t, "zstd", 10, frames)...),
			} {
				o := r.produce(again, nil)
				o.want(t, 0, "produced 0 records to 1 topic, where 148 records were already")
				if o.mapped() != 148 || len(o.maps) != 3 {
					t.Errorf("%s: the map: %+v", name, o.maps)
				}
			}
			more := join(frames, records("t", 1, 70, 10))
			for i, n := range []int{9, 10} {
				more = join(more, records("t", 0, 193+int64(i)*5, 5))
				r.produce(batches(t, batched(t, codec, n, more)...), nil).want(t, 0, "were already")
				r.same("t", 2, wanted(false, more, 2))
			}
			last := more[len(more)-1].(format.Record)
			last.Value = []byte("another")
			more[len(more)-1] = last
			r.produce(batches(t, batched(t, codec, 10, more)...), nil).want(t, 1, "topic t is not empty: partition 0, offset 102: it is not the record of offset 202")
			r.produce(batches(t, batched(t, codec, 10, frames)...), nil).want(t, 1, "this restore ends before it")
		})
	}
}

// TestBatchesAsRecords has what cannot go as it is, or is changed on its way.
func TestBatchesAsRecords(t *testing.T) {
	frames := join(frameList{topic("t", 2)}, records("t", 0, 0, 60), records("t", 1, 0, 60))
	for name, c := range map[string]struct {
		codec  string
		change func(*Config)
		codecs string // that are in the log
	}{
		"as they are":          {"lz4", nil, "lz4"},
		"another codec":        {"lz4", func(c *Config) { c.Compression = "gzip" }, "gzip"},
		"the same codec":       {"lz4", func(c *Config) { c.Compression = "lz4" }, "lz4"},
		"none":                 {"none", func(c *Config) { c.Compression = "uncompressed" }, "none"},
		"of the topic":         {"lz4", func(c *Config) { c.Configs["compression.type"] = "snappy" }, "snappy"},
		"the topic's":          {"gzip", func(c *Config) { c.Configs["compression.type"] = "gzip" }, "gzip"},
		"partitioner":          {"snappy", func(c *Config) { c.Partitioner = murmur2 }, "snappy"},
		"headers":              {"gzip", func(c *Config) { c.OffsetHeaders = true }, "gzip"},
		"no such header":       {"zstd", func(c *Config) { c.StripHeaders = []string{"x"} }, "zstd"},
		"partitions exchanged": {"lz4", func(c *Config) { c.PartitionMap = map[int32]int32{0: 1, 1: 0} }, "lz4"},
		"small topic":          {"none", func(c *Config) { c.Configs["max.message.bytes"] = "900" }, "none"},
		"little memory":        {"lz4", func(c *Config) { c.Memory = 1 << 20 }, "lz4"},
		"slowly":               {"lz4", func(c *Config) { c.MaxRate, c.MaxRecords = 1<<20, 1000 }, "lz4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			in := batches(t, batched(t, c.codec, 20, frames)...)
			o := r.produce(in, c.change)
			o.want(t, 0, "produced 120 records")
			if o.mapped() != 120 {
				t.Errorf("the map: %+v", o.maps)
			}
			for num := range int32(2) {
				for _, b := range r.stored("t", num, 10) {
					if got := cmp.Or(recordbatch.CodecName(b.Codec()), "none"); got != c.codecs {
						t.Errorf("partition %d has batches of codec %s", num, got)
					}
				}
			}
			r.produce(in, c.change).want(t, 0, "produced 0 records to 1 topic, where 120 records were already")
			if name != "partitioner" && name != "partitions exchanged" {
				r.same("t", 2, wanted(false, frames, 2))
			}
			o = newRig(t).produce(in, func(cfg *Config) {
				if c.change != nil {
					c.change(cfg)
				}
				cfg.DryRun = true
			})
			o.want(t, 0, "would produce 120 records to topic t")
		})
	}
}

// TestBatchesOfBroker has batches whose records have the time of their broker: they keep it.
func TestBatchesOfBroker(t *testing.T) {
	r := newRig(t)
	frames := records("t", 0, 0, 20)
	b := batched(t, "lz4", 20, frames)[0].(*format.Batch)
	const at = 1_700_000_000_000
	logAppend := changed(t, "t", 0, b.Data, func(raw []byte) {
		raw[batchAttributes+1] |= 8
		binary.BigEndian.PutUint64(raw[35:], at)
	})
	in := batches(t, topic("t", 1, "message.timestamp.type=LogAppendTime", "retention.ms=-1"), logAppend)
	r.produce(in, nil).want(t, 0, "20 records had the time of the broker that wrote them (LogAppendTime): they keep it")
	for i := range frames {
		rec := frames[i].(format.Record)
		rec.Timestamp = at
		frames[i] = rec
	}
	r.same("t", 1, wanted(false, frames, 1))
	r.produce(in, nil).want(t, 0, "produced 0 records", "20 records were already")
}

// TestBatchesRefused has streams that lie. Nothing of the batch that does so is written.
func TestBatchesRefused(t *testing.T) {
	recs := records("t", 0, 0, 20)
	plain := batched(t, "none", 20, recs)[0].(*format.Batch)
	forged := func(change func(raw []byte)) *format.Batch { return changed(t, "t", 0, plain.Data, change) }
	// The second record is "length, attributes, time delta, offset delta, …".
	second := batchRecords + 1 + int(plain.Data[batchRecords]>>1)
	badCRC, badFrame := *plain, *plain
	badCRC.Data = bytes.Clone(plain.Data)
	badCRC.Data[80]++
	badFrame.MaxTimestamp++
	unknown := forged(func(raw []byte) { raw[batchAttributes+1] = 5 })
	for name, c := range map[string]struct {
		in   []byte
		says string
	}{
		"checksum":         {batches(t, &badCRC), "checksum"},
		"another frame":    {batches(t, &badFrame), "and its frame says"},
		"offsets":          {batches(t, forged(func(raw []byte) { raw[second+3] = 6 })), "corrupt record in the batch at offset 0"},
		"too few":          {batches(t, forged(func(raw []byte) { raw[26], raw[60] = 18, 19 })), "more in the batch"},
		"too many":         {batches(t, forged(func(raw []byte) { raw[26], raw[60] = 20, 21 })), "corrupt record"},
		"length of a key":  {batches(t, forged(func(raw []byte) { raw[second+4] = 0x7e })), "corrupt record"},
		"order":            {batches(t, plain, plain), "record of offset 0 where 20 or above is expected"},
		"unknown codec":    {batches(t, unknown), "codec \"\", 5, which is not known"},
		"frame's codec":    {batches(t, withCodec("brotli", plain)), "codec \"brotli\", 0, which is not known"},
		"not decompressed": {batches(t, withCodec("lz4", batched(t, "lz4", 20, recs)[0].(*format.Batch))), "says that it is decompressed"},
		"content":          {streamOf(t, format.ContentRecords, &format.End{}, plain), "a batch in a stream of records"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.create("t", 1)
			r.produce(c.in, nil).want(t, 3, c.says)
			want := 0
			if name == "order" {
				want = 20
			}
			if got := len(r.values("t", 1)); got != want {
				t.Errorf("%d records were written", got)
			}
		})
	}
}

// TestBatchesExact keeps the offsets of batches, with gaps between them.
func TestBatchesExact(t *testing.T) {
	r := newRig(t)
	exact := func(c *Config) { c.Exact = true }
	frames := join(frameList{topic("t", 2), &format.Mark{Topic: "t", Next: 5}},
		records("t", 0, 5, 20), records("t", 1, 0, 30), records("t", 0, 26, 30), records("t", 0, 57, 10), records("t", 1, 45, 5),
		frameList{&format.Mark{Topic: "t", Next: 70}, &format.Mark{Topic: "t", Partition: 1, Next: 51}})
	in := batched(t, "snappy", 10, frames)
	r.produce(batches(t, in...), func(c *Config) { c.Exact, c.DryRun = true, true }).want(t, 0, "would produce 95 records",
		"would fill 5 offsets below the first records of topic t, and write 21 markers into 5 gaps between")
	r.produce(batches(t, in...), exact).want(t, 0, "produced 95 records", "proved the offsets of 2 partitions")
	r.same("t", 2, wanted(true, frames, 2))
	r.produce(batches(t, in...), exact).want(t, 0, "produced 0 records to 1 topic, where 95 records were already")
	r.produce(batches(t, batched(t, "snappy", 9, frames)...), exact).want(t, 0, "95 records were already")
	r.produce(stream(t, &format.End{}, frames...), exact).want(t, 0, "95 records were already")
}

// TestBatchesKept wants the retention of a topic to be judged by the latest record of a
// batch, as a broker judges it: one from now keeps those before it.
func TestBatchesKept(t *testing.T) {
	r := newRig(t)
	about := topic("t", 1, "retention.ms=86400000", "cleanup.policy=delete")
	old := records("t", 0, 0, 5)
	for i := range old {
		rec := old[i].(format.Record)
		rec.Timestamp = int64(i)
		old[i] = rec
	}
	in := batches(t, join(frameList{about}, batched(t, "lz4", 10, join(old, records("t", 0, 5, 5))))...)
	r.produce(in, nil).want(t, 0)
	in = batches(t, join(frameList{about}, batched(t, "lz4", 5, old))...)
	r2 := newRig(t)
	r2.produce(in, nil).want(t, 4, "retention.ms of 86400000")
}

func TestSameRecords(t *testing.T) {
	frames := records("t", 0, 0, 10)
	cut := func(f *format.Batch) recordbatch.Batch {
		b, _, err := recordbatch.Cut(f.Data)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	lz4 := batched(t, "lz4", 10, frames)[0].(*format.Batch)
	one := cut(lz4)
	with := func(change func(raw []byte)) recordbatch.Batch { return cut(changed(t, "t", 0, lz4.Data, change)) }
	for name, c := range map[string]struct {
		other recordbatch.Batch
		same  bool
	}{
		"itself":        {one, true},
		"elsewhere":     {with(func(raw []byte) { raw[7] = 99 }), true},
		"transactional": {with(func(raw []byte) { raw[batchAttributes+1] |= 0x10 }), true},
		"another time":  {with(func(raw []byte) { raw[batchBaseTime+7]++ }), false},
		"the broker's":  {with(func(raw []byte) { raw[batchAttributes+1] |= 8 }), false},
		"another codec": {cut(batched(t, "gzip", 10, frames)[0].(*format.Batch)), false},
		"said to be":    {with(func(raw []byte) { raw[batchAttributes+1] = 1 }), false},
		"one byte":      {with(func(raw []byte) { raw[len(raw)-1]++ }), false},
		"fewer":         {cut(batched(t, "lz4", 9, frames)[0].(*format.Batch)), false},
	} {
		if got := one.SameRecords(&c.other); got != c.same {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func withCodec(codec string, b *format.Batch) *format.Batch {
	with := *b
	with.Codec = codec
	return &with
}

// TestBatchesAnew has batches that somebody has decompressed: they get their codec back.
func TestBatchesAnew(t *testing.T) {
	frames := join(frameList{topic("t", 1)}, noisy(records("t", 0, 0, 100)))
	for name, c := range map[string]struct {
		codec, config, want string
	}{
		"lz4": {"lz4", "producer", "lz4"}, "gzip": {"gzip", "producer", "gzip"}, "snappy": {"snappy", "producer", "snappy"}, "zstd": {"zstd", "producer", "zstd"},
		"the topic's": {"lz4", "lz4", "lz4"}, "another": {"lz4", "gzip", "gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			in := batched(t, "none", 10, frames)
			for i, f := range in {
				if b, ok := f.(*format.Batch); ok {
					in[i] = withCodec(c.codec, b)
				}
			}
			change := func(cfg *Config) { cfg.Configs["compression.type"] = c.config }
			r.produce(batches(t, in...), change).want(t, 0, "produced 100 records")
			r.same("t", 1, wanted(false, frames, 1))
			for _, b := range r.stored("t", 0, 100) {
				if got := recordbatch.CodecName(b.Codec()); got != c.want || got == c.codec && b.Records != 10 {
					t.Errorf("a batch of %d records has codec %s", b.Records, got)
				}
			}
			r.produce(batches(t, in...), change).want(t, 0, "100 records were already")
			r.produce(batches(t, batched(t, c.codec, 10, frames)...), change).want(t, 0, "100 records were already")
		})
	}
}

// TestCompressed keeps a batch as it is where a codec makes it too large.
func TestCompressed(t *testing.T) {
	noise := format.Record{Value: make([]byte, 1000)}
	for i := range noise.Value {
		noise.Value[i] = byte(rand.Uint32())
	}
	b := batchOf(t, "none", noise)
	c, err := recordbatch.NewCompressor("gzip", 0)
	if err != nil {
		t.Fatal(err)
	}
	for most, want := range map[int]string{len(b.Data): "", 2 * len(b.Data): "gzip"} {
		raw, err := compressed(b.Data, c, most)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := recordbatch.CutChecked(raw)
		if err != nil || recordbatch.CodecName(got.Codec()) != want {
			t.Errorf("at most %d bytes: codec %d, %v", most, got.Codec(), err)
		}
	}
}

// TestBatchesJoined joins small batches where they would have to wait for one another.
func TestBatchesJoined(t *testing.T) {
	for _, codec := range []string{"none", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			frames := join(frameList{topic("t", 1)}, records("t", 0, 0, 2000), noisy(records("t", 0, 2000, 5)), records("t", 0, 2005, 1000))
			in := batches(t, batched(t, codec, 5, frames)...)
			r.produce(in, nil).want(t, 0, "produced 3,005 records")
			r.same("t", 1, wanted(false, frames, 1))
			stored, large := r.stored("t", 0, 3005), false
			for _, b := range stored {
				if got := cmp.Or(recordbatch.CodecName(b.Codec()), "none"); got != codec {
					t.Errorf("the batch at offset %d has codec %s", b.First, got)
				}
				large = large || b.First == 2000 && b.Records == 5
			}
			if len(stored) > 300 || !large {
				t.Errorf("601 batches became %d, the large one its own: %v", len(stored), large)
			}
			r.produce(in, nil).want(t, 0, "produced 0 records to 1 topic, where 3,005 records were already")
		})
	}
}

func TestSmall(t *testing.T) {
	for _, c := range []struct {
		size, partitions int
		plain, want      bool
	}{
		{1 << 10, 1, false, true}, {16 << 10, 1, false, true}, {32 << 10, 1, false, false}, {8 << 10, 8, false, true},
		{12 << 10, 8, false, false}, {5 << 10, 64, false, false}, {3 << 10, 64, false, true}, {4 << 10, 1000, false, false},
		{32 << 10, 1, true, true}, {32 << 10, 64, true, true}, {64 << 10, 1, true, false},
	} {
		if got := small(c.size, c.partitions, !c.plain); got != c.want {
			t.Errorf("%d bytes, %d partitions, not compressed %v: %v", c.size, c.partitions, c.plain, got)
		}
	}
}
