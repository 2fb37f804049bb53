package catalog

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/store"
)

// fix repairs a backup, first without --yes, which must not change it, and returns what it
// says and its status. Another repair finds nothing to do.
func fix(t *testing.T, dir string, cfg RepairConfig) (said string, status int) {
	t.Helper()
	cfg.MaxFrame = 1 << 20
	before := tree(t, dir)
	var plan, done, again bytes.Buffer
	ok(t, Repair(t.Context(), open(t, dir), cfg, env(), &plan))
	if after := tree(t, dir); len(after) != len(before) {
		t.Errorf("a dry run changed the backup: %d files, %d before", len(after), len(before))
	}
	cfg.Really = true
	err := Repair(t.Context(), open(t, dir), cfg, env(), &done)
	if status = command.StatusOf(err); status != command.OK && status != command.Loss {
		t.Fatal(err)
	}
	if plan.String() != done.String() {
		t.Errorf("it said\n%s\nand did\n%s", plan.String(), done.String())
	}
	if ok(t, Repair(t.Context(), open(t, dir), cfg, env(), &again)); again.Len() > 0 {
		t.Errorf("another repair: %s", again.String())
	}
	return done.String(), status
}

func TestRepair(t *testing.T) {
	snapshot := func(t *testing.T, dir string) string {
		t.Helper()
		ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
		names, err := filepath.Glob(filepath.Join(dir, "log/*.snapshot.json"))
		if ok(t, err); len(names) != 1 {
			t.Fatal(names)
		}
		return names[0]
	}
	garble := func(t *testing.T, name string) { ok(t, os.WriteFile(name, []byte("garbage"), 0o600)) }
	glob := func(t *testing.T, dir, pattern string) []string {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if ok(t, err); len(names) == 0 {
			t.Fatalf("no %s", pattern)
		}
		return names
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string, entries []string)
		status int
		says   []string
		points int    // that are left
		want   string // of the offsets; "": all
	}{
		"nothing":         {func(*testing.T, string, []string) {}, command.OK, nil, 3, ""},
		"one bit":         {func(t *testing.T, _ string, e []string) { flip(t, e[1]); flip(t, e[2]) }, command.OK, []string{"put back: log/", "put back: log/"}, 3, ""},
		"an entry":        {func(t *testing.T, _ string, e []string) { garble(t, e[1]) }, command.Loss, []string{"set aside: log/", "list: topics/", "lost: what only"}, 2, ""},
		"the last entry":  {func(t *testing.T, _ string, e []string) { garble(t, e[2]) }, command.Loss, []string{"set aside: log/", "list: topics/", "lost: what only"}, 2, ""},
		"an entry gone":   {func(t *testing.T, _ string, e []string) { ok(t, os.Remove(e[1])) }, command.Loss, []string{"lost: ", "list: topics/", "lost: what only"}, 2, ""},
		"a snapshot":      {func(t *testing.T, dir string, _ []string) { garble(t, snapshot(t, dir)) }, command.Loss, []string{"set aside: log/", "list:", "list:", "list:", "lost: what only"}, 0, ""},
		"a snapshot, bit": {func(t *testing.T, dir string, _ []string) { flip(t, snapshot(t, dir)) }, command.OK, []string{"put back: log/"}, 3, ""},
		"an index": {func(t *testing.T, dir string, _ []string) { snapshot(t, dir); garble(t, glob(t, dir, "index/t/*")[0]) }, command.Loss,
			[]string{"set aside: index/", "list:", "list:", "list:", "lost: what only"}, 3, ""},
		"moments": {func(t *testing.T, dir string, _ []string) {
			snapshot(t, dir)
			garble(t, glob(t, dir, "index/points/*")[0])
		}, command.Loss,
			[]string{"lost: restore point", "lost: restore point", "lost: restore point"}, 0, ""},
		"the last entry gone": {func(t *testing.T, _ string, e []string) { ok(t, os.Remove(e[2])) }, command.Loss, []string{"lost: ", "list: topics/", "lost: what only"}, 2, ""},
		"the log":             {func(t *testing.T, dir string, _ []string) { ok(t, os.RemoveAll(filepath.Join(dir, "log"))) }, command.Loss, []string{"lost: ", "list:", "list:", "list:", "lost: what only"}, 0, ""},
		"the log and the manifest": {func(t *testing.T, dir string, _ []string) {
			ok(t, os.RemoveAll(filepath.Join(dir, "log")))
			ok(t, os.Remove(filepath.Join(dir, "manifest.json")))
		}, command.OK, []string{"list:", "list:", "list:"}, 0, ""},
		"a segment gone": {func(t *testing.T, dir string, _ []string) { ok(t, os.Remove(glob(t, dir, "topics/t/*/*")[1])) }, command.Loss,
			[]string{"forget: topics/"}, 3, "id/0 [[0 100] [200 300]]"},
		"a segment altered": {func(t *testing.T, dir string, _ []string) { flip(t, glob(t, dir, "topics/t/*/*")[1]) }, command.Loss,
			[]string{"forget: topics/"}, 3, "id/0 [[0 100] [200 300]]"},
		"an entry and its segment": {func(t *testing.T, dir string, e []string) {
			garble(t, e[1])
			garble(t, glob(t, dir, "topics/t/*/*")[1])
		}, command.Loss,
			[]string{"set aside: log/", "leave alone: topics/", "lost: what only"}, 2, "id/0 [[0 100] [200 300]]"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, entries := threeRuns(t)
			c.damage(t, dir, entries)
			said, status := fix(t, dir, RepairConfig{Deep: name == "a segment altered"})
			lines := strings.Split(strings.TrimSuffix(said, "\n"), "\n")
			if said == "" {
				lines = nil
			}
			if status != c.status || len(lines) != len(c.says) {
				t.Fatalf("status %d, want %d; it says\n%s", status, c.status, said)
			}
			for i, want := range c.says {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("it says %q, want %q", lines[i], want)
				}
			}
			whole := []string{"id/0 [[0 300]]"}
			p := problems(t, dir, VerifyConfig{Deep: true})
			if c.want == "" && p != nil || c.want != "" && !slices.Equal(p, []string{"hole: t/0: offsets 100 to 199 are not backed up"}) {
				t.Errorf("verify says %q", p)
			}
			if got, _ := restored(t, pull.Config{Remote: dir}, nil); c.want == "" && !slices.Equal(got, whole) || c.want != "" && !slices.Equal(got, []string{c.want}) {
				t.Errorf("restored %q", got)
			}
			log, err := open(t, dir).ReadLog(t.Context(), store.LogOptions{})
			if ok(t, err); len(log.Points()) != c.points {
				t.Errorf("%d points are left, want %d", len(log.Points()), c.points)
			}
			// A whole run fills what is missing.
			ok(t, store1(t, push.Config{Remote: dir}, 0, 300))
			if got, status := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, whole) || status != command.OK {
				t.Errorf("after a whole run restored %q with status %d", got, status)
			}
			if p := problems(t, dir, VerifyConfig{}); p != nil {
				t.Errorf("after a whole run verify says %q", p)
			}
		})
	}
}

