//go:build unix

package pack

import (
	"bytes"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
)

// TestFlush asks by a signal for the segments that are open, while the input waits.
func TestFlush(t *testing.T) {
	whole := stream(t, func(w *format.Writer) { // of partitions that go on
		for i := range int64(30) {
			ok(t, w.WriteRecord(&format.Record{Topic: "t", Partition: int32(i % 3), Offset: i / 3, Value: []byte("v")}))
		}
	})
	in, write := io.Pipe()
	out, packed := io.Pipe()
	env := testEnv()
	ended := make(chan error, 1)
	go func() {
		err := Pack(t.Context(), testConfig(), env, in, packed)
		packed.CloseWithError(err)
		ended <- err
	}()
	segments := make(chan int64, 100)
	go func() {
		defer close(segments)
		for r := format.NewReader(out, 0); ; {
			f, err := r.Next()
			if err != nil {
				return
			}
			if f.Kind == format.KindSeg {
				m, _, err := format.DecodeSegment(f.Raw)
				if err != nil {
					t.Error(err)
					return
				}
				segments <- m.Records
			}
		}
	}()
	end, err := (&format.End{}).AppendFrame(nil)
	ok(t, err)
	if !bytes.HasSuffix(whole, end) {
		t.Fatal("the stream has another end")
	}
	_, err = write.Write(bytes.TrimSuffix(whole, end))
	ok(t, err)
	_, err = write.Write(end[:1]) // is read when all before it is packed
	ok(t, err)
	ok(t, syscall.Kill(syscall.Getpid(), syscall.SIGUSR1))
	for n := range 3 {
		select {
		case records := <-segments:
			if records != 10 {
				t.Errorf("a segment of %d records", records)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%d segments", n)
		}
	}
	_, err = write.Write(end[1:])
	ok(t, err)
	ok(t, write.Close())
	ok(t, <-ended)
	if n := len(segments); n != 0 {
		t.Errorf("%d more segments", n)
	}
}
