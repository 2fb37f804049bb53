package format

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// chunks is a reader that gives b in pieces of the given sizes, and scribbles
// over the room that it does not fill, as an io.Reader may.
type chunks struct {
	b    []byte
	size func() int
}

func (c *chunks) Read(p []byte) (int, error) {
	n := min(c.size(), len(p), len(c.b))
	copy(p, c.b[:n])
	c.b = c.b[n:]
	for i := n; i < min(len(p), n+64); i++ {
		p[i] = 0xaa
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// mixed is a stream of frames of all sizes and kinds.
func mixed(t testing.TB) []byte {
	rng := newRand(t, 10)
	topic := frames(t, &Topic{Name: "orders", Partitions: 3, ReplicationFactor: 1})
	mark := frames(t, &Mark{Topic: "orders", Next: 5})
	var fs [][]byte
	for i := range 60 {
		switch i % 4 {
		case 0:
			fs = append(fs, topic, mark, unhex("82 6377686f 9f0102ff"))
		case 1:
			s := sloppy{rng: rng}
			s.value(generic(randRecord(rng)))
			fs = append(fs, s.b)
		default:
			fs = append(fs, AppendRecord(nil, randRecord(rng)))
		}
	}
	fs = append(fs, AppendRecord(nil, &Record{Topic: "large", Value: make([]byte, 3*readSize/2)}), mark)
	return stream(fs...)
}

func TestReaderAnyReads(t *testing.T) {
	b := mixed(t)
	want, err := readAll(bytes.NewReader(b), 0)
	if err != nil {
		t.Fatal(err)
	}
	rng := newRand(t, 11)
	for name, src := range map[string]io.Reader{
		"one byte":       iotest.OneByteReader(bytes.NewReader(b)),
		"half":           iotest.HalfReader(bytes.NewReader(b)),
		"error and data": iotest.DataErrReader(bytes.NewReader(b)),
		"random":         &chunks{b: b, size: func() int { return 1 + rng.IntN(2000) }},
		"large random":   &chunks{b: b, size: func() int { return 1 + rng.IntN(readSize) }},
		"scribbling":     &chunks{b: b, size: func() int { return 7 }},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readAll(src, 0)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Fatalf("%d frames, want %d", len(got), len(want))
			}
			for i := range want {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("frame %d: another one", i)
				}
			}
		})
	}
}

// TestReaderEndOutlivesLookahead reads with a source that uses its whole buffer
// as scratch space while the reader looks for data behind the end.
func TestReaderEndOutlivesLookahead(t *testing.T) {
	b := stream()
	d := NewReader(&chunks{b: b, size: func() int { return len(b) }}, 0)
	f, err := d.Next()
	if err != nil {
		t.Fatal(err)
	}
	if f.Kind != KindEnd || string(f.Name) != "end" || !bytes.Equal(f.Raw, endFrame()) {
		t.Errorf("end frame %q is %x", f.Name, f.Raw)
	}
}

func TestReaderStates(t *testing.T) {
	d := NewReader(bytes.NewReader(stream()), 0)
	if _, err := d.Next(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := d.Next(); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
		if h, err := d.Header(); err != nil || h.Content != ContentRecords {
			t.Errorf("header after the end: %v, %v", h, err)
		}
	}

	d = NewReader(bytes.NewReader(unhex("d9d9f7 00")), 0)
	_, first := d.Next()
	if _, second := d.Next(); first == nil || second != first {
		t.Errorf("%v, and then %v", first, second)
	}
	if _, err := d.Header(); err != first {
		t.Errorf("%v, and the header's %v", first, err)
	}

	broken := errors.New("broken")
	b := stream(AppendRecord(nil, &Record{}))
	d = NewReader(io.MultiReader(bytes.NewReader(b[:len(b)-1]), iotest.ErrReader(broken)), 0)
	if _, err := d.Next(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := d.Next()
		var pos *PositionError
		if !errors.Is(err, broken) || errors.Is(err, ErrTruncated) || !errors.As(err, &pos) || pos.Frame != 2 {
			t.Errorf("a read error came as %v", err)
		}
	}

	d = NewReader(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(b))), 0)
	if _, err := d.Next(); !errors.Is(err, iotest.ErrTimeout) {
		t.Error(err)
	}
	d = NewReader(stuck{}, 0)
	if _, err := d.Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// TestReaderReset reads one stream after another with one reader, whatever became of
