package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/segment"
)

func testEnv() *command.Env {
	return &command.Env{Name: "test", Log: slog.New(slog.DiscardHandler), Stop: make(chan struct{})}
}

func testConfig() Config {
	return Config{SegmentSize: 128 << 20, Memory: 512 << 20, Codec: segment.CodecOf("zstd"), Level: 1, MaxFrame: format.DefaultMaxFrame}
}

// stream writes what f writes as a whole stream of records.
func stream(t testing.TB, f func(w *format.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{ID: "run", Created: 1, Content: format.ContentRecords}))
	f(w)
	ok(t, w.Close(&format.End{}))
	return b.Bytes()
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// frames returns copies of a stream's frames, the end left out.
func frames(t testing.TB, b []byte) []format.Frame {
	t.Helper()
	r := format.NewReader(bytes.NewReader(b), 0)
	var out []format.Frame
	for {
		f, err := r.Next()
		if err == io.EOF {
			return out
		}
		ok(t, err)
		if f.Kind != format.KindEnd {
			c := *f
			c.Raw = slices.Clone(f.Raw)
			out = append(out, c)
		}
	}
}

func packed(t testing.TB, cfg Config, in []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	ok(t, Pack(t.Context(), cfg, testEnv(), bytes.NewReader(in), &out))
	return out.Bytes()
}

// random writes records of many partitions in turn, with gaps in their offsets and
// marks between them.
func random(seed uint64, parts, records int) func(w *format.Writer) {
	return func(w *format.Writer) {
		r := rand.New(rand.NewPCG(seed, 0))
		next := make([]int64, parts)
		_ = w.Write(&format.Topic{Name: "t", ID: "id", Partitions: parts})
		for p := range parts {
			next[p] = r.Int64N(1000)
			_ = w.Write(&format.Mark{Topic: "t", Partition: int32(p), Next: next[p]})
		}
		value := make([]byte, 4000)
		for i := range value {
			value[i] = byte(r.IntN(16))
		}
		for range records {
			p := r.IntN(parts)
			next[p] += r.Int64N(3)
			n := r.IntN(2000)
			rec := format.Record{Topic: "t", Partition: int32(p), Offset: next[p], Timestamp: r.Int64N(1 << 40), Value: value[n : n+r.IntN(2000)]}
			_ = w.WriteRecord(&rec)
			next[p]++
			if r.IntN(50) == 0 {
				next[p] += r.Int64N(5)
				_ = w.Write(&format.Mark{Topic: "t", Partition: int32(p), Next: next[p]})
			}
		}
		for p := range parts {
			next[p] += r.Int64N(10)
			_ = w.Write(&format.Mark{Topic: "t", Partition: int32(p), Next: next[p], MarkInfo: format.MarkInfo{End: &next[p]}})
		}
	}
}

// TestCoverageJoins packs random streams under tight bounds, by every codec with and
// without encryption, and follows what each partition's segments and marks cover: they
// must join end to start, a mark must come behind the segments that it covers, and every
// record must be there.
func TestCoverageJoins(t *testing.T) {
	seed := uint64(0)
	for name, cfg := range ways(t) {
		seed++
		cfg.SegmentSize, cfg.Memory = 20_000, minMemory
		in := stream(t, random(seed, 20, 5000))
		position := make(map[int32]int64)
		segments, records := 0, int64(0)
		for _, f := range frames(t, packed(t, cfg, in)) {
			switch f.Kind {
			case format.KindMark:
				m, err := format.DecodeMark(f.Raw)
				ok(t, err)
				if at, known := position[m.Partition]; known && m.Next < at {
					t.Fatalf("%s: partition %d: mark %d behind %d", name, m.Partition, m.Next, at)
				}
				position[m.Partition] = m.Next
			case format.KindSeg:
				s, data, err := format.DecodeSegment(f.Raw)
				ok(t, err)
				if s.From != position[s.Partition] {
					t.Fatalf("%s: partition %d: segment from %d where %d is due", name, s.Partition, s.From, position[s.Partition])
				}
				if s.TopicID != "id" || int64(len(data)) != s.Size || [32]byte(s.SHA256) != sha256.Sum256(data) ||
					s.Codec != cfg.Codec.Name || (s.Cipher == segment.Age) != (len(cfg.Recipients) > 0) {
					t.Fatalf("%s: segment's figures are wrong: %+v", name, s)
				}
				position[s.Partition] = s.Next
				segments++
				records += s.Records
			}
		}
		if records != 5000 || segments < 100 {
			t.Errorf("%s: %d records in %d segments", name, records, segments)
		}
	}
}

