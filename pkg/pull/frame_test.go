package pull

import (
	"bytes"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/commitlog"
)

// TestDropFrom has a segment that scanned further than its part of a stream: where that part
// ends has to be said although no record is dropped, for the stream goes on from there.
func TestDropFrom(t *testing.T) {
	for name, test := range map[string]struct{ dropFrom, want int64 }{
		"all of it":                  {6, 0},
		"offsets without records go": {4, 4},
		"records go":                 {2, 2},
	} {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		if err := w.WriteHeader(&format.Header{Content: format.ContentSegments}); err != nil {
			t.Fatal(err)
		}
		data := []byte("data")
		seg := commitlog.Segment{Topic: "t", Content: commitlog.Content{
			From: 0, Next: 6, First: 0, Last: 3, Records: 4, Size: int64(len(data)), RawSize: 4, Form: &commitlog.Form{Codec: "none"}, SHA256: commitlog.HashOf(data),
		}}
		if err := writeSegment(w, commitlog.Chosen{Segment: seg, DropFrom: test.dropFrom}, data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(new(format.End)); err != nil {
			t.Fatal(err)
		}
		f, err := format.NewReader(&b, 0).Next()
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := format.DecodeSegment(f.Raw)
		if err != nil || m.DropFrom != test.want {
			t.Errorf("%s: drop_from %d instead of %d: %v", name, m.DropFrom, test.want, err)
		}
	}
}
