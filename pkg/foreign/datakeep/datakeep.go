// Package datakeep reads backups of kafka-data-keep: Avro files, and one of consumer
// groups.
package datakeep

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hamba/avro/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/foreign"
)

// Format is that of kafka-data-keep.
type Format struct{}

const (
	recordSchema = "KafkaRecord"
	groupSchema  = "ConsumerGroupOffsets"
)

// record is a record as the schema has it. Fields are found by their names.
type record struct {
	Key       *[]byte           `avro:"key"`
	Value     *[]byte           `avro:"value"`
	Headers   map[string][]byte `avro:"headers"`
	Topic     string            `avro:"topic"`
	Partition int32             `avro:"partition"`
	Timestamp int64             `avro:"timestamp"`
	Offset    int64             `avro:"offset"`
}

type groupOffsets struct {
	ID     string `avro:"group_id"`
	Topics []struct {
		Topic      string `avro:"topic"`
		Partitions []struct {
			Partition   int32   `avro:"partition"`
			Offset      int64   `avro:"offset"`
			LeaderEpoch *int32  `avro:"leader_epoch"`
			Metadata    *string `avro:"metadata"`
		} `avro:"partitions"`
	} `avro:"topics"`
}

// filePath takes …/T/P/T-P-OFFSET.avro apart.
func filePath(p string) (topic string, partition int32, first int64, ok bool) {
	dirs, ok := foreign.Parents(p, 2)
	if !ok {
		return "", 0, 0, false
	}
	name, isAvro := strings.CutSuffix(path.Base(p), ".avro")
	digits, ok := strings.CutPrefix(name, dirs[0]+"-"+dirs[1]+"-")
	n, err := strconv.ParseInt(dirs[1], 10, 32)
	first, err2 := strconv.ParseInt(digits, 10, 64)
	if !isAvro || !ok || len(digits) != 19 || err != nil || err2 != nil || n < 0 || first < 0 {
		return "", 0, 0, false
	}
	return dirs[0], int32(n), first, true
}

// Detect tells whether a tree is such a backup.
func Detect(ctx context.Context, t *foreign.Tree) bool {
	for _, o := range t.Objects {
		if _, _, _, ok := filePath(o.Path); ok {
			return isContainer(ctx, t, o.Path, recordSchema)
		}
	}
	for _, o := range t.Objects {
		if strings.HasSuffix(o.Path, ".avro") {
			return isContainer(ctx, t, o.Path, groupSchema)
		}
	}
	return false
}

func isContainer(ctx context.Context, t *foreign.Tree, path, schema string) bool {
	f, err := t.Open(ctx, path)
	if err != nil {
		return false
	}
	defer f.Close()
	c, err := openContainer(f)
	if err != nil {
		return false
	}
	defer c.close()
	return c.name == schema
}

// List implements [foreign.Format]. An Avro file of another name may hold the groups.
func (Format) List(ctx context.Context, t *foreign.Tree) (*foreign.Backup, error) {
	b := &foreign.Backup{Tool: "kafka-data-keep", Caveats: []foreign.Caveat{
		{Text: "with headers: their order was not stored (they are sorted by name now), of headers of one name only the last was, and null values as empty ones", Applies: foreign.WithHeaders},
		{Text: "with a time whose type was not stored: it is taken as the producer's", Applies: foreign.All},
		{Text: "some of which may be of aborted transactions: the tool stores those, and nothing tells which they are", Applies: foreign.All},
	}, Notes: []string{"partitions without records, and how many partitions a topic has, were not stored: it is taken to be as many as there are files of"}}
	for _, o := range t.Objects {
		topic, partition, first, ok := filePath(o.Path)
		if ok {
			p := b.Partition(topic, partition)
			p.Files = append(p.Files, foreign.File{Path: o.Path, Topic: topic, Partition: partition, First: first})
			continue
		}
		if strings.HasSuffix(o.Path, ".avro") && isContainer(ctx, t, o.Path, groupSchema) {
			if err := groups(ctx, t, o.Path, b); err != nil {
				return nil, err
			}
		}
	}
	if len(b.Partitions) == 0 && len(b.Groups) == 0 {
		return nil, errors.New("no file of the form TOPIC/PARTITION/TOPIC-PARTITION-OFFSET.avro, and none of consumer groups")
	}
	b.Sort()
	return b, nil
}

// each decodes the elements of a container into v, and calls do after each.
func each(ctx context.Context, t *foreign.Tree, path, schema string, v any, reset, do func() error) error {
	f, err := t.Open(ctx, path)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := openContainer(f)
	if err != nil {
		return foreign.Damaged(path, "%v", err)
	}
	defer c.close()
	if c.name != schema {
		return foreign.Damaged(path, "it holds %q, and not %q", c.name, schema)
	}
	for {
		block, n, err := c.next()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return foreign.Damaged(path, "%v", err)
		}
		if n > int64(len(block)) { // an element takes a byte at least
			return foreign.Damaged(path, "a block of %d bytes claims %d elements", len(block), n)
		}
		r := avro.NewReader(bytes.NewReader(block), 1<<12, avro.WithReaderConfig(decoding))
		for i := range n {
			if err := reset(); err != nil {
				return err
			}
			if r.ReadVal(c.schema, v); r.Error != nil {
				return foreign.Damaged(path, "element %d of a block: %v", i, r.Error)
			}
			if err := do(); err != nil {
				return err
			}
		}
	}
}

// Read implements [foreign.Format].
func (Format) Read(ctx context.Context, t *foreign.Tree, f *foreign.File, out foreign.Out) error {
	var r record
	return each(ctx, t, f.Path, recordSchema, &r, func() error { r = record{}; return nil }, func() error {
		if r.Topic != f.Topic || r.Partition != f.Partition || r.Offset < f.First {
			return foreign.Damaged(f.Path, "it holds offset %d of %s/%d", r.Offset, r.Topic, r.Partition)
		}
		rec := format.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp}
		if r.Key != nil {
			rec.Key = present(*r.Key)
		}
		if r.Value != nil {
			rec.Value = present(*r.Value)
		}
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			rec.Headers = append(rec.Headers, format.RecordHeader{Name: []byte(name), Value: present(r.Headers[name])})
		}
		return out.Record(&rec)
	})
}

// present is b, and never nil: it is empty, and not null.
func present(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func groups(ctx context.Context, t *foreign.Tree, path string, b *foreign.Backup) error {
	var g groupOffsets
	return each(ctx, t, path, groupSchema, &g, func() error { g = groupOffsets{}; return nil }, func() error {
		out := format.Group{ID: g.ID, Offsets: make(map[string]map[int32]format.GroupOffset)}
		for _, topic := range g.Topics {
			for _, p := range topic.Partitions {
				if p.Partition < 0 || p.Offset < 0 {
					return foreign.Damaged(path, "group %q with offset %d for partition %d of %q", g.ID, p.Offset, p.Partition, topic.Topic)
				}
				if out.Offsets[topic.Topic] == nil {
					out.Offsets[topic.Topic] = make(map[int32]format.GroupOffset)
				}
				out.Offsets[topic.Topic][p.Partition] = format.GroupOffset{Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata}
			}
		}
		if len(out.Offsets) > 0 {
			b.Groups = append(b.Groups, out)
		}
		return nil
	})
}
