package stores

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
)

const (
	topic      = "orders"
	topicID    = "MkZoVHNnbXF0U0tLaGVCYw"
	partitions = 4
	records    = 400 // of each partition
	valueSize  = 2000
)

// source writes a stream of records: some of each partition in turn, with a restore
// point in the middle.
func source(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	frames := []format.Encoder{&format.Topic{Name: topic, ID: topicID, Partitions: partitions, ReplicationFactor: 1}}
	mark := func(p int32, next int64) *format.Mark {
		return &format.Mark{Topic: topic, Partition: p, Next: next, MarkInfo: format.MarkInfo{TopicID: topicID}}
	}
	for p := range int32(partitions) {
		frames = append(frames, mark(p, 0))
	}
	must(t, w.WriteHeader(&format.Header{ID: "run", Content: format.ContentRecords, Source: &format.Source{Cluster: "test"}}))
	for _, f := range frames {
		must(t, w.Write(f))
	}
	r := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, valueSize)
	for i := range int64(records) {
		if i == records/2 {
			for p := range int32(partitions) {
				must(t, w.Write(mark(p, i)))
			}
			offset := format.GroupOffset{Offset: i}
			must(t, w.Write(&format.Group{ID: "billing", Offsets: map[string]map[int32]format.GroupOffset{topic: {0: offset}}}))
			must(t, w.Write(&format.Point{Time: 1_700_000_000_000 + i}))
		}
		for p := range int32(partitions) {
			for j := range value {
				value[j] = byte(r.Uint32()) // does not compress
			}
			must(t, w.WriteRecord(&format.Record{Topic: topic, Partition: p, Offset: i, Timestamp: 1_700_000_000_000 + i, Key: fmt.Append(nil, p, "/", i), Value: value}))
		}
	}
	for p := range int32(partitions) {
		must(t, w.Write(mark(p, records)))
	}
	must(t, w.Close(&format.End{Records: partitions * records}))
	return b.Bytes()
}

// segments is the source as kbk-pack makes it, in segments of a few records, and
// without the partitions that are not asked for.
func segments(t *testing.T, parts ...int32) []byte {
	t.Helper()
	stream := source(t)
	if len(parts) > 0 {
		stream = only(t, stream, parts)
	}
	return run(t, "kbk-pack", stream, "-q", "--segment-size", "64KiB").stdout
}

func only(t *testing.T, stream []byte, parts []int32) []byte {
	t.Helper()
	var b bytes.Buffer
	r, w := format.NewReader(bytes.NewReader(stream), 1<<20), format.NewWriter(&b)
	h, err := r.Header()
	must(t, err)
	must(t, w.WriteHeader(h))
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.Bytes()
		}
		must(t, err)
		switch f.Kind {
		case format.KindEnd:
			must(t, w.Close(&format.End{}))
			continue
		case format.KindMark:
			m, err := format.DecodeMark(f.Raw)
			must(t, err)
			if !slices.Contains(parts, m.Partition) {
				continue
			}
		case format.KindRec:
			if !slices.Contains(parts, f.Partition) {
				continue
			}
		}
		must(t, w.WriteRaw(f.Raw))
	}
}

// sameRecords wants the records of two streams to be the same, each partition's in order.
func sameRecords(t *testing.T, got, want []byte) {
	t.Helper()
	a, b := recordsOf(t, got), recordsOf(t, want)
	for p := range b {
		if !slices.Equal(a[p], b[p]) {
			t.Errorf("partition %d: %d records, not the %d of the source, or others", p, len(a[p]), len(b[p]))
		}
	}
	if len(a) != len(b) {
		t.Errorf("%d partitions, want %d", len(a), len(b))
	}
}

func recordsOf(t *testing.T, stream []byte) map[int32][]string {
	t.Helper()
	all := make(map[int32][]string)
	r := format.NewReader(bytes.NewReader(stream), 1<<20)
	_, err := r.Header()
	must(t, err)
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		if f.Kind == format.KindRec {
			all[f.Partition] = append(all[f.Partition], strings.Clone(string(f.Raw)))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
