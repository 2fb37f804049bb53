package segment

import (
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

func TestOrder(t *testing.T) {
	seg := func(from, next int64) *format.Segment {
		return &format.Segment{Topic: "t", TopicID: "A", From: from, Next: next, First: from, Last: next - 1}
	}
	below := func(s *format.Segment, offset int64) *format.Segment { s.DropBelow = offset; return s }
	cut := func(s *format.Segment, offset int64) *format.Segment { s.DropFrom = offset; return s }
	of := func(s *format.Segment, id string) *format.Segment { s.TopicID = id; return s }
	mark := func(next int64) *format.Mark { return &format.Mark{Topic: "t", Next: next} }
	begins := func(next int64) *format.Mark {
		return &format.Mark{Topic: "t", Next: next, MarkInfo: format.MarkInfo{Begins: true}}
	}
	rec := func(offset int64) *format.Record { return &format.Record{Topic: "t", Offset: offset} }
	batch := func(first, last int64) *format.Batch { return &format.Batch{Topic: "t", First: first, Last: last} }
	of1 := func(r *format.Record) *format.Record { r.Partition = 1; return r }
	named := func(next int64, id string) *format.Mark {
		return &format.Mark{Topic: "t", Next: next, MarkInfo: format.MarkInfo{TopicID: id}}
	}
	topic := func(id string) *format.Topic { return &format.Topic{Name: "t", ID: id} }
	window := &format.Window{Offsets: map[string]map[int32][2]int64{"t": {0: {5, 15}}}}
	for name, c := range map[string]struct {
		window *format.Window
		frames []any
		want   string // "": all is well; else what is said of the last one
	}{
		"end to start":           {nil, []any{topic("A"), mark(0), seg(0, 10), seg(10, 20), mark(20), mark(25), seg(25, 30)}, ""},
		"without marks":          {nil, []any{seg(5, 10), seg(10, 20)}, ""},
		"an overlap":             {nil, []any{seg(0, 10), below(seg(5, 20), 10)}, ""},
		"begins anew":            {nil, []any{topic("A"), seg(0, 10), begins(20), seg(20, 30), begins(5), seg(5, 10)}, ""},
		"a branch":               {nil, []any{topic("A"), cut(seg(0, 10), 6), begins(6), seg(6, 9)}, ""},
		"another incarnation":    {nil, []any{topic("A"), mark(0), seg(0, 10), topic("B"), mark(0), of(seg(0, 5), "B"), seg(10, 20)}, ""},
		"a window":               {window, []any{topic("A"), mark(5), seg(0, 10), seg(10, 20), mark(15)}, ""},
		"a segment twice":        {nil, []any{seg(0, 10), seg(0, 10)}, "segment of t/0, offsets 0 to 9: it begins at offset 0, and what is below 10 has come before"},
		"an overlap not told":    {nil, []any{seg(0, 10), seg(5, 20)}, "it begins at offset 5, and what is below 10 has come before"},
		"an overlap told wrong":  {nil, []any{seg(0, 10), below(seg(5, 20), 8)}, "it begins at offset 8, and what is below 10 has come before"},
		"more dropped":           {nil, []any{seg(0, 10), below(seg(5, 20), 12)}, "it begins at offset 12 where 10 is expected"},
		"a segment is missing":   {nil, []any{seg(0, 10), seg(20, 30)}, "it begins at offset 20 where 10 is expected: what is between is missing"},
		"missing behind a mark":  {nil, []any{topic("A"), mark(0), seg(10, 20)}, "it begins at offset 10 where 0 is expected"},
		"out of order":           {nil, []any{seg(10, 20), seg(0, 10)}, "it begins at offset 0, and what is below 20 has come before"},
		"a mark that goes back":  {nil, []any{topic("A"), mark(0), seg(0, 10), mark(5)}, "t/0: a mark at offset 5 behind 10"},
		"a mark behind another":  {nil, []any{mark(12), mark(5)}, "t/0: a mark at offset 5 behind 12"},
		"behind what was cut":    {nil, []any{topic("A"), cut(seg(0, 10), 6), seg(10, 20)}, "it begins at offset 10 where 6 is expected"},
		"records":                {nil, []any{rec(5), rec(6), rec(9), mark(9 + 1), rec(10), mark(12), rec(12)}, ""},
		"records, mixed":         {nil, []any{topic("A"), mark(0), rec(0), of1(rec(7)), rec(1), of1(rec(8)), mark(2)}, ""},
		"records, anew":          {nil, []any{topic("A"), mark(0), rec(0), rec(1), begins(1), rec(1)}, ""},
		"records of another one": {nil, []any{topic("A"), mark(0), rec(0), topic("B"), mark(0), rec(0)}, ""},
		"a record twice":         {nil, []any{rec(5), rec(5)}, "t/0: record of offset 5 where 6 or above is expected"},
		"a record too late":      {nil, []any{topic("A"), rec(5), of1(rec(0)), rec(4)}, "t/0: record of offset 4 where 6 or above is expected"},
		"a record below a mark":  {nil, []any{mark(5), rec(4)}, "t/0: record of offset 4 where 5 or above is expected"},
		"a mark below a record":  {nil, []any{rec(5), mark(5)}, "t/0: a mark at offset 5 behind 6"},
		"a mark with an id":      {nil, []any{rec(5), named(5, "A")}, "t/0: a mark at offset 5 behind 6"},
		"behind one with an id":  {nil, []any{rec(5), named(8, "A"), rec(7)}, "t/0: record of offset 7 where 8 or above is expected"},
		"batches":                {nil, []any{mark(5), batch(5, 9), rec(10), batch(12, 12), mark(13)}, ""},
		"a batch that overlaps":  {nil, []any{batch(5, 9), batch(9, 12)}, "t/0: record of offset 9 where 10 or above is expected"},
		"a record in a batch":    {nil, []any{batch(5, 9), rec(8)}, "t/0: record of offset 8 where 10 or above is expected"},
		"below a window's bound": {window, []any{topic("A"), mark(5), seg(0, 10), mark(9)}, "a mark at offset 9 behind 10"},
	} {
		o := &Order{Window: c.window}
		for i, f := range c.frames {
			var err error
			switch f := f.(type) {
			case *format.Topic:
				o.Topic(f)
			case *format.Record:
				err = o.Record(f.Topic, f.Partition, f.Offset)
			case *format.Batch:
				err = o.Batch(f.Topic, f.Partition, f.First, f.Last)
			case *format.Mark:
				err = o.Mark(f)
			case *format.Segment:
				err = o.Segment(f)
			}
			bad := c.want != "" && i == len(c.frames)-1
			if bad != (err != nil) || bad && (!strings.Contains(err.Error(), c.want) || command.StatusOf(err) != command.Corrupt) {
				t.Errorf("%s, frame %d: %v, want %q", name, i, err, c.want)
			}
		}
	}
}
