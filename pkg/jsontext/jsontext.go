// Package jsontext works on JSON as text: what is not changed keeps its spacing, its
// order and its digits. Texts must be valid (RFC 8259); [Valid] tells.
package jsontext

import (
	"bytes"
	"encoding/json"
	"fmt"
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

// Walk calls do with each member of the object or array at i: its number, its name as it
// is decoded, nil in an array, and where its text and its value begin. do returns the
// index behind the value. Walk returns the one behind the object or array, and so goes
// over each byte of it once, however deep do goes.
func Walk(b []byte, i int, do func(n int, name []byte, from, value int) (to int, err error)) (int, error) {
	object := b[i] == '{'
	i = SkipSpace(b, i+1)
	for n := 0; b[i] != '}' && b[i] != ']'; n++ {
		var name []byte
		from, value := i, i
		if object {
			end := skipString(b, i)
			name = Unquote(b[i:end])
			value = SkipSpace(b, SkipSpace(b, end)+1) // behind the colon
		}
		to, err := do(n, name, from, value)
		if err != nil {
			return 0, err
		}
		if i = SkipSpace(b, to); b[i] == ',' {
			i = SkipSpace(b, i+1)
		}
	}
	return i + 1, nil
}

// Members appends the members of the object or array at i to to.
func Members(b []byte, i int, to []Member) []Member {
	_, _ = Walk(b, i, func(_ int, name []byte, from, value int) (int, error) { // it never fails
		m := Member{Name: name, From: from, Value: value, To: SkipValue(b, value)}
		to = append(to, m)
		return m.To, nil
	})
	return to
}

// A DuplicateError says that an object has two members of one name. JSON leaves open what
// that means (RFC 8259, section 4), so whoever changes one of them may leave the other.
type DuplicateError struct{ Name string }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("the name %q is there twice in one object", e.Name)
}

// Decode returns a text as encoding/json does into an any with UseNumber: maps, slices,
// strings, json.Number, booleans and nil. It refuses names that are there twice.
func Decode(b []byte) (any, error) {
	v, _, err := decode(b, SkipSpace(b, 0))
	return v, err
}

// decode decodes the value at i and returns the index behind it.
func decode(b []byte, i int) (v any, to int, err error) {
	switch b[i] {
	case '{':
		out := make(map[string]any)
		to, err = Walk(b, i, func(_ int, name []byte, _, value int) (int, error) {
			if _, twice := out[string(name)]; twice {
				return 0, &DuplicateError{string(name)}
			}
			v, to, err := decode(b, value)
			out[string(name)] = v
			return to, err
		})
		return out, to, err
	case '[':
		out := []any{}
		to, err = Walk(b, i, func(_ int, _ []byte, _, value int) (int, error) {
			v, to, err := decode(b, value)
			out = append(out, v)
			return to, err
		})
		return out, to, err
	}
	to = SkipValue(b, i)
	switch text := b[i:to]; text[0] {
	case '"':
		return string(Unquote(text)), to, nil
	case 't', 'f':
		return text[0] == 't', to, nil
	case 'n':
		return nil, to, nil
	default:
		return json.Number(text), to, nil
	}
}

// LoneSurrogate tells whether a string in the text has an escape that is half of a
// surrogate pair. It stands for no character, and [Unquote] cannot give it back.
func LoneSurrogate(b []byte) bool {
	for i := bytes.IndexByte(b, '\\'); i >= 0; i = bytes.IndexByte(b, '\\') {
		escape := b[i+1]
		b = b[i+2:]
		if escape != 'u' {
			continue
		}
		r := unhex(b)
		b = b[4:]
		if !utf16.IsSurrogate(r) {
			continue
		}
		if len(b) < 6 || b[0] != '\\' || b[1] != 'u' || utf16.DecodeRune(r, unhex(b[2:])) == utf8.RuneError {
			return true
		}
		b = b[6:]
	}
	return false
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
