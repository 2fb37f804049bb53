package kcat

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/kbkio/kbk/format"
)

// A scanner reads JSON whose strings are bytes. Its first error stays.
type scanner struct {
	b   []byte
	i   int
	err error
}

func (s *scanner) fail(f string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(f, args...)
	}
}

// peek returns the next byte that is no space, or 0.
func (s *scanner) peek() byte {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\t' || s.b[s.i] == '\r') {
		s.i++
	}
	if s.i == len(s.b) {
		return 0
	}
	return s.b[s.i]
}

func (s *scanner) accept(c byte) bool {
	if s.err != nil || s.peek() != c {
		return false
	}
	s.i++
	return true
}

func (s *scanner) expect(c byte) {
	if !s.accept(c) {
		s.fail("no %q at byte %d", c, s.i)
	}
}

func (s *scanner) number() int64 {
	s.peek()
	from := s.i
	for s.i < len(s.b) && (s.b[s.i] == '-' || s.b[s.i] >= '0' && s.b[s.i] <= '9') {
		s.i++
	}
	n, err := strconv.ParseInt(string(s.b[from:s.i]), 10, 64)
	if err != nil {
		s.fail("no number at byte %d", from)
	}
	return n
}

// null takes the word null, if it is next.
func (s *scanner) null() bool {
	if s.err != nil || s.peek() != 'n' || len(s.b)-s.i < 4 || string(s.b[s.i:s.i+4]) != "null" {
		return false
	}
	s.i += 4
	return true
}

// nullable reads a string or null. Numbers, objects and arrays are what a deserializer of
// kcat (-s, -r) has made of the bytes, which are gone.
func (s *scanner) nullable(what string) []byte {
	if s.null() {
		return nil
	}
	if c := s.peek(); s.err == nil && c != '"' {
		s.fail("the %s is not text but what kcat -s or -r made of it: its bytes are gone", what)
		return nil
	}
	return s.text()
}

func (s *scanner) headers() (out []format.RecordHeader) {
	s.expect('[')
	for first := true; s.err == nil && !s.accept(']'); first = false {
		if !first {
			s.expect(',')
		}
		name := s.text()
		s.expect(',')
		out = append(out, format.RecordHeader{Name: name, Value: s.nullable("header")})
	}
	return out
}

// text reads a string, as the bytes that it stands for; never nil.
func (s *scanner) text() []byte {
	s.expect('"')
	out := []byte{}
	for s.err == nil {
		if s.i >= len(s.b) {
			s.err = errors.New("a string without an end")
			break
		}
		c := s.b[s.i]
		s.i++
		switch c {
		case '"':
			return out
		case '\\':
			out = s.escape(out)
		default:
			out = append(out, c)
		}
	}
	return out
}

func (s *scanner) escape(out []byte) []byte {
	if s.i >= len(s.b) {
		s.fail("a string without an end")
		return out
	}
	c := s.b[s.i]
	s.i++
	switch c {
	case '"', '\\', '/':
		return append(out, c)
	case 'b':
		return append(out, '\b')
	case 'f':
		return append(out, '\f')
	case 'n':
		return append(out, '\n')
	case 'r':
		return append(out, '\r')
	case 't':
		return append(out, '\t')
	case 'u':
		if len(s.b)-s.i < 4 {
			break
		}
		n, err := strconv.ParseUint(string(s.b[s.i:s.i+4]), 16, 16)
		if err != nil {
			break
		}
		s.i += 4
		// kcat escapes control characters in this way, and nothing else.
		if n >= 0xd800 && n < 0xe000 {
			s.fail("an escape %04x, which kcat does not write", n)
		}
		return utf8.AppendRune(out, rune(n))
	}
	s.fail("an escape at byte %d that JSON does not have", s.i)
	return out
}
