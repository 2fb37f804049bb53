package commitlog

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestLines reads lines up to the limit, and one that has no end in a file of some kilobytes.
func TestLines(t *testing.T) {
	pack := func(text string, repeat int) *bytes.Buffer {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b)
		if err == nil {
			for range repeat {
				_, err = z.Write([]byte(text))
			}
			err = errors.Join(err, z.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		return &b
	}
	const limit = 100_000 // above the buffer of the reader
	for name, c := range map[string]struct {
		file  *bytes.Buffer
		lines int
		ok    bool
	}{
		"none":            {pack("", 1), 0, true},
		"two":             {pack("{}\n", 2), 2, true},
		"at the limit":    {pack(strings.Repeat("x", limit-1)+"\n", 2), 2, true},
		"one above":       {pack(strings.Repeat("x", limit)+"\n", 1), 0, false},
		"the second":      {pack("{}\n"+strings.Repeat("x", limit)+"\n", 1), 1, false},
		"without end":     {pack("{}\n{", 1), 1, false},
		"a bomb, 256 MiB": {pack(strings.Repeat("x", 1<<20), 256), 0, false},
	} {
		n := 0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := lines(c.file, limit, func([]byte) error { n++; return nil })
		runtime.ReadMemStats(&after)
		if n != c.lines || (err == nil) != c.ok || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %d lines, %v", name, n, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
			t.Errorf("%s: it took %d bytes of memory", name, took)
		}
	}
}
