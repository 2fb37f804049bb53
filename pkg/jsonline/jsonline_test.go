package jsonline

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
)

// there turns a stream into lines, and back turns them into a stream.
func there(t testing.TB, stream []byte) (lines []byte) {
	t.Helper()
	r := format.NewReader(bytes.NewReader(stream), 0)
	h, err := r.Header()
	if err != nil {
		t.Fatal(err)
	}
	if lines, err = AppendHeader(nil, h); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := r.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		if lines, err = Append(lines, f); err != nil {
			t.Fatal(err)
		}
	}
}

func back(t testing.TB, lines []byte) (stream []byte) {
	t.Helper()
	var p Parser
	for i, line := range bytes.Split(bytes.TrimSuffix(lines, []byte("\n")), []byte("\n")) {
		var err error
		if i == 0 {
			h, headerErr := p.Header(line)
			if headerErr != nil {
				t.Fatalf("line 1: %v\n%s", headerErr, line)
			}
			stream, err = h.Append(stream)
		} else {
			stream, err = p.Frame(stream, line)
		}
		if err != nil {
			t.Fatalf("line %d: %v\n%s", i+1, err, line)
		}
	}
	return stream
}

// TestVectors turns all golden streams of records into lines and back, byte for byte: every
// kind of frame, unknown ones, extra elements and keys. Other streams have no lines.
func TestVectors(t *testing.T) {
	names, err := filepath.Glob("../../format/testdata/good/*.kbk")
	if err != nil || len(names) < 3 {
		t.Fatalf("only %d vectors: %v", len(names), err)
	}
	for _, name := range names {
		stream, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h, err := format.NewReader(bytes.NewReader(stream), 0).Header()
		if err != nil {
			t.Fatal(err)
		}
		if h.Content != format.ContentRecords {
			if _, err := AppendHeader(nil, h); err == nil {
				t.Errorf("%s: its header has a line", name)
			}
			continue
		}
		if got := back(t, there(t, stream)); !bytes.Equal(got, canonical(t, stream)) {
			t.Errorf("%s:\ngot  %x\nwant %x", name, got, canonical(t, stream))
		}
	}
}

// TestFieldsAreEnough makes the frames of a golden stream of their readable fields
// alone. A moment is frames within a frame, and has none.
func TestFieldsAreEnough(t *testing.T) {
	for _, name := range []string{"coverage", "cluster"} {
		stream, err := os.ReadFile("../../format/testdata/good/" + name + ".kbk")
		if err != nil {
			t.Fatal(err)
		}
		var bare []byte
		for line := range bytes.Lines(there(t, stream)) {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(line, &fields); err != nil {
				t.Fatal(err)
			}
			if string(fields["kbk"]) != `"moment"` {
				delete(fields, "cbor")
			}
			raw, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			bare = append(append(bare, raw...), '\n')
		}
		if got := back(t, bare); !bytes.Equal(got, stream) {
			t.Errorf("%s: got  %x\nwant %x", name, got, stream)
		}
	}
}

// canonical is a stream as a stage passes it on: records and the header in deterministic
// encoding, other frames as they are.
func canonical(t *testing.T, stream []byte) []byte {
	r := format.NewReader(bytes.NewReader(stream), 0)
	h, err := r.Header()
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for {
		f, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f.Raw...)
	}
}

// TestRecords turns random records into lines and back.
func TestRecords(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	texts := [][]byte{
		nil, {}, []byte("null"), []byte(`""`), []byte("text"), []byte(`{"a": 1}`), []byte("\x00\x01\x1f\x7f\"\\/\b\f\n\r\t"),
		[]byte("\u2028\u2029\ufeff\U0010ffff é"), {0xff, 0xfe}, []byte("half \xc3"), []byte("\xed\xa0\x80"), []byte(`{"base64":"aGk="}`), bytes.Repeat([]byte("long "), 10_000),
	}
	pick := func() []byte { return texts[rnd.IntN(len(texts))] }
	numbers := []int64{0, 1, 1<<53 + 1, math.MaxInt64}
	var p Parser
	for range 5_000 {
		r := format.Record{
			Topic: []string{"t", `a"b\c`, "é"}[rnd.IntN(3)], Partition: []int32{0, 7, math.MaxInt32}[rnd.IntN(3)], Offset: numbers[rnd.IntN(4)],
			Timestamp: append(numbers, -1, math.MinInt64)[rnd.IntN(6)], Key: pick(), Value: pick(), Attributes: []format.Attributes{0, 1, 2, 3, 1 << 40}[rnd.IntN(5)],
		}
		for range rnd.IntN(4) {
			name := pick()
			if name == nil {
				name = []byte{}
			}
			r.Headers = append(r.Headers, format.RecordHeader{Name: name, Value: pick()})
		}
		raw := format.AppendRecord(nil, &r)
		var f format.Frame
		if err := f.Scan(raw); err != nil {
			t.Fatal(err)
		}
		line, err := Append(nil, &f)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("not a line of JSON: %q", line)
		}
		got, err := p.Frame(nil, line[:len(line)-1])
		if err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("%s: got %x, %v; want %x", line, got, err, raw)
		}
	}
}

