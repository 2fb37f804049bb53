package recordbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// atOnce is how much of a batch is decompressed at once, where its largest record
	// does not ask for more.
	atOnce = 2 << 20
	// keepBuffer is the largest buffer that is kept from one batch to the next.
	keepBuffer = 8 << 20
	// maxWindow is the largest window of zstd, which its level 22 asks for.
	maxWindow = 128 << 20
	// maxSnappy is more than what a byte of snappy can become: its densest element is
	// 64 bytes in 3.
	maxSnappy = 24
)

// codecs decompress piece by piece, so that memory does not depend on what the
// compressed bytes come to.
type codecs struct {
	src  bytes.Reader
	gzip *gzip.Reader
	lz4  *lz4.Reader
	zstd *zstd.Decoder
	// zstdBusy says that zstd has a stream open, which it must be told to leave.
	zstdBusy bool
	xerial   xerial
}

// open returns what reads the decompressed bytes of src. Where they fit into room, they
// are there at once, in whole, and there is no reader.
func (c *codecs) open(src []byte, codec kgo.CompressionCodecType, room []byte) (whole []byte, in io.Reader, err error) {
	c.src.Reset(src)
	switch codec {
	case kgo.CodecGzip:
		if c.gzip == nil {
			c.gzip = new(gzip.Reader)
		}
		return nil, c.gzip, c.gzip.Reset(&c.src)
	case kgo.CodecSnappy:
		if rest, ok := bytes.CutPrefix(src, xerialPrefix); ok && len(rest) >= 8 {
			rest = rest[8:] // behind two versions
			if whole, ok := xerialWhole(rest, room); ok {
				return whole, nil, nil
			}
			c.xerial.src = rest
			c.xerial.plain = nil
			return nil, &c.xerial, nil
		}
		whole, err = snappy(room, src)
		return whole, nil, err
	case kgo.CodecLz4:
		if whole, ok := lz4Whole(src, room); ok {
			return whole, nil, nil
		}
		if c.lz4 == nil {
			c.lz4 = lz4.NewReader(nil)
		}
		c.lz4.Reset(&c.src)
		return nil, c.lz4, nil
	case kgo.CodecZstd:
		return c.openZstd(src, room)
	}
	return nil, nil, fmt.Errorf("unknown codec %d", codec)
}

// Bits of the first byte of an LZ4 frame's descriptor.
const (
	lz4Version       = 0x40 // of the two bits 0xc0
	lz4Independent   = 0x20
	lz4BlockChecksum = 0x10
	lz4ContentSize   = 0x08
	lz4Checksum      = 0x04
	lz4Reserved      = 0x02
	lz4Dictionary    = 0x01
)

// lz4Magic begins a frame of LZ4, and lz4History is how far back a block may refer.
const (
	lz4Magic   = 0x184d2204
	lz4History = 64 << 10
)

// lz4Whole decodes one frame of LZ4 into room, which takes half as long as a stream where a
// batch is small. It returns false where that is not one whole frame, or comes to more: a
// reader has to find out which. The frame's own checksums are not looked at. The batch has
// one over all of it.
func lz4Whole(src, room []byte) ([]byte, bool) {
	if len(src) < 7 || binary.LittleEndian.Uint32(src) != lz4Magic {
		return nil, false
	}
	flags, behind, end := src[4], 0, 0
	if flags&(0xc0|lz4Reserved|lz4Dictionary) != lz4Version {
		return nil, false
	}
	if flags&lz4BlockChecksum != 0 {
		behind = 4
	}
	if flags&lz4Checksum != 0 {
		end = 4
	}
	src = src[7:]
	if flags&lz4ContentSize != 0 {
		src = src[min(8, len(src)):]
	}
	out := room[:0:cap(room)]
	for {
		if len(src) < 4 {
			return nil, false
		}
		head := binary.LittleEndian.Uint32(src)
		src = src[4:]
		if head == 0 {
			return out, len(src) == end
		}
		size := int(head &^ (1 << 31))
		if size > len(src)-behind {
			return nil, false
		}
		block := src[:size]
		src = src[size+behind:]
		if head>>31 == 1 { // not compressed
			if size > cap(out)-len(out) {
				return nil, false
			}
			out = append(out, block...)
			continue
		}
		var history []byte
		if flags&lz4Independent == 0 {
			history = out[max(0, len(out)-lz4History):]
		}
		n, err := lz4.UncompressBlockWithDict(block, out[len(out):cap(out)], history)
		if err != nil {
			return nil, false
		}
		out = out[:len(out)+n]
	}
}

// openZstd decodes what fits into room at once, which is twice as fast as a stream.
func (c *codecs) openZstd(src, room []byte) (whole []byte, in io.Reader, err error) {
	if c.zstd == nil {
		c.zstd, err = zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow),
			zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, nil, err
		}
	}
	if c.zstdBusy {
		if err := c.zstd.Reset(nil); err != nil {
			return nil, nil, err
		}
		c.zstdBusy = false
	}
	whole, err = c.zstd.DecodeAll(src, room[:0])
	if !errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return whole, nil, err
	}
	c.zstdBusy = true
	return nil, c.zstd, c.zstd.Reset(&c.src)
}

// snappy decodes one block, which has no other way than to be there in whole.
func snappy(room, src []byte) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return nil, err
	}
	if n > maxSnappy*len(src) {
		return nil, fmt.Errorf("%d bytes of snappy claim to hold %d bytes", len(src), n)
	}
	return s2.Decode(room[:0:cap(room)], src)
}

// xerialPrefix begins snappy blocks as Java's producer frames them
// (org.xerial.snappy.SnappyOutputStream).
var xerialPrefix = []byte{130, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

// xerialWhole decodes all of such blocks into room, where they fit.
func xerialWhole(src, room []byte) ([]byte, bool) {
	out := room[:0:cap(room)]
	for len(src) > 0 {
		if len(src) < 4 {
			return nil, false
		}
		size := int64(binary.BigEndian.Uint32(src))
		src = src[4:]
		if size > int64(len(src)) {
			return nil, false
		}
		n, err := s2.DecodedLen(src[:size])
		if err != nil || n > cap(out)-len(out) {
			return nil, false
		}
		if _, err := s2.Decode(out[len(out):len(out)+n], src[:size]); err != nil {
			return nil, false
		}
		src, out = src[size:], out[:len(out)+n]
	}
	return out, true
}

// xerial reads them.
type xerial struct {
	src, plain, own []byte
}

// Read implements io.Reader.
func (x *xerial) Read(p []byte) (int, error) {
	for len(x.plain) == 0 {
		if len(x.src) == 0 {
			return 0, io.EOF
		}
		if len(x.src) < 4 {
			return 0, io.ErrUnexpectedEOF
		}
		size := int(int32(binary.BigEndian.Uint32(x.src)))
		if size < 0 || size > len(x.src)-4 {
			return 0, io.ErrUnexpectedEOF
		}
		plain, err := snappy(x.own, x.src[4:4+size])
		if err != nil {
			return 0, err
		}
		x.src, x.plain = x.src[4+size:], plain
		if cap(plain) <= keepBuffer {
			x.own = plain
		}
	}
	n := copy(p, x.plain)
	x.plain = x.plain[n:]
	return n, nil
}
