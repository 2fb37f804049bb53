package importer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/foreign"
	"github.com/kbkio/kbk/pkg/foreign/connects3"
	"github.com/kbkio/kbk/pkg/foreign/datakeep"
	"github.com/kbkio/kbk/pkg/foreign/handy"
	"github.com/kbkio/kbk/pkg/foreign/kcat"
	"github.com/kbkio/kbk/pkg/foreign/oso"
	"github.com/kbkio/kbk/pkg/partitions"
)

// files is a tree in memory.
func files(content map[string]string) *foreign.Tree {
	tree := &foreign.Tree{Open: func(_ context.Context, path string) (io.ReadCloser, error) {
		data, ok := content[path]
		if !ok {
			return nil, fmt.Errorf("no file %s", path)
		}
		return io.NopCloser(strings.NewReader(data)), nil
	}}
	for path, data := range content {
		tree.Objects = append(tree.Objects, foreign.Object{Path: path, Size: int64(len(data))})
	}
	tree.Sort()
	return tree
}

// load is a local folder as a tree in memory.
func load(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := dirTree(t, dir)
	content := make(map[string]string)
	for _, o := range tree.Objects {
		data, err := tree.ReadFile(t.Context(), o.Path, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		content[o.Path] = string(data)
	}
	return content
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		from, next int64
		lost       [][2]int64
		want       []stretch
	}{
		{3, 3, nil, nil},
		{3, 7, nil, []stretch{{7, false}}},
		{0, 12, [][2]int64{{0, 12}}, []stretch{{12, true}}},
		{0, 12, [][2]int64{{0, 20}}, []stretch{{12, true}}},
		{3, 12, [][2]int64{{0, 5}, {7, 9}}, []stretch{{5, true}, {7, false}, {9, true}, {12, false}}},
		{3, 12, [][2]int64{{0, 3}, {12, 15}}, []stretch{{12, false}}},
	} {
		if got := split(c.from, c.next, c.lost); !slices.Equal(got, c.want) {
			t.Errorf("[%d, %d) without %d: %v, want %v", c.from, c.next, c.lost, got, c.want)
		}
	}
}

// A scripted format has the offsets of each file in its content, and - where it is
// damaged.
type scripted struct{ backup *foreign.Backup }

func (s scripted) List(context.Context, *foreign.Tree) (*foreign.Backup, error) { return s.backup, nil }

