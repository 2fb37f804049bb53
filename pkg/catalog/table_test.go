package catalog

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/store"
)

// damages are what the table in docs/reliability.md is about, in its order.
var damages = []struct {
	name   string
	damage func(t *testing.T, dir string, entries []string)
}{
	{"none", func(*testing.T, string, []string) {}},
	{"a file in *log/* that has no business there", func(t *testing.T, dir string, _ []string) {
		ok(t, os.WriteFile(filepath.Join(dir, "log/copy.json"), []byte("{}"), 0o600))
	}},
	{"*manifest.json* cannot be read", func(t *testing.T, dir string, _ []string) { spoil(t, dir, "manifest.json", 0) }},
	{"one bit of an entry", func(t *testing.T, _ string, e []string) { flip(t, e[1]) }},
	{"one bit of a snapshot", func(t *testing.T, dir string, _ []string) {
		compacted(t, dir)
		flip(t, found(t, dir, "log/*.snapshot.json")[0])
	}},
	{"an entry cannot be read", func(t *testing.T, dir string, _ []string) { spoil(t, dir, "log/*.json", 1) }},
	{"an entry is gone", func(t *testing.T, _ string, e []string) { ok(t, os.Remove(e[1])) }},
	{"the entry written last is gone", func(t *testing.T, _ string, e []string) { ok(t, os.Remove(e[2])) }},
	{"the entry written last and *manifest.json* are gone", func(t *testing.T, dir string, e []string) {
		ok(t, os.Remove(e[2]))
		ok(t, os.Remove(filepath.Join(dir, "manifest.json")))
	}},
	{"an entry of another backup", func(t *testing.T, dir string, _ []string) {
		_, others := threeRuns(t)
		data, err := os.ReadFile(others[0])
		ok(t, err)
		ok(t, os.WriteFile(filepath.Join(dir, "log", filepath.Base(others[0])), data, 0o600))
	}},
	{"a snapshot cannot be read", func(t *testing.T, dir string, _ []string) { compacted(t, dir); spoil(t, dir, "log/*.snapshot.json", 0) }},
	{"an index cannot be read", func(t *testing.T, dir string, _ []string) { compacted(t, dir); spoil(t, dir, "index/t/*", 0) }},
	{"a file of restore points cannot be read", func(t *testing.T, dir string, _ []string) { compacted(t, dir); spoil(t, dir, "index/points/*", 0) }},
	{"the log is gone", func(t *testing.T, dir string, _ []string) { ok(t, os.RemoveAll(filepath.Join(dir, "log"))) }},
	{"the log and *manifest.json* are gone", func(t *testing.T, dir string, _ []string) {
		ok(t, os.RemoveAll(filepath.Join(dir, "log")))
		ok(t, os.Remove(filepath.Join(dir, "manifest.json")))
	}},
	{"a segment is gone", func(t *testing.T, dir string, _ []string) { ok(t, os.Remove(found(t, dir, "topics/t/*/*")[1])) }},
	{"a segment is cut short", func(t *testing.T, dir string, _ []string) { ok(t, os.Truncate(found(t, dir, "topics/t/*/*")[1], 9)) }},
	{"a segment is altered", func(t *testing.T, dir string, _ []string) { flip(t, found(t, dir, "topics/t/*/*")[1]) }},
}

// asked are the commands of the table.
var asked = []struct {
	name string
	run  func(t *testing.T, dir string) error
}{
	{"verify", func(t *testing.T, dir string) error {
		return Verify(t.Context(), open(t, dir), VerifyConfig{Transfers: 1, Memory: 1 << 20}, env(), io.Discard)
	}},
	{"verify --deep", func(t *testing.T, dir string) error {
		return Verify(t.Context(), open(t, dir), VerifyConfig{Deep: true, Transfers: 1, Memory: 1 << 20}, env(), io.Discard)
	}},
	{"pull", func(t *testing.T, dir string) error {
		return pull.Run(t.Context(), pull.Config{Remote: dir, Transfers: 1, Memory: 1 << 20}, env(), io.Discard)
	}},
	{"pull --skip-damaged", func(t *testing.T, dir string) error {
		return pull.Run(t.Context(), pull.Config{Remote: dir, Transfers: 1, Memory: 1 << 20, SkipDamaged: true}, env(), io.Discard)
	}},
	{"cursor", func(t *testing.T, dir string) error {
		return Cursor(t.Context(), open(t, dir), store.LogOptions{}, false, env(), io.Discard)
	}},
	{"cursor --skip-damaged", func(t *testing.T, dir string) error {
		return Cursor(t.Context(), open(t, dir), store.LogOptions{SkipDamaged: true}, false, env(), io.Discard)
	}},
	{"show", func(t *testing.T, dir string) error {
		return Show(t.Context(), open(t, dir), store.LogOptions{}, everything(t), false, true, env(), io.Discard)
	}},
	{"list", func(t *testing.T, dir string) error {
		return List(t.Context(), open(t, dir), 1, true, env(), io.Discard)
	}},
	{"compact", func(t *testing.T, dir string) error {
		return Compact(t.Context(), open(t, dir), Signing{}, env())
	}},
	{"prune --yes", func(t *testing.T, dir string) error {
		return Prune(t.Context(), open(t, dir), PruneConfig{Retention: commitlog.Retention{Policy: commitlog.Policy{Last: 2}}, Really: true}, env(), io.Discard)
	}},
	{"push", func(t *testing.T, dir string) error { return store1(t, push.Config{Remote: dir}, 0, 300) }},
	{"repair --yes", func(t *testing.T, dir string) error {
		return Repair(t.Context(), open(t, dir), RepairConfig{Really: true, MaxFrame: 1 << 20}, env(), io.Discard)
	}},
}

func compacted(t *testing.T, dir string) {
	t.Helper()
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
}

func found(t *testing.T, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if ok(t, err); len(names) == 0 {
		t.Fatalf("no %s", pattern)
	}
	return names
}

func spoil(t *testing.T, dir, pattern string, i int) {
	t.Helper()
	ok(t, os.WriteFile(found(t, dir, pattern)[i], []byte("garbage"), 0o600))
}

// TestDamageTable measures the table of damage, command and exit status in
// docs/reliability.md.
func TestDamageTable(t *testing.T) {
	doc, err := os.ReadFile("../../docs/reliability.md")
	ok(t, err)
	var head strings.Builder
	head.WriteString("| damage |")
	for _, c := range asked {
		head.WriteString(" " + c.name + " |")
	}
	if !strings.Contains(string(doc), head.String()) {
		t.Errorf("the table should begin with\n%s", head.String())
	}
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			line := fmt.Sprintf("| %s |", d.name)
			for _, c := range asked {
				dir, entries := threeRuns(t)
				d.damage(t, dir, entries)
				err := c.run(t, dir)
				status := command.StatusOf(err)
				if store.IsDamage(err) && status == command.Failed { // as the commands do
					status = command.Corrupt
				}
				line += fmt.Sprintf(" %d |", status)
			}
			if !strings.Contains(string(doc), line) {
				t.Errorf("there should be\n%s", line)
			}
		})
	}
}
