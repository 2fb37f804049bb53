package filter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/jsontext"
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
	ok(t, w.Close(&format.End{Records: int64(len(records))}))
	return b.Bytes()
}

// run filters a stream with the flags of a command line.
func run(t testing.TB, in []byte, args ...string) (out []byte, err error) {
	t.Helper()
	out, _, err = runSaying(t, in, args...)
	return out, err
}

// runSaying is run, and what people are told: a level and a message a line.
func runSaying(t testing.TB, in []byte, args ...string) (out []byte, said string, err error) {
	t.Helper()
	var b, lines bytes.Buffer
	log := slog.New(slog.NewTextHandler(&lines, nil))
	app := &cli.App{
		Name: "kbk-filter", Flags: App().Flags, DisableSliceFlagSeparator: true, Writer: io.Discard, ErrWriter: io.Discard,
		ExitErrHandler: func(*cli.Context, error) {},
		Action: func(c *cli.Context) error {
			cfg, err := configure(c)
			if err != nil {
				return err
			}
			env := &command.Env{Name: "kbk-filter", Log: log, Stop: make(chan struct{})}
			return Run(t.Context(), cfg, env, bytes.NewReader(in), &b)
		},
	}
	err = app.RunContext(t.Context(), append([]string{"kbk-filter"}, args...))
	return b.Bytes(), strings.NewReplacer("level=", "", "msg=", "").Replace(lines.String()), err
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

// named is how the filter names itself in the header.
var named = regexp.MustCompile(`^kbk-filter:[0-9a-f]{8}$`)

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
		if !slices.Equal(got.others, others) || len(got.header.Filters) != 1 || !named.MatchString(got.header.Filters[0]) {
			t.Errorf("%s: other frames are %q, filters %q", line, got.others, got.header.Filters)
		}
		if got.end.Records != int64(len(got.records)) {
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
		{`{"a":1}`, `., (.value.a = 2 | .offset += 1)`, `{"a":1}|{"a":2}`},
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
			if r.Topic != "t" || r.Partition != 1 || r.Offset != 5+int64(len(got))-1 || r.Timestamp != 7 || string(r.Key) != "k" || r.Attributes != format.LogAppendTime {
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
	second := one("text")
	second.Offset = 6
	in := streamOf(t, one(`{"a":1}`), second)
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
	if got := read(t, out); command.StatusOf(err) != command.Loss || err.Error() != "done, but with loss: t/1: kbk-filter dropped 1 record that --jq or --mask failed on, at offset 6" || len(got.records) != 1 || string(got.records[0].Value) != `{"a":2}` || !got.end.Lost {
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
		{`{"pin":1234}`, "value.pin=last4", `{"pin":"***4"}`},
		{`{"pin":12}`, "value.pin=last4", `{"pin":"**"}`},
		{`{"pin":"12345"}`, "value.pin=last4", `{"pin":"****5"}`},
		{`{"pin":"12345678901"}`, "value.pin=last4", `{"pin":"********901"}`},
		{`{"pin":{"a":"1234567890123456"}}`, "value.pin=last4", `{"pin":"***"}`},
		{`{"pin":["1234567890123456"]}`, "value.pin=last4", `{"pin":"***"}`},
		{`{"pin":false}`, "value.pin=last4", `{"pin":"***"}`},
		{`{"pin":"1234567890123456"}`, "value=last4", `***`},
		{"1234567890123456", "value=last4", "************3456"},
		{"\xff\xfe567890123456", "value=last4", "***"},
		{`{"a":[{"p":1,"q":2},{"p":null},{"q":3},null]}`, "value.a[].p=redact", `{"a":[{"p":"***","q":2},{"p":null},{"q":3},null]}`},
		{`[{"p":1},[{"p":2},[]],null]`, "value.p=redact", `[{"p":"***"},[{"p":"***"},[]],null]`},
		{`{"a":[[{"p":[{"q":1}]}]]}`, "value.a.p.q=redact", `{"a":[[{"p":[{"q":"***"}]}]]}`},
		{`{"a":[1,2,3]}`, "value.a[1]=null", `{"a":[1,null,3]}`},
		{`{"a.b":"x","a":{"b":"y"}}`, `value."a.b"=redact`, `{"a.b":"***","a":{"b":"y"}}`},
		{`{"a":"x","a":"y"}`, "value.a=redact", `{"a":"***","a":"***"}`},
		{`{"e":"a\u00e9@bcd"}`, "value.e=last4", `{"e":"****cd"}`},
		{`{"a":{"b":1}}`, "value.a=redact", `{"a":"***"}`},
		{`{"a":"secret"}`, "value.a=hash", `{"a":"HASH"}`},
		{`{"b":1}`, "value.a.b.c=redact", `{"b":1}`},
		{"", "value.a=redact", "<null>"},
		{"anything", "value=redact", "***"},
		{"anything", "value=null", "<null>"},
	} {
		c.want = strings.ReplaceAll(c.want, "HASH", string(hashing([]byte("0123456789abcdef0123456789abcdef"))([]byte("secret"), true)))
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
	for in, want := range map[string]string{
		"no JSON":                      "it is not JSON",
		`"x"`:                          `there is a string where an object with "a" is expected`,
		`{"a":"{\"b\":1}"}`:            `there is a string where an object with "b" is expected`,
		`{"a":[1]}`:                    `there is a number where an object with "b" is expected`,
		`{"a":[{"b":1},{"a":2},true]}`: `there is a boolean where an object with "b" is expected`,
	} {
		if _, err := run(t, streamOf(t, one(in)), "--mask", "value.a.b=redact"); err == nil || err.Error() != "t/1, offset 5: mask value.a.b=redact: "+want {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	if _, err := run(t, streamOf(t, one(`{"a":{"b":1}}`)), "--mask", "value.a[].b=redact"); err == nil || !strings.Contains(err.Error(), "there is an object where an array is expected") {
		t.Errorf("an object that is no array: %v", err)
	}
}

// TestLoss passes on what was lost before, adds what it drops itself, and says so by its
// status, whatever it writes.
func TestLoss(t *testing.T) {
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentRecords}))
	for i := range 4 {
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: int64(i), Value: []byte([]string{"{}", "x"}[i%2])}))
	}
	end := &format.End{Records: 4}
	end.Lose("t/1: 7 records expired")
	ok(t, w.Close(end))
	dropped := "t/0: kbk-filter dropped 2 records that --jq or --mask failed on, from offset 1 to 3"
	for _, args := range [][]string{nil, {"--value", "x"}, {"-c"}, {"--to", "json"}} {
		out, err := run(t, b.Bytes(), args...)
		if command.StatusOf(err) != command.Loss || err.Error() != "done, but with loss: t/1: 7 records expired" {
			t.Errorf("%q: %v", args, err)
		}
		if len(args) != 1 && !bytes.Contains(out, []byte("7 records expired")) {
			t.Errorf("%q: the loss is not passed on: %q", args, out)
		}
	}
	for _, args := range [][]string{{"--mask", "value.a=null"}, {"--jq", ".value.a=1"}, {"--jq", ".value.a=1", "-c"}} {
		out, err := run(t, b.Bytes(), append(args, "--on-error", "drop")...)
		if command.StatusOf(err) != command.Loss || err.Error() != "done, but with loss: t/1: 7 records expired; "+dropped {
			t.Errorf("%q: %v", args, err)
		}
		if len(args) == 2 && !slices.Equal(read(t, out).end.Losses, []string{"t/1: 7 records expired", dropped}) {
			t.Errorf("%q: the end is %+v", args, read(t, out).end)
		}
	}
}

