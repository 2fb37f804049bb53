// Command kbk runs the pipes that profiles in kbk.yaml stand for. Installed, the program is
// also all other commands that do without storage, by links of their names.
package main

import (
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/cluster"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/fetch"
	"github.com/kbkio/kbk/pkg/filter"
	"github.com/kbkio/kbk/pkg/kbk"
	"github.com/kbkio/kbk/pkg/offsets"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/produce"
)

func main() {
	command.MainByName(map[string]func() *cli.App{
		"kbk":         kbk.App,
		"kbk-cluster": cluster.App,
		"kbk-fetch":   fetch.App,
		"kbk-filter":  filter.App,
		"kbk-offsets": offsets.App,
		"kbk-pack":    pack.App,
		"kbk-produce": produce.App,
	})
}
