// Package handy reads backups of kafka-handy-backup: chunks of CBOR records, perhaps
// compressed and encrypted, and restoration points.
package handy

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/foreign"
)

// Format is that of kafka-handy-backup. Keys are those that chunks were encrypted with,
// 32 bytes each.
type Format struct {
	Keys [][]byte
}

const (
	maxPoint = 256 << 20
	// maxPlain bounds a record of at most 64 KiB that decompresses to more.
	maxPlain = 64 << 20
	// ownGroup is the consumer group that the tool itself reads with.
	ownGroup = "kafka-backup-topic"
	// markers is how many offsets may be missing at a partition's end although all records
	// are there: it may end with a transaction's marker, which is no record.
	markers = 1
)

var decoding = must(cbor.DecOptions{MaxNestedLevels: 8, MaxArrayElements: 1 << 20, MaxMapPairs: 1 << 20, DupMapKey: cbor.DupMapKeyEnforcedAPF}.DecMode())

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constants
	}
	return v
}

// header begins a chunk.
type header struct {
	Encoding    string  `cbor:"encoding"`
	Offset      int64   `cbor:"offset"`
	Timestamp   int64   `cbor:"timestamp"`
	Compression *string `cbor:"compression"`
	Encryption  *string `cbor:"encryption"`
	IV          []byte  `cbor:"iv"`
	KeyID       string  `cbor:"key-id"`
}

type record struct {
	Value     []byte            `cbor:"v"`
	Offset    *int64            `cbor:"o"`
	Key       []byte            `cbor:"k"`
	Timestamp *int64            `cbor:"t"`
	Headers   []cbor.RawMessage `cbor:"h"`
}

// point is a restoration point.
type point struct {
	Consumers map[string]struct {
		ID      string `cbor:"group_id"`
		Offsets []struct {
			Topic     string `cbor:"topic"`
			Partition int32  `cbor:"partition"`
			Offset    int64  `cbor:"committedOffset"`
		} `cbor:"offsets"`
	} `cbor:"consumers"`
	Topics map[string]struct {
		Partitions map[int32]struct {
			Min      int64           `cbor:"minOffset"`
			Max      int64           `cbor:"maxOffset"`
			Replicas cbor.RawMessage `cbor:"replicas"`
		} `cbor:"partitions"`
	} `cbor:"topics"`
}

// KeyID is how a chunk names the key that it is encrypted with.
func KeyID(key []byte) string {
	sum := md5.Sum(key) // as the tool does; it protects nothing
	return hex.EncodeToString(sum[:])[:10]
}

// chunkPath takes topics/T/P/O_TS apart.
func chunkPath(p string) (topic string, partition int32, first int64, ok bool) {
	dirs, ok := foreign.Parents(p, 3)
	if !ok || dirs[0] != "topics" || strings.Count(p, "/") > 3 {
		return "", 0, 0, false
	}
	offset, stamp, ok := strings.Cut(path.Base(p), "_")
	n, err := strconv.ParseInt(dirs[2], 10, 32)
	first, err2 := strconv.ParseInt(offset, 10, 64)
	_, err3 := strconv.ParseInt(stamp, 10, 64)
	if !ok || err != nil || err2 != nil || err3 != nil || n < 0 || first < 0 {
		return "", 0, 0, false
	}
	return dirs[1], int32(n), first, true
}

// Detect tells whether a tree is such a backup.
func Detect(ctx context.Context, t *foreign.Tree) bool {
	for _, o := range t.Objects {
		if _, _, _, ok := chunkPath(o.Path); ok {
			f, err := t.Open(ctx, o.Path)
			if err != nil {
				return false
			}
			defer f.Close()
			h, err := readHeader(bufio.NewReader(f))
			return err == nil && h.Encoding != ""
		}
	}
	return false
}

