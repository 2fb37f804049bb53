package catalog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	var out strings.Builder
	if err := Check(t.Context(), st, &out); err != nil || out.String() != "objects can be written, read, listed, replaced and deleted\n" {
		t.Errorf("%q, %v", &out, err)
	}
	left, err := os.ReadDir(filepath.Join(dir, checkFolder))
	if err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
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
