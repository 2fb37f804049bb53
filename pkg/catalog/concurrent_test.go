package catalog

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kbkio/kbk/pkg/store"
)

// TestTwoCompactions has two that have read the same log: one of them gives up, and
// nothing is lost.
func TestTwoCompactions(t *testing.T) {
	dir := backup(t)
	a, err := newRewrite(t.Context(), open(t, dir), false, env())
	ok(t, err)
	b, err := newRewrite(t.Context(), open(t, dir), false, env())
	ok(t, err)
	n, err := a.snapshot(t.Context())
	ok(t, err)
	ok(t, a.store.WriteSnapshot(t.Context(), n))
	if err := b.write(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "at the same time") {
		t.Errorf("got %v", err)
	}
	ok(t, a.alone(t.Context(), n))
	if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
		t.Error(p)
	}
	files, err := filepath.Glob(filepath.Join(dir, "log", "*"))
	if ok(t, err); len(files) != 10 {
		t.Errorf("%d files in the log, want the nine entries and one snapshot", len(files))
	}
	ok(t, Compact(t.Context(), open(t, dir), false, env()))
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
			if err := Compact(t.Context(), open(t, dir), false, env()); err != nil {
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
			state, err := open(t, dir).LoadLogWith(t.Context(), store.LogOptions{})
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
