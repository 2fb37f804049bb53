package format

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/fxamacker/cbor/v2"
)

// FuzzReader reads any bytes: whatever is accepted must be the same in reads of
// any size, and records must encode again as they are.
func FuzzReader(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*/*.kbk")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range seeds {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, slow := smallReader(b), smallReader(nil)
		slow.src = iotest.OneByteReader(bytes.NewReader(b))
		d.maxFrame, slow.maxFrame = smallBuffer, smallBuffer
		var r Record
		for {
			f, err := d.Next()
			g, slowErr := slow.Next()
			if fmt.Sprint(err) != fmt.Sprint(slowErr) {
				t.Fatalf("%v, and byte by byte %v", err, slowErr)
			}
			if len(d.buf) > 2*(smallBuffer+readSize) {
				t.Fatalf("holds %d bytes for %d", len(d.buf), len(b))
			}
			var pos *PositionError
			if err == io.EOF {
				return
			} else if err != nil {
				if !errors.As(err, &pos) {
					t.Fatal(err)
				}
				return
			}
			if f.Kind != g.Kind || !bytes.Equal(f.Raw, g.Raw) || f.Topic != g.Topic && f.Kind == KindRec {
				t.Fatalf("%x, and byte by byte %x", f.Raw, g.Raw)
			}
			if n, err := itemLen(f.Raw); err != nil || n != len(f.Raw) {
				t.Fatalf("%x: %v", f.Raw, err)
			}
			if f.Kind == KindRec {
				checkRecord(t, f, &r)
			} else {
				checkFrame(t, f)
			}
		}
	})
}

func checkRecord(t *testing.T, f *Frame, r *Record) {
	if err := f.Record(r); err != nil {
		t.Fatal(err)
	}
	again := AppendRecord(nil, r)
	if elems := f.Raw[0] & 0x1f; elems <= 9 {
		if !bytes.Equal(again, f.Raw) {
			t.Fatalf("%x became %x", f.Raw, again)
		}
		return
	}
	// With elements that are not known behind them, the known ones are the same.
	n := len(again)
	if r.Attributes == 0 {
		again = append(again, 0)
		n++
	}
	if len(f.Raw) < n || !bytes.Equal(again[1:], f.Raw[1:n]) {
		t.Fatalf("%x became %x", f.Raw, again)
	}
}

// checkFrame decodes a frame that is not a record; decoded, encoded and decoded
// it must be the same as decoded.
func checkFrame(t *testing.T, f *Frame) {
	if f.Kind == KindSeg {
		if s, data, err := DecodeSegment(f.Raw); err == nil {
			head, err := appendDataHead(nil, "seg", s, len(data))
			if err != nil {
				t.Fatal(err)
			}
			if again, _, err := DecodeSegment(append(head, data...)); err != nil || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", s) {
				t.Fatalf("%+v became %+v, %v", s, again, err)
			}
		}
		return
	}
	e, err := decodeEncoder(f)
	if err != nil || e == nil {
		return
	}
	once, err := e.AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err = decodeEncoder(&Frame{Kind: f.Kind, Raw: once})
	if err != nil {
		t.Fatalf("%x became %x: %v", f.Raw, once, err)
	}
	if twice, err := e.AppendFrame(nil); err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%x became %x, and then %x, %v", f.Raw, once, twice, err)
	}
}

func FuzzRecordRoundTrip(f *testing.F) {
	f.Add("orders", int32(0), int64(0), int64(0), []byte("k"), []byte("v"), []byte("name"), []byte("value"), uint8(0), uint64(0), int64(0))
	f.Add("", int32(math.MaxInt32), int64(math.MaxInt64), int64(math.MinInt64), []byte{}, []byte{}, []byte{}, []byte{}, uint8(3), uint64(1), int64(1))
	f.Add("é", int32(24), int64(256), int64(-1), []byte{0xff}, make([]byte, 300), []byte{0xff}, []byte{}, uint8(30), uint64(math.MaxUint64), int64(2))
	f.Fuzz(func(t *testing.T, topic string, partition int32, offset, timestamp int64, key, value, name, hvalue []byte, n uint8, attributes uint64, seed int64) {
		r := &Record{
			Topic: strings.ToValidUTF8(topic, ""), Partition: partition & math.MaxInt32, Offset: offset & math.MaxInt64,
			Timestamp: timestamp, Attributes: Attributes(attributes),
		}
		if seed&1 == 0 {
			r.Key = key
		}
		if seed&2 == 0 {
			r.Value = value
		}
		for i := range n {
			h := RecordHeader{Name: name}
			if i%3 != 0 {
				h.Value = hvalue
			}
			r.Headers = append(r.Headers, h)
		}
		raw := AppendRecord(nil, r)
		want, err := encMode.Marshal(generic(r))
		if err != nil || !bytes.Equal(raw, want) {
			t.Fatalf("got %x, the library %x, %v", raw, want, err)
		}
		s := sloppy{rng: newRand(t, uint64(seed))}
		s.value(generic(r))
		for _, b := range [][]byte{raw, s.b} {
			got, gotRaw := readRecord(t, stream(b))
			if !sameRecord(got, r) || !bytes.Equal(gotRaw, raw) {
				t.Fatalf("%x: got %+v, %x", b, got, gotRaw)
			}
		}
	})
}

// FuzzSkip holds the skipper to the library's idea of what is well-formed. It is
// stricter in two things: text must be UTF-8, and nesting is bounded.
func FuzzSkip(f *testing.F) {
	for _, v := range append(goodVectors(f), badVectors(f)...) {
		f.Add(v.bytes)
		for _, rest := range bytes.SplitAfter(v.bytes, []byte{0x83}) {
			f.Add(rest)
		}
	}
	mode := must(cbor.DecOptions{MaxNestedLevels: 65535, MaxArrayElements: math.MaxInt32, MaxMapPairs: math.MaxInt32}.DecMode())
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := itemLen(b)
		if err == nil {
			if err := mode.Wellformed(b[:n]); err != nil {
				t.Fatalf("accepted %x, the library says %v", b[:n], err)
			}
		} else if !strings.Contains(err.Error(), "nested deeper") && !strings.Contains(err.Error(), "not UTF-8") {
			var extra *cbor.ExtraneousDataError
			if lerr := mode.Wellformed(b); lerr == nil || errors.As(lerr, &extra) {
				t.Fatalf("refused %x: %v, the library accepts it", b, err)
			}
		}
		// The same in pieces.
		var s skipper
		for have := range len(b) + 1 {
			if have < s.need {
				continue
			}
			o, perr := s.skip(b[:have], len(b))
			if o == short {
				if have == len(b) && err == nil {
					t.Fatalf("short: %x", b)
				}
				continue
			}
			if (o == whole) != (err == nil) || o == whole && s.pos != n {
				t.Fatalf("%x: %v, %d and in pieces %v, %d", b, err, n, perr, s.pos)
			}
			break
		}
	})
}
