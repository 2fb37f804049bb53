package segment

import (
	"fmt"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// An Order holds the segments and marks of a stream against the rule that those of a
// partition join, end to start: one that is missing, comes twice or is out of place would
// become a hole or doubled records without a word. Errors have the status
// [command.Corrupt].
type Order struct {
	Window *format.Window // of the stream's header
	at     map[place]int64
	ids    map[string]string
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
}

func (o *Order) place(topic, id string, partition int32) place {
	if id == "" {
		id = o.ids[topic]
	}
	return place{topic, id, partition}
}

func (o *Order) set(p place, at int64) {
	if o.at == nil {
		o.at = make(map[place]int64)
	}
	o.at[p] = at
}

// Mark takes a mark.
func (o *Order) Mark(m *format.Mark) error {
	p := o.place(m.Topic, m.TopicID, m.Partition)
	if at, known := o.at[p]; known && m.Next < at && !m.Begins {
		return command.WithStatus(command.Corrupt,
			fmt.Errorf("%s/%d: a mark at offset %d behind %d, which does not say that it begins anew", m.Topic, m.Partition, m.Next, at))
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
	switch at, known := o.at[p]; {
	case known && from < at:
		return corrupt(m, fmt.Errorf("it begins at offset %d, and what is below %d has come before", from, at))
	case known && from > at:
		return corrupt(m, fmt.Errorf("it begins at offset %d where %d is due: what is between is missing", from, at))
	}
	o.set(p, max(from, next))
	return nil
}
