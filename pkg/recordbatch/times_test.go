//go:build linux

package recordbatch

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// BenchmarkTimes takes batches as small as producers make them by default, and large ones.
// The processor time of the whole process is what counts on a busy machine.
func BenchmarkTimes(b *testing.B) {
	for _, n := range []int{30, 1000} {
		recs, size := benchRecords()[:n], int64(0)
		for i := range recs {
			recs[i].Offset = int64(i)
			size += int64(len(recs[i].Value))
		}
		for codec, compress := range compressors(b) {
			t, _, err := CutChecked(build(0, codec, recs[0].Timestamp, recs[0].Timestamp, compress, recs...))
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("%s/%d", CodecName(t.Codec()), size>>10), func(b *testing.B) {
				d := NewDecoder()
				b.SetBytes(size)
				b.ReportAllocs()
				began := processorTime(b)
				for b.Loop() {
					if _, _, err := d.Times(t); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric((processorTime(b)-began).Seconds()*float64(1<<30)/float64(size)/float64(b.N), "cpu-s/GiB")
			})
		}
	}
}

// processorTime is what the process has had so far.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
