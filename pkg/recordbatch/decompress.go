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
			c.xerial.src = rest[8:] // behind two versions
			c.xerial.plain = nil
			return nil, &c.xerial, nil
		}
		whole, err = snappy(room, src)
		return whole, nil, err
	case kgo.CodecLz4:
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
		return nil, fmt.Errorf("%d bytes of snappy claim to be %d", len(src), n)
	}
	return s2.Decode(room[:0:cap(room)], src)
}

// xerialPrefix begins snappy blocks as Java's producer frames them
// (org.xerial.snappy.SnappyOutputStream).
var xerialPrefix = []byte{130, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

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
