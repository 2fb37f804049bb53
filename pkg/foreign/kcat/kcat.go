// Package kcat reads the lines of kcat -C -J: one JSON object for each record.
package kcat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/foreign"
)

// Format is that of kcat -J.
type Format struct{}

// maxLine bounds a line: a record of [foreign.MaxRecord] would be longer, but kcat's
// librdkafka reads no messages above 1 GB and hardly anybody has some of 100 MB.
const maxLine = 512 << 20

// Detect tells whether a tree is files of such lines.
func Detect(ctx context.Context, t *foreign.Tree) bool {
	if len(t.Objects) == 0 {
		return false
	}
	head, err := t.Head(ctx, t.Objects[0].Path, 1<<16)
	if err != nil {
		return false
	}
	line, _, whole := bytes.Cut(head, []byte("\n"))
	return whole && isLine(line) || !whole && bytes.HasPrefix(head, []byte(`{"topic":"`))
}

func isLine(line []byte) bool {
	var f map[string]json.RawMessage
	if json.Unmarshal(bytes.ToValidUTF8(line, nil), &f) != nil {
		return false
	}
	for _, name := range []string{"topic", "partition", "offset", "payload"} {
		if f[name] == nil {
			return false
		}
	}
	return true
}

// Stdin is the path of standard input in a [foreign.Tree]: it cannot be read twice.
const Stdin = "-"

// List implements [foreign.Format]. Every file counts, and may hold several partitions; it
// reads them all to know how many partitions there are.
func (f Format) List(ctx context.Context, t *foreign.Tree) (*foreign.Backup, error) {
	b := &foreign.Backup{Tool: "kcat", Notes: []string{"how many partitions a topic has was not stored: it is taken to be as many as there are records of"}}
	partitions := make(map[string]int)
	for _, o := range t.Objects {
		file := foreign.File{Path: o.Path}
		b.Mixed = append(b.Mixed, file)
		if o.Path == Stdin {
			b.Notes = []string{"how many partitions a topic has is not known from standard input"}
			continue
		}
		err := f.Read(ctx, t, &file, foreign.Out{Record: func(r *format.Record) error {
			partitions[r.Topic] = max(partitions[r.Topic], int(r.Partition)+1)
			return nil
		}})
		if err != nil && !errors.Is(err, foreign.ErrDamaged) { // damage is told when it is read for good
			return nil, err
		}
	}
	if len(b.Mixed) == 0 {
		return nil, errors.New("no files")
	}
	for name, n := range partitions {
		b.Topics = append(b.Topics, format.Topic{Name: name, Partitions: n})
	}
	b.Sort()
	return b, nil
}

// line is what a line has. Keys and values are left as they are: kcat copies bytes that
// are no UTF-8 into its JSON, and a parser of JSON would replace them.
type line struct {
	topic, stampType  []byte
	partition, offset int64
	stamp             int64
	headers           []format.RecordHeader
	key, payload      []byte
	has               uint8
}

const (
	hasTopic = 1 << iota
	hasPartition
	hasOffset
	hasPayload
)

// Read implements [foreign.Format].
func (Format) Read(ctx context.Context, t *foreign.Tree, f *foreign.File, out foreign.Out) error {
	file, err := t.Open(ctx, f.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	in := bufio.NewReaderSize(file, 1<<20)
	var long []byte
	for n := 1; ; n++ {
		text, err := readLine(in, &long)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return foreign.Damaged(f.Path, "line %d: %v", n, err)
		}
		rec, err := parse(text)
		if err != nil {
			return foreign.Damaged(f.Path, "line %d: %v", n, err)
		}
		if err := out.Record(rec); err != nil {
			return err
		}
	}
}

// readLine returns the next line without its end. One that the file ends in is cut short:
// kcat ends every line.
func readLine(in *bufio.Reader, long *[]byte) ([]byte, error) {
	*long = (*long)[:0]
	for {
		part, err := in.ReadSlice('\n')
		switch {
		case err == nil && len(*long) == 0:
			return part[:len(part)-1], nil
		case err == nil:
			*long = append(*long, part...)
			return (*long)[:len(*long)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
			if *long = append(*long, part...); len(*long) > maxLine {
				return nil, fmt.Errorf("it is longer than %d bytes", maxLine)
			}
		case errors.Is(err, io.EOF) && len(part)+len(*long) == 0:
			return nil, io.EOF
		case errors.Is(err, io.EOF):
			return nil, errors.New("the file ends in it")
		default:
			return nil, err
		}
	}
}

func parse(text []byte) (*format.Record, error) {
	l, err := scan(text)
	if err != nil {
		return nil, err
	}
	if l.has != hasTopic|hasPartition|hasOffset|hasPayload {
		return nil, errors.New("it lacks topic, partition, offset or payload")
	}
	if l.partition < 0 || l.partition > 1<<31-1 || l.offset < 0 {
		return nil, fmt.Errorf("partition %d, offset %d", l.partition, l.offset)
	}
	rec := &format.Record{
		Topic: string(l.topic), Partition: int32(l.partition), Offset: l.offset, Timestamp: l.stamp,
		Key: l.key, Value: l.payload, Headers: l.headers,
	}
	switch string(l.stampType) {
	case "logappend":
		rec.Attributes = format.LogAppendTime
	case "create", "unknown", "":
	default:
		return nil, fmt.Errorf("timestamp type %q", l.stampType)
	}
	return rec, nil
}

// scan takes a line apart.
func scan(text []byte) (*line, error) {
	s := &scanner{b: text}
	l := &line{stamp: -1}
	s.expect('{')
	for first := true; s.err == nil && !s.accept('}'); first = false {
		if !first {
			s.expect(',')
		}
		name := s.text()
		s.expect(':')
		if s.err != nil {
			break
		}
		switch string(name) {
		case "topic":
			l.topic, l.has = s.text(), l.has|hasTopic
		case "partition":
			l.partition, l.has = s.number(), l.has|hasPartition
		case "offset":
			l.offset, l.has = s.number(), l.has|hasOffset
		case "tstype":
			l.stampType = s.text()
		case "ts":
			l.stamp = s.number()
		case "broker":
			s.number()
		case "headers":
			l.headers = s.headers()
		case "key":
			l.key = s.nullable("key")
		case "payload":
			l.payload, l.has = s.nullable("payload"), l.has|hasPayload
		default:
			s.fail("field %q, which kcat -J does not write", name)
		}
	}
	if s.err == nil && strings.TrimSpace(string(s.b[s.i:])) != "" {
		s.fail("text behind the object")
	}
	return l, s.err
}
