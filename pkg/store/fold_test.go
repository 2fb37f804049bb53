package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/commitlog"
)

// TestReadWhileFolding reads a log of so many runs that entries are folded while others are read:
// what is read must not go by what changes meanwhile. Go ends a process that reads a map while it
// is written to, most of the time; with the race detector, always.
func TestReadWhileFolding(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, commitlog.LogDir), 0o755); err != nil {
		t.Fatal(err)
	}
	const runs, entries = 500, 2
	backup, at := commitlog.NewBackup(), time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
	for range runs {
		run := commitlog.NewRun()
		for n := range entries {
			at = at.Add(time.Second)
			e := &commitlog.Entry{Backup: backup, Filters: []string{}, Final: n == entries-1}
			run.Stamp(e, at)
			data, sha, err := commitlog.Encode(e)
			if err != nil {
				t.Fatal(err)
			}
			run.Advance(sha)
			if err := os.WriteFile(filepath.Join(dir, commitlog.EntryPath(e.ID)), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := open(t, dir)
	for range 3 {
		log, err := s.ReadLog(t.Context(), LogOptions{})
		if err != nil || log.Entries() != runs*entries {
			t.Fatal(fmt.Errorf("%d entries: %w", log.Entries(), err))
		}
	}
}
