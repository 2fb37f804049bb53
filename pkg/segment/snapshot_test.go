package segment

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
)

// TestDescribeSnapshot: what would be listed can be opened, and what cannot be opened is not listed.
func TestDescribeSnapshot(t *testing.T) {
	for _, c := range []struct{ name, content, refused string }{
		{"a snapshot", format.ContentRecords, ""},
		{"a stream of batches", format.ContentBatches, "it is a stream of batches"},
	} {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		must(t, w.WriteHeader(&format.Header{Content: c.content}))
		must(t, w.Write(&format.Cluster{ID: "1", Time: 2, ClusterInfo: format.ClusterInfo{Kinds: []string{format.ClusterUsers}}}))
		must(t, w.Write(&format.User{Name: "alice"}))
		must(t, w.Close(new(format.End)))
		o := NewOpener(nil, 1<<20)
		m, err := o.DescribeSnapshot("none", "", b.Bytes())
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		must(t, err)
		frames := 0
		must(t, o.OpenSnapshot(m, b.Bytes(), func(*format.Frame) error { frames++; return nil }))
		if frames != 2 || m.Frames["user"] != 1 {
			t.Errorf("%s: %d frames, %v", c.name, frames, m.Frames)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
