package docs

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

// TestHelp wants the help of each command in 80 columns, with its pipes before its usage, and
// each flag in it once.
func TestHelp(t *testing.T) {
	for _, app := range apps {
		checkHelp(t, app, app.Flags, true, app.Name, "--help")
		groups, _ := app.Metadata["groups"].([]command.FlagGroup)
		for _, g := range groups {
			for _, name := range g.Flags {
				if !slices.ContainsFunc(app.Flags, func(f cli.Flag) bool { return f.Names()[0] == name }) {
					t.Errorf("%s: the group %q has --%s, and the command has not", app.Name, g.Name, name)
				}
			}
		}
		for _, c := range app.Commands {
			checkHelp(t, app, c.Flags, false, app.Name, c.Name, "--help")
		}
	}
}

func checkHelp(t *testing.T, app *cli.App, flags []cli.Flag, pipes bool, args ...string) {
	t.Helper()
	var out bytes.Buffer
	app.Writer = &out
	if err := app.Run(args); err != nil {
		t.Errorf("%q: %v", args, err)
	}
	help := out.String()
	for line := range strings.Lines(help) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%q: %d columns: %s", args, n, line)
		}
	}
	before, after, ok := strings.Cut(help, "\nUsage: ")
	if !ok || pipes && !strings.Contains(before, "\n  "+app.Name+" ") && !strings.Contains(before, "| "+app.Name+" ") && !strings.Contains(before, "\n    "+app.Name+" ") {
		t.Errorf("%q: no pipe stands before the usage:\n%s", args, before)
	}
	for _, f := range flags {
		long := slices.MaxFunc(f.Names(), func(a, b string) int { return len(a) - len(b) })
		dashes := "--"
		if len(long) == 1 {
			dashes = "-"
		}
		n := 0
		for line := range strings.Lines(after) {
			names, _, _ := strings.Cut(strings.TrimSpace(line), "  ") // what it is stands behind two spaces
			if strings.HasPrefix(line, "  -") && slices.Contains(strings.Fields(strings.NewReplacer(",", " ", "[", " ").Replace(names)), dashes+long) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%q: --%s is there %d times", args, long, n)
		}
	}
}
