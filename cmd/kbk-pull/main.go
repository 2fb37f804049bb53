// Command kbk-pull reads a backup from any rclone remote as a stream of segments.
package main

import (
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pull"
)

func main() { command.Main(pull.App()) }