// those before.
func TestReaderReset(t *testing.T) {
	whole := stream(AppendRecord(nil, &Record{Topic: "t", Offset: 7}))
	r := NewReader(strings.NewReader("no stream"), 100)
	for _, cut := range []int{len(whole), 3, len(whole) - 1, len(whole), 0, len(whole)} {
		r.Reset(bytes.NewReader(whole[:cut]))
		var offset int64
		f, err := r.Next()
		for ; err == nil; f, err = r.Next() {
			if f.Kind == KindRec {
				offset = f.Offset
			}
		}
		var at *PositionError
		switch {
		case cut == len(whole) && (err != io.EOF || offset != 7):
			t.Errorf("a whole stream: offset %d, %v", offset, err)
		case cut < len(whole) && (!errors.As(err, &at) || !errors.Is(err, ErrTruncated) || at.Byte > int64(cut)):
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

func TestReaderPosition(t *testing.T) {
	rec := AppendRecord(nil, &Record{Topic: "t"})
	bad := unhex("1c")
	head := stream()
	head = head[:len(head)-len(endFrame())]
	_, err := readAll(bytes.NewReader(stream(rec, rec, bad)), 0)
	var pos *PositionError
	if !errors.As(err, &pos) || pos.Frame != 3 || pos.Byte != int64(len(head)+2*len(rec)) {
		t.Errorf("%v, want frame 3 at byte %d", err, len(head)+2*len(rec))
	}
	if want := fmt.Sprintf("frame 3 at byte %d: corrupt frame: ", pos.Byte); !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%q does not begin with %q", err, want)
	}
	_, err = readAll(bytes.NewReader(append(stream(rec), 0)), 0)
	if !errors.As(err, &pos) || pos.Frame != 3 || pos.Byte != int64(len(stream(rec))) {
		t.Errorf("%v, want frame 3 at byte %d", err, len(stream(rec)))
	}
}

func TestReaderOwn(t *testing.T) {
	rng := newRand(t, 12)
	var want [][]byte
	for i := range 40 {
		n := []int{10, 1000, readSize - 10, readSize + 10, 3 * readSize}[rng.IntN(5)]
		data := bytes.Repeat([]byte{byte(i)}, n)
		b, err := appendFrame(nil, []string{"batch2", "rec2", "x"}[i%3], data)
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 3 {
			b = AppendRecord(nil, &Record{Topic: "t", Value: data})
		}
		want = append(want, b)
	}
	b := stream(want...)
	for _, size := range []int{1 << 10, 300_000, readSize, len(b)} {
		var own [][]byte
		d := NewReader(&chunks{b: b, size: func() int { return size }}, 0)
		for {
			f, err := d.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			raw := d.Own()
			if !bytes.Equal(raw, f.Raw) || !bytes.Equal(d.Own(), raw) {
				t.Fatalf("frame %d: the frame is not what is owned", len(own))
			}
			own = append(own, raw)
		}
		for i := range want {
			if !bytes.Equal(own[i], want[i]) {
				t.Errorf("reads of %d: frame %d did not stay", size, i)
			}
		}
	}
}

func TestReaderOwnDoesNotCopyLargeFrames(t *testing.T) {
	b, err := appendFrame(nil, "x", make([]byte, 8*readSize))
	if err != nil {
		t.Fatal(err)
	}
	d := NewReader(bytes.NewReader(stream(b)), 0)
	f, err := d.Next()
	if err != nil {
		t.Fatal(err)
	}
	if raw := d.Own(); &raw[0] != &f.Raw[0] {
		t.Error("copied")
	}
	if f, err := d.Next(); err != nil || f.Kind != KindEnd {
		t.Errorf("after it: %v, %v", f, err)
	}
}

func TestReaderMaxFrame(t *testing.T) {
	const limit = 200
	for n := 150; n < 250; n++ {
		fs := map[string][]byte{
			"rec":  AppendRecord(nil, &Record{Topic: "t", Value: make([]byte, n), Attributes: math.MaxUint64}),
			"tail": append(unhex("9f 6178"), append(bytes.Repeat([]byte{0}, n), unhex("1bffffffffffffffff ff")...)...),
			"map":  append(unhex("82 6178 b8"), append([]byte{byte(n / 2)}, make([]byte, n/2*2)...)...),
		}
		fs["indefinite"], _ = appendFrame(nil, "x", make([]byte, n))
		for name, f := range fs {
			for _, size := range []int{1, 1 << 20} {
				_, err := readAll(&chunks{b: stream(f), size: func() int { return size }}, limit)
				if want := len(f) > limit; want != isOnly(err, ErrTooLarge) || !want && err != nil {
					t.Errorf("%s of %d bytes in reads of %d: %v", name, len(f), size, err)
				}
			}
		}
	}
	if _, err := readAll(bytes.NewReader(stream()), 3); !isOnly(err, ErrTooLarge) {
		t.Errorf("header: %v", err)
	}
}

// allocated is how many bytes f allocates in all, garbage too.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestReaderAllocatesForWhatCame(t *testing.T) {
	head := stream()
	head = head[:len(head)-len(endFrame())]
	for name, claim := range map[string]string{
		"bytes of 4 GiB":       "82 6178 5affffffff",
		"text of 4 GiB":        "82 6178 7affffffff",
		"array of 2^32":        "82 6178 9affffffff",
		"map of 2^31":          "82 6178 ba7fffffff",
		"frame of 2^32":        "9affffffff 6178",
		"name of 4 GiB":        "82 7affffffff",
		"record's topic":       "88 63726563 7affffffff",
		"record's value":       "88 63726563 6174 00 00 00 f6 5affffffff",
		"record's headers":     "88 63726563 6174 00 00 00 f6 f6 9affffffff",
		"record's header name": "88 63726563 6174 00 00 00 f6 f6 81 82 5affffffff",
	} {
		for _, sent := range []int{0, 1000, 3 * readSize, 9*readSize + 1} {
			b := append(append(head[:len(head):len(head)], unhex(claim)...), bytes.Repeat([]byte{0x40}, sent)...)
			d := NewReader(nil, math.MaxInt)
			n := allocated(func() {
				d = NewReader(bytes.NewReader(b), math.MaxInt)
				if _, err := d.Next(); err == nil {
					t.Errorf("%s: read", name)
				}
			})
			// What is held, and then with what was given up on the way there.
			if held := cap(d.buf); held > 2*len(b)+readSize {
				t.Errorf("%s: holds %d bytes for %d", name, held, len(b))
			}
			if n > uint64(5*len(b)+2*readSize) {
				t.Errorf("%s: allocated %d bytes for %d", name, n, len(b))
			}
		}
		// With a limit, the head alone is enough to tell.
		b := append(head[:len(head):len(head)], unhex(claim)...)
		_, err := readAll(io.MultiReader(bytes.NewReader(b), iotest.ErrReader(errors.New("read on"))), 0)
		if !isOnly(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReaderManySmallElements sends one frame of millions of small elements in
// small pieces: what is allocated, and so what is copied, grows in line with it.
func TestReaderManySmallElements(t *testing.T) {
	const n = 2 << 20
	for name, f := range map[string][]byte{
		"unknown":    append(append(unhex("9f 6178"), make([]byte, n)...), breakCode),
		"chunks":     append(append(unhex("82 6178 5f"), bytes.Repeat([]byte{0x40}, n)...), breakCode),
		"mark":       append(append(unhex("9f 646d61726b 6174 00 00 a0"), make([]byte, n)...), breakCode),
		"rec":        append(append(unhex("9f 63726563 6174 00 00 00 f6 f6 80"), make([]byte, n)...), breakCode),
		"headers":    append(append(unhex("88 63726563 6174 00 00 00 f6 f6 9f"), bytes.Repeat(unhex("82 40 f6"), n/3)...), breakCode),
		"map of end": append(append(unhex("82 63656e64 bf"), make([]byte, maxMap)...), breakCode),
		"tenth":      append(append(unhex("8a 63726563 6174 00 00 00 f6 f6 80 00 9f"), make([]byte, n)...), breakCode),
	} {
		b := stream(f)
		got := allocated(func() {
			_, err := readAll(&chunks{b: b, size: func() int { return 64 << 10 }}, 0)
			refused := map[string]error{"rec": ErrCorrupt, "map of end": ErrTooLarge}[name]
			if !errors.Is(err, refused) {
				t.Errorf("%s: %v", name, err)
			}
		})
		t.Logf("%s: allocated %.1f times the frame", name, float64(got)/float64(len(b)))
		if got > uint64(14*len(b)) {
			t.Errorf("%s: allocated %d bytes for %d", name, got, len(b))
		}
	}
}

func TestReaderHugeHeader(t *testing.T) {
	b := append(append(unhex("d9d9f7 83 636b626b 01 bf 6178 5a"), 0x01, 0, 0, 1), make([]byte, maxMap)...)
	if _, err := readAll(bytes.NewReader(b), 0); !isOnly(err, ErrTooLarge) {
		t.Error(err)
	}
}

// TestReaderForgetsTopics sends more topics than a Reader remembers, and names
// that are too long to.
func TestReaderForgetsTopics(t *testing.T) {
	var b []byte
	const n = maxTopics + 100
	for i := range n {
		b = AppendRecord(b, &Record{Topic: fmt.Sprint(i)})
	}
	long := strings.Repeat("x", maxTopicName+1)
	b = AppendRecord(b, &Record{Topic: long})
	d := NewReader(bytes.NewReader(stream(b)), 0)
	for i := range n {
		f, err := d.Next()
		if err != nil || f.Topic != fmt.Sprint(i) {
			t.Fatalf("record %d: topic %q, %v", i, f.Topic, err)
		}
	}
	if f, err := d.Next(); err != nil || f.Topic != long {
		t.Errorf("topic %q, %v", f.Topic, err)
	}
	if len(d.topics) > maxTopics || d.topics[long] != "" {
		t.Errorf("remembers %d topics", len(d.topics))
	}
}

// TestSkipperNeverLooksBack gives a skipper an item byte by byte and destroys
// what it has passed: so its work is linear in the item's length.
func TestSkipperNeverLooksBack(t *testing.T) {
	rng := newRand(t, 13)
	for range 300 {
		s := sloppy{rng: rng}
		s.value(generic(randRecord(rng)))
		if len(s.b) > 5000 {
			continue
		}
		want, err := itemLen(s.b)
		if err != nil || want != len(s.b) {
			t.Fatal(want, err)
		}
		var sk skipper
		b := bytes.Clone(s.b)
		calls := 0
		for n := range len(b) + 1 {
			if n < sk.need {
				continue // a reader would not ask before
			}
			calls++
			o, err := sk.skip(b[:n], math.MaxInt)
			if err != nil {
				t.Fatal(err)
			}
			if (o == whole) != (n == len(b)) {
				t.Fatalf("%v after %d of %d bytes", o, n, len(b))
			}
			if o == short && sk.need <= n {
				t.Fatalf("asks for %d bytes and has %d", sk.need, n)
			}
			for i := range sk.pos {
				b[i] = 0x1c
			}
		}
	}
}

// TestReuse reads large frames into a buffer that was used before, and they are what
// they were.
func TestReuse(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	err := w.WriteHeader(&Header{Content: ContentSegments})
	for i := range 6 {
		s := &Segment{Topic: "t", Codec: "none", Records: 1, First: int64(i), Last: int64(i), From: int64(i), Next: int64(i + 1), SHA256: make([]byte, 32)}
		data := bytes.Repeat([]byte{byte('a' + i)}, readSize+i*1000)
		s.Size = int64(len(data))
		err = errors.Join(err, w.WriteSegment(s, data))
	}
	if err := errors.Join(err, w.Close(&End{})); err != nil {
		t.Fatal(err)
	}
	d := NewReader(&b, 0)
	var held []byte
	for i := range 6 {
		if _, err := d.Next(); err != nil {
			t.Fatal(err)
		}
		raw := d.Own()
		_, data, err := DecodeSegment(raw)
		if err != nil || !bytes.Equal(data, bytes.Repeat([]byte{byte('a' + i)}, readSize+i*1000)) {
			t.Fatalf("segment %d: %d bytes, %v", i, len(data), err)
		}
		if i%2 == 0 { // used two frames later
			held = raw
		} else {
			clear(held[:cap(held)])
			d.Reuse(held)
		}
	}
	if f, err := d.Next(); err != nil || f.Kind != KindEnd {
		t.Errorf("the end is %v, %v", f, err)
	}
}
