package filter

import (
	"errors"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// passesBatches decides whether whole batches pass, so that the output is a stream of
// batches like the input. That is where nothing looks into a record, changes what is in it or
// shows it, and where all records of a batch have the same fate unless a bound of offsets
// cuts it. All others get the records of batches, one by one.
func (cfg *Config) passesBatches() bool {
	return len(cfg.slow) == 0 && cfg.times == always && cfg.head < 0 && cfg.change.onlyMoves() && cfg.print == nil && !cfg.parse
}

// onlyMoves tells whether records come to other topics and partitions at most.
func (ch *change) onlyMoves() bool {
	return ch == nil || len(ch.masks) == 0 && ch.code == nil && ch.keyIDs == nil && ch.valueIDs == nil
}

// placed is the answer of all conditions on topics, partitions and offsets.
func (cfg *Config) placed(s span) answer {
	a := all
	for _, c := range cfg.where {
		if a = min(a, c(s)); a == none {
			return none
		}
	}
	return a
}

// fromBatch appends what is to be written of a batch to t.buf: the batch, or records.
func (t *task) fromBatch(frame *format.Frame) error {
	b := &t.batch
	if err := b.Decode(frame.Raw); err != nil {
		return command.Input(err)
	}
	t.seen += b.Records
	if !t.whole {
		return t.unpack(b)
	}
	if _, err := recordbatch.Open(b); err != nil {
		return command.Input(err)
	}
	a := t.cfg.placed(span{b.Topic, b.Partition, b.First, b.Last})
	if t.cfg.invert {
		a = a.not()
	}
	switch a {
	case none:
		return nil
	case all:
		return t.pass(frame, b)
	}
	return t.unpack(b)
}

// pass appends a whole batch to t.buf, moved where records move.
func (t *task) pass(frame *format.Frame, b *format.Batch) (err error) {
	t.passed += b.Records
	if t.cfg.count {
		return nil
	}
	ch := t.cfg.change
	if ch == nil && t.to == nil && len(t.buf) == 0 { // it need not be copied
		return t.out.raw(frame.Raw)
	}
	if ch == nil {
		t.buf = append(t.buf, frame.Raw...)
		return nil
	}
	to := place{b.Topic, b.Partition}
	if ch.topic != "" {
		to.topic = ch.topic
	}
	if ch.partition >= 0 {
		to.partition = ch.partition
	}
	if t.order != nil {
		t.moved = append(t.moved, passage{place: to, offset: b.First, last: b.Last})
	}
	t.buf, err = format.MoveBatch(t.buf, frame.Raw, to.topic, to.partition)
	return err
}

// unpack appends what is to be written of the records of a batch to t.buf. It writes while it
// reads: a batch may be a thousand times larger than it looks.
func (t *task) unpack(b *format.Batch) error {
	d, _ := t.decoders.Get().(*recordbatch.Decoder)
	if d == nil {
		d = recordbatch.NewDecoder()
	}
	defer t.decoders.Put(d)
	var own error
	err := d.Unpack(b, func(r *format.Record) error {
		if t.rest == 0 || !t.cfg.invert && !t.scanned(r.Topic, r.Partition, r.Offset, r.Timestamp) {
			return nil
		}
		t.rec = *r
		own = t.record(nil)
		return own
	})
	switch {
	case own != nil:
		return own
	case errors.Is(err, recordbatch.ErrTooLarge):
		return command.WithHint(command.Input(err), "batches are passed on whole where the flags only pick topics, partitions and offsets")
	case err != nil:
		return command.Input(err)
	}
	return nil
}
