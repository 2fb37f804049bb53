package filter

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/jsontext"
)

var errNotJSON = errors.New("it is not JSON")

// A mask hides a part of every record, in the same way each time.
type mask struct {
	text   string
	target string // key, value or headers
	header string // the header's name
	path   []step
	hide   func(content []byte) []byte // of a string or a whole value, what is put there; nil is null
	keyed  bool
}

// A step leads from a value into it: to a member by name, to an element by number, or
// to all elements.
type step struct {
	name  string
	index int
	kind  stepKind
}

type stepKind uint8

const (
	toMember stepKind = iota
	toElement
	toAll
)

// parseMask reads PATH=HOW: value.card.number=last4, value.items[].price=null, key=hash,
// headers.user=redact. A name with dots or brackets in it is put in double quotes.
func parseMask(text string) (*mask, error) {
	at := strings.LastIndexByte(text, '=')
	if at < 0 {
		return nil, errors.New("it is not PATH=HOW")
	}
	m := &mask{text: text}
	steps, err := parsePath(text[:at])
	if err != nil {
		return nil, err
	}
	switch m.target = steps[0].name; {
	case m.target == "headers" && len(steps) == 2 && steps[1].kind == toMember:
		m.header = steps[1].name
	case m.target == "key" || m.target == "value":
		m.path = steps[1:]
	default:
		return nil, errors.New("a path begins with value, key or headers.NAME")
	}
	switch how := text[at+1:]; how {
	case "redact":
		m.hide = func([]byte) []byte { return []byte("***") }
	case "last4":
		m.hide = last4
	case "null":
		m.hide = func([]byte) []byte { return nil }
	case "hash":
		m.keyed = true
	default:
		return nil, fmt.Errorf("%q is not redact, last4, hash or null", how)
	}
	return m, nil
}

func parsePath(s string) (steps []step, err error) {
	for rest := s; rest != "" || len(steps) == 0; {
		switch {
		case strings.HasPrefix(rest, "[") && len(steps) > 0:
			inside, after, ok := strings.Cut(rest[1:], "]")
			st := step{kind: toAll}
			if inside != "" {
				st.kind = toElement
				st.index, err = strconv.Atoi(inside)
			}
			if !ok || err != nil || st.index < 0 {
				return nil, fmt.Errorf("%q is not [] or [N]", rest)
			}
			steps, rest = append(steps, st), after
		default:
			if len(steps) > 0 {
				var dot bool
				if rest, dot = strings.CutPrefix(rest, "."); !dot {
					return nil, fmt.Errorf("%q: a dot or a bracket is due", rest)
				}
			}
			end := strings.IndexAny(rest, ".[")
			name := rest
			if quoted, ok := strings.CutPrefix(rest, `"`); ok {
				if end = strings.IndexByte(quoted, '"'); end < 0 {
					return nil, errors.New("a quote is not closed")
				}
				name, rest = quoted[:end], quoted[end+1:]
			} else if end >= 0 {
				name, rest = rest[:end], rest[end:]
			} else {
				rest = ""
			}
			if name == "" {
				return nil, errors.New("a name is empty")
			}
			steps = append(steps, step{name: name})
		}
	}
	return steps, nil
}

// last4 leaves the last four characters, unless there are no more.
func last4(content []byte) []byte {
	n := utf8.RuneCount(content)
	if n <= 4 {
		return bytes.Repeat([]byte("*"), n)
	}
	at := len(content)
	for range 4 {
		_, size := utf8.DecodeLastRune(content[:at])
		at -= size
	}
	return append(bytes.Repeat([]byte("*"), n-4), content[at:]...)
}

// readMaskKey reads the key of hash masks.
func readMaskKey(name string) ([]byte, error) {
	key, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if key = bytes.TrimSpace(key); len(key) < 16 {
		return nil, fmt.Errorf("%s: a key is 16 bytes or more: openssl rand -hex 32 makes one", name)
	}
	return key, nil
}

// hashing returns what makes of a content the first 128 bits of its HMAC (RFC 2104,
// with SHA-256), in hexadecimal. It is not safe for several goroutines.
func hashing(key []byte) func([]byte) []byte {
	var mac hash.Hash = hmac.New(sha256.New, key)
	return func(content []byte) []byte {
		mac.Reset()
		mac.Write(content)
		return hex.AppendEncode(nil, mac.Sum(nil)[:16])
	}
}

// apply masks a record. hash is for keyed masks.
func (m *mask) apply(r *format.Record, hash func([]byte) []byte) error {
	hide := m.hide
	if m.keyed {
		hide = hash
	}
	switch m.target {
	case "headers":
		for i := range r.Headers {
			if h := &r.Headers[i]; string(h.Name) == m.header && h.Value != nil {
				h.Value = hide(h.Value)
			}
		}
		return nil
	case "key":
		return m.into(&r.Key, hide)
	}
	return m.into(&r.Value, hide)
}

func (m *mask) into(content *[]byte, hide func([]byte) []byte) error {
	switch {
	case *content == nil:
		return nil
	case len(m.path) == 0:
		*content = hide(*content)
		return nil
	case !jsontext.Valid(*content):
		return fmt.Errorf("mask %s: %w", m.text, errNotJSON)
	}
	var cuts []cut
	find(*content, jsontext.SkipSpace(*content, 0), m.path, &cuts)
	if len(cuts) == 0 {
		return nil
	}
	out, at := make([]byte, 0, len(*content)+16*len(cuts)), 0
	for _, c := range cuts {
		out = append(out, (*content)[at:c.from]...)
		out = append(out, hideJSON((*content)[c.from:c.to], hide)...)
		at = c.to
	}
	*content = append(out, (*content)[at:]...)
	return nil
}

// A cut is a part of a text.
type cut struct{ from, to int }

// find looks for the values that a path leads to, in the order of the text. A name that
// comes twice in an object is found twice.
func find(b []byte, i int, path []step, to *[]cut) {
	if len(path) == 0 {
		*to = append(*to, cut{i, jsontext.SkipValue(b, i)})
		return
	}
	st := path[0]
	want := byte('[')
	if st.kind == toMember {
		want = '{'
	}
	if b[i] != want {
		return
	}
	for n, m := range jsontext.Members(b, i, nil) {
		if st.kind == toAll || st.kind == toElement && n == st.index || st.kind == toMember && string(m.Name) == st.name {
			find(b, m.Value, path[1:], to)
		}
	}
}

// hideJSON is what is put in place of a value: a string, or null. Of a string it is the
// content that is hidden, of anything else the text. null stays.
func hideJSON(text []byte, hide func([]byte) []byte) []byte {
	if string(text) == "null" {
		return text
	}
	content := text
	if text[0] == '"' {
		content = jsontext.Unquote(text)
	}
	if hidden := hide(content); hidden != nil {
		return jsontext.AppendString(nil, hidden)
	}
	return []byte("null")
}
