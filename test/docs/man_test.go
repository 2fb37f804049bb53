// Package docs holds the manual pages to the commands.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/catalog"
	"github.com/kbkio/kbk/pkg/cluster"
	"github.com/kbkio/kbk/pkg/fetch"
	"github.com/kbkio/kbk/pkg/filter"
	"github.com/kbkio/kbk/pkg/importer"
	"github.com/kbkio/kbk/pkg/kbk"
	"github.com/kbkio/kbk/pkg/offsets"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/produce"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
)

var apps = []*cli.App{fetch.App(), filter.App(), pack.App(), push.App(), pull.App(), produce.App(), offsets.App(), cluster.App(), catalog.App(), importer.App(), kbk.App()}

var documented = regexp.MustCompile(`(?m)^\*\*--?[a-z].*$`)

// TestManPages wants every flag in its command's page, with its default, and no
// flag there that the command does not have.
func TestManPages(t *testing.T) {
	commands, err := filepath.Glob("../../cmd/*")
	if err != nil || len(commands) != len(apps) {
		t.Fatalf("%d commands, %d tested: %v", len(commands), len(apps), err)
	}
	for _, app := range apps {
		raw, err := os.ReadFile("../../docs/man/" + app.Name + ".1.md")
		if err != nil {
			t.Error(err)
			continue
		}
		page := string(raw)
		if strings.Contains(page, "\n|") {
			t.Errorf("%s: the page has a table, which man makes wider than a terminal", app.Name)
		}
		known := map[string]bool{"--help": true, "-h": true, "--version": true, "-v": true}
		for _, flag := range flagsOf(app) {
			entry := entryOf(page, flag.Names()[0])
			if entry == "" {
				t.Errorf("%s: --%s is not in the page", app.Name, flag.Names()[0])
				continue
			}
			for _, name := range flag.Names() {
				dashed := "--" + name
				if len(name) == 1 {
					dashed = "-" + name
				}
				known[dashed] = true
				if !strings.Contains(entry, "**"+dashed+"**") {
					t.Errorf("%s: %s is not in the entry of --%s", app.Name, dashed, flag.Names()[0])
				}
			}
			doc, ok := flag.(cli.DocGenerationFlag)
			if !ok {
				continue
			}
			if def := strings.Trim(doc.GetDefaultText(), `"`); doc.TakesValue() && def != "" && !strings.Contains(entry, "Default: "+def+".") &&
				!strings.Contains(entry, "Default: "+def+",") {
				t.Errorf("%s: the entry of --%s does not give the default %s", app.Name, flag.Names()[0], def)
			}
			for _, env := range doc.GetEnvVars() {
				if !strings.Contains(entry, "**"+env+"**") {
					t.Errorf("%s: %s is not in the entry of --%s", app.Name, env, flag.Names()[0])
				}
			}
		}
		for _, line := range documented.FindAllString(page, -1) {
			for _, name := range regexp.MustCompile(`\*\*(--?[a-z-]+)\*\*`).FindAllStringSubmatch(line, -1) {
				if !known[name[1]] {
					t.Errorf("%s: the page has %s, and the command has not", app.Name, name[1])
				}
			}
		}
	}
}

// flagsOf is all flags of a command, each once where it is one of several commands. What
// several of them have is the same in all.
func flagsOf(app *cli.App) []cli.Flag {
	all := app.Flags
	seen := make(map[string]bool)
	for _, c := range app.Commands {
		for _, f := range c.Flags {
			if !seen[f.Names()[0]] {
				seen[f.Names()[0]] = true
				all = append(all, f)
			}
		}
	}
	return all
}

// TestManPagesOfSeveral wants a page to name the commands, and the flags of each behind it.
func TestManPagesOfSeveral(t *testing.T) {
	for _, app := range apps {
		for _, c := range app.Commands {
			raw, err := os.ReadFile("../../docs/man/" + app.Name + ".1.md")
			if err != nil {
				t.Fatal(err)
			}
			_, entry, ok := strings.Cut(string(raw), "\n## "+c.Name+"\n")
			entry, _, _ = strings.Cut(entry, "\n#")
			if !ok {
				t.Errorf("%s %s is not in the page", app.Name, c.Name)
			}
			for _, f := range c.Flags {
				switch name := f.Names()[0]; name {
				case "help", "quiet", "verbose", "log-format", "config", "max-frame", "X", "cluster", "command-config": // which all have
				default:
					if !strings.Contains(entry, "**--"+name+"**") {
						t.Errorf("%s %s: --%s is not in its section", app.Name, c.Name, name)
					}
				}
			}
		}
	}
}

// entryOf is the part of a page about one flag.
func entryOf(page, name string) string {
	dashed := "**--" + name + "**"
	if len(name) == 1 {
		dashed = "**-" + name + "**"
	}
	lines := strings.Split(page, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "**-") && strings.Contains(line, dashed) && i+1 < len(lines) && strings.HasPrefix(lines[i+1], ":   ") {
			end := i + 1
			for end < len(lines) && !strings.HasPrefix(lines[end], "**") && !strings.HasPrefix(lines[end], "#") {
				end++
			}
			return strings.Join(strings.Fields(strings.Join(lines[i:end], " ")), " ") // as it is set, wherever its lines end
		}
	}
	return ""
}
