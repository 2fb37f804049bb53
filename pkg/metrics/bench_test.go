package metrics

import (
	"io"
	"testing"
)

// BenchmarkCounting is what a stage counts for each buffer of 256 KiB that it reads and writes,
// beside one that counts nothing.
func BenchmarkCounting(b *testing.B) {
	var c Counters
	buf := make([]byte, 256<<10)
	for name, pipe := range map[string]struct {
		r io.Reader
		w io.Writer
	}{
		"nothing":  {endless{}, io.Discard},
		"counters": {c.Input.Reader(endless{}, &c.BytesIn), c.Output.Writer(io.Discard, &c.BytesOut)},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n, err := pipe.r.Read(buf)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := pipe.w.Write(buf[:n]); err != nil {
					b.Fatal(err)
				}
				if name == "counters" { // as a stage does for each batch, or a few
					c.Records.Add(1)
					c.Taken.Add(1)
				}
			}
		})
	}
}

// endless is a reader that takes no time.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
