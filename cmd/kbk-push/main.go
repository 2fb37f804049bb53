// Command kbk-push stores a stream of segments in any rclone remote.
package main

import (
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/push"
)

func main() { command.Main(push.App()) }
