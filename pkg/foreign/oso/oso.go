// Package oso reads backups of OSO kafka-backup: a manifest, and segments in a binary
// format of its own, version 1 (seen in 0.17.4).
package oso

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/foreign"
)

// Format is that of OSO kafka-backup.
type Format struct{}

const (
	magic, endMagic = "KBAK", "BKAE"
	headerSize      = 32
	trailerSize     = 8
	maxManifest     = 256 << 20
	// maxBody bounds a segment's decompressed records. The tool starts a new segment
	// at 128 MiB, or one response of a broker later.
	maxBody = 1 << 30
)

type manifest struct {
	BackupID string `json:"backup_id"`
	Topics   []struct {
		Name           string `json:"name"`
		PartitionCount *int   `json:"original_partition_count"`
		Partitions     []struct {
			ID   int32 `json:"partition_id"`
			Gaps []struct {
				Start  int64  `json:"start_offset"`
				End    int64  `json:"end_offset"`
				Reason string `json:"reason"`
			} `json:"gaps"`
			Segments []struct {
				Key   string `json:"key"`
				Start int64  `json:"start_offset"`
				End   int64  `json:"end_offset"`
			} `json:"segments"`
		} `json:"partitions"`
	} `json:"topics"`
}

type groupSnapshot struct {
	Groups []struct {
		ID      string                      `json:"group_id"`
		Offsets map[string]map[string]int64 `json:"offsets"`
	} `json:"groups"`
}

// manifestOf returns the manifest's path, in the root or one folder below; of several
// backups in one folder none is chosen.
func manifestOf(t *foreign.Tree) (at string, several bool) {
	var found []string
	for _, o := range t.Objects {
		if path.Base(o.Path) == "manifest.json" && strings.Count(o.Path, "/") <= 1 {
			found = append(found, o.Path)
		}
	}
	if slices.Contains(found, "manifest.json") {
		return "manifest.json", false
	}
	if len(found) == 0 {
		return "", false
	}
	return found[0], len(found) > 1
}

// Detect tells whether a tree is such a backup.
func Detect(ctx context.Context, t *foreign.Tree) bool {
	at, _ := manifestOf(t)
	if at == "" {
		return false
	}
	raw, err := t.ReadFile(ctx, at, maxManifest)
	if err != nil {
		return false
	}
	var m map[string]json.RawMessage
	return json.Unmarshal(raw, &m) == nil && m["backup_id"] != nil && m["topics"] != nil
}

// List implements [foreign.Format]. Segments that the manifest does not name count too:
// a run that is repeated leaves it behind.
func (Format) List(ctx context.Context, t *foreign.Tree) (*foreign.Backup, error) {
	at, several := manifestOf(t)
	switch {
	case at == "":
		return nil, fmt.Errorf("no manifest.json, in the folder itself or one below")
	case several:
		return nil, fmt.Errorf("several backups are in this folder: name the folder of one of them")
	}
	raw, err := t.ReadFile(ctx, at, maxManifest)
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, foreign.Damaged(at, "%v", err)
	}
	root := path.Dir(at)
	b := &foreign.Backup{Tool: "OSO kafka-backup", Caveats: []foreign.Caveat{
		{Text: "with headers: of headers of one name only the last was stored, and null values as empty ones", Applies: foreign.WithHeaders},
		{Text: "with a time whose type was not stored: it is taken as the producer's, and of topics with LogAppendTime the broker's time is gone", Applies: foreign.All},
	}}
	there := make(map[string]bool)
	for _, o := range t.Objects {
		topic, partition, first, ok := segmentPath(root, o.Path)
		if !ok {
			continue
		}
		there[o.Path] = true
		p := b.Partition(topic, partition)
		p.Files = append(p.Files, foreign.File{Path: o.Path, Topic: topic, Partition: partition, First: first})
	}
	listed := make(map[string]bool)
	for _, topic := range m.Topics {
		about := format.Topic{Name: topic.Name}
		if topic.PartitionCount != nil && *topic.PartitionCount > 0 && *topic.PartitionCount <= math.MaxInt32 {
			about.Partitions = *topic.PartitionCount
		}
		for _, part := range topic.Partitions {
			if part.ID < 0 || part.ID == math.MaxInt32 {
				return nil, foreign.Damaged(at, "partition %d of topic %q", part.ID, topic.Name)
			}
			about.Partitions = max(about.Partitions, int(part.ID)+1)
			p := b.Partition(topic.Name, part.ID)
			for _, g := range part.Gaps {
				if g.Start < 0 || g.Start >= g.End {
					return nil, foreign.Damaged(at, "a gap of offsets %d to %d in %s/%d", g.Start, g.End, topic.Name, part.ID)
				}
				p.Lost = append(p.Lost, [2]int64{g.Start, g.End})
			}
			for _, s := range part.Segments {
				// Keys have the backup's id; a copy of its folder alone has not.
				key := path.Join(root, strings.TrimPrefix(s.Key, m.BackupID+"/"))
				listed[key] = true
				if !there[key] {
					b.Missing = append(b.Missing, fmt.Sprintf("%s/%d: offsets %d to %d: the manifest names %s, which is not there", topic.Name, part.ID, s.Start, s.End, s.Key))
				}
			}
		}
		b.Topics = append(b.Topics, about)
	}
	unlisted := 0
	for key := range there {
		if !listed[key] {
			unlisted++
		}
	}
	if unlisted > 0 {
		b.Notes = append(b.Notes, fmt.Sprintf("the manifest does not name %d of the segments: they are read all the same", unlisted))
	}
	if err := groups(ctx, t, path.Join(root, "consumer-groups-snapshot.json"), b); err != nil {
		return nil, err
	}
	b.Sort()
	return b, nil
}

