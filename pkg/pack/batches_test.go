package pack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/test/need"
)

var producers = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// A producer makes batches of records.
type producer struct {
	builder    recordbatch.Builder
	compressor map[string]*recordbatch.Compressor
}

func newProducer(t testing.TB) *producer {
	t.Helper()
	p := &producer{compressor: make(map[string]*recordbatch.Compressor)}
	for _, codec := range producers {
		c, err := recordbatch.NewCompressor(codec, 0)
		ok(t, err)
		p.compressor[codec] = c
	}
	return p
}

// batch makes a frame of records, the offsets of which follow one another.
func (p *producer) batch(t testing.TB, codec string, recs []format.Record) *format.Batch {
	t.Helper()
	p.builder.Reset()
	for i := range recs {
		p.builder.Append(&recs[i])
	}
	raw, err := p.builder.Build(nil, p.compressor[codec])
	ok(t, err)
	for i := range 8 { // its first offset, which no checksum is of
		raw[i] = byte(recs[0].Offset >> (56 - 8*i))
	}
	recordbatch.Stamp(raw, 7, 1, 42)
	b, rest, err := recordbatch.Cut(raw)
	if err != nil || len(rest) > 0 {
		t.Fatal(err, len(rest))
	}
	f := b.Frame(recs[0].Topic, recs[0].Partition)
	return &f
}

// A mixture is a stream of batches and records of the same partitions, and what of it
// becomes of it as records alone.
type mixture struct {
	batches, records []byte
	of               map[int32][]format.Record
}

// mixed makes a stream of two partitions, from a seed.
func mixed(t testing.TB, seed uint64, codecs ...string) mixture {
	t.Helper()
	return mixedOf(t, seed, 60, 200, codecs...)
}

// mixedOf is [mixed] with so many batches, of so many records at most.
func mixedOf(t testing.TB, seed uint64, batches, most int, codecs ...string) (m mixture) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	p := newProducer(t)
	m.of = make(map[int32][]format.Record)
	var out [2]bytes.Buffer
	ws := []*format.Writer{format.NewWriter(&out[0]), format.NewWriter(&out[1])}
	for i, w := range ws {
		ok(t, w.WriteHeader(&format.Header{ID: "run", Created: 1, Content: []string{format.ContentBatches, format.ContentRecords}[i]}))
		ok(t, w.Write(&format.Topic{Name: "t", ID: "id", Partitions: 2}))
	}
	both := func(f format.Encoder) {
		for _, w := range ws {
			ok(t, w.Write(f))
		}
	}
	next := [2]int64{r.Int64N(100), 0}
	for part, at := range next {
		both(&format.Mark{Topic: "t", Partition: int32(part), Next: at})
	}
	for range batches {
		part := r.IntN(2)
		var recs []format.Record
		for range 1 + r.IntN(1+r.IntN(most)) {
			value := make([]byte, r.IntN(300))
			for i := range value {
				value[i] = byte(r.IntN(16))
			}
			recs = append(recs, format.Record{Topic: "t", Partition: int32(part), Offset: next[part], Timestamp: r.Int64N(1 << 40), Value: value,
				Headers: []format.RecordHeader{{Name: []byte("h"), Value: value[:len(value)/2]}}})
			next[part]++
		}
		m.of[int32(part)] = append(m.of[int32(part)], recs...)
		for i := range recs {
			ok(t, ws[1].WriteRecord(&recs[i]))
		}
		if r.IntN(4) == 0 { // a batch that was cut
			for i := range recs {
				ok(t, ws[0].WriteRecord(&recs[i]))
			}
		} else {
			ok(t, ws[0].Write(p.batch(t, codecs[r.IntN(len(codecs))], recs)))
		}
		if r.IntN(5) == 0 {
			next[part] += r.Int64N(5)
			both(&format.Mark{Topic: "t", Partition: int32(part), Next: next[part]})
		}
	}
	for part, at := range next {
		both(&format.Mark{Topic: "t", Partition: int32(part), Next: at, MarkInfo: format.MarkInfo{End: &at}})
	}
	for _, w := range ws {
		ok(t, w.Close(&format.End{}))
	}
	m.batches, m.records = out[0].Bytes(), out[1].Bytes()
	return m
}

