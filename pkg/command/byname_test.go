package command

import (
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestChoose(t *testing.T) {
	var made []string
	commands := make(map[string]func() *cli.App)
	for _, name := range []string{"kbk", "kbk-fetch"} {
		commands[name] = func() *cli.App {
			made = append(made, name)
			return App(Spec{Name: name})
		}
	}
	for _, test := range []struct{ arg0, want string }{
		{"kbk", "kbk"},
		{"/usr/bin/kbk-fetch", "kbk-fetch"},
		{"./kbk-fetch", "kbk-fetch"},
		{"kbk-fetch.exe", "kbk-fetch"},
		{"KBK-FETCH.EXE", "kbk-fetch"},
		{"kbk-fetch.old", ""},
		{"kbk-push", ""},
		{"", ""},
	} {
		made = nil
		name := calledAs([]string{test.arg0})
		app, err := choose(commands, name)
		if test.want != "" {
			if err != nil || app.Name != test.want || len(made) != 1 {
				t.Errorf("started as %q: %v, %v", test.arg0, made, err)
			}
			continue
		}
		if err == nil || StatusOf(err) != Usage || !strings.Contains(err.Error(), name) || !strings.HasSuffix(HintOf(err), "these names: kbk, kbk-fetch") {
			t.Errorf("started as %q: %v, hint %q", test.arg0, err, HintOf(err))
		}
	}
}
