// Package markdown reads the blocks of code in documents, for the tests that check and run them.
//
// The word behind a fence is the language. A block of the language sh is run, unless "norun"
// and the reason stand behind it. "status 4" says that it ends with this status. A block of
// the language output has what the block of sh before it prints.
package markdown

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Block is a fenced block of code.
type Block struct {
	File  string
	Line  int    // where its text begins, from 1
	Lang  string // the first word behind the fence
	NoRun string // why it is not run, if it is not
	// Status is the exit status of a block that is run.
	Status int
	Text   string
}

// Where is the place of the block, as file:line.
func (b Block) Where() string { return fmt.Sprintf("%s:%d", b.File, b.Line) }

// Blocks reads the fenced blocks of a file.
func Blocks(file string) ([]Block, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parse(file, string(raw))
}

func parse(file, text string) (all []Block, err error) {
	var open *Block
	indent := ""
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimLeft(line, " ")
		switch {
		case open == nil && strings.HasPrefix(trimmed, "```"):
			indent = line[:len(line)-len(trimmed)]
			if open, err = begin(file, i+2, trimmed[3:]); err != nil {
				return nil, err
			}
		case open != nil && trimmed == "```":
			all, open = append(all, *open), nil
		case open != nil:
			open.Text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s: the block is not closed", open.Where())
	}
	return all, nil
}

func begin(file string, line int, info string) (*Block, error) {
	b := &Block{File: file, Line: line}
	lang, note, _ := strings.Cut(info, " ")
	b.Lang = lang
	word, rest, _ := strings.Cut(note, " ")
	switch {
	case note == "":
	case word == "norun" && rest != "":
		b.NoRun = rest
	case word == "status":
		n, err := strconv.Atoi(rest)
		if err != nil {
			return nil, fmt.Errorf("%s: status %q is not a number", b.Where(), rest)
		}
		b.Status = n
	default:
		return nil, fmt.Errorf("%s: %q stands behind the language, and is neither \"norun REASON\" nor \"status N\"", b.Where(), note)
	}
	return b, nil
}