func TestGolden(t *testing.T) {
	r := format.Record{
		Topic: "orders", Partition: 3, Offset: 42, Timestamp: 1700000000000, Key: []byte("k"), Attributes: format.LogAppendTime,
		Headers: []format.RecordHeader{{Name: []byte("a"), Value: nil}, {Name: []byte("a"), Value: []byte{0xff}}},
	}
	var f format.Frame
	if err := f.Scan(format.AppendRecord(nil, &r)); err != nil {
		t.Fatal(err)
	}
	line, err := Append(nil, &f)
	want := `{"topic":"orders","partition":3,"offset":42,"tstype":"logappend","ts":1700000000000,"headers":[["a",null],["a",{"base64":"/w=="}]],"key":"k","payload":null}` + "\n"
	if err != nil || string(line) != want {
		t.Errorf("got %s, %v", line, err)
	}
}

// TestEdited changes lines as jq and awk would.
func TestEdited(t *testing.T) {
	var p Parser
	mark, err := (&format.Mark{Topic: "t", Partition: 1, Next: 5}).AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	var f format.Frame
	if err := f.Scan(mark); err != nil {
		t.Fatal(err)
	}
	line, err := Append(nil, &f)
	if err != nil {
		t.Fatal(err)
	}
	// In another order, with spaces: the same frame.
	var v map[string]any
	if err := json.Unmarshal(line, &v); err != nil {
		t.Fatal(err)
	}
	pretty, _ := json.MarshalIndent(v, "", "  ")
	if got, err := p.Frame(nil, pretty); err != nil || !bytes.Equal(got, mark) {
		t.Errorf("got %x, %v", got, err)
	}
	// Another topic: a frame of that.
	v["topic"] = "u"
	edited, _ := json.Marshal(v)
	want, _ := (&format.Mark{Topic: "u", Partition: 1, Next: 5}).AppendFrame(nil)
	if got, err := p.Frame(nil, edited); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
	delete(v, "cbor")
	if edited, _ = json.Marshal(v); true {
		if got, err := p.Frame(nil, edited); err != nil || !bytes.Equal(got, want) {
			t.Errorf("without cbor: got %x, %v", got, err)
		}
	}
	// A record with its fields in another order.
	got, err := p.Frame(nil, []byte(` { "payload" : "v" , "key":null,"ts":-1,"offset":1,"partition":0,"topic":"\u0074" } `))
	if want := format.AppendRecord(nil, &format.Record{Topic: "t", Offset: 1, Timestamp: -1, Value: []byte("v")}); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
}

