package histories

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
)

// A place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

func (p place) String() string { return fmt.Sprintf("%s/%d", p.topic, p.partition) }

// An entry is a record in a log.
type entry struct {
	offset int64
	id     string // its key
	digest digest

	producer int64 // of a transaction, in a log in Kafka; otherwise -1
}

// A marker is where Kafka has ended a transaction of a producer.
type marker struct {
	offset, producer int64
	committed        bool
}

// A content is what topics hold, or a stream.
type content struct {
	logs map[place][]entry
	ends map[place]int64 // as far as each is known; the end of the last mark of a stream

	markers map[place][]marker       // of logs in Kafka
	dropped []string                 // see dropAborted
	groups  map[string]*format.Group // of a stream: the last frame of each
	lost    []string                 // what the stream says is not there
}

func newContent() *content {
	return &content{logs: make(map[place][]entry), ends: make(map[place]int64), markers: make(map[place][]marker), groups: make(map[string]*format.Group)}
}

func (c *content) add(at place, e entry) { c.logs[at] = append(c.logs[at], e) }

// records counts.
func (c *content) records() (n int) {
	for _, log := range c.logs {
		n += len(log)
	}
	return n
}

// as is the same content under other names of topics.
func (c *content) as(rename func(string) string) *content {
	out := newContent()
	for at, log := range c.logs {
		out.logs[place{rename(at.topic), at.partition}] = log
	}
	for at, end := range c.ends {
		out.ends[place{rename(at.topic), at.partition}] = end
	}
	return out
}

// below is the part of a content that is below the ends of another.
func (c *content) below(ends map[place]int64) *content {
	out := newContent()
	for at, log := range c.logs {
		for _, e := range log {
			if e.offset < ends[at] {
				out.add(at, e)
			}
		}
	}
	return out
}

// next is the record that a reader comes to at an offset.
func (c *content) next(at place, offset int64) (entry, bool) {
	log := c.logs[at]
	i, _ := slices.BinarySearchFunc(log, offset, func(e entry, o int64) int { return int(e.offset - o) })
	if i == len(log) {
		return entry{}, false
	}
	return log[i], true
}

