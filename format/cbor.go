package format

import (
	"encoding/binary"
	"errors"
	"math"
	"unicode/utf8"
)

// CBOR major types, RFC 8949 section 3.1, in the upper three bits of a head.
const (
	majorUint   = 0 << 5
	majorNint   = 1 << 5
	majorBytes  = 2 << 5
	majorText   = 3 << 5
	majorArray  = 4 << 5
	majorMap    = 5 << 5
	majorTag    = 6 << 5
	majorSimple = 7 << 5

	null       = 0xf6
	undefined  = 0xf7
	breakCode  = 0xff
	indefinite = 31
)

// appendHead appends the shortest head of the given major type and argument, as
// core deterministic encoding demands (RFC 8949 section 4.2.1).
func appendHead(b []byte, major byte, v uint64) []byte {
	switch {
	case v < 24:
		return append(b, major|byte(v))
	case v <= math.MaxUint8:
		return append(b, major|24, byte(v))
	case v <= math.MaxUint16:
		return append(b, major|25, byte(v>>8), byte(v))
	case v <= math.MaxUint32:
		return append(b, major|26, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	default:
		return binary.BigEndian.AppendUint64(append(b, major|27), v)
	}
}

func appendInt(b []byte, v int64) []byte {
	if v < 0 {
		return appendHead(b, majorNint, uint64(^v))
	}
	return appendHead(b, majorUint, uint64(v))
}

// appendNullableBytes appends a byte string, or null for nil.
func appendNullableBytes(b, v []byte) []byte {
	if v == nil {
		return append(b, null)
	}
	return append(appendHead(b, majorBytes, uint64(len(v))), v...)
}

// outcome is what looking at the bytes of an item came to.
type outcome uint8

const (
	whole    outcome = iota
	short            // more bytes are needed to tell
	longForm         // valid, but not in deterministic encoding
	bad              // not well-formed, or not the expected shape
)

// readHead reads the head at b[i:]: its major type, its argument and the index
// behind it. Heads of indefinite length and heads longer than they need be are
// longForm; their major type, argument (0 when indefinite) and end are right
// all the same.
func readHead(b []byte, i int) (major byte, v uint64, next int, o outcome) {
	if i >= len(b) {
		return 0, 0, i, short
	}
	first := b[i]
	major, info := first&0xe0, first&0x1f
	i++
	if info < 24 {
		return major, uint64(info), i, whole
	}
	switch info {
	case 24:
		if i >= len(b) {
			return major, 0, i, short
		}
		if v = uint64(b[i]); major == majorSimple && v < 32 { // RFC 8949 section 3.3
			return major, 0, i, bad
		} else if v < 24 {
			o = longForm
		}
		return major, v, i + 1, o
	case 25:
		if len(b)-i < 2 {
			return major, 0, i, short
		}
		if v = uint64(binary.BigEndian.Uint16(b[i:])); v <= math.MaxUint8 && major != majorSimple {
			o = longForm
		}
		return major, v, i + 2, o
	case 26:
		if len(b)-i < 4 {
			return major, 0, i, short
		}
		if v = uint64(binary.BigEndian.Uint32(b[i:])); v <= math.MaxUint16 && major != majorSimple {
			o = longForm
		}
		return major, v, i + 4, o
	case 27:
		if len(b)-i < 8 {
			return major, 0, i, short
		}
		if v = binary.BigEndian.Uint64(b[i:]); v <= math.MaxUint32 && major != majorSimple {
			o = longForm
		}
		return major, v, i + 8, o
	case indefinite:
		if major == majorUint || major == majorNint || major == majorTag {
			return major, 0, i, bad
		}
		return major, 0, i, longForm
	}
	return major, 0, i, bad
}

// A skipper finds the end of one CBOR item and checks that it is well-formed
// (RFC 8949 appendix C). It can be called again with more of the same bytes, so
// that an item that arrives in many pieces is walked only once.
type skipper struct {
	pos   int // index of the next byte to look at
	need  int // the length that the bytes must have before a further call can get on
	depth int
	open  [maxDepth]level
}

// A level is an open array, map, tag or string of indefinite length.
type level struct {
	left  uint64 // items to come; unused when indef
	indef bool
	major byte
	odd   bool // inside an indefinite map: a key was read, its value is due
}

// skip walks on through b, which begins with what earlier calls were given, and
// answers whole when the item ends at s.pos, short when b is too short, or bad.
// Items longer than limit are refused as soon as a head tells.
func (s *skipper) skip(b []byte, limit int) (outcome, error) {
	for {
		if s.pos >= limit {
			return bad, ErrTooLarge
		}
		major, v, next, o := readHead(b, s.pos)
		if o == short {
			s.need = len(b) + 1
			return short, nil
		}
		if o == bad {
			return bad, corrupt("reserved byte 0x%02x", b[s.pos])
		}
		if next > limit {
			return bad, ErrTooLarge
		}
		room := uint64(limit - next)
		indef := b[s.pos]&0x1f == indefinite
		if s.depth > 0 {
			in := &s.open[s.depth-1]
			if in.major == majorBytes || in.major == majorText {
				// A string of indefinite length holds definite strings of its own type.
				if b[s.pos] != breakCode && (major != in.major || indef) {
					return bad, corrupt("item of another type inside a string")
				}
			}
		}
		opened := false
		switch {
		case b[s.pos] == breakCode:
			if s.depth == 0 || !s.open[s.depth-1].indef || s.open[s.depth-1].odd {
				return bad, corrupt("unexpected break")
			}
			s.depth--
		case major == majorBytes || major == majorText:
			if indef {
				opened = true
				break
			}
			if v > room {
				return bad, ErrTooLarge
			}
			if end := next + int(v); end > len(b) {
				s.need = end // s.pos stays at the head: the string is looked at again
				return short, nil
			} else if major == majorText && !utf8.Valid(b[next:end]) {
				return bad, corrupt("text that is not UTF-8")
			} else {
				next = end
			}
		case major == majorArray || major == majorMap:
			if major == majorMap {
				if v > math.MaxUint64/2 {
					return bad, ErrTooLarge
				}
				v *= 2
			}
			if v > room { // every item takes a byte at least
				return bad, ErrTooLarge
			}
			opened = indef || v > 0
		case major == majorTag:
			opened, v = true, 1
		}
		if opened {
			if s.depth == maxDepth {
				return bad, corrupt("nested deeper than %d", maxDepth)
			}
			s.open[s.depth] = level{left: v, indef: indef, major: major}
			s.depth++
			s.pos = next
			continue
		}
		s.pos = next
		// One item is done; so may be those around it.
		for s.depth > 0 {
			in := &s.open[s.depth-1]
			if in.indef {
				in.odd = in.major == majorMap && !in.odd
				break
			}
			if in.left--; in.left > 0 {
				break
			}
			s.depth--
		}
		if s.depth == 0 {
			return whole, nil
		}
	}
}

// itemLen is the length of the item that b begins with.
func itemLen(b []byte) (int, error) {
	var s skipper
	switch o, err := s.skip(b, len(b)); {
	case o == short || errors.Is(err, ErrTooLarge):
		return 0, corrupt("item cut short")
	case err != nil:
		return 0, err
	}
	return s.pos, nil
}

// elements walks over the elements of an array of definite or indefinite length.
type elements struct {
	b     []byte // what is left of the array
	left  uint64 // elements to come; unused when indef
	indef bool
}

// elementsOf returns the elements of the array that is b.
func elementsOf(b []byte) (elements, error) {
	major, n, i, o := readHead(b, 0)
	if o == bad || o == short || major != majorArray {
		return elements{}, corrupt("not an array")
	}
	return elements{b[i:], n, b[0]&0x1f == indefinite}, nil
}

// next returns the next element, which shares the array's memory, or nil when
// the array is at its end.
func (e *elements) next() ([]byte, error) {
	rest := e.b
	done := !e.indef && e.left == 0
	if e.indef && len(rest) > 0 && rest[0] == breakCode {
		done, rest = true, rest[1:]
	}
	if done {
		if len(rest) > 0 {
			return nil, corrupt("data behind the last element")
		}
		return nil, nil
	}
	n, err := itemLen(rest)
	if err != nil {
		return nil, err
	}
	e.b, e.left = rest[n:], e.left-1
	return rest[:n:n], nil
}

// split cuts an array into its elements. Those past the first most are checked
// and left out, so that a large array of small elements costs no memory.
func split(b []byte, most int) ([][]byte, error) {
	all, err := elementsOf(b)
	if err != nil {
		return nil, err
	}
	var elems [][]byte
	for {
		e, err := all.next()
		if err != nil {
			return nil, err
		}
		if e == nil {
			return elems, nil
		}
		if len(elems) < most {
			elems = append(elems, e)
		}
	}
}

// stringOf returns the bytes of a byte string (or text string, as major says) of
// definite or indefinite length, and the index behind it. Definite strings are
// not copied.
func stringOf(b []byte, i int, major byte) (s []byte, next int, ok bool) {
	m, v, next, o := readHead(b, i)
	if o == bad || o == short || m != major {
		return nil, i, false
	}
	if b[i]&0x1f != indefinite {
		if v > uint64(len(b)-next) {
			return nil, i, false
		}
		end := next + int(v)
		return b[next:end:end], end, true
	}
	s = []byte{}
	for {
		if next >= len(b) {
			return nil, i, false
		}
		if b[next] == breakCode {
			return s, next + 1, true
		}
		if b[next]&0x1f == indefinite {
			return nil, i, false
		}
		part, n, ok := stringOf(b, next, major)
		if !ok {
			return nil, i, false
		}
		s, next = append(s, part...), n
	}
}