func (s scripted) Read(ctx context.Context, t *foreign.Tree, f *foreign.File, out foreign.Out) error {
	data, err := t.ReadFile(ctx, f.Path, 1<<20)
	if err != nil {
		return err
	}
	for _, word := range strings.Fields(string(data)) {
		var n int64
		if word == "-" {
			return foreign.Damaged(f.Path, "as scripted")
		}
		if marker, ok := strings.CutPrefix(word, "m"); ok {
			if _, err := fmt.Sscan(marker, &n); err != nil {
				return err
			}
			if err := out.Marker(f.Topic, f.Partition, n); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Sscan(word, &n); err != nil {
			return err
		}
		if err := out.Record(&format.Record{Topic: "t", Partition: f.Partition, Offset: n, Timestamp: 1000 + n, Value: []byte(f.Path)}); err != nil {
			return err
		}
	}
	return nil
}

// TestMerge reads files that follow one another, overlap, leave something out, are
// damaged, and end too early.
func TestMerge(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   []string // of partition 0, in the order of their first offsets
		lost    [][2]int64
		end     int64
		slack   int64
		cfg     Config
		records string // offsets, and the file that each is from
		marks   string
		status  int
		says    string
	}{
		{name: "one file with gaps", files: []string{"0 1 5"}, records: "0a 1a 5a", marks: "0, 6"},
		{name: "files that meet", files: []string{"3 4", "5 6"}, records: "3a 4a 5b 6b", marks: "3, 7"},
		{name: "a hole between files", files: []string{"0 1", "4"}, records: "0a 1a 4b", marks: "0, 2, begins 4, 5", says: "found 1 range of offsets between two files"},
		{name: "a hole that was lost", files: []string{"0 1", "4"}, lost: [][2]int64{{2, 4}}, records: "0a 1a 4b", marks: "0, 4 lost [[2 4]], 5", status: command.Loss, says: "t/0: offsets 2 to 3 were deleted before"},
		{name: "lost before the first", files: []string{"4"}, lost: [][2]int64{{0, 4}}, records: "4a", marks: "0, 4 lost [[0 4]], 5", status: command.Loss},
		{name: "lost behind the last", files: []string{"0"}, lost: [][2]int64{{1, 4}}, records: "0a", marks: "0, 4 lost [[1 4]], 4", status: command.Loss},
		{name: "a marker between", files: []string{"0 m1", "2"}, records: "0a 2b", marks: "0, 3", says: "left out 1 transaction marker"},
		{name: "read again, with more", files: []string{"0 1 2", "0 1 2 3"}, records: "0a 1a 2a 3b", marks: "0, 4", says: "left out 3 doubled records"},
		{name: "one inside another", files: []string{"0 2 4", "1 2 3 4 5"}, records: "0a 1b 2a 3b 4a 5b", marks: "0, 6"},
		{name: "damaged", files: []string{"0 1 -", "2"}, status: command.Corrupt},
		{name: "damaged, and passed over", files: []string{"0 1 -", "3"}, cfg: Config{SkipDamaged: true}, records: "0a 1a 3b", marks: "0, 2, begins 3, 4", status: command.Loss, says: "a: damaged: as scripted"},
		{name: "backwards", files: []string{"1 0"}, status: command.Corrupt},
		{name: "less than was promised", files: []string{"0 1"}, end: 5, slack: 1, records: "0a 1a", marks: "0, 2", status: command.Loss, says: "t/0: offsets 2 to 4 were to be in the backup, and are not"},
		{name: "less by what may be a marker", files: []string{"0 1"}, end: 3, slack: 1, records: "0a 1a", marks: "0, 2", says: "it may be of a transaction marker"},
		{name: "the same, strictly", files: []string{"0 1"}, end: 3, slack: 1, cfg: Config{Strict: true}, records: "0a 1a", marks: "0, 2", status: command.Loss},
		{name: "none of what was promised", end: 5, status: command.Loss, says: "t/0: none of its records is there"},
		{name: "from an offset", files: []string{"0 1", "2 3"}, lost: [][2]int64{{0, 1}}, cfg: Config{From: 1}, records: "1a 2b 3b", marks: "1, 4"},
		{name: "to an offset", files: []string{"0 1", "2 3", "4 5"}, end: 9, cfg: Config{To: 3}, records: "0a 1a 2b", marks: "0, 3"},
		{name: "since a time", files: []string{"0 1", "2 3"}, cfg: Config{Since: at(1002)}, records: "2b 3b", marks: "0, 4"},
	} {
		b := &foreign.Backup{Tool: "test", Partitions: []foreign.Partition{{Topic: "t", Lost: c.lost, End: c.end, Slack: c.slack}}}
		content := map[string]string{"z": ""}
		for i, data := range c.files {
			name := string(rune('a' + i))
			content[name] = data
			var first int64
			fmt.Sscan(strings.TrimPrefix(data, "m"), &first)
			b.Partitions[0].Files = append(b.Partitions[0].Files, foreign.File{Path: name, Topic: "t", First: first})
		}
		for _, transfers := range []int{1, 4} {
			cfg := c.cfg
			cfg.Format, cfg.Tree, cfg.Transfers = scripted{b}, files(content), transfers
			r := run(t, cfg)
			if got := command.StatusOf(r.err); got != c.status {
				t.Errorf("%s: status %d, %v", c.name, got, r.err)
				continue
			}
			if !strings.Contains(r.log, c.says) {
				t.Errorf("%s: it does not say %q:\n%s", c.name, c.says, r.log)
			}
			if c.status == command.Corrupt {
				continue
			}
			var got []string
			for _, rec := range r.records {
				got = append(got, fmt.Sprint(rec.Offset, string(rec.Value)))
			}
			if strings.ReplaceAll(strings.Join(got, ","), " ", "") != strings.ReplaceAll(c.records, " ", ",") {
				t.Errorf("%s: records %s, want %s", c.name, got, c.records)
			}
			if marks := strings.Join(r.marks["t/0"], ", "); marks != c.marks {
				t.Errorf("%s: marks %s, want %s", c.name, marks, c.marks)
			}
		}
	}
}

func at(ms int64) *time.Time {
	t := time.UnixMilli(ms)
	return &t
}