// List implements [foreign.Format].
func (Format) List(ctx context.Context, t *foreign.Tree) (*foreign.Backup, error) {
	b := &foreign.Backup{Tool: "kafka-handy-backup", Caveats: []foreign.Caveat{
		{Text: "with a time whose type was not stored: it is taken as the producer's", Applies: foreign.All},
	}}
	newest := int64(-1)
	for _, o := range t.Objects {
		if topic, partition, first, ok := chunkPath(o.Path); ok {
			p := b.Partition(topic, partition)
			p.Files = append(p.Files, foreign.File{Path: o.Path, Topic: topic, Partition: partition, First: first})
		} else if seconds, ok := strings.CutPrefix(o.Path, "metadata/"); ok {
			if n, err := strconv.ParseInt(seconds, 10, 64); err == nil {
				newest = max(newest, n)
			}
		}
	}
	if len(b.Partitions) == 0 {
		return nil, errors.New("no chunk of the form topics/TOPIC/PARTITION/OFFSET_TIME")
	}
	if newest < 0 {
		b.Notes = append(b.Notes, "there is no restoration point: whether the end of each partition is there is not known, and neither are partitions without records and consumer groups")
	} else if err := restorationPoint(ctx, t, fmt.Sprintf("metadata/%d", newest), b); err != nil {
		return nil, err
	}
	b.Sort()
	return b, nil
}

// restorationPoint takes topics and groups from the newest point. It names all topics of
// the cluster; those without a folder were not backed up, or had no records.
func restorationPoint(ctx context.Context, t *foreign.Tree, at string, b *foreign.Backup) error {
	raw, err := t.ReadFile(ctx, at, maxPoint)
	if err != nil {
		return err
	}
	var p point
	if err := decoding.Unmarshal(raw, &p); err != nil {
		return foreign.Damaged(at, "%v", err)
	}
	backedUp := make(map[string]bool)
	for i := range b.Partitions {
		backedUp[b.Partitions[i].Topic] = true
	}
	for name, topic := range p.Topics {
		if !backedUp[name] {
			continue
		}
		about := format.Topic{Name: name}
		for number, part := range topic.Partitions {
			if number < 0 || number == math.MaxInt32 || part.Min < 0 || part.Max < part.Min {
				return foreign.Damaged(at, "partition %d of topic %q with offsets %d to %d", number, name, part.Min, part.Max)
			}
			about.Partitions = max(about.Partitions, int(number)+1)
			about.ReplicationFactor = max(about.ReplicationFactor, replicas(part.Replicas))
			if part.Max > part.Min {
				at := b.Partition(name, number)
				at.End, at.Slack = part.Max, markers
			}
		}
		b.Topics = append(b.Topics, about)
	}
	for _, c := range p.Consumers {
		if c.ID == ownGroup {
			continue
		}
		g := format.Group{ID: c.ID, Offsets: make(map[string]map[int32]format.GroupOffset)}
		for _, o := range c.Offsets {
			if o.Partition < 0 || o.Offset < 0 || !backedUp[o.Topic] {
				continue
			}
			if g.Offsets[o.Topic] == nil {
				g.Offsets[o.Topic] = make(map[int32]format.GroupOffset)
			}
			g.Offsets[o.Topic][o.Partition] = format.GroupOffset{Offset: o.Offset}
		}
		if len(g.Offsets) > 0 {
			b.Groups = append(b.Groups, g)
		}
	}
	return nil
}

// replicas is how many there are, whether they were stored as a number or as a list.
func replicas(raw cbor.RawMessage) int {
	var n int
	var list []cbor.RawMessage
	switch {
	case len(raw) == 0:
		return 0
	case decoding.Unmarshal(raw, &n) == nil && n >= 0 && n <= math.MaxInt16:
		return n
	case decoding.Unmarshal(raw, &list) == nil:
		return len(list)
	}
	return 0
}

