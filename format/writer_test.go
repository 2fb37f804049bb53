package format

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

func TestWriterStates(t *testing.T) {
	h, end := &Header{Content: ContentRecords}, &End{}
	header := func(w *Writer) error { return w.WriteHeader(h) }
	ops := map[string]func(*Writer) error{
		"record":  func(w *Writer) error { return w.WriteRecord(&Record{}) },
		"raw":     func(w *Writer) error { return w.WriteRaw(endFrame()) },
		"frame":   func(w *Writer) error { return w.Write(&Point{}) },
		"segment": func(w *Writer) error { return w.WriteSegment(&Segment{}, nil) },
		"close":   func(w *Writer) error { return w.Close(end) },
	}
	for name, op := range ops {
		var b bytes.Buffer
		w := NewWriter(&b)
		if err := op(w); err != errNoHeader {
			t.Errorf("%s before the header: %v", name, err)
		}
		if err := header(w); err != errNoHeader || b.Len() > 0 {
			t.Errorf("%s before the header is forgotten: %v", name, err)
		}

		w = NewWriter(&b)
		if err := errors.Join(header(w), w.Close(end)); err != nil {
			t.Fatal(err)
		}
		n := b.Len()
		if err := op(w); err != errClosed {
			t.Errorf("%s after the end: %v", name, err)
		}
		if err := errors.Join(w.Flush()); !errors.Is(err, errClosed) || b.Len() != n {
			t.Errorf("%s after the end is forgotten: %v", name, err)
		}
	}
	w := NewWriter(io.Discard)
	if err := header(w); err != nil {
		t.Fatal(err)
	}
	if err := header(w); err != errHeader {
		t.Errorf("second header: %v", err)
	}
	if err := w.Close(end); err != errHeader {
		t.Errorf("end after a second header: %v", err)
	}
}

// failing fails after n bytes, once; a writer that goes on would succeed.
type failing struct {
	n, calls int
	short    bool
}

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	f.calls++
	if f.n -= len(p); f.n >= 0 {
		return len(p), nil
	}
	f.n = math.MaxInt
	if f.short {
		return len(p) - 1, nil
	}
	return 0, errFull
}

