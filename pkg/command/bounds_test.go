package command

import (
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

func TestBoundsFromFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		ok   bool
	}{
		{nil, true},
		{[]string{"--from", "3", "--to", "4"}, true},
		{[]string{"--from", "4", "--to", "4"}, false},
		{[]string{"--from", "-1"}, false},
		{[]string{"--to", "x"}, false},
		{[]string{"--since", "2026-11-20", "--until", "2026-11-21"}, true},
		{[]string{"--since", "2026-11-21", "--until", "2026-11-20"}, false},
		{[]string{"--since", "2026"}, false},
		{[]string{"--since", "2026-11-20T00:00:00.0001Z"}, true},
	} {
		app := &cli.App{Action: func(c *cli.Context) error {
			if _, _, err := OffsetsFromFlags(c); err != nil {
				return err
			}
			since, _, err := TimesFromFlags(c, time.Now())
			if since != nil && since.Nanosecond()%1e6 != 0 {
				t.Errorf("begins at %v", since)
			}
			return err
		}}
		for _, name := range []string{"from", "to", "since", "until"} {
			app.Flags = append(app.Flags, &cli.StringFlag{Name: name})
		}
		app.ExitErrHandler = func(*cli.Context, error) {}
		err := app.Run(append([]string{"test"}, c.args...))
		if want := map[bool]int{true: OK, false: Usage}[c.ok]; StatusOf(err) != want {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}
