// Package connects3 reads what Confluent's S3 sink connector wrote with its JsonFormat.
//
// Of a record it has the value as JSON text and, where the connector was told to store
// them, key and headers in files of their own. Only the offset of a file's first record is
// known; the others follow from it if no offset was left out.
package connects3

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/foreign"
)

// Format is that of the S3 sink connector's JsonFormat.
type Format struct{}

const (
	maxLine = 256 << 20
	noTime  = -1 // Kafka's "none" (RecordBatch.NO_TIMESTAMP)
)

// A kind of file holds a part of each record.
const (
	values  = ""
	keys    = "keys"
	headers = "headers"
)

// filePath takes …/T/…/T+P+START[.keys|.headers].json[.gz] apart.
func filePath(p string) (topic string, partition int32, first int64, kind string, ok bool) {
	name := path.Base(p)
	name = strings.TrimSuffix(name, ".gz")
	name, ok = strings.CutSuffix(name, ".json")
	if !ok {
		return "", 0, 0, "", false
	}
	for _, k := range []string{keys, headers} {
		if rest, found := strings.CutSuffix(name, "."+k); found {
			name, kind = rest, k
		}
	}
	parts := strings.Split(name, "+")
	if len(parts) != 3 {
		return "", 0, 0, "", false
	}
	n, err := strconv.ParseInt(parts[1], 10, 32)
	first, err2 := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || err2 != nil || n < 0 || first < 0 || parts[0] == "" {
		return "", 0, 0, "", false
	}
	return parts[0], int32(n), first, kind, true
}

// sinkPath tells the files of other format classes from those that are none.
func sinkPath(p string) bool {
	name, _, _ := strings.Cut(path.Base(p), ".")
	return strings.Count(name, "+") == 2
}

// Detect tells whether a tree is such a backup, in JSON or another format.
func Detect(_ context.Context, t *foreign.Tree) bool {
	return slices.ContainsFunc(t.Objects, func(o foreign.Object) bool { return sinkPath(o.Path) })
}

// List implements [foreign.Format].
func (Format) List(_ context.Context, t *foreign.Tree) (*foreign.Backup, error) {
	b := &foreign.Backup{Tool: "Confluent's S3 sink", Caveats: []foreign.Caveat{
		{Text: "without a time, and with offsets that were counted from the first of each file: the connector stores no others", Applies: foreign.All},
		{Text: "whose values are the JSON that the connector made of them, and not the bytes that were in Kafka", Applies: foreign.All},
		{Text: "some of which may be of aborted transactions, unless the connector was told to read committed ones", Applies: foreign.All},
		{Text: "with headers, whose values were turned into text", Applies: foreign.WithHeaders},
	}, Notes: []string{"how many partitions a topic has was not stored: it is taken to be as many as there are files of"}}
	others := make(map[string]int)
	for _, o := range t.Objects {
		topic, partition, first, kind, ok := filePath(o.Path)
		switch {
		case !ok && sinkPath(o.Path):
			others[path.Ext(strings.TrimSuffix(o.Path, ".gz"))]++
		case ok && kind == values:
			p := b.Partition(topic, partition)
			p.Files = append(p.Files, foreign.File{Path: o.Path, Topic: topic, Partition: partition, First: first})
		}
	}
	for ext, n := range others {
		b.Missing = append(b.Missing, fmt.Sprintf("files that end in %s: %d; only those of JsonFormat can be read", ext, n))
	}
	slices.Sort(b.Missing)
	if len(b.Partitions) == 0 {
		return nil, errors.New("no file of the form TOPIC+PARTITION+OFFSET.json")
	}
	b.Sort()
	return b, nil
}

