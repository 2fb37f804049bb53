package segment

import (
	"errors"
	"fmt"
	"math"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A Batch is one that an [Opener] has found in a segment. It is whole: its checksum is right,
// and it holds as many records, of the offsets, as its frame says.
type Batch struct {
	*format.Batch
	Raw []byte // its frame
	// Within says of all records in the segment that their timestamps are between these,
	// both included.
	Within [2]int64

	opened  recordbatch.Batch
	decoder *recordbatch.Decoder
	in      *inside
	read    bool // the segment knows the batch's times
}

// Times reads the earliest and the latest timestamp of the batch's records.
func (b *Batch) Times() (first, last int64, err error) {
	first, last, _, err = TimesOf(b.decoder, b.opened)
	if err != nil {
		return 0, 0, &batchError{err}
	}
	b.note(first, last)
	return first, last, nil
}

// Records calls each for every record of the batch. What it is given holds until it returns.
func (b *Batch) Records(each func(r *format.Record) error) error {
	var first, last int64
	var own error
	err := b.decoder.Records(b.opened, func(r *format.Record) error {
		if r.Offset == b.First {
			first, last = r.Timestamp, r.Timestamp
		}
		first, last = min(first, r.Timestamp), max(last, r.Timestamp)
		r.Topic, r.Partition = b.Topic, b.Partition
		own = each(r)
		return own
	})
	switch {
	case own != nil:
		return own
	case errors.Is(err, recordbatch.ErrTooLarge):
		return err
	case err != nil:
		return &batchError{err}
	}
	b.note(first, last)
	return nil
}

// note tells the segment the batch's times.
func (b *Batch) note(first, last int64) {
	if !b.read {
		b.read = true
		b.in.unread--
		b.in.times(first, last)
	}
}

// A batchError is about what is in a batch, and not of whoever looks at it.
type batchError struct{ error }

// Unwrap gives [errors.Is] what is inside.
func (e *batchError) Unwrap() error { return e.error }

// TimesOf reads the bounds of the timestamps in a batch as a segment has them. Of one that
// decompresses to more than the decoder's limit the earliest is not known: then it is the
// earliest that there is, known is false, and the latest is what the batch says of itself.
func TimesOf(d *recordbatch.Decoder, t recordbatch.Batch) (first, last int64, known bool, err error) {
	first, last, err = d.Times(t)
	if errors.Is(err, recordbatch.ErrTooLarge) {
		return math.MinInt64, t.MaxTimestamp, false, nil
	}
	return first, last, err == nil, err
}

// batch takes the next frame, which is a batch's, and opens it.
func (in *inside) batch(f *format.Frame, d *recordbatch.Decoder) (*Batch, error) {
	if in.content != format.ContentBatches {
		return nil, fmt.Errorf("a batch frame in a stream of %s", in.content)
	}
	if err := in.frameOf.Decode(f.Raw); err != nil {
		return nil, err
	}
	b := &in.frameOf
	if err := in.offsets("batch", b.Topic, b.Partition, b.First, b.Last, b.Records); err != nil {
		return nil, err
	}
	opened, err := recordbatch.Open(b)
	if err != nil {
		return nil, err
	}
	in.unread++
	return &Batch{Batch: b, Raw: f.Raw, opened: opened, decoder: d, in: in}, nil
}

// times takes the timestamps of records.
func (in *inside) times(first, last int64) {
	if !in.timed {
		in.timed, in.minTimestamp, in.maxTimestamp = true, first, last
	}
	in.minTimestamp, in.maxTimestamp = min(in.minTimestamp, first), max(in.maxTimestamp, last)
}
