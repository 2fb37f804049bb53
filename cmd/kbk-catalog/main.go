// Command kbk-catalog looks into backups, verifies them and keeps them small.
package main

import (
	"github.com/kbkio/kbk/pkg/catalog"
	"github.com/kbkio/kbk/pkg/command"
)

func main() { command.Main(catalog.App()) }
