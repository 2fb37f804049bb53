// Command kbk runs the pipes that profiles in kbk.yaml stand for.
package main

import (
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kbk"
)

func main() { command.Main(kbk.App()) }
