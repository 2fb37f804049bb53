// Package recordbatch reads Kafka's record batches, format 2 (KIP-98; the class
// DefaultRecordBatch), as a Fetch response holds them, one after another. It
// allocates nothing per record, and of a compressed batch it has no more in memory than
// its largest record and a piece of the rest.
package recordbatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unsafe"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
)

// Offsets of a batch's fields from its first byte.
const (
	atLength     = 8
	atEpoch      = 12
	atMagic      = 16
	atCRC        = 17
	atAttributes = 21
	atLastDelta  = 23
	atBaseTime   = 27
	atMaxTime    = 35
	atProducer   = 43
	atCount      = 57
	headerSize   = 61

	lengthBase = atEpoch // the length counts what follows it
)

// Bits of a batch's attributes.
const (
	codecMask     = 0x07
	logAppendTime = 0x08
	transactional = 0x10
	control       = 0x20
)

// ErrPartial says that the bytes end inside a batch, as the last batch of a Fetch
// response may.
var ErrPartial = errors.New("partial record batch")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Batch is the header of one record batch, and its bytes.
type Batch struct {
	First, Last  int64 // offsets that the batch takes, with those of records compacted away
	LeaderEpoch  int32
	MaxTimestamp int64 // milliseconds since the epoch
	ProducerID   int64
	// ProducerEpoch and Sequence place the batch among those of its producer.
	ProducerEpoch int16
	Sequence      int32
	Records       int32
	attributes    uint16
	baseTime      int64
	raw           []byte
}

// ErrTooLarge says that a batch holds more than [Decoder.MaxSize].
var ErrTooLarge = errors.New("too large")

// Cut takes the first batch off b, and checks its checksum: nothing that a batch says of
// itself may be believed before. It returns ErrPartial where b ends inside it.
//
// The checksum does not cover the offset, the length and the leader epoch, which brokers
// set. Whoever knows which offsets are due has to compare.
func Cut(b []byte) (t Batch, rest []byte, err error) {
	if t, rest, err = CutChecked(b); err != nil {
		return t, nil, err
	}
	if want, got := binary.BigEndian.Uint32(t.raw[atCRC:]), crc32.Checksum(t.raw[atAttributes:], castagnoli); got != want {
		return t, nil, fmt.Errorf("corrupt record batch at offset %d: checksum %08x, not %08x", t.First, got, want)
	}
	return t, rest, nil
}

// CutChecked is [Cut] for bytes that it has been through already.
func CutChecked(b []byte) (t Batch, rest []byte, err error) {
	if len(b) < atMagic+1 {
		return t, nil, ErrPartial
	}
	t.First = int64(binary.BigEndian.Uint64(b))
	length := int(int32(binary.BigEndian.Uint32(b[atLength:])))
	if magic := int8(b[atMagic]); magic != 2 {
		return t, nil, fmt.Errorf("offset %d: message format %d is not supported, only 2 (Kafka 0.11 and later)", t.First, magic)
	}
	if length < headerSize-lengthBase || t.First < 0 {
		return t, nil, fmt.Errorf("corrupt record batch at offset %d: length of %d bytes", t.First, length)
	}
	if len(b)-lengthBase < length {
		return t, nil, ErrPartial
	}
	t.raw, rest = b[:lengthBase+length], b[lengthBase+length:]
	last := int32(binary.BigEndian.Uint32(b[atLastDelta:]))
	t.LeaderEpoch = int32(binary.BigEndian.Uint32(b[atEpoch:]))
	t.attributes = binary.BigEndian.Uint16(b[atAttributes:])
	t.baseTime = int64(binary.BigEndian.Uint64(b[atBaseTime:]))
	t.MaxTimestamp = int64(binary.BigEndian.Uint64(b[atMaxTime:]))
	t.ProducerID = int64(binary.BigEndian.Uint64(b[atProducer:]))
	t.ProducerEpoch = int16(binary.BigEndian.Uint16(b[atProducerEpoch:]))
	t.Sequence = int32(binary.BigEndian.Uint32(b[atSequence:]))
	t.Records = int32(binary.BigEndian.Uint32(b[atCount:]))
	t.Last = t.First + int64(last)
	if last < 0 || t.Records < 0 || t.Last < t.First {
		return t, nil, fmt.Errorf("corrupt record batch at offset %d: %d records, last offset delta %d", t.First, t.Records, last)
	}
	return t, rest, nil
}