// TestMakeRoom packs more than the memory holds: segments are closed before their size,
// the largest first, and coverage still joins.
func TestMakeRoom(t *testing.T) {
	cfg := testConfig()
	cfg.Memory, cfg.Codec = minMemory, segment.CodecOf(segment.None)
	in := stream(t, func(w *format.Writer) {
		for i := range int64(30_000) {
			p := int32(0) // has nine of ten records
			if i%10 == 0 {
				p = 1 + int32(i/10%50)
			}
			ok(t, w.WriteRecord(&format.Record{Topic: "t", Partition: p, Offset: i, Value: make([]byte, 1000)}))
		}
	})
	count, next := make(map[int32]int), make(map[int32]int64)
	for _, f := range frames(t, packed(t, cfg, in)) {
		if f.Kind != format.KindSeg {
			continue
		}
		s, _, err := format.DecodeSegment(f.Raw)
		ok(t, err)
		if count[s.Partition] > 0 && s.From != next[s.Partition] {
			t.Errorf("partition %d: segment from %d where %d is due", s.Partition, s.From, next[s.Partition])
		}
		count[s.Partition]++
		next[s.Partition] = s.Next
	}
	if len(count) != 51 || count[0] < 2 || count[1] != 1 || count[50] != 1 {
		t.Errorf("segments by partition: %v", count)
	}
}

