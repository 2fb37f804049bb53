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
	"sync/atomic"
	"unicode/utf8"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/jsontext"
)

var (
	errNotJSON = errors.New("it is not JSON")
	errNoHit   = errors.New("it finds nothing to hide")
)

// A mask hides a part of every record, in the same way each time.
type mask struct {
	text   string
	target string // key, value or headers
	header string // the header's name
	path   []step
	hide   hiding // nil where it is the keyed hash
	keyed  bool
	hits   atomic.Int64 // values that it has hidden
	among  atomic.Int64 // records that it was asked to hide something in
}

// A hiding makes of a content what is put in its place; nil is null. scalar says that the
// content is that of one text or number, and not the text of an object, an array, true or
// false, nor bytes that are no text.
type hiding func(content []byte, scalar bool) []byte

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
		m.hide = func([]byte, bool) []byte { return []byte("***") }
	case "last4":
		m.hide = last4
	case "null":
		m.hide = func([]byte, bool) []byte { return nil }
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
					return nil, fmt.Errorf("%q: a dot or a bracket is expected", rest)
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

// last4 leaves the last four characters of a text or a number, but no more than a third
// of it. Of anything else it leaves nothing.
func last4(content []byte, scalar bool) []byte {
	if !scalar {
		return []byte("***")
	}
	n := utf8.RuneCount(content)
	shown := min(4, n/3)
	at := len(content)
	for range shown {
		_, size := utf8.DecodeLastRune(content[:at])
		at -= size
	}
	return append(bytes.Repeat([]byte("*"), n-shown), content[at:]...)
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
func hashing(key []byte) hiding {
	var mac hash.Hash = hmac.New(sha256.New, key)
	return func(content []byte, _ bool) []byte {
		mac.Reset()
		mac.Write(content)
		return hex.AppendEncode(nil, mac.Sum(nil)[:16])
	}
}

// apply masks a record. It returns how many values it has found, those that were null
// already among them, and whether the record has what the mask is for: a null key or value
// has not. hash is for keyed masks.
func (m *mask) apply(r *format.Record, hash hiding) (hits int, due bool, err error) {
	hide := m.hide
	if m.keyed {
		hide = hash
	}
	switch m.target {
	case "headers":
		for i := range r.Headers {
			if h := &r.Headers[i]; string(h.Name) == m.header {
				if hits++; h.Value != nil {
					h.Value = hide(h.Value, isScalar(h.Value))
				}
			}
		}
		return hits, true, nil
	case "key":
		due = r.Key != nil
		hits, err = m.into(&r.Key, hide)
	default:
		due = r.Value != nil
		hits, err = m.into(&r.Value, hide)
	}
	return hits, due, err
}

// isScalar tells whether bytes, a whole key, value or header, are a text or a number.
func isScalar(content []byte) bool {
	if !utf8.Valid(content) {
		return false
	}
	if at := jsontext.SkipSpace(content, 0); at < len(content) && (content[at] == '{' || content[at] == '[') {
		return !jsontext.Valid(content)
	}
	return true
}

func (m *mask) into(content *[]byte, hide hiding) (hits int, err error) {
	switch {
	case *content == nil:
		return 0, nil
	case len(m.path) == 0:
		*content = hide(*content, isScalar(*content))
		return 1, nil
	case !jsontext.Valid(*content):
		return 0, errNotJSON
	}
	var cuts []cut
	if _, err := find(*content, jsontext.SkipSpace(*content, 0), m.path, &cuts); err != nil {
		return 0, err
	}
	if len(cuts) == 0 {
		return 0, nil
	}
	out, at := make([]byte, 0, len(*content)+16*len(cuts)), 0
	for _, c := range cuts {
		out = append(out, (*content)[at:c.from]...)
		out = append(out, hideJSON((*content)[c.from:c.to], hide)...)
		at = c.to
	}
	*content = append(out, (*content)[at:]...)
	return len(cuts), nil
}

// A cut is a part of a text.
type cut struct{ from, to int }

// find looks for the values that a path leads to in the value at i, in the order of the
// text, and returns the index behind that value. A name that comes twice in an object is
// found twice. Where a name is due and there is an array, all of its elements are looked
// into. Null and an object without the name have nothing to hide; where anything else
// stands in the way, what the path is after may be in it, in another form: that is an
// error.
func find(b []byte, i int, path []step, found *[]cut) (to int, err error) {
	if len(path) == 0 {
		to = jsontext.SkipValue(b, i)
		*found = append(*found, cut{i, to})
		return to, nil
	}
	st, rest := path[0], path[1:]
	array := b[i] == '['
	switch {
	case b[i] == 'n':
		return jsontext.SkipValue(b, i), nil
	case st.kind == toMember && array:
		st.kind, rest = toAll, path
	case st.kind == toMember && b[i] != '{':
		return 0, fmt.Errorf("there is %s where an object with %q is expected", kindOfText(b[i]), st.name)
	case st.kind != toMember && !array:
		return 0, fmt.Errorf("there is %s where an array is expected", kindOfText(b[i]))
	}
	return jsontext.Walk(b, i, func(n int, name []byte, _, value int) (int, error) {
		if st.kind == toAll || st.kind == toElement && n == st.index || st.kind == toMember && string(name) == st.name {
			return find(b, value, rest, found)
		}
		return jsontext.SkipValue(b, value), nil
	})
}

// kindOfText says what the value is that begins with a character.
func kindOfText(first byte) string {
	switch first {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	}
	return "a number"
}

// hideJSON is what is put in place of a value: a string, or null. Of a string it is the
// content that is hidden, of anything else the text. null stays.
func hideJSON(text []byte, hide hiding) []byte {
	content, scalar := text, true
	switch text[0] {
	case 'n':
		return text
	case '"':
		content = jsontext.Unquote(text)
	case '{', '[', 't', 'f':
		scalar = false
	}
	if hidden := hide(content, scalar); hidden != nil {
		return jsontext.AppendString(nil, hidden)
	}
	return []byte("null")
}
