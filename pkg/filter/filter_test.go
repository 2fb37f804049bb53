package filter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// streamOf makes one of records, between a topic and a mark, a point and a frame of a kind
// that nobody knows.
func streamOf(t testing.TB, records ...format.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{ID: "run", Content: format.ContentRecords}))
	ok(t, w.Write(&format.Topic{Name: "t", ID: "vPeOCWypqUOSepEvx0cbog", Partitions: 2}))
	ok(t, w.Write(&format.Mark{Topic: "t", MarkInfo: format.MarkInfo{TopicID: "vPeOCWypqUOSepEvx0cbog"}}))
	for i := range records {
		ok(t, w.WriteRecord(&records[i]))
	}
	ok(t, w.Write(&format.Mark{Topic: "t", Next: 100}))
	ok(t, w.Write(&format.Group{ID: "g", Offsets: map[string]map[int32]format.GroupOffset{"t": {0: {Offset: 7}}}}))
	ok(t, w.Write(&format.Point{Time: 5}))
	ok(t, w.WriteRaw(append([]byte{0x82, 0x63}, "new\x01"...)))
	ok(t, w.Close(&format.End{Records: int64(len(records)), Lost: true}))
	return b.Bytes()
}

// run filters a stream with the flags of a command line.
func run(t testing.TB, in []byte, args ...string) (out []byte, err error) {
	t.Helper()
	var b bytes.Buffer
	app := &cli.App{
		Name: "kbk-filter", Flags: App().Flags, DisableSliceFlagSeparator: true, Writer: io.Discard, ErrWriter: io.Discard,
		ExitErrHandler: func(*cli.Context, error) {},
		Action: func(c *cli.Context) error {
			cfg, err := configure(c)
			if err != nil {
				return err
			}
			env := &command.Env{Name: "kbk-filter", Log: slog.New(slog.DiscardHandler), Stop: make(chan struct{})}
			return Run(t.Context(), cfg, env, bytes.NewReader(in), &b)
		},
	}
	err = app.RunContext(t.Context(), append([]string{"kbk-filter"}, args...))
	return b.Bytes(), err
}

// A content is what is in a stream.
type content struct {
	records []format.Record
	others  []string
	header  *format.Header
	end     *format.End
}

func read(t testing.TB, b []byte) (out content) {
	t.Helper()
	r := format.NewReader(bytes.NewReader(b), 0)
	var err error
	out.header, err = r.Header()
	ok(t, err)
	for {
		f, err := r.Next()
		if err == io.EOF {
			return out
		}
		ok(t, err)
		switch f.Kind {
		case format.KindRec:
			var rec format.Record
			ok(t, f.Record(&rec))
			rec.Key, rec.Value = bytes.Clone(rec.Key), bytes.Clone(rec.Value)
			rec.Headers = slices.Clone(rec.Headers)
			for i := range rec.Headers {
				rec.Headers[i] = format.RecordHeader{Name: bytes.Clone(rec.Headers[i].Name), Value: bytes.Clone(rec.Headers[i].Value)}
			}
			out.records = append(out.records, rec)
		case format.KindEnd:
			out.end, err = format.DecodeEnd(f.Raw)
			ok(t, err)
		case format.KindMark:
			m, err := format.DecodeMark(f.Raw)
			ok(t, err)
			out.others = append(out.others, fmt.Sprintf("mark %s/%d %d %s", m.Topic, m.Partition, m.Next, m.TopicID))
		case format.KindTopic:
			x, err := format.DecodeTopic(f.Raw)
			ok(t, err)
			out.others = append(out.others, fmt.Sprintf("topic %s %s", x.Name, x.ID))
		default:
			out.others = append(out.others, string(f.Name))
		}
	}
}

var others = []string{"topic t vPeOCWypqUOSepEvx0cbog", "mark t/0 0 vPeOCWypqUOSepEvx0cbog", "mark t/0 100 ", "group", "point", "new"}

func sample() []format.Record {
	return []format.Record{
		{Topic: "t", Offset: 0, Timestamp: 50, Key: []byte("a"), Value: []byte(`{"country":"DE"}`)},
		{Topic: "t", Offset: 1, Timestamp: 40, Key: []byte("b"), Value: []byte(`{"country":"FR"}`), Headers: []format.RecordHeader{{Name: []byte("h"), Value: []byte("one")}}},
		{Topic: "t", Offset: 2, Timestamp: 30, Key: []byte("c")},
		{Topic: "t", Partition: 1, Offset: 0, Timestamp: 20, Value: []byte("")},
		{Topic: "u.v", Offset: 9, Timestamp: 10, Key: []byte("ab"), Value: []byte("DE"), Headers: []format.RecordHeader{{Name: []byte("h")}, {Name: []byte("g"), Value: []byte("x")}}},
	}
}

