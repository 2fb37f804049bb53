package docs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/kbkio/kbk/test/docs/markdown"
	"github.com/kbkio/kbk/test/need"
)

// TestUnits has systemd read the units. What they start is not installed, so a program that
// is there stands in for it.
func TestUnits(t *testing.T) {
	need.Tools(t, "systemd-analyze")
	starts := regexp.MustCompile(`(?m)^ExecStart=(.+)$`)
	dir := t.TempDir()
	var all []string
	for _, pattern := range []string{"../../examples/*/*.service", "../../contrib/systemd/*.service", "../../contrib/systemd/*.timer"} {
		units, err := filepath.Glob(pattern)
		if err != nil || len(units) == 0 {
			t.Fatalf("no units %s: %v", pattern, err)
		}
		for _, unit := range units {
			text := read(t, unit)
			if strings.HasSuffix(unit, ".service") {
				m := starts.FindAllStringSubmatch(text, -1)
				if len(m) != 1 {
					t.Errorf("%s starts %d commands", unit, len(m))
					continue
				}
				checkShell(t, markdown.Block{File: unit}, strings.TrimPrefix(m[0][1], "/usr/bin/env "))
			}
			file := filepath.Join(dir, strings.ReplaceAll(filepath.Base(unit), "@.", "@nightly."))
			if err := os.WriteFile(file, []byte(starts.ReplaceAllLiteralString(text, "ExecStart=/bin/true")), 0o600); err != nil {
				t.Fatal(err)
			}
			all = append(all, file)
		}
	}
	if out, err := exec.Command("systemd-analyze", append([]string{"verify"}, all...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestScriptsOfContrib parses what is run by units and by cron, with the flags in it.
func TestScriptsOfContrib(t *testing.T) {
	for _, file := range []string{"../../contrib/systemd/kbk-follow", "../../examples/mirror/mirror.sh", "../../examples/quickstart.sh", "../../examples/workers.sh", "../../examples/disaster-recovery.sh"} {
		checkShell(t, markdown.Block{File: file}, read(t, file))
	}
	const file = "../../contrib/cron/kbk"
	lines := 0
	for _, line := range strings.Split(read(t, file), "\n") {
		if fields := strings.Fields(line); len(fields) > 6 && !strings.HasPrefix(line, "#") {
			lines++
			fields = append(fields[:5:5], fields[6:]...) // without the user
			b := markdown.Block{File: file, Text: strings.Join(fields, " ")}
			checkShell(t, b, crontab(t, b))
		}
	}
	if lines != 2 {
		t.Errorf("%s has %d lines that run something", file, lines)
	}
}

// TestManifests looks into the manifests for Kubernetes: the commands and their flags. make
// manifests holds them to the schemas of Kubernetes.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob("../../contrib/kubernetes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		var v any
		if err := yaml.Unmarshal([]byte(read(t, file)), &v); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		containers := find(v, "containers")
		if len(containers) != 1 {
			t.Errorf("%s: %d lists of containers\n%s", file, len(containers), raw)
			continue
		}
		c := containers[0].([]any)[0].(map[string]any)
		argv := texts(c["command"])
		b := markdown.Block{File: file}
		if argv[0] == "bash" {
			checkShell(t, b, texts(c["args"])[0])
		} else {
			checkCall(t, b, argv)
		}
	}
}

// find is the values of a key, wherever it is.
func find(v any, key string) (all []any) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if k == key {
				all = append(all, x)
			}
			all = append(all, find(x, key)...)
		}
	case []any:
		for _, x := range v {
			all = append(all, find(x, key)...)
		}
	}
	return all
}

func texts(v any) (all []string) {
	list, _ := v.([]any)
	for _, x := range list {
		s, _ := x.(string)
		all = append(all, s)
	}
	return all
}
