package fetch

import "testing"

// TestCounters reads a topic of which nothing is lost; TestLostMeanwhile has one that loses.
func TestCounters(t *testing.T) {
	w := newWorld(t, 2, "t", 3)
	w.produce("t", 0, 100)
	w.produce("t", 2, 50)
	c := w.fetch(nil, nil).counted
	if c.Records != 150 || c.Offsets != 150 || c.Expected != 150 || c.BytesIn == 0 || c.BytesOut == 0 || c.Lost != 0 || c.Losses != 0 || len(c.Retries) != 0 || !c.Ready ||
		c.WaitsForInput || c.WaitsForOutput {
		t.Errorf("%+v", c)
	}
}