// readStream reads a stream of records, which must have its end.
func readStream(name string) (*content, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := newContent()
	for r := format.NewReader(f, 0); ; {
		f, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err == nil {
			err = out.take(f)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (c *content) take(f *format.Frame) error {
	switch f.Kind {
	case format.KindRec:
		var r format.Record
		if err := f.Record(&r); err != nil {
			return err
		}
		c.add(place{r.Topic, r.Partition}, entry{offset: r.Offset, id: string(r.Key), digest: digestOfFrame(&r)})
	case format.KindMark:
		m, err := format.DecodeMark(f.Raw)
		if err != nil {
			return err
		}
		at := place{m.Topic, m.Partition}
		c.ends[at] = m.Next
		if len(m.Lost) > 0 || m.Branch || m.Deleted {
			c.lost = append(c.lost, fmt.Sprintf("%s: lost %v, branch %t, deleted %t", at, m.Lost, m.Branch, m.Deleted))
		}
	case format.KindGroup:
		g, err := format.DecodeGroup(f.Raw)
		if err != nil {
			return err
		}
		c.groups[g.ID] = g
	case format.KindEnd:
		e, err := format.DecodeEnd(f.Raw)
		if err != nil {
			return err
		}
		c.lost = append(c.lost, e.Losses...)
	}
	return nil
}

// bounds are the first and the last records of the logs, a line each.
func (c *content) bounds() string {
	var b strings.Builder
	for _, at := range slices.SortedFunc(maps.Keys(c.logs), func(a, b place) int { return strings.Compare(a.String(), b.String()) }) {
		log := c.logs[at]
		fmt.Fprintf(&b, "\n\t%s: %d records, from offset %d to %d", at, len(log), log[0].offset, log[len(log)-1].offset)
	}
	return b.String()
}

// A tally is what a comparison has found.
type tally struct {
	compared, lost, doubled, altered, reordered, leaked, invented, moved int
	examples                                                             []string
}

func (t *tally) found(n *int, format string, args ...any) {
	*n++
	if len(t.examples) < 10 {
		t.examples = append(t.examples, fmt.Sprintf(format, args...))
	}
}

func (t *tally) bad() bool {
	return t.lost+t.doubled+t.altered+t.reordered+t.leaked+t.invented+t.moved > 0
}

func (t *tally) add(o tally) {
	t.compared += o.compared
	t.lost += o.lost
	t.doubled += o.doubled
	t.altered += o.altered
	t.reordered += o.reordered
	t.leaked += o.leaked
	t.invented += o.invented
	t.moved += o.moved
}

func (t *tally) String() string {
	s := fmt.Sprintf("%d compared: lost %d, doubled %d, altered %d, reordered %d, of aborted transactions %d, from nowhere %d, at other offsets %d",
		t.compared, t.lost, t.doubled, t.altered, t.reordered, t.leaked, t.invented, t.moved)
	if len(t.examples) > 0 {
		s += "\n\t" + strings.Join(t.examples, "\n\t")
	}
	return s
}

// compare holds what there is against what there should be. A record that should not be
// there is of an aborted transaction, or from nowhere.
func compare(want, got *content, exact bool, wasAborted func(id string) bool) (t tally) {
	seen := make(map[place]bool)
	for at := range want.logs {
		seen[at] = true
	}
	for at := range got.logs {
		seen[at] = true
	}
	for at := range seen {
		t.compareLog(at, want.logs[at], got.logs[at], exact, wasAborted)
	}
	return t
}

func (t *tally) compareLog(at place, want, got []entry, exact bool, wasAborted func(id string) bool) {
	where := make(map[string]int, len(want))
	for i, e := range want {
		where[e.id] = i
	}
	times := make(map[string]int, len(got))
	last := -1
	for _, e := range got {
		times[e.id]++
		i, ok := where[e.id]
		switch {
		case !ok && wasAborted(e.id):
			t.found(&t.leaked, "%s: %s at %d is of an aborted transaction", at, e.id, e.offset)
			continue
		case !ok:
			t.found(&t.invented, "%s: %s at %d is from nowhere", at, e.id, e.offset)
			continue
		case times[e.id] > 1:
			t.found(&t.doubled, "%s: %s at %d is there again", at, e.id, e.offset)
			continue
		case i < last:
			t.found(&t.reordered, "%s: %s at %d comes late", at, e.id, e.offset)
		}
		last = max(last, i)
		if e.digest != want[i].digest {
			t.found(&t.altered, "%s: %s at %d is not what it was", at, e.id, e.offset)
		}
		if exact && e.offset != want[i].offset {
			t.found(&t.moved, "%s: %s is at %d, not at %d", at, e.id, e.offset, want[i].offset)
		}
	}
	for _, e := range want {
		t.compared++
		if times[e.id] == 0 {
			t.found(&t.lost, "%s: %s at %d is missing", at, e.id, e.offset)
		}
	}
}

// dropAborted drops the records of a log whose transaction Kafka has aborted, as the log's own markers
// say, and notes which they were. franz-go's consumer, which goes by the list of aborted transactions
// that a broker sends with the records, was seen to show such a record; what kbk-fetch had read from
// the same partition before did not have it.
func (c *content) dropAborted(at place) {
	c.logs[at] = slices.DeleteFunc(c.logs[at], func(e entry) bool {
		m, ok := c.endOf(at, e)
		if !ok || m.committed {
			return false
		}
		c.dropped = append(c.dropped, fmt.Sprintf("%s: %s at %d, %s", at, e.id, e.offset, c.ended(at, e)))
		return true
	})
}

// endOf is the marker that ends the transaction of a record.
func (c *content) endOf(at place, e entry) (m marker, ok bool) {
	i := slices.IndexFunc(c.markers[at], func(m marker) bool { return m.producer == e.producer && m.offset > e.offset })
	if i < 0 {
		return m, false
	}
	return c.markers[at][i], true
}

// ended says how Kafka has ended the transaction of a record.
func (c *content) ended(at place, e entry) string {
	switch m, ok := c.endOf(at, e); {
	case !ok:
		return "not ended"
	case m.committed:
		return fmt.Sprintf("committed by the marker at %d", m.offset)
	default:
		return fmt.Sprintf("aborted by the marker at %d", m.offset)
	}
}

// hold holds what Kafka has, in the end, against what the writers know.
func (l *ledger) hold(truth *content) (t tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	there := make(map[string]bool)
	for at, log := range truth.logs {
		last := make(map[string]string) // by writer, of those that write in order
		for _, e := range log {
			w, ok := l.all[e.id]
			writer := e.id[:strings.LastIndexByte(e.id, '-')]
			switch {
			case !ok:
				t.found(&t.invented, "%s: nobody has sent %s", at, e.id)
				continue
			case there[e.id]:
				t.found(&t.doubled, "%s: %s at %d is there again", at, e.id, e.offset)
			case w.fate == aborted:
				t.found(&t.leaked, "%s: %s at %d is of an aborted transaction, %s", at, e.id, e.offset, truth.ended(at, e))
			case w.digest != e.digest || w.topic != at.topic || w.partition != at.partition:
				t.found(&t.altered, "%s: %s at %d is not what was sent", at, e.id, e.offset)
			case w.fate == confirmed && w.offset != e.offset:
				t.found(&t.moved, "%s: %s is at %d, not at %d", at, e.id, e.offset, w.offset)
			case e.id < last[writer]:
				t.found(&t.reordered, "%s: %s at %d comes late", at, e.id, e.offset)
			}
			there[e.id] = true
			last[writer] = e.id
		}
	}
	for id, w := range l.all {
		if w.fate == confirmed {
			t.compared++
			if !there[id] {
				t.found(&t.lost, "%s/%d: %s at %d was acknowledged, and is missing", w.topic, w.partition, id, w.offset)
			}
		}
	}
	return t
}

func (l *ledger) wasAborted(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok := l.all[id]
	return ok && w.fate == aborted
}

// TestCompare makes sure that the comparison sees each sort of fault.
func TestCompare(t *testing.T) {
	at := place{"t", 0}
	make := func(ids ...string) *content {
		c := newContent()
		for i, id := range ids {
			c.add(at, entry{offset: int64(i), id: id})
		}
		return c
	}
	altered := make("a", "b", "c")
	altered.logs[at][1].digest[0] = 1
	want := make("a", "b", "c")
	for name, x := range map[string]struct {
		got   *content
		exact bool
		found func(tally) int
	}{
		"lost":      {make("a", "c"), false, func(t tally) int { return t.lost }},
		"doubled":   {make("a", "b", "b", "c"), false, func(t tally) int { return t.doubled }},
		"altered":   {altered, true, func(t tally) int { return t.altered }},
		"reordered": {make("b", "a", "c"), false, func(t tally) int { return t.reordered }},
		"leaked":    {make("a", "b", "c", "aborted"), true, func(t tally) int { return t.leaked }},
		"invented":  {make("a", "b", "c", "d"), true, func(t tally) int { return t.invented }},
		"moved":     {make("a", "b", "b", "c"), true, func(t tally) int { return t.moved }},
	} {
		got := compare(want, x.got, x.exact, func(id string) bool { return id == "aborted" })
		if x.found(got) != 1 || got.compared != 3 {
			t.Errorf("%s: %s", name, &got)
		}
	}
	if got := compare(want, make("a", "b", "c"), true, func(string) bool { return false }); got.bad() {
		t.Errorf("what is the same: %s", &got)
	}
}

// TestDropAborted goes by the first marker of a record's producer behind it.
func TestDropAborted(t *testing.T) {
	at := place{"t", 0}
	c := newContent()
	for _, e := range []entry{{offset: 0, id: "plain", producer: -1}, {offset: 1, id: "aborted", producer: 7}, {offset: 2, id: "of another", producer: 8},
		{offset: 4, id: "committed", producer: 7}, {offset: 6, id: "open", producer: 7}} {
		c.add(at, e)
	}
	c.markers[at] = []marker{{0, 7, true}, {3, 7, false}, {5, 7, true}}
	c.dropAborted(at)
	var ids []string
	for _, e := range c.logs[at] {
		ids = append(ids, e.id)
	}
	if got := strings.Join(ids, ", "); got != "plain, of another, committed, open" || len(c.dropped) != 1 || c.dropped[0] != "t/0: aborted at 1, aborted by the marker at 3" {
		t.Errorf("it has %s, and dropped %q", got, c.dropped)
	}
}

// TestLeakedSaysHowItEnded has Kafka show a transaction that its writer had given up.
func TestLeakedSaysHowItEnded(t *testing.T) {
	at := place{"t", 0}
	l := &ledger{all: map[string]*written{"w-1": {topic: "t", fate: aborted}}}
	for _, c := range []struct {
		markers []marker
		want    string
	}{
		{[]marker{{3, 7, true}, {6, 8, true}, {9, 7, true}}, "committed by the marker at 9"},
		{[]marker{{6, 7, false}, {9, 7, true}}, "aborted by the marker at 6"},
		{nil, "not ended"},
	} {
		truth := newContent()
		truth.add(at, entry{offset: 5, id: "w-1", producer: 7})
		truth.markers[at] = c.markers
		if got := l.hold(truth); got.leaked != 1 || !strings.HasSuffix(got.examples[0], c.want) {
			t.Errorf("%d leaked: %v, want %s", got.leaked, got.examples, c.want)
		}
	}
}
