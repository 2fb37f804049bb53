// Package commandtest has what tests of commands share.
package commandtest

import (
	"bytes"
	"sync"
)

// Messages keeps what a command writes. A test may read it while the command runs. The zero
// value is empty.
type Messages struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (m *Messages) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b.Write(b)
}

// String is all that was written.
func (m *Messages) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b.String()
}

// Len is how many bytes were written.
func (m *Messages) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b.Len()
}
