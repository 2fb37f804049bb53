package segment

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/recordbatch/batchtest"
)

// TestInside puts into a segment what a packer never would. A segment says of itself that
// it is of orders/3, scanned offsets 10 to 19 and has records of 12 and 15.
func TestInside(t *testing.T) {
	mark := func(next int64) *format.Mark { return &format.Mark{Topic: "orders", Partition: 3, Next: next} }
	rec := func(offset int64) *format.Record {
		return &format.Record{Topic: "orders", Partition: 3, Offset: offset, Timestamp: 1}
	}
	good := []any{&format.Topic{Name: "orders", ID: "A"}, mark(10), rec(12), mark(14), rec(15), mark(20)}
	but := func(at int, frames ...any) []any { // good with others at a place
		return append(append(append([]any{}, good[:at]...), frames...), good[at+1:]...)
	}
	begins, other, id := mark(14), mark(14), mark(14)
	begins.Begins, other.Partition, id.TopicID = true, 4, "B"
	filtered := mark(20)
	filtered.Filters = []string{"kbk-filter:1"}
	for name, c := range map[string]struct {
		header format.Header
		frames []any
		want   string // "": it is good
	}{
		"as it should be":         {frames: good},
		"a kind of later":         {frames: but(3, []byte("\x81\x65later"))},
		"a mark of its end twice": {frames: append(good[:6:6], mark(20))},

		"a foreign mark":            {frames: but(3, other), want: "several partitions (orders/3, orders/4)"},
		"a mark of another topic":   {frames: but(3, &format.Mark{Topic: "pay", Next: 14}), want: "several topics (orders, pay)"},
		"a foreign record":          {frames: but(3, &format.Record{Topic: "pay", Partition: 3, Offset: 13}), want: "several topics (orders, pay)"},
		"a foreign topic":           {frames: but(0, &format.Topic{Name: "pay"}), want: "several topics (orders, pay)"},
		"a group":                   {frames: but(3, &format.Group{ID: "g"}), want: "a group frame"},
		"groups":                    {frames: but(3, &format.Groups{}), want: "a groups frame"},
		"a point":                   {frames: but(3, &format.Point{}), want: "a point frame"},
		"a map":                     {frames: but(3, &format.Map{Topic: "orders", TargetTopic: "o", Count: 1}), want: "a map frame"},
		"a batch":                   {frames: but(3, &format.Batch{Topic: "orders"}), want: "a batch frame"},
		"a segment":                 {frames: but(3, []byte("\x83\x63seg\xa0\x40")), want: "a seg frame"},
		"another topic id":          {frames: but(3, id), want: "two incarnations of topic orders (A, B)"},
		"a mark that begins":        {frames: but(3, begins), want: "a mark that begins anew"},
		"a mark that goes back":     {frames: but(3, mark(11)), want: "a mark at offset 11 behind 13"},
		"a record that goes back":   {frames: but(3, rec(11)), want: "a record of offset 11 where 13 or above is expected"},
		"a record twice":            {frames: but(3, rec(12)), want: "a record of offset 12 where 13 or above is expected"},
		"a record below a mark":     {frames: but(4, rec(13)), want: "a record of offset 13 where 14 or above is expected"},
		"a record outside":          {frames: append(good[:5:5], rec(20), mark(21)), want: "a record of offset 20 outside [10, 20)"},
		"no first mark":             {frames: append([]any{good[0]}, good[2:]...), want: "its marks are of [12, 20), not of [10, 20)"},
		"no last mark":              {frames: good[:5], want: "no mark behind its last record"},
		"a last mark below":         {frames: but(5, mark(18)), want: "its marks are of [10, 18), not of [10, 20)"},
		"a stream of segments":      {header: format.Header{Content: format.ContentSegments}, frames: good, want: `a stream of "segments"`},
		"a filter that is not said": {header: format.Header{Content: format.ContentRecords, Filters: []string{"kbk-filter:1"}}, frames: good, want: `by "kbk-filter:1", and it does not say so`},
		"a window that is not said": {header: format.Header{Content: format.ContentRecords, Window: new(format.Window)}, frames: good, want: `by "window", and it does not say so`},
		"a mark's filter":           {frames: but(5, filtered), want: `by "kbk-filter:1", and it does not say so`},
	} {
		if c.header.Content == "" {
			c.header.Content = format.ContentRecords
		}
		plain := streamOf(t, &c.header, c.frames)
		m := &format.Segment{Records: int64(bytes.Count(plain, []byte("crec")))}
		opens(t, name, m, plain, c.want)
	}
}

