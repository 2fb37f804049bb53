package recordbatch

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Compressor compresses the records of batches. Several goroutines may use one.
type Compressor struct {
	codec   kgo.CompressionCodecType
	zstd    *zstd.Encoder
	other   kgo.Compressor
	buffers sync.Pool
}

// codecNames are the values of compression.type that name a codec, and the codec.
var codecNames = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "uncompressed": kgo.NoCompression(),
	"gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// IsCodec tells whether there is a codec of this name.
func IsCodec(name string) bool { _, ok := codecNames[name]; return ok }

// zstdWindow bounds what an encoder holds: a batch is hardly larger.
const zstdWindow = 1 << 20

// NewCompressor returns a compressor of the codec that is called none, uncompressed,
// gzip, snappy, lz4 or zstd. A level is the codec's own; 0 is the default, for zstd the
// fastest.
func NewCompressor(codec string, level int) (*Compressor, error) {
	known, ok := codecNames[codec]
	if !ok {
		return nil, fmt.Errorf("%q is not none, gzip, snappy, lz4 or zstd", codec)
	}
	c := &Compressor{buffers: sync.Pool{New: func() any { return new(bytes.Buffer) }}}
	var err error
	switch codec {
	case "none", "uncompressed":
		c.codec = kgo.CodecNone
	case "zstd":
		c.codec = kgo.CodecZstd
		speed := zstd.SpeedFastest
		if level != 0 {
			speed = zstd.EncoderLevelFromZstd(level)
		}
		c.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(speed), zstd.WithWindowSize(zstdWindow),
			zstd.WithLowerEncoderMem(true), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	default:
		if level != 0 {
			known = known.WithLevel(level)
		}
		c.codec = map[string]kgo.CompressionCodecType{"gzip": kgo.CodecGzip, "snappy": kgo.CodecSnappy, "lz4": kgo.CodecLz4}[codec]
		c.other, err = kgo.DefaultCompressor(known)
	}
	return c, err
}

// Codec is the codec.
func (c *Compressor) Codec() kgo.CompressionCodecType { return c.codec }

// compress appends the compressed bytes of plain to dst.
func (c *Compressor) compress(dst, plain []byte) ([]byte, error) {
	switch {
	case c.zstd != nil:
		return c.zstd.EncodeAll(plain, dst), nil
	case c.other == nil:
		return append(dst, plain...), nil
	}
	buf := c.buffers.Get().(*bytes.Buffer)
	defer c.buffers.Put(buf)
	buf.Reset()
	packed, codec := c.other.Compress(buf, plain)
	if codec != c.codec {
		return nil, errors.New("compress a record batch: the codec failed")
	}
	return append(dst, packed...), nil
}