// TestRoundTrip holds the records of each partition against what comes back.
func TestRoundTrip(t *testing.T) {
	seed := uint64(0)
	for name, cfg := range ways(t) {
		seed++
		cfg.SegmentSize = 1 << (12 + seed)
		in := stream(t, random(seed, 7, 5000))
		var out bytes.Buffer
		ok(t, Unpack(t.Context(), cfg, testEnv(), bytes.NewReader(packed(t, cfg, in)), &out))
		want, got := perPartition(frames(t, in)), perPartition(frames(t, out.Bytes()))
		for p, recs := range want {
			if !bytes.Equal(recs, got[p]) {
				t.Errorf("%s: partition %d came back different", name, p)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d partitions, not %d", name, len(got), len(want))
		}
	}
}

func perPartition(fs []format.Frame) map[int32][]byte {
	out := make(map[int32][]byte)
	for _, f := range fs {
		if f.Kind == format.KindRec {
			out[f.Partition] = append(out[f.Partition], f.Raw...)
		}
	}
	return out
}

// TestSameBytes packs the same records in two runs.
func TestSameBytes(t *testing.T) {
	segs := func(id string, follow bool) [][]byte {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		ok(t, w.WriteHeader(&format.Header{ID: id, Created: int64(len(id)), Content: format.ContentRecords, Follow: follow}))
		random(1, 3, 5000)(w)
		ok(t, w.Close(&format.End{}))
		var out [][]byte
		for _, f := range frames(t, packed(t, testConfig(), b.Bytes())) {
			if f.Kind == format.KindSeg {
				out = append(out, f.Raw)
			}
		}
		return out
	}
	a, b := segs("one", false), segs("another", true)
	if len(a) != 3 || !slices.EqualFunc(a, b, bytes.Equal) {
		t.Error("the same records gave other segments")
	}
}

// TestSegmentIsStream reads a segment's content by itself.
func TestSegmentIsStream(t *testing.T) {
	in := stream(t, random(3, 1, 30_000)) // several zstd frames
	for _, f := range frames(t, packed(t, testConfig(), in)) {
		if f.Kind != format.KindSeg {
			continue
		}
		s, data, err := format.DecodeSegment(f.Raw)
		ok(t, err)
		d, err := zstd.NewReader(bytes.NewReader(data))
		ok(t, err)
		plain, err := io.ReadAll(d)
		ok(t, err)
		inside := frames(t, plain)
		if int64(len(plain)) != s.RawSize || len(plain) < 3*segment.ChunkSize {
			t.Errorf("%d bytes, not %d", len(plain), s.RawSize)
		}
		first, err := format.DecodeMark(inside[1].Raw)
		ok(t, err)
		last, err := format.DecodeMark(inside[len(inside)-1].Raw)
		ok(t, err)
		if inside[0].Kind != format.KindTopic || first.Next != s.From || last.Next != s.Next || int64(len(inside)-3) != s.Records {
			t.Errorf("inside: %s, mark %d … mark %d, %d frames; segment %+v", inside[0].Name, first.Next, last.Next, len(inside), s)
		}
	}
}

// TestOrderOfOthers checks that a point comes behind all it covers, that a loss and a
// new beginning cut the segment, and that unknown frames pass.
func TestOrderOfOthers(t *testing.T) {
	unknown := []byte{0x82, 0x63, 'n', 'e', 'w', 0x01}
	in := stream(t, func(w *format.Writer) {
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 5}))
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 6}))
		ok(t, w.WriteRaw(unknown))
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 20, MarkInfo: format.MarkInfo{Lost: [][2]int64{{7, 20}}}}))
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 20}))
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 30}))
		ok(t, w.Write(&format.Point{Time: 1}))
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 30}))
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 90, MarkInfo: format.MarkInfo{Begins: true}}))
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 95}))
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 8, MarkInfo: format.MarkInfo{Begins: true}}))
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 9}))
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 10}))
	})
	var got []string
	for _, f := range frames(t, packed(t, testConfig(), in)) {
		switch f.Kind {
		case format.KindMark:
			m, _ := format.DecodeMark(f.Raw)
			got = append(got, fmt.Sprint("mark ", m.Next))
		case format.KindSeg:
			s, _, _ := format.DecodeSegment(f.Raw)
			got = append(got, fmt.Sprintf("seg [%d,%d)", s.From, s.Next))
		default:
			got = append(got, string(f.Name))
		}
	}
	want := []string{"mark 5", "new", "seg [5,7)", "mark 20", "seg [20,30)", "mark 30", "point",
		"seg [30,31)", "mark 90", "seg [90,96)", "mark 8", "seg [8,10)", "mark 10"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestRecreatedTopic packs two incarnations of one topic.
func TestRecreatedTopic(t *testing.T) {
	in := stream(t, func(w *format.Writer) {
		for _, id := range []string{"old", "new"} {
			ok(t, w.Write(&format.Topic{Name: "t", ID: id, Partitions: 1}))
			ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 3}))
		}
	})
	var ids []string
	for _, f := range frames(t, packed(t, testConfig(), in)) {
		if f.Kind == format.KindSeg {
			s, _, _ := format.DecodeSegment(f.Raw)
			ids = append(ids, s.TopicID)
		}
	}
	if !slices.Equal(ids, []string{"old", "new"}) {
		t.Errorf("segments of %q", ids)
	}
}

// TestSegmentAge waits for a segment of a stream that has gone quiet.
func TestSegmentAge(t *testing.T) {
	cfg := testConfig()
	cfg.SegmentAge = 20 * time.Millisecond
	whole := stream(t, func(w *format.Writer) {
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 3, Value: make([]byte, 1000)}))
	})
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Pack(t.Context(), cfg, testEnv(), inR, outW)
		outW.Close()
	}()
	go func() { _, _ = inW.Write(whole[:len(whole)-3]) }() // all but the end of the end
	f, err := format.NewReader(outR, 0).Next()
	if err != nil || f.Kind != format.KindSeg {
		t.Fatalf("got %v, %v; want a segment", f, err)
	}
	inW.Close()
	go func() { _, _ = io.Copy(io.Discard, outR) }()
	if err := <-done; !errors.Is(err, format.ErrTruncated) {
		t.Errorf("got %v", err)
	}
}

