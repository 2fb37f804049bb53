// Command kbk-offsets carries consumer groups over to a restored cluster.
package main

import (
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/offsets"
)

func main() { command.Main(offsets.App()) }
