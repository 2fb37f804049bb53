package recordbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
)

// build writes a batch as the specification of the format has it, independently of
// the code under test.
func build(first int64, attributes uint16, baseTime, maxTime int64, compress func([]byte) []byte, recs ...format.Record) []byte {
	var body []byte
	last := int64(0)
	for _, r := range recs {
		b := []byte{0}
		b = binary.AppendVarint(b, r.Timestamp-baseTime)
		b = binary.AppendVarint(b, r.Offset-first)
		last = r.Offset - first
		appendBytes := func(v []byte) {
			if v == nil {
				b = binary.AppendVarint(b, -1)
				return
			}
			b = append(binary.AppendVarint(b, int64(len(v))), v...)
		}
		appendBytes(r.Key)
		appendBytes(r.Value)
		b = binary.AppendVarint(b, int64(len(r.Headers)))
		for _, h := range r.Headers {
			appendBytes(h.Name)
			appendBytes(h.Value)
		}
		body = append(binary.AppendVarint(body, int64(len(b))), b...)
	}
	if compress != nil {
		body = compress(body)
	}
	rest := binary.BigEndian.AppendUint16(nil, attributes)
	rest = binary.BigEndian.AppendUint32(rest, uint32(last))
	rest = binary.BigEndian.AppendUint64(rest, uint64(baseTime))
	rest = binary.BigEndian.AppendUint64(rest, uint64(maxTime))
	rest = binary.BigEndian.AppendUint64(rest, 77) // producer id
	rest = binary.BigEndian.AppendUint16(rest, 0)
	rest = binary.BigEndian.AppendUint32(rest, 0)
	rest = binary.BigEndian.AppendUint32(rest, uint32(len(recs)))
	rest = append(rest, body...)
	out := binary.BigEndian.AppendUint64(nil, uint64(first))
	out = binary.BigEndian.AppendUint32(out, uint32(4+1+4+len(rest)))
	out = binary.BigEndian.AppendUint32(out, 9) // leader epoch
	out = append(out, 2)
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(rest, crc32.MakeTable(crc32.Castagnoli)))
	return append(out, rest...)
}

var records = []format.Record{
	{Offset: 1 << 40, Timestamp: 1000, Key: []byte("k"), Value: []byte("v")},
	{Offset: 1<<40 + 1, Timestamp: -5, Key: nil, Value: nil},
	{Offset: 1<<40 + 5, Timestamp: math.MaxInt64 / 2, Key: []byte{}, Value: []byte{}},
	{Offset: 1<<40 + 6, Timestamp: 999, Value: bytes.Repeat([]byte("x"), 1<<20), Headers: []format.RecordHeader{
		{Name: []byte("a"), Value: []byte("1")}, {Name: []byte("a"), Value: nil}, {Name: []byte{}, Value: []byte{}}, {Name: []byte{0xff}, Value: []byte("2")},
	}},
}

func decode(t *testing.T, b []byte) (Batch, []format.Record) {
	t.Helper()
	batch, rest, err := Cut(b)
	if err != nil || len(rest) != 0 {
		t.Fatalf("Cut: %v, %d bytes left", err, len(rest))
	}
	d := NewDecoder()
	if err := d.Open(batch); err != nil {
		t.Fatal(err)
	}
	var out []format.Record
	for {
		var r format.Record
		ok, err := d.Next(&r)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return batch, out
		}
		out = append(out, clone(r))
	}
}

// clone copies a record out of the decoder's memory.
func clone(r format.Record) format.Record {
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	var headers []format.RecordHeader
	for _, h := range r.Headers {
		headers = append(headers, format.RecordHeader{Name: bytes.Clone(h.Name), Value: bytes.Clone(h.Value)})
	}
	r.Headers = headers
	return r
}

func TestDecode(t *testing.T) {
	enc, _ := zstd.NewWriter(nil)
	for name, b := range map[string][]byte{
		"plain": build(1<<40, 0, 1000, math.MaxInt64/2, nil, records...),
		"zstd":  build(1<<40, 4, 1000, math.MaxInt64/2, func(b []byte) []byte { return enc.EncodeAll(b, nil) }, records...),
	} {
		batch, got := decode(t, b)
		if !reflect.DeepEqual(got, records) {
			t.Errorf("%s: records differ", name)
		}
		if batch.First != 1<<40 || batch.Last != 1<<40+6 || batch.LeaderEpoch != 9 || batch.ProducerID != 77 || batch.Control() || batch.Transactional() {
			t.Errorf("%s: header %+v", name, batch)
		}
	}
}