// TestPick tries each condition, and its opposite.
func TestPick(t *testing.T) {
	in := streamOf(t, sample()...)
	for line, want := range map[string]string{
		"--topic t":                            "0 1 2 3",
		"--topic ^u --topic t":                 "0 1 2 3 4",
		"--not-topic t":                        "4",
		"--partition 1":                        "3",
		"--not-partition 0-5":                  "",
		"--offset 1..2":                        "1 2",
		"--offset 9":                           "4",
		"--offset ..0":                         "0 3",
		"--not-offset 1..":                     "0 3",
		"--since @20 --until @40":              "1 2 3",
		"--key a":                              "0 4",
		"--key ^a$":                            "0",
		"--not-key a":                          "1 2 3",
		"--value DE":                           "0 4",
		"--not-value DE":                       "1 2 3",
		"--value ^$":                           "3",
		"--header h":                           "1 4",
		"--header h=o.e":                       "1",
		"--header h --header g=x":              "4",
		"--not-header h":                       "0 2 3",
		"--tombstones":                         "2",
		"--no-tombstones":                      "0 1 3 4",
		"--head 2":                             "0 1",
		"--head 0":                             "",
		"--value DE --head 1":                  "0",
		"--topic t --value DE --no-tombstones": "0",
		"--sample 0%":                          "",
		"--invert --topic t":                   "4",
		"--invert --topic t --value DE":        "1 2 3 4",
		"--invert --since @20 --until @40 --head 1": "0",
		"--sample 100%": "0 1 2 3 4",
	} {
		out, err := run(t, in, strings.Fields(line)...)
		ok(t, err)
		got := read(t, out)
		var kept []string
		for _, r := range got.records {
			for i, s := range sample() {
				if s.Topic == r.Topic && s.Partition == r.Partition && s.Offset == r.Offset {
					kept = append(kept, fmt.Sprint(i))
				}
			}
		}
		if strings.Join(kept, " ") != want {
			t.Errorf("%s: kept %s, want %s", line, kept, want)
		}
		if !slices.Equal(got.others, others) || !slices.Equal(got.header.Filters, []string{"kbk-filter"}) {
			t.Errorf("%s: other frames are %q, filters %q", line, got.others, got.header.Filters)
		}
		if got.end.Records != int64(len(got.records)) || !got.end.Lost {
			t.Errorf("%s: the end says %+v", line, got.end)
		}
		counted, err := run(t, in, append(strings.Fields(line), "-c")...)
		if want := fmt.Sprintln(len(kept)); err != nil || string(counted) != want {
			t.Errorf("%s -c: %q, %v", line, counted, err)
		}
	}
	// Nothing asked, nothing changed.
	if out, err := run(t, in); err != nil || !bytes.Equal(out, in) {
		t.Errorf("without flags: %x, %v", out, err)
	}
}

// TestSample picks about the share that is asked for, by key, and others for another seed.
func TestSample(t *testing.T) {
	var records []format.Record
	for i := range 20_000 {
		records = append(records, format.Record{Topic: "t", Offset: int64(i), Key: fmt.Append(nil, i/2)})
	}
	in := streamOf(t, records...)
	kept := func(args ...string) map[string]int {
		out, err := run(t, in, args...)
		ok(t, err)
		keys := make(map[string]int)
		for _, r := range read(t, out).records {
			keys[string(r.Key)]++
		}
		return keys
	}
	a, b := kept("--sample", "10%"), kept("--sample", "10%", "--seed", "7")
	if len(a) < 800 || len(a) > 1200 {
		t.Errorf("%d of 10,000 keys", len(a))
	}
	both := 0
	for k, n := range a {
		if n != 2 {
			t.Errorf("key %s: %d of its 2 records", k, n)
		}
		if b[k] > 0 {
			both++
		}
	}
	if both > 300 {
		t.Errorf("%d keys are picked with either seed", both)
	}
}

func one(value string) format.Record {
	r := format.Record{Topic: "t", Partition: 1, Offset: 5, Timestamp: 7, Key: []byte("k"), Attributes: format.LogAppendTime}
	if value != "" {
		r.Value = []byte(value)
	}
	return r
}

