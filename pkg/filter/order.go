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

// records takes the offsets first to last: of a batch, or of one record.
func (o *order) records(p place, first, last int64) error {
	switch next := o.next[p]; {
	case first >= next:
		o.next[p] = last + 1
		return nil
	case first < o.marks[p]:
		return fmt.Errorf("%s: a record of offset %d comes after the mark of %d", p, first, o.marks[p])
	case first == next-1:
		return fmt.Errorf("%s: two records have offset %d", p, first)
	default:
		return fmt.Errorf("%s: a record of offset %d comes after offset %d", p, first, next-1)
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

// A passage is a record, a batch or a mark that is on its way to an order.
type passage struct {
	place
	offset, last int64 // of a mark the first alone
	mark, begins bool
}

// take takes passages in the order of the stream.
func (o *order) take(all []passage) error {
	for i := range all {
		var err error
		if s := &all[i]; s.mark {
			err = o.mark(s)
		} else {
			err = o.records(s.place, s.offset, s.last)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// passageOf is the passage of a frame that has no records. Only marks have one.
func passageOf(f *format.Frame) (s passage, ok bool, err error) {
	if f.Kind != format.KindMark {
		return s, false, nil
	}
	m, err := format.DecodeMark(f.Raw)
	if err != nil {
		return s, false, err
	}
	return passage{place: place{m.Topic, m.Partition}, offset: m.Next, mark: true, begins: m.Begins}, true, nil
}
