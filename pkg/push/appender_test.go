package push

import (
	"context"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// noBackup is a store without a backup, and the log that a run reads there when it begins.
func noBackup(t *testing.T) (*store.Store, *store.Log) {
	t.Helper()
	st, err := store.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	began, err := st.ReadLog(t.Context(), store.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return st, began
}

// TestJoinsBehindTheLastEntry: of two runs that begin a backup at the same time, the later
// one is killed before it has looked for the other. The one that is left says that both
// are of one backup.
func TestJoinsBehindTheLastEntry(t *testing.T) {
	st, began := noBackup(t)
	a := &appender{store: st, run: commitlog.NewRun(), began: began}
	mark := func(topic string) *commitlog.Entry {
		return &commitlog.Entry{Marks: []commitlog.Mark{{Topic: topic, Next: 1}}}
	}
	if _, err := a.append(t.Context(), mark("a"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if ids, err := a.joins(t.Context(), false); err != nil || len(ids) > 0 {
		t.Fatalf("%q, %v: nobody else is there", ids, err)
	}
	killed := mark("b")
	killed.Backup = commitlog.NewBackup()
	commitlog.NewRun().Stamp(killed, time.Now())
	if _, err := st.AppendEntry(t.Context(), killed); err != nil {
		t.Fatal(err)
	}
	last := mark("a")
	last.Final = true
	if _, err := a.append(t.Context(), last, time.Now()); err != nil {
		t.Fatal(err)
	}
	ids, err := a.joins(t.Context(), true)
	if err != nil || len(ids) != 1 || ids[0] != killed.Backup {
		t.Fatalf("%q, %v, and not %s", ids, err, killed.Backup)
	}
	if _, err := a.append(t.Context(), &commitlog.Entry{Joins: ids, Final: true}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if again, err := a.joins(t.Context(), true); err != nil || len(again) > 0 {
		t.Errorf("%q, %v: it was written already", again, err)
	}
	log, err := st.ReadLog(t.Context(), store.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if topics := log.Topics(); len(topics) != 2 {
		t.Errorf("topics %q", topics)
	}
}

// TestTakesTheIDThatStays: two runs give a new backup an id at the same moment, in a store that
// lists no entry yet. The one whose manifest.json is overwritten takes the other's id; a third run
// had found its own before.
func TestTakesTheIDThatStays(t *testing.T) {
	st, began := noBackup(t)
	var runs [3]*appender
	for i := range runs {
		runs[i] = &appender{store: st, run: commitlog.NewRun(), began: began, manifest: true}
	}
	one, two, third := runs[0], runs[1], runs[2]
	step := func(do func(context.Context) error) {
		t.Helper()
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	step(one.giveID)
	step(third.identify)
	step(two.giveID)
	given := one.backup
	step(one.agree)
	step(two.agree)
	if one.backup != two.backup || one.backup == given || third.backup != given {
		t.Fatalf("ids %s, %s and %s, and at first %s", one.backup, two.backup, third.backup, given)
	}
	for i, a := range runs {
		e := &commitlog.Entry{Marks: []commitlog.Mark{{Topic: string(rune('a' + i)), Next: 1}}, Backup: a.backup, Joins: a.joined}
		a.run.Stamp(e, time.Now())
		if _, err := st.AppendEntry(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	log, err := st.ReadLog(t.Context(), store.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if topics := log.Topics(); len(topics) != 3 {
		t.Errorf("topics %q", topics)
	}
}
