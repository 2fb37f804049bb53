// Command report reads what go test -json wrote and names the tests that were skipped.
//
//	report FILE…
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/kbkio/kbk/test/need"
)

// An event is a line of go test -json.
type event struct{ Action, Package, Test, Output string }

func main() {
	var skips []string
	for _, name := range os.Args[1:] {
		f, err := os.Open(name)
		if err == nil {
			var more []string
			more, err = skipped(f)
			skips = append(skips, more...)
			_ = f.Close() // it was read
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "report: error: %s: %v\n", name, err)
			os.Exit(1)
		}
	}
	if len(skips) == 0 {
		fmt.Println("Nothing was skipped.")
		return
	}
	fmt.Printf("Skipped, %d in all:\n", len(skips))
	for _, s := range skips {
		fmt.Println("  " + s)
	}
}

// place is what go test writes before a message.
var place = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// skipped reads events and returns a line for each test that was skipped, with the reason.
// A test whose part was skipped is not one.
func skipped(r io.Reader) (out []string, err error) {
	said := make(map[[2]string]string)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, err
		}
		key := [2]string{e.Package, e.Test}
		switch {
		case e.Test == "":
		case e.Action == "output":
			text := strings.TrimSpace(place.ReplaceAllString(e.Output, ""))
			if text != "" && !strings.HasPrefix(text, "=== ") && !strings.HasPrefix(text, "--- ") {
				said[key] = text
			}
		case e.Action == "skip":
			pkg := e.Package[strings.LastIndex(e.Package, "/")+1:]
			out = append(out, fmt.Sprintf("%s %s: %s", pkg, e.Test, strings.TrimPrefix(said[key], need.Mark)))
		}
	}
	return out, lines.Err()
}
