// Package foreigntest fuzzes the formats below pkg/foreign.
package foreigntest

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/foreign"
)

// Fuzz reads a file of any content: it ends, with an error or without, and gives out no
// record that a stream could not hold. Samples that match the patterns, below the
// importer's, are the seeds.
func Fuzz(f *testing.F, how foreign.Format, file foreign.File, patterns ...string) {
	seeds := 0
	for _, pattern := range patterns {
		names, err := filepath.Glob("../../importer/testdata/samples/" + pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			raw, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw[:min(len(raw), 4000)])
			seeds++
		}
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		tree := &foreign.Tree{Open: func(context.Context, string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }}
		out := foreign.Out{Record: func(r *format.Record) error {
			var frame format.Frame
			if r.Partition < 0 || r.Offset < 0 {
				t.Fatalf("partition %d, offset %d", r.Partition, r.Offset)
			}
			return frame.Scan(format.AppendRecord(nil, r))
		}}
		_ = how.Read(t.Context(), tree, &file, out) // an error is as good as none
	})
}
