package segment

import (
	"fmt"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// An Order holds the records, segments and marks of a stream against the rule of
// format/SPEC.md: the offsets of a partition ascend, none comes twice, none is below a
// mark, and segments join, end to start. What is missing, comes twice or is out of place
// would become a hole or doubled records without a word. Errors have the status
// [command.Corrupt].
type Order struct {
	Window *format.Window // of the stream's header; only segments need it
	at     map[place]*int64
	ids    map[string]string

	// The partition of the record that came last, which most often is that of the next.
	topic     string
	partition int32
	next      *int64 // in at; nil: it has to be looked up
}

type place struct {
	topic, id string
	partition int32
}

// Topic takes a topic frame: what follows without a topic id is of this incarnation.
func (o *Order) Topic(t *format.Topic) {
	if o.ids == nil {
		o.ids = make(map[string]string)
	}
	o.ids[t.Name] = t.ID
	o.next = nil
}

// name learns the id of a topic that was without: what came before is of the same one.
func (o *Order) name(topic, id string) {
	o.Topic(&format.Topic{Name: topic, ID: id})
	for p, at := range o.at {
		if p.topic == topic && p.id == "" {
			delete(o.at, p)
			o.at[place{topic, id, p.partition}] = at
		}
	}
}

func (o *Order) place(topic, id string, partition int32) place {
	if id == "" {
		id = o.ids[topic]
	}
	return place{topic, id, partition}
}

func (o *Order) set(p place, at int64) {
	if o.at == nil {
		o.at = make(map[place]*int64)
	}
	if known := o.at[p]; known != nil {
		*known = at
		return
	}
	o.at[p] = &at
}

// Record takes a record.
func (o *Order) Record(topic string, partition int32, offset int64) error {
	return o.Batch(topic, partition, offset, offset)
}

// Batch takes the records of a batch, from the offset first to last.
func (o *Order) Batch(topic string, partition int32, first, last int64) error {
	if o.next == nil || partition != o.partition || topic != o.topic {
		p := o.place(topic, "", partition)
		if o.at[p] == nil {
			o.set(p, first)
		}
		o.topic, o.partition, o.next = topic, partition, o.at[p]
	}
	if first < *o.next {
		return command.WithStatus(command.Corrupt,
			fmt.Errorf("%s/%d: record of offset %d where %d or above is expected: records of a partition must come in order", topic, partition, first, *o.next))
	}
	*o.next = last + 1
	return nil
}

// Mark takes a mark.
func (o *Order) Mark(m *format.Mark) error {
	if m.TopicID != "" && o.ids[m.Topic] == "" {
		o.name(m.Topic, m.TopicID)
	}
	p := o.place(m.Topic, m.TopicID, m.Partition)
	if at := o.at[p]; at != nil && m.Next < *at && !m.Begins {
		return command.WithStatus(command.Corrupt,
			fmt.Errorf("%s/%d: a mark at offset %d behind %d, which does not say that it begins anew", m.Topic, m.Partition, m.Next, *at))
	}
	o.set(p, m.Next)
	return nil
}

// Segment takes a segment.
func (o *Order) Segment(m *format.Segment) error {
	p := o.place(m.Topic, m.TopicID, m.Partition)
	first, end, _, _ := o.Window.Bounds(m.Topic, m.Partition)
	from, next := max(m.From, m.DropBelow, first), min(m.Next, end)
	if m.DropFrom > 0 {
		next = min(next, m.DropFrom)
	}
	switch at := o.at[p]; {
	case at != nil && from < *at:
		return corrupt(m, fmt.Errorf("it begins at offset %d, and what is below %d has come before", from, *at))
	case at != nil && from > *at:
		return corrupt(m, fmt.Errorf("it begins at offset %d where %d is expected: what is between is missing", from, *at))
	}
	o.set(p, max(from, next))
	return nil
}