// TestJQ changes values, and leaves all that it does not touch as it was.
func TestJQ(t *testing.T) {
	for _, c := range []struct{ in, program, want string }{
		{`{"a": 1.10, "email" : "x", "big":12345678901234567890123}`, `.value.email |= "***"`, `{"a": 1.10, "email" : "***", "big":12345678901234567890123}`},
		{` {"b":1,"a":[1, 2.0,{"x":1e400}]} `, `.`, ` {"b":1,"a":[1, 2.0,{"x":1e400}]} `},
		{`{"a":[1, 2.50 ,3]}`, `.value.a[0] = 9`, `{"a":[9, 2.50 ,3]}`},
		{`{"a":[1,2.50, {"x" : 1},4]}`, `del(.value.a[0])`, `{"a":[2.50,{"x" : 1},4]}`},
		{`{"a":1, "b": 2 ,"c":3}`, `del(.value.a)`, `{ "b": 2 ,"c":3}`},
		{`{"a":1, "b": 2 ,"c":3}`, `del(.value.b)`, `{"a":1,"c":3}`},
		{`{"a":1, "b": 2 ,"c":3 }`, `del(.value.c)`, `{"a":1, "b": 2 }`},
		{`{ }`, `.value.a = {"z":1}`, `{"a":{"z":1}}`},
		{`{"z":1}`, `.value.b = 2 | .value.a = "<&>"`, `{"z":1,"a":"<&>","b":2}`},
		{`{"é\n":"ü"}`, `.value["é\n"] = "ä"`, `{"é\n":"ä"}`},
		{`"text"`, `.value |= . + "!"`, `"text!"`},
		{`plain text`, `.value |= . + "!"`, `plain text!`},
		{"\xff\xfe", `.`, "\xff\xfe"},
		{"\xff\xfe", `.value = {"base64":"AAE="}`, "\x00\x01"},
		{`null`, `.`, `null`},
		{"", `.`, "<null>"},
		{"", `.value = "now"`, "now"},
		{`{"a":1}`, `.value = null`, "<null>"},
		{`{"a":1}`, `del(.value)`, "<null>"},
		{`{"a":1}`, `select(.value.a == 1)`, `{"a":1}`},
		{`{"a":1}`, `select(.value.a == 2)`, "<none>"},
		{`{"a":1}`, `., (.value.a = 2)`, `{"a":1}|{"a":2}`},
		{`{"a":9007199254740993}`, `.value.b = .value.a`, `{"a":9007199254740993,"b":9007199254740993}`},
	} {
		out, err := run(t, streamOf(t, one(c.in)), "--jq", c.program)
		if err != nil {
			t.Errorf("%s of %s: %v", c.program, c.in, err)
			continue
		}
		var got []string
		for _, r := range read(t, out).records {
			v := string(r.Value)
			if r.Value == nil {
				v = "<null>"
			}
			got = append(got, v)
			if r.Topic != "t" || r.Partition != 1 || r.Offset != 5 || r.Timestamp != 7 || string(r.Key) != "k" || r.Attributes != format.LogAppendTime {
				t.Errorf("%s of %s: became %+v", c.program, c.in, r)
			}
		}
		if got == nil {
			got = []string{"<none>"}
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s of %s: got %s, want %s", c.program, c.in, got, c.want)
		}
	}
	// The rest of a record.
	out, err := run(t, streamOf(t, sample()[1]), "--jq", `.topic = "x" | .partition = 3 | .offset += 1 | .timestamp = 0 | .key = null | .headers += [["n", null]]`)
	ok(t, err)
	want := format.Record{Topic: "x", Partition: 3, Offset: 2, Value: []byte(`{"country":"FR"}`), Headers: []format.RecordHeader{{Name: []byte("h"), Value: []byte("one")}, {Name: []byte("n")}}}
	if got := read(t, out).records[0]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestJQErrors(t *testing.T) {
	in := streamOf(t, one(`{"a":1}`), one("text"))
	for program, want := range map[string]string{
		`.value.a.b`:         `t/1, offset 5: expected an object but got: number (1)`,
		`.partition`:         "t/1, offset 5: the result is a number, and not an object like its input",
		`.offset = -1`:       "the result's offset is not a whole number",
		`.more = 1`:          "the result's more is not a part of a record",
		`.topic = ""`:        "the result's topic is not a name",
		`.headers = [["a"]]`: "the result's headers is not an array of [name, value]",
		`error("no\nway")`:   "no way",
	} {
		if _, err := run(t, in, "--jq", program); err == nil || !strings.Contains(err.Error(), want) || command.StatusOf(err) != command.Failed {
			t.Errorf("%s: %v", program, err)
		}
	}
	program := `.value |= (.a | . + 1 | {a: .})` // fails on text
	out, err := run(t, in, "--jq", program, "--on-error", "drop")
	if got := read(t, out).records; err != nil || len(got) != 1 || string(got[0].Value) != `{"a":2}` {
		t.Errorf("drop: %v, %v", got, err)
	}
	out, err = run(t, in, "--jq", program, "--on-error", "pass")
	if got := read(t, out).records; err != nil || len(got) != 2 || string(got[1].Value) != "text" {
		t.Errorf("pass: %v, %v", got, err)
	}
	for _, args := range [][]string{
		{"--jq", ".value |"}, {"--on-error", "x"}, {"--mask", "x"}, {"--mask", "value.a=x"}, {"--mask", "topic=redact"}, {"--mask", "value..a=redact"}, {"--mask", "value[x]=redact"},
		{"--mask", "value=hash"}, {"--mask", "value=redact", "--on-error", "pass"}, {"--sample", "5"}, {"--seed", "5"}, {"--offset", "5..1"}, {"--key", "("}, {"--topic", "^("}, {"--since", "x"},
		{"--tombstones", "--no-tombstones"}, {"--to", "xml"}, {"--from", "xml"}, {"--pretty"}, {"--format", "%q"}, {"--format", `\q`}, {"-c", "--to", "json"},
		{"--to", "json", "--format", "%s"}, {"--schema-id-map", "1=2,1=3"}, {"--schema-id-map", "/nowhere"}, {"--set-partition", "-1"}, {"--head", "-1"}, {"--invert"}, {"--partition", "x"},
	} {
		if _, err := run(t, in, args...); command.StatusOf(err) != command.Usage || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestMask(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	ok(t, os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef\n"), 0o600))
	for _, c := range []struct{ in, mask, want string }{
		{`{"card": {"number" : "4111 1111 1111 1234"}, "n": 1.0}`, "value.card.number=last4", `{"card": {"number" : "***************1234"}, "n": 1.0}`},
		{`{"pin":1234}`, "value.pin=last4", `{"pin":"****"}`},
		{`{"a":[{"p":1,"q":2},{"p":null},{"q":3},4]}`, "value.a[].p=redact", `{"a":[{"p":"***","q":2},{"p":null},{"q":3},4]}`},
		{`{"a":[1,2,3]}`, "value.a[1]=null", `{"a":[1,null,3]}`},
		{`{"a.b":"x","a":{"b":"y"}}`, `value."a.b"=redact`, `{"a.b":"***","a":{"b":"y"}}`},
		{`{"a":"x","a":"y"}`, "value.a=redact", `{"a":"***","a":"***"}`},
		{`{"e":"a\u00e9@bcd"}`, "value.e=last4", `{"e":"**@bcd"}`},
		{`{"a":{"b":1}}`, "value.a=redact", `{"a":"***"}`},
		{`{"a":"secret"}`, "value.a=hash", `{"a":"HASH"}`},
		{`{"b":1}`, "value.a.b.c=redact", `{"b":1}`},
		{"", "value.a=redact", "<null>"},
		{"anything", "value=redact", "***"},
		{"anything", "value=null", "<null>"},
	} {
		c.want = strings.ReplaceAll(c.want, "HASH", string(hashing([]byte("0123456789abcdef0123456789abcdef"))([]byte("secret"))))
		out, err := run(t, streamOf(t, one(c.in)), "--mask", c.mask, "--mask-key", key)
		ok(t, err)
		got := read(t, out).records[0]
		v := string(got.Value)
		if got.Value == nil {
			v = "<null>"
		}
		if v != c.want {
			t.Errorf("%s of %s: got %s, want %s", c.mask, c.in, v, c.want)
		}
	}
	out, err := run(t, streamOf(t, sample()[4]), "--mask", "headers.g=redact", "--mask", "headers.h=redact", "--mask", "key=last4")
	ok(t, err)
	if r := read(t, out).records[0]; string(r.Headers[1].Value) != "***" || r.Headers[0].Value != nil || string(r.Key) != "**" {
		t.Errorf("got %v", r)
	}
	if _, err := run(t, streamOf(t, one("no JSON")), "--mask", "value.a=redact"); err == nil || err.Error() != "t/1, offset 5: mask value.a=redact: it is not JSON" {
		t.Errorf("a value that cannot be masked: %v", err)
	}
}

func TestSchemaIDs(t *testing.T) {
	framed := "\x00\x00\x00\x00\x07avro"
	in := streamOf(t, one(framed), one("\x00\x00\x00\x00\x08"), one("\x00\x00"), one("\x01\x00\x00\x00\x07"), one(""))
	out, err := run(t, in, "--schema-id-map", "7=1000")
	ok(t, err)
	var got []string
	for _, r := range read(t, out).records {
		got = append(got, string(r.Value))
	}
	if want := []string{"\x00\x00\x00\x03\xe8avro", "\x00\x00\x00\x00\x08", "\x00\x00", "\x01\x00\x00\x00\x07", ""}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	ids := filepath.Join(t.TempDir(), "ids")
	ok(t, os.WriteFile(ids, []byte("7=8\n8=7\n"), 0o600))
	key := one("v")
	key.Key = []byte(framed)
	out, err = run(t, streamOf(t, key), "--key-schema-id-map", ids, "--format", `%I %i %t\n`)
	if err != nil || string(out) != "8 - t\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestSetTopic(t *testing.T) {
	out, err := run(t, streamOf(t, sample()[:3]...), "--set-topic", "clone", "--set-partition", "4")
	ok(t, err)
	got := read(t, out)
	if want := []string{"topic clone ", "mark clone/4 0 ", "mark clone/4 100 ", "group", "point", "new"}; !slices.Equal(got.others, want) {
		t.Errorf("got %q", got.others)
	}
	for _, r := range got.records {
		if r.Topic != "clone" || r.Partition != 4 {
			t.Errorf("got %s/%d", r.Topic, r.Partition)
		}
	}
}

// TestJSON goes to JSON and back, and through every way to print.
func TestJSON(t *testing.T) {
	in := streamOf(t, sample()...)
	lines, err := run(t, in, "--to", "json")
	ok(t, err)
	if n := bytes.Count(lines, []byte("\n")); n != 13 {
		t.Errorf("%d lines", n)
	}
	back, err := run(t, lines, "--from", "json")
	if err != nil || !bytes.Equal(back, in) {
		t.Errorf("back: %x, %v", back, err)
	}
	for cut, want := range map[int]string{0: "line 1: ", len(lines) - 2: "line 13: ", len(lines) / 2: "stream ended before its end frame"} {
		if _, err := run(t, lines[:cut], "--from", "json"); command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), want) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	if _, err := run(t, append(bytes.Clone(lines), "{}\n"...), "--from", "json"); command.StatusOf(err) != command.Corrupt {
		t.Errorf("more behind the end: %v", err)
	}
	if _, err := run(t, bytes.Replace(lines, []byte(`"offset":9`), []byte(`"offset":x`), 1), "--from", "json"); command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), "line 8: not a line of JSON") {
		t.Errorf("a bad line: %v", err)
	}
	for line, want := range map[string]string{
		"--to raw --no-tombstones":                               "{\"country\":\"DE\"}\n{\"country\":\"FR\"}\n\nDE\n",
		`--format %t/%p/%o@%T:%k(%K)=%s(%S)%h%%\n\x41 --key ^c$`: "t/0/2@30:c(1)=(-1)%\nA",
		`--format %h\0 --header g`:                               "h=NULL,g=x\x00",
		`--format %R --key ^ab$`:                                 "\x00\x00\x00\x02",
	} {
		out, err := run(t, in, strings.Fields(line)...)
		if err != nil || string(out) != want {
			t.Errorf("%s: %q, %v", line, out, err)
		}
	}
	out, err := run(t, in, "--to", "json", "--pretty", "--head", "1")
	want := "{\n  \"topic\": \"t\",\n  \"partition\": 0,\n  \"offset\": 0,\n  \"time\": \"1970-01-01T00:00:00.050Z\",\n  \"key\": \"a\",\n  \"value\": {\n    \"country\": \"DE\"\n  }\n}\n"
	if err != nil || string(out) != want {
		t.Errorf("pretty: %s, %v", out, err)
	}
}

// TestBadInput never ends a stream that did not end.
func TestBadInput(t *testing.T) {
	in := streamOf(t, sample()...)
	for _, args := range [][]string{nil, {"--value", "x"}, {"--jq", "."}, {"--to", "json"}, {"-c"}, {"--head", "1"}} {
		out, err := run(t, in[:len(in)-3], args...)
		if command.StatusOf(err) != command.Corrupt {
			t.Errorf("%q: %v", args, err)
		}
		if _, err := io.Copy(io.Discard, bytes.NewReader(out)); err != nil || bytes.Contains(out, []byte("\x63end")) {
			t.Errorf("%q: there is an end", args)
		}
	}
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments}))
	ok(t, w.Close(&format.End{}))
	if _, err := run(t, b.Bytes()); command.StatusOf(err) != command.Usage {
		t.Errorf("segments: %v", err)
	}
}

