package format

import (
	"errors"
	"math"
	"slices"
	"unicode/utf8"
)

// A Record is one Kafka record: the frame
//
//	["rec", topic, partition, offset, timestamp, key, value, headers]
//
// with a ninth element, attributes, where they are not 0. A nil Key or Value is
// null (a nil value is a tombstone); an empty one is empty.
type Record struct {
	Topic      string
	Partition  int32
	Offset     int64 // 0 or above
	Timestamp  int64 // milliseconds since the epoch; may be negative
	Key        []byte
	Value      []byte
	Headers    []RecordHeader // in order; names may repeat
	Attributes Attributes
}

// A RecordHeader is one header of a record. Kafka calls the name a key, and
// does not insist that it is UTF-8. A nil Value is null.
type RecordHeader struct {
	Name  []byte
	Value []byte
}

// Attributes is a set of bits about a record.
type Attributes uint64

// LogAppendTime says that the broker set the record's timestamp on arrival
// (TimestampType.LOG_APPEND_TIME); without it the producer did.
const LogAppendTime Attributes = 1

// recHead is the frame's array head, for 8 elements, and its kind.
var recHead = []byte{majorArray | 8, majorText | 3, 'r', 'e', 'c'}

// AppendRecord appends r's frame, in core deterministic encoding, to b. It
// allocates only where b has no room. A topic that is not UTF-8 and a negative
// partition or offset, none of which Kafka has, make a frame that readers refuse.
func AppendRecord(b []byte, r *Record) []byte {
	at := len(b)
	b = append(b, recHead...)
	if r.Attributes != 0 {
		b[at]++
	}
	b = appendHead(b, majorText, uint64(len(r.Topic)))
	b = append(b, r.Topic...)
	b = appendInt(b, int64(r.Partition))
	b = appendInt(b, r.Offset)
	b = appendInt(b, r.Timestamp)
	b = appendNullableBytes(b, r.Key)
	b = appendNullableBytes(b, r.Value)
	b = appendHead(b, majorArray, uint64(len(r.Headers)))
	for i := range r.Headers {
		h := &r.Headers[i]
		b = append(b, majorArray|2)
		b = appendName(b, h.Name)
		b = appendNullableBytes(b, h.Value)
	}
	if r.Attributes != 0 {
		b = appendHead(b, majorUint, uint64(r.Attributes))
	}
	return b
}

// appendName appends a header's name: text where it is UTF-8, else bytes.
func appendName(b, name []byte) []byte {
	major := byte(majorText)
	if !utf8.Valid(name) {
		major = majorBytes
	}
	return append(appendHead(b, major, uint64(len(name))), name...)
}

// scanRecord looks at the rec frame that b begins with, filling in all of f but
// Raw and Topic; the topic's bytes and the frame's length are returned. It copies
// and allocates nothing and does not look into keys and values. A frame that is
// valid but not deterministic is longForm: see [normalize].
func scanRecord(b []byte, f *Frame) (topic []byte, n int, o outcome) {
	// The caller has seen an array's head for 8 to 23 elements, and the kind.
	elems := int(b[0] & 0x1f)
	major, v, i, o := readHead(b, len(recHead))
	if o != whole {
		return nil, 0, o
	}
	if major != majorText {
		return nil, 0, bad
	}
	if v > uint64(len(b)-i) {
		return nil, 0, short
	}
	topic = b[i : i+int(v)]
	i += int(v)
	if !utf8.Valid(topic) {
		return nil, 0, bad
	}
	if major, v, i, o = readHead(b, i); o != whole {
		return nil, 0, o
	}
	if major != majorUint || v > math.MaxInt32 {
		return nil, 0, bad
	}
	f.Partition = int32(v)
	if major, v, i, o = readHead(b, i); o != whole {
		return nil, 0, o
	}
	if major != majorUint || v > math.MaxInt64 {
		return nil, 0, bad
	}
	f.Offset = int64(v)
	if major, v, i, o = readHead(b, i); o != whole {
		return nil, 0, o
	}
	if v > math.MaxInt64 || major != majorUint && major != majorNint {
		return nil, 0, bad
	}
	f.Timestamp = int64(v)
	if major == majorNint {
		f.Timestamp = ^f.Timestamp
	}
	f.payload = i
	for range 2 { // key and value
		if i, o = skipNullable(b, i); o != whole {
			return nil, 0, o
		}
	}
	if major, v, i, o = readHead(b, i); o != whole {
		return nil, 0, o
	}
	if major != majorArray {
		return nil, 0, bad
	}
	for ; v > 0; v-- {
		if i, o = skipHeader(b, i); o != whole {
			return nil, 0, o
		}
	}
	f.Attributes = 0
	if elems > 8 {
		if major, v, i, o = readHead(b, i); o != whole {
			return nil, 0, o
		}
		if major != majorUint {
			return nil, 0, bad
		}
		if v == 0 && elems == 9 {
			return nil, 0, longForm // deterministic is to leave it out
		}
		f.Attributes = Attributes(v)
	}
	if elems > 9 { // from a later version
		// The skipper begins inside the frame, so that it counts its depth as
		// nextSlow does.
		s := skipper{depth: 1}
		s.open[0] = level{left: uint64(elems - 9), major: majorArray}
		o, err := s.skip(b[i:], len(b)-i)
		if errors.Is(err, ErrTooLarge) { // longer than b, that is
			o = short
		}
		if o != whole {
			return nil, 0, o
		}
		i += s.pos
	}
	return topic, i, whole
}