// Control says that the batch holds a control record (a transaction marker, say)
// and no data.
func (t *Batch) Control() bool { return t.attributes&control != 0 }

// Transactional says that the batch is part of a transaction.
func (t *Batch) Transactional() bool { return t.attributes&transactional != 0 }

// Size is how many bytes the batch takes, as it is stored.
func (t *Batch) Size() int { return len(t.raw) }

// DefaultMaxSize is the default of [Decoder.MaxSize].
const DefaultMaxSize = 256 << 20

// A Decoder decodes the records of batches, one batch at a time.
type Decoder struct {
	// MaxSize is how many bytes a batch may decompress to. A larger one fails with
	// ErrTooLarge where Next comes to the record that goes past it.
	MaxSize int64

	codecs codecs
	in     io.Reader // the rest of the batch; nil where all of it is in plain
	plain  []byte    // records, uncompressed, that are not decoded yet
	own    []byte    // the memory that plain is in, unless it is the batch's own
	size   int64     // what has been decompressed so far

	batch   Batch
	left    int32
	headers []format.RecordHeader
}

// NewDecoder returns a Decoder. Not for use by several goroutines.
func NewDecoder() *Decoder { return &Decoder{MaxSize: DefaultMaxSize} }

// Open gets a batch's records ready for [Decoder.Next].
func (d *Decoder) Open(t Batch) error {
	d.batch, d.left = t, t.Records
	d.plain, d.in = t.raw[headerSize:], nil
	if cap(d.own) > keepBuffer {
		d.own = nil
	}
	if cap(d.headers) > keepHeaders {
		d.headers = nil
	}
	codec := kgo.CompressionCodecType(t.attributes & codecMask)
	if codec == kgo.CodecNone || t.Records == 0 {
		d.size = int64(len(d.plain))
		return nil
	}
	if cap(d.own) < atOnce {
		d.own = make([]byte, 0, atOnce)
	}
	whole, in, err := d.codecs.open(d.plain, codec, d.own)
	if err != nil {
		return d.failed(err)
	}
	d.plain, d.in, d.size = whole, in, int64(len(whole))
	return nil
}

// headerCost is what a record's header takes in memory.
const headerCost = int64(unsafe.Sizeof(format.RecordHeader{}))

// keepHeaders is how many headers of a record there is room for in the next one.
const keepHeaders = 64 << 10

// failed says that the batch cannot be decompressed.
func (d *Decoder) failed(err error) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return fmt.Errorf("record batch at offset %d: %w: zstd with a window of more than %d bytes", d.batch.First, ErrTooLarge, maxWindow)
	}
	return fmt.Errorf("record batch at offset %d: decompress: %w", d.batch.First, err)
}

// fill decompresses until n bytes are there to decode, or all of the batch.
func (d *Decoder) fill(n int) error {
	if d.in == nil || len(d.plain) >= n {
		return nil
	}
	d.own = append(d.own[:0], d.plain...)
	for len(d.own) < n && d.in != nil {
		if len(d.own) == cap(d.own) {
			// By what has come, and not by what is claimed: a record of a few bytes may
			// claim any length.
			d.own = slices.Grow(d.own, min(n-len(d.own), 4*cap(d.own)))
		}
		got, err := d.in.Read(d.own[len(d.own):cap(d.own)])
		d.own = d.own[:len(d.own)+got]
		d.size += int64(got)
		if errors.Is(err, io.EOF) {
			d.in = nil
		} else if err != nil {
			return d.failed(err)
		}
	}
	d.plain = d.own
	return nil
}

// tooLarge says that the batch is over the limit.
func (d *Decoder) tooLarge() error {
	return fmt.Errorf("record batch at offset %d: %w: it holds more than %d bytes", d.batch.First, ErrTooLarge, d.MaxSize)
}

