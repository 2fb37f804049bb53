package fetch

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestScanAboveHighWatermark wants a batch that was written while the broker answered to be
// left for the next response: the broker had looked the high watermark up before it read.
// One that begins above both that and what is due is no such batch.
func TestScanAboveHighWatermark(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	for _, v := range []string{"0", "1"} {
		if err := w.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	both := w.batches(0).RecordBatches
	for _, c := range []struct{ high, next int64 }{{2, 2}, {1, 1}, {0, 0}} {
		got, err := scan(both, place{epoch: -1}, openEnd, c.high)
		if err != nil || got.next != c.next {
			t.Errorf("high watermark %d: read to %d, %v", c.high, got.next, err)
		}
	}
	second := w.batches(1).RecordBatches
	if got, err := scan(second, place{epoch: -1}, openEnd, 0); err == nil {
		t.Errorf("offset 1 where the partition ends at 0, and 0 is due: read to %d", got.next)
	}
}
