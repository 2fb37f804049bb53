package push

import (
	"bytes"
	"io"
	"testing"

	"github.com/kbkio/kbk/format"
)

// TestCounters stores two segments, and then the same line again.
func TestCounters(t *testing.T) {
	first, second := []byte("the first segment"), []byte("the second segment")
	in := stream(t, &format.End{Records: 20, Segments: 2}, func(w *format.Writer) {
		mark(t, w, 0, format.MarkInfo{})
		ok(t, w.WriteSegment(segmentOf(0, 10, first), first))
		ok(t, w.WriteSegment(segmentOf(10, 20, second), second))
		mark(t, w, 20, format.MarkInfo{})
	})
	remote, size := t.TempDir(), int64(len(first)+len(second))
	env := testEnv(io.Discard)
	ok(t, Run(t.Context(), testConfig(remote), env, bytes.NewReader(in), io.Discard))
	c := env.Counters.Snapshot()
	if c.Records != 20 || c.Committed != 20 || c.There != 0 || c.Segments != 2 || c.SegmentsThere != 0 || c.BytesIn != int64(len(in)) || c.BytesRaw != size || c.BytesPacked != size ||
		c.Commits != 1 || c.LastCommit.IsZero() || !c.Ready || c.Pending != 0 || c.WaitsForInput || c.WaitsForOutput || c.OutputWait == 0 {
		t.Errorf("%+v", c)
	}
	if _, count, _ := env.Counters.Uploads.Buckets(); count != 2 {
		t.Errorf("%d uploads were timed", count)
	}
	again := testEnv(io.Discard)
	ok(t, Run(t.Context(), testConfig(remote), again, bytes.NewReader(in), io.Discard))
	if c := again.Counters.Snapshot(); c.Records != 0 || c.There != 20 || c.SegmentsThere != 2 || c.Commits != 1 || c.Pending != 0 {
		t.Errorf("again: %+v", c)
	}
}