func TestBadLines(t *testing.T) {
	const good = `"topic":"t","partition":0,"offset":1,"ts":2,"key":null`
	for line, want := range map[string]string{
		"":                                  "not a line of JSON",
		"{":                                 "not a line of JSON",
		"[]":                                "not a line of JSON",
		"\xff":                              "not a line of JSON",
		"{" + good + "}":                    "payload is missing",
		"{" + good + `,"payload":"\ud83d"}`: "half of a surrogate pair",
		"{" + good + `,"payload":null,"headers":[["\ude00\ud83d",null]]}`:                           "half of a surrogate pair",
		`{"kbk":"topic","name":"\ud83d"}`:                                                           `half of a surrogate pair`,
		`{"kbk":"topic","name":"a","name":"b"}`:                                                     `the name "name" is there twice in one object`,
		`{"kbk":"topic","name":"a","configs":{"x":"1","x":"2"}}`:                                    `the name "x" is there twice in one object`,
		"{" + good + `,"payload":1}`:                                                                "payload: it is neither null, a string",
		"{" + good + `,"payload":{"a":"b"}}`:                                                        "payload: it is neither null, a string",
		"{" + good + `,"payload":{"base64":"?"}}`:                                                   "payload: it is not base64",
		"{" + good + `,"payload":null,"payload":null}`:                                              "payload is there twice",
		"{" + good + `,"payload":null,"more":1}`:                                                    `"more" is no field of a record`,
		"{" + good + `,"payload":null,"headers":[["a"]]}`:                                           "headers: they are not an array of [name, value]",
		"{" + good + `,"payload":null,"headers":[[null,"v"]]}`:                                      "headers: they are not an array of [name, value]",
		"{" + good + `,"payload":null,"tstype":"x"}`:                                                "tstype: it is neither create nor logappend",
		"{" + good + `,"payload":null,"cbor":"/w=="}`:                                               "something else than elements behind its headers",
		`{"topic":"t","partition":-1,"offset":1,"ts":2,"key":null,"payload":null}`:                  "partition: it is not a whole number",
		`{"topic":"t","partition":0,"offset":1.5,"ts":2,"key":null,"payload":null}`:                 "offset: it is not a whole number",
		`{"topic":"t","partition":0,"offset":9223372036854775808,"ts":2,"key":null,"payload":null}`: "offset: it is not a whole number",
		`{"kbk":"mark","topic":"t"}`:                                                                "a field of the mark is missing",
		`{"kbk":"mark","topick":"t"}`:                                                               "not a line of JSON as",
		`{"kbk":"novelty"}`:                                                                         `a frame of kind "novelty" cannot be made of JSON`,
	} {
		var p Parser
		if got, err := p.Frame(nil, []byte(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %x, %v; want %q", line, got, err, want)
		}
	}
	var p Parser
	if _, err := p.Header([]byte(`{"kbk":"mark"}`)); err == nil || err.Error() != "the first line is no header" {
		t.Errorf("a mark as a header: %v", err)
	}
}

// FuzzFrame reads anything without a panic; what it takes for a frame is one, and comes
// back the same.
func FuzzFrame(f *testing.F) {
	f.Add([]byte(`{"topic":"t","partition":0,"offset":1,"ts":2,"key":null,"payload":{"base64":"/w=="},"headers":[["a",null]]}`))
	f.Add([]byte(`{"kbk":"mark","topic":"t","partition":1,"next":5,"lost_ranges":[[1,2]]}`))
	f.Add([]byte(`{"kbk":"end","records":1}`))
	f.Add([]byte(`{"kbk":"header","content":"records","source":{"cluster":"c"}}`))
	f.Add([]byte(`{"kbk":"topic","name":"t","id":"i","partitions":3,"configs":{"a":"b"}}`))
	f.Add([]byte(`{"kbk":"group","id":"g","offsets":{"t":{"0":{"offset":5}}}}`))
	f.Add([]byte(`{"kbk":"map","topic":"t","partition":0,"first":1,"target_topic":"u","target_partition":2,"target_first":3,"count":4}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var p Parser
		if h, err := new(Parser).Header(line); err == nil {
			if _, err := AppendHeader(nil, h); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := p.Frame(nil, line)
		if err != nil {
			return
		}
		var frame format.Frame
		if err := frame.Scan(raw); err != nil {
			return // a field that no topic has; the reader says so
		}
		again, err := Append(nil, &frame)
		if err != nil {
			t.Fatal(err)
		}
		if raw2, err := p.Frame(nil, again[:len(again)-1]); err != nil || !bytes.Equal(raw, raw2) {
			t.Fatalf("%s became %s: %v", line, again, err)
		}
	})
}

func sample() *format.Record {
	return &format.Record{
		Topic: "orders", Partition: 3, Offset: 1 << 20, Timestamp: 1700000000000, Key: []byte("o-000000042"),
		Value:   []byte(fmt.Sprintf(`{"order":"o-42","note":%q}`, strings.Repeat("standard parcel ", 29))),
		Headers: []format.RecordHeader{{Name: []byte("trace"), Value: []byte("5f2c")}},
	}
}

func BenchmarkAppend(b *testing.B) {
	var f format.Frame
	if err := f.Scan(format.AppendRecord(nil, sample())); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(f.Raw)))
	b.ReportAllocs()
	buf := make([]byte, 0, 1<<12)
	for b.Loop() {
		if _, err := Append(buf, &f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	var f format.Frame
	if err := f.Scan(format.AppendRecord(nil, sample())); err != nil {
		b.Fatal(err)
	}
	line, err := Append(nil, &f)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(f.Raw)))
	b.ReportAllocs()
	buf := make([]byte, 0, 1<<12)
	var p Parser
	for b.Loop() {
		if _, err := p.Frame(buf, line); err != nil {
			b.Fatal(err)
		}
	}
}

// TestRecordsOnly has no lines for what hides records: not there, and not back.
func TestRecordsOnly(t *testing.T) {
	batch, err := (&format.Batch{Topic: "t", Records: 1, Data: []byte{1}}).AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	var f format.Frame
	if err := f.Scan(batch); err != nil {
		t.Fatal(err)
	}
	const refused = "lines of JSON hold records, and not batches"
	if _, err := Append(nil, &f); err == nil || err.Error() != refused {
		t.Errorf("a batch: %v", err)
	}
	var p Parser
	for _, line := range []string{
		fmt.Sprintf(`{"kbk":"batch","cbor":%q}`, base64.StdEncoding.EncodeToString(batch)),
		fmt.Sprintf(`{"kbk":"new","cbor":%q}`, base64.StdEncoding.EncodeToString(batch)),
		`{"kbk":"batch"}`, `{"kbk":"seg"}`,
	} {
		if b, err := p.Frame(nil, []byte(line)); err == nil || len(b) > 0 {
			t.Errorf("%s: %x, %v", line, b, err)
		}
	}
	for _, content := range []string{"batches", "segments", "pages", ""} {
		raw, err := (&format.Header{Content: content}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			fmt.Sprintf(`{"kbk":"header","content":%q}`, content),
			fmt.Sprintf(`{"kbk":"header","content":"records","cbor":%q}`, base64.StdEncoding.EncodeToString(raw)),
		} {
			if h, err := p.Header([]byte(line)); err == nil {
				t.Errorf("%s: %+v", line, h)
			}
		}
	}
}