func TestWriterErrorsStay(t *testing.T) {
	large := &Record{Value: make([]byte, 2*writeSize)}
	for name, op := range map[string]func(*Writer) error{
		"flush":   (*Writer).Flush,
		"record":  func(w *Writer) error { return w.WriteRecord(large) },
		"raw":     func(w *Writer) error { return w.WriteRaw(AppendRecord(nil, large)) },
		"segment": func(w *Writer) error { return w.WriteSegment(&Segment{}, large.Value) },
		"frame":   func(w *Writer) error { return w.Write(&Batch{Data: large.Value}) },
		"close":   func(w *Writer) error { return w.Close(&End{}) },
	} {
		for _, short := range []bool{false, true} {
			want := errFull
			if short {
				want = io.ErrShortWrite
			}
			dst := &failing{short: short}
			w := NewWriter(dst)
			if err := w.WriteHeader(&Header{}); err != nil {
				t.Fatal(err)
			}
			if err := op(w); err != want {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
			calls := dst.calls
			for _, again := range []func() error{
				w.Flush,
				func() error { return w.WriteRecord(&Record{}) },
				func() error { return w.WriteRaw(endFrame()) },
				func() error { return w.Write(&Point{}) },
				func() error { return w.WriteHeader(&Header{}) },
				func() error { return w.Close(&End{}) },
			} {
				if err := again(); err != want {
					t.Errorf("after a failed %s: %v, want %v", name, err, want)
				}
			}
			if dst.calls != calls {
				t.Errorf("after a failed %s, it wrote again", name)
			}
		}
	}
}

// TestWriterRefusesWhatReadersRefuse: such a frame must not get into a backup.
func TestWriterRefusesWhatReadersRefuse(t *testing.T) {
	const bad = "\xff"
	for name, f := range map[string]Encoder{
		"topic":    &Topic{Name: bad},
		"config":   &Topic{Configs: map[string]string{"k": bad}},
		"mark":     &Mark{Topic: bad},
		"group":    &Group{ID: bad},
		"metadata": &Group{Offsets: map[string]map[int32]GroupOffset{"t": {0: {Metadata: ptr(bad)}}}},
		"batch":    &Batch{Topic: bad},
		"map":      &Map{TargetTopic: bad},
		"large":    &Group{Offsets: map[string]map[int32]GroupOffset{"t": {0: {Metadata: ptr(strings.Repeat("m", maxMap))}}}},
	} {
		w := NewWriter(io.Discard)
		if err := w.WriteHeader(&Header{}); err != nil {
			t.Fatal(err)
		}
		err := w.Write(f)
		if err == nil || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if again := w.Close(&End{}); again != err {
			t.Errorf("%s: closed with %v after %v", name, again, err)
		}
	}
	w := NewWriter(io.Discard)
	if err := w.WriteHeader(&Header{ID: bad}); err == nil {
		t.Error("header written")
	}
	if err := w.Close(&End{}); err == nil {
		t.Error("closed after a header that failed")
	}
}

// every is a frame of every kind but seg, with every field set and with none.
func every() []Encoder {
	return []Encoder{
		&Topic{},
		&Topic{"orders", "vPeOCWypqUOSepEvx0cbog", 12, 3, map[string]string{"cleanup.policy": "compact", "": ""}},
		&Mark{},
		&Mark{"orders", math.MaxInt32, math.MaxInt64, MarkInfo{
			"vPeOCWypqUOSepEvx0cbog", ptr(int32(0)), ptr(int64(0)), ptr(int64(math.MaxInt64)), true, [][2]int64{{0, 5}, {7, math.MaxInt64}},
			[]string{"kbk-filter:1a2b3c4d", "window"}, &[2]int64{7, math.MaxInt64}, true, true,
		}},
		&Groups{IDs: []string{}}, &Target{},
		&Group{ID: "billing", Offsets: map[string]map[int32]GroupOffset{
			"orders": {0: {Offset: 5}, 1000: {Offset: math.MaxInt64, LeaderEpoch: ptr(int32(3)), Metadata: ptr("")}},
			"none":   {},
		}},
		&Group{ID: "translated", Offsets: map[string]map[int32]GroupOffset{"orders": {
			0: {Offset: 5, End: ptr(int64(9)), Record: &NextRecord{5, -1, []byte{1, 2}}},
			1: {AtEnd: true, Again: 3, From: []GroupSource{{"old", 1, 7, ptr(int64(9)), ptr(int64(8)), 1, &NextRecord{8, 1, []byte{3}}}, {Topic: "old"}}},
		}}, GroupInfo: GroupInfo{map[string]string{"orders": "id"}, "map", "original", []Unplaced{{"gone", 1, 2, "not in the backup"}}, map[string][]int32{"orders": {2, 3}}, true}},
		&Point{}, &Point{Time: -1}, &Point{1_700_000_000_000, map[string][]int32{"orders": {0, 2}}},
		&Groups{IDs: []string{"a", "b"}, GroupsInfo: GroupsInfo{[]string{"^"}, []string{"c"}, map[string]string{"orders": ""}}}, &Target{"a", 1, "b", -1, TargetInfo{"id", []int64{0, math.MaxInt64}}},
		&Moment{[]byte("\x83\x65point\x00\xa0"), MomentInfo{ID: "", Topics: []MomentTopic{}}},
		&Moment{[]byte("\x83\x65point\x00\xa0"), MomentInfo{"20261120T220000.000Z-0a1b2c3d-000001", "0a1b2c3d", []MomentTopic{
			{"orders", "id", []byte{1}, map[int32][2]int64{0: {0, 5}, 7: {3, math.MaxInt64}}}}, [][]byte{{2}, {3}}, []MomentLack{{"orders", []int32{1, 2}, "compacted"}}}},
		&Batch{"orders", 1, 10, 19, -1, 10, []byte("raw"), ""},
		&Batch{"orders", 1, 10, 10, math.MinInt64, 1, []byte{}, "zstd"},
		&Map{"orders", 1, 100, "orders-2", 2, 0, math.MaxInt64 - 100},
		&End{}, &End{5, 6, true, true, []string{"orders/0: offsets 0 to 9 were deleted before they were read"}},
	}
}

func TestEveryFrameRoundTrips(t *testing.T) {
	for _, want := range every() {
		raw := frames(t, want)
		if n, err := itemLen(raw); err != nil || n != len(raw) {
			t.Fatalf("%+v: not one item: %v", want, err)
		}
		d := NewReader(bytes.NewReader(stream(raw)), 0)
		if _, end := want.(*End); end {
			d = NewReader(bytes.NewReader(append(bytes.TrimSuffix(stream(), endFrame()), raw...)), 0)
		}
		f, err := d.Next()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeEncoder(f)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		var v any
		if err := cbor.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		if again, err := encMode.Marshal(v); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%+v: not deterministic: %x", want, raw)
		}
	}
}

