package filter

import (
	"fmt"

	"github.com/kbkio/kbk/format"
)

// A place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

func (p place) String() string { return fmt.Sprintf("%s/%d", p.topic, p.partition) }

// An order watches that the offsets of each partition ascend, as format/SPEC.md wants it:
// none twice, none below a mark. Programs make several records of one, and records that
// move to one partition come from several.
type order struct {
	next  map[place]int64 // what may come now
	marks map[place]int64
}

func newOrder() *order {
	return &order{make(map[place]int64), make(map[place]int64)}
}

func (o *order) record(p place, offset int64) error {
	switch next := o.next[p]; {
	case offset >= next:
		o.next[p] = offset + 1
		return nil
	case offset < o.marks[p]:
		return fmt.Errorf("%s: a record of offset %d comes after the mark of %d", p, offset, o.marks[p])
	case offset == next-1:
		return fmt.Errorf("%s: two records have offset %d", p, offset)
	default:
		return fmt.Errorf("%s: a record of offset %d comes after offset %d", p, offset, next-1)
	}
}

func (o *order) mark(s *passage) error {
	if before := o.marks[s.place]; s.offset < before && !s.begins {
		return fmt.Errorf("%s: a mark of %d comes after one of %d", s.place, s.offset, before)
	}
	o.marks[s.place] = s.offset
	if o.next[s.place] < s.offset || s.begins {
		o.next[s.place] = s.offset
	}
	return nil
}

// A passage is a record or a mark that is on its way to an order.
type passage struct {
	place
	offset       int64
	mark, begins bool
}

// take takes passages in the order of the stream.
func (o *order) take(all []passage) error {
	for i := range all {
		var err error
		if s := &all[i]; s.mark {
			err = o.mark(s)
		} else {
			err = o.record(s.place, s.offset)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// passageOf is the passage of a frame that is no record. Only marks have one.
func passageOf(f *format.Frame) (s passage, ok bool, err error) {
	if f.Kind != format.KindMark {
		return s, false, nil
	}
	m, err := format.DecodeMark(f.Raw)
	if err != nil {
		return s, false, err
	}
	return passage{place{m.Topic, m.Partition}, m.Next, true, m.Begins}, true, nil
}