// content is the records and batches of each partition, as they are.
func content(t testing.TB, fs []format.Frame) map[int32][]byte {
	t.Helper()
	out := make(map[int32][]byte)
	for _, f := range fs {
		switch f.Kind {
		case format.KindBatch:
			b, err := format.DecodeBatch(f.Raw)
			ok(t, err)
			out[b.Partition] = append(out[b.Partition], f.Raw...)
		case format.KindRec:
			out[f.Partition] = append(out[f.Partition], f.Raw...)
		}
	}
	return out
}

func unpacked(t testing.TB, cfg Config, segments []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	ok(t, Unpack(t.Context(), cfg, testEnv(), bytes.NewReader(segments), &out))
	return out.Bytes()
}

// segmentsOf are the segments of a packed stream.
func segmentsOf(t testing.TB, packed []byte) (all []*format.Segment, data [][]byte) {
	t.Helper()
	for _, f := range frames(t, packed) {
		if f.Kind == format.KindSeg {
			m, d, err := format.DecodeSegment(f.Raw)
			ok(t, err)
			all, data = append(all, m), append(data, d)
		}
	}
	return all, data
}

// TestBatchesRoundTrip packs mixed streams of each producer's codec, and of all of them, by
// each codec of segments, with and without encryption: they come back bit for bit, and as
// the records that are in them.
func TestBatchesRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i, codecs := range append([][]string{producers}, []string{"none"}, []string{"gzip"}, []string{"snappy"}, []string{"lz4"}, []string{"zstd"}) {
		m := mixed(t, seed+uint64(i), codecs...)
		for name, cfg := range ways(t) {
			if i > 0 && cfg.Codec.Store == nil { // whose way does not depend on the producer's codec
				continue
			}
			cfg.SegmentSize = 150_000
			segs := packed(t, cfg, m.batches)
			all, _ := segmentsOf(t, segs)
			for _, s := range all {
				recs := slices.DeleteFunc(slices.Clone(m.of[s.Partition]), func(r format.Record) bool { return r.Offset < s.First || r.Offset > s.Last })
				first, last := int64(math.MaxInt64), int64(math.MinInt64)
				for _, r := range recs {
					first, last = min(first, r.Timestamp), max(last, r.Timestamp)
				}
				if s.Content != format.ContentBatches || s.Records != int64(len(recs)) || s.MinTimestamp != first || s.MaxTimestamp != last {
					t.Errorf("%s of %v: segment %+v has %d records of times %d to %d", name, codecs, s, len(recs), first, last)
				}
			}
			cfg.Batches = true
			if got := content(t, frames(t, unpacked(t, cfg, segs))); !bytes.Equal(got[0], content(t, frames(t, m.batches))[0]) || !bytes.Equal(got[1], content(t, frames(t, m.batches))[1]) {
				t.Errorf("%s of %v: other batches", name, codecs)
			}
			cfg.Batches = false
			if got := content(t, frames(t, unpacked(t, cfg, segs))); !bytes.Equal(got[0], content(t, frames(t, m.records))[0]) || !bytes.Equal(got[1], content(t, frames(t, m.records))[1]) {
				t.Errorf("%s of %v: other records", name, codecs)
			}
			// The same batches give the same bytes.
			if again := packed(t, cfg, m.batches); cfg.Recipients == nil && !bytes.Equal(again, segs) {
				t.Errorf("%s of %v: packed to other bytes", name, codecs)
			}
		}
	}
}

