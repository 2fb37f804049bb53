package oso

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

// FuzzBody decodes the records of a segment, without its checksum, which would stop all
// that is damaged.
func FuzzBody(f *testing.F) {
	seeds, err := filepath.Glob("../../importer/testdata/samples/oso-*/nightly/topics/*/*/*")
	if err != nil || len(seeds) < 10 {
		f.Fatal(len(seeds), err)
	}
	for _, name := range seeds {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		body, err := plain(raw[5], raw[headerSize:len(raw)-trailerSize])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body[:min(len(body), 1000)])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d := decoder{f: &foreign.File{Topic: "t"}, rest: body}
		for len(d.rest) > 0 {
			left := len(d.rest)
			if d.next() != nil {
				return
			}
			if len(d.rest) >= left {
				t.Fatal("a record took no bytes")
			}
			if size := len(d.rec.Key) + len(d.rec.Value); size > left {
				t.Fatalf("%d bytes of %d", size, left)
			}
		}
	})
}

// FuzzSegment reads whole files.
func FuzzSegment(f *testing.F) {
	for _, name := range []string{"oso-zstd/nightly/topics/txn/partition=0/segment-00000000000000000000.bin.zst", "oso-lz4/nightly/topics/txn/partition=0/segment-00000000000000000000.bin.lz4"} {
		raw, err := os.ReadFile("../../importer/testdata/samples/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		tree := &foreign.Tree{Open: func(context.Context, string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }}
		nothing := foreign.Out{Record: func(*format.Record) error { return nil }, Marker: func(string, int32, int64) error { return nil }}
		_ = Format{}.Read(t.Context(), tree, &foreign.File{Path: "f", Topic: "t"}, nothing)
	})
}

// FuzzList reads any manifest and any groups beside it.
func FuzzList(f *testing.F) {
	var seeds [2][]byte
	for i, name := range []string{"manifest.json", "consumer-groups-snapshot.json"} {
		raw, err := os.ReadFile("../../importer/testdata/samples/oso-zstd/nightly/" + name)
		if err != nil {
			f.Fatal(err)
		}
		seeds[i] = raw
	}
	f.Add(seeds[0], seeds[1])
	f.Fuzz(func(t *testing.T, manifest, groups []byte) {
		files := map[string][]byte{"manifest.json": manifest, "consumer-groups-snapshot.json": groups, "topics/txn/partition=0/segment-00000000000000000000.bin.zst": nil}
		tree := &foreign.Tree{Open: func(_ context.Context, name string) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(files[name])), nil
		}}
		for name, data := range files {
			tree.Objects = append(tree.Objects, foreign.Object{Path: name, Size: int64(len(data))})
		}
		tree.Sort()
		Detect(t.Context(), tree)
		b, err := Format{}.List(t.Context(), tree)
		if err != nil {
			return
		}
		for _, p := range b.Partitions {
			for _, l := range p.Lost {
				if p.Number < 0 || l[0] > l[1] {
					t.Fatalf("partition %d lost %v", p.Number, l)
				}
			}
		}
	})
}
