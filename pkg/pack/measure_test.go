//go:build unix

package pack

import (
	"syscall"
	"testing"
	"time"
)

// measure runs f again and again, and says what processor time a GiB of values takes.
func measure(b *testing.B, values int64, f func()) {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		ok(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.SetBytes(values)
	b.ReportAllocs()
	began := used()
	for b.Loop() {
		f()
	}
	b.ReportMetric((used()-began).Seconds()*float64(1<<30)/float64(values)/float64(b.N), "cpu-s/GiB")
}
