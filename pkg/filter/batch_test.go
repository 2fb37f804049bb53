package filter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/recordbatch/batchtest"
)

// inBatches is a stream with the records of [streamOf] in batches, as they follow one another
// in a partition; one that is alone stays a record.
func inBatches(t testing.TB, codec string, records ...format.Record) []byte {
	t.Helper()
	var out bytes.Buffer
	w := format.NewWriter(&out)
	r := format.NewReader(bytes.NewReader(streamOf(t, records...)), 0)
	h, err := r.Header()
	ok(t, err)
	h.Content = format.ContentBatches
	ok(t, w.WriteHeader(h))
	var run []format.Record
	write := func() {
		if len(run) == 1 {
			ok(t, w.WriteRecord(&run[0]))
		} else if len(run) > 1 {
			ok(t, w.Write(batchtest.Frame(t, codec, run...)))
		}
		run = nil
	}
	for next := 0; ; {
		f, err := r.Next()
		ok(t, err)
		switch f.Kind {
		case format.KindRec:
			rec := records[next]
			next++
			if n := len(run); n > 0 && (run[n-1].Topic != rec.Topic || run[n-1].Partition != rec.Partition || run[n-1].Offset+1 != rec.Offset) {
				write()
			}
			run = append(run, rec)
		case format.KindEnd:
			end, err := format.DecodeEnd(f.Raw)
			ok(t, errors.Join(err, w.Close(end)))
			return out.Bytes()
		default:
			write()
			ok(t, w.WriteRaw(f.Raw))
		}
	}
}

// unpacked is a stream of batches with records in their place, and how many batches it had.
func unpacked(t testing.TB, stream []byte) (out []byte, batches int) {
	t.Helper()
	var b bytes.Buffer
	r, w := format.NewReader(bytes.NewReader(stream), 0), format.NewWriter(&b)
	h, err := r.Header()
	ok(t, err)
	h.Content = format.ContentRecords
	ok(t, w.WriteHeader(h))
	d := recordbatch.NewDecoder()
	for {
		f, err := r.Next()
		ok(t, err)
		switch f.Kind {
		case format.KindBatch:
			batches++
			frame, err := format.DecodeBatch(f.Raw)
			ok(t, err)
			ok(t, d.Unpack(frame, w.WriteRecord))
		case format.KindEnd:
			end, err := format.DecodeEnd(f.Raw)
			ok(t, errors.Join(err, w.Close(end)))
			return b.Bytes(), batches
		default:
			ok(t, w.WriteRaw(f.Raw))
		}
	}
}

// many are records of three partitions in runs, so that there are batches of all lengths.
func many(n int) (out []format.Record) {
	rnd := rand.New(rand.NewPCG(3, 4))
	next := make(map[place]int64)
	for len(out) < n {
		p := []place{{"t", 0}, {"t", 1}, {"u.v", 0}}[rnd.IntN(3)]
		for range 1 + rnd.IntN(40) {
			r := format.Record{Topic: p.topic, Partition: p.partition, Offset: next[p], Timestamp: 1_700_000_000_000 + int64(rnd.IntN(1000))}
			next[p]++
			if rnd.IntN(4) > 0 {
				r.Key = fmt.Append(nil, "k", rnd.IntN(20))
			}
			if rnd.IntN(10) > 0 {
				r.Value = fmt.Appendf(nil, `{"n":%d,"email":"user%d@example.org"}`, len(out), rnd.IntN(100))
			}
			if rnd.IntN(3) == 0 {
				r.Headers = []format.RecordHeader{{Name: []byte("h"), Value: []byte("one")}, {Name: []byte("h")}}
			}
			out = append(out, r)
		}
		next[p] += int64(rnd.IntN(2)) // a hole ends a batch
	}
	return out
}