// TestCodecs decodes what franz-go's compressor makes.
func TestCodecs(t *testing.T) {
	for codec, compress := range compressors(t) {
		if _, got := decode(t, build(1<<40, codec, 1000, 0, compress, records...)); !reflect.DeepEqual(got, records) {
			t.Errorf("codec %d: records differ", codec)
		}
	}
}

func TestLogAppendTime(t *testing.T) {
	_, got := decode(t, build(1<<40, 8, 1000, 4242, nil, records...))
	for _, r := range got {
		if r.Timestamp != 4242 || r.Attributes != format.LogAppendTime {
			t.Errorf("timestamp %d, attributes %d", r.Timestamp, r.Attributes)
		}
	}
}

func TestAborts(t *testing.T) {
	for typ, want := range map[byte]bool{0: true, 1: false} {
		b := build(5, 0x30, 0, 0, nil, format.Record{Offset: 5, Key: []byte{0, 0, 0, typ}, Value: []byte{0, 0, 0, 0, 0, 0}})
		batch, _, err := Cut(b)
		if err != nil || !batch.Control() || !batch.Transactional() {
			t.Fatalf("%+v, %v", batch, err)
		}
		d := NewDecoder()
		if err := d.Open(batch); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Aborts(); got != want || err != nil {
			t.Errorf("marker type %d: Aborts() = %v, %v", typ, got, err)
		}
	}
}

// TestPartial cuts two batches at every byte.
func TestPartial(t *testing.T) {
	one := build(1<<40, 0, 1000, 0, nil, records[:3]...)
	both := append(bytes.Clone(one), one...)
	for n := range both {
		_, rest, err := Cut(both[:n])
		if n < len(one) && !errors.Is(err, ErrPartial) || n >= len(one) && (err != nil || len(rest) != n-len(one)) {
			t.Fatalf("cut at %d: %d bytes left, %v", n, len(rest), err)
		}
	}
}

// TestDamage flips every bit of batches of every kind. What the checksum covers is told
// before a word of the batch is believed, with its offset.
func TestDamage(t *testing.T) {
	for name, good := range map[string][]byte{
		"data":          build(1<<40, 0, 1000, 0, nil, records[:3]...),
		"transactional": build(1<<40, 0x10, 1000, 0, nil, records[:3]...),
		"marker":        build(1<<40, 0x30, 0, 0, nil, format.Record{Offset: 1 << 40, Key: []byte{0, 0, 0, 1}, Value: []byte{0, 0, 0, 0, 0, 0}}),
	} {
		for i := range good {
			for bit := range 8 {
				b := bytes.Clone(good)
				b[i] ^= 1 << bit
				batch, _, err := Cut(b)
				if err == nil && i >= atMagic {
					t.Fatalf("%s: bit %d of byte %d flipped, and nothing was noticed", name, bit, i)
				}
				if err != nil && !errors.Is(err, ErrPartial) && i >= atLength && !strings.Contains(err.Error(), fmt.Sprint("offset ", int64(1)<<40)) {
					t.Errorf("%s: bit %d of byte %d flipped: %v", name, bit, i, err)
				}
				if err == nil && batch.First == 1<<40 && batch.LeaderEpoch == 9 {
					t.Errorf("%s: bit %d of byte %d flipped, and the batch is as it was", name, bit, i)
				}
			}
		}
	}
}

// compressors compress a batch's records as producers do.
func compressors(t testing.TB) map[uint16]func([]byte) []byte {
	out := make(map[uint16]func([]byte) []byte)
	for codec, c := range map[uint16]kgo.CompressionCodec{1: kgo.GzipCompression(), 2: kgo.SnappyCompression(), 3: kgo.Lz4Compression(), 4: kgo.ZstdCompression()} {
		comp, err := kgo.DefaultCompressor(c)
		if err != nil {
			t.Fatal(err)
		}
		out[codec] = func(b []byte) []byte {
			packed, got := comp.Compress(new(bytes.Buffer), b)
			if uint16(got) != codec {
				t.Fatalf("compressed with %d, not %d", got, codec)
			}
			return bytes.Clone(packed)
		}
	}
	return out
}