// TestBatchesAreZstd opens what is packed of compressed batches with the public tool: it is
// a stream of its own.
func TestBatchesAreZstd(t *testing.T) {
	need.Tools(t, "zstd")
	p := newProducer(t)
	for _, codec := range producers {
		in := batchStream(t, p, codec, 40, 200)
		all, data := segmentsOf(t, packed(t, testConfig(), in))
		if len(all) != 1 {
			t.Fatalf("%d segments", len(all))
		}
		plain := tool(t, data[0], "", "zstd", "-d", "-q", "-c")
		if int64(len(plain)) != all[0].RawSize || !bytes.Equal(content(t, frames(t, plain))[0], content(t, frames(t, in))[0]) {
			t.Errorf("%s: zstd -d makes something else of it", codec)
		}
		stored := int64(len(data[0])) > all[0].RawSize
		if want := codec != "none"; stored != want {
			t.Errorf("%s: %d bytes became %d", codec, all[0].RawSize, len(data[0]))
		}
		d, err := zstd.NewReader(nil)
		ok(t, err)
		if got, err := d.DecodeAll(data[0], nil); err != nil || !bytes.Equal(got, plain) {
			t.Error(codec, err)
		}
		d.Close()
	}
}

// batchStream is a stream of n batches of so many events, of one partition.
func batchStream(t testing.TB, p *producer, codec string, n, records int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentBatches}))
	ok(t, w.Write(&format.Mark{Topic: "orders"}))
	events := events(n * records)
	for part := range slices.Chunk(events, records) {
		ok(t, w.Write(p.batch(t, codec, part)))
	}
	ok(t, w.Write(&format.Mark{Topic: "orders", Next: int64(n * records)}))
	ok(t, w.Close(&format.End{}))
	return b.Bytes()
}

// events are those of [orders], in one partition.
func events(n int) []format.Record {
	r := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("shipped pending returned express standard gift invoice warehouse parcel locker morning evening fragile insured signature neighbour")
	recs := make([]format.Record, n)
	for i := range recs {
		v := fmt.Appendf(nil, `{"order":"o-%09d","customer":"c-%06d","amount":%d.%02d,"trace":"%016x","note":"`, i, r.IntN(100_000), r.IntN(1000), r.IntN(100), r.Uint64())
		for len(v) < 498 {
			v = append(append(v, words[r.IntN(len(words))]...), ' ')
		}
		recs[i] = format.Record{Topic: "orders", Offset: int64(i), Timestamp: 1_700_000_000_000 + int64(i), Value: append(v[:498], `"}`...)}
	}
	return recs
}

// TestBatchesCut unpacks batches under bounds of offsets and times, as batches: those that
// are within are as they were, and of the others the records within are there.
func TestBatchesCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range 12 {
		m := mixed(t, seed+uint64(round), "none", "lz4", "zstd")
		cfg := testConfig()
		cfg.SegmentSize = 30_000
		segs := packed(t, cfg, m.batches)
		window := new(format.Window)
		since, until := int64(math.MinInt64), int64(math.MaxInt64)
		if r.IntN(2) == 0 {
			since, until = r.Int64N(1<<39), 1<<39+r.Int64N(1<<39)
			window.Since, window.Until = &since, &until
		}
		from, next := int64(0), int64(math.MaxInt64)
		if r.IntN(2) == 0 {
			from, next = r.Int64N(2000), 2000+r.Int64N(2000)
			window.Offsets = map[string]map[int32][2]int64{"t": {0: {from, next}}}
		}
		inside := func(rec *format.Record) bool {
			return rec.Timestamp >= since && rec.Timestamp <= until && (rec.Partition == 1 || rec.Offset >= from && rec.Offset < next)
		}
		for _, batches := range []bool{false, true} {
			cfg.Batches = batches
			got := make(map[int32][]byte)
			whole, cut := 0, 0
			d := recordbatch.NewDecoder()
			for _, f := range frames(t, unpacked(t, cfg, windowOf(t, segs, window))) {
				switch f.Kind {
				case format.KindRec:
					got[f.Partition] = append(got[f.Partition], f.Raw...)
					cut++
				case format.KindBatch:
					b, err := format.DecodeBatch(f.Raw)
					ok(t, err)
					opened, err := recordbatch.Open(b)
					ok(t, err)
					whole++
					ok(t, d.Records(opened, func(r *format.Record) error {
						r.Topic, r.Partition = b.Topic, b.Partition
						got[b.Partition] = format.AppendRecord(got[b.Partition], r)
						return nil
					}))
				}
			}
			for part, recs := range m.of {
				var want []byte
				for i := range recs {
					if inside(&recs[i]) {
						want = format.AppendRecord(want, &recs[i])
					}
				}
				if !bytes.Equal(got[part], want) {
					t.Errorf("round %d, batches %v, partition %d, window %+v: other records", round, batches, part, window)
				}
			}
			if !batches && whole > 0 {
				t.Error("batches where records were asked for")
			}
		}
	}
}