// Next decodes the next record of the open batch into r, all but its topic and
// partition. Key, value and headers share the decoder's memory until the next call. It
// returns false after the last record.
func (d *Decoder) Next(r *format.Record) (bool, error) {
	if d.left == 0 {
		return false, nil
	}
	d.left--
	b, err := d.body()
	if err != nil {
		return false, err
	}
	timeDelta, offsetDelta, b, ok := deltas(b)
	if !ok || offsetDelta > d.batch.Last-d.batch.First {
		return false, d.corrupt()
	}
	r.Offset = d.batch.First + offsetDelta
	r.Timestamp, r.Attributes = d.batch.baseTime+timeDelta, 0
	if d.batch.attributes&logAppendTime != 0 {
		r.Timestamp, r.Attributes = d.batch.MaxTimestamp, format.LogAppendTime
	}
	if r.Key, b, ok = nullable(b); !ok {
		return false, d.corrupt()
	}
	if r.Value, b, ok = nullable(b); !ok {
		return false, d.corrupt()
	}
	count, n := varint(b)
	if n <= 0 || count < 0 || count > int64(len(b)) {
		return false, d.corrupt()
	}
	b = b[n:]
	if count > d.MaxSize/headerCost { // each takes two bytes of the batch, and more here
		return false, d.tooLarge()
	}
	r.Headers = d.headers[:0]
	for range count {
		var h format.RecordHeader
		if h.Name, b, ok = nullable(b); !ok || h.Name == nil {
			return false, d.corrupt()
		}
		if h.Value, b, ok = nullable(b); !ok {
			return false, d.corrupt()
		}
		r.Headers = append(r.Headers, h)
	}
	d.headers = r.Headers
	return true, nil
}

// body takes the next record off the open batch, without its length.
func (d *Decoder) body() ([]byte, error) {
	length, n, err := d.length()
	if err != nil {
		return nil, err
	}
	if err := d.fill(n + length); err != nil {
		return nil, err
	}
	b := d.plain
	if length > len(b)-n {
		return nil, d.corrupt()
	}
	d.plain = b[n+length:]
	return b[n : n+length], nil
}

// length reads how long the next record is, and how many bytes say so.
func (d *Decoder) length() (length, n int, err error) {
	if err := d.fill(binary.MaxVarintLen64); err != nil {
		return 0, 0, err
	}
	l, n := varint(d.plain)
	if n <= 0 || l < 0 {
		return 0, 0, d.corrupt()
	}
	// What was decompressed ahead does not count before it is decoded.
	if decoded := d.size - int64(len(d.plain)); l > d.MaxSize-decoded-int64(n) {
		return 0, 0, d.tooLarge()
	}
	return int(l), n, nil
}

// deltas takes the attributes of a record, which nothing uses, and its timestamp and
// offset off its body, relative to the batch's first.
func deltas(b []byte) (time, offset int64, rest []byte, ok bool) {
	if len(b) < 1 {
		return 0, 0, nil, false
	}
	b = b[1:]
	time, n := varint(b)
	if n <= 0 {
		return 0, 0, nil, false
	}
	b = b[n:]
	offset, n = varint(b)
	if n <= 0 || offset < 0 {
		return 0, 0, nil, false
	}
	return time, offset, b[n:], true
}

// Aborts says that the open batch is control data and its marker ends a
// transaction without committing it (EndTransactionMarker, ControlRecordType.ABORT).
func (d *Decoder) Aborts() (bool, error) {
	var r format.Record
	ok, err := d.Next(&r)
	if err != nil || !ok {
		return false, err
	}
	var key kmsg.ControlRecordKey
	if err := key.ReadFrom(r.Key); err != nil {
		return false, d.corrupt()
	}
	return key.Type == kmsg.ControlRecordKeyTypeAbort, nil
}

func (d *Decoder) corrupt() error {
	return fmt.Errorf("corrupt record in the batch at offset %d", d.batch.First)
}

// varint reads a zig-zag varint (Protocol Buffers' sint64, which Kafka's varint
// and varlong are). n is 0 where b is too short, and below where it is no varint.
func varint(b []byte) (v int64, n int) {
	if len(b) > 0 && b[0] < 0x80 { // most lengths and deltas
		u := b[0]
		return int64(u>>1) ^ -int64(u&1), 1
	}
	return binary.Varint(b)
}

// nullable reads bytes behind their length, -1 being null.
func nullable(b []byte) (v, rest []byte, ok bool) {
	l, n := varint(b)
	if n <= 0 || l < -1 || l > int64(len(b)-n) {
		return nil, nil, false
	}
	if l == -1 {
		return nil, b[n:], true
	}
	end := n + int(l)
	return b[n:end:end], b[end:], true
}

// Filler tells whether a record holds nothing, as those by which an exact restore takes a
// log to the offset where it is to begin.
func Filler(r *format.Record) bool {
	return r.Key == nil && r.Value == nil && len(r.Headers) == 0 && r.Timestamp == 0
}
