package segment

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// Describe reads a segment that lies somewhere by itself, and returns what a backup's
// log would say of it. It must not be encrypted.
func Describe(codec string, data []byte, maxFrame int64) (*format.Segment, error) {
	c := CodecOf(codec)
	if c == nil {
		return nil, fmt.Errorf("codec %q is not known", codec)
	}
	var src io.Reader = bytes.NewReader(data)
	if c.newReader != nil {
		d, err := c.newReader()
		if err == nil {
			err = d.reset(src)
		}
		if err != nil {
			return nil, fmt.Errorf("decompress: %w", err)
		}
		src = d
	}
	plain := &counter{r: src, max: math.MaxInt64} // nothing is kept of it
	r := format.NewReader(plain, int(maxFrame))
	h, err := r.Header()
	if err != nil {
		return nil, err
	}
	in, err := newInside(h)
	if err != nil {
		return nil, err
	}
	decoder := recordbatch.NewDecoder()
	for {
		f, err := r.Next()
		if err != nil {
			return nil, err
		}
		if f.Kind == format.KindBatch {
			var b *Batch
			if b, err = in.batch(f, decoder); err == nil {
				_, _, err = b.Times()
			}
		} else {
			err = in.frame(f)
		}
		if err != nil {
			return nil, fmt.Errorf("it is no segment: %w", err)
		}
		if f.Kind == format.KindEnd {
			break
		}
	}
	if in.records == 0 {
		return nil, errors.New("it holds no records")
	}
	content := in.content
	if content == format.ContentRecords {
		content = "" // what it is where nothing is said
	}
	sum := sha256.Sum256(data)
	m := &format.Segment{
		Topic: in.topic, TopicID: in.id, Partition: in.partition, From: in.from, Next: in.at, First: in.first, Last: in.last,
		Records: in.records, MinTimestamp: in.minTimestamp, MaxTimestamp: in.maxTimestamp,
		Content: content, Codec: codec, RawSize: plain.n, Size: int64(len(data)), SHA256: sum[:], Filters: in.filters,
	}
	if err := in.compare(m, plain.n); err != nil { // as whoever opens it does
		return nil, fmt.Errorf("it is no segment: %w", err)
	}
	return m, nil
}

// Describe is the function [Describe] for a segment that may be encrypted: then data is
// overwritten.
func (o *Opener) Describe(codec, cipher string, data []byte) (*format.Segment, error) {
	sum, size := sha256.Sum256(data), int64(len(data))
	switch cipher {
	case "":
	case Age:
		var err error
		if data, err = o.decrypt(data); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("cipher %q is not known", cipher)
	}
	m, err := Describe(codec, data, int64(o.maxFrame))
	if err != nil {
		return nil, err
	}
	m.Cipher, m.Size, m.SHA256 = cipher, size, sum[:]
	return m, nil
}
