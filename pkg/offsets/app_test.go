package offsets

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// run runs a command line with in as its standard input, and returns its standard output.
func run(t *testing.T, in string, args ...string) (out string, err error) {
	t.Helper()
	stdin, stdout := os.Stdin, os.Stdout
	defer func() { os.Stdin, os.Stdout = stdin, stdout }()
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "in"), []byte(in), 0o600))
	os.Stdin, err = os.Open(filepath.Join(dir, "in"))
	ok(t, err)
	os.Stdout, err = os.Create(filepath.Join(dir, "out"))
	ok(t, err)
	err = App().RunContext(t.Context(), append([]string{"kbk-offsets"}, args...))
	ok(t, os.Stdin.Close())
	if closed := os.Stdout.Close(); closed != nil && !errors.Is(closed, os.ErrClosed) { // apply closes it itself
		t.Fatal(closed)
	}
	b, readErr := os.ReadFile(filepath.Join(dir, "out"))
	ok(t, readErr)
	return string(b), err
}

// TestCommands carries a group over with the commands as people type them.
func TestCommands(t *testing.T) {
	w := newWorld(t, "t", "u")
	w.produce("t", 0, "abcde")
	w.produce("u", 0, "abcde")
	w.commit("a", "t", 0, 2)
	w.commit("b", "t", 0, 4)
	b := strings.Join(w.c.ListenAddrs(), ",")
	undo := filepath.Join(t.TempDir(), "undo")
	do := func(in string, args ...string) string {
		t.Helper()
		out, err := run(t, in, append(args, "-q")...)
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return out
	}
	taken := do("", "snapshot", "-b", b, "--groups", "^", "--exclude-groups", "b", "-t", "t", "--next")
	plan := do(taken, "translate", "--by", "identity", "--rename", "t=u", "--rename-group", "a=a2")
	if got := do(plan, "plan", "-b", b); !strings.Contains(squeeze(got), "a2 u 0 t/0:2 3 2 3 identity: the same offset") {
		t.Error(got)
	}
	if got := do(plan, "script", "-b", b); !strings.Contains(got, "\nu,0,2\n") {
		t.Error(got)
	}
	applied := do(plan, "apply", "-b", b, "--undo", undo)
	do(applied, "verify", "-b", b)
	w.commit("a2", "u", 0, 4)
	if _, err := run(t, plan, "apply", "-q", "-b", b, "--undo", undo+"2"); err == nil || !strings.Contains(command.HintOf(err), "--rewind") {
		t.Errorf("%v", err)
	}
	do(plan, "apply", "-b", b, "--undo", undo+"2", "--rewind")
	text, err := os.ReadFile(undo)
	ok(t, err)
	do(string(text), "rollback", "-b", b)
	if got := w.committed(); got != "a t/0 2note, b t/0 4note" {
		t.Errorf("rolled back: %s", got)
	}
	if got := do("", "snapshot", "-b", b, "--json", "--groups", "b"); !strings.HasPrefix(got, `{"group":"b"`) {
		t.Error(got)
	}
	// An undo file that is not named lies in the folder.
	t.Chdir(t.TempDir())
	do(plan, "apply", "-b", b, "--skip", "nobody")
	if all, err := filepath.Glob("kbk-offsets-undo-*.kbk"); err != nil || len(all) != 1 {
		t.Errorf("%q, %v", all, err)
	}
	// Content, by a map.
	var records strings.Builder
	f := format.NewWriter(&records)
	ok(t, f.WriteHeader(&format.Header{Content: format.ContentRecords}))
	ok(t, f.Write(&format.Mark{Topic: "t"}))
	for i, l := range "abcde" {
		ok(t, f.WriteRecord(&format.Record{Topic: "t", Offset: int64(i), Timestamp: int64(1000 + i), Value: []byte(string(l))}))
	}
	ok(t, f.Write(&format.Mark{Topic: "t", Next: 5}))
	ok(t, f.Close(&format.End{Records: 5}))
	file := filepath.Join(t.TempDir(), "records")
	ok(t, os.WriteFile(file, []byte(records.String()), 0o600))
	m := do(taken, "map", "--by", "content", "-b", b, "--rename", "t=u", "--records", file)
	if got := do(do(m, "translate"), "plan"); !strings.Contains(squeeze(got), "a u 0 t/0:2 3 2 - map: the record") {
		t.Error(got)
	}
	if got := do(do(taken, "translate", "--by", "timestamp", "-b", b, "--rename", "t=u", "--records", file), "plan"); !strings.Contains(squeeze(got), "a u 0 t/0:2 3 2 - timestamp: 1970-01-01T00:00:01.002Z") {
		t.Error(got)
	}
}

// TestUsage wants a status and a line for each wrong call.
func TestUsage(t *testing.T) {
	for _, line := range []string{
		"snapshot", "snapshot -b x --groups ^(", "snapshot -b x --exclude-groups ^(", "snapshot -b x -t ^(", "translate --by guess", "translate --rename x", "translate --rename-group x", "translate --groups ^(",
		"translate --by timestamp", "map --by map", "map --by content", "map --by content -b x --rename y", "map --by content -b x --groups ^(", "apply", "apply -b x --skip ^(", "rollback", "verify", "plan -X nonsense=1", "nothing", "",
	} {
		if _, err := run(t, "", strings.Fields(line)...); command.StatusOf(err) != command.Usage || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: status %d, %v", line, command.StatusOf(err), err)
		}
	}
}