// Read implements [foreign.Format].
func (Format) Read(ctx context.Context, t *foreign.Tree, f *foreign.File, out foreign.Out) error {
	value, err := open(ctx, t, f.Path)
	if err != nil {
		return err
	}
	defer value.Close()
	var beside [2]*lines
	for i, kind := range []string{keys, headers} {
		if p := sibling(t, f.Path, kind); p != "" {
			if beside[i], err = open(ctx, t, p); err != nil {
				return err
			}
			defer beside[i].Close()
		}
	}
	for n := int64(0); ; n++ {
		rec := format.Record{Topic: f.Topic, Partition: f.Partition, Offset: f.First + n, Timestamp: noTime}
		if rec.Value, err = value.next(); errors.Is(err, io.EOF) {
			for _, b := range beside {
				if b != nil {
					if _, err := b.next(); !errors.Is(err, io.EOF) {
						return foreign.Damaged(b.path, "it has more lines than %s", f.Path)
					}
				}
			}
			return nil
		} else if err != nil {
			return err
		}
		if !json.Valid(rec.Value) {
			return foreign.Damaged(f.Path, "line %d is not JSON", n+1)
		}
		if err := fill(&rec, beside[0], beside[1], f.Path); err != nil {
			return err
		}
		if err := out.Record(&rec); err != nil {
			return err
		}
	}
}

// fill adds the key and the headers that stand in files of their own.
func fill(rec *format.Record, key, header *lines, path string) error {
	if key != nil {
		text, err := key.next()
		if errors.Is(err, io.EOF) {
			return foreign.Damaged(key.path, "it has fewer lines than %s", path)
		} else if err != nil {
			return err
		}
		if rec.Key, err = keyOf(text); err != nil {
			return foreign.Damaged(key.path, "%v", err)
		}
	}
	if header == nil {
		return nil
	}
	text, err := header.next()
	if errors.Is(err, io.EOF) {
		return foreign.Damaged(header.path, "it has fewer lines than %s", path)
	} else if err != nil {
		return err
	}
	var line struct {
		Headers []struct {
			Key   string  `json:"key"`
			Value *string `json:"value"`
		} `json:"headers"`
	}
	if err := json.Unmarshal(text, &line); err != nil {
		return foreign.Damaged(header.path, "%v", err)
	}
	for _, h := range line.Headers {
		out := format.RecordHeader{Name: []byte(h.Key)}
		if h.Value != nil {
			out.Value = []byte(*h.Value)
		}
		rec.Headers = append(rec.Headers, out)
	}
	return nil
}

// keyOf is the text of a key that is a JSON string, and else the JSON.
func keyOf(text []byte) ([]byte, error) {
	var s *string
	if err := json.Unmarshal(text, &s); err == nil {
		if s == nil {
			return nil, nil
		}
		return []byte(*s), nil
	}
	if !json.Valid(text) {
		return nil, errors.New("a line is not JSON")
	}
	return text, nil
}

// sibling is the file of a kind beside one of values, "" where there is none.
func sibling(t *foreign.Tree, p, kind string) string {
	base := strings.TrimSuffix(strings.TrimSuffix(p, ".gz"), ".json")
	for _, ending := range []string{".json", ".json.gz"} {
		if name := base + "." + kind + ending; t.Has(name) {
			return name
		}
	}
	return ""
}

// lines reads a file by its lines.
type lines struct {
	path  string
	close []io.Closer
	in    *bufio.Scanner
}

func open(ctx context.Context, t *foreign.Tree, p string) (*lines, error) {
	f, err := t.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	l := &lines{path: p, close: []io.Closer{f}}
	var in io.Reader = f
	if strings.HasSuffix(p, ".gz") {
		z, err := gzip.NewReader(f)
		if err != nil {
			_ = f.Close()
			return nil, foreign.Damaged(p, "%v", err)
		}
		l.close = append(l.close, z)
		in = z
	}
	l.in = bufio.NewScanner(in)
	l.in.Buffer(make([]byte, 1<<16), maxLine)
	return l, nil
}

// next returns the next line, a copy, or io.EOF.
func (l *lines) next() ([]byte, error) {
	if l.in.Scan() {
		return slices.Clone(l.in.Bytes()), nil
	}
	if err := l.in.Err(); err != nil {
		return nil, foreign.Damaged(l.path, "%v", err)
	}
	return nil, io.EOF
}

// Close implements io.Closer.
func (l *lines) Close() error {
	var err error
	for _, c := range slices.Backward(l.close) {
		err = errors.Join(err, c.Close())
	}
	return err
}