// TestInsideBatches does the same with batches: one of offsets 12 and 13, and one of 14 and 15.
func TestInsideBatches(t *testing.T) {
	mark := func(next int64) *format.Mark { return &format.Mark{Topic: "orders", Partition: 3, Next: next} }
	batch := func(topic string, partition int32, first int64) *format.Batch {
		rec := format.Record{Topic: topic, Partition: partition, Offset: first, Timestamp: 1}
		next := rec
		next.Offset++
		return batchtest.Frame(t, "lz4", rec, next)
	}
	good := []any{mark(10), batch("orders", 3, 12), batch("orders", 3, 14), mark(20)}
	but := func(at int, frames ...any) []any {
		return append(append(append([]any{}, good[:at]...), frames...), good[at+1:]...)
	}
	says := func(change func(b *format.Batch)) []any {
		b := batch("orders", 3, 12)
		change(b)
		return but(1, b)
	}
	for name, c := range map[string]struct {
		content string
		frames  []any
		want    string
	}{
		"as it should be":      {frames: good},
		"records beside":       {frames: but(2, &format.Record{Topic: "orders", Partition: 3, Offset: 14, Timestamp: 1}, &format.Record{Topic: "orders", Partition: 3, Offset: 15, Timestamp: 1})},
		"in records":           {content: format.ContentRecords, frames: good, want: "a batch frame in a stream of records"},
		"of another topic":     {frames: but(2, batch("pay", 3, 14)), want: "several topics (orders, pay)"},
		"of another partition": {frames: but(2, batch("orders", 4, 14)), want: "several partitions (orders/3, orders/4)"},
		"twice":                {frames: but(2, batch("orders", 3, 12)), want: "a batch of offset 12 where 14 or above is expected"},
		"that overlap":         {frames: but(2, batch("orders", 3, 13)), want: "a batch of offset 13 where 14 or above is expected"},
		"outside":              {frames: append(good[:3:3], batch("orders", 3, 19), mark(21)), want: "a batch of offsets 19 to 20 outside [10, 20)"},
		"a changed byte":       {frames: says(func(b *format.Batch) { b.Data[len(b.Data)-1] ^= 1 }), want: "checksum"},
		"other offsets":        {frames: says(func(b *format.Batch) { b.First, b.Last = 11, 12 }), want: "the record batch holds 2 records of offsets 12 to 13"},
		"other records":        {frames: says(func(b *format.Batch) { b.Records = 1 }), want: "record"},
		"another time":         {frames: says(func(b *format.Batch) { b.MaxTimestamp = 2 }), want: "up to time 1"},
		"a part of one":        {frames: says(func(b *format.Batch) { b.Data = b.Data[:len(b.Data)-1] }), want: "inside:"},
		"more than one":        {frames: says(func(b *format.Batch) { b.Data = append(b.Data, b.Data...) }), want: "behind the record batch"},
	} {
		if c.content == "" {
			c.content = format.ContentBatches
		}
		opens(t, name, &format.Segment{Records: 4, Content: c.content}, streamOf(t, &format.Header{Content: c.content}, c.frames), c.want)
	}
}

// streamOf is a stream of frames, and of bytes that stand for a frame.
func streamOf(t *testing.T, h *format.Header, frames []any) []byte {
	t.Helper()
	var plain bytes.Buffer
	w := format.NewWriter(&plain)
	ok(t, w.WriteHeader(h))
	for _, f := range frames {
		switch f := f.(type) {
		case []byte:
			ok(t, w.WriteRaw(f))
		case *format.Record:
			ok(t, w.WriteRecord(f))
		case format.Encoder:
			ok(t, w.Write(f))
		}
	}
	ok(t, w.Close(&format.End{}))
	return plain.Bytes()
}

// opens opens a segment that says of itself that it is of orders/3, scanned offsets 10 to 19,
// and begins with offset 12 and ends with 15. It fails and says so, or, where want is empty,
// does not.
func opens(t *testing.T, name string, m *format.Segment, plain []byte, want string) {
	t.Helper()
	sum := sha256.Sum256(plain)
	m.Topic, m.Partition, m.From, m.Next, m.First, m.Last, m.MinTimestamp, m.MaxTimestamp = "orders", 3, 10, 20, 12, 15, 1, 1
	m.Codec, m.RawSize, m.Size, m.SHA256 = None, int64(len(plain)), int64(len(plain)), sum[:]
	err := NewOpener(nil, 1<<20).Open(m, plain, func(*format.Frame) error { return nil })
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want) || command.StatusOf(err) != command.Corrupt):
		t.Errorf("%s: %v, want %q", name, err, want)
	}
}

// TestDescribe describes streams that are no segments: what it takes for one opens by what it
// says of it.
func TestDescribe(t *testing.T) {
	whole := []any{&format.Mark{Topic: "t"}, &format.Record{Topic: "t"}, &format.Mark{Topic: "t", Next: 1}}
	for name, c := range map[string]struct {
		content string
		frames  []any
		want    string // "": it is one
	}{
		"records":                 {format.ContentRecords, whole, ""},
		"batches":                 {format.ContentBatches, whole, ""},
		"segments":                {format.ContentSegments, whole, `a stream of "segments"`},
		"nothing that is named":   {"", whole, `a stream of ""`},
		"what nobody knows":       {"later", whole, `a stream of "later"`},
		"no mark behind":          {format.ContentRecords, whole[:2], "no mark behind its last record"},
		"no record":               {format.ContentRecords, whole[:1], "it holds no records"},
		"a record below its mark": {format.ContentRecords, []any{whole[2], whole[1], whole[2]}, "a record of offset 0 where 1 or above is expected"},
	} {
		data := streamOf(t, &format.Header{Content: c.content}, c.frames)
		m, err := Describe(None, data, 1<<20)
		switch {
		case c.want != "":
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", name, err, c.want)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		default:
			ok(t, NewOpener(nil, 1<<20).Open(m, data, func(*format.Frame) error { return nil }))
		}
	}
}