// segmentPath takes topics/T/partition=P/segment-N.bin… apart.
func segmentPath(root, p string) (topic string, partition int32, first int64, ok bool) {
	if root != "." {
		if p, ok = strings.CutPrefix(p, root+"/"); !ok {
			return "", 0, 0, false
		}
	}
	parts := strings.Split(p, "/")
	if len(parts) != 4 || parts[0] != "topics" {
		return "", 0, 0, false
	}
	number, ok := strings.CutPrefix(parts[2], "partition=")
	name, isSegment := strings.CutPrefix(parts[3], "segment-")
	digits, ending, _ := strings.Cut(name, ".")
	n, err := strconv.ParseInt(number, 10, 32)
	first, err2 := strconv.ParseInt(digits, 10, 64)
	if !ok || !isSegment || err != nil || err2 != nil || n < 0 || first < 0 || ending != "bin" && ending != "bin.zst" && ending != "bin.lz4" {
		return "", 0, 0, false
	}
	return parts[1], int32(n), first, true
}

func groups(ctx context.Context, t *foreign.Tree, at string, b *foreign.Backup) error {
	if !t.Has(at) {
		return nil
	}
	raw, err := t.ReadFile(ctx, at, maxManifest)
	if err != nil {
		return err
	}
	var s groupSnapshot
	if err := json.Unmarshal(raw, &s); err != nil {
		return foreign.Damaged(at, "%v", err)
	}
	for _, g := range s.Groups {
		out := format.Group{ID: g.ID, Offsets: make(map[string]map[int32]format.GroupOffset)}
		for topic, parts := range g.Offsets {
			out.Offsets[topic] = make(map[int32]format.GroupOffset)
			for number, offset := range parts {
				n, err := strconv.ParseInt(number, 10, 32)
				if err != nil || n < 0 || offset < 0 {
					return foreign.Damaged(at, "group %q with offset %d for partition %q of %q", g.ID, offset, number, topic)
				}
				out.Offsets[topic][int32(n)] = format.GroupOffset{Offset: offset}
			}
		}
		b.Groups = append(b.Groups, out)
	}
	return nil
}

// Read implements [foreign.Format]. The checksum covers the compressed bytes, so the file
// is checked in whole before its first record is given out.
func (Format) Read(ctx context.Context, t *foreign.Tree, f *foreign.File, out foreign.Out) error {
	raw, err := t.ReadFile(ctx, f.Path, maxBody)
	if err != nil {
		return err
	}
	if len(raw) < headerSize+trailerSize || string(raw[:4]) != magic || string(raw[len(raw)-4:]) != endMagic {
		return foreign.Damaged(f.Path, "it does not begin with %s and end with %s", magic, endMagic)
	}
	if version := raw[4]; version != 1 {
		return foreign.Damaged(f.Path, "segment of version %d, not 1", version)
	}
	covered := raw[:len(raw)-trailerSize]
	if want, got := binary.LittleEndian.Uint32(raw[len(covered):]), crc32.ChecksumIEEE(covered); want != got {
		return foreign.Damaged(f.Path, "its checksum is %08x, not %08x", got, want)
	}
	count := binary.LittleEndian.Uint64(raw[8:])
	first, last := int64(binary.LittleEndian.Uint64(raw[16:])), int64(binary.LittleEndian.Uint64(raw[24:]))
	body, err := plain(raw[5], covered[headerSize:])
	if err != nil {
		return foreign.Damaged(f.Path, "%v", err)
	}
	d := decoder{f: f, rest: body}
	for i := range count {
		if err := d.next(); err != nil {
			return foreign.Damaged(f.Path, "record %d: %v", i, err)
		}
		if d.rec.Offset < first || d.rec.Offset > last {
			return foreign.Damaged(f.Path, "record %d has offset %d, and the segment offsets %d to %d", i, d.rec.Offset, first, last)
		}
		if isMarker(&d.rec) {
			err = out.Marker(f.Topic, f.Partition, d.rec.Offset)
		} else {
			err = out.Record(&d.rec)
		}
		if err != nil {
			return err
		}
	}
	if len(d.rest) > 0 {
		return foreign.Damaged(f.Path, "%d bytes behind its %d records", len(d.rest), count)
	}
	return nil
}

