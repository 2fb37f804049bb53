package format

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

func TestAppendRecordIsDeterministicEncoding(t *testing.T) {
	rng := newRand(t, 1)
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		r := randRecord(rng)
		want, err := enc.Marshal(generic(r))
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendRecord([]byte("before"), r); !bytes.Equal(got[len("before"):], want) {
			t.Fatalf("record %d: got\n%x, the library\n%x", i, got, want)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	rng := newRand(t, 2)
	want := make([]*Record, 1000)
	var b bytes.Buffer
	w := NewWriter(&b)
	if err := w.WriteHeader(&Header{Content: ContentRecords}); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i] = randRecord(rng)
		if err := w.WriteRecord(want[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(&End{Records: int64(len(want))}); err != nil {
		t.Fatal(err)
	}
	d := NewReader(&b, 0)
	var r Record // reused, so that what an earlier record left shows
	for i, want := range want {
		f, err := d.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Record(&r); err != nil {
			t.Fatal(err)
		}
		if !sameRecord(&r, want) {
			t.Fatalf("record %d: got\n%+v, want\n%+v", i, r, *want)
		}
		if f.Topic != want.Topic || f.Partition != want.Partition || f.Offset != want.Offset ||
			f.Timestamp != want.Timestamp || f.Attributes != want.Attributes {
			t.Fatalf("record %d: the scan found %+v, want %+v", i, *f, *want)
		}
	}
	if f, err := d.Next(); err != nil || f.Kind != KindEnd {
		t.Fatalf("end: %+v, %v", f, err)
	}
}

func TestRecordExtremes(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
	for name, r := range map[string]*Record{
		"zero":             {},
		"empty is no null": {Key: []byte{}, Value: []byte{}, Headers: []RecordHeader{{[]byte{}, []byte{}}, {[]byte{}, nil}}},
		"highest":          {Partition: math.MaxInt32, Offset: math.MaxInt64, Timestamp: math.MaxInt64, Attributes: math.MaxUint64},
		"lowest time":      {Timestamp: math.MinInt64},
		"minus one":        {Timestamp: -1},
		"large":            {Key: large, Value: append(large, large...), Headers: []RecordHeader{{[]byte("h"), large}}},
		"many headers":     {Headers: make([]RecordHeader, 70_000)},
		"same name":        {Headers: []RecordHeader{{[]byte("b"), nil}, {[]byte("a"), []byte("1")}, {[]byte("b"), []byte("2")}}},
		"name not UTF-8":   {Headers: []RecordHeader{{[]byte{0xff}, nil}, {[]byte{0xed, 0xa0, 0x80}, nil}}},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range r.Headers {
				if r.Headers[i].Name == nil {
					r.Headers[i].Name = []byte{}
				}
			}
			raw := AppendRecord(nil, r)
			got, gotRaw := readRecord(t, stream(raw))
			if !sameRecord(got, r) {
				t.Error("another record came back")
			}
			if !bytes.Equal(gotRaw, raw) {
				t.Error("another frame came back")
			}
		})
	}
}

func TestRecordAnyEncoding(t *testing.T) {
	rng := newRand(t, 3)
	for i := range 1000 {
		want := randRecord(rng)
		a := generic(want)
		for _, h := range a[7].([]any) {
			// A name that is text may come as bytes.
			if name, ok := h.([]any)[0].(string); ok && rng.IntN(2) == 0 {
				h.([]any)[0] = []byte(name)
			}
		}
		if want.Attributes == 0 && rng.IntN(2) == 0 {
			a = append(a, uint64(0))
		}
		s := sloppy{rng: rng}
		s.value(a)
		got, raw := readRecord(t, stream(s.b))
		if canon := AppendRecord(nil, want); !bytes.Equal(raw, canon) {
			t.Fatalf("record %d: %x became\n%x, want\n%x", i, s.b, raw, canon)
		}
		if !sameRecord(got, want) {
			t.Fatalf("record %d: got\n%+v, want\n%+v", i, *got, *want)
		}
	}
}

// anyMode is deterministic but for what is encoded already.
var anyMode = must(cbor.EncOptions{ShortestFloat: cbor.ShortestFloat16}.EncMode())