// windowOf gives a stream of segments a window, and leaves out those that have nothing in its
// offsets, as kbk-pull does.
func windowOf(t testing.TB, segs []byte, window *format.Window) []byte {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments, Window: window}))
	for _, f := range frames(t, segs) {
		if f.Kind == format.KindMark { // a source leaves those below its bounds out
			m, err := format.DecodeMark(f.Raw)
			ok(t, err)
			if from, _, _, _ := window.Bounds(m.Topic, m.Partition); m.Next < from {
				continue
			}
		}
		if f.Kind == format.KindSeg {
			m, _, err := format.DecodeSegment(f.Raw)
			ok(t, err)
			if from, next, _, _ := window.Bounds(m.Topic, m.Partition); m.Next <= from || m.From >= next {
				continue
			}
		}
		ok(t, w.WriteRaw(f.Raw))
	}
	ok(t, w.Close(&format.End{}))
	return b.Bytes()
}

// TestBatchesRefused packs what is not as it says.
func TestBatchesRefused(t *testing.T) {
	p := newProducer(t)
	recs := func(first int64, n int) []format.Record {
		all := events(n)
		for i := range all {
			all[i].Offset += first
		}
		return all
	}
	good := func(codec string) *format.Batch { return p.batch(t, codec, recs(10, 20)) }
	changed := func(codec string, change func(b *format.Batch)) *format.Batch {
		b := good(codec)
		change(b)
		return b
	}
	forged := func(codec string) *format.Batch { // of a record less than it counts, and with the right checksum
		b := good("none")
		b.Data[60]-- // the count of records
		b.Data[26]-- // and the last offset delta
		b.Last, b.Records = b.Last-1, b.Records-1
		recordbatch.Stamp(b.Data, 7, 1, 42)
		raw, err := p.compressor[codec].Recompress(nil, b.Data)
		ok(t, err)
		b.Data = raw
		return b
	}
	for name, c := range map[string]struct {
		content string
		frames  []format.Encoder
		want    string // "": it is taken
	}{
		"right":                      {format.ContentBatches, []format.Encoder{good("lz4")}, ""},
		"in a stream of records":     {format.ContentRecords, []format.Encoder{good("lz4")}, "a batch frame in a stream of records"},
		"a bit":                      {format.ContentBatches, []format.Encoder{changed("lz4", func(b *format.Batch) { b.Data[100] ^= 1 })}, "checksum"},
		"another time":               {format.ContentBatches, []format.Encoder{changed("lz4", func(b *format.Batch) { b.MaxTimestamp++ })}, "and its frame says"},
		"twice":                      {format.ContentBatches, []format.Encoder{good("lz4"), good("lz4")}, "record of offset 10 where 30 or above is expected"},
		"below a mark":               {format.ContentBatches, []format.Encoder{&format.Mark{Topic: "orders", Next: 11}, good("lz4")}, "record of offset 10 where 11 or above is expected"},
		"forged deltas, none":        {format.ContentBatches, []format.Encoder{forged("none")}, "more in the batch at offset 10"},
		"forged deltas, lz4":         {format.ContentBatches, []format.Encoder{forged("lz4")}, "more in the batch at offset 10"},
		"forged deltas, zstd":        {format.ContentBatches, []format.Encoder{forged("zstd")}, "more in the batch at offset 10"},
		"compressed is not":          {format.ContentBatches, []format.Encoder{changed("none", func(b *format.Batch) { b.Data[22] |= 3; recordbatch.Stamp(b.Data, 7, 1, 42) })}, "decompress"},
		"a codec that is not":        {format.ContentBatches, []format.Encoder{changed("none", func(b *format.Batch) { b.Data[22] |= 6; recordbatch.Stamp(b.Data, 7, 1, 42) })}, "unknown codec 6"},
		"records go on behind it":    {format.ContentBatches, []format.Encoder{good("lz4"), p.batch(t, "none", recs(35, 3))}, ""},
		"a control batch":            {format.ContentBatches, []format.Encoder{changed("none", func(b *format.Batch) { b.Data[22] |= 32; recordbatch.Stamp(b.Data, 7, 1, 42) })}, "control batch"},
		"something behind the batch": {format.ContentBatches, []format.Encoder{changed("none", func(b *format.Batch) { b.Data = append(b.Data, 0) })}, "1 bytes behind"},
	} {
		var in, out bytes.Buffer
		w := format.NewWriter(&in)
		ok(t, w.WriteHeader(&format.Header{Content: c.content}))
		for _, f := range c.frames {
			ok(t, w.Write(f))
		}
		ok(t, w.Close(&format.End{}))
		for _, codec := range []string{"zstd", "none"} {
			cfg := testConfig()
			cfg.Codec = segment.CodecOf(codec)
			out.Reset()
			err := Pack(t.Context(), cfg, testEnv(), bytes.NewReader(in.Bytes()), &out)
			if c.want == "" {
				ok(t, err)
				continue
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || command.StatusOf(err) != command.Corrupt {
				t.Errorf("%s: %v, of status %d; want %q", name, err, command.StatusOf(err), c.want)
			}
			if r := lastKind(out.Bytes()); r == format.KindEnd {
				t.Errorf("%s: the stream has an end", name)
			}
		}
	}
}

// lastKind is the kind of the last frame of a stream that may be cut short.
func lastKind(b []byte) (last format.Kind) {
	for f, err := range readable(b) {
		if err != nil {
			return last
		}
		last = f.Kind
	}
	return last
}

// TestBatchTooLarge packs a batch that comes to more than anyone decompresses: the backup
// goes on, the segment is one of any time, the person is told, and it comes back as it was.
func TestBatchTooLarge(t *testing.T) {
	p := newProducer(t)
	zeros := make([]byte, 1<<20)
	var recs []format.Record
	for i := range int64(recordbatch.DefaultMaxSize>>20 + 1) {
		recs = append(recs, format.Record{Topic: "t", Offset: i, Timestamp: 1000 + i, Value: zeros})
	}
	large := p.batch(t, "zstd", recs)
	p.builder = recordbatch.Builder{}
	small := p.batch(t, "zstd", []format.Record{{Topic: "t", Offset: 500, Timestamp: 5}})
	var in, said bytes.Buffer
	w := format.NewWriter(&in)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentBatches}))
	ok(t, w.Write(large))
	ok(t, w.Write(&format.Mark{Topic: "t", Next: 500}))
	ok(t, w.Write(small))
	ok(t, w.Write(&format.Mark{Topic: "t", Next: 501}))
	ok(t, w.Close(&format.End{}))
	env := testEnv()
	env.Log = slog.New(slog.NewTextHandler(&said, nil))
	var out bytes.Buffer
	ok(t, Pack(t.Context(), testConfig(), env, &in, &out))
	all, data := segmentsOf(t, out.Bytes())
	if len(all) != 1 || all[0].MinTimestamp != math.MinInt64 || all[0].MaxTimestamp != large.MaxTimestamp || all[0].Records != large.Records+1 {
		t.Errorf("%+v", all[0])
	}
	if got := said.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "t/0: the batch of offsets 0 to 256 comes to more than 256 MiB") {
		t.Error(got)
	}
	cfg := testConfig()
	cfg.Batches = true
	if got := content(t, frames(t, unpacked(t, cfg, out.Bytes()))); len(got[0]) == 0 || !bytes.Contains(got[0], large.Data) || !bytes.Contains(got[0], small.Data) {
		t.Error("other batches came back")
	}
	cfg.Batches = false
	var records bytes.Buffer
	err := Unpack(t.Context(), cfg, testEnv(), bytes.NewReader(out.Bytes()), &records)
	if !errors.Is(err, recordbatch.ErrTooLarge) || !strings.Contains(command.HintOf(err), "--batches") {
		t.Errorf("%v, %q", err, command.HintOf(err))
	}
	// Whoever looks into it finds what pack found.
	ok(t, segment.NewOpener(nil, 1<<30).Verify(all[0], data[0]))
	described, err := segment.Describe("zstd", data[0], 1<<30)
	if err != nil || described.MinTimestamp != math.MinInt64 || described.Content != format.ContentBatches {
		t.Errorf("%+v, %v", described, err)
	}
}

