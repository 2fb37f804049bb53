package push

import (
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// TestJoinsBehindTheLastEntry: of two runs that begin a backup at the same time, the later
// one is killed before it has looked for the other. The one that is left says that both
// are of one backup.
func TestJoinsBehindTheLastEntry(t *testing.T) {
	st, err := store.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	began, err := st.ReadLog(t.Context(), store.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
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
