package datakeep

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

// FuzzRead reads a file of any content: it ends, with an error or without, and gives out
// no record that a stream could not hold.
func FuzzRead(f *testing.F) {
	seeds := 0
	for _, pattern := range []string{"dk-*/*/*/*/*.avro", "dk-*/*/*/*.avro"} {
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
		_ = Format{}.Read(t.Context(), tree, &foreign.File{Path: "f", Topic: "orders"}, out)
	})
}
