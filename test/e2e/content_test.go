package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
)

// TestContents gives every command that reads a stream one of each content: it takes it, or it
// says in one line what the stream is, in a second what to do, and writes nothing. A content
// of a later version is never taken.
func TestContents(t *testing.T) {
	const (
		pages = "pages"
		file  = "FILE"

		unpack = "put kbk-pack -d before this command"
		pack   = "put kbk-pack before this command"
		newer  = "the stream was written by a newer kbk: use that version here too"
	)
	contents := []string{format.ContentRecords, format.ContentBatches, format.ContentSegments, pages}
	streams := make(map[string]string) // without a frame, in files
	for _, content := range contents {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		if err := errors.Join(w.WriteHeader(&format.Header{Content: content}), w.Close(&format.End{})); err != nil {
			t.Fatal(err)
		}
		streams[content] = filepath.Join(t.TempDir(), content)
		if err := os.WriteFile(streams[content], b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	broker := cluster.Bootstrap()
	type hints map[string]string // by the contents that are refused
	records := hints{format.ContentSegments: unpack, pages: newer}
	for line, refused := range map[string]hints{
		"kbk-filter":                     records,
		"kbk-filter --mask value=redact": records,
		"kbk-filter --to json":           records,
		"kbk-filter -c":                  records,
		"kbk-pack":                       {format.ContentSegments: "to unpack it, use kbk-pack -d", pages: newer},
		"kbk-pack -d":                    {format.ContentRecords: "to pack it, leave out -d", format.ContentBatches: "to pack it, leave out -d", pages: newer},
		"kbk-push " + filepath.Join(t.TempDir(), "b"): {format.ContentRecords: pack, format.ContentBatches: pack, pages: newer},
		"kbk-produce -b " + broker:                    records,
		"kbk-offsets translate --by identity":         records,
		"kbk-offsets map --by content -b " + broker:   records,
		"kbk-offsets map --by headers -b " + broker:   records,
		"kbk-offsets plan -b " + broker:               records,
		"kbk-offsets apply --undo undo -b " + broker:  records,
		"kbk-offsets rollback -b " + broker:           records,
		"kbk-offsets verify -b " + broker:             records,
		"kbk-offsets script -b " + broker:             records,
		// A stream in a file, behind one of records on standard input.
		"kbk-offsets verify -b " + broker + " --records " + file:                   records,
		"kbk-offsets translate --map " + file:                                      records,
		"kbk-offsets translate --by timestamp -b " + broker + " --records " + file: records,
		"kbk-offsets map --by content -b " + broker + " --records " + file:         records,
	} {
		for _, content := range contents {
			args := strings.Fields(line)
			in := streams[content]
			if args[len(args)-1] == file {
				args[len(args)-1], in = in, streams[format.ContentRecords]
			}
			stdin, err := os.Open(in)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(args[0], args[1:]...)
			var out, said bytes.Buffer
			cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = t.TempDir(), stdin, &out, &said
			err = cmd.Run()
			_ = stdin.Close() // it was only read
			about := regexp.MustCompile(`error: .* (is a stream of|is not packed|is packed already)`).MatchString(said.String())
			hint, no := refused[content]
			switch {
			case no != about:
				t.Errorf("%s, a stream of %s: %v, it says\n%s", line, content, err, &said)
			case no && (cmd.ProcessState.ExitCode() != 2 && content != pages || content == pages && cmd.ProcessState.ExitCode() != 3):
				t.Errorf("%s, a stream of %s: %v\n%s", line, content, err, &said)
			case no && (!failure.MatchString(said.String()) || !strings.HasSuffix(said.String(), hint+"\n") || out.Len() > 0 && args[0] != "kbk-offsets"):
				t.Errorf("%s, a stream of %s: %d bytes on standard output, and it says\n%s", line, content, out.Len(), &said)
			}
		}
	}
}
