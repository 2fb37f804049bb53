package command

import (
	"testing"

	"github.com/kbkio/kbk/format"
)

func TestTakes(t *testing.T) {
	const (
		records, batches, segments = format.ContentRecords, format.ContentBatches, format.ContentSegments

		unpack, pack, leave = "put kbk-pack -d before this command", "put kbk-pack before this command", "leave out --batches in the command before this one"
		newer               = "the stream was written by a newer kbk: use that version here too"
	)
	for _, c := range []struct {
		content   string
		takes     []string
		status    int
		err, hint string
	}{
		{records, []string{records}, OK, "", ""},
		{records, []string{records, batches}, OK, "", ""},
		{batches, []string{records, batches}, OK, "", ""},
		{segments, []string{segments}, OK, "", ""},
		{segments, []string{records}, Usage, "f is a stream of segments, not of records", unpack},
		{segments, []string{records, batches}, Usage, "f is a stream of segments, not of records", unpack},
		{records, []string{segments}, Usage, "f is a stream of records, not of segments", pack},
		{batches, []string{segments}, Usage, "f is a stream of batches, not of segments", pack},
		{batches, []string{records}, Usage, "f is a stream of batches, not of records", leave},
		{"", []string{records}, Corrupt, `f is a stream of "", which this version does not know`, newer},
		{"pages", []string{records, batches}, Corrupt, `f is a stream of "pages", which this version does not know`, newer},
	} {
		err := Takes(&format.Header{Content: c.content}, "f", c.takes...)
		if StatusOf(err) != c.status || (err == nil) != (c.err == "") || err != nil && (err.Error() != c.err || HintOf(err) != c.hint) {
			t.Errorf("%q where %q are taken: status %d, %v, %q", c.content, c.takes, StatusOf(err), err, HintOf(err))
		}
	}
}