// TestMaskDeep takes time that grows with a value, and not with its square.
func TestMaskDeep(t *testing.T) {
	deep := strings.Repeat("[", 9000) + `{"a":"x"},` + strings.Repeat(`"pad",`, 300_000)
	deep = deep[:len(deep)-1] + strings.Repeat("]", 9000)
	deep = strings.ReplaceAll(deep, `"pad"`, "null")
	began := time.Now()
	out, err := run(t, streamOf(t, one(deep)), "--mask", "value.a=redact")
	if err != nil || !strings.Contains(string(read(t, out).records[0].Value), `[{"a":"***"},null,`) {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestMaskHits counts what masks find, and says when one finds nothing.
func TestMaskHits(t *testing.T) {
	records := []format.Record{one(`{"user":{"email":"a@b"}}`), one(`[{"user":{"email":"c@d"}},{"user":{"email":null}}]`), one(`{"user":{"Email":"e@f"}}`), one(""), one(`{"user":{"email":[]}}`)}
	for i := range records {
		records[i].Offset = int64(i)
	}
	in := streamOf(t, records...)
	_, said, err := runSaying(t, in, "--mask", "value.user.email=redact", "--mask", "value.user.emial=redact", "--mask", "headers.email=null")
	ok(t, err)
	for _, want := range []string{
		`INFO "--mask value.user.email=redact hid 4 values in 4 records"`,
		`WARN "--mask value.user.emial=redact hit nothing in 4 records: is the path right?"`,
		`WARN "--mask headers.email=null hit nothing in 5 records: is the path right?"`,
	} {
		if !strings.Contains(said, want) {
			t.Errorf("%s is not in %s", want, said)
		}
	}
	if _, err := run(t, in, "--mask", "value.user.email=redact", "--mask-must-hit"); err == nil || err.Error() != "t/1, offset 2: mask value.user.email=redact: it finds nothing to hide" || command.StatusOf(err) != command.Failed {
		t.Errorf("a record that has no email: %v", err)
	}
	out, err := run(t, in, "--mask", "value.user.email=redact", "--mask-must-hit", "--on-error", "drop")
	if got := read(t, out).records; command.StatusOf(err) != command.Loss || len(got) != 4 { // a null value has nothing to hide
		t.Errorf("dropped all but %d: %v", len(got), err)
	}
	// Only null values: nobody can say that the path is wrong.
	if _, said, err := runSaying(t, streamOf(t, one("")), "--mask", "value.x=null", "--mask-must-hit"); err != nil || strings.Contains(said, "WARN") {
		t.Errorf("%s, %v", said, err)
	}
}

// TestNothingFound warns of conditions and ids that fit nothing.
func TestNothingFound(t *testing.T) {
	in := streamOf(t, sample()...)
	for line, want := range map[string]string{
		"--topic nowhere":                 `WARN "none of 5 records was picked"`,
		"--jq select(.topic==\"x\")":      `WARN "none of 5 records was picked"`,
		"--schema-id-map 1=2":             `WARN "--schema-id-map found none of its ids in 5 records"`,
		"--key-schema-id-map 1=2":         `WARN "--key-schema-id-map found none of its ids in 5 records"`,
		"--jq .value.x=1 --on-error pass": `WARN "--on-error pass let 2 records through unchanged"`,
		"--topic t":                       `INFO "passed 4 records on"`,
		"--head 0":                        `INFO "passed 0 records on"`,
	} {
		if _, said, err := runSaying(t, in, strings.Fields(line)...); err != nil || !strings.Contains(said, want) {
			t.Errorf("%s: %v, said %s", line, err, said)
		}
	}
}

// TestDuplicateNames refuses for --jq what a program could not see both halves of.
func TestDuplicateNames(t *testing.T) {
	for _, in := range []string{
		`{"a":"x","a":{"b":1}}`, `{"user":{"email":"a@b","email":null}}`, `[[{"x":{"a":1,"\u0061":2}}]]`, `{"\ud800":1,"\udc00":2}`,
	} {
		for _, program := range []string{`.`, `.value.a.b = 2`, `del(.value.user.email)`, `.value = 1`} {
			out, err := run(t, streamOf(t, one(in)), "--jq", program)
			if err == nil || !strings.Contains(err.Error(), "t/1, offset 5: value: the name") || !strings.Contains(err.Error(), "is there twice in one object") {
				t.Errorf("%s of %s: %v, %q", program, in, err, out)
			}
		}
		key := one("")
		key.Key = []byte(in)
		if _, err := run(t, streamOf(t, key), "--jq", "."); err == nil || !strings.Contains(err.Error(), "offset 5: key: the name") {
			t.Errorf("key %s: %v", in, err)
		}
		// What only shows or masks knows both.
		if out, err := run(t, streamOf(t, one(in)), "--to", "json", "--pretty"); err != nil || strings.Count(string(out), "\n") < 8 {
			t.Errorf("pretty %s: %v, %s", in, err, out)
		}
	}
}

// FuzzChange makes one JSON text the result of a program on another, and wants it back,
// and the text as it was where it says the same.
func FuzzChange(f *testing.F) {
	for _, c := range [][2]string{
		{`{"a": 1.10, "b" : [1, 2,{"c":null}]}`, `{"a":1,"b":[2,{"c":1}],"d":{}}`}, {`[1,2,3]`, `[3,1]`}, {` {"a":1 , "b":2} `, `{"b":2}`}, {`{}`, `{"":{"":[]}}`},
		{`[[1],[2]]`, `[[1],[2,3],4]`}, {`"a"`, `{"a":1}`}, {`{"a":"\ud83d\ude00"}`, `{"a":"\u0000"}`},
	} {
		f.Add([]byte(c[0]), []byte(c[1]))
	}
	f.Fuzz(func(t *testing.T, from, to []byte) {
		if !jsontext.Valid(from) || !jsontext.Valid(to) {
			return
		}
		was, err := fieldOf(from)
		if err != nil {
			return
		}
		want, err := jsontext.Decode(to)
		if err != nil || want == nil {
			return
		}
		if got, err := was.bytes(was.v); err != nil || !bytes.Equal(got, from) {
			t.Fatalf("%q with nothing done to it: %q, %v", from, got, err)
		}
		text, err := was.bytes(want)
		if err != nil {
			t.Fatalf("%q to %q: %v", from, to, err)
		}
		if !jsontext.Valid(text) {
			t.Fatalf("%q to %q: %q is not JSON", from, to, text)
		}
		if got, err := jsontext.Decode(text); err != nil || !same(got, want) {
			t.Fatalf("%q to %q: %q, %v", from, to, text, err)
		}
	})
}

// FuzzMask hides by name in any JSON, and wants every value of that name hidden.
func FuzzMask(f *testing.F) {
	for _, s := range []string{`{"a":{"b":1}}`, `[{"a":[{"b":"x"},null,{"b":{"b":2}}]}]`, `{"a":"x","a":{"b":[1],"b":2}}`, `{"\u0061":{"\u0062":true}}`} {
		f.Add([]byte(s))
	}
	m, err := parseMask("value.a.b=redact")
	ok(f, err)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := format.Record{Value: bytes.Clone(b)}
		hits, _, err := m.apply(&r, nil)
		if err != nil || b == nil {
			return
		}
		if !jsontext.Valid(r.Value) {
			t.Fatalf("%q became %q", b, r.Value)
		}
		var cuts []cut
		_, err = find(r.Value, jsontext.SkipSpace(r.Value, 0), m.path, &cuts)
		ok(t, err)
		if len(cuts) != hits {
			t.Fatalf("%q became %q: %d hits, then %d", b, r.Value, hits, len(cuts))
		}
		for _, c := range cuts {
			if text := string(r.Value[c.from:c.to]); text != `"***"` && text != "null" {
				t.Fatalf("%q became %q: %s is not hidden", b, r.Value, text)
			}
		}
	})
}

