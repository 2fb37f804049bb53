package format

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// ptr returns a pointer to a copy of v.
func ptr[T any](v T) *T { return &v }

// unhex decodes hexadecimal with spaces in it.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

// stream is a header, the given frames and an end.
func stream(frames ...[]byte) []byte {
	b, err := (&Header{Content: ContentRecords}).Append(nil)
	if err != nil {
		panic(err)
	}
	return append(append(b, bytes.Join(frames, nil)...), endFrame()...)
}

func endFrame() []byte { return unhex("82 63656e64 a1 677265636f726473 00") }

// frames encodes frames one after the other.
func frames(t testing.TB, fs ...Encoder) []byte {
	t.Helper()
	var b []byte
	var err error
	for _, f := range fs {
		if b, err = f.AppendFrame(b); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// readAll reads a stream to its end, decodes what can be decoded, and returns
// the raw frames before the error. The error is nil for a whole stream.
func readAll(src io.Reader, maxFrame int) (raws [][]byte, err error) {
	d := NewReader(src, maxFrame)
	for {
		f, err := d.Next()
		if err == io.EOF {
			return raws, nil
		}
		if err != nil {
			return raws, err
		}
		raws = append(raws, bytes.Clone(f.Raw))
		if err := decodeAny(f); err != nil {
			return raws, err
		}
	}
}

// decodeAny decodes a frame of a known kind.
func decodeAny(f *Frame) error {
	_, err := decodeEncoder(f)
	if f.Kind == KindSeg {
		_, _, err = DecodeSegment(f.Raw)
	}
	if f.Kind == KindSnapshot {
		_, _, err = DecodeSnapshot(f.Raw)
	}
	return err
}

// decodeEncoder decodes a frame of a kind that is an [Encoder], or nil.
func decodeEncoder(f *Frame) (e Encoder, err error) {
	switch f.Kind {
	case KindTopic:
		e, err = DecodeTopic(f.Raw)
	case KindMark:
		e, err = DecodeMark(f.Raw)
	case KindGroup:
		e, err = DecodeGroup(f.Raw)
	case KindPoint:
		e, err = DecodePoint(f.Raw)
	case KindGroups:
		e, err = DecodeGroups(f.Raw)
	case KindMoment:
		e, err = DecodeMoment(f.Raw)
	case KindTarget:
		e, err = DecodeTarget(f.Raw)
	case KindBatch:
		e, err = DecodeBatch(f.Raw)
	case KindMap:
		e, err = DecodeMap(f.Raw)
	case KindEnd:
		e, err = DecodeEnd(f.Raw)
	case KindCluster, KindACL, KindQuota, KindUser, KindConfig, KindSubject, KindSchema, KindConnector:
		e, err = DecodeOfCluster(f)
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// readRecord reads the only record of a stream.
func readRecord(t testing.TB, b []byte) (*Record, []byte) {
	t.Helper()
	d := smallReader(b)
	f, err := d.Next()
	if err != nil {
		t.Fatal(err)
	}
	var r Record
	if err := f.Record(&r); err != nil {
		t.Fatal(err)
	}
	raw := d.Own()
	if f, err := d.Next(); err != nil || f.Kind != KindEnd {
		t.Fatalf("after the record: %v, %v", f, err)
	}
	if _, err := d.Next(); err != io.EOF {
		t.Fatalf("after the end: %v", err)
	}
	return &r, raw
}

// sameRecord tells null from empty.
func sameRecord(a, b *Record) bool {
	x, y := *a, *b
	if len(x.Headers) == 0 && len(y.Headers) == 0 {
		x.Headers, y.Headers = nil, nil
	}
	return reflect.DeepEqual(x, y)
}

func newRand(t testing.TB, seed uint64) *rand.Rand {
	t.Helper()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// lengths lie on both sides of every change of a head's size, but the last.
var lengths = []int{0, 0, 1, 2, 10, 23, 24, 25, 100, 255, 256, 257, 65535, 65536}

func randBytes(rng *rand.Rand) []byte {
	if rng.IntN(8) == 0 {
		return nil
	}
	b := make([]byte, lengths[rng.IntN(len(lengths)-rng.IntN(3))])
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func randText(rng *rand.Rand) string {
	n := lengths[rng.IntN(9)]
	b := make([]byte, 0, n)
	for len(b) < n {
		b = utf8.AppendRune(b, []rune("az.-_é€😀\x00")[rng.IntN(9)])
	}
	return string(b)
}

// randInt returns an integer whose length in bits is about evenly spread.
func randInt(rng *rand.Rand, limit uint64) int64 {
	v := rng.Uint64() >> rng.IntN(64)
	switch rng.IntN(8) {
	case 0:
		v = limit
	case 1:
		v = []uint64{0, 23, 24, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1}[rng.IntN(9)]
	}
	return int64(min(v, limit))
}

func randRecord(rng *rand.Rand) *Record {
	r := &Record{
		Topic:     randText(rng),
		Partition: int32(randInt(rng, math.MaxInt32)),
		Offset:    randInt(rng, math.MaxInt64),
		Timestamp: randInt(rng, math.MaxInt64),
		Key:       randBytes(rng),
		Value:     randBytes(rng),
	}
	if rng.IntN(3) == 0 {
		r.Timestamp = ^r.Timestamp
	}
	switch rng.IntN(4) {
	case 0:
		r.Attributes = LogAppendTime
	case 1:
		r.Attributes = Attributes(rng.Uint64() >> rng.IntN(64))
	}
	for range rng.IntN(5) {
		h := RecordHeader{[]byte(randText(rng)), randBytes(rng)}
		if rng.IntN(4) == 0 {
			h.Name = append(h.Name, 0xff, 0xfe)
		}
		r.Headers = append(r.Headers, h)
		if rng.IntN(4) == 0 {
			r.Headers = append(r.Headers, RecordHeader{h.Name, randBytes(rng)})
		}
	}
	return r
}

// generic is the record as the CBOR library would be given it.
func generic(r *Record) []any {
	headers := []any{}
	for _, h := range r.Headers {
		var name any = h.Name
		if utf8.Valid(h.Name) {
			name = string(h.Name)
		}
		headers = append(headers, []any{name, nullable(h.Value)})
	}
	a := []any{"rec", r.Topic, r.Partition, r.Offset, r.Timestamp, nullable(r.Key), nullable(r.Value), headers}
	if r.Attributes != 0 {
		a = append(a, uint64(r.Attributes))
	}
	return a
}

func nullable(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

// A sloppy encoder writes valid CBOR of any form but, on the whole, the
// deterministic one.
type sloppy struct {
	rng *rand.Rand
	b   []byte
}

func (s *sloppy) head(major byte, v uint64) {
	widths := []uint64{23, math.MaxUint8, math.MaxUint16, math.MaxUint32, math.MaxUint64}
	w := s.rng.IntN(len(widths))
	for v > widths[w] {
		w++
	}
	if w == 0 {
		s.b = append(s.b, major|byte(v))
		return
	}
	s.b = append(s.b, major|byte(23+w))
	for i := 1<<(w-1) - 1; i >= 0; i-- {
		s.b = append(s.b, byte(v>>(8*i)))
	}
}

func (s *sloppy) str(major byte, v string) {
	if s.rng.IntN(2) == 0 {
		s.head(major, uint64(len(v)))
		s.b = append(s.b, v...)
		return
	}
	s.b = append(s.b, major|indefinite)
	for len(v) > 0 || s.rng.IntN(3) == 0 {
		n := s.rng.IntN(len(v) + 1)
		for major == majorText && !utf8.ValidString(v[:n]) { // chunks of text end between characters
			n--
		}
		s.head(major, uint64(n))
		s.b = append(s.b, v[:n]...)
		v = v[n:]
	}
	s.b = append(s.b, breakCode)
}

func (s *sloppy) value(v any) {
	switch v := v.(type) {
	case nil:
		s.b = append(s.b, null)
	case string:
		s.str(majorText, v)
	case []byte:
		s.str(majorBytes, string(v))
	case int32:
		s.value(int64(v))
	case int64:
		if v < 0 {
			s.head(majorNint, uint64(^v))
		} else {
			s.head(majorUint, uint64(v))
		}
	case uint64:
		s.head(majorUint, v)
	case cbor.RawMessage:
		s.b = append(s.b, v...)
	case []any:
		indef := s.rng.IntN(2) == 0
		if indef {
			s.b = append(s.b, majorArray|indefinite)
		} else {
			s.head(majorArray, uint64(len(v)))
		}
		for _, e := range v {
			s.value(e)
		}
		if indef {
			s.b = append(s.b, breakCode)
		}
	default:
		panic(v)
	}
}

// sentinels are the errors of which a broken stream shows exactly one.
var sentinels = []error{ErrTruncated, ErrNotStream, ErrVersion, ErrTrailing, ErrTooLarge, ErrCorrupt}

// isOnly tells whether err is want and no other sentinel.
func isOnly(err, want error) bool {
	for _, s := range sentinels {
		if errors.Is(err, s) != errors.Is(want, s) {
			return false
		}
	}
	return errors.Is(err, want)
}