// TestOrder keeps the order of records over many blocks on all cores.
func TestOrder(t *testing.T) {
	var records []format.Record
	for i := range 50_000 {
		records = append(records, format.Record{Topic: "t", Offset: int64(i), Value: fmt.Appendf(nil, `{"n":%d,"pad":%q}`, i, strings.Repeat("x", i%200))})
	}
	in := streamOf(t, records...)
	for _, args := range [][]string{{"--value", "n"}, {"--jq", ".value.n += 1"}, {"--mask", "value.pad=redact"}} {
		out, err := run(t, in, args...)
		ok(t, err)
		got := read(t, out)
		if len(got.records) != len(records) {
			t.Fatalf("%q: %d records", args, len(got.records))
		}
		for i, r := range got.records {
			if r.Offset != int64(i) {
				t.Fatalf("%q: offset %d at %d", args, r.Offset, i)
			}
		}
		if !slices.Equal(got.others, others) {
			t.Errorf("%q: %q", args, got.others)
		}
	}
}

// TestLive holds nothing back while the input pauses.
func TestLive(t *testing.T) {
	for _, args := range [][]string{nil, {"--value", "DE"}, {"--to", "json"}} {
		in, feed := io.Pipe()
		out, drain := io.Pipe()
		whole := streamOf(t, sample()[:1]...)
		go func() {
			app := &cli.App{Flags: App().Flags, DisableSliceFlagSeparator: true, Action: func(c *cli.Context) error {
				cfg, err := configure(c)
				if err != nil {
					return err
				}
				return Run(context.Background(), cfg, &command.Env{Name: "x", Log: slog.New(slog.DiscardHandler)}, in, drain)
			}}
			drain.CloseWithError(app.Run(append([]string{"x"}, args...)))
		}()
		go feed.Write(whole[:len(whole)-20]) // and no more
		var got []byte
		buf := make([]byte, 1000)
		for !bytes.Contains(got, []byte("country")) {
			n, err := out.Read(buf)
			if err != nil {
				t.Fatalf("%q: %v", args, err)
			}
			got = append(got, buf[:n]...)
		}
		feed.CloseWithError(io.ErrUnexpectedEOF)
		_, _ = io.Copy(io.Discard, out) // it fails, as it should
	}
}