// plain decompresses a segment's body.
func plain(codec byte, body []byte) ([]byte, error) {
	switch codec {
	case 0:
		return body, nil
	case 1:
		z, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		out, err := io.ReadAll(io.LimitReader(z, maxBody+1))
		if err == nil && len(out) > maxBody {
			err = fmt.Errorf("it decompresses to more than %d bytes", maxBody)
		}
		return out, err
	case 2: // the size, and one block
		if len(body) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		size := int64(binary.LittleEndian.Uint32(body))
		if size > maxBody || size > 255*int64(len(body)) { // a byte of LZ4 stands for 255 at most
			return nil, fmt.Errorf("%d bytes of lz4 claim to hold %d bytes", len(body)-4, size)
		}
		out := make([]byte, size)
		n, err := lz4.UncompressBlock(body[4:], out)
		if err == nil && int64(n) != size {
			err = fmt.Errorf("%d bytes, and not the %d bytes that it claims", n, size)
		}
		return out, err
	}
	return nil, fmt.Errorf("unknown codec %d", codec)
}

// A decoder takes records off a segment's body.
type decoder struct {
	f       *foreign.File
	rest    []byte
	rec     format.Record
	headers []format.RecordHeader
}

// next decodes the next record into d.rec, which shares the body's memory.
func (d *decoder) next() error {
	r := reader{b: d.rest}
	body := r.bytes(int64(r.uint32()))
	if r.short {
		return io.ErrUnexpectedEOF
	}
	d.rest = r.b
	r = reader{b: body}
	d.rec = format.Record{Topic: d.f.Topic, Partition: d.f.Partition}
	d.rec.Timestamp, d.rec.Offset = r.int64(), r.int64()
	d.rec.Key, d.rec.Value = r.nullable(), r.nullable()
	count := r.uint16()
	d.headers = d.headers[:0]
	for range count {
		name := r.bytes(int64(r.uint16()))
		d.headers = append(d.headers, format.RecordHeader{Name: name, Value: r.nullable()})
		if r.short {
			return io.ErrUnexpectedEOF
		}
	}
	switch {
	case r.short:
		return io.ErrUnexpectedEOF
	case len(r.b) > 0:
		return fmt.Errorf("%d bytes behind its headers", len(r.b))
	}
	d.rec.Headers = withoutOrigin(d.headers, &d.rec)
	return nil
}

// withoutOrigin leaves out the headers that the tool has added, which say where the record
// was: they are the last ones, and have its own offset and time. Headers of these names
// that say something else are data.
func withoutOrigin(h []format.RecordHeader, r *format.Record) []format.RecordHeader {
	if n := len(h); n > 2 && string(h[n-1].Name) == "x-source-cluster" && isOrigin(h[n-3:n-1], r) {
		return h[:n-3]
	}
	if n := len(h); n >= 2 && isOrigin(h[n-2:], r) {
		return h[:n-2]
	}
	return h
}

func isOrigin(h []format.RecordHeader, r *format.Record) bool {
	return string(h[0].Name) == "x-original-offset" && string(h[1].Name) == "x-original-timestamp" &&
		bytes.Equal(h[0].Value, binary.LittleEndian.AppendUint64(nil, uint64(r.Offset))) &&
		bytes.Equal(h[1].Value, binary.LittleEndian.AppendUint64(nil, uint64(r.Timestamp)))
}

// isMarker tells a transaction marker by its shape: a key of version 0 that aborts or
// commits, and a value of version 0 (Kafka's ControlRecordType, EndTransactionMarker).
func isMarker(r *format.Record) bool {
	return len(r.Key) == 4 && len(r.Value) == 6 && len(r.Headers) == 0 &&
		r.Key[0] == 0 && r.Key[1] == 0 && r.Key[2] == 0 && r.Key[3] <= 1 && r.Value[0] == 0 && r.Value[1] == 0
}

// A reader takes numbers off bytes. Where there are too few, short is set and all that
// follows is 0.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) bytes(n int64) []byte {
	if r.short || n > int64(len(r.b)) {
		r.short = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) fixed(n int) []byte {
	if b := r.bytes(int64(n)); b != nil {
		return b
	}
	return make([]byte, n)
}

func (r *reader) uint16() uint16 { return binary.LittleEndian.Uint16(r.fixed(2)) }
func (r *reader) uint32() uint32 { return binary.LittleEndian.Uint32(r.fixed(4)) }
func (r *reader) int64() int64   { return int64(binary.LittleEndian.Uint64(r.fixed(8))) }

// nullable reads a length, -1 for null, and the bytes.
func (r *reader) nullable() []byte {
	n := int32(r.uint32())
	if n < 0 {
		r.short = r.short || n != -1
		return nil
	}
	return r.bytes(int64(n))
}
