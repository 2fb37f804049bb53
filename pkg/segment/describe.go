package segment

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math"

	"github.com/kbkio/kbk/format"
)

// Describe reads a segment that lies somewhere by itself, and returns what a backup's
// log would say of it. It must not be encrypted.
func Describe(codec string, data []byte, maxFrame int64) (*format.Segment, error) {
	c := CodecOf(codec)
	if c == nil {
		return nil, fmt.Errorf("codec %q is not known", codec)
	}
	var in io.Reader = bytes.NewReader(data)
	if c.newReader != nil {
		d, err := c.newReader()
		if err == nil {
			err = d.reset(in)
		}
		if err != nil {
			return nil, fmt.Errorf("decompress: %w", err)
		}
		in = d
	}
	plain := &counter{r: in, max: math.MaxInt64} // nothing is kept of it
	r := format.NewReader(plain, int(maxFrame))
	h, err := r.Header()
	if err != nil {
		return nil, err
	}
	if h.Content != format.ContentRecords {
		return nil, fmt.Errorf("it is a stream of %s, not the inside of a segment", h.Content)
	}
	sum := sha256.Sum256(data)
	m := &format.Segment{From: -1, Codec: codec, Size: int64(len(data)), SHA256: sum[:], Filters: h.Filters}
	if h.Window != nil {
		m.Filters = append(m.Filters, "window")
	}
	partition := func(topic string, number int32) error {
		if m.From < 0 {
			m.Topic, m.Partition = topic, number
		}
		if m.Topic != topic || m.Partition != number {
			return fmt.Errorf("it holds several partitions (%s/%d, %s/%d), so it is a stream and no segment", m.Topic, m.Partition, topic, number)
		}
		return nil
	}
	for {
		f, err := r.Next()
		if err != nil {
			return nil, err
		}
		switch f.Kind {
		case format.KindTopic:
			t, err := format.DecodeTopic(f.Raw)
			if err != nil {
				return nil, err
			}
			m.TopicID = t.ID
		case format.KindMark:
			mark, err := format.DecodeMark(f.Raw)
			if err == nil {
				err = partition(mark.Topic, mark.Partition)
			}
			if err != nil {
				return nil, err
			}
			if m.From < 0 {
				m.From = mark.Next
			}
			if mark.TopicID != "" {
				m.TopicID = mark.TopicID
			}
			m.Next = max(m.Next, mark.Next)
		case format.KindRec:
			if err := partition(f.Topic, f.Partition); err != nil {
				return nil, err
			}
			if m.From < 0 {
				m.From = f.Offset
			}
			if m.Records == 0 {
				m.First, m.MinTimestamp, m.MaxTimestamp = f.Offset, f.Timestamp, f.Timestamp
			}
			m.Records++
			m.Last = f.Offset
			m.Next = max(m.Next, f.Offset+1)
			m.MinTimestamp, m.MaxTimestamp = min(m.MinTimestamp, f.Timestamp), max(m.MaxTimestamp, f.Timestamp)
		case format.KindEnd:
			if m.RawSize = plain.n; m.Records == 0 {
				return nil, fmt.Errorf("it holds no records")
			}
			return m, nil
		}
	}
}