// options are flags, each in a use of its own, and whether whole batches pass where nothing
// else is asked. TestOptions wants every flag of the command in it.
var options = map[string]struct {
	args   []string
	passes bool
}{
	"topic":             {[]string{"--topic", "t"}, true},
	"not-topic":         {[]string{"--not-topic", "^u"}, true},
	"partition":         {[]string{"--partition", "0"}, true},
	"not-partition":     {[]string{"--not-partition", "1-5"}, true},
	"offset":            {[]string{"--offset", "7..300"}, true},
	"not-offset":        {[]string{"--not-offset", "7..300"}, true},
	"since":             {[]string{"--since", "@1700000000500"}, false},
	"until":             {[]string{"--until", "@1700000000500"}, false},
	"key":               {[]string{"--key", "^k1$"}, false},
	"not-key":           {[]string{"--not-key", "^k1$"}, false},
	"value":             {[]string{"--value", "user7@"}, false},
	"not-value":         {[]string{"--not-value", "user7@"}, false},
	"header":            {[]string{"--header", "h=one"}, false},
	"not-header":        {[]string{"--not-header", "h"}, false},
	"tombstones":        {[]string{"--tombstones"}, false},
	"no-tombstones":     {[]string{"--no-tombstones"}, false},
	"sample":            {[]string{"--sample", "30%"}, false},
	"seed":              {[]string{"--sample", "30%", "--seed", "7"}, false},
	"invert":            {[]string{"--invert", "--topic", "t", "--offset", "7..300"}, true},
	"head":              {[]string{"--head", "100"}, false},
	"mask":              {[]string{"--mask", "value.email=redact"}, false},
	"mask-must-hit":     {[]string{"--mask", "key=redact", "--mask-must-hit"}, false},
	"mask-key":          {[]string{"--mask", "value.email=hash", "--mask-key", "KEY"}, false},
	"jq":                {[]string{"--jq", "select(.offset % 2 == 0)"}, false},
	"on-error":          {[]string{"--on-error", "drop", "--mask", "value.n.m=null"}, false},
	"schema-id-map":     {[]string{"--schema-id-map", "1=2"}, false},
	"key-schema-id-map": {[]string{"--key-schema-id-map", "1=2"}, false},
	"set-topic":         {[]string{"--topic", "t", "--set-topic", "clone"}, true},
	"set-partition":     {[]string{"--partition", "0", "--set-partition", "3"}, true},
	"count":             {[]string{"--count"}, true}, // of whole batches, by what they say
	"to":                {[]string{"--to", "json"}, false},
	"from":              {[]string{"--from", "json"}, false},
	"pretty":            {[]string{"--to", "json", "--pretty"}, false},
	"format":            {[]string{"--format", `%t %p %o %T %k %s %h\n`}, false},
	"max-frame":         {[]string{"--max-frame", "1MiB"}, true},
}

// args are those of an option, with a file for its key.
func args(t testing.TB, option string) []string {
	t.Helper()
	out := slices.Clone(options[option].args)
	if i := slices.Index(out, "KEY"); i >= 0 {
		out[i] = filepath.Join(t.TempDir(), "key")
		ok(t, os.WriteFile(out[i], []byte("0123456789abcdef"), 0o600))
	}
	return out
}

// TestOptions decides for every option, alone and beside each other one, whether whole batches
// pass. A batch must not pass where one of the two looks into records.
func TestOptions(t *testing.T) {
	decide := func(args []string) (passes bool) {
		t.Helper()
		app := &cli.App{Flags: App().Flags, DisableSliceFlagSeparator: true, Action: func(c *cli.Context) error {
			cfg, err := configure(c)
			passes = cfg.passesBatches()
			return err
		}}
		ok(t, app.Run(append([]string{"kbk-filter"}, args...)))
		return passes
	}
	if !decide(nil) {
		t.Error("without flags no batch passes")
	}
	common := []string{"config", "quiet", "verbose", "log-format", "metrics", "keep-alive", "help", "version"}
	for _, flag := range App().Flags {
		if name := flag.Names()[0]; options[name].args == nil && !slices.Contains(common, name) {
			t.Errorf("--%s: it is not decided whether whole batches pass", name)
		}
	}
	excluded := func(a, b string) bool { // together they are refused, or b is a part of what a has
		show := []string{"to", "pretty", "format", "count"}
		return slices.Contains(show, a) && slices.Contains(show, b) || strings.Contains(a+b, "tombstones") && strings.HasSuffix(a, "tombstones") && strings.HasSuffix(b, "tombstones")
	}
	for a, first := range options {
		if got := decide(args(t, a)); got != first.passes {
			t.Errorf("--%s: whole batches pass: %v, want %v", a, got, first.passes)
		}
		for b, second := range options {
			if excluded(a, b) || a >= b {
				continue
			}
			both := append(args(t, a), args(t, b)...)
			if got := decide(both); got != (first.passes && second.passes) {
				t.Errorf("%q: whole batches pass: %v", both, got)
			}
		}
	}
}

