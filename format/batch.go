package format

import (
	"errors"
	"math"
	"unicode/utf8"
)

// A Batch is a Kafka record batch, format 2, as it is on a broker's disk (KIP-98; the
// class DefaultRecordBatch): the frame
//
//	["batch", topic, partition, first, last, max_timestamp, records, data]
//
// with a ninth element, the codec, where that is not empty. Batches are in streams whose
// header says [ContentBatches], and nowhere else. Every offset from First to Last has a
// record: a batch with holes travels as records.
//
// What the frame says of the data is a claim. See recordbatch.Open, which compares the two.
type Batch struct {
	Topic        string
	Partition    int32
	First, Last  int64  // offsets; First is the batch's base offset
	MaxTimestamp int64  // of its records, in milliseconds since the epoch
	Records      int64  // Last - First + 1
	Data         []byte // the batch, from its base offset on
	// Codec is what the producer had compressed the records with ("gzip", "snappy", "lz4"
	// or "zstd"), where a stage has decompressed them since. Else it is "".
	Codec string
}

// AppendFrame implements [Encoder]. It allocates only where b has no room.
func (t *Batch) AppendFrame(b []byte) ([]byte, error) {
	if !utf8.ValidString(t.Topic) || !utf8.ValidString(t.Codec) {
		return nil, errors.New("encode batch: a topic or codec that is not UTF-8")
	}
	elems := byte(8)
	if t.Codec != "" {
		elems = 9
	}
	b = append(b, majorArray|elems, majorText|5, 'b', 'a', 't', 'c', 'h')
	b = append(appendHead(b, majorText, uint64(len(t.Topic))), t.Topic...)
	b = appendInt(appendInt(appendInt(b, int64(t.Partition)), t.First), t.Last)
	b = appendInt(appendInt(b, t.MaxTimestamp), t.Records)
	b = append(appendHead(b, majorBytes, uint64(len(t.Data))), t.Data...)
	if t.Codec != "" {
		b = append(appendHead(b, majorText, uint64(len(t.Codec))), t.Codec...)
	}
	return b, nil
}

// validate tells whether the batch's figures agree with one another.
func (t *Batch) validate() error {
	if t.Partition < 0 || t.First < 0 || t.Last < t.First || t.Records-1 != t.Last-t.First {
		return corrupt("batch of partition %d with %d records, offsets %d to %d", t.Partition, t.Records, t.First, t.Last)
	}
	return nil
}

// DecodeBatch decodes a batch frame. Its data shares b's memory.
func DecodeBatch(b []byte) (*Batch, error) {
	t := new(Batch)
	if err := t.Decode(b); err != nil {
		return nil, err
	}
	return t, nil
}

// Decode decodes a batch frame into t, whose data then shares b's memory. It allocates
// only where the topic or the codec is not the one that t has already.
func (t *Batch) Decode(b []byte) error {
	r := fieldsOf("batch", b)
	r.text(&t.Topic)
	t.Partition = int32(r.number(0, math.MaxInt32))
	t.First = r.number(0, math.MaxInt64)
	t.Last = r.number(0, math.MaxInt64)
	t.MaxTimestamp = r.number(math.MinInt64, math.MaxInt64)
	t.Records = r.number(1, math.MaxInt64)
	t.Data = r.bytes()
	r.optionalText(&t.Codec)
	if err := r.rest(); err != nil {
		return err
	}
	return t.validate()
}

// MoveBatch appends the batch frame raw to b, with another topic and partition. All other
// elements stay as they are, also those that a later version adds.
func MoveBatch(b, raw []byte, topic string, partition int32) ([]byte, error) {
	if !utf8.ValidString(topic) || partition < 0 {
		return b, errors.New("encode batch: a topic that is not UTF-8, or a partition below 0")
	}
	all, err := elementsOf(raw)
	if err != nil {
		return b, err
	}
	head := raw[:len(raw)-len(all.b)]
	kind, err := all.next()
	if err != nil {
		return b, err
	}
	if name, ok := textOf(kind); !ok || string(name) != "batch" {
		return b, corrupt("not a batch frame")
	}
	for range 2 {
		if e, err := all.next(); err != nil || e == nil {
			return b, errors.Join(err, corrupt("batch without a topic and a partition"))
		}
	}
	b = append(append(b, head...), kind...)
	b = append(appendHead(b, majorText, uint64(len(topic))), topic...)
	return append(appendInt(b, int64(partition)), all.b...), nil
}