func readHeader(r io.Reader) (*header, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	raw := make([]byte, binary.LittleEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	h := new(header)
	return h, decoding.Unmarshal(raw, h)
}

// Read implements [foreign.Format]. A chunk has no checksum and no end: what parses is
// taken, and the rest is named.
func (h Format) Read(ctx context.Context, t *foreign.Tree, f *foreign.File, out foreign.Out) error {
	file, err := t.Open(ctx, f.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	in := bufio.NewReaderSize(file, 1<<18)
	head, err := readHeader(in)
	if err != nil {
		return foreign.Damaged(f.Path, "header: %v", err)
	}
	if head.Encoding != "cbor" {
		return foreign.Damaged(f.Path, "encoding %q", head.Encoding)
	}
	records, err := h.decrypted(in, head)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	packed := head.Compression != nil && *head.Compression != ""
	if packed && *head.Compression != "bz2" {
		return foreign.Damaged(f.Path, "compression %q", *head.Compression)
	}
	wrongKey := ""
	if head.Encryption != nil {
		wrongKey = ", or the key is not the one"
	}
	var buf [math.MaxUint16]byte
	for n := 0; ; n++ {
		raw, err := next(records, buf[:])
		if errors.Is(err, io.EOF) {
			return nil
		}
		rec := format.Record{Topic: f.Topic, Partition: f.Partition}
		if err == nil && packed {
			raw, err = unpack(raw)
		}
		if err == nil {
			err = decode(raw, &rec)
		}
		if err == nil && rec.Offset < f.First {
			err = fmt.Errorf("offset %d", rec.Offset)
		}
		if err != nil {
			return foreign.Damaged(f.Path, "record %d: %v%s", n, err, wrongKey)
		}
		if err := out.Record(&rec); err != nil {
			return err
		}
	}
}

// next reads the next record into buf.
func next(r io.Reader, buf []byte) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("it is cut short")
		}
		return nil, err
	}
	raw := buf[:binary.LittleEndian.Uint16(size[:])]
	if _, err := io.ReadFull(r, raw); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("it is cut short")
		}
		return nil, err
	}
	return raw, nil
}

// decrypted returns what reads a chunk's records.
func (h Format) decrypted(in io.Reader, head *header) (io.Reader, error) {
	if head.Encryption == nil || *head.Encryption == "" {
		return in, nil
	}
	if *head.Encryption != "AES256" || len(head.IV) != aes.BlockSize {
		return nil, fmt.Errorf("encryption %q with an initial vector of %d bytes: %w", *head.Encryption, len(head.IV), foreign.ErrDamaged)
	}
	for _, key := range h.Keys {
		if KeyID(key) == head.KeyID {
			block, err := aes.NewCipher(key)
			if err != nil {
				return nil, err
			}
			return cipher.StreamReader{S: cipher.NewCTR(block, head.IV), R: in}, nil
		}
	}
	return nil, fmt.Errorf("it is encrypted with the key of id %q, which --key-file does not give", head.KeyID)
}

func unpack(raw []byte) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(bzip2.NewReader(bytes.NewReader(raw)), maxPlain+1))
	if err == nil && len(out) > maxPlain {
		err = fmt.Errorf("it decompresses to more than %d bytes", maxPlain)
	}
	return out, err
}

func decode(raw []byte, to *format.Record) error {
	var r record
	if err := decoding.Unmarshal(raw, &r); err != nil {
		return err
	}
	if r.Offset == nil || r.Timestamp == nil || *r.Offset < 0 {
		return errors.New("it has no offset or no time")
	}
	to.Offset, to.Timestamp, to.Key, to.Value = *r.Offset, *r.Timestamp, r.Key, r.Value
	for _, raw := range r.Headers {
		var h struct {
			_     struct{} `cbor:",toarray"`
			Name  string
			Value []byte
		}
		if err := decoding.Unmarshal(raw, &h); err != nil {
			return fmt.Errorf("header: %w", err)
		}
		to.Headers = append(to.Headers, format.RecordHeader{Name: []byte(h.Name), Value: h.Value})
	}
	return nil
}