// TestBatchTimes gives segments times that their batches do not have. Whoever looks into
// batches says so.
func TestBatchTimes(t *testing.T) {
	segs := packed(t, testConfig(), batchStream(t, newProducer(t), "lz4", 3, 10))
	all, data := segmentsOf(t, segs)
	for name, change := range map[string]func(m *format.Segment){
		"earlier": func(m *format.Segment) { m.MinTimestamp-- },
		"later":   func(m *format.Segment) { m.MaxTimestamp++ },
		"cut":     func(m *format.Segment) { m.MaxTimestamp-- },
	} {
		m := *all[0]
		change(&m)
		err := segment.NewOpener(nil, 1<<30).Verify(&m, bytes.Clone(data[0]))
		if err == nil || !strings.Contains(err.Error(), "timestamps") || command.StatusOf(err) != command.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
		_, err = reopened(t, testConfig(), &m, data[0])
		if err == nil || !strings.Contains(err.Error(), "timestamps") || command.StatusOf(err) != command.Corrupt {
			t.Errorf("%s: unpacked to records: %v", name, err)
		}
	}
	// What the segment says of its content has to be so.
	m := *all[0]
	m.Content = ""
	if _, err := reopened(t, testConfig(), &m, data[0]); err == nil || !strings.Contains(err.Error(), "a stream of batches, and the segment says records") {
		t.Error(err)
	}
	all, data = segmentsOf(t, packed(t, testConfig(), stream(t, random(1, 1, 10))))
	all[0].Content = format.ContentBatches
	if _, err := reopened(t, testConfig(), all[0], data[0]); err == nil || !strings.Contains(err.Error(), "a stream of records, and the segment says batches") {
		t.Error(err)
	}
}

