// Command kbk-pack turns a stream of records into segments, and back.
package main

import (
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pack"
)

func main() { command.Main(pack.App()) }
