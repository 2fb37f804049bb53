// Package kbk has no code: this test holds the tree to ARCHITECTURE.md.
package kbk

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kbkio/kbk/"

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		all = append(all, p)
	}
}

func TestLayers(t *testing.T) {
	commands := []string{"fetch", "filter", "pack", "push", "pull", "produce", "offsets", "cluster", "catalog", "importer", "kbk"}
	all := packages(t)
	if len(all) < 15 {
		t.Fatalf("only %d packages found", len(all))
	}
	for _, p := range all {
		for _, imp := range p.Imports {
			own, isOwn := strings.CutPrefix(imp, module)
			command, isCommand := strings.CutPrefix(own, "pkg/")
			isCommand = isOwn && isCommand && slices.Contains(commands, command)
			switch {
			case p.ImportPath == "format" && isOwn:
				t.Errorf("format imports %s, and should import nothing of the project", own)
			case strings.HasPrefix(imp, "github.com/rclone/") && !strings.HasPrefix(p.ImportPath, "pkg/store"):
				t.Errorf("%s imports rclone, which only pkg/store may", p.ImportPath)
			case own == "pkg/store" && !slices.Contains([]string{"pkg/push", "pkg/pull", "pkg/catalog", "pkg/compaction", "pkg/importer"}, p.ImportPath):
				t.Errorf("%s imports pkg/store, and with it rclone", p.ImportPath)
			case isCommand && !strings.HasPrefix(p.ImportPath, "cmd/"):
				t.Errorf("%s imports the command %s", p.ImportPath, own)
			case strings.HasPrefix(imp, "github.com/prometheus/") && !strings.HasPrefix(p.ImportPath, "pkg/metrics/"), strings.HasSuffix(imp, "/kprom") && p.ImportPath != "pkg/metrics/clientprom":
				t.Errorf("%s imports %s, which only packages below pkg/metrics may", p.ImportPath, imp)
			case own == "pkg/metrics/prom" && p.ImportPath == "pkg/command":
				t.Errorf("pkg/command imports %s, and with it Prometheus for every command", own)
			case strings.HasPrefix(own, "test/") && strings.HasPrefix(p.ImportPath, "pkg/"):
				t.Errorf("%s imports %s", p.ImportPath, own)
			}
		}
	}
}

// TestOneClientBuilder looks for calls, which the imports do not show.
func TestOneClientBuilder(t *testing.T) {
	var got []string
	for _, dir := range []string{"pkg", "cmd"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, []byte("kgo.NewClient(")) {
				got = append(got, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"pkg/kafka/kafka.go"}; !slices.Equal(got, want) {
		t.Errorf("clients are made in %q", got)
	}
}
