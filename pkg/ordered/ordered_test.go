package ordered

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/errgroup"
)

// TestOrder runs tasks of very different sizes, and wants all of their output, in order.
func TestOrder(t *testing.T) {
	for _, ahead := range []int64{0, ChunkSize, 64 * ChunkSize} {
		q := NewQueue(1000, ahead)
		g, ctx := errgroup.WithContext(t.Context())
		var got []byte
		q.Start(ctx, g, func(b []byte) error {
			got = append(got, b...)
			return nil
		})
		var want []byte
		for i := range uint32(400) {
			chunks := int(i*i) % 37 // some have none
			for range chunks {
				want = binary.BigEndian.AppendUint32(want, i)
			}
			if err := q.Put(ctx, int64(i*7)%2000, func(_ context.Context, out *Output) error {
				for range chunks {
					if err := out.Emit(binary.BigEndian.AppendUint32(out.Buffer(), i)); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		q.Close()
		if err := g.Wait(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("ahead %d: %d bytes of %d, %v", ahead, len(got), len(want), err)
		}
	}
}

// TestThen has things done between what is written, in the order of the tasks.
func TestThen(t *testing.T) {
	q := NewQueue(1000, 64*ChunkSize)
	g, ctx := errgroup.WithContext(t.Context())
	stop := errors.New("the 70th")
	var got []byte
	q.Start(ctx, g, func(b []byte) error {
		got = append(got, b...)
		return nil
	})
	for i := range byte(100) {
		if q.Put(ctx, 10, func(_ context.Context, out *Output) error {
			if err := out.Emit(append(out.Buffer(), i)); err != nil {
				return err
			}
			out.Then(func() error {
				if n := len(got); n != int(i)+1 || got[n-1] != i {
					t.Errorf("behind %d: %v", i, got)
				}
				if i == 70 {
					return stop
				}
				return nil
			})
			return nil
		}) != nil {
			break // it has stopped
		}
	}
	q.Close()
	if err := g.Wait(); !errors.Is(err, stop) || len(got) != 71 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestAhead lets the writer stand still, and counts what the tasks produce meanwhile.
func TestAhead(t *testing.T) {
	t.Run("small", func(t *testing.T) { testAhead(t, 1, 1) })
	t.Run("large", func(t *testing.T) { testAhead(t, 7*ChunkSize, 7) })
}

// testAhead has tasks that emit so many bytes at a time, which take so many chunks.
func testAhead(t *testing.T, size, chunks int64) {
	synctest.Test(t, func(t *testing.T) {
		const ahead = 20
		q := NewQueue(1000, ahead*ChunkSize)
		g, ctx := errgroup.WithContext(t.Context())
		var produced atomic.Int64
		stop, err := make(chan struct{}), errors.New("enough")
		q.Start(ctx, g, func([]byte) error {
			<-stop
			return err
		})
		for range 10 {
			_ = q.Put(ctx, 1, func(_ context.Context, out *Output) error {
				for range 1000 {
					if err := out.Emit(append(out.Buffer(), make([]byte, size)...)); err != nil {
						return err
					}
					produced.Add(1)
				}
				return nil
			})
		}
		synctest.Wait()
		if n := produced.Load(); n > (ahead+chunksAhead)/chunks || n < (ahead+chunksAhead)/chunks-int64(runtime.GOMAXPROCS(0)) {
			t.Errorf("%d times %d chunks are ahead of the writer, not %d chunks", n, chunks, ahead+chunksAhead)
		}
		close(stop)
		if got := g.Wait(); got != err {
			t.Errorf("got %v", got)
		}
	})
}