// TestBadInput wants one clear error, its status, and an output that is no whole
// stream.
func TestBadInput(t *testing.T) {
	good := stream(t, random(1, 2, 100))
	segs := packed(t, testConfig(), good)
	damaged := slices.Clone(segs)
	damaged[len(damaged)/2] ^= 1
	disorder := stream(t, func(w *format.Writer) {
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 4}))
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 4}))
	})
	back := stream(t, func(w *format.Writer) {
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 0}))
		for o := range int64(12) {
			ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: o}))
		}
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 12, MarkInfo: format.MarkInfo{Begins: true}})) // closes the segment
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 7}))
	})
	backOpen := stream(t, func(w *format.Writer) {
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 11}))
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 7}))
	})
	otherID := stream(t, func(w *format.Writer) {
		ok(t, w.Write(&format.Topic{Name: "t", ID: "A"}))
		ok(t, w.Write(&format.Mark{Topic: "t", MarkInfo: format.MarkInfo{TopicID: "B"}}))
	})
	batch := func(content string) []byte {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		ok(t, w.WriteHeader(&format.Header{Content: content}))
		ok(t, w.Write(&format.Batch{Topic: "t", Records: 1, Data: []byte("x")}))
		ok(t, w.Close(&format.End{}))
		return b.Bytes()
	}
	holding := func(content string) []byte {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		ok(t, w.WriteHeader(&format.Header{Content: content}))
		ok(t, w.Close(&format.End{}))
		return b.Bytes()
	}
	small := testConfig()
	small.SegmentSize = 10_000
	many := packed(t, small, stream(t, random(1, 1, 100)))
	// segmentsOf is many with the frames that change leaves of each of its segments, by number.
	segmentsOf := func(change func(n int, raw []byte) [][]byte) []byte {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments}))
		n := 0
		for _, f := range frames(t, many) {
			kept := [][]byte{f.Raw}
			if f.Kind == format.KindSeg {
				kept = change(n, f.Raw)
				n++
			}
			for _, raw := range kept {
				ok(t, w.WriteRaw(raw))
			}
		}
		ok(t, w.Close(&format.End{}))
		if n < 4 {
			t.Fatalf("only %d segments", n)
		}
		return b.Bytes()
	}
	missing := segmentsOf(func(n int, raw []byte) [][]byte {
		if n == 1 {
			return nil
		}
		return [][]byte{raw}
	})
	twice := segmentsOf(func(n int, raw []byte) [][]byte {
		if n == 1 {
			return [][]byte{raw, raw}
		}
		return [][]byte{raw}
	})
	pack, unpack := Pack, Unpack
	for name, c := range map[string]struct {
		run    func(context.Context, Config, *command.Env, io.Reader, io.Writer) error
		in     []byte
		want   string
		status int
	}{
		"cut":              {pack, good[:len(good)-5], "stream ended before its end frame", command.Corrupt},
		"empty":            {pack, nil, "empty input", command.Corrupt},
		"text":             {pack, []byte("hello, world"), "not a kbk stream", command.Corrupt},
		"packed":           {pack, segs, "packed already", command.Usage},
		"disorder":         {pack, disorder, "t/0: record of offset 4 where 5 or above is expected", command.Corrupt},
		"a mark back":      {pack, back, "t/0: a mark at offset 7 behind 12, which does not say that it begins anew", command.Corrupt},
		"a mark back, 2":   {pack, backOpen, "t/0: a mark at offset 7 behind 12", command.Corrupt},
		"another topic id": {pack, otherID, "t/0: a mark of topic id B where the topic's id is A", command.Corrupt},
		"a batch":          {pack, batch(format.ContentRecords), "a batch frame in a stream of records", command.Corrupt},
		"later content":    {pack, holding("later"), `standard input is a stream of "later"`, command.Corrupt},
		"later, packed":    {unpack, holding("later"), `standard input is a stream of "later"`, command.Corrupt},
		"a batch, packed":  {unpack, batch(format.ContentSegments), "a batch frame in a stream of segments", command.Corrupt},
		"missing segment":  {unpack, missing, "what is between is missing", command.Corrupt},
		"segment twice":    {unpack, twice, "has come before", command.Corrupt},
		"cut segments":     {unpack, segs[:len(segs)-20], "stream ended before its end frame", command.Corrupt},
		"records":          {unpack, good, "not packed", command.Usage},
		"damaged segments": {unpack, damaged, "sha256", command.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := c.run(t.Context(), testConfig(), testEnv(), bytes.NewReader(c.in), &out)
			if err == nil || !strings.Contains(err.Error(), c.want) || command.StatusOf(err) != c.status {
				t.Errorf("got %v, status %d", err, command.StatusOf(err))
			}
			r := format.NewReader(&out, 0)
			for {
				if _, err := r.Next(); err == io.EOF {
					t.Error("the output has an end frame")
				} else if err != nil {
					break
				}
			}
		})
	}
}

