package catalog

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/compaction"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/store"
)

// TestTwoCompactions has two that have read the same log: the second gives up, and nothing
// is lost.
func TestTwoCompactions(t *testing.T) {
	dir := backup(t)
	a, err := compaction.Read(t.Context(), open(t, dir), store.LogOptions{})
	ok(t, err)
	b, err := compaction.Read(t.Context(), open(t, dir), store.LogOptions{})
	ok(t, err)
	ok(t, a.Write(t.Context(), nil, env().Log))
	if err := b.Write(t.Context(), nil, env().Log); !errors.Is(err, compaction.ErrConcurrent) {
		t.Errorf("got %v", err)
	}
	if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
		t.Error(p)
	}
	files, err := filepath.Glob(filepath.Join(dir, "log", "*"))
	if ok(t, err); len(files) != 1 {
		t.Errorf("in the log: %q, want one snapshot", files)
	}
}

// TestRunEndsBesideCompact has a run that ends, and another that begins and ends, after a
// compaction has read the log and before it writes.
func TestRunEndsBesideCompact(t *testing.T) {
	dir := backup(t)
	slow := commitlog.NewRun()
	appendTo := func(final bool) {
		e := &commitlog.Entry{Final: final, Marks: []commitlog.Mark{{Topic: "slow", TopicID: "s", Next: 5}}}
		slow.Stamp(e, time.Now())
		sha, err := open(t, dir).AppendEntry(t.Context(), e)
		ok(t, err)
		slow.Advance(sha)
	}
	appendTo(false)
	r, err := compaction.Read(t.Context(), open(t, dir), store.LogOptions{})
	ok(t, err)
	appendTo(true)
	run(t, dir, 15, 30, 40)
	ok(t, r.Write(t.Context(), nil, env().Log))
	for range 3 { // what the first left is folded by the second
		if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
			t.Fatal(p)
		}
		if got := records(t, pull.Config{Remote: dir}); got != 80 {
			t.Errorf("%d records, want 80", got)
		}
		ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	}
}

// records counts the records that the segments of a pull say they have.
func records(t *testing.T, cfg pull.Config) (n int64) {
	t.Helper()
	cfg.Transfers, cfg.Memory = 1, 1<<20
	var out bytes.Buffer
	ok(t, pull.Run(t.Context(), cfg, env(), &out))
	r := format.NewReader(&out, 1<<20)
	_, err := r.Header()
	ok(t, err)
	for {
		f, err := r.Next()
		if err == io.EOF {
			return n
		}
		ok(t, err)
		if f.Kind == format.KindSeg {
			seg, _, err := format.DecodeSegment(f.Raw)
			ok(t, err)
			n += seg.Records
		}
	}
}

// TestCompactBesidePush reads, and compacts, while runs are stored: a reader never sees
// less than before.
func TestCompactBesidePush(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	run(t, dir, 0, 0, 10)
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := Compact(t.Context(), open(t, dir), Signing{}, env()); err != nil {
				t.Error(err)
			}
		}
	})
	others.Go(func() {
		last := int64(10)
		for {
			select {
			case <-done:
				return
			default:
			}
			state, err := open(t, dir).LoadLog(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			plan := state.Select()[0]
			if plan.Next < last || plan.Holes != nil || plan.From != 0 || int64(plan.Len()) != plan.Next/10 {
				t.Errorf("after %d: %+v", last, plan)
			}
			last = plan.Next
		}
	})
	for from := int64(10); from < 150; from += 10 {
		run(t, dir, 0, from, from+10)
	}
	close(done)
	others.Wait()
	if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
		t.Error(p)
	}
}
