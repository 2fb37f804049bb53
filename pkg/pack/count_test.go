package pack

import (
	"bytes"
	"testing"

	"github.com/kbkio/kbk/format"
)

// TestCounters packs records of two partitions.
func TestCounters(t *testing.T) {
	in := stream(t, random(1, 2, 1000))
	env, out := testEnv(), new(bytes.Buffer)
	ok(t, Pack(t.Context(), testConfig(), env, bytes.NewReader(in), out))
	var records, raw, size, segments int64
	for _, f := range frames(t, out.Bytes()) {
		if f.Kind == format.KindSeg {
			m, _, err := format.DecodeSegment(f.Raw)
			ok(t, err)
			records, raw, size, segments = records+m.Records, raw+m.RawSize, size+m.Size, segments+1
		}
	}
	c := env.Counters.Snapshot()
	if segments == 0 || c.Records != records || c.Segments != segments || c.BytesRaw != raw || c.BytesPacked != size || c.BytesIn != int64(len(in)) || c.BytesOut != int64(out.Len()) ||
		c.Pending != 0 || !c.Ready {
		t.Errorf("%d records in %d segments of %d and %d bytes: %+v", records, segments, raw, size, c)
	}
}
