//go:build !unix

package pack

import "testing"

func measure(b *testing.B, values int64, f func()) {
	b.SetBytes(values)
	for b.Loop() {
		f()
	}
}
