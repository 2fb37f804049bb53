package offsets

import (
	"cmp"
	"slices"

	"github.com/kbkio/kbk/format"
)

// coverage is what a backup, by its marks, says of each source partition. It grows
// with partitions and not with records or marks.
type coverage map[place]*covered

type covered struct {
	spans   [][2]int64 // offsets [from, next) that were scanned, as they came
	lost    [][2]int64
	through int64 // every offset below is in the backup, or is known not to be
	start   int64 // what the partition began with when the first of spans was scanned
}

// A marker puts the marks of one stream into a coverage.
type marker struct {
	coverage
	open map[place]int // index in spans of what the next mark extends
}

func (c coverage) marker() *marker { return &marker{c, make(map[place]int)} }

func (c coverage) of(p place) *covered {
	if c[p] == nil {
		c[p] = new(covered)
	}
	return c[p]
}

// mark takes the next mark of a stream.
func (m *marker) mark(f *format.Mark) {
	p := place{f.Topic, f.Partition}
	c := m.of(p)
	i, ok := m.open[p]
	if !ok || f.Begins {
		first := true
		for _, s := range c.spans {
			first = first && f.Next < s[0]
		}
		if first {
			c.start = f.Next
			if f.LogStart != nil {
				c.start = min(c.start, *f.LogStart)
			}
		}
		m.open[p] = len(c.spans)
		c.spans = append(c.spans, [2]int64{f.Next, f.Next})
	} else {
		c.spans[i][1] = max(c.spans[i][1], f.Next)
	}
	for _, l := range f.Lost {
		if !slices.Contains(c.lost, l) {
			c.lost = append(c.lost, l)
		}
	}
	c.through = max(c.through, f.Next)
}

// restored says that records up to an offset were restored, marks or not.
func (c coverage) restored(p place, next int64) {
	v := c.of(p)
	v.through = max(v.through, next)
}

// missing returns how many offsets of [from, to) the marks do not speak of, or name
// as lost. What had expired when the backup was begun is not missing from it, and
// without marks nothing is known to be.
func (c *covered) missing(from, to int64) int64 {
	if len(c.spans) == 0 {
		return 0
	}
	if from = max(from, c.start); from >= to {
		return 0
	}
	spans := slices.Clone(c.spans)
	slices.SortFunc(spans, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	var n int64
	at := from
	for _, s := range spans {
		if s[0] > at {
			n += min(s[0], to) - at
		}
		if at = max(at, s[1]); at >= to {
			break
		}
		at = max(at, from)
	}
	if at < to {
		n += to - at
	}
	for _, l := range c.lost {
		n += max(0, min(l[1], to)-max(l[0], from))
	}
	return n
}
