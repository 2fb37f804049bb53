package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/test/need"
)

// TestVerifyCounts wants every segment to be counted once, whatever is wrong with it.
func TestVerifyCounts(t *testing.T) {
	part, err := ParsePart("1/2")
	ok(t, err)
	damaged := func(t *testing.T, dir string) {
		files := found(t, dir, "topics/t/*/*")
		ok(t, os.Remove(files[0]))
		ok(t, os.Truncate(files[1], 9))
		flip(t, files[2])
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		cfg    VerifyConfig
		want   Verdict
		text   string
	}{
		"good":         {nil, VerifyConfig{}, Verdict{Unread: 6}, "good: 6 segments, "},
		"good deep":    {nil, VerifyConfig{Deep: true}, Verdict{Opened: 6, Read: 6}, "0 bad, 6 opened and good\n"},
		"damaged":      {damaged, VerifyConfig{}, Verdict{Bad: 2, Unread: 4, Problems: 2}, "damaged: 2 problems; 6 segments, "},
		"damaged deep": {damaged, VerifyConfig{Deep: true}, Verdict{Bad: 3, Opened: 3, Read: 4, Problems: 3}, "3 bad, 3 opened and good\n"},
		"a part":       {nil, VerifyConfig{Deep: true, Part: part}, Verdict{}, "good: 6 segments, "}, // which part is decided by the names of the objects
		"an object that nothing lists": {func(t *testing.T, dir string) {
			ok(t, os.WriteFile(filepath.Join(dir, "topics/t/partition=0/litter"), nil, 0o600))
		}, VerifyConfig{}, Verdict{Unread: 6, Unlisted: 1}, "not read; 1 object that nothing lists\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := backup(t)
			if c.damage != nil {
				c.damage(t, dir)
			}
			c.cfg.Transfers, c.cfg.Memory = 2, 1<<20
			var out bytes.Buffer
			_ = Verify(t.Context(), open(t, dir), c.cfg, env(), &out) // the verdict says it
			if !strings.Contains(out.String(), c.text) {
				t.Errorf("printed %q without %q", out.String(), c.text)
			}
			v := verdictOf(t, dir, c.cfg)
			if v.Segments != 6 || v.Bad+v.Opened+v.Unopened+v.Unread != v.Segments {
				t.Errorf("counts do not add up: %+v", v)
			}
			if c.cfg.Part == (Part{}) && (v.Bad != c.want.Bad || v.Opened != c.want.Opened || v.Unread != c.want.Unread || v.Read != c.want.Read || v.Problems != c.want.Problems || v.Unlisted != c.want.Unlisted) {
				t.Errorf("%+v, want %+v", v, c.want)
			}
		})
	}
	// Encrypted, and without a key.
	dir, _ := oldBackup(t)
	if v := verdictOf(t, dir, VerifyConfig{Deep: true}); v.Unopened == 0 || v.Bad+v.Opened+v.Unopened+v.Unread != v.Segments {
		t.Errorf("without a key: %+v", v)
	}
}

func verdictOf(t *testing.T, dir string, cfg VerifyConfig) (v Verdict) {
	t.Helper()
	var out bytes.Buffer
	cfg.JSON, cfg.Transfers, cfg.Memory = true, 2, 1<<20
	_ = Verify(t.Context(), open(t, dir), cfg, env(), &out) // the verdict says it
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	ok(t, json.Unmarshal([]byte(lines[len(lines)-1]), &v))
	return v
}

// TestVerifyReport writes reports of a good and of a damaged backup, and has ssh-keygen check
// their signatures.
func TestVerifyReport(t *testing.T) {
	need.Tools(t, "ssh-keygen")
	keys := t.TempDir()
	key := filepath.Join(keys, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	ok(t, err)
	signers := filepath.Join(keys, "signers")
	ok(t, os.WriteFile(signers, append([]byte("kbk "), public...), 0o600))
	signer, err := sign.LoadKey(key, nil)
	ok(t, err)
	defer signer.Close()

	dir := filepath.Join(t.TempDir(), "b")
	ok(t, store1(t, push.Config{Remote: dir}, 0, 100))
	reports := t.TempDir()
	for _, c := range []struct {
		damaged bool
		verdict string
		status  int
	}{{false, "good", command.OK}, {true, "damaged", command.Corrupt}} {
		if c.damaged {
			ok(t, os.Remove(found(t, dir, "topics/t/*/*")[0]))
		}
		for _, name := range []string{"report.html", "report.json"} {
			file := filepath.Join(reports, name)
			err := Verify(t.Context(), open(t, dir), VerifyConfig{Deep: true, Transfers: 1, Memory: 1 << 20, Report: file, Sign: signer.Sign}, env(), &bytes.Buffer{})
			if command.StatusOf(err) != c.status {
				t.Errorf("%s: %v", name, err)
			}
			text, err := os.ReadFile(file)
			ok(t, err)
			check := exec.Command("ssh-keygen", "-Y", "verify", "-f", signers, "-I", "kbk", "-n", sign.Namespace, "-s", file+".sig")
			check.Stdin = bytes.NewReader(text)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", name, err, out)
			}
			if name == "report.json" {
				var r verifyReport
				ok(t, json.Unmarshal(text, &r))
				if r.Verdict.Verdict != c.verdict || len(r.Found) != c.status/command.Corrupt || r.Entries != 1 || r.ID == "" || r.Ended.Before(r.Began) || !r.Deep {
					t.Errorf("%s", text)
				}
				continue
			}
			page := read(t, text)
			if !strings.Contains(page.text, c.verdict+" ") || c.damaged != strings.Contains(page.text, "missing topics/t/partition=0/") {
				t.Errorf("the page says %s", page.text)
			}
		}
	}
	if left, err := os.ReadDir(reports); err != nil || len(left) != 4 {
		t.Errorf("%v, %v", left, err)
	}
	// The log is gone, and then everything is.
	ok(t, os.RemoveAll(filepath.Join(dir, "log")))
	file := filepath.Join(reports, "gone.json")
	ok(t, os.MkdirAll(filepath.Join(dir, "topics/x"), 0o700))
	ok(t, os.WriteFile(filepath.Join(dir, "topics/x/y"), nil, 0o600))
	if err := Verify(t.Context(), open(t, dir), VerifyConfig{Report: file}, env(), &bytes.Buffer{}); command.StatusOf(err) != command.Corrupt {
		t.Errorf("without a log: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || !bytes.Contains(text, []byte(`"verdict": "damaged"`)) {
		t.Errorf("without a log: %v, %s", err, text)
	}
	if err := Verify(t.Context(), open(t, dir), VerifyConfig{Report: filepath.Join(file, "x.json")}, env(), &bytes.Buffer{}); !errors.Is(err, os.ErrNotExist) && !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a report that cannot be written: %v", err)
	}
}