// TestSegmentLies changes what a segment says of itself; its checksum is right.
func TestSegmentLies(t *testing.T) {
	in := packed(t, testConfig(), stream(t, random(1, 1, 100)))
	for name, lie := range map[string]func(*format.Segment){
		"records":   func(s *format.Segment) { s.Records++ },
		"last":      func(s *format.Segment) { s.Last--; s.Next-- },
		"from":      func(s *format.Segment) { s.From, s.First = s.From+1, s.First+1 },
		"timestamp": func(s *format.Segment) { s.MaxTimestamp++ },
		"raw size":  func(s *format.Segment) { s.RawSize++ },
		"bomb":      func(s *format.Segment) { s.RawSize /= 2 },
		"partition": func(s *format.Segment) { s.Partition++ },
		"codec":     func(s *format.Segment) { s.Codec = "lzma" },
		"cipher":    func(s *format.Segment) { s.Cipher = "rot13" },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := format.NewWriter(&b)
			ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments}))
			for _, f := range frames(t, in) {
				if f.Kind == format.KindSeg {
					s, data, err := format.DecodeSegment(f.Raw)
					ok(t, err)
					lie(s)
					ok(t, w.WriteSegment(s, data))
				}
			}
			ok(t, w.Close(&format.End{}))
			err := Unpack(t.Context(), testConfig(), testEnv(), &b, io.Discard)
			if err == nil || !strings.Contains(err.Error(), "segment of t/") || command.StatusOf(err) != command.Corrupt {
				t.Errorf("got %v", err)
			}
		})
	}
}

// unpackedTen packs ten records, changes what the stream says of the segment, appends more frames,
// and unpacks the stream.
func unpackedTen(t *testing.T, change func(*format.Segment), more ...format.Encoder) []byte {
	t.Helper()
	in := packed(t, testConfig(), stream(t, func(w *format.Writer) {
		for o := range int64(10) {
			ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: o}))
		}
	}))
	var b, out bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments}))
	for _, f := range frames(t, in) {
		s, data, err := format.DecodeSegment(f.Raw)
		ok(t, err)
		change(s)
		ok(t, w.WriteSegment(s, data))
	}
	for _, f := range more {
		ok(t, w.Write(f))
	}
	ok(t, w.Close(&format.End{}))
	ok(t, Unpack(t.Context(), testConfig(), testEnv(), &b, &out))
	return out.Bytes()
}

func TestDropBelow(t *testing.T) {
	out := unpackedTen(t, func(s *format.Segment) { s.DropBelow = 7 })
	var got []int64
	for _, f := range frames(t, out) {
		if f.Kind == format.KindRec {
			got = append(got, f.Offset)
		}
	}
	if !slices.Equal(got, []int64{7, 8, 9}) {
		t.Errorf("got offsets %d", got)
	}
}

// TestWindow unpacks a part of the records, bounded by offset and by time, and packs
// them again: what is left says that it is not all.
func TestWindow(t *testing.T) {
	in := packed(t, testConfig(), stream(t, func(w *format.Writer) {
		for _, topic := range []string{"t", "whole"} {
			for o := range int64(10) {
				ok(t, w.WriteRecord(&format.Record{Topic: topic, Offset: o, Timestamp: 100 - o}))
			}
		}
	}))
	since, until := int64(93), int64(98) // offsets 2 to 7
	var b, out bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments, Filters: []string{"kbk-filter"}, Window: &format.Window{
		Since: &since, Until: &until, Offsets: map[string]map[int32][2]int64{"t": {0: {4, 7}}},
	}}))
	for _, f := range frames(t, in) {
		if f.Kind == format.KindSeg {
			ok(t, w.WriteRaw(f.Raw))
		}
	}
	ok(t, w.Close(&format.End{}))
	ok(t, Unpack(t.Context(), testConfig(), testEnv(), &b, &out))
	got := make(map[string][]int64)
	for _, f := range frames(t, out.Bytes()) {
		if f.Kind == format.KindRec {
			got[f.Topic] = append(got[f.Topic], f.Offset)
		}
	}
	if !slices.Equal(got["t"], []int64{4, 5, 6}) || !slices.Equal(got["whole"], []int64{2, 3, 4, 5, 6, 7}) {
		t.Errorf("got offsets %v", got)
	}
	for _, f := range frames(t, packed(t, testConfig(), out.Bytes())) {
		if f.Kind == format.KindSeg {
			s, _, err := format.DecodeSegment(f.Raw)
			ok(t, err)
			if !slices.Equal(s.Filters, []string{"kbk-filter", "window"}) {
				t.Errorf("the segment of %s names %q", s.Topic, s.Filters)
			}
		}
	}
}

