package recordbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"reflect"
	"testing"

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
		r.Headers = append([]format.RecordHeader(nil), r.Headers...)
		out = append(out, r)
	}
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
	for codec, c := range map[uint16]kgo.CompressionCodec{1: kgo.GzipCompression(), 2: kgo.SnappyCompression(), 3: kgo.Lz4Compression(), 4: kgo.ZstdCompression()} {
		comp, err := kgo.DefaultCompressor(c)
		if err != nil {
			t.Fatal(err)
		}
		b := build(1<<40, codec, 1000, 0, func(b []byte) []byte {
			out, got := comp.Compress(new(bytes.Buffer), b)
			if uint16(got) != codec {
				t.Fatalf("compressed with %d, not %d", got, codec)
			}
			return bytes.Clone(out)
		}, records...)
		if _, got := decode(t, b); !reflect.DeepEqual(got, records) {
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

// TestDamage flips every bit of a batch: what the checksum covers must not pass.
func TestDamage(t *testing.T) {
	good := build(1<<40, 0, 1000, 0, nil, records[:3]...)
	d := NewDecoder()
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			batch, _, err := Cut(b)
			if err == nil {
				err = d.Open(batch)
			}
			if err == nil && i >= atCRC {
				t.Fatalf("bit %d of byte %d flipped, and nothing was noticed", bit, i)
			}
		}
	}
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
