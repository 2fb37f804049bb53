package format

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// readSize is the room in bytes that a Reader keeps for one read: as much as a
// pipe of 1 MiB may hold at once.
const readSize = 1 << 20

// magic is the tag 55799, "self-described CBOR" (RFC 8949 section 3.4.6), that
// every stream begins with.
var magic = []byte{0xd9, 0xd9, 0xf7}

// A Reader reads a stream frame by frame. It holds one frame in memory at a
// time: a buffer of never more than about twice what it has received of it, and a
// copy of a record whose encoding was not deterministic.
type Reader struct {
	src      io.Reader
	maxFrame int
	buf      []byte
	r, w     int    // the unread part of buf
	spare    []byte // see Reuse
	srcErr   error

	frame  Frame
	topics map[string]string
	fixed  []byte // the frame re-encoded, where its encoding was not deterministic

	header *Header
	index  int64 // number of the next frame
	offset int64 // byte offset of the next frame
	err    error // sticky
}

// NewReader returns a Reader that reads from src and refuses frames of more
// than maxFrame bytes ([DefaultMaxFrame] for 0).
func NewReader(src io.Reader, maxFrame int) *Reader {
	if maxFrame <= 0 {
		maxFrame = DefaultMaxFrame
	}
	return &Reader{src: src, maxFrame: maxFrame, buf: make([]byte, readSize), topics: make(map[string]string)}
}

// Reset makes the reader begin anew with the stream in src, with the buffer it has. What
// it returned before holds no more, but for what [Reader.Own] gave away.
func (d *Reader) Reset(src io.Reader) {
	if len(d.buf) > 4*readSize { // one that a huge frame made larger is not kept
		d.buf = make([]byte, readSize)
	}
	*d = Reader{src: src, maxFrame: d.maxFrame, buf: d.buf, topics: d.topics, fixed: d.fixed}
}

// Header returns the stream's header, reading it on the first call.
func (d *Reader) Header() (*Header, error) {
	if d.header != nil {
		return d.header, nil
	}
	if d.err == nil {
		d.err = d.readHeader()
	}
	return d.header, d.err
}

func (d *Reader) readHeader() error {
	// Look at the magic first: of a stream that is none, tell so without waiting
	// for the end of whatever its first bytes seem to announce.
	for d.w < len(magic) {
		if err := d.fill(len(magic)); err != nil {
			if d.w == 0 && errors.Is(err, ErrTruncated) {
				err = ErrEmpty
			}
			return d.at(err)
		}
		if n := min(d.w, len(magic)); !bytes.Equal(d.buf[:n], magic[:n]) {
			return d.at(ErrNotStream)
		}
	}
	n, err := d.whole(min(d.maxFrame, maxMap))
	if err != nil {
		return d.at(err)
	}
	h, err := decodeHeader(d.buf[:n])
	if err != nil {
		return d.at(err)
	}
	d.header = h
	d.consume(n)
	return nil
}

// Next returns the next frame after the header. The frame and all that it
// refers to hold until the next call; see [Reader.Own]. The end frame is
// returned like any other, once it is known that nothing follows it; after it
// comes io.EOF. Every other error is a [*PositionError], which wraps an error of
// this package or one of the underlying reader, and stays.
func (d *Reader) Next() (*Frame, error) {
	if d.header == nil {
		if _, err := d.Header(); err != nil {
			return nil, err
		}
	}
	if d.err != nil {
		return nil, d.err
	}
	f := &d.frame
	if f.Kind == KindEnd {
		d.err = io.EOF
		return nil, d.err
	}
	if err := d.next(f); err != nil {
		d.err = d.at(err)
		return nil, d.err
	}
	return f, nil
}

func (d *Reader) next(f *Frame) error {
	if b := d.buf[d.r:d.w]; len(b) > len(recHead) && isRecord(b) {
		if topic, n, o := scanRecord(b, f); o == whole && n <= d.maxFrame {
			f.Kind, f.Name, f.Raw, f.Topic = KindRec, nameRec, b[:n:n], d.intern(topic)
			d.consume(n)
			return nil
		}
	}
	return d.nextSlow(f)
}

func isRecord(b []byte) bool {
	return b[0] >= majorArray|8 && b[0] <= majorArray|23 && string(b[1:len(recHead)]) == string(recHead[1:])
}

var nameRec = []byte("rec")

// nextSlow waits for a frame that is not whole in the buffer yet, and reads
// frames that are not records in deterministic encoding.
func (d *Reader) nextSlow(f *Frame) error {
	n, err := d.whole(d.maxFrame)
	if err != nil {
		return err
	}
	b := d.buf[d.r : d.r+n : d.r+n]
	if err := f.parse(b); err != nil {
		return err
	}
	switch f.Kind {
	case KindRec:
		topic, o := []byte(nil), longForm
		if isRecord(b) {
			topic, _, o = scanRecord(b, f)
		}
		if o != whole {
			if d.fixed, err = normalize(d.fixed[:0], b); err != nil {
				return err
			}
			if topic, _, o = scanRecord(d.fixed, f); o != whole {
				return corrupt("rec of a shape that is not one")
			}
			f.Raw = d.fixed
		}
		f.Topic = d.intern(topic)
	case KindEnd:
		if _, err := DecodeEnd(b); err != nil {
			return err
		}
		// More bytes behind the end make it no end at all. Look for them before the
		// frame is consumed: reading may move it, and use the room behind it.
		if d.w-d.r == n {
			err = d.fill(n + 1)
		}
		if err == nil {
			d.consume(n)
			return ErrTrailing
		}
		if !errors.Is(err, ErrTruncated) {
			return err
		}
		if err := f.parse(d.buf[d.r : d.r+n : d.r+n]); err != nil {
			return err
		}
	case KindFail:
		return d.failed(b)
	}
	d.consume(n)
	return nil
}