// skipNullable steps over a byte string or null.
func skipNullable(b []byte, i int) (next int, o outcome) {
	if i < len(b) && b[i] == null {
		return i + 1, whole
	}
	major, v, i, o := readHead(b, i)
	if o != whole {
		return 0, o
	}
	if major != majorBytes {
		return 0, bad
	}
	if v > uint64(len(b)-i) {
		return 0, short
	}
	return i + int(v), whole
}

// skipHeader steps over one [name, value].
func skipHeader(b []byte, i int) (next int, o outcome) {
	if i >= len(b) {
		return 0, short
	}
	if b[i] != majorArray|2 {
		if b[i]&0xe0 == majorArray {
			return 0, longForm // or too many elements: the slow path tells
		}
		return 0, bad
	}
	major, v, i, o := readHead(b, i+1)
	if o != whole {
		return 0, o
	}
	if major != majorText && major != majorBytes {
		return 0, bad
	}
	if v > uint64(len(b)-i) {
		return 0, short
	}
	name := b[i : i+int(v)]
	switch valid := utf8.Valid(name); {
	case major == majorText && !valid:
		return 0, bad
	case major == majorBytes && valid:
		return 0, longForm // deterministic is text
	}
	return skipNullable(b, i+int(v))
}

// normalize re-encodes a whole rec frame of any valid encoding
// deterministically, onto dst. Elements past the ninth, which a later version
// may add, are kept as they are.
func normalize(dst, b []byte) ([]byte, error) {
	elems, err := split(b, maxElems+1)
	if err != nil {
		return nil, err
	}
	if len(elems) < 8 || len(elems) > maxElems {
		return nil, corrupt("rec of %d elements or more, not 8 to %d", len(elems), maxElems)
	}
	var r Record
	topic, ok := textOf(elems[1])
	if !ok {
		return nil, corrupt("rec with a topic that is not text")
	}
	r.Topic = string(topic)
	partition, ok := intOf(elems[2])
	if !ok || partition < 0 || partition > math.MaxInt32 {
		return nil, corrupt("rec with a partition that is not one")
	}
	r.Partition = int32(partition)
	if r.Offset, ok = intOf(elems[3]); !ok || r.Offset < 0 {
		return nil, corrupt("rec with an offset that is not one")
	}
	if r.Timestamp, ok = intOf(elems[4]); !ok {
		return nil, corrupt("rec with a timestamp that is not an integer")
	}
	if r.Key, ok = nullableOf(elems[5]); !ok {
		return nil, corrupt("rec with a key that is neither bytes nor null")
	}
	if r.Value, ok = nullableOf(elems[6]); !ok {
		return nil, corrupt("rec with a value that is neither bytes nor null")
	}
	at := len(dst)
	// Deterministic encoding is no longer, but for the head of the headers.
	dst = AppendRecord(slices.Grow(dst, len(b)+8), &r)
	// The frame ends in an empty array now: the headers take its place, one by one,
	// as a slice of them could take many times the memory of the frame.
	if dst, err = normalizeHeaders(dst[:len(dst)-1], elems[7]); err != nil {
		return nil, err
	}
	if len(elems) == 8 {
		return dst, nil
	}
	major, attributes, _, o := readHead(elems[8], 0)
	if o > longForm || major != majorUint {
		return nil, corrupt("rec with attributes that are not an unsigned integer")
	}
	if attributes == 0 && len(elems) == 9 {
		return dst, nil
	}
	dst[at] = majorArray | byte(len(elems))
	dst = appendHead(dst, majorUint, attributes)
	for _, e := range elems[9:] {
		dst = append(dst, e...)
	}
	return dst, nil
}

