package recordbatch

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"github.com/kbkio/kbk/format"
)

// Offsets of the fields that only a builder writes.
const (
	atProducerEpoch = 51
	atSequence      = 53
)

// A Builder builds one batch after another from records. Nothing of a record is changed:
// timestamps may be any int64, names of headers any bytes.
type Builder struct {
	plain             []byte // the records, uncompressed
	count             int32
	baseTime, maxTime int64
	minTime           int64
}

// Reset begins a new batch, in the memory of the last.
func (b *Builder) Reset() { b.plain, b.count = b.plain[:0], 0 }

// Records is how many records the batch has.
func (b *Builder) Records() int { return int(b.count) }

// Size is how many bytes the batch takes, uncompressed.
func (b *Builder) Size() int { return headerSize + len(b.plain) }

// Capacity is how much memory the builder holds.
func (b *Builder) Capacity() int { return cap(b.plain) }

// Grow makes room for n more bytes of records.
func (b *Builder) Grow(n int) {
	if cap(b.plain)-len(b.plain) >= n {
		return
	}
	grown := make([]byte, len(b.plain), len(b.plain)+n)
	copy(grown, b.plain)
	b.plain = grown
}

// MinTime and MaxTime are the bounds of the records' timestamps.
func (b *Builder) MinTime() int64 { return b.minTime }

// MaxTime is the latest of the records' timestamps.
func (b *Builder) MaxTime() int64 { return b.maxTime }

// Append adds a record: its timestamp, key, value and headers. The batch keeps none of
// its memory.
func (b *Builder) Append(r *format.Record) {
	if b.count == 0 {
		b.baseTime, b.minTime, b.maxTime = r.Timestamp, r.Timestamp, r.Timestamp
	}
	b.minTime, b.maxTime = min(b.minTime, r.Timestamp), max(b.maxTime, r.Timestamp)
	// A delta that overflows wraps, and wraps back where it is added to the base.
	time := r.Timestamp - b.baseTime
	p := binary.AppendVarint(b.plain, int64(bodySize(r, time, b.count)))
	p = append(p, 0) // attributes: none is in use
	p = binary.AppendVarint(p, time)
	p = binary.AppendVarint(p, int64(b.count))
	p = appendNullable(appendNullable(p, r.Key), r.Value)
	p = binary.AppendVarint(p, int64(len(r.Headers)))
	for i := range r.Headers {
		p = binary.AppendVarint(p, int64(len(r.Headers[i].Name)))
		p = append(p, r.Headers[i].Name...)
		p = appendNullable(p, r.Headers[i].Value)
	}
	b.plain = p
	b.count++
}

// RecordSize is the most bytes that a record takes in a batch, uncompressed.
func RecordSize(r *format.Record) int {
	return 2*binary.MaxVarintLen32 + binary.MaxVarintLen64 + contentSize(r)
}

// bodySize is the size of a record without its length.
func bodySize(r *format.Record, time int64, offset int32) int {
	return varintSize(time) + varintSize(int64(offset)) + contentSize(r)
}

// contentSize is the size of a record's attributes, key, value and headers.
func contentSize(r *format.Record) int {
	n := 1 + nullableSize(r.Key) + nullableSize(r.Value) + varintSize(int64(len(r.Headers)))
	for i := range r.Headers {
		n += varintSize(int64(len(r.Headers[i].Name))) + len(r.Headers[i].Name) + nullableSize(r.Headers[i].Value)
	}
	return n
}

func nullableSize(b []byte) int {
	if b == nil {
		return 1
	}
	return varintSize(int64(len(b))) + len(b)
}

func varintSize(v int64) int {
	zigzag := uint64(v<<1) ^ uint64(v>>63)
	return (bits.Len64(zigzag|1) + 6) / 7
}

func appendNullable(p, b []byte) []byte {
	if b == nil {
		return append(p, 1) // -1
	}
	return append(binary.AppendVarint(p, int64(len(b))), b...)
}

// Build appends the batch to dst. It lacks a producer and a checksum: see [Stamp].
func (b *Builder) Build(dst []byte, c *Compressor) ([]byte, error) {
	at := len(dst)
	dst = append(dst, make([]byte, headerSize)...)
	dst, err := c.compress(dst, b.plain)
	if err != nil {
		return nil, err
	}
	h := dst[at:]
	binary.BigEndian.PutUint32(h[atLength:], uint32(len(h)-lengthBase))
	binary.BigEndian.PutUint32(h[atEpoch:], 1<<32-1) // unknown: the broker puts its own
	h[atMagic] = 2
	binary.BigEndian.PutUint16(h[atAttributes:], uint16(c.codec))
	binary.BigEndian.PutUint32(h[atLastDelta:], uint32(b.count-1))
	binary.BigEndian.PutUint64(h[atBaseTime:], uint64(b.baseTime))
	binary.BigEndian.PutUint64(h[atMaxTime:], uint64(b.maxTime))
	binary.BigEndian.PutUint32(h[atCount:], uint32(b.count))
	return dst, nil
}

// Stamp gives a batch its producer, its place among that producer's batches, and its
// checksum.
func Stamp(batch []byte, producer int64, epoch int16, sequence int32) {
	binary.BigEndian.PutUint64(batch[atProducer:], uint64(producer))
	binary.BigEndian.PutUint16(batch[atProducerEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(batch[atSequence:], uint32(sequence))
	binary.BigEndian.PutUint32(batch[atCRC:], crc32.Checksum(batch[atAttributes:], castagnoli))
}

// NextSequence is the sequence behind a batch of so many records
// (DefaultRecordBatch.incrementSequence).
func NextSequence(sequence, records int32) int32 {
	return int32((int64(sequence) + int64(records)) & (1<<31 - 1))
}