// TestBatches wants of each option the same from batches as from their records, whatever they
// are compressed with: the same records and other frames, the same lines, the same messages.
func TestBatches(t *testing.T) {
	records := many(1000)
	plain := streamOf(t, records...)
	streams := make(map[string][]byte)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		in := inBatches(t, codec, records...)
		streams[codec] = in
		if n := bytes.Count(in, []byte("\x65batch")); n < 40 {
			t.Fatalf("only %d batches", n)
		}
		if out, err := run(t, in); err != nil || !bytes.Equal(out, in) {
			t.Errorf("%s: without flags the stream changed: %v", codec, err)
		}
	}
	for name, option := range options {
		if name == "from" {
			continue
		}
		args := args(t, name)
		want, wantSaid, wantErr := runSaying(t, plain, args...)
		for codec, in := range streams {
			got, gotSaid, gotErr := runSaying(t, in, args...)
			if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || command.StatusOf(gotErr) != command.StatusOf(wantErr) {
				t.Errorf("%s, %q: %v; want %v", codec, args, gotErr, wantErr)
				continue
			}
			if timeless(gotSaid) != timeless(wantSaid) {
				t.Errorf("%s, %q: it says\n%s, want\n%s", codec, args, gotSaid, wantSaid)
			}
			batches := 0
			if bytes.HasPrefix(got, []byte("\xd9\xd9\xf7")) {
				wanted := format.ContentRecords
				if option.passes {
					wanted = format.ContentBatches
				}
				if h := read(t, got).header; h.Content != wanted {
					t.Errorf("%q: the content is %s", args, h.Content)
				}
				got, batches = unpacked(t, got)
			}
			if gotErr == nil && !bytes.Equal(got, want) {
				t.Errorf("%s, %q: %d bytes that differ from the %d wanted", codec, args, len(got), len(want))
			}
			if (batches > 0) != (option.passes && name != "count") {
				t.Errorf("%q: %d batches have passed", args, batches)
			}
		}
	}
}

// timeless is messages without times.
func timeless(said string) string {
	var out []string
	for line := range strings.Lines(said) {
		_, line, _ = strings.Cut(line, " ") // the time
		line, _, _ = strings.Cut(line, " in=")
		out = append(out, strings.TrimSpace(line))
	}
	return strings.Join(out, "\n")
}

// TestBatchesAnyFlags is TestBatches for several options at a time.
func TestBatchesAnyFlags(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	records := many(400)
	plain, in := streamOf(t, records...), inBatches(t, "zstd", records...)
	names := slices.DeleteFunc(slices.Sorted(func(yield func(string) bool) {
		for name := range options {
			if !yield(name) {
				return
			}
		}
	}), func(name string) bool { return name == "from" || name == "max-frame" })
	worked := 0
	for range 120 {
		var line []string
		for range 2 + rnd.IntN(3) {
			line = append(line, args(t, names[rnd.IntN(len(names))])...)
		}
		want, wantErr := run(t, plain, line...)
		got, gotErr := run(t, in, line...)
		if command.StatusOf(gotErr) != command.StatusOf(wantErr) {
			t.Fatalf("seed %d, %q: %v; want %v", seed, line, gotErr, wantErr)
		}
		if gotErr != nil {
			continue
		}
		worked++
		if bytes.HasPrefix(got, []byte("\xd9\xd9\xf7")) {
			got, _ = unpacked(t, got)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("seed %d, %q: %d bytes that differ from the %d wanted", seed, line, len(got), len(want))
		}
	}
	if worked < 40 {
		t.Errorf("seed %d: only %d lines worked", seed, worked)
	}
}

// places says what is in a stream: batches as first-last, records as their offset.
func places(t testing.TB, stream []byte) string {
	t.Helper()
	var out []string
	for r := format.NewReader(bytes.NewReader(stream), 0); ; {
		f, err := r.Next()
		if err == io.EOF {
			return strings.Join(out, " ")
		}
		ok(t, err)
		switch f.Kind {
		case format.KindRec:
			out = append(out, fmt.Sprintf("%s/%d:%d", f.Topic, f.Partition, f.Offset))
		case format.KindBatch:
			b, err := format.DecodeBatch(f.Raw)
			ok(t, err)
			if _, err := recordbatch.Open(b); err != nil {
				t.Error(err)
			}
			out = append(out, fmt.Sprintf("%s/%d:%d-%d", b.Topic, b.Partition, b.First, b.Last))
		}
	}
}

// rows are records with offsets from..to of a partition.
func rows(topic string, partition int32, from, to int64) (out []format.Record) {
	for o := from; o <= to; o++ {
		out = append(out, format.Record{Topic: topic, Partition: partition, Offset: o, Timestamp: 1_700_000_000_000 + o, Value: fmt.Append(nil, "value ", o)})
	}
	return out
}

