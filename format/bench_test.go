package format

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// bench runs f with records of several sizes.
func bench(b *testing.B, f func(b *testing.B, r *Record)) {
	for _, size := range []int{100, 500, 10 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := &Record{
				Topic: "orders.created.v1", Partition: 7, Offset: 1_234_567_890, Timestamp: 1_700_000_000_000,
				Key: []byte("customer-0123456789"), Value: make([]byte, size),
				Headers: []RecordHeader{{[]byte("traceparent"), make([]byte, 55)}},
			}
			b.SetBytes(int64(len(AppendRecord(nil, r))))
			b.ReportAllocs()
			f(b, r)
		})
	}
}

func BenchmarkAppendRecord(b *testing.B) {
	bench(b, func(b *testing.B, r *Record) {
		buf := AppendRecord(nil, r)
		for b.Loop() {
			buf = AppendRecord(buf[:0], r)
		}
	})
}

// loop is a stream without an end: a header, and then one record over and over.
type loop struct {
	head, block []byte
	at          int
}

func newLoop(b *testing.B, r *Record) *loop {
	head, err := (&Header{Content: ContentRecords}).Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	return &loop{head: head, block: bytes.Repeat(AppendRecord(nil, r), 64)}
}

func (l *loop) Read(p []byte) (n int, err error) {
	if len(l.head) > 0 {
		n = copy(p, l.head)
		l.head = l.head[n:]
		return n, nil
	}
	for n < len(p) {
		c := copy(p[n:], l.block[l.at:])
		n += c
		l.at = (l.at + c) % len(l.block)
	}
	return n, nil
}

func BenchmarkReaderNext(b *testing.B) {
	bench(b, func(b *testing.B, r *Record) {
		d := NewReader(newLoop(b, r), 0)
		for b.Loop() {
			if _, err := d.Next(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRecordDecode(b *testing.B) {
	bench(b, func(b *testing.B, r *Record) {
		d := NewReader(newLoop(b, r), 0)
		var out Record
		for b.Loop() {
			f, err := d.Next()
			if err == nil {
				err = f.Record(&out)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// libraryRecord is a record as the CBOR library would encode and decode it.
type libraryRecord struct {
	_         struct{} `cbor:",toarray"`
	Kind      string
	Topic     string
	Partition int32
	Offset    int64
	Timestamp int64
	Key       []byte
	Value     []byte
	Headers   []libraryHeader
}

type libraryHeader struct {
	_     struct{} `cbor:",toarray"`
	Name  string
	Value []byte
}

func BenchmarkLibraryEncode(b *testing.B) {
	bench(b, func(b *testing.B, r *Record) {
		l := libraryRecord{
			Kind: "rec", Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp, Key: r.Key, Value: r.Value,
			Headers: []libraryHeader{{Name: string(r.Headers[0].Name), Value: r.Headers[0].Value}},
		}
		enc := encMode.NewEncoder(io.Discard)
		for b.Loop() {
			if err := enc.Encode(&l); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkLibraryDecode(b *testing.B) {
	bench(b, func(b *testing.B, r *Record) {
		l := newLoop(b, r)
		l.head = nil
		dec := cbor.NewDecoder(l)
		for b.Loop() {
			var out libraryRecord
			if err := dec.Decode(&out); err != nil {
				b.Fatal(err)
			}
		}
	})
}