// TestMergeOfAny cuts a partition into files that overlap at random, and wants each of its
// records once.
func TestMergeOfAny(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		b := &foreign.Backup{Tool: "test", Partitions: []foreign.Partition{{Topic: "t"}}}
		content := make(map[string]string)
		want := make(map[int64]bool)
		for i := range 1 + rnd.IntN(6) {
			var words []string
			first := int64(rnd.IntN(20))
			for n := first; n < first+1+int64(rnd.IntN(10)); n++ {
				if n == first || rnd.IntN(4) > 0 {
					words = append(words, fmt.Sprint(n))
					want[n] = true
				}
			}
			name := fmt.Sprint("f", i)
			content[name] = strings.Join(words, " ")
			b.Partitions[0].Files = append(b.Partitions[0].Files, foreign.File{Path: name, Topic: "t", First: first})
		}
		b.Sort()
		r := run(t, Config{Format: scripted{b}, Tree: files(content), Transfers: 1 + rnd.IntN(4)})
		if r.err != nil {
			t.Fatal(r.err)
		}
		last := int64(-1)
		for _, rec := range r.records {
			if rec.Offset <= last || !want[rec.Offset] {
				t.Fatalf("offset %d behind %d, of %v", rec.Offset, last, content)
			}
			last = rec.Offset
			delete(want, rec.Offset)
		}
		if len(want) > 0 {
			t.Fatalf("%v are missing, of %v", want, content)
		}
	}
}

func TestGroupsOfSamples(t *testing.T) {
	for sample, want := range map[string]map[string]map[string]map[int32]int64{
		"oso-zstd": {
			"g1": {"orders": {0: 11, 1: 20}, "sample": {0: 5, 1: 7, 2: 19}}, // 20 is past the end of sample/2
			"g2": {"txn": {0: 4}, "lat": {0: 3}},
		},
	} {
		r := run(t, Config{Format: oso.Format{}, Tree: dirTree(t, "testdata/samples/"+sample)})
		for id, offsets := range want {
			if !reflect.DeepEqual(r.groups[id], offsets) {
				t.Errorf("%s: group %s: %v, want %v", sample, id, r.groups[id], offsets)
			}
		}
	}
	r := run(t, Config{Format: handy.Format{}, Tree: dirTree(t, "testdata/samples/handy-plain")})
	if _, own := r.groups["kafka-backup-topic"]; own || r.groups["g2"]["lat"][0] != 3 {
		t.Errorf("handy-plain: %v", r.groups)
	}
	if topic := r.topics["sample"]; topic.Partitions != 3 || topic.ReplicationFactor != 1 {
		t.Errorf("handy-plain: %+v", topic)
	}
	r = run(t, Config{Format: datakeep.Format{}, Tree: dirTree(t, "testdata/samples/dk-prefix")})
	if r.groups["g2"]["lat"][0] != 3 {
		t.Errorf("dk-prefix: %v", r.groups)
	}
	if topic := r.topics["sample"]; topic.Partitions != 3 {
		t.Errorf("dk-prefix: %+v", topic)
	}
}

// TestNamesThatAreNoUTF8: data-keep and kcat keep them; handy stops before.
func TestNamesThatAreNoUTF8(t *testing.T) {
	dk := run(t, Config{Format: datakeep.Format{}, Tree: dirTree(t, "testdata/samples/dk-badname")})
	kc := run(t, Config{Format: kcat.Format{}, Tree: dirTree(t, "testdata/samples/kcat-json"), Selection: partitions.Selection{Topics: []string{"badname"}}})
	for tool, r := range map[string]read{"data-keep": dk, "kcat": kc} {
		if r.err != nil || len(r.records) != 3 || len(r.records[1].Headers) != 1 || string(r.records[1].Headers[0].Name) != "bad\xff\xfe" {
			t.Errorf("%s: %v, %d records, %q", tool, r.err, len(r.records), r.records[1].Headers)
		}
	}
	h := run(t, Config{Format: handy.Format{}, Tree: dirTree(t, "testdata/samples/handy-badname")})
	if command.StatusOf(h.err) != command.Loss || len(h.records) != 1 || !strings.Contains(h.log, "badname/0: offsets 1 to 2 were to be in the backup, and are not") {
		t.Errorf("handy: %v, %d records\n%s", h.err, len(h.records), h.log)
	}
}

func TestStrict(t *testing.T) {
	r := run(t, Config{Format: oso.Format{}, Tree: dirTree(t, "testdata/samples/oso-zstd"), Strict: true})
	if command.StatusOf(r.err) != command.Loss || !r.end.Lost {
		t.Fatalf("%v, end %+v", r.err, r.end)
	}
	all := strings.Join(r.end.Losses, "\n")
	for _, want := range []string{"records with headers: of headers of one name only the last was stored", "left out 3 transaction markers", "of consumer groups, past the end of the backup, to the end"} {
		if !strings.Contains(all, want) {
			t.Errorf("it does not say %q:\n%s", want, all)
		}
	}
}

