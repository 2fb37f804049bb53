package catalog

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
)

// framesOf takes a stream apart: its header and its frames.
func framesOf(t *testing.T, stream []byte) (frames [][]byte) {
	t.Helper()
	r := format.NewReader(bytes.NewReader(stream), 1<<20)
	_, err := r.Header()
	ok(t, err)
	size := 0
	for {
		f, err := r.Next()
		if err == io.EOF {
			return slices.Insert(frames, 0, stream[:len(stream)-size])
		}
		ok(t, err)
		frames = append(frames, bytes.Clone(f.Raw))
		size += len(f.Raw)
	}
}

// TestPruneBesideRun prunes while a run is under way that stores, byte for byte, what
// another run has stored and prune deletes. Wherever in between the run is, it lists
// nothing that is not there.
func TestPruneBesideRun(t *testing.T) {
	for _, feed := range []struct {
		name            string
		decided, pruned int // frames that the run has got when prune has decided, and when it has deleted
	}{{"not begun", 1, 1}, {"half stored when it decides", 4, 4}, {"stored when it deletes", 1, 4}, {"committed when it deletes", 1, 99}} {
		t.Run(feed.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "b")
			fill := func(j *job, start, next int64) {
				j.topic("a", "a1", 2)
				for p := range int32(2) {
					j.part("a", "a1", p, 0, next, format.MarkInfo{LogStart: &start})
				}
				j.point(next)
			}
			j := newJob(t, dir, format.Header{})
			fill(j, 0, 10)
			ok(t, j.Close(new(format.End)))
			var segments bytes.Buffer
			ok(t, pack.Pack(t.Context(), packing(nil), env(), &j.buf, &segments))
			stream := bytes.Clone(segments.Bytes())

			// The run beside has read the log, empty as it is, when it takes its second frame.
			frames := framesOf(t, stream)
			in, out := io.Pipe()
			done := make(chan error, 1)
			go func() {
				done <- push.Run(t.Context(), push.Config{Remote: dir, Transfers: 2, Checkpoint: time.Hour, CheckpointSegments: 1000, MaxFrame: 1 << 20}, env(), in, io.Discard)
			}()
			fed := 0
			upTo := func(n int) {
				for ; fed < min(n, len(frames)); fed++ {
					_, err := out.Write(frames[fed])
					ok(t, err)
				}
				if n >= len(frames) && out != nil {
					ok(t, out.Close())
					ok(t, <-done)
					out = nil
				}
			}
			upTo(2)
			pushed(t, dir, bytes.NewReader(stream)) // the same, by another run
			j = newJob(t, dir, format.Header{})
			j.topic("a", "a1", 2)
			for p := range int32(2) { // Kafka's own retention has removed what came before
				start := int64(10)
				j.part("a", "a1", p, 10, 20, format.MarkInfo{LogStart: &start})
			}
			j.point(20)
			j.store()

			upTo(feed.decided)
			r, err := rewrite(t.Context(), open(t, dir), Signing{}, env())
			ok(t, err)
			p, err := prune(t.Context(), r, commitlog.Retention{Policy: commitlog.Policy{Last: 1}})
			ok(t, err)
			if len(p.segments) == 0 {
				t.Fatal("there is nothing to delete, so that nothing is tried")
			}
			upTo(feed.pruned)
			ok(t, r.Write(t.Context(), p.objects(), env().Log))
			if out != nil {
				upTo(99)
			}
			if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
				t.Errorf("problems %q", p)
			}
			state, err := open(t, dir).LoadLog(t.Context())
			ok(t, err)
			for _, point := range state.Points() {
				got, _ := restored(t, pull.Config{Remote: dir, Point: point.Entry, From: 10 * (point.Time - 10) / 10}, nil)
				if want := point.Time - 10*(point.Time-10)/10; len(got) != 2 || !slices.Contains(got, fmt.Sprintf("a1/0 [[%d %d]]", point.Time-want, point.Time)) {
					t.Errorf("point at %d gives %q", point.Time, got)
				}
			}
		})
	}
}
