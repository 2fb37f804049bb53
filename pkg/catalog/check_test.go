package catalog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/store"
)

// TestCheck tries a folder that can hold a backup, and one that cannot.
func TestCheck(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backup")
	st, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	const all = `objects can be written, read, listed, replaced and deleted
listings show at once what was written and deleted: writers see one another by them, and need no locks
the store's clock was not compared: the store does not tell its time
`
	var out strings.Builder
	if err := Check(t.Context(), st, &out); err != nil || out.String() != all {
		t.Errorf("%q, %v", &out, err)
	}
	if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
	ok(t, os.Mkdir(dir, 0o700)) // which was there before
	ok(t, Check(t.Context(), st, &out))
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("in a folder that was there it leaves %v, %v", left, err)
	}
	ok(t, os.MkdirAll(filepath.Join(dir, checkFolder, "other"), 0o700))
	ok(t, Check(t.Context(), st, &out))
	if left, err := os.ReadDir(filepath.Join(dir, checkFolder)); err != nil || len(left) != 1 {
		t.Errorf("of what somebody else has there it leaves %v, %v", left, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	st2, err := store.Open(t.Context(), filepath.Join(file, "backup")) // below a file there are no folders
	if err == nil {
		defer st2.Close()
		err = Check(t.Context(), st2, &out)
	}
	if err == nil {
		t.Error("a store that cannot be written to is fine")
	}
}

// TestClocks says how a store's clock goes.
func TestClocks(t *testing.T) {
	before := time.Date(2026, 11, 28, 8, 0, 0, 900_000_000, time.UTC)
	after := before.Add(2 * time.Second)
	for name, c := range map[string]struct {
		at    time.Time
		known bool
		want  string
	}{
		"not known":     {time.Time{}, false, "the store's clock was not compared: the store does not tell its time"},
		"the same":      {before.Add(time.Second), true, "the store's clock and this machine's differ by less than 5s"},
		"whole seconds": {before.Truncate(time.Second).Add(-5 * time.Second), true, "the store's clock and this machine's differ by less than 5s"},
		"a bit ahead":   {after.Add(5 * time.Second), true, "the store's clock and this machine's differ by less than 5s"},
		"ahead":         {after.Add(6 * time.Second), true, "the store's clock and that of this machine are 6s apart"},
		"behind":        {before.Add(-time.Hour), true, "the store's clock and that of this machine are 59m59s apart"},
	} {
		got, err := clocks(c.at, c.known, before, after)
		if err != nil {
			got = err.Error()
		}
		if got != c.want || (err != nil) != strings.HasSuffix(c.want, "apart") {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}
