// Command kbk-catalog looks into backups, verifies them and keeps them small. Installed, the
// program is also all other commands that reach storage, by links of their names.
package main

import (
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/catalog"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/importer"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
)

func main() {
	command.MainByName(map[string]func() *cli.App{
		"kbk-catalog": catalog.App,
		"kbk-import":  importer.App,
		"kbk-pull":    pull.App,
		"kbk-push":    push.App,
	})
}