func TestRecordExtraElements(t *testing.T) {
	rng := newRand(t, 4)
	extras := []string{
		"00", "f6", "1800", "9fff", "bf0001ff", "7f6161ff", "fb3ff0000000000000", "d9d9f7a16178820102", "f97e00",
		strings.Repeat("81", maxDepth-1) + "00", // as deep as may be
	}
	for i := range 1000 {
		want := randRecord(rng)
		attributes := want.Attributes
		want.Attributes = 1 // so that the canonical form has it
		var rest []byte
		n := 1 + rng.IntN(maxElems-9)
		a := generic(want)
		for range n {
			e := unhex(extras[rng.IntN(len(extras))])
			rest = append(rest, e...)
			a = append(a, cbor.RawMessage(e))
		}
		want.Attributes = attributes
		a[8] = uint64(attributes)
		canon, err := anyMode.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		s := sloppy{rng: rng}
		s.value(a)
		for _, in := range [][]byte{s.b, canon} {
			got, raw := readRecord(t, stream(in))
			if !bytes.Equal(raw, canon) || !bytes.HasSuffix(raw, rest) {
				t.Fatalf("record %d: %x became\n%x, want\n%x", i, in, raw, canon)
			}
			if !sameRecord(got, want) {
				t.Fatalf("record %d: got\n%+v, want\n%+v", i, *got, *want)
			}
		}
	}
}

// TestRecordDepth holds the fast and the slow path to the same limit.
func TestRecordDepth(t *testing.T) {
	plain := AppendRecord(nil, &Record{Attributes: 1})
	plain[0]++
	for depth, want := range map[int]error{maxDepth - 1: nil, maxDepth: ErrCorrupt} {
		deep := append(bytes.Repeat([]byte{0x81}, depth), 0)
		b := stream(append(plain[:len(plain):len(plain)], deep...))
		for _, src := range []io.Reader{bytes.NewReader(b), &chunks{b: b, size: func() int { return 1 }}} {
			if _, err := readAll(src, 0); !errors.Is(err, want) {
				t.Errorf("%d levels inside the frame: %v, want %v", depth, err, want)
			}
		}
	}
}

func TestRecordRefused(t *testing.T) {
	for name, a := range map[string][]any{
		"too short":             {"rec", "t", int64(0), int64(0), int64(0), nil, nil},
		"topic bytes":           {"rec", []byte("t"), int64(0), int64(0), int64(0), nil, nil, []any{}},
		"topic null":            {"rec", nil, int64(0), int64(0), int64(0), nil, nil, []any{}},
		"partition negative":    {"rec", "t", int64(-1), int64(0), int64(0), nil, nil, []any{}},
		"partition over 31 bit": {"rec", "t", int64(math.MaxInt32 + 1), int64(0), int64(0), nil, nil, []any{}},
		"offset negative":       {"rec", "t", int64(0), int64(-1), int64(0), nil, nil, []any{}},
		"offset over 63 bits":   {"rec", "t", int64(0), uint64(math.MaxInt64 + 1), int64(0), nil, nil, []any{}},
		"timestamp over":        {"rec", "t", int64(0), int64(0), uint64(math.MaxInt64 + 1), nil, nil, []any{}},
		"timestamp under":       {"rec", "t", int64(0), int64(0), cbor.RawMessage(unhex("3b8000000000000000")), nil, nil, []any{}},
		"timestamp a float":     {"rec", "t", int64(0), int64(0), cbor.RawMessage(unhex("f93c00")), nil, nil, []any{}},
		"timestamp null":        {"rec", "t", int64(0), int64(0), nil, nil, nil, []any{}},
		"key text":              {"rec", "t", int64(0), int64(0), int64(0), "k", nil, []any{}},
		"key undefined":         {"rec", "t", int64(0), int64(0), int64(0), cbor.RawMessage{undefined}, nil, []any{}},
		"value integer":         {"rec", "t", int64(0), int64(0), int64(0), nil, int64(1), []any{}},
		"headers null":          {"rec", "t", int64(0), int64(0), int64(0), nil, nil, nil},
		"headers a map":         {"rec", "t", int64(0), int64(0), int64(0), nil, nil, cbor.RawMessage{0xa0}},
		"header of one":         {"rec", "t", int64(0), int64(0), int64(0), nil, nil, []any{[]any{"n"}}},
		"header of three":       {"rec", "t", int64(0), int64(0), int64(0), nil, nil, []any{[]any{"n", nil, nil}}},
		"header no array":       {"rec", "t", int64(0), int64(0), int64(0), nil, nil, []any{"n"}},
		"header name null":      {"rec", "t", int64(0), int64(0), int64(0), nil, nil, []any{[]any{nil, nil}}},
		"header value text":     {"rec", "t", int64(0), int64(0), int64(0), nil, nil, []any{[]any{"n", "v"}}},
		"attributes negative":   {"rec", "t", int64(0), int64(0), int64(0), nil, nil, []any{}, int64(-1)},
		"attributes null":       {"rec", "t", int64(0), int64(0), int64(0), nil, nil, []any{}, nil},
		"24 elements": {"rec", "t", int64(0), int64(0), int64(0), nil, nil, []any{}, int64(1),
			nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := encMode.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			s := sloppy{rng: newRand(t, 5)}
			s.value(a)
			for _, b := range [][]byte{raw, s.b} {
				if _, err := readAll(bytes.NewReader(stream(b)), 0); !isOnly(err, ErrCorrupt) {
					t.Errorf("%x: %v", b, err)
				}
			}
		})
	}
}