// TestLarge decodes batches that are far larger than what is decompressed at once, one
// after another with the same decoder: many records, and one that is large itself.
func TestLarge(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.IntN(16))
		}
		return b
	}
	var many []format.Record
	for i := range int64(3000) { // more than atOnce
		many = append(many, format.Record{Offset: i, Timestamp: i, Value: noise(int(i) % 2000)})
	}
	one := []format.Record{
		{Offset: 0, Value: noise(10)},
		{Offset: 1, Value: noise(5 * atOnce), Headers: []format.RecordHeader{{Name: []byte("a"), Value: noise(5)}}},
		{Offset: 2, Value: noise(10)},
	}
	d := NewDecoder()
	d.MaxSize = 6 * atOnce
	all := compressors(t)
	all[0] = nil
	all[2|0x8000] = func(b []byte) []byte { // as Java's producer frames it, with large blocks
		out := append(bytes.Clone(xerialPrefix), 0, 0, 0, 1, 0, 0, 0, 1)
		for part := range slices.Chunk(b, 100_000) {
			block := s2.EncodeSnappy(nil, part)
			out = append(binary.BigEndian.AppendUint32(out, uint32(len(block))), block...)
		}
		return out
	}
	for codec, compress := range all {
		for name, recs := range map[string][]format.Record{"many": many, "one": one} {
			batch, _, err := Cut(build(0, codec&codecMask, 0, 0, compress, recs...))
			if err != nil {
				t.Fatal(err)
			}
			for round := range 2 { // the first is left half-way
				if err := d.Open(batch); err != nil {
					t.Fatal(err)
				}
				for i, want := range recs {
					if round == 0 && i == len(recs)/2+1 {
						break
					}
					var r format.Record
					if ok, err := d.Next(&r); !ok || err != nil {
						t.Fatalf("codec %d, %s, record %d: %v, %v", codec, name, i, ok, err)
					}
					if r.Offset != want.Offset || !bytes.Equal(r.Value, want.Value) || len(r.Headers) != len(want.Headers) {
						t.Fatalf("codec %d, %s: record %d differs", codec, name, i)
					}
				}
			}
			var r format.Record
			if ok, err := d.Next(&r); ok || err != nil {
				t.Errorf("codec %d, %s: at the end %v, %v", codec, name, ok, err)
			}
		}
	}
}