// ways are the codecs, each with and without encryption.
func ways(t testing.TB) iter.Seq2[string, Config] {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	ok(t, err)
	return func(yield func(string, Config) bool) {
		for _, name := range []string{"zstd", "lz4", "gzip", "snappy", "none"} {
			cfg := testConfig()
			if cfg.Codec = segment.CodecOf(name); !yield(name, cfg) {
				return
			}
			cfg.Recipients, cfg.Identities = []age.Recipient{key.Recipient()}, []age.Identity{key}
			if !yield(name+"+age", cfg) {
				return
			}
		}
	}
}

// orders writes JSON events of 500 B to 8 partitions, which compress about as such do.
func orders(records int) func(w *format.Writer) {
	return func(w *format.Writer) {
		r := rand.New(rand.NewPCG(1, 2))
		words := strings.Fields("shipped pending returned express standard gift invoice warehouse parcel locker morning evening fragile insured signature neighbour")
		for i := range records {
			v := fmt.Appendf(nil, `{"order":"o-%09d","customer":"c-%06d","amount":%d.%02d,"trace":"%016x","note":"`, i, r.IntN(100_000), r.IntN(1000), r.IntN(100), r.Uint64())
			for len(v) < 498 {
				v = append(append(v, words[r.IntN(len(words))]...), ' ')
			}
			_ = w.WriteRecord(&format.Record{Topic: "orders", Partition: int32(i % 8), Offset: int64(i / 8), Timestamp: int64(i), Value: append(v[:498], `"}`...)})
		}
	}
}

func BenchmarkPack(b *testing.B) {
	in := stream(b, orders(200_000))
	for name, cfg := range ways(b) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				ok(b, Pack(context.Background(), cfg, testEnv(), bytes.NewReader(in), io.Discard))
			}
		})
	}
}

func BenchmarkUnpack(b *testing.B) {
	in := stream(b, orders(200_000))
	for name, cfg := range ways(b) {
		segs := packed(b, cfg, in)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			b.ReportMetric(float64(len(in))/float64(len(segs)), "ratio")
			for b.Loop() {
				ok(b, Unpack(context.Background(), cfg, testEnv(), bytes.NewReader(segs), io.Discard))
			}
		})
	}
}

// TestLossStays packs and unpacks a stream whose source has lost something. Both say so,
// by their status and in their end frames.
func TestLossStays(t *testing.T) {
	for name, test := range map[string]struct {
		end    format.End
		status int
	}{
		"lost":                 {format.End{Lost: true, Losses: []string{"t/0: gone", "t/1: hidden"}}, command.Loss},
		"lost, without names":  {format.End{Lost: true}, command.Loss},
		"interrupted":          {format.End{Interrupted: true}, command.Interrupted},
		"interrupted and lost": {format.End{Interrupted: true, Lost: true, Losses: []string{"t/0: gone"}}, command.Interrupted},
	} {
		var in bytes.Buffer
		w := format.NewWriter(&in)
		ok(t, w.WriteHeader(&format.Header{Content: format.ContentRecords}))
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 5}))
		ok(t, w.Close(&test.end))
		var segments, out bytes.Buffer
		for stage, err := range map[string]error{
			"pack":   Pack(t.Context(), testConfig(), testEnv(), &in, &segments),
			"unpack": Unpack(t.Context(), testConfig(), testEnv(), bytes.NewReader(segments.Bytes()), &out),
		} {
			if command.StatusOf(err) != test.status {
				t.Errorf("%s: %s: %v", name, stage, err)
			}
		}
		for _, b := range [][]byte{segments.Bytes(), out.Bytes()} {
			if got := endOf(t, b); got.Lost != test.end.Lost || got.Interrupted != test.end.Interrupted || !slices.Equal(got.Losses, test.end.Losses) || got.Records != 1 {
				t.Errorf("%s: the end is %+v", name, got)
			}
		}
	}
}

