package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kbkio/kbk/test/need"
)

// TestUnits has systemd read the units of the examples. What they start is not installed.
func TestUnits(t *testing.T) {
	need.Tools(t, "systemd-analyze")
	units, err := filepath.Glob("../../examples/*/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		const command = "/usr/local/libexec/kbk-mirror"
		if !strings.Contains(string(text), "ExecStart="+command+"\n") {
			t.Errorf("%s does not start %s", unit, command)
		}
		file := filepath.Join(t.TempDir(), filepath.Base(unit))
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "ExecStart="+command, "ExecStart=/bin/true")), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("systemd-analyze", "verify", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify %s: %v\n%s", unit, err, out)
		}
	}
}