// TestRepairUnlisted loses the entry that was written last, and the manifest, which tells it.
func TestRepairUnlisted(t *testing.T) {
	dir, entries := threeRuns(t)
	ok(t, os.Remove(entries[2]))
	ok(t, os.Remove(filepath.Join(dir, "manifest.json")))
	if said, status := fix(t, dir, RepairConfig{}); said != "" || status != command.OK {
		t.Errorf("status %d, it says %s", status, said)
	}
	if said, status := fix(t, dir, RepairConfig{Unlisted: true}); strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "list: topics/") || status != command.OK {
		t.Errorf("status %d, it says %s", status, said)
	}
	if got, _ := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"id/0 [[0 300]]"}) {
		t.Errorf("restored %q", got)
	}
}

// TestLogLost has what begins anew say that there are segments without a log. Where the
// manifest is left, nothing begins anew.
func TestLogLost(t *testing.T) {
	dir, _ := threeRuns(t)
	ok(t, os.RemoveAll(filepath.Join(dir, "log")))
	var said bytes.Buffer
	if err := Cursor(t.Context(), open(t, dir), store.LogOptions{}, false, env(), &said); !store.IsDamage(err) || said.Len() > 0 {
		t.Errorf("%v, and %q", err, said.String())
	}
	ok(t, os.Remove(filepath.Join(dir, "manifest.json")))
	e := &command.Env{Name: "test", Log: slog.New(slog.NewTextHandler(&said, nil))}
	ok(t, Cursor(t.Context(), open(t, dir), store.LogOptions{}, false, e, io.Discard))
	if !strings.Contains(said.String(), "no log that lists them") {
		t.Errorf("it says %q", said.String())
	}
	said.Reset()
	ok(t, Cursor(t.Context(), open(t, t.TempDir()), store.LogOptions{}, false, e, io.Discard))
	if said.Len() > 0 {
		t.Errorf("of no backup it says %q", said.String())
	}
}

