package command

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestFlagsFirst has flags behind arguments.
func TestFlagsFirst(t *testing.T) {
	var deep Size
	flags := []cli.Flag{&cli.StringFlag{Name: "at"}, &cli.BoolFlag{Name: "yes"}, &cli.GenericFlag{Name: "size", Value: &deep}, &cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}}}
	one := App(Spec{Name: "kbk-x", Flags: flags})
	several := App(Spec{Name: "kbk", Commands: []Spec{{Name: "restore", Flags: flags}}})
	for _, test := range []struct {
		app      *cli.App
		in, want string
	}{
		{one, "kbk-x", "kbk-x"},
		{one, "kbk-x remote", "kbk-x remote"},
		{one, "kbk-x --yes remote", "kbk-x --yes remote"},
		{one, "kbk-x remote --yes", "kbk-x --yes remote"},
		{one, "kbk-x remote --at 24h", "kbk-x --at 24h remote"},
		{one, "kbk-x remote --at=24h more", "kbk-x --at=24h remote more"},
		{one, "kbk-x remote -t a -t -5 --yes more", "kbk-x -t a -t -5 --yes remote more"},
		{one, "kbk-x remote --size 1MB --unknown more", "kbk-x --size 1MB --unknown remote more"},
		{one, "kbk-x remote --at", "kbk-x --at remote"},
		{one, "kbk-x --yes -- --at", "kbk-x --yes -- --at"},
		{one, "kbk-x a -- b", "kbk-x a b"},
		{one, "kbk-x - --yes", "kbk-x --yes -"},
		{several, "kbk", "kbk"},
		{several, "kbk --version", "kbk --version"},
		{several, "kbk restore nightly --at 24h --to test", "kbk restore --at 24h --to nightly test"}, // --to is not known, and said to be
		{several, "kbk restore nightly --at 24h", "kbk restore --at 24h nightly"},
	} {
		if got := flagsFirst(test.app, strings.Fields(test.in)); !slices.Equal(got, strings.Fields(test.want)) {
			t.Errorf("%s: %q", test.in, got)
		}
	}
}
