package filter

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// told is how many records that failed are named one by one.
const told = 5

// failures are the records that a change has failed on.
type failures struct {
	mu    sync.Mutex
	n     int64
	parts map[place]*failedPart
	tell  func(string) // says one to people; nil: nobody listens
}

type failedPart struct{ n, first, last int64 }

func (f *failures) add(r *format.Record, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; f.n <= told && f.tell != nil {
		f.tell(fmt.Sprintf("%s/%d, offset %d: %v", r.Topic, r.Partition, r.Offset, err))
	}
	p := place{r.Topic, r.Partition}
	part := f.parts[p]
	if part == nil {
		if f.parts == nil {
			f.parts = make(map[place]*failedPart)
		}
		part = &failedPart{first: r.Offset, last: r.Offset}
		f.parts[p] = part
	}
	part.n++
	part.first, part.last = min(part.first, r.Offset), max(part.last, r.Offset)
}

// lines say for each partition how many records were dropped. They go into backups, so
// nothing of a record is in them, and no message of a program, which may quote one.
func (f *failures) lines() (out []string) {
	for _, p := range slices.SortedFunc(maps.Keys(f.parts), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	}) {
		part := f.parts[p]
		at := fmt.Sprintf("at offset %d", part.first)
		if part.n > 1 {
			at = fmt.Sprintf("from offset %d to %d", part.first, part.last)
		}
		out = append(out, fmt.Sprintf("%s: kbk-filter dropped %s that --jq or --mask failed on, %s", p, command.Count(part.n, "record"), at))
	}
	return out
}

// An outcome is what a run has to say at its end.
type outcome struct {
	info, warn []string
	losses     []string // what was dropped because of failures
}

// outcome adds up what became of the records that were seen.
func (f *filter) outcome(seen, passed int64) (o outcome) {
	o.info = append(o.info, fmt.Sprintf("passed %s on", command.Count(passed, "record")))
	if (f.cfg.conditional() || f.cfg.change != nil && f.cfg.change.code != nil) && passed == 0 && seen > 0 && f.cfg.head != 0 {
		o.warn = append(o.warn, fmt.Sprintf("none of %s was picked", command.Count(seen, "record")))
	}
	ch := f.cfg.change
	if ch == nil {
		return o
	}
	for _, m := range ch.masks {
		hits, among := m.hits.Load(), m.among.Load()
		if hits == 0 && among > 0 {
			o.warn = append(o.warn, fmt.Sprintf("--mask %s hit nothing in %s: is the path right?", m.text, command.Count(among, "record")))
		} else {
			o.info = append(o.info, fmt.Sprintf("--mask %s hid %s in %s", m.text, command.Count(hits, "value"), command.Count(among, "record")))
		}
	}
	for _, ids := range []struct {
		flag    string
		given   map[uint32]uint32
		changed int64
	}{{"key-schema-id-map", ch.keyIDs, ch.mapped[0].Load()}, {"schema-id-map", ch.valueIDs, ch.mapped[1].Load()}} {
		switch {
		case ids.given == nil || passed == 0:
		case ids.changed == 0:
			o.warn = append(o.warn, fmt.Sprintf("--%s found none of its ids in %s", ids.flag, command.Count(passed, "record")))
		default:
			o.info = append(o.info, fmt.Sprintf("--%s changed %s", ids.flag, command.Count(ids.changed, "schema id")))
		}
	}
	switch n := ch.failed.n; {
	case n == 0:
	case ch.onError == "drop":
		o.losses = ch.failed.lines()
	default:
		o.warn = append(o.warn, fmt.Sprintf("--on-error pass let %s through unchanged", command.Count(n, "record")))
	}
	return o
}
