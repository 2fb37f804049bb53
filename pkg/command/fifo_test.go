//go:build unix

package command

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFIFO writes by-products to a FIFO whose reader is there, comes late, comes for
// nothing, or never comes.
func TestFIFO(t *testing.T) {
	defer func(d time.Duration) { fifoPatience = d }(fifoPatience)
	fifoPatience = 3 * time.Second
	begin := func(t *testing.T) (name string, out io.WriteCloser, read func() <-chan string) {
		name = filepath.Join(t.TempDir(), "fifo")
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := ByProduct(name)
		if err != nil {
			t.Fatal(err)
		}
		return name, out, func() <-chan string {
			got := make(chan string, 1)
			go func() {
				b, err := os.ReadFile(name)
				if err != nil {
					t.Error(err)
				}
				got <- string(b)
			}()
			return got
		}
	}
	t.Run("late", func(t *testing.T) {
		_, out, read := begin(t)
		written := make(chan error, 1)
		go func() {
			_, err := out.Write([]byte("a\n"))
			written <- err
		}()
		select {
		case err := <-written:
			t.Fatalf("written before there was a reader: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
		got := read()
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte("b\n")); err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != "a\nb\n" {
			t.Errorf("the reader got %q", s)
		}
	})
	t.Run("for nothing", func(t *testing.T) {
		_, out, read := begin(t)
		got := read()
		for p := out.(*fifo); p.file == nil; time.Sleep(fifoEvery) {
			if err := p.open(); err != nil {
				t.Fatal(err)
			}
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != "" {
			t.Errorf("the reader got %q", s)
		}
	})
	t.Run("never", func(t *testing.T) {
		_, out, _ := begin(t)
		if _, err := out.Write([]byte("a\n")); err == nil || !strings.Contains(err.Error(), "nobody has opened the FIFO to read it") {
			t.Errorf("%v", err)
		}
		began := time.Now()
		if err := out.Close(); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}
