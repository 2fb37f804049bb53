package offsets

import (
	"fmt"
	"strings"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// endStatus is what a command returns that has done its work on an input that ended with
// end: own is what it could not do, or nil. What the source lost is said in any case.
func endStatus(end *format.End, what string, own error) error {
	switch {
	case own == nil || end.Interrupted:
		return command.EndStatus(end, what)
	case len(end.Losses) > 0:
		return command.WithStatus(command.StatusOf(own), fmt.Errorf("%w; the source had lost: %s", own, strings.Join(end.Losses, "; ")))
	}
	return own
}
