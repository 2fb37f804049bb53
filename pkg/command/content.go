package command

import (
	"fmt"
	"slices"

	"github.com/kbkio/kbk/format"
)

// Takes refuses a stream that holds something else than a command takes: contents, of which
// the first is what it is for. name says which stream it is. Who does not know what a stream
// holds must not pass it on: a mask that knows records alone would leak whole batches.
func Takes(h *format.Header, name string, contents ...string) error {
	switch {
	case slices.Contains(contents, h.Content):
		return nil
	case !slices.Contains([]string{format.ContentRecords, format.ContentBatches, format.ContentSegments}, h.Content):
		return WithHint(WithStatus(Corrupt, fmt.Errorf("%s is a stream of %q, which this version does not know", name, h.Content)),
			"the stream was written by a newer kbk: use that version here too")
	}
	hint := "put kbk-pack before this command"
	switch {
	case h.Content == format.ContentSegments:
		hint = "put kbk-pack -d before this command"
	case contents[0] == format.ContentRecords:
		hint = "leave out --batches in the command before this one"
	}
	return WithHint(Usagef("%s is a stream of %s, not of %s", name, h.Content, contents[0]), hint)
}
