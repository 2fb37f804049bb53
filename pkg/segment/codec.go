// Package segment makes and opens the content of packed segments: compressed by one
// of the codecs, and perhaps encrypted with age.
package segment

import (
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// ChunkSize is how many bytes of a segment are compressed at once, as a frame of their
// own: so a single segment keeps every core busy, and an open one holds no encoder. In
// each of the formats frames that are joined are one file again.
const ChunkSize = 1 << 20

// maxWindow bounds what a zstd frame may ask of a decoder: kbk's own ask for 1 MiB,
// zstd's --ultra and --long for up to 2 GiB.
const maxWindow = 128 << 20

// A Codec is a compression format as segments name it.
type Codec struct {
	Name   string
	Levels int // it has levels 1, the fastest, to this; 0: none
	// Store makes a frame of its own of what does not compress, which costs a copy; nil: the
	// format has no way to. It uses the memory of what it is given.
	Store     func([]byte) []byte
	newWriter func(level int) (Compress, error)
	newReader func() (*decompressor, error)
}

// Compress appends what src comes to, as a frame of its own, to dst. It is not safe
// for use by several goroutines.
type Compress func(dst, src []byte) ([]byte, error)

// A decompressor reads any number of frames, one after another, as one.
type decompressor struct {
	io.Reader
	reset func(io.Reader) error
}

// None is the codec that leaves everything as it is.
const None = "none"

var codecs = []*Codec{
	{Name: "zstd", Levels: 19, Store: storeZstd, newWriter: zstdWriter, newReader: zstdReader}, // RFC 8878
	{Name: "lz4", Levels: 9, newWriter: lz4Writer, newReader: lz4Reader},                       // the LZ4 frame format
	{Name: "gzip", Levels: 9, newWriter: gzipWriter, newReader: gzipReader},                    // RFC 1952
	{Name: "snappy", newWriter: snappyWriter, newReader: snappyReader},                         // snappy's framing format
	{Name: None},
}

// CodecOf returns the codec of this name, or nil.
func CodecOf(name string) *Codec {
	for _, c := range codecs {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// CodecNames lists the codecs for a person.
func CodecNames() string {
	var names []string
	for _, c := range codecs {
		names = append(names, c.Name)
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// Compressor returns a compressor of its own, or nil where there is nothing to do.
func (c *Codec) Compressor(level int) (Compress, error) {
	if c.newWriter == nil {
		return nil, nil
	}
	return c.newWriter(level)
}

func zstdWriter(level int) (Compress, error) {
	// A window larger than a chunk would only take memory.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(ChunkSize))
	if err != nil {
		return nil, err
	}
	return func(dst, src []byte) ([]byte, error) { return enc.EncodeAll(src, dst), nil }, nil
}

func zstdReader() (*decompressor, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeBuffersBelow(0))
	if err != nil {
		return nil, err
	}
	return &decompressor{d, d.Reset}, nil
}

func lz4Writer(level int) (Compress, error) {
	w, to := lz4.NewWriter(nil), new(appender)
	depth := lz4.Fast
	if level > 1 {
		depth = 1 << (8 + level) // lz4.Level2 and above
	}
	if err := w.Apply(lz4.CompressionLevelOption(depth), lz4.BlockSizeOption(lz4.Block1Mb), lz4.ConcurrencyOption(1)); err != nil {
		return nil, err
	}
	return framed(w, func() { w.Reset(to) }, to), nil
}

func lz4Reader() (*decompressor, error) {
	r := lz4.NewReader(nil)
	return &decompressor{r, func(in io.Reader) error { r.Reset(in); return nil }}, nil
}

func gzipWriter(level int) (Compress, error) {
	to := new(appender)
	w, err := gzip.NewWriterLevel(nil, level)
	if err != nil {
		return nil, err
	}
	return framed(w, func() { w.Reset(to) }, to), nil
}

func gzipReader() (*decompressor, error) {
	r := new(gzip.Reader)
	return &decompressor{r, r.Reset}, nil
}

// snappyBlock is the most that a chunk of snappy's framing format may hold.
const snappyBlock = 64 << 10

func snappyWriter(int) (Compress, error) {
	to := new(appender)
	w := s2.NewWriter(nil, s2.WriterSnappyCompat(), s2.WriterBlockSize(snappyBlock), s2.WriterConcurrency(1))
	return framed(w, func() { w.Reset(to) }, to), nil
}

func snappyReader() (*decompressor, error) {
	r := s2.NewReader(nil, s2.ReaderMaxBlockSize(snappyBlock))
	return &decompressor{r, func(in io.Reader) error { r.Reset(in); return nil }}, nil
}

// framed makes a [Compress] of a writer that is reset to write to an appender.
func framed(w io.WriteCloser, reset func(), to *appender) Compress {
	return func(dst, src []byte) ([]byte, error) {
		*to = dst
		reset()
		if _, err := w.Write(src); err != nil {
			return nil, err
		}
		err := w.Close()
		return *to, err
	}
}

// An appender is a slice as a writer.
type appender []byte

// Write implements io.Writer.
func (a *appender) Write(b []byte) (int, error) {
	*a = append(*a, b...)
	return len(b), nil
}
