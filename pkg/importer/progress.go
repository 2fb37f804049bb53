package importer

import (
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/foreign"
)

// A progress is how far a partition has come. It writes the marks: they claim what the
// backup shows, and no more.
type progress struct {
	partition
	begun       bool
	first, next int64 // the first offset, and the one behind the last
	bounded     bool  // next is the end of what was asked for, not of the backup
	holes       [][2]int64

	last       *foreign.File // of a mixed backup: where the last record was, and its offset
	lastOffset int64
}

func newProgress(p partition) *progress { return &progress{partition: p} }

func (p *progress) inHole(offset int64) bool {
	return slices.ContainsFunc(p.holes, func(h [2]int64) bool { return h[0] <= offset && offset < h[1] })
}

// begin writes the first mark.
func (p *progress) begin(w *format.Writer, offset int64) error {
	p.begun, p.first, p.next = true, offset, offset
	return p.mark(w)
}

// advance comes to an offset. What is before it was scanned, or else is cut into what the
// tool knows to be lost and holes. lost ascends.
func (p *progress) advance(w *format.Writer, offset int64, scanned bool, lost [][2]int64) error {
	if !p.begun {
		from := offset
		if len(lost) > 0 {
			from = min(from, lost[0][0])
		}
		if err := p.begin(w, from); err != nil {
			return err
		}
	}
	if scanned {
		p.next = max(p.next, offset)
		return nil
	}
	for _, s := range split(p.next, offset, lost) {
		if err := p.pass(w, s); err != nil {
			return err
		}
	}
	return nil
}

func (p *progress) pass(w *format.Writer, s stretch) error {
	m := &format.Mark{Topic: p.topic, Partition: p.number, Next: s.next}
	if s.lost {
		m.Lost = [][2]int64{{p.next, s.next}}
	} else {
		if err := p.mark(w); err != nil { // up to the hole
			return err
		}
		m.Begins = true
		p.holes = append(p.holes, [2]int64{p.next, s.next})
	}
	p.next = s.next
	return w.Write(m)
}

// mark says that all is scanned up to where the partition has come to.
func (p *progress) mark(w *format.Writer) error {
	return w.Write(&format.Mark{Topic: p.topic, Partition: p.number, Next: p.next})
}

// A stretch is offsets up to next without a record.
type stretch struct {
	next int64
	lost bool // or not known
}

// split cuts [from, next) where lost ranges, which ascend, begin and end.
func split(from, next int64, lost [][2]int64) (out []stretch) {
	for _, l := range lost {
		if l[1] <= from || l[0] >= next {
			continue
		}
		if l[0] > from {
			out = append(out, stretch{l[0], false})
		}
		from = min(l[1], next)
		out = append(out, stretch{from, true})
	}
	if from < next {
		out = append(out, stretch{next, false})
	}
	return out
}
