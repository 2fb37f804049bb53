package segment

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
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
		"a record that goes back":   {frames: but(3, rec(11)), want: "a record of offset 11 where 13 or above is due"},
		"a record twice":            {frames: but(3, rec(12)), want: "a record of offset 12 where 13 or above is due"},
		"a record below a mark":     {frames: but(4, rec(13)), want: "a record of offset 13 where 14 or above is due"},
		"a record outside":          {frames: append(good[:5:5], rec(20), mark(21)), want: "a record of offset 20 outside [10, 20)"},
		"no first mark":             {frames: append([]any{good[0]}, good[2:]...), want: "its marks are of [12, 20), not of [10, 20)"},
		"no last mark":              {frames: good[:5], want: "no mark behind its last record"},
		"a last mark below":         {frames: but(5, mark(18)), want: "its marks are of [10, 18), not of [10, 20)"},
		"a stream of segments":      {header: format.Header{Content: format.ContentSegments}, frames: good, want: "a stream of segments"},
		"a filter that is not said": {header: format.Header{Content: format.ContentRecords, Filters: []string{"kbk-filter:1"}}, frames: good, want: `by "kbk-filter:1", and it does not say so`},
		"a window that is not said": {header: format.Header{Content: format.ContentRecords, Window: new(format.Window)}, frames: good, want: `by "window", and it does not say so`},
		"a mark's filter":           {frames: but(5, filtered), want: `by "kbk-filter:1", and it does not say so`},
	} {
		if c.header.Content == "" {
			c.header.Content = format.ContentRecords
		}
		var plain bytes.Buffer
		w := format.NewWriter(&plain)
		ok(t, w.WriteHeader(&c.header))
		for _, f := range c.frames {
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
		records := int64(strings.Count(plain.String(), "crec"))
		sum := sha256.Sum256(plain.Bytes())
		m := &format.Segment{
			Topic: "orders", Partition: 3, From: 10, Next: 20, First: 12, Last: 15, Records: records, MinTimestamp: 1, MaxTimestamp: 1,
			Codec: None, RawSize: int64(plain.Len()), Size: int64(plain.Len()), SHA256: sum[:],
		}
		err := NewOpener(nil, 1<<20).Open(m, plain.Bytes(), func(*format.Frame) error { return nil })
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || command.StatusOf(err) != command.Corrupt):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