func endOf(t testing.TB, stream []byte) *format.End {
	t.Helper()
	r := format.NewReader(bytes.NewReader(stream), 0)
	for {
		f, err := r.Next()
		ok(t, err)
		if f.Kind == format.KindEnd {
			end, err := format.DecodeEnd(f.Raw)
			ok(t, err)
			return end
		}
	}
}

// TestAgeAndFailure packs with segments that are closed by their age, into an output that
// is slow, an input that turns out to be corrupt, or a command that is told to stop at
// once: it must end with an error, and not with a panic.
func TestAgeAndFailure(t *testing.T) {
	whole := stream(t, random(1, 20, 3000))
	half := whole[:len(whole)/2]
	for name, test := range map[string]struct {
		input  []byte
		stop   bool
		status int
	}{
		"corrupt":   {append(bytes.Clone(half), 0xff, 0xff, 0xff), false, command.Corrupt},
		"truncated": {half, false, command.Corrupt},
		"stopped":   {whole, true, command.Interrupted},
	} {
		for i := range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			cfg := testConfig()
			cfg.SegmentAge, cfg.Memory, cfg.SegmentSize = time.Millisecond, minMemory, 5_000
			out := &slowWriter{pause: time.Duration(i+5) * time.Millisecond}
			if test.stop {
				out.stopAt, out.stop = 3, cancel
			}
			if err := Pack(ctx, cfg, testEnv(), bytes.NewReader(test.input), out); command.StatusOf(err) != test.status {
				t.Errorf("%s, try %d: %v", name, i, err)
			}
			cancel()
		}
	}
}

// A slowWriter takes its time for each write, and calls stop in one.
type slowWriter struct {
	pause  time.Duration
	stopAt int
	stop   func()
}

func (w *slowWriter) Write(b []byte) (int, error) {
	time.Sleep(w.pause)
	if w.stopAt--; w.stopAt == 0 {
		w.stop()
	}
	return len(b), nil
}

// TestMarksSay packs marks that say more than how far a partition was scanned: each of
// them comes out, behind the segment that holds what it covers, as it came.
func TestMarksSay(t *testing.T) {
	epoch, later := int32(3), []byte("\x85dmarkat\x00\x08\xa1elater\x01") // with a key of a later version
	for name, raw := range map[string][]byte{
		"open":     frame(t, &format.Mark{Topic: "t", Next: 8, MarkInfo: format.MarkInfo{Open: &[2]int64{8, 12}}}),
		"deleted":  frame(t, &format.Mark{Topic: "t", Next: 8, MarkInfo: format.MarkInfo{Deleted: true}}),
		"filters":  frame(t, &format.Mark{Topic: "t", Next: 8, MarkInfo: format.MarkInfo{Filters: []string{"x"}}}),
		"branch":   frame(t, &format.Mark{Topic: "t", Next: 3, MarkInfo: format.MarkInfo{Begins: true, Branch: true}}),
		"lost":     frame(t, &format.Mark{Topic: "t", Next: 8, MarkInfo: format.MarkInfo{Lost: [][2]int64{{5, 8}}}}),
		"a later":  later,
		"progress": frame(t, &format.Mark{Topic: "t", Next: 8, MarkInfo: format.MarkInfo{LeaderEpoch: &epoch}}),
	} {
		var in bytes.Buffer
		w := format.NewWriter(&in)
		ok(t, w.WriteHeader(&format.Header{Content: format.ContentRecords}))
		ok(t, w.Write(&format.Mark{Topic: "t"}))
		for o := range int64(5) {
			ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: o}))
		}
		ok(t, w.WriteRaw(raw))
		for o := range int64(5) {
			ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: o + 8}))
		}
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 20}))
		ok(t, w.Close(&format.End{}))
		at, segments := -1, 0
		for _, f := range frames(t, packed(t, testConfig(), in.Bytes())) {
			if f.Kind == format.KindSeg {
				segments++
			}
			if bytes.Equal(f.Raw, raw) {
				at = segments
			}
		}
		want := 1 // behind the first segment of two
		if name == "progress" {
			want = -1
		}
		if at != want || segments != max(1, 2*want) {
			t.Errorf("%s: behind segment %d of %d", name, at, segments)
		}
	}
}

