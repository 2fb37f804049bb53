package datakeep

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/hamba/avro/v2"
	"github.com/klauspost/compress/zstd"
)

const (
	maxBlock  = 512 << 20 // of a block, as it is stored and decompressed
	maxSchema = 1 << 20
	syncSize  = 16
)

var magic = []byte("Obj\x01")

// decoding bounds what the library allocates for a length that it reads.
var decoding = avro.Config{MaxByteSliceSize: maxBlock, MaxSliceAllocSize: 1 << 20}.Freeze()

// A container is an Avro object container file (Avro 1.12, "Object Container Files"). The
// library has a reader of its own, which allocates what a file claims and takes one that is
// cut short for a whole one.
type container struct {
	in     *bufio.Reader
	schema avro.Schema
	name   string // of the schema's record
	codec  string
	sync   [syncSize]byte
	zstd   *zstd.Decoder
	packed bytes.Buffer
	plain  []byte
}

func openContainer(r io.Reader) (*container, error) {
	c := &container{in: bufio.NewReaderSize(r, 1<<16)}
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(c.in, head); err != nil || !bytes.Equal(head, magic) {
		return nil, errors.New("it is not an Avro file")
	}
	meta, err := c.metadata()
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c.in, c.sync[:]); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	if c.schema, err = avro.ParseBytesWithCache(meta["avro.schema"], "", &avro.SchemaCache{}); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	if named, ok := c.schema.(avro.NamedSchema); ok {
		c.name = named.Name()
	}
	switch c.codec = string(meta["avro.codec"]); c.codec {
	case "", "null":
	case "zstandard":
		c.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock))
	default:
		err = fmt.Errorf("codec %q, which the tool does not use", c.codec)
	}
	return c, err
}

func (c *container) close() {
	if c.zstd != nil {
		c.zstd.Close()
	}
}

// metadata reads the file's map of text to bytes.
func (c *container) metadata() (map[string][]byte, error) {
	meta := make(map[string][]byte)
	for {
		n, err := c.long()
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return meta, nil
		}
		if n < 0 { // then the size in bytes follows
			if _, err := c.long(); err != nil {
				return nil, err
			}
			n = -n
		}
		for range n {
			key, err := c.bytes()
			if err != nil {
				return nil, err
			}
			if meta[string(key)], err = c.bytes(); err != nil {
				return nil, err
			}
			if len(meta) > 1000 {
				return nil, errors.New("too much metadata")
			}
		}
	}
}

func (c *container) long() (int64, error) {
	n, err := binary.ReadVarint(c.in)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *container) bytes() ([]byte, error) {
	n, err := c.long()
	if err != nil {
		return nil, err
	}
	if n < 0 || n > maxSchema {
		return nil, fmt.Errorf("metadata of %d bytes", n)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(c.in, b)
	return b, err
}

// next returns the next block, and how many records it has. It returns io.EOF behind the
// last one.
func (c *container) next() (block []byte, records int64, err error) {
	if _, err := c.in.Peek(1); errors.Is(err, io.EOF) {
		return nil, 0, io.EOF
	}
	if records, err = c.long(); err != nil {
		return nil, 0, err
	}
	size, err := c.long()
	if err != nil {
		return nil, 0, err
	}
	if records < 0 || size < 0 || size > maxBlock {
		return nil, 0, fmt.Errorf("a block of %d records and %d bytes", records, size)
	}
	// Read as it comes, and not into what is claimed.
	c.packed.Reset()
	if n, err := io.CopyN(&c.packed, c.in, size); n < size {
		return nil, 0, errors.Join(io.ErrUnexpectedEOF, notEOF(err))
	}
	var sync [syncSize]byte
	if _, err := io.ReadFull(c.in, sync[:]); err != nil {
		return nil, 0, errors.Join(io.ErrUnexpectedEOF, notEOF(err))
	}
	if sync != c.sync {
		return nil, 0, errors.New("a block does not end with the file's marker")
	}
	if c.zstd == nil {
		return c.packed.Bytes(), records, nil
	}
	c.plain, err = c.zstd.DecodeAll(c.packed.Bytes(), c.plain[:0])
	return c.plain, records, err
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