// normalizeHeaders re-encodes a record's headers onto dst.
func normalizeHeaders(dst, b []byte) ([]byte, error) {
	all, err := elementsOf(b)
	if err != nil {
		return nil, corrupt("rec with headers that are not an array")
	}
	n := uint64(0)
	for count := all; ; n++ {
		if h, err := count.next(); err != nil {
			return nil, err
		} else if h == nil {
			break
		}
	}
	dst = appendHead(dst, majorArray, n)
	for range n {
		h, err := all.next()
		if err != nil {
			return nil, err
		}
		first, second, ok := pairOf(h)
		if !ok {
			return nil, corrupt("rec with a header that is not [name, value]")
		}
		name, ok := textOf(first)
		if !ok {
			if name, ok = bytesOf(first); !ok {
				return nil, corrupt("rec with a header name that is neither text nor bytes")
			}
		}
		value, ok := nullableOf(second)
		if !ok {
			return nil, corrupt("rec with a header value that is neither bytes nor null")
		}
		dst = appendNullableBytes(appendName(append(dst, majorArray|2), name), value)
	}
	return dst, nil
}

// pairOf returns the elements of an array of two.
func pairOf(b []byte) (first, second []byte, ok bool) {
	all, err := elementsOf(b)
	if err != nil {
		return nil, nil, false
	}
	first, _ = all.next()
	second, _ = all.next() // nil where the first failed, too
	end, err := all.next()
	return first, second, second != nil && end == nil && err == nil
}

func textOf(b []byte) ([]byte, bool) {
	s, _, ok := stringOf(b, 0, majorText)
	return s, ok && utf8.Valid(s)
}

func bytesOf(b []byte) ([]byte, bool) {
	s, _, ok := stringOf(b, 0, majorBytes)
	return s, ok
}

func nullableOf(b []byte) ([]byte, bool) {
	if b[0] == null {
		return nil, true
	}
	return bytesOf(b)
}

func intOf(b []byte) (int64, bool) {
	major, v, _, o := readHead(b, 0)
	switch {
	case o > longForm || v > math.MaxInt64:
		return 0, false
	case major == majorUint:
		return int64(v), true
	case major == majorNint:
		return ^int64(v), true
	}
	return 0, false
}

// Record decodes a rec frame into r, whose slices are reused or made to share
// the frame's memory: they hold until the reader's next call. It allocates only
// where r.Headers has no room.
func (f *Frame) Record(r *Record) error {
	if f.Kind != KindRec {
		return corrupt("a %s frame is not a record", f.Name)
	}
	r.Topic, r.Partition, r.Offset, r.Timestamp = f.Topic, f.Partition, f.Offset, f.Timestamp
	r.Attributes = f.Attributes
	// The reader has checked the shape, so that nothing below can fail.
	b, i := f.Raw, f.payload
	r.Key, i = takeNullable(b, i)
	r.Value, i = takeNullable(b, i)
	_, n, i, _ := readHead(b, i)
	r.Headers = r.Headers[:0]
	for ; n > 0; n-- {
		_, l, at, _ := readHead(b, i+1)
		name := b[at : at+int(l) : at+int(l)]
		var value []byte
		value, i = takeNullable(b, at+int(l))
		r.Headers = append(r.Headers, RecordHeader{name, value})
	}
	return nil
}

func takeNullable(b []byte, i int) ([]byte, int) {
	if b[i] == null {
		return nil, i + 1
	}
	_, l, at, _ := readHead(b, i)
	end := at + int(l)
	return b[at:end:end], end
}

// Rest is the elements of a rec behind its headers, attributes and what a later version
// may add, as they are in the frame.
func (f *Frame) Rest() []byte {
	_, i := takeNullable(f.Raw, f.payload)
	_, i = takeNullable(f.Raw, i)
	_, n, i, _ := readHead(f.Raw, i) // the reader has checked the shape
	for ; n > 0; n-- {
		i, _ = skipHeader(f.Raw, i)
	}
	return f.Raw[i:]
}

// Rewrite appends the frame to b with the fields of r instead of its own, but for its
// [Frame.Rest], which stays as it is.
func (f *Frame) Rewrite(b []byte, r *Record) []byte {
	plain := *r
	plain.Attributes = 0
	at := len(b)
	b = AppendRecord(b, &plain)
	b[at] = f.Raw[0]
	return append(b, f.Rest()...)
}

// AppendRecordRest appends r's frame to b, with a [Frame.Rest] instead of the attributes
// unless it is empty. It fails when rest is no elements, or too many.
func AppendRecordRest(b []byte, r *Record, rest []byte) ([]byte, error) {
	if len(rest) == 0 {
		return AppendRecord(b, r), nil
	}
	plain := *r
	plain.Attributes = 0
	at := len(b)
	b = append(AppendRecord(b, &plain), rest...)
	for elems := 9; elems <= maxElems; elems++ { // as many as rest turns out to be
		b[at] = majorArray | byte(elems)
		if _, n, o := scanRecord(b[at:], new(Frame)); o == whole && n == len(b)-at {
			return b, nil
		}
	}
	return b[:at], corrupt("rec with something else than elements behind its headers")
}
