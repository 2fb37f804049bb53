// Command kbk-filter picks, changes and shows records of a stream.
package main

import (
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/filter"
)

func main() { command.Main(filter.App()) }