func benchmark(b *testing.B, args ...string) {
	var records []format.Record
	for i := range 20_000 {
		records = append(records, format.Record{
			Topic: "orders", Partition: int32(i % 8), Offset: int64(i / 8), Timestamp: 1700000000000 + int64(i), Key: fmt.Appendf(nil, "o-%09d", i),
			Value: fmt.Appendf(nil, `{"order":"o-%09d","customer":"c-%06d","country":"DE","amount":%d.99,"email":"user%d@example.org","note":%q}`, i, i%1000, i%500, i, strings.Repeat("standard parcel ", 22)),
		})
	}
	in := streamOf(b, records...)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := run(b, in, args...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(records)*b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkPass(b *testing.B)   { benchmark(b) }
func BenchmarkTopic(b *testing.B)  { benchmark(b, "--topic", "^ord", "--since", "@1700000000000") }
func BenchmarkRegexp(b *testing.B) { benchmark(b, "--value", "customer.*DE") }
func BenchmarkText(b *testing.B)   { benchmark(b, "--value", "nowhere") }
func BenchmarkJQ(b *testing.B) {
	benchmark(b, "--jq", `select(.value.country=="DE") | .value.email |= "***"`)
}
func BenchmarkMask(b *testing.B)   { benchmark(b, "--mask", "value.email=redact") }
func BenchmarkToJSON(b *testing.B) { benchmark(b, "--to", "json") }