// TestBatchVector unpacks the format's golden segment of batches.
func TestBatchVector(t *testing.T) {
	segs, err := os.ReadFile("../../format/testdata/good/batch-segments.kbk")
	ok(t, err)
	cfg := testConfig()
	for batches, want := range map[bool]string{
		false: "10@1700000000000 11@1700000000001 12@1700000000002 14@-1 20@1700000000000 21@1700000000001 22@1700000000002 ",
		true:  "batch 10 to 12 14@-1 batch 20 to 22 (lz4) ",
	} {
		cfg.Batches = batches
		got := ""
		for _, f := range frames(t, unpacked(t, cfg, segs)) {
			switch f.Kind {
			case format.KindRec:
				got += fmt.Sprintf("%d@%d ", f.Offset, f.Timestamp)
			case format.KindBatch:
				b, err := format.DecodeBatch(f.Raw)
				ok(t, err)
				got += fmt.Sprintf("batch %d to %d ", b.First, b.Last)
				if b.Codec != "" {
					got += "(" + b.Codec + ") "
				}
			}
		}
		if got != want {
			t.Errorf("batches %v: %s, want %s", batches, got, want)
		}
	}
}

// FuzzUnpackBatches unpacks any stream as the inside of a segment that says that it holds
// batches: nothing crashes, and what comes out is a stream. Batches get a right checksum, so
// that what is behind it is reached.
func FuzzUnpackBatches(f *testing.F) {
	file, err := os.ReadFile("../../format/testdata/good/batches.kbk")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add(batchStream(f, newProducer(f), "lz4", 2, 3))
	cfg := testConfig()
	cfg.Codec, cfg.Memory, cfg.MaxFrame = segment.CodecOf("none"), minMemory, 1<<20
	for _, s := range frames(f, packed(f, cfg, mixedOf(f, 1, 8, 5, producers...).batches)) {
		if s.Kind == format.KindSeg {
			_, inside, err := format.DecodeSegment(s.Raw)
			ok(f, err)
			f.Add(inside)
		}
	}
	f.Fuzz(func(t *testing.T, inside []byte) {
		inside = checksummed(inside)
		m, err := segment.Describe("none", inside, cfg.MaxFrame)
		if err != nil {
			return
		}
		for _, batches := range []bool{false, true} {
			var in, out bytes.Buffer
			w := format.NewWriter(&in)
			ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments}))
			ok(t, w.WriteSegment(m, inside))
			ok(t, w.Close(&format.End{}))
			cfg := cfg
			cfg.Batches = batches
			err := Unpack(t.Context(), cfg, testEnv(), &in, &out)
			if !batches && command.StatusOf(err) == command.Corrupt {
				continue // of a record only its number and its time were looked at
			}
			ok(t, err) // what was described is as it says
			records := int64(0)
			for _, f := range frames(t, out.Bytes()) {
				if f.Kind == format.KindRec {
					records++
				} else if f.Kind == format.KindBatch {
					b, err := format.DecodeBatch(f.Raw)
					ok(t, err)
					records += b.Records
				}
			}
			if records != m.Records {
				t.Errorf("%d records of %d came out", records, m.Records)
			}
		}
	})
}

