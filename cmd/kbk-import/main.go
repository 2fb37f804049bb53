// Command kbk-import reads a backup of another tool as a stream of records.
package main

import (
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/importer"
)

func main() { command.Main(importer.App()) }
