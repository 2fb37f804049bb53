package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// headings are the fragments by which the headings of a page are linked to.
func headings(page string) (all []string) {
	for _, line := range strings.Split(page, "\n") {
		level := len(line) - len(strings.TrimLeft(line, "#"))
		if level == 0 || !strings.HasPrefix(line[level:], " ") {
			continue
		}
		text := strings.ToLower(strings.TrimSpace(line[level:]))
		text = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(text, "")
		all = append(all, strings.ReplaceAll(text, " ", "-"))
	}
	return all
}

// width is how wide a line of a document may be.
const width = 100

// TestWidth wants the lines of documents to fit into an editor, but for tables, headings,
// fenced code, and what cannot be broken.
func TestWidth(t *testing.T) {
	for _, file := range documents(t) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fenced := false
		for i, line := range strings.Split(string(raw), "\n") {
			trimmed := strings.TrimSpace(line)
			if strings.HasPrefix(trimmed, "```") {
				fenced = !fenced
			}
			broken := strings.Contains(strings.TrimLeft(trimmed, "*:#- "), " ") && !strings.HasPrefix(line, "#") && !strings.HasPrefix(trimmed, "|")
			if utf8.RuneCountInString(line) > width && broken && !fenced {
				t.Errorf("%s:%d: %d characters, more than %d", file, i+1, utf8.RuneCountInString(line), width)
			}
		}
	}
}