// failed is the error that the fail frame b stands for. Behind it there is nothing, and no
// end above all.
func (d *Reader) failed(b []byte) error {
	fail, err := decodeFail(b)
	if err != nil {
		return err
	}
	if d.w-d.r == len(b) {
		err = d.fill(len(b) + 1)
	}
	switch {
	case err == nil:
		return corrupt("a frame behind a fail frame")
	case errors.Is(err, ErrTruncated):
		return fail
	}
	return err
}

// whole fills the buffer until it begins with one whole item of at most limit
// bytes, and returns the item's length.
func (d *Reader) whole(limit int) (int, error) {
	var s skipper
	for {
		o, err := s.skip(d.buf[d.r:d.w], limit)
		if err != nil {
			if errors.Is(err, ErrTooLarge) {
				err = fmt.Errorf("%w of %d bytes", ErrTooLarge, limit)
			}
			return 0, err
		}
		if o == whole {
			return s.pos, nil
		}
		for d.w-d.r < s.need {
			if err := d.fill(s.need); err != nil {
				return 0, err
			}
		}
	}
}

// fill reads once, for an item of need bytes or more. The buffer at most doubles:
// a length that an item claims is not trusted before its bytes have come. It
// grows by a quarter at least, so that an item of many small parts, which does
// not say how long it is, is not copied over and over.
func (d *Reader) fill(need int) error {
	if d.srcErr != nil {
		return d.srcErr
	}
	if d.r > 0 && (d.r == d.w || len(d.buf)-d.w < readSize/2) {
		d.w = copy(d.buf, d.buf[d.r:d.w])
		d.r = 0
	}
	if d.w == len(d.buf) {
		size := len(d.buf)
		grown := make([]byte, max(size+max(size/4, readSize), min(2*size, need+readSize)))
		copy(grown, d.buf[:d.w])
		d.buf = grown
	}
	room := d.buf[d.w:min(len(d.buf), d.r+need+readSize)] // what comes behind the item is little: see Own
	for range 100 {
		n, err := d.src.Read(room)
		d.w += n
		if err == io.EOF {
			d.srcErr = ErrTruncated
		} else if err != nil {
			d.srcErr = err
		}
		if n > 0 {
			return nil
		}
		if err != nil {
			return d.srcErr
		}
	}
	return io.ErrNoProgress
}

func (d *Reader) consume(n int) {
	d.r += n
	d.offset += int64(n)
	d.index++
}

// at gives err its place in the stream.
func (d *Reader) at(err error) error {
	return &PositionError{Frame: d.index, Byte: d.offset, Err: err}
}

// intern returns topic as a string without allocating where it was seen before.
func (d *Reader) intern(topic []byte) string {
	if string(topic) == d.frame.Topic {
		return d.frame.Topic
	}
	if s, ok := d.topics[string(topic)]; ok {
		return s
	}
	s := string(topic)
	if len(s) > maxTopicName {
		return s // no name of Kafka's: not worth the memory
	}
	if len(d.topics) == maxTopics {
		clear(d.topics)
	}
	d.topics[s] = s
	return s
}

// Own returns the current frame's bytes for good: the reader does not touch them
// again. A large frame is not copied; the reader gives up its buffer instead.
func (d *Reader) Own() []byte {
	raw := d.frame.Raw
	if cap(d.buf) > 2*len(raw) || len(raw) < readSize || d.frame.Kind == KindRec {
		return bytes.Clone(raw)
	}
	if at := d.r - len(raw); at >= 0 && &d.buf[at] == &raw[0] {
		raw = d.buf[at:d.r:len(d.buf)] // for Reuse, with all of its room
	}
	rest := d.buf[d.r:d.w]
	d.buf, d.spare = d.spare, nil
	if len(d.buf) < max(readSize, len(rest)) {
		d.buf = make([]byte, max(readSize, len(rest)))
	}
	d.r, d.w = 0, copy(d.buf, rest)
	return raw
}

// Reuse gives the reader memory to read into, such as what [Reader.Own] gave away and
// nobody uses any more: a stream of large frames is then read into the same few buffers.
// The current frame stays as it is.
func (d *Reader) Reuse(b []byte) {
	switch b = b[:cap(b)]; {
	case len(b) > len(d.buf): // what comes next goes into it, and no buffer has to grow
		n := copy(b, d.buf[d.r:d.w])
		d.buf, d.r, d.w = b, 0, n // the old one may hold the current frame
	case len(b) > len(d.spare):
		d.spare = b
	}
}