// checksummed is a stream in which each batch has the checksum of what it is, as far as the
// stream can be read.
func checksummed(stream []byte) []byte {
	stream = bytes.Clone(stream)
	r := format.NewReader(bytes.NewReader(stream), 1<<20)
	if _, err := r.Header(); err != nil {
		return stream
	}
	at := 0 // of the frame in the stream
	for {
		f, err := r.Next()
		if err != nil {
			return stream
		}
		at += bytes.Index(stream[at:], f.Raw)
		if b, err := format.DecodeBatch(f.Raw); err == nil && f.Kind == format.KindBatch && len(b.Data) > 61 {
			data := stream[at+bytes.Index(f.Raw, b.Data):][:len(b.Data)]
			binary.BigEndian.PutUint32(data[17:], crc32.Checksum(data[21:], crc32.MakeTable(crc32.Castagnoli)))
		}
		at += len(f.Raw)
	}
}

func BenchmarkPackBatches(b *testing.B) {
	p := newProducer(b)
	for _, codec := range []string{"lz4", "zstd", "none"} {
		for size, records := range map[string]int{"16KB": 31, "200KB": 390} {
			n := 60_000 / records
			in := batchStream(b, p, codec, n, records)
			values := int64(n * records * 500)
			b.Run(codec+"/"+size, func(b *testing.B) {
				measure(b, values, func() {
					ok(b, Pack(context.Background(), testConfig(), testEnv(), bytes.NewReader(in), io.Discard))
				})
			})
		}
	}
}

func BenchmarkUnpackBatches(b *testing.B) {
	p := newProducer(b)
	for _, codec := range []string{"lz4", "zstd", "none"} {
		segs := packed(b, testConfig(), batchStream(b, p, codec, 150, 390))
		for _, batches := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/batches=%v", codec, batches), func(b *testing.B) {
				cfg := testConfig()
				cfg.Batches = batches
				measure(b, 150*390*500, func() {
					ok(b, Unpack(context.Background(), cfg, testEnv(), bytes.NewReader(segs), io.Discard))
				})
			})
		}
	}
}
