package segment

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kbkio/kbk/format"
)

// An inside is what a segment is found to hold, frame by frame. A segment speaks of one
// partition only, from its first mark to its last: whatever else is in it was not put
// there by a packer, and must not get into the stream around it.
type inside struct {
	topic, id string // "" while nothing names them
	partition int32
	known     bool  // which partition it is
	from, at  int64 // the first offset scanned, -1 while it is not known, and the first not scanned
	marked    bool  // no record came behind the last mark
	content   string

	records                    int64
	first, last                int64
	timed                      bool // there are timestamps
	minTimestamp, maxTimestamp int64
	unread                     int64    // batches whose timestamps are not known
	filters                    []string // what has left out or changed records

	frameOf format.Batch // of the batch that came last
}

func newInside(h *format.Header) (*inside, error) {
	if h.Content != format.ContentRecords && h.Content != format.ContentBatches {
		return nil, fmt.Errorf("it is a stream of %q, not of records or batches", h.Content)
	}
	in := &inside{from: -1, last: -1, content: h.Content, filters: slices.Clone(h.Filters)}
	if h.Window != nil {
		in.filters = append(in.filters, "window")
	}
	return in, nil
}

// frame takes the next frame, which is no batch.
func (in *inside) frame(f *format.Frame) error {
	switch f.Kind {
	case format.KindRec:
		return in.record(f)
	case format.KindMark:
		m, err := format.DecodeMark(f.Raw)
		if err != nil {
			return err
		}
		return in.mark(m)
	case format.KindTopic:
		t, err := format.DecodeTopic(f.Raw)
		if err != nil {
			return err
		}
		return in.incarnation(t.Name, t.ID)
	case format.KindEnd, format.KindUnknown:
		return nil
	}
	return fmt.Errorf("a %s frame, which is not of its partition", f.Name)
}

func (in *inside) record(f *format.Frame) error {
	if err := in.offsets("record", f.Topic, f.Partition, f.Offset, f.Offset, 1); err != nil {
		return err
	}
	in.times(f.Timestamp, f.Timestamp)
	return nil
}

// offsets takes those of a record or a batch.
func (in *inside) offsets(what, topic string, partition int32, first, last, records int64) error {
	if topic != in.topic || partition != in.partition || in.from < 0 {
		if err := in.of(topic, partition, first); err != nil {
			return err
		}
	}
	if first < in.at {
		return fmt.Errorf("a %s of offset %d where %d or above is expected", what, first, in.at)
	}
	if in.records == 0 {
		in.first = first
	}
	in.records += records
	in.last, in.at, in.marked = last, last+1, false
	return nil
}

func (in *inside) mark(m *format.Mark) error {
	if err := in.of(m.Topic, m.Partition, m.Next); err != nil {
		return err
	}
	switch {
	case m.Begins:
		return fmt.Errorf("a mark that begins anew, at offset %d", m.Next)
	case m.Next < in.at:
		return fmt.Errorf("a mark at offset %d behind %d", m.Next, in.at)
	}
	for _, f := range m.Filters {
		if !slices.Contains(in.filters, f) {
			in.filters = append(in.filters, f)
		}
	}
	in.at, in.marked = m.Next, true
	return in.incarnation(m.Topic, m.TopicID)
}

// of notes what partition a frame is of, and at the first one where the segment begins.
func (in *inside) of(topic string, partition int32, offset int64) error {
	switch {
	case in.topic != "" && topic != in.topic:
		return in.several(topic)
	case in.known && partition != in.partition:
		return fmt.Errorf("it holds several partitions (%s/%d, %s/%d)", in.topic, in.partition, topic, partition)
	}
	in.topic, in.partition, in.known = topic, partition, true
	if in.from < 0 {
		in.from, in.at = offset, offset
	}
	return nil
}

func (in *inside) several(topic string) error {
	return fmt.Errorf("it holds several topics (%s, %s)", in.topic, topic)
}

// incarnation notes a topic's id.
func (in *inside) incarnation(topic, id string) error {
	switch {
	case in.topic != "" && topic != in.topic:
		return in.several(topic)
	case in.id != "" && id != "" && id != in.id:
		return fmt.Errorf("it holds two incarnations of topic %s (%s, %s)", topic, in.id, id)
	}
	in.topic = topic
	if id != "" {
		in.id = id
	}
	return nil
}

// compare holds a segment that was read to its end against what it says of itself.
func (in *inside) compare(m *format.Segment, rawSize int64) error {
	switch {
	case rawSize != m.RawSize:
		return fmt.Errorf("%d bytes uncompressed, not %d", rawSize, m.RawSize)
	case in.records != m.Records:
		return fmt.Errorf("%d records, not %d", in.records, m.Records)
	case in.first != m.First || in.last != m.Last:
		return fmt.Errorf("offsets %d to %d, not %d to %d", in.first, in.last, m.First, m.Last)
	case in.timed && (in.minTimestamp < m.MinTimestamp || in.maxTimestamp > m.MaxTimestamp),
		in.unread == 0 && (in.minTimestamp != m.MinTimestamp || in.maxTimestamp != m.MaxTimestamp):
		return fmt.Errorf("timestamps %d to %d, not %d to %d", in.minTimestamp, in.maxTimestamp, m.MinTimestamp, m.MaxTimestamp)
	case !in.marked:
		return errors.New("no mark behind its last record")
	case in.from != m.From || in.at != m.Next:
		return fmt.Errorf("its marks are of [%d, %d), not of [%d, %d)", in.from, in.at, m.From, m.Next)
	case in.id != "" && m.TopicID != "" && in.id != m.TopicID:
		return fmt.Errorf("topic id %s, not %s", in.id, m.TopicID)
	}
	for _, f := range in.filters {
		if !slices.Contains(m.Filters, f) {
			return fmt.Errorf("records were left out or changed by %q, and it does not say so", f)
		}
	}
	return nil
}
