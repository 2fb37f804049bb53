package commitlog

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kbkio/kbk/format"
)

// A Segment is a stored object and the offsets it stands for: it was made by
// scanning [From, Next) and holds Records records, from First to Last.
type Segment struct {
	Path      string `json:"path"` // see [SegmentPath]
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id,omitempty"`
	Partition int32  `json:"partition"`
	Content
}

// Content is what is known of a segment beside where it belongs. A backup may have a
// million of them: what most segments share is behind a pointer, and the path is left out.
type Content struct {
	From         int64 `json:"from"`
	Next         int64 `json:"next"`
	First        int64 `json:"first"`
	Last         int64 `json:"last"`
	Records      int64 `json:"records"`
	MinTimestamp int64 `json:"min_timestamp"` // milliseconds since the epoch
	MaxTimestamp int64 `json:"max_timestamp"`
	*Form              // never nil in a segment that was decoded or made by [SegmentOf]
	RawSize      int64 `json:"raw_size"` // bytes of the stream inside
	Size         int64 `json:"size"`     // bytes of the object
	SHA256       Hash  `json:"sha256"`   // of the object
}

// A Form is how a segment was made: most of a backup's segments have the same one.
type Form struct {
	Codec  string `json:"codec"`            // as in format.Segment
	Cipher string `json:"cipher,omitempty"` // "age", or none
	// Filters says that records of [From, Next) may have been dropped or changed on
	// purpose, and by which stages.
	Filters []string `json:"filters,omitempty"`
	// Holds is "batches" where the stream inside holds batches; else it is "".
	Holds string `json:"content,omitempty"`
	// Run is the run that stored it, and part of its name: no other run lists the object, so
	// that it can be deleted whatever others are doing. Earlier versions have none.
	Run string `json:"run,omitempty"`
}

// A Hash is a SHA-256; in JSON and in messages 64 lower-case hexadecimal digits.
type Hash [sha256.Size]byte

// HashOf is the SHA-256 of data.
func HashOf(data []byte) Hash { return sha256.Sum256(data) }

// String implements fmt.Stringer.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error {
	if !isHex(string(text), 2*len(h)) {
		return fmt.Errorf("sha256 %q is not 64 lower-case hexadecimal digits", text)
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// SegmentOf is what the log says of a segment of a stream that a run stores. It fails where
// the segment could not be in a log.
func SegmentOf(m *format.Segment, run string) (Segment, error) {
	s := Segment{Topic: m.Topic, TopicID: m.TopicID, Partition: m.Partition, Content: Content{
		From: m.From, Next: m.Next, First: m.First, Last: m.Last, Records: m.Records,
		MinTimestamp: m.MinTimestamp, MaxTimestamp: m.MaxTimestamp,
		Form:    &Form{Codec: m.Codec, Cipher: m.Cipher, Filters: m.Filters, Holds: m.Content, Run: run},
		RawSize: m.RawSize, Size: m.Size,
	}}
	if m.Content == format.ContentRecords {
		s.Holds = "" // which says the same
	}
	if len(m.SHA256) != len(s.SHA256) {
		return s, fmt.Errorf("sha256 of %d bytes", len(m.SHA256))
	}
	copy(s.SHA256[:], m.SHA256)
	var err error
	if s.Path, err = SegmentPath(&s); err != nil {
		return s, err
	}
	return s, s.validate()
}

// Frame is what a stream says of the segment.
func (s *Segment) Frame() *format.Segment {
	return &format.Segment{
		Topic: s.Topic, TopicID: s.TopicID, Partition: s.Partition, From: s.From, Next: s.Next, First: s.First, Last: s.Last,
		Records: s.Records, MinTimestamp: s.MinTimestamp, MaxTimestamp: s.MaxTimestamp,
		Content: s.Holds, Codec: cmp.Or(s.Codec, "none"), Cipher: s.Cipher, Filters: s.Filters,
		RawSize: s.RawSize, Size: s.Size, SHA256: bytes.Clone(s.SHA256[:]),
	}
}

// validate checks what the fields of a segment say of each other.
func (s *Segment) validate() error {
	if s.Form == nil {
		return errors.New("it has no codec")
	}
	want, err := SegmentPath(s)
	if err != nil {
		return err
	}
	switch {
	case s.Path != want:
		return fmt.Errorf("path %q should be %q", s.Path, want)
	case s.From < 0 || s.From > s.First || s.First > s.Last || s.Last >= s.Next:
		return fmt.Errorf("records %d to %d do not fit into [%d, %d)", s.First, s.Last, s.From, s.Next)
	case s.Records < 1 || s.Records-1 > s.Last-s.First:
		return fmt.Errorf("%d records do not fit into %d to %d", s.Records, s.First, s.Last)
	case s.MinTimestamp > s.MaxTimestamp:
		return fmt.Errorf("timestamps %d to %d are not a range", s.MinTimestamp, s.MaxTimestamp)
	case s.Holds != "" && s.Holds != format.ContentBatches:
		return fmt.Errorf("it holds %q, which is not known", s.Holds)
	case s.Size < 0 || s.RawSize < 0:
		return fmt.Errorf("size %d or raw size %d is negative", s.Size, s.RawSize)
	}
	return nil
}

// segment is the whole of a segment of the partition. Its fields must have been
// validated.
func (key partitionKey) segment(c *Content) Segment {
	seg := Segment{Topic: key.topic, TopicID: key.id, Partition: key.partition, Content: *c}
	seg.Path, _ = SegmentPath(&seg)
	return seg
}

// compareContents orders the segments of a partition.
func compareContents(a, b *Content) int {
	return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Next, b.Next), bytes.Compare(a.SHA256[:], b.SHA256[:]), strings.Compare(a.Run, b.Run))
}

// forms keeps one of each [Form].
type forms map[string]*Form

// share lets c have the form that others like it have.
func (f forms) share(c Content) Content {
	key := strings.Join(append([]string{c.Codec, c.Cipher, c.Run, c.Holds}, c.Filters...), "\x00")
	if f[key] == nil {
		f[key] = &Form{c.Codec, c.Cipher, slices.Clone(c.Filters), c.Holds, c.Run}
	}
	c.Form = f[key]
	return c
}
