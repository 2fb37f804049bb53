package format

import "testing"

// TestDecodeAllocatesNothing: a stream has many of these frames.
func TestDecodeAllocatesNothing(t *testing.T) {
	aBatch := frames(t, &Batch{"orders", 1, 10, 12, -1, 3, []byte("raw"), "lz4"})
	aMap := frames(t, &Map{"orders", 1, 10, "copies", 2, 20, 30})
	var b Batch
	var m Map
	for name, decode := range map[string]func() error{
		"batch": func() error { return b.Decode(aBatch) },
		"map":   func() error { return m.Decode(aMap) },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if err := decode(); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