func TestSelection(t *testing.T) {
	tree := dirTree(t, "testdata/samples/oso-zstd")
	r := run(t, Config{Format: oso.Format{}, Tree: tree, Selection: partitions.Selection{Topics: []string{"orders:1"}}})
	if r.err != nil || len(r.records) != 20 || len(r.topics) != 1 || len(r.marks) != 1 {
		t.Errorf("%v: %d records, topics %v, marks %v", r.err, len(r.records), r.topics, r.marks)
	}
	r = run(t, Config{Format: oso.Format{}, Tree: tree, Selection: partitions.Selection{Topics: []string{"nothing"}}})
	if command.StatusOf(r.err) != command.Failed || !strings.Contains(r.err.Error(), `topic "nothing" is not there`) {
		t.Errorf("a topic that is not there: %v", r.err)
	}
}

// TestManifestWithoutFile: a segment that the manifest names and that is gone is a loss.
func TestManifestWithoutFile(t *testing.T) {
	content := load(t, "testdata/samples/oso-small-segments")
	delete(content, "nightly/topics/orders/partition=0/segment-00000000000000000007.bin.zst")
	r := run(t, Config{Format: oso.Format{}, Tree: files(content)})
	if command.StatusOf(r.err) != command.Loss || !strings.Contains(r.log, "orders/0: offsets 7 to 13: the manifest names") {
		t.Errorf("%v\n%s", r.err, r.log)
	}
	if got := strings.Join(r.marks["orders/0"], ", "); got != "0, 7, begins 14, 20" {
		t.Errorf("marks %s", got)
	}
}

// TestDamage flips and cuts every file of a backup: OSO's checksum tells it all, and what
// has none fails, or gives no record that was not there.
func TestDamage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	content := load(t, "testdata/samples/oso-small-segments")
	whole := run(t, Config{Format: oso.Format{}, Tree: files(content)})
	for path, data := range content {
		if !strings.Contains(path, "segment-") {
			continue
		}
		for range 3 {
			b := []byte(data)
			if rnd.IntN(2) == 0 {
				b = b[:rnd.IntN(len(b))]
			} else {
				b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
			}
			content[path] = string(b)
			r := run(t, Config{Format: oso.Format{}, Tree: files(content)})
			if command.StatusOf(r.err) != command.Corrupt || !strings.Contains(r.err.Error(), path) {
				t.Fatalf("%s: %v", path, r.err)
			}
			r = run(t, Config{Format: oso.Format{}, Tree: files(content), SkipDamaged: true})
			if command.StatusOf(r.err) != command.Loss || len(r.records) >= len(whole.records) {
				t.Fatalf("%s: %v, %d of %d records", path, r.err, len(r.records), len(whole.records))
			}
		}
		content[path] = data
	}
}

func TestHandyKeys(t *testing.T) {
	tree := dirTree(t, "testdata/samples/handy-aes")
	r := run(t, Config{Format: handy.Format{}, Tree: tree})
	if command.StatusOf(r.err) != command.Failed || !strings.Contains(r.err.Error(), "which --key-file does not give") {
		t.Errorf("without keys: %v", r.err)
	}
}