func frame(t *testing.T, f format.Encoder) []byte {
	t.Helper()
	raw, err := f.AppendFrame(nil)
	ok(t, err)
	return raw
}

// TestFiltersOfSegments unpacks a backup of which a part was filtered, and packs it again:
// that part, and no other, must not become one that was kept whole.
func TestFiltersOfSegments(t *testing.T) {
	in := stream(t, func(w *format.Writer) {
		ok(t, w.Write(&format.Mark{Topic: "t"}))
		for o := range int64(10) {
			ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: o}))
		}
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 10, MarkInfo: format.MarkInfo{Filters: []string{"mask:1"}}}))
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 10}))
		ok(t, w.Write(&format.Mark{Topic: "t", Next: 11}))
		ok(t, w.WriteRecord(&format.Record{Topic: "u"}))
	})
	want := []string{"t [0, 10) [mask:1]", "t [10, 11) []", "u [0, 1) []"}
	for round := range 3 {
		segments := packed(t, testConfig(), in)
		var got []string
		for _, f := range frames(t, segments) {
			if f.Kind != format.KindSeg {
				continue
			}
			s, data, err := format.DecodeSegment(f.Raw)
			ok(t, err)
			got = append(got, fmt.Sprintf("%s [%d, %d) %v", s.Topic, s.From, s.Next, s.Filters))
			alone, err := segment.Describe("zstd", data, 1<<20)
			ok(t, err)
			if !slices.Equal(alone.Filters, s.Filters) {
				t.Errorf("by itself the segment says %q, not %q", alone.Filters, s.Filters)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("round %d: %q, want %q", round, got, want)
		}
		var out bytes.Buffer
		ok(t, Unpack(t.Context(), testConfig(), testEnv(), bytes.NewReader(segments), &out))
		in = out.Bytes()
	}
}

// TestDropFrom unpacks a segment of which the end was cut off in Kafka.
func TestDropFrom(t *testing.T) {
	out := unpackedTen(t, func(s *format.Segment) { s.DropFrom = 7 },
		&format.Mark{Topic: "t", Next: 7, MarkInfo: format.MarkInfo{Begins: true, Branch: true}})
	var got []int64
	for _, f := range frames(t, out) {
		switch f.Kind {
		case format.KindRec:
			got = append(got, f.Offset)
		case format.KindMark:
			if m, err := format.DecodeMark(f.Raw); err != nil || m.Next > 7 {
				t.Errorf("a mark at offset %d, %v", m.Next, err)
			}
		}
	}
	if !slices.Equal(got, []int64{0, 1, 2, 3, 4, 5, 6}) {
		t.Errorf("got offsets %d", got)
	}
}

// TestLiveUnpack unpacks a stream that goes on: what came must come out while the input
// waits for more.
func TestLiveUnpack(t *testing.T) {
	segments := packed(t, testConfig(), stream(t, func(w *format.Writer) {
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 5, Value: []byte("live")}))
	}))
	end := frame(t, &format.End{Records: 1, Segments: 1})
	segments = bytes.TrimSuffix(segments, end)
	in, feed := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Unpack(t.Context(), testConfig(), testEnv(), in, outW); outW.Close() }()
	go func() { _, _ = feed.Write(segments) }() // and no more
	r := format.NewReader(outR, 0)
	for {
		f, err := r.Next()
		ok(t, err)
		if f.Kind == format.KindRec {
			break
		}
	}
	go func() { _, _ = feed.Write(end); feed.Close() }()
	_, err := io.Copy(io.Discard, outR)
	ok(t, errors.Join(err, <-done))
}
