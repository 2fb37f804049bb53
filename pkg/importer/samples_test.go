package importer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/foreign"
)

// dirTree is a local folder as a tree, without rclone.
func dirTree(t *testing.T, dir string) *foreign.Tree {
	t.Helper()
	root := os.DirFS(dir)
	tree := &foreign.Tree{Open: func(_ context.Context, path string) (io.ReadCloser, error) { return root.Open(path) }}
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			tree.Objects = append(tree.Objects, foreign.Object{Path: path, Size: info.Size()})
		}
		return err
	})
	if err != nil || len(tree.Objects) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(tree.Objects), err)
	}
	tree.Sort()
	return tree
}

// read is what a run has written.
type read struct {
	header  *format.Header
	records []format.Record
	marks   map[string][]string
	groups  map[string]map[string]map[int32]int64
	topics  map[string]format.Topic
	end     *format.End
	err     error
	log     string
}

// run imports, and reads the stream, which has to be whole where the run did not fail.
func run(t *testing.T, cfg Config) read {
	t.Helper()
	var out, log bytes.Buffer
	if cfg.Transfers == 0 {
		cfg.Transfers = 3
	}
	env := &command.Env{Name: "test", Log: slog.New(slog.NewTextHandler(&log, nil))}
	r := read{marks: make(map[string][]string), groups: make(map[string]map[string]map[int32]int64), topics: make(map[string]format.Topic)}
	r.err = Run(t.Context(), cfg, env, &out)
	r.log = log.String()
	if s := command.StatusOf(r.err); s != command.OK && s != command.Loss {
		return r
	}
	d := format.NewReader(&out, 0)
	var err error
	if r.header, err = d.Header(); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := d.Next()
		if err == io.EOF {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		switch f.Kind {
		case format.KindRec:
			var rec format.Record
			if err := f.Record(&rec); err != nil {
				t.Fatal(err)
			}
			r.records = append(r.records, clone(rec))
		case format.KindMark:
			m, err := format.DecodeMark(f.Raw)
			if err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprint(m.Next)
			if m.Begins {
				text = "begins " + text
			}
			if len(m.Lost) > 0 {
				text += fmt.Sprint(" lost ", m.Lost)
			}
			key := fmt.Sprintf("%s/%d", m.Topic, m.Partition)
			r.marks[key] = append(r.marks[key], text)
		case format.KindTopic:
			topic, err := format.DecodeTopic(f.Raw)
			if err != nil {
				t.Fatal(err)
			}
			r.topics[topic.Name] = *topic
		case format.KindGroup:
			g, err := format.DecodeGroup(f.Raw)
			if err != nil {
				t.Fatal(err)
			}
			r.groups[g.ID] = make(map[string]map[int32]int64)
			for topic, offsets := range g.Offsets {
				r.groups[g.ID][topic] = make(map[int32]int64)
				for n, o := range offsets {
					r.groups[g.ID][topic][n] = o.Offset
				}
			}
		case format.KindEnd:
			if r.end, err = format.DecodeEnd(f.Raw); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func clone(r format.Record) format.Record {
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	var headers []format.RecordHeader
	for _, h := range r.Headers {
		headers = append(headers, format.RecordHeader{Name: bytes.Clone(h.Name), Value: bytes.Clone(h.Value)})
	}
	r.Headers = headers
	return r
}

// truth is what was in Kafka.
func truth(t *testing.T, name string) (out []format.Record) {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	defer func() {
		if err := s.Err(); err != nil {
			t.Fatal(err)
		}
	}()
	for s.Scan() {
		var l struct {
			Topic      string
			Partition  int32
			Offset, TS int64
			TSType     string
			Key, Value []byte
			Headers    [][2]json.RawMessage
		}
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		r := format.Record{Topic: l.Topic, Partition: l.Partition, Offset: l.Offset, Timestamp: l.TS, Key: l.Key, Value: l.Value}
		if l.TSType != "create" {
			r.Attributes = format.LogAppendTime
		}
		for _, h := range l.Headers {
			var name string
			var value []byte
			if err := json.Unmarshal(h[0], &name); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(h[1], &value); err != nil {
				t.Fatal(err)
			}
			r.Headers = append(r.Headers, format.RecordHeader{Name: []byte(name), Value: value})
		}
		out = append(out, r)
	}
	return out
}

// A loss is what a tool is known to do to a record.
type loss func(*format.Record)

func noTimeType(r *format.Record) { r.Attributes = 0 }

// noTime is for what has no time that could be compared: OSO stores the producer's time
// of records whose topic has LogAppendTime.
func noBrokerTime(r *format.Record) {
	if r.Topic == "lat" {
		r.Timestamp = 0
	}
}

func nullHeadersEmpty(r *format.Record) {
	for i := range r.Headers {
		if r.Headers[i].Value == nil {
			r.Headers[i].Value = []byte{}
		}
	}
}

// lastHeaderOfName keeps the last value of each name, at the place of the first.
func lastHeaderOfName(r *format.Record) {
	var out []format.RecordHeader
	for _, h := range r.Headers {
		i := slices.IndexFunc(out, func(o format.RecordHeader) bool { return bytes.Equal(o.Name, h.Name) })
		if i < 0 {
			out = append(out, h)
		} else {
			out[i].Value = h.Value
		}
	}
	r.Headers = out
}

func headersByName(r *format.Record) {
	slices.SortFunc(r.Headers, func(a, b format.RecordHeader) int { return bytes.Compare(a.Name, b.Name) })
}

var (
	ofOSO      = []loss{noTimeType, noBrokerTime, lastHeaderOfName, nullHeadersEmpty}
	ofDataKeep = []loss{noTimeType, lastHeaderOfName, nullHeadersEmpty, headersByName}
	ofHandy    = []loss{noTimeType}
)

// show is a record as text, with everything in it.
func show(r format.Record, losses []loss) string {
	r = clone(r)
	for _, l := range losses {
		l(&r)
	}
	out := fmt.Sprintf("%s/%d:%d t=%d a=%d k=%s v=%s", r.Topic, r.Partition, r.Offset, r.Timestamp, r.Attributes, quote(r.Key), quote(r.Value))
	for _, h := range r.Headers {
		out += fmt.Sprintf(" %q=%s", h.Name, quote(h.Value))
	}
	return out
}

// quote tells null from empty, and does not show what is long.
func quote(b []byte) string {
	switch {
	case b == nil:
		return "null"
	case len(b) > 300:
		return fmt.Sprintf("%d bytes, %x", len(b), sha256.Sum256(b))
	}
	return fmt.Sprintf("%q", b)
}

// TestSamples imports the backups that the tools themselves have made, and holds every
// record against what was in Kafka.
func TestSamples(t *testing.T) {
	all := []string{"sample", "orders", "lat", "big", "txn", "compact", "trimmed", "incr"}
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(n string) bool { return slices.Contains(names, n) })
	}
	keys := [][]byte{[]byte("0123456789abcdefghijklmnopqrstuv"), []byte("vutsrqponmlkjihgfedcba9876543210")}
	for _, c := range []struct {
		sample, format string
		topics         []string // whose records are there
		truth          string
		losses         []loss
		count          int // of records
		says           []string
		lost           []string // the run ends with these
	}{
		{sample: "oso-zstd", format: "oso", topics: without("incr"), truth: "uncommitted", losses: ofOSO, says: []string{"left out 3 transaction markers stored as records"}},
		{sample: "oso-lz4", format: "oso", topics: without("incr"), truth: "uncommitted", losses: ofOSO},
		{sample: "oso-none", format: "oso", topics: without("incr"), truth: "uncommitted", losses: ofOSO},
		{sample: "oso-zstd-headers", format: "oso", topics: without("incr"), truth: "uncommitted", losses: ofOSO},
		{sample: "oso-small-segments", format: "oso", topics: without("incr"), truth: "uncommitted", losses: ofOSO},
		{sample: "oso-incremental", format: "oso", topics: []string{"incr"}, truth: "uncommitted", losses: ofOSO},
		{sample: "oso-rerun", format: "oso", topics: []string{"incr"}, truth: "uncommitted", losses: ofOSO, says: []string{"the manifest does not name", "doubled record"}},
		{sample: "dk-prefix", format: "data-keep", topics: all, truth: "uncommitted", losses: ofDataKeep},
		{sample: "dk-noprefix", format: "data-keep", topics: []string{"orders", "incr"}, truth: "uncommitted", losses: ofDataKeep},
		{sample: "handy-plain", format: "handy", topics: without("big", "txn"), truth: "committed", losses: ofHandy},
		{sample: "handy-bz2", format: "handy", topics: without("txn"), truth: "committed", losses: ofHandy},
		{sample: "handy-aes", format: "handy", topics: without("big", "txn"), truth: "committed", losses: ofHandy},
		{sample: "handy-chunks", format: "handy", topics: without("big", "txn"), truth: "committed", losses: ofHandy},
		{sample: "handy-txn", format: "handy", topics: []string{"txn"}, truth: "committed", losses: ofHandy, says: []string{"it may be of a transaction marker"}},
		{sample: "handy-big", format: "handy", topics: []string{"big"}, truth: "committed", losses: ofHandy, count: 1, lost: []string{"big/0: offsets 1 to 2 were to be in the backup, and are not"}},
		{sample: "kcat-json", format: "kcat", topics: all, truth: "committed"},
	} {
		t.Run(c.sample, func(t *testing.T) {
			tree := dirTree(t, filepath.Join("testdata/samples", c.sample))
			if got := Detect(t.Context(), tree); got != c.format {
				t.Errorf("detected as %q", got)
			}
			i := slices.IndexFunc(formats, func(f known) bool { return f.name == c.format })
			r := run(t, Config{Format: formats[i].format(keys), Tree: tree})
			want := command.OK
			if len(c.lost) > 0 {
				want = command.Loss
			}
			if got := command.StatusOf(r.err); got != want {
				t.Fatalf("status %d, %v\n%s", got, r.err, r.log)
			}
			if !slices.Equal(r.end.Losses, c.lost) {
				t.Errorf("lost %q", r.end.Losses)
			}
			for _, s := range c.says {
				if !strings.Contains(r.log, s) {
					t.Errorf("it does not say %q:\n%s", s, r.log)
				}
			}
			compare(t, r, truth(t, "truth-"+c.truth+".jsonl"), c.topics, c.losses, c.count)
		})
	}
}

// compare wants the records of the topics, in their order, and no others but those of the
// topic that is not in the truth. A backup may have been made before its topic grew.
func compare(t *testing.T, r read, all []format.Record, topics []string, losses []loss, count int) {
	t.Helper()
	got := make(map[string][]string)
	for _, rec := range r.records {
		if rec.Topic == "badname" {
			continue
		}
		key := fmt.Sprintf("%s/%d", rec.Topic, rec.Partition)
		got[key] = append(got[key], show(rec, losses))
	}
	want := make(map[string][]string)
	for _, rec := range all {
		if key := fmt.Sprintf("%s/%d", rec.Topic, rec.Partition); slices.Contains(topics, rec.Topic) {
			want[key] = append(want[key], show(rec, losses))
		}
	}
	for key, w := range want {
		g := got[key]
		if count > 0 {
			w = w[:count]
		}
		if key == "incr/0" && len(g) >= 20 && len(g) < len(w) {
			w = w[:len(g)]
		}
		for i := range max(len(g), len(w)) {
			switch {
			case i >= len(g):
				t.Fatalf("%s: %d records, and not %d: %s is missing", key, len(g), len(w), w[i])
			case i >= len(w):
				t.Fatalf("%s: one too many: %s", key, g[i])
			case g[i] != w[i]:
				t.Fatalf("%s:\ngot  %s\nwant %s", key, g[i], w[i])
			}
		}
		delete(got, key)
	}
	for key := range got {
		t.Errorf("records of %s", key)
	}
}