func TestRecordOfAnotherKind(t *testing.T) {
	d := NewReader(bytes.NewReader(stream()), 0)
	f, err := d.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Record(new(Record)); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestNoAllocations(t *testing.T) {
	r := &Record{
		Topic: "orders", Partition: 3, Offset: 1 << 40, Timestamp: 1_700_000_000_000,
		Key: []byte("key"), Value: make([]byte, 500), Attributes: LogAppendTime,
		Headers: []RecordHeader{{[]byte("trace"), []byte("0123")}, {[]byte{0xff}, nil}},
	}
	buf := make([]byte, 0, 1<<10)
	if n := testing.AllocsPerRun(100, func() { buf = AppendRecord(buf[:0], r) }); n != 0 {
		t.Errorf("AppendRecord allocates %v times", n)
	}

	w := NewWriter(io.Discard)
	if err := w.WriteHeader(&Header{Content: ContentRecords}); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(2000, func() { _ = w.WriteRecord(r) }); n != 0 {
		t.Errorf("WriteRecord allocates %v times", n)
	}

	// Several topics in turn, and more bytes than the buffer holds.
	const runs = 5000
	var recs [][]byte
	for i := range runs + 10 {
		r.Topic = fmt.Sprintf("topic-%d", i%7)
		recs = append(recs, AppendRecord(nil, r))
	}
	d := NewReader(bytes.NewReader(stream(recs...)), 0)
	var out Record
	next := func() {
		f, err := d.Next()
		if err == nil {
			err = f.Record(&out)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 8 { // learns the topics' names
		next()
	}
	if n := testing.AllocsPerRun(runs, next); n != 0 {
		t.Errorf("Next and Record allocate %v times a record", n)
	}
}

// TestRewrite changes records of all shapes, and leaves what is behind their headers.
func TestRewrite(t *testing.T) {
	for _, rest := range []string{"", "01", "01 6478787878", "00 a0 9fff"} {
		old := Record{Topic: "t", Offset: 5, Key: []byte("k"), Headers: []RecordHeader{{[]byte("a"), nil}, {[]byte{0xff}, []byte("v")}}}
		raw := AppendRecord(nil, &old)
		more := unhex(rest)
		elems := map[string]byte{"": 8, "01": 9, "01 6478787878": 10, "00 a0 9fff": 11}[rest]
		raw[0] = majorArray | elems
		raw = append(raw, more...)
		d := NewReader(bytes.NewReader(slices.Concat(unhex("d9d9f7 83 636b626b 01 a1 67636f6e74656e74 677265636f726473"), raw, endFrame())), 0)
		f, err := d.Next()
		if err != nil {
			t.Fatal(err)
		}
		var r Record
		if err := f.Record(&r); err != nil {
			t.Fatal(err)
		}
		if got := f.Rewrite([]byte("x"), &r); !bytes.Equal(got[1:], raw) {
			t.Errorf("%q: unchanged: got %x, want %x", rest, got[1:], raw)
		}
		r.Topic, r.Partition, r.Value, r.Headers = "other", 7, []byte("new"), r.Headers[1:]
		want := AppendRecord(nil, &Record{Topic: "other", Partition: 7, Offset: 5, Key: []byte("k"), Value: []byte("new"), Headers: old.Headers[1:]})
		want[0] = majorArray | elems
		if got := f.Rewrite(nil, &r); !bytes.Equal(got, append(want, more...)) {
			t.Errorf("%q: got %x, want %x", rest, got, append(want, more...))
		}
	}
}