// TestRouting passes whole batches, and records where a bound cuts one.
func TestRouting(t *testing.T) {
	in := inBatches(t, "lz4", slices.Concat(rows("t", 0, 10, 13), rows("t", 1, 0, 0), rows("u.v", 0, 5, 7), rows("t", 0, 20, 22))...)
	for line, want := range map[string]string{
		"":                                "t/0:10-13 t/1:0 u.v/0:5-7 t/0:20-22",
		"-t t":                            "t/0:10-13 t/1:0 t/0:20-22",
		"--not-topic t":                   "u.v/0:5-7",
		"-p 0":                            "t/0:10-13 u.v/0:5-7 t/0:20-22",
		"--offset 10..13":                 "t/0:10-13",
		"--offset 11..20":                 "t/0:11 t/0:12 t/0:13 t/0:20",
		"--offset 12":                     "t/0:12",
		"--offset 6..":                    "t/0:10-13 u.v/0:6 u.v/0:7 t/0:20-22",
		"--not-offset 11..12":             "t/0:10 t/0:13 t/1:0 u.v/0:5-7 t/0:20-22",
		"--offset 11.. --not-offset ..12": "t/0:13 t/0:20-22",
		"--offset ..12 --not-offset 10..": "t/1:0 u.v/0:5-7",
		"--invert -t t":                   "u.v/0:5-7",
		"--invert --offset 6..12":         "t/0:13 t/1:0 u.v/0:5 t/0:20-22",
		"--invert -t t --offset 10..13":   "t/1:0 u.v/0:5-7 t/0:20-22",
		"-t t -p 0 --set-topic a":         "a/0:10-13 a/0:20-22",
		"-t t -p 0 --set-topic a --offset 12..20 --set-partition 9": "a/9:12 a/9:13 a/9:20",
		"-t nowhere": "",
	} {
		out, err := run(t, in, strings.Fields(line)...)
		ok(t, err)
		if got := places(t, out); got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
		if got := read(t, out); got.header.Content != format.ContentBatches || len(got.header.Filters) != min(len(line), 1) {
			t.Errorf("%s: the header is %+v", line, got.header)
		}
		counted, err := run(t, in, append(strings.Fields(line), "-c")...)
		records, _ := unpacked(t, out)
		if want := fmt.Sprintln(len(read(t, records).records)); err != nil || string(counted) != want {
			t.Errorf("%s -c: %q, %v, want %s", line, counted, err, want)
		}
	}
	for line, want := range map[string]string{
		"--set-topic a":                  "a/0: a record of offset 5 comes after offset 13",
		"--set-topic a --not-topic t":    "",
		"--set-partition 3":              "t/3: a record of offset 0 comes after offset 13",
		"--set-topic a --offset 7..11":   "a/0: a record of offset 7 comes after offset 11",
		"--set-topic a --jq .offset+=90": "a/0: a record of offset 95 comes after offset 103",
	} {
		if _, err := run(t, in, strings.Fields(line)...); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// TestBadBatches refuses what is no batch, or not the one that its frame says, whether it is
// picked or not, and writes no end.
func TestBadBatches(t *testing.T) {
	good := batchtest.Frame(t, "none", rows("t", 0, 10, 13)...)
	flipped, moved, forged := *good, *good, *good
	flipped.Data = bytes.Clone(good.Data)
	flipped.Data[80] ^= 1
	moved.First, moved.Last = 20, 23
	forged.Data = bytes.Clone(good.Data)
	forged.Data[61+3] = 4 // the first record has the offset of the third
	recordbatch.Stamp(forged.Data, -1, -1, -1)
	stream := func(content string, frames ...format.Encoder) []byte {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		ok(t, w.WriteHeader(&format.Header{Content: content}))
		for _, f := range frames {
			ok(t, w.Write(f))
		}
		ok(t, w.Close(&format.End{Records: 4}))
		return b.Bytes()
	}
	look := []string{"--value", "x"}
	for name, c := range map[string]struct {
		in   []byte
		args []string
		want string // "": it passes
	}{
		"a bit, passed":              {stream(format.ContentBatches, &flipped), nil, "standard input: t/0: batch of offsets 10 to 13: corrupt record batch at offset 10: checksum"},
		"a bit, dropped":             {stream(format.ContentBatches, &flipped), []string{"-t", "u"}, "checksum"},
		"a bit, counted":             {stream(format.ContentBatches, &flipped), []string{"-c"}, "checksum"},
		"a bit, looked at":           {stream(format.ContentBatches, &flipped), look, "checksum"},
		"a bit, behind the head":     {stream(format.ContentBatches, good, &flipped), []string{"--head", "1"}, "checksum"},
		"another frame":              {stream(format.ContentBatches, &moved), []string{"--offset", "20..23"}, "and its frame says"},
		"another frame, looked at":   {stream(format.ContentBatches, &moved), look, "and its frame says"},
		"forged offsets":             {stream(format.ContentBatches, &forged), look, "standard input: t/0: batch of offsets 10 to 13: corrupt record in the batch at offset 10"},
		"forged offsets, cut":        {stream(format.ContentBatches, &forged), []string{"--offset", "11"}, "corrupt record"},
		"among records":              {stream(format.ContentRecords, good), nil, "standard input: a batch frame in a stream of records"},
		"among records, masked":      {stream(format.ContentRecords, good), []string{"--mask", "value=redact"}, "a batch frame in a stream of records"},
		"among records, counted":     {stream(format.ContentRecords, good), []string{"-c"}, "a batch frame in a stream of records"},
		"among records, as JSON":     {stream(format.ContentRecords, good), []string{"--to", "json"}, "a batch frame in a stream of records"},
		"a later content":            {stream("pages"), nil, `a stream of "pages", which this version does not know`},
		"good":                       {stream(format.ContentBatches, good), nil, ""},
		"good, with a record behind": {stream(format.ContentBatches, good, batchtest.Frame(t, "gzip", rows("t", 0, 14, 14)...)), look, ""},
	} {
		out, err := run(t, c.in, c.args...)
		if c.want == "" {
			ok(t, err)
			continue
		}
		if command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: status %d, %v; want %q", name, command.StatusOf(err), err, c.want)
		}
		if bytes.Contains(out, []byte("\x63end")) {
			t.Errorf("%s: there is an end", name)
		}
	}
}

// TestBatchTooLarge stops with the offsets where a batch comes to more than a decoder takes,
// and lets it pass where nobody has to look into it.
func TestBatchTooLarge(t *testing.T) {
	// Its second record says that it takes 300 MiB. None has to be there: the size alone is too much.
	raw := batchtest.Frame(t, "none", rows("t", 0, 10, 14)...).Data
	first, n := binary.Varint(raw[61:])
	raw = binary.AppendVarint(raw[:61+n+int(first)], 300<<20)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	recordbatch.Stamp(raw, -1, -1, -1)
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentBatches}))
	ok(t, w.Write(batchtest.Raw(t, "t", 0, raw)))
	ok(t, w.Close(&format.End{Records: 5}))
	in := b.Bytes()
	for _, args := range [][]string{{"--value", "x"}, {"--offset", "10..12"}, {"--to", "json", "--tombstones"}, {"--mask", "key=null"}} {
		out, err := run(t, in, args...)
		const want = "standard input: t/0: batch of offsets 10 to 14: record batch at offset 10: too large: it holds more than 268435456 bytes"
		if command.StatusOf(err) != command.Failed || err.Error() != want || !strings.Contains(command.HintOf(err), "passed on whole") {
			t.Errorf("%q: status %d, %v", args, command.StatusOf(err), err)
		}
		if bytes.Contains(out, []byte("\x63end")) {
			t.Errorf("%q: there is an end", args)
		}
	}
	if out, err := run(t, in, "-t", "t"); err != nil || places(t, out) != "t/0:10-14" {
		t.Errorf("whole: %v", err)
	}
}

// TestBatchesToJSON has no batches in lines, and records when they come back.
func TestBatchesToJSON(t *testing.T) {
	records := many(100)
	lines, err := run(t, inBatches(t, "snappy", records...), "--to", "json")
	ok(t, err)
	if bytes.Contains(lines, []byte("batch")) || !bytes.Contains(lines, []byte(`"content":"records"`)) {
		t.Errorf("there are batches in %.500s", lines)
	}
	back, err := run(t, lines, "--from", "json")
	if err != nil || !bytes.Equal(back, streamOf(t, records...)) {
		t.Errorf("back: %v", err)
	}
	edited := bytes.Replace(lines, []byte(`"content":"records"`), []byte(`"content":"batches"`), 1)
	if _, err := run(t, edited, "--from", "json"); command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), "line 1: lines of JSON hold records") {
		t.Errorf("lines of batches: %v", err)
	}
}
