package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestUsageError(t *testing.T) {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "brokers", Aliases: []string{"b"}},
		&cli.StringFlag{Name: "topic", Aliases: []string{"t"}},
	}
	for in, want := range map[string]string{
		unknownFlag + "tpoic":       `unknown flag --tpoic; did you mean "--topic"?`,
		unknownFlag + "broker":      `unknown flag --broker; did you mean "--brokers"?`,
		unknownFlag + "hepl":        `unknown flag --hepl; did you mean "--help"?`,
		unknownFlag + "vresion":     `unknown flag --vresion; did you mean "--version"?`,
		unknownFlag + "V":           `unknown flag -V; did you mean "-v"?`,
		unknownFlag + "T":           `unknown flag -T; did you mean "-t"?`,
		unknownFlag + "x":           `unknown flag -x`, // not -b, -t or -h, which are one letter away
		unknownFlag + "xyzzyplough": `unknown flag --xyzzyplough`,
		"something else":            "something else",
	} {
		err := usageError(flags, "run kbk-x --help")(nil, errors.New(in), false)
		if err.Error() != want || StatusOf(err) != Usage {
			t.Errorf("%q: %q, status %d; want %q", in, err, StatusOf(err), want)
		}
		if hint := HintOf(err); (hint == "") != strings.Contains(want, "did you mean") && in != "something else" {
			t.Errorf("%q: the hint is %q", in, hint)
		}
	}
}

// TestHelpAsAWord wants "kbk-x help" and "kbk-x version" to lead to the flags.
func TestHelpAsAWord(t *testing.T) {
	one := App(Spec{Name: "kbk-x", Action: func(context.Context, *cli.Context, *Env) error { return nil }})
	many := App(Spec{Name: "kbk-x", Commands: []Spec{{Name: "list"}}})
	for _, app := range []*cli.App{one, many} {
		for _, word := range []string{"help", "version"} {
			err := app.Run([]string{"kbk-x", word})
			if err == nil || StatusOf(err) != Usage || !strings.HasSuffix(err.Error(), fmt.Sprintf("; did you mean %q?", "--"+word)) {
				t.Errorf("%s: %v", word, err)
			}
		}
	}
	if err := many.Run([]string{"kbk-x", "--quiet", "list"}); err == nil || !strings.Contains(HintOf(err), "behind the command") {
		t.Errorf("a flag before the command: %v, hint %q", err, HintOf(err))
	}
}

func TestHelpOf(t *testing.T) {
	app := App(Spec{
		Name: "kbk-x", Usage: "try", Args: "REMOTE",
		Description: "Says something about itself.\n\n   kbk-x --first-flag-of-the-example value | kbk-y --another-flag value | kbk-z --last\n\nAnd more.",
		Groups:      []FlagGroup{{"Own", []string{"b", "gone"}}},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "a", Usage: "the `A` of " + strings.Repeat("many words ", 20), Value: "one", EnvVars: []string{"KBK_A"}},
			&cli.BoolFlag{Name: "b", Aliases: []string{"both"}, Usage: "both"},
		},
	})
	help := helpOf(app)
	at := -1
	for _, want := range []string{
		"kbk-x: try\n", "\n  kbk-x --first-flag-of-the-example value | kbk-y --another-flag value |\n    kbk-z --last\n",
		"\nUsage: kbk-x [flags] REMOTE\n", "\nSays something", "\nAnd more.", "\nOwn:\n  -b, --both              both\n",
		"\nFlags:\n  -a A                    the A of many", "(default: one) [$KBK_A]",
		"\nOutput and configuration:\n  --config FILE", "\n  -h, --help ", "\nExit status:\n",
	} {
		i := strings.Index(help, want)
		if i <= at {
			t.Errorf("%q is at %d, behind %d", want, i, at)
		}
		at = i
	}
	for line := range strings.Lines(help) {
		if len(line) > helpWidth+1 {
			t.Errorf("wider than %d columns: %s", helpWidth, line)
		}
	}
}
