package commitlog

import "testing"

// TestEpochOfReach has a run that was killed between the entry of a segment and the one that
// has the mark behind it: the epoch of the run before is not that of the segment's batches.
func TestEpochOfReach(t *testing.T) {
	epoch := int32(7)
	c := newCoverage(0)
	c.scan(0, 2, nil)
	c.epoch = &epoch
	if c.scan(0, 2, nil); c.epoch == nil {
		t.Error("what was scanned once more has no epoch any more")
	}
	if c.scan(2, 3, nil); c.epoch != nil || c.reach != 3 {
		t.Errorf("reach %d, of epoch %d", c.reach, *c.epoch)
	}
}