func TestKcatLines(t *testing.T) {
	line := func(topic string, partition int, offset int64, more string) string {
		return fmt.Sprintf(`{"topic":"%s","partition":%d,"offset":%d,"tstype":"create","ts":1,"broker":0%s,"key":null,"payload":""}`+"\n", topic, partition, offset, more)
	}
	for _, c := range []struct {
		name, text, want string
		status           int
	}{
		{"several partitions, mixed", line("t", 0, 0, "") + line("t", 1, 7, "") + line("t", 0, 1, ""), "t/0:0 t/1:7 t/0:1", command.OK},
		{"twice", line("t", 0, 0, "") + line("t", 0, 0, ""), "", command.Corrupt},
		{"cut short", line("t", 0, 0, "")[:40], "", command.Corrupt},
		{"without its last newline", strings.TrimSuffix(line("t", 0, 0, ""), "\n"), "", command.Corrupt},
		{"deserialized", strings.Replace(line("t", 0, 0, ""), `"payload":""`, `"payload":{"a":1}`, 1), "", command.Corrupt},
		{"headers", line("t", 0, 0, `,"headers":["a","1","a",null]`), "t/0:0 a=1 a=null", command.OK},
		{"no offset", `{"topic":"t","partition":0,"payload":null}` + "\n", "", command.Corrupt},
	} {
		r := run(t, Config{Format: kcat.Format{}, Tree: files(map[string]string{"f.jsonl": c.text})})
		if got := command.StatusOf(r.err); got != c.status {
			t.Errorf("%s: status %d, %v", c.name, got, r.err)
			continue
		}
		var got []string
		for _, rec := range r.records {
			got = append(got, fmt.Sprintf("%s/%d:%d", rec.Topic, rec.Partition, rec.Offset))
			for _, h := range rec.Headers {
				value := "null"
				if h.Value != nil {
					value = string(h.Value)
				}
				got = append(got, string(h.Name)+"="+value)
			}
		}
		if c.status == command.OK && strings.Join(got, " ") != c.want {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	// Files that continue one another, and two in the wrong order.
	two := map[string]string{"a.jsonl": line("t", 0, 0, "") + line("t", 0, 1, ""), "b.jsonl": line("t", 0, 1, "") + line("t", 0, 2, "")}
	if r := run(t, Config{Format: kcat.Format{}, Tree: files(two)}); r.err != nil || len(r.records) != 3 {
		t.Errorf("two files: %v, %d records", r.err, len(r.records))
	}
	two["a.jsonl"], two["b.jsonl"] = two["b.jsonl"], line("t", 0, 0, "")
	if r := run(t, Config{Format: kcat.Format{}, Tree: files(two)}); command.StatusOf(r.err) != command.Corrupt || !strings.Contains(r.err.Error(), "in the order of their offsets") {
		t.Errorf("two files in the wrong order: %v", r.err)
	}
}

// TestConnectS3 has values, keys and headers in files of their own, as the connector's
// JsonFormat writes them; of its store there is no sample that the connector itself wrote.
func TestConnectS3(t *testing.T) {
	zip := func(s string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	content := map[string]string{
		"topics/t/partition=0/t+0+0000000005.json":         `{"a":1}` + "\n" + `"text"` + "\n",
		"topics/t/partition=0/t+0+0000000005.keys.json":    `"k1"` + "\n" + `{"id":2}` + "\n",
		"topics/t/partition=0/t+0+0000000005.headers.json": `{"headers":[{"key":"h","value":"v"},{"key":"n","value":null}]}` + "\n" + `{"headers":[]}` + "\n",
		"topics/t/partition=0/t+0+0000000007.json.gz":      zip(`7` + "\n"),
		"topics/t/partition=0/t+0+0000000008.avro":         "Obj\x01",
	}
	tree := files(content)
	if got := Detect(t.Context(), tree); got != "connect-s3" {
		t.Errorf("detected as %q", got)
	}
	r := run(t, Config{Format: connects3.Format{}, Tree: tree})
	if command.StatusOf(r.err) != command.Loss || !strings.Contains(r.log, "files that end in .avro: 1; only those of JsonFormat can be read") {
		t.Fatalf("%v\n%s", r.err, r.log)
	}
	var got []string
	for _, rec := range r.records {
		got = append(got, show(rec, nil))
	}
	want := []string{
		`t/0:5 t=-1 a=0 k="k1" v="{\"a\":1}" "h"="v" "n"=null`,
		`t/0:6 t=-1 a=0 k="{\"id\":2}" v="\"text\""`,
		`t/0:7 t=-1 a=0 k=null v="7"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for name, bad := range map[string]string{
		"topics/t/partition=0/t+0+0000000005.keys.json":    `"k1"` + "\n",
		"topics/t/partition=0/t+0+0000000005.headers.json": "{}\n{}\n{}\n",
		"topics/t/partition=0/t+0+0000000005.json":         "{\n}\n",
	} {
		good := content[name]
		content[name] = bad
		if r := run(t, Config{Format: connects3.Format{}, Tree: files(content)}); command.StatusOf(r.err) != command.Corrupt {
			t.Errorf("%s is %q: %v", name, bad, r.err)
		}
		content[name] = good
	}
}

func TestDetectNothing(t *testing.T) {
	for name, content := range map[string]map[string]string{
		"text":            {"notes.txt": "hello\n"},
		"another JSON":    {"manifest.json": `{"version":1}`},
		"kbk's own":       {"log/x.json": "{}", "topics/t/partition=0/segment-1-2.cbor.zst": "x"},
		"half a manifest": {"manifest.json": `{"backup_id":"a"`},
	} {
		if got := Detect(t.Context(), files(content)); got != "" {
			t.Errorf("%s is taken for %s", name, got)
		}
	}
}
