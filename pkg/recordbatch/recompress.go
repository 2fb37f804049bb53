package recordbatch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
)

var namesOfCodecs = map[kgo.CompressionCodecType]string{kgo.CodecGzip: "gzip", kgo.CodecSnappy: "snappy", kgo.CodecLz4: "lz4", kgo.CodecZstd: "zstd"}

// CodecName is what the configuration of a topic calls a codec, and "" for none and for one
// that is not known.
func CodecName(codec kgo.CompressionCodecType) string { return namesOfCodecs[codec] }

// Uncompressed appends the batch to dst, with its records decompressed. The records are not
// looked at, and nothing else of the batch changes but what follows from that: its length,
// its codec and its checksum. It fails with [ErrTooLarge] where the records take more than
// [Decoder.MaxSize].
func (d *Decoder) Uncompressed(dst []byte, t Batch) ([]byte, error) {
	if err := d.Open(t); err != nil {
		return nil, err
	}
	at := len(dst)
	dst = append(dst, t.raw[:headerSize]...)
	for {
		if int64(len(dst)-at-headerSize+len(d.plain)) > min(d.MaxSize, math.MaxInt32-headerSize) {
			return nil, d.tooLarge()
		}
		dst = append(dst, d.plain...)
		d.plain = nil
		if d.in == nil {
			complete(dst[at:], kgo.CodecNone)
			return dst, nil
		}
		if err := d.fill(1); err != nil {
			return nil, err
		}
	}
}

// Recompress appends to dst the batch that raw is, whose records are not compressed, with its
// records compressed. Nothing else of the batch changes but what follows from that: its
// length, its codec and its checksum. It is the inverse of [Decoder.Uncompressed], but for
// the compressed bytes: another compressor comes to others.
func (c *Compressor) Recompress(dst, raw []byte) ([]byte, error) {
	t, rest, err := Cut(raw)
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, fmt.Errorf("%d bytes behind the record batch at offset %d", len(rest), t.First)
	case t.Codec() != kgo.CodecNone:
		return nil, fmt.Errorf("the record batch at offset %d is compressed already", t.First)
	}
	at := len(dst)
	dst = append(slices.Grow(dst, headerSize), raw[:headerSize]...)
	if dst, err = c.compress(dst, raw[headerSize:]); err != nil {
		return nil, err
	}
	if len(dst)-at-lengthBase > math.MaxInt32 {
		return nil, fmt.Errorf("the record batch at offset %d: %w to be compressed", t.First, ErrTooLarge)
	}
	complete(dst[at:], c.codec)
	return dst, nil
}

// complete gives a batch whose records have changed its length, its codec and its checksum.
func complete(batch []byte, codec kgo.CompressionCodecType) {
	binary.BigEndian.PutUint32(batch[atLength:], uint32(len(batch)-lengthBase))
	attributes := binary.BigEndian.Uint16(batch[atAttributes:])
	binary.BigEndian.PutUint16(batch[atAttributes:], attributes&^codecMask|uint16(codec))
	binary.BigEndian.PutUint32(batch[atCRC:], crc32.Checksum(batch[atAttributes:], castagnoli))
}