func TestLossesAreBounded(t *testing.T) {
	var e End
	e.Lose("orders/0: gone")
	e.Lose("orders/0: gone")
	if want := (End{Lost: true, Losses: []string{"orders/0: gone"}}); !reflect.DeepEqual(e, want) {
		t.Errorf("one loss that is noted twice: %+v", e)
	}
	for i := range 2 * maxLosses {
		e.Lose(fmt.Sprintf("orders/%d: gone too", i))
	}
	if last := e.Losses[len(e.Losses)-1]; len(e.Losses) != maxLosses || !strings.HasPrefix(last, "and more") {
		t.Errorf("%d losses, the last one is %q", len(e.Losses), last)
	}
}

// TestNilIsEmpty: of the frames but rec, none knows null.
func TestNilIsEmpty(t *testing.T) {
	if got, want := frames(t, &Batch{}), unhex("88 656261746368 60 00 00 00 00 00 40"); !bytes.Equal(got, want) {
		t.Errorf("batch: %x, want %x", got, want)
	}
	if got, want := frames(t, &Group{}), unhex("84 6567726f7570 60 a0 a0"); !bytes.Equal(got, want) {
		t.Errorf("group: %x, want %x", got, want)
	}
}

func TestSegmentRoundTrips(t *testing.T) {
	want := &Segment{
		Topic: "orders", TopicID: "id", Partition: 3, From: 10, Next: 20, First: 11, Last: 18, Records: 4, MinTimestamp: -5, MaxTimestamp: 5,
		Codec: "zstd", Cipher: "age", RawSize: 1000, Size: 300_000, SHA256: make([]byte, 32), DropBelow: 12, DropFrom: 17,
	}
	data := bytes.Repeat([]byte("x"), 300_000)
	for _, parts := range [][][]byte{{data}, {data[:1], data[1:1000], data[1000:]}} {
		var b bytes.Buffer
		w := NewWriter(&b)
		if err := errors.Join(w.WriteHeader(&Header{Content: ContentSegments}), w.WriteSegment(want, parts...), w.Close(&End{Segments: 1})); err != nil {
			t.Fatal(err)
		}
		d := NewReader(&b, 0)
		f, err := d.Next()
		if err != nil || f.Kind != KindSeg {
			t.Fatal(f, err)
		}
		got, gotData, err := DecodeSegment(f.Raw)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) || !bytes.Equal(gotData, data) {
			t.Errorf("got %+v and %d bytes, want %+v", got, len(gotData), want)
		}
	}
}