// TestOrderOfOffsets refuses to write a stream that has an offset twice, or goes back,
// wherever the two records are.
func TestOrderOfOffsets(t *testing.T) {
	var many []format.Record
	for i := range 20_000 {
		many = append(many, format.Record{Topic: "t", Partition: int32(i / 10_000), Offset: int64(i % 10_000), Value: []byte("0123456789")})
	}
	for _, c := range []struct {
		in         []format.Record
		args, want string
	}{
		{sample(), "--jq .,.", "t/0: two records have offset 0"},
		{sample(), "--jq .offset=7", "t/0: two records have offset 7"},
		{sample(), "--jq .offset=15-.offset", "t/0: a record of offset 14 comes after offset 15"},
		{sample(), "--jq .topic=\"t\"|.partition=0 --topic ^t", "t/0: a record of offset 0 comes after offset 2"},
		{sample(), "--set-partition 0", "t/0: a record of offset 0 comes after offset 2"},
		{sample()[:4], "--set-partition 0 --head 9", "t/0: a record of offset 0 comes after offset 2"},
		{many, "--set-partition 5", "t/5: a record of offset 0 comes after offset 9999"},
	} {
		out, err := run(t, streamOf(t, c.in...), strings.Fields(c.args)...)
		if err == nil || err.Error() != c.want || command.StatusOf(err) != command.Failed {
			t.Errorf("%s: %v, want %s", c.args, err, c.want)
		}
		if bytes.Contains(out, []byte("\x63end")) {
			t.Errorf("%s: there is an end", c.args)
		}
		if _, err := run(t, streamOf(t, c.in...), append(strings.Fields(c.args), "--to", "json")...); err != nil { // lines are no stream yet
			t.Errorf("%s --to json: %v", c.args, err)
		}
	}
	twice, err := run(t, streamOf(t, sample()...), "--jq", ".,.", "--to", "json")
	ok(t, err)
	if _, err := run(t, twice, "--from", "json"); err == nil || err.Error() != "standard input: line 5: t/0: two records have offset 0" || command.StatusOf(err) != command.Corrupt {
		t.Errorf("lines: %v", err)
	}
	// Marks too: behind one nothing comes that is below it, but where scanning begins anew.
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentRecords}))
	ok(t, w.Write(&format.Mark{Topic: "t", Next: 5}))
	ok(t, w.Write(&format.Mark{Topic: "t", Next: 3, MarkInfo: format.MarkInfo{Begins: true}}))
	ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: 3}))
	ok(t, w.Write(&format.Mark{Topic: "t", Next: 4}))
	ok(t, w.Close(new(format.End)))
	for program, want := range map[string]string{".": "", ".offset=2": "t/0: a record of offset 2 comes after the mark of 3", ".offset=9": ""} {
		if _, err := run(t, b.Bytes(), "--jq", program); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v", program, err)
		}
	}
	if _, err := run(t, streamOf(t), "--set-topic", "x", "--set-partition", "3"); err != nil {
		t.Error(err)
	}
}