// TestRepairEncrypted wants the keys for what is encrypted, and says so without.
func TestRepairEncrypted(t *testing.T) {
	dir, keys := oldBackup(t)
	want, _ := restored(t, pull.Config{Remote: dir}, keys)
	ok(t, os.RemoveAll(filepath.Join(dir, "log")))
	if said, _ := fix(t, dir, RepairConfig{}); !strings.Contains(said, "no key is given") {
		t.Errorf("it says %q", said)
	}
	dir, keys = oldBackup(t)
	ok(t, os.RemoveAll(filepath.Join(dir, "log")))
	if said, _ := fix(t, dir, RepairConfig{Identities: keys}); strings.Contains(said, "leave alone") {
		t.Errorf("it says %q", said)
	}
	records := func(lines []string) []string {
		return slices.DeleteFunc(lines, func(s string) bool { return !strings.Contains(s, "-id-") || strings.Contains(s, ":") })
	}
	got, _ := restored(t, pull.Config{Remote: dir}, keys)
	if got, want = records(got), records(want); !slices.Equal(got, want) {
		t.Errorf("restored %q, want %q", got, want)
	}
}

// TestRepairSignsForNothing has objects that nobody has signed for.
func TestRepairSignsForNothing(t *testing.T) {
	key, dir := signingKey(t), filepath.Join(t.TempDir(), "b")
	ok(t, store1(t, push.Config{Remote: dir, Key: key}, 0, 10))
	ok(t, store1(t, push.Config{Remote: dir}, 10, 20)) // by nobody
	cfg := RepairConfig{Really: true, MaxFrame: 1 << 20, Signing: Signing{Signers: key.Signers()}}
	var out bytes.Buffer
	if err := Repair(t.Context(), open(t, dir), cfg, env(), &out); command.StatusOf(err) != command.Usage {
		t.Errorf("without a key: %v", err)
	}
	cfg.Signing.Signs = true
	if err := Repair(t.Context(), signingStore(t, dir, key), cfg, env(), &out); command.StatusOf(err) != command.Loss || !strings.Contains(out.String(), "nobody has signed for it") {
		t.Errorf("%v: %s", err, out.String())
	}
	if got, _ := restored(t, pull.Config{Remote: dir, Signers: key.Signers()}, nil); !slices.Equal(got, []string{"id/0 [[0 10]]"}) {
		t.Errorf("restored %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "damaged", "log")); err != nil {
		t.Error(err)
	}
	if err := Repair(t.Context(), open(t, t.TempDir()), RepairConfig{}, env(), &out); !errors.Is(err, errNoBackup) {
		t.Errorf("no backup: %v", err)
	}
}