func TestSegmentValidate(t *testing.T) {
	good := Segment{Topic: "t", From: 1, First: 1, Last: 1, Next: 2, Records: 1, SHA256: make([]byte, 32)}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Segment){
		"topic":      func(s *Segment) { s.Topic = "" },
		"partition":  func(s *Segment) { s.Partition = -1 },
		"records":    func(s *Segment) { s.Records = 0 },
		"from":       func(s *Segment) { s.From = 2 },
		"negative":   func(s *Segment) { s.From = -1 },
		"first":      func(s *Segment) { s.First = 2 },
		"next":       func(s *Segment) { s.Next = 1 },
		"timestamps": func(s *Segment) { s.MinTimestamp = 1 },
		"size":       func(s *Segment) { s.Size = -1 },
		"raw size":   func(s *Segment) { s.RawSize = -1 },
		"sha256":     func(s *Segment) { s.SHA256 = s.SHA256[:31] },
	} {
		s := good
		change(&s)
		if err := s.Validate(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, f := range map[string]Encoder{
		"topic partitions":      &Topic{Partitions: -1},
		"topic replicas":        &Topic{ReplicationFactor: math.MaxInt16 + 1},
		"mark partition":        &Mark{Partition: -1},
		"mark next":             &Mark{Next: -1},
		"mark lost empty":       &Mark{Next: 9, MarkInfo: MarkInfo{Lost: [][2]int64{{3, 3}}}},
		"mark lost past next":   &Mark{Next: 9, MarkInfo: MarkInfo{Lost: [][2]int64{{3, 10}}}},
		"mark lost negative":    &Mark{Next: 9, MarkInfo: MarkInfo{Lost: [][2]int64{{-3, 3}}}},
		"mark open empty":       &Mark{Next: 9, MarkInfo: MarkInfo{Open: &[2]int64{9, 9}}},
		"mark open negative":    &Mark{Next: 9, MarkInfo: MarkInfo{Open: &[2]int64{-1, 9}}},
		"mark branch":           &Mark{Next: 9, MarkInfo: MarkInfo{Branch: true}},
		"point without":         &Point{Without: map[string][]int32{"t": {-1}}},
		"moment partition":      &Moment{[]byte("\x83\x65point\x00\xa0"), MomentInfo{Topics: []MomentTopic{{Partitions: map[int32][2]int64{-1: {}}}}}},
		"moment offset":         &Moment{[]byte("\x83\x65point\x00\xa0"), MomentInfo{Topics: []MomentTopic{{Partitions: map[int32][2]int64{1: {-1, 0}}}}}},
		"moment lacks":          &Moment{[]byte("\x83\x65point\x00\xa0"), MomentInfo{Lacks: []MomentLack{{"orders", []int32{-1}, ""}}}},
		"moment of no point":    &Moment{[]byte("\x80"), MomentInfo{}},
		"target partition":      &Target{Partition: -1},
		"target of target":      &Target{TargetPartition: -2},
		"target offset":         &Target{TargetInfo: TargetInfo{Offsets: []int64{-1}}},
		"group partition":       &Group{Offsets: map[string]map[int32]GroupOffset{"t": {-1: {}}}},
		"group offset":          &Group{Offsets: map[string]map[int32]GroupOffset{"t": {0: {Offset: -1}}}},
		"batch order":           &Batch{First: 5, Last: 4, Records: 1},
		"batch partition":       &Batch{Partition: -1, Records: 1},
		"batch of none":         &Batch{Last: -1},
		"batch with a hole":     &Batch{First: 5, Last: 7, Records: 2},
		"map of none":           &Map{},
		"map over 63 bits":      &Map{SourceFirst: 1, Count: math.MaxInt64},
		"map target over":       &Map{TargetFirst: 1, Count: math.MaxInt64},
		"map target partition":  &Map{TargetPartition: -1, Count: 1},
		"map negative offset":   &Map{SourceFirst: -1, Count: 1},
		"map negative target":   &Map{TargetFirst: -1, Count: 1},
		"map negative, of many": &Map{Count: -1},
	} {
		if _, err := readAll(bytes.NewReader(stream(frames(t, f))), 0); !isOnly(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, raw := range map[string]string{
		"topic null":          "83 65746f706963 f6 a0",
		"topic map undefined": "83 65746f706963 6174 f7",
		"topic too short":     "82 65746f706963 6174",
		"mark null":           "85 646d61726b 6174 f6 00 a0",
		"partition a float":   "85 646d61726b 6174 f93c00 00 a0",
		"partition 32 bits":   "85 646d61726b 6174 1affffffff 00 a0",
		"duplicate key":       "83 65746f706963 6174 a2 626964 6161 626964 6162",
		"text key as bytes":   "83 65746f706963 6174 a1 626964 4161",
		"seg too short":       "82 63736567 a0",
		"seg data text":       "83 63736567 a0 60",
		"seg null":            "83 63736567 f6 40",
		"seg empty":           "83 63736567 a0 40",
	} {
		if _, err := readAll(bytes.NewReader(stream(unhex(raw))), 0); !isOnly(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := DecodeMark(frames(t, &Point{})); !errors.Is(err, ErrCorrupt) {
		t.Errorf("point as a mark: %v", err)
	}
}

// TestDecodeToleratesLater: keys and elements that a later version adds, and
// keys that differ by case only.
func TestDecodeToleratesLater(t *testing.T) {
	got, err := DecodeMark(unhex("87 646d61726b 6174 01 02 a3 63456e64 03 65656e642032 f6 63656e64 04 f6 80"))
	if want := (&Mark{"t", 1, 2, MarkInfo{End: ptr(int64(4))}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestHeaderKeepsTheUnknown(t *testing.T) {
	in := Header{ID: "run", Created: 5, Content: ContentRecords, Source: &Source{Cluster: "c", Tool: "t"}}
	raw, err := in.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := NewReader(bytes.NewReader(append(raw, endFrame()...)), 0)
	if got, err := d.Header(); err != nil || !reflect.DeepEqual(got.Source, in.Source) || got.ID != "run" || got.Created != 5 || got.Content != in.Content {
		t.Errorf("got %+v, %v", got, err)
	}

	// Of the same header with more in every place that can have more:
	// ["kbk", 1, {"id": "run", "ID": null, "source": {"tool": "t", "zone": [1]}, "content": "records", "windos": {_ }}, 7, [_ ]]
	raw = unhex("d9d9f7 85 636b626b 01 a5 626964 6372756e 624944 f6 66736f75726365 a2 64746f6f6c 6174 647a6f6e65 8101" +
		"67636f6e74656e74 677265636f726473 6677696e646f73 bfff 07 9fff")
	for name, c := range map[string]struct {
		change func(*Header)
		want   string
	}{
		"as it is": {func(*Header) {}, "85 636b626b 01 a5 624944 f6 626964 6372756e 66736f75726365 a2 64746f6f6c 6174 647a6f6e65 8101" +
			"6677696e646f73 bfff 67636f6e74656e74 677265636f726473 07 9fff"},
		"changed": {func(h *Header) { h.ID, h.Source.Tool, h.Source.Cluster, h.Content = "", "u", "c", ContentSegments },
			"85 636b626b 01 a4 624944 f6 66736f75726365 a3 64746f6f6c 6175 647a6f6e65 8101 67636c7573746572 6163" +
				"6677696e646f73 bfff 67636f6e74656e74 687365676d656e7473 07 9fff"},
		"without source": {func(h *Header) { h.Source = nil },
			"85 636b626b 01 a4 624944 f6 626964 6372756e 6677696e646f73 bfff 67636f6e74656e74 677265636f726473 07 9fff"},
	} {
		src := append(bytes.Clone(raw), endFrame()...)
		d := NewReader(bytes.NewReader(src), 0)
		h, err := d.Header()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Next(); err != nil {
			t.Fatal(err)
		}
		for i := range d.buf { // the header must not share the reader's memory
			d.buf[i] = 0
		}
		c.change(h)
		var b bytes.Buffer
		w := NewWriter(&b)
		if err := errors.Join(w.WriteHeader(h), w.Flush()); err != nil {
			t.Fatal(err)
		}
		if want := append(bytes.Clone(magic), unhex(c.want)...); !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%s: got\n%x, want\n%x", name, b.Bytes(), want)
		}
	}
}

// TestWindowOfAHeader reads back a window, and refuses one whose bounds are not known.
func TestWindowOfAHeader(t *testing.T) {
	since := int64(-1)
	in := &Header{Content: ContentSegments, Filters: []string{"a"}, Window: &Window{Since: &since, Offsets: map[string]map[int32][2]int64{"t": {3: {5, 7}}}}}
	raw, err := in.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := NewReader(bytes.NewReader(append(raw, endFrame()...)), 0).Header()
	if err != nil || !reflect.DeepEqual(out.Window, in.Window) || !reflect.DeepEqual(out.Filters, in.Filters) {
		t.Errorf("got %+v, %v", out, err)
	}
	for topic, want := range map[string][4]int64{"t": {5, 7, -1, math.MaxInt64}, "u": {0, math.MaxInt64, -1, math.MaxInt64}} {
		from, next, from2, to := out.Window.Bounds(topic, 3)
		if got := [4]int64{from, next, from2, to}; got != want {
			t.Errorf("%s: got %d, want %d", topic, got, want)
		}
	}
	unknown := unhex("d9d9f7 83 636b626b 01 a2 6677696e646f77 a1 6161 01 67636f6e74656e74 677265636f726473")
	if _, err := NewReader(bytes.NewReader(append(unknown, endFrame()...)), 0).Header(); err == nil || !strings.Contains(err.Error(), `bounded by "a"`) {
		t.Errorf("an unknown bound: %v", err)
	}
}