// TestDigest names what was done: the same for the same, and another for anything else.
func TestDigest(t *testing.T) {
	in := streamOf(t, sample()...)
	dir := t.TempDir()
	for name, text := range map[string]string{"key": "0123456789abcdef", "key2": "0123456789abcdef\n", "other": "0123456789abcdeX", "ids": "1=2\n3=4\n"} {
		ok(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	name := func(args ...string) string {
		t.Helper()
		out, err := run(t, in, args...)
		ok(t, err)
		filters := read(t, out).header.Filters
		if len(filters) != 1 || !named.MatchString(filters[0]) {
			t.Fatalf("%q: filters are %q", args, filters)
		}
		return filters[0]
	}
	key := filepath.Join(dir, "key")
	masked := []string{"--mask", "key=hash", "--mask-key", key}
	seen := make(map[string][]string)
	for _, args := range [][]string{
		{"-t", "t"}, {"--not-topic", "t"}, {"-t", "t", "-t", "u"}, {"--head", "3"}, {"--jq", "."}, {"--jq", ".key=null"}, masked, {"--mask", "key=redact"}, {"--mask", "key=redact", "--mask-must-hit"},
		{"--mask", "key=hash", "--mask-key", filepath.Join(dir, "other")}, {"--since", "@20"}, {"--until", "@20"}, {"--invert", "-t", "t"}, {"--schema-id-map", "1=2,3=4"}, {"--key-schema-id-map", "1=2"},
	} {
		n := name(args...)
		if seen[n] != nil {
			t.Errorf("%q and %q are both %s", seen[n], args, n)
		}
		seen[n] = args
	}
	for _, c := range [][2][]string{
		{{"-t", "t"}, {"--topic", "t"}},
		{masked, {"--mask", "key=hash", "--mask-key", filepath.Join(dir, "key2")}},
		{{"--schema-id-map", "1=2,3=4"}, {"--schema-id-map", filepath.Join(dir, "ids")}},
		{{"--since", "@1700000000000"}, {"--since", "2023-11-14T22:13:20Z"}},
		{{"--jq", "."}, {"--jq", ".", "--mask-key", "/nowhere"}},
	} {
		if a, b := name(c[0]...), name(c[1]...); a != b {
			t.Errorf("%q is %s, %q is %s", c[0], a, c[1], b)
		}
	}
	if name("--since", "1h") == name("--since", "2h") {
		t.Error("1h is 2h")
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

// TestSetTopicOthers takes the new name to all frames that name topics.
func TestSetTopicOthers(t *testing.T) {
	ch := &change{topic: "clone", partition: 4}
	for _, c := range []struct{ in, want format.Encoder }{
		{
			&format.Group{ID: "g", Offsets: map[string]map[int32]format.GroupOffset{"t": {0: {Offset: 7}, 1: {Offset: 5}}}, GroupInfo: format.GroupInfo{Topics: map[string]string{"t": "vPeOCWypqUOSepEvx0cbog"}}},
			&format.Group{ID: "g", Offsets: map[string]map[int32]format.GroupOffset{"clone": {4: {Offset: 5}}}, GroupInfo: format.GroupInfo{Topics: map[string]string{"clone": ""}}},
		},
		{
			&format.Groups{IDs: []string{"g"}, GroupsInfo: format.GroupsInfo{Include: []string{"^"}, Topics: map[string]string{"t": "vPeOCWypqUOSepEvx0cbog"}}},
			&format.Groups{IDs: []string{"g"}, GroupsInfo: format.GroupsInfo{Include: []string{"^"}, Topics: map[string]string{"clone": ""}}},
		},
		{&format.Point{Time: 5, Without: map[string][]int32{"t": {0, 1}}}, &format.Point{Time: 5, Without: map[string][]int32{"clone": {4}}}},
		{&format.Point{Time: 5}, &format.Point{Time: 5}},
	} {
		raw, err := c.in.AppendFrame(nil)
		ok(t, err)
		want, err := c.want.AppendFrame(nil)
		ok(t, err)
		var f format.Frame
		ok(t, f.Scan(raw))
		if got, err := ch.other(&f); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%+v became %x, %v; want %x", c.in, got, err, want)
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
	records, batch := streamOf(t, sample()[:1]...), inBatches(t, "none", sample()[:2]...)
	for _, c := range []struct {
		whole []byte
		args  []string
	}{
		{records, nil}, {records, []string{"--value", "DE"}}, {records, []string{"--to", "json"}},
		{batch, nil}, {batch, []string{"--value", "DE"}}, {batch, []string{"--set-topic", "u"}},
	} {
		whole, args := c.whole, c.args
		in, feed := io.Pipe()
		out, drain := io.Pipe()
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
	benchmarkStream(b, records, streamOf(b, records...), args...)
}

// benchmarkStream measures by the size of a stream of the records, whatever they are in.
func benchmarkStream(b *testing.B, records []format.Record, in []byte, args ...string) {
	b.SetBytes(int64(len(streamOf(b, records...))))
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

// BenchmarkBatches has the same records in batches of 1000, routed and looked into.
func BenchmarkBatches(b *testing.B) {
	var records []format.Record
	for i := range 20_000 {
		records = append(records, format.Record{
			Topic: "orders", Partition: int32(i / 1000), Offset: int64(i % 1000), Timestamp: 1700000000000 + int64(i), Key: fmt.Appendf(nil, "o-%09d", i),
			Value: fmt.Appendf(nil, `{"order":"o-%09d","customer":"c-%06d","amount":%d.99,"email":"user%d@example.org","note":%q}`, i, i%1000, i%500, i, strings.Repeat("standard parcel ", 22)),
		})
	}
	for _, codec := range []string{"none", "lz4", "zstd"} {
		in := inBatches(b, codec, records...)
		for name, args := range map[string][]string{"route": {"--topic", "^ord"}, "rename": {"--set-topic", "clone"}, "text": {"--value", "nowhere"}, "mask": {"--mask", "value.email=redact"}} {
			b.Run(codec+"/"+name, func(b *testing.B) { benchmarkStream(b, records, in, args...) })
		}
	}
	for name, args := range map[string][]string{"route": {"--topic", "^ord"}, "rename": {"--set-topic", "clone"}, "text": {"--value", "nowhere"}, "mask": {"--mask", "value.email=redact"}} {
		b.Run("records/"+name, func(b *testing.B) { benchmarkStream(b, records, streamOf(b, records...), args...) })
	}
}

// TestClusterLeftOut: a stream that is picked from or masked is no copy of the cluster, and what
// the cluster has besides records was looked at by no mask. Lines of JSON have it.
func TestClusterLeftOut(t *testing.T) {
	in, err := os.ReadFile("../../format/testdata/good/cluster.kbk")
	ok(t, err)
	frames := func(stream []byte) (n int) {
		for r := format.NewReader(bytes.NewReader(stream), 0); ; {
			f, err := r.Next()
			if err == io.EOF {
				return n
			}
			ok(t, err)
			if f.Kind.OfCluster() {
				n++
			}
		}
	}
	for _, c := range []struct {
		args []string
		kept bool
	}{
		{nil, true},
		{[]string{"-t", "orders"}, false},
		{[]string{"--mask", "value.card=redact"}, false},
		{[]string{"--head", "3"}, false},
		{[]string{"--jq", "."}, false},
	} {
		out, said, err := runSaying(t, in, c.args...)
		if command.StatusOf(err) != command.OK {
			t.Logf("%q: %v", c.args, err)
		}
		if kept := frames(out) == frames(in); kept != c.kept || strings.Contains(said, "left out") == c.kept || !kept && frames(out) > 0 {
			t.Errorf("%q: %d frames of %d, and it says %q", c.args, frames(out), frames(in), said)
		}
	}
	lines, err := run(t, in, "--to", "json")
	ok(t, err)
	if back, err := run(t, lines, "--from", "json"); err != nil || !bytes.Equal(back, in) {
		t.Errorf("lines of JSON and back: %v\n%s", err, lines)
	}
}
