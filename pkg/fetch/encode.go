package fetch

import (
	"errors"
	"fmt"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/ordered"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// encode writes the frames of a job.
func (e *encoder) encode(d *recordbatch.Decoder, j *job, out *ordered.Output) error {
	w := &frames{encoder: e, d: d, j: j, out: out, buf: append(out.Buffer(), j.head...)}
	if err := w.batches(); err != nil {
		return err
	}
	e.records.Add(w.records)
	e.count.Records.Add(w.records)
	return out.Emit(append(w.buf, j.tail...))
}

// frames writes what one job comes to.
type frames struct {
	*encoder
	d       *recordbatch.Decoder
	j       *job
	out     *ordered.Output
	buf     []byte
	records int64
}

// batches writes the job's committed records.
func (w *frames) batches() error {
	aborted := recordbatch.NewAborted(w.j.aborted)
	for b := w.j.batches; len(b) > 0; {
		t, rest, err := recordbatch.CutChecked(b) // by the source
		if err != nil {
			return err
		}
		b = rest
		data, err := aborted.Data(t, w.d)
		if err == nil && data && t.MaxTimestamp >= w.wanted.since {
			err = w.batch(t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// batch writes a batch, as it is or as records.
func (w *frames) batch(t recordbatch.Batch) error {
	if !w.whole(t) {
		return w.decoded(t)
	}
	frame := t.Frame(w.j.p.topic, w.j.p.num)
	var err error
	if w.buf, err = frame.AppendFrame(w.buf); err != nil {
		return err
	}
	w.records += frame.Records
	return w.emit()
}

// whole decides whether a batch can go out as it is: none of its records is missing, and
// none is outside of the bounds.
func (w *frames) whole(t recordbatch.Batch) bool {
	if !w.asBatches || !t.Dense() || t.First < w.j.from || t.Last >= w.j.next {
		return false
	}
	if w.wanted == always {
		return true
	}
	first, last, err := w.d.Times(t)
	return err == nil && w.wanted.holds(first) && w.wanted.holds(last) // of what cannot be read, decoded tells
}

// decoded writes the records of a batch. Of one that is too large it writes the records up
// to where it is, and says that the others are lost.
func (w *frames) decoded(t recordbatch.Batch) error {
	next := max(t.First, w.j.from)
	err := w.d.Open(t)
	for err == nil {
		rec := format.Record{Topic: w.j.p.topic, Partition: w.j.p.num}
		var ok bool
		if ok, err = w.d.Next(&rec); err != nil {
			break
		}
		if !ok {
			return nil
		}
		next = max(next, rec.Offset+1)
		if rec.Offset >= w.j.from && rec.Offset < w.j.next && w.wanted.holds(rec.Timestamp) {
			err = w.record(&rec)
		}
	}
	if errors.Is(err, recordbatch.ErrTooLarge) {
		return w.tooLarge(next, min(t.Last+1, w.j.next), err)
	}
	return err
}

// record writes one record.
func (w *frames) record(rec *format.Record) error {
	w.buf = format.AppendRecord(w.buf, rec)
	w.records++
	return w.emit()
}

// emit puts out what is written, once it is large enough.
func (w *frames) emit() error {
	if len(w.buf) < ordered.ChunkSize {
		return nil
	}
	full := w.buf
	w.buf = w.out.Buffer()
	return w.out.Emit(full)
}

// tooLarge marks offsets [from, next) as lost.
func (w *frames) tooLarge(from, next int64, why error) error {
	if from >= next { // they are not wanted
		return nil
	}
	what := fmt.Sprintf("%s: offsets %d to %d cannot be read: %v", w.j.p, from, next-1, why)
	if w.strict {
		return lossError(what)
	}
	w.count.Lost.Add(next - from)
	w.lost.add(what)
	m := w.j.mark
	m.Next, m.Lost = next, [][2]int64{{from, next}}
	var err error
	w.buf, err = m.AppendFrame(w.buf)
	return err
}
