package command

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// MainByName is [Main] for a program that holds several commands: it is the one whose
// name it is started with. A link of that name to the program is enough to have it.
func MainByName(commands map[string]func() *cli.App) {
	name := calledAs(os.Args)
	app, err := choose(commands, name)
	if err != nil {
		logger(name, os.Stderr, slog.LevelWarn, false).Error(err.Error())
		fmt.Fprintf(os.Stderr, "%s: hint: %s\n", Printable(name), HintOf(err))
		os.Exit(StatusOf(err))
	}
	Main(app)
}

// calledAs is the name that a program was started with, without its folder and without
// the ending that Windows gives it.
func calledAs(args []string) string {
	if len(args) == 0 {
		return ""
	}
	name := filepath.Base(args[0])
	if ext := filepath.Ext(name); strings.EqualFold(ext, ".exe") {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}

// choose makes the command of that name.
func choose(commands map[string]func() *cli.App, name string) (*cli.App, error) {
	if app, ok := commands[name]; ok {
		return app(), nil
	}
	if app, ok := commands[strings.ToLower(name)]; ok { // the file systems of Windows and macOS take both
		return app(), nil
	}
	known := slices.Sorted(maps.Keys(commands))
	err := WithStatus(Usage, fmt.Errorf("this program was started as %q, and no command has that name", name))
	return nil, WithHint(err, "rename the program, or link to it, by one of these names: "+strings.Join(known, ", "))
}
