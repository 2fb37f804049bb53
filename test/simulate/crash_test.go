package simulate

import (
	"fmt"
	"maps"
	"slices"
	"testing"
)

// TestCrashPoints records each change that push, compact and prune make to a store, and takes
// the store as it was after each of them, and in the midst of each write where that shows:
// it is whole, has all that it had, and the run can be done again.
func TestCrashPoints(t *testing.T) {
	first := firstSeed()
	for seed := first; seed < first+uint64(*crashes); seed++ {
		n := 0
		w, err := played(t, seed, func(w *world) { n = w.crash() })
		if err != nil {
			t.Errorf("crash points of seed %d: %v", seed, err)
			for _, line := range w.log {
				t.Log(line)
			}
			continue
		}
		t.Logf("seed %d: %d crash points, %d records compared", seed, n, w.compared)
	}
}

// crash returns how many points it has looked at.
func (w *world) crash() (n int) {
	w.calm = true
	v := w.vaults[0]
	for range 4 {
		w.produce()
		w.backUp()
	}
	w.produce()
	f := w.fetch(v)
	push := w.newPushing(v, f)
	n += w.crashing("push", v, false, func() {
		w.bubble(func() { push.run(w, false) })
		push.book(w)
	}, f)
	for _, keep := range []int{0, 1} {
		c := &chore{v: v, keep: keep, rng: w.seedOf()}
		n += w.crashing(fmt.Sprintf("compact, or prune to %d", keep), v, true, func() {
			w.bubble(func() { c.run(w, false) })
			c.book(w)
		}, f)
	}
	return n
}

// crashing looks at each state of v that do makes, which may take back promises.
func (w *world) crashing(what string, v *vault, prunes bool, do func(), again *fetched) int {
	before := v.clone()
	before.newest = nil // the groups may be those of before, or those that the run has
	v.recording = true
	do()
	v.recording = false
	states := v.states
	v.states = nil
	if len(states) == 0 {
		return 0
	}
	after := v.clone()
	for p, offsets := range after.promised { // what the run promises at its end may be there before
		if before.perhaps[p] == nil {
			before.perhaps[p] = make(map[int64]bool)
		}
		maps.Copy(before.perhaps[p], offsets)
	}
	for p, at := range after.hollow { // likewise where it begins
		before.hollow[p] = max(before.hollow[p], at)
	}
	if prunes { // it took back promises, from the first change on
		before.promised, before.hollow = after.promised, after.hollow
	}
	for i, objects := range states {
		at := before.clone()
		at.storage = &storage{objects: maps.Clone(objects), renames: v.renames}
		name := fmt.Sprintf("%s, state %d of %d", what, i+1, len(states))
		w.check(name, at)
		w.listed(at)
		p := w.newPushing(at, again)
		w.bubble(func() { p.run(w, false) })
		p.book(w)
		w.check(name+", and push", at)
	}
	return len(states)
}

// clone is a vault of its own with the same content and promises.
func (v *vault) clone() *vault {
	c := *v
	c.storage, c.promised, c.perhaps, c.hollow = v.storage.copied(), cloneAll(v.promised), cloneAll(v.perhaps), maps.Clone(v.hollow)
	c.points, c.snapshots = slices.Clone(v.points), maps.Clone(v.snapshots)
	return &c
}

func cloneAll(m map[part]map[int64]bool) map[part]map[int64]bool {
	c := make(map[part]map[int64]bool)
	for p, offsets := range m {
		c[p] = maps.Clone(offsets)
	}
	return c
}
