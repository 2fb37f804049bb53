package command

import (
	"context"
	"os"
)

// unread does nothing: only Unix tells.
func unread(context.Context, uintptr) bool { return false }

// closePipes closes standard input and output.
func closePipes() {
	_ = os.Stdin.Close()
	_ = os.Stdout.Close()
}
