package recordbatch

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
)

// Dense says that every offset of the batch has a record. Compaction leaves holes.
func (t *Batch) Dense() bool { return t.Records > 0 && int64(t.Records)-1 == t.Last-t.First }

// LogAppendTime says that all records have the batch's [Batch.MaxTimestamp], which the
// broker set.
func (t *Batch) LogAppendTime() bool { return t.attributes&logAppendTime != 0 }

// Codec is what the records are compressed with.
func (t *Batch) Codec() kgo.CompressionCodecType {
	return kgo.CompressionCodecType(t.attributes & codecMask)
}

// Compressed says of the bytes of a batch, which need not be a right one, whether its records
// are compressed.
func Compressed(raw []byte) bool {
	return len(raw) >= atAttributes+2 && binary.BigEndian.Uint16(raw[atAttributes:])&codecMask != 0
}

// Raw is the batch's bytes.
func (t *Batch) Raw() []byte { return t.raw }

// Frame is the batch as a stream has it. The batch has to be [Batch.Dense]. The frame
// shares its memory.
func (t *Batch) Frame(topic string, partition int32) format.Batch {
	return format.Batch{
		Topic: topic, Partition: partition, First: t.First, Last: t.Last,
		MaxTimestamp: t.MaxTimestamp, Records: int64(t.Records), Data: t.raw,
	}
}

// Open checks that the data of a frame is one whole batch of records, that its checksum is
// right, and that the frame says the same as the batch. Nothing of the records themselves is
// known yet: see [Decoder.Times] and [Decoder.Records].
func Open(f *format.Batch) (Batch, error) {
	t, rest, err := Cut(f.Data)
	switch {
	case err != nil:
	case len(rest) > 0:
		err = fmt.Errorf("%d bytes behind the record batch at offset %d", len(rest), t.First)
	case t.Control():
		err = fmt.Errorf("the record batch at offset %d is a control batch", t.First)
	case t.First != f.First || t.Last != f.Last || int64(t.Records) != f.Records || t.MaxTimestamp != f.MaxTimestamp:
		err = fmt.Errorf("the record batch holds %d records of offsets %d to %d, up to time %d ms, and its frame says %d records of offsets %d to %d, up to time %d ms",
			t.Records, t.First, t.Last, t.MaxTimestamp, f.Records, f.First, f.Last, f.MaxTimestamp)
	}
	if err != nil {
		return t, inFrame(f, err)
	}
	return t, nil
}

// A frameError is about what is in a frame. It is a [format.ErrCorrupt], unless the batch is
// only too large.
type frameError struct {
	where string
	err   error
}

func inFrame(f *format.Batch, err error) error {
	return &frameError{fmt.Sprintf("%s/%d: batch of offsets %d to %d", f.Topic, f.Partition, f.First, f.Last), err}
}

func (e *frameError) Error() string { return e.where + ": " + e.err.Error() }
func (e *frameError) Unwrap() error { return e.err }

func (e *frameError) Is(target error) bool {
	return target == format.ErrCorrupt && !errors.Is(e.err, ErrTooLarge)
}

// Unpack opens a frame and calls each for every record of it, in order. What each is given
// holds until it returns, and an error of it is returned as it is. Every other error names
// the topic, the partition and the offsets of the frame.
func (d *Decoder) Unpack(f *format.Batch, each func(r *format.Record) error) error {
	t, err := Open(f)
	if err != nil {
		return err
	}
	var own error
	err = d.Records(t, func(r *format.Record) error {
		r.Topic, r.Partition = f.Topic, f.Partition
		own = each(r)
		return own
	})
	if err == nil || own != nil {
		return own
	}
	return inFrame(f, err)
}

// Records calls each for every record of a dense batch, in order, all but topic and
// partition set. What each is given holds until it returns. The records have to be numbered
// without holes, and to fill the batch.
func (d *Decoder) Records(t Batch, each func(r *format.Record) error) error {
	if err := d.Open(t); err != nil {
		return err
	}
	var r format.Record
	for due := t.First; ; due++ {
		ok, err := d.Next(&r)
		if err != nil {
			return err
		}
		if !ok {
			return d.over()
		}
		if r.Offset != due {
			return d.corrupt()
		}
		if err := each(&r); err != nil {
			return err
		}
	}
}

// Times reads a dense batch as [Decoder.Records] does, but looks at no more than the offset
// and the timestamp of each record. It returns the earliest timestamp and the latest.
func (d *Decoder) Times(t Batch) (first, last int64, err error) {
	if err := d.Open(t); err != nil {
		return 0, 0, err
	}
	for due := int64(0); d.left > 0; due++ {
		d.left--
		time, offset, err := d.deltasOnly()
		if err != nil {
			return 0, 0, err
		}
		if offset != due {
			return 0, 0, d.corrupt()
		}
		at := t.baseTime + time
		if due == 0 {
			first, last = at, at
		}
		first, last = min(first, at), max(last, at)
	}
	if t.LogAppendTime() {
		first, last = t.MaxTimestamp, t.MaxTimestamp
	}
	return first, last, d.over()
}

// deltasOnly takes the next record off the open batch, and is done with all of it but its
// timestamp and offset: so that a large record takes no memory.
func (d *Decoder) deltasOnly() (time, offset int64, err error) {
	length, n, err := d.length()
	if err != nil {
		return 0, 0, err
	}
	const most = 1 + 2*binary.MaxVarintLen64
	if err := d.fill(n + min(length, most)); err != nil {
		return 0, 0, err
	}
	time, offset, _, ok := deltas(d.plain[n:min(n+length, len(d.plain))])
	if !ok {
		return 0, 0, d.corrupt()
	}
	for left := n + length; ; {
		skipped := min(left, len(d.plain))
		d.plain = d.plain[skipped:]
		if left -= skipped; left == 0 {
			return time, offset, nil
		}
		if d.in == nil {
			return 0, 0, d.corrupt()
		}
		if err := d.fill(1); err != nil {
			return 0, 0, err
		}
	}
}

// over checks that nothing is left of the open batch.
func (d *Decoder) over() error {
	if err := d.fill(1); err != nil {
		return err
	}
	if len(d.plain) > 0 {
		return fmt.Errorf("more in the batch at offset %d than its %d records", d.batch.First, d.batch.Records)
	}
	return nil
}
