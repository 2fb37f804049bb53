// Package jsontext works on JSON as text: what is not changed keeps its spacing, its
// order and its digits. Texts must be valid (RFC 8259); [Valid] tells.
package jsontext

import (
	"bytes"
	"encoding/json"
	"unicode/utf16"
	"unicode/utf8"
)

// Valid tells whether b is one JSON value, and UTF-8.
func Valid(b []byte) bool { return json.Valid(b) && utf8.Valid(b) }

// SkipSpace returns the index of what comes behind white space.
func SkipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// SkipValue returns the index behind the value that begins at i.
func SkipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		for depth := 0; ; i++ {
			switch b[i] {
			case '"':
				i = skipString(b, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	for i < len(b) {
		switch b[i] {
		case ' ', '\n', '\t', '\r', ',', ']', '}':
			return i
		}
		i++
	}
	return i
}

func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// A Member is one of an object or an array: [From, To) is its text, with its name, and
// the value begins at Value.
type Member struct {
	Name            []byte // of an object's: as it is decoded
	From, Value, To int
}

// Members appends the members of the object or array at i to to.
func Members(b []byte, i int, to []Member) []Member {
	object := b[i] == '{'
	for i = SkipSpace(b, i+1); b[i] != '}' && b[i] != ']'; {
		m := Member{From: i, Value: i}
		if object {
			end := skipString(b, i)
			m.Name = Unquote(b[i:end])
			m.Value = SkipSpace(b, SkipSpace(b, end)+1) // behind the colon
		}
		m.To = SkipValue(b, m.Value)
		to = append(to, m)
		if i = SkipSpace(b, m.To); b[i] == ',' {
			i = SkipSpace(b, i+1)
		}
	}
	return to
}

// Unquote is the content of a JSON string. It shares b's memory where nothing in it is
// escaped. Half of a surrogate pair becomes U+FFFD, as in encoding/json.
func Unquote(b []byte) []byte {
	b = b[1 : len(b)-1 : len(b)-1]
	i := bytes.IndexByte(b, '\\')
	if i < 0 {
		return b
	}
	out := make([]byte, 0, len(b))
	for ; i >= 0; i = bytes.IndexByte(b, '\\') {
		out = append(out, b[:i]...)
		c := b[i+1]
		b = b[i+2:]
		switch c {
		case 'n':
			c = '\n'
		case 't':
			c = '\t'
		case 'r':
			c = '\r'
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'u':
			r := unhex(b)
			b = b[4:]
			if utf16.IsSurrogate(r) {
				pair := rune(utf8.RuneError)
				if len(b) >= 6 && b[0] == '\\' && b[1] == 'u' {
					pair = utf16.DecodeRune(r, unhex(b[2:]))
				}
				if r = pair; r != utf8.RuneError {
					b = b[6:]
				}
			}
			out = utf8.AppendRune(out, r)
			continue
		}
		out = append(out, c)
	}
	return append(out, b...)
}

// unhex is the number that four digits are.
func unhex(b []byte) (r rune) {
	for _, c := range b[:4] {
		switch {
		case c <= '9':
			c -= '0'
		case c <= 'F':
			c -= 'A' - 10
		default:
			c -= 'a' - 10
		}
		r = r<<4 | rune(c)
	}
	return r
}

const hex = "0123456789abcdef"

// AppendString appends s, which is UTF-8, as a JSON string. Only what must be is
// escaped.
func AppendString[S string | []byte](b []byte, s S) []byte {
	b = append(b, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\t':
			b = append(b, `\t`...)
		case '\r':
			b = append(b, `\r`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}