// TestBombs decodes batches of a few bytes that come to very much: too many records, a
// record that is too long, one that only says so, and one with too many headers.
func TestBombs(t *testing.T) {
	const limit, records = 16 << 20, 400
	zeros := make([]byte, 100_000)
	var many []format.Record
	for i := range int64(records) {
		many = append(many, format.Record{Offset: 7 + i, Value: zeros})
	}
	headers := make([]format.RecordHeader, limit/10)
	for i := range headers {
		headers[i].Name = []byte{}
	}
	claim := func(uncompressed []byte) []byte { return binary.AppendVarint(nil, 1<<40) }
	all := compressors(t)
	delete(all, 2) // snappy cannot
	for codec, compress := range all {
		for name, c := range map[string]struct {
			raw  []byte
			good int64 // records before it shows
		}{
			"many":    {build(7, codec, 0, 0, compress, many...), limit / 100_010},
			"long":    {build(7, codec, 0, 0, compress, format.Record{Offset: 7}, format.Record{Offset: 8, Value: make([]byte, limit+1)}), 1},
			"claim":   {build(7, codec, 0, 0, func(b []byte) []byte { return compress(claim(b)) }, format.Record{Offset: 7}), 0},
			"headers": {build(7, codec, 0, 0, compress, format.Record{Offset: 7, Headers: headers}), 0},
		} {
			batch, _, err := Cut(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			d := NewDecoder()
			d.MaxSize = limit
			before := allocated()
			if err := d.Open(batch); err != nil {
				t.Fatal(err)
			}
			var good int64
			for {
				var r format.Record
				var ok bool
				if ok, err = d.Next(&r); !ok || err != nil {
					break
				}
				good++
			}
			if !errors.Is(err, ErrTooLarge) || good != c.good || !strings.Contains(err.Error(), "offset 7") {
				t.Errorf("codec %d, %s: %d records, then %v", codec, name, good, err)
			}
			if took := allocated() - before; name != "headers" && took > 12<<20 {
				t.Errorf("codec %d, %s: took %d bytes", codec, name, took)
			}
		}
	}
	t.Run("snappy", func(t *testing.T) {
		block := append(binary.AppendUvarint(nil, 1<<31), 0, 0)
		batch, _, err := Cut(build(7, 2, 0, 0, func([]byte) []byte { return block }, format.Record{Offset: 7}))
		if err != nil {
			t.Fatal(err)
		}
		before := allocated()
		if err := NewDecoder().Open(batch); err == nil || allocated()-before > 4<<20 {
			t.Errorf("%v, with %d bytes", err, allocated()-before)
		}
	})
	t.Run("window", func(t *testing.T) {
		frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0} // 2 GiB, and an empty block
		batch, _, err := Cut(build(7, 4, 0, 0, func([]byte) []byte { return frame }, format.Record{Offset: 7}))
		if err != nil {
			t.Fatal(err)
		}
		if err := NewDecoder().Open(batch); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
	})
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestOldFormat(t *testing.T) {
	b := build(1<<40, 0, 1000, 0, nil, records[:1]...)
	b[atMagic] = 1
	if _, _, err := Cut(b); err == nil || errors.Is(err, ErrPartial) {
		t.Errorf("got %v", err)
	}
}

// FuzzDecoder gives the decoder batches with a right checksum and any content.
func FuzzDecoder(f *testing.F) {
	f.Add(build(1<<40, 0, 1000, 0, nil, records[:3]...))
	f.Add(build(5, 0x30, 0, 0, nil, format.Record{Offset: 5, Key: []byte{0, 0, 0, 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > atAttributes {
			binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[atAttributes:], castagnoli))
		}
		d := NewDecoder()
		for {
			batch, rest, err := Cut(b)
			if err != nil {
				return
			}
			if err := d.Open(batch); err == nil {
				var r format.Record
				for {
					if ok, err := d.Next(&r); !ok || err != nil {
						break
					}
					if r.Offset < batch.First || r.Offset > batch.Last {
						t.Fatalf("offset %d in a batch of %d to %d", r.Offset, batch.First, batch.Last)
					}
				}
			}
			b = rest
		}
	})
}

func TestNoAllocations(t *testing.T) {
	b := build(1<<40, 0, 1000, 0, nil, records...)
	batch, _, err := Cut(b)
	if err != nil {
		t.Fatal(err)
	}
	d := NewDecoder()
	var r format.Record
	if n := testing.AllocsPerRun(100, func() {
		_ = d.Open(batch)
		for {
			if ok, _ := d.Next(&r); !ok {
				break
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecodeToFrames(b *testing.B) {
	var recs []format.Record
	for i := range int64(1000) {
		recs = append(recs, format.Record{Offset: i, Timestamp: i, Key: []byte("some-key"), Value: bytes.Repeat([]byte("x"), 500)})
	}
	raw := build(0, 0, 0, 0, nil, recs...)
	batch, _, _ := Cut(raw)
	d := NewDecoder()
	r := format.Record{Topic: "orders", Partition: 3}
	out := make([]byte, 0, 1<<20)
	b.SetBytes(int64(len(raw)) / 1000)
	b.ReportAllocs()
	for n := 0; n < b.N; n += 1000 {
		_ = d.Open(batch)
		out = out[:0]
		for {
			ok, err := d.Next(&r)
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
			out = format.AppendRecord(out, &r)
		}
	}
}

// BenchmarkDecode decodes batches of 30 records and of 5000, in each codec.
func BenchmarkDecode(b *testing.B) {
	all := compressors(b)
	all[0] = nil
	for _, n := range []int64{30, 5000} {
		var recs []format.Record
		for i := range n {
			recs = append(recs, format.Record{Offset: i, Timestamp: i, Key: []byte("some-key"), Value: fmt.Appendf(nil, `{"id": %d, "text": "%x"}`, i, rand.New(rand.NewPCG(uint64(i), 1)).Perm(60))})
		}
		for codec, compress := range all {
			raw := build(0, codec, 0, 0, compress, recs...)
			batch, _, err := Cut(raw)
			if err != nil {
				b.Fatal(err)
			}
			d := NewDecoder()
			b.Run(fmt.Sprintf("codec %d/%d", codec, n), func(b *testing.B) {
				b.SetBytes(int64(len(build(0, 0, 0, 0, nil, recs...))))
				for range b.N {
					if err := d.Open(batch); err != nil {
						b.Fatal(err)
					}
					var r format.Record
					for {
						if ok, err := d.Next(&r); err != nil {
							b.Fatal(err)
						} else if !ok {
							break
						}
					}
				}
			})
		}
	}
}
