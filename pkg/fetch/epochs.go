package fetch

import (
	"context"
	"fmt"

	"github.com/kbkio/kbk/pkg/kafka"
)

// epochs are what a partition's leader says of leader epochs, to one who has read it up
// to a batch of some epoch (KIP-320). What was not asked is unasked.
type epochs struct {
	last    kafka.EpochEnd // of that epoch
	before  kafka.EpochEnd // of the epoch below last's
	current kafka.EpochEnd // of the leader's own, which ends where its log does
}

// unasked is what a leader says that does not know; and so is what it was not asked.
var unasked = kafka.EpochEnd{Epoch: -1, End: -1}

// err is an error that may pass. One that does not, because brokers are too old for the
// question, or the user may not ask it, is no answer.
func (e *epochs) err() error {
	for _, end := range []kafka.EpochEnd{e.last, e.before, e.current} {
		if kafka.Transient(end.Err) {
			return end.Err
		}
	}
	return nil
}

// epochs asks about the leader epochs of partitions that were read before.
func (p *planner) epochs(ctx context.Context, parts []*partition, o *offsets) map[*partition]epochs {
	out := make(map[*partition]epochs)
	ask := func(epochOf func(*partition) int32, set func(*epochs, kafka.EpochEnd)) {
		asked := make(map[string]map[int32]int32)
		for _, part := range parts {
			if epoch := epochOf(part); epoch >= 0 && part.leader >= 0 {
				if asked[part.topic] == nil {
					asked[part.topic] = make(map[int32]int32)
				}
				asked[part.topic][part.num] = epoch
			}
		}
		answers := kafka.EpochEnds(ctx, p.cl, asked)
		for _, part := range parts {
			if end, ok := answers[part.topic][part.num]; ok {
				e := out[part]
				set(&e, end)
				out[part] = e
			}
		}
	}
	for _, part := range parts {
		out[part] = epochs{unasked, unasked, unasked}
	}
	ask(func(part *partition) int32 { return part.resumed.epoch }, func(e *epochs, end kafka.EpochEnd) { e.last = end })
	ask(func(part *partition) int32 { // see resume
		if last := out[part].last; last.Epoch > 0 && last.Epoch < part.resumed.epoch {
			return last.Epoch - 1
		}
		return -1
	}, func(e *epochs, end kafka.EpochEnd) { e.before = end })
	ask(func(part *partition) int32 {
		k, err := o.of(part)
		if err == nil && out[part].last.Epoch < 0 && part.resumed.next >= 0 && (part.resumed.epoch >= 0 || part.resumed.next > k.high) {
			return part.epoch
		}
		return -1
	}, func(e *epochs, end kafka.EpochEnd) { e.current = end })
	return out
}

// A resumption is where a run goes on that earlier ones have read.
type resumption struct {
	from int64
	// branch says that what they have read from there on is not in Kafka any more: the
	// log was truncated, and may have grown again.
	branch bool
	why    string
}

// resume decides where to go on with a partition that was read up to at before.
func resume(at position, k known) resumption {
	switch last := k.last; {
	case last.Epoch >= 0 && last.Epoch == at.epoch:
		if last.End < at.next {
			return truncated(at, last.End)
		}
	case last.Epoch >= 0 && last.Epoch < at.epoch:
		// It has no batch of that epoch. Where it is not known of which epoch those below
		// were, not even the leader's next lower epoch need be the same.
		if next, ok := agreement(at.seen, last); ok && next < at.next {
			return truncated(at, next)
		}
		if k.before.End > 0 && k.before.End < at.next {
			return truncated(at, k.before.End)
		}
		return rewritten(at, k.start)
	case last.Epoch < 0 && at.epoch >= 0 && k.current.Epoch >= 0: // it keeps epochs, and knows none as high
		return rewritten(at, k.start)
	case at.next > k.high && k.current.End < at.next: // the end is -1 where it does not say
		return rewritten(at, k.start)
	}
	return resumption{from: at.next}
}

// An epochStart is the first offset read of a leader epoch.
type epochStart struct {
	epoch int32
	from  int64
}

// agreement returns the offset up to which what was read, in the leader epochs seen, is
// the same as what a leader has that has no batch of the last of them, but ends the epoch
// below as leader says. Where the leader has an epoch instead that was not read, it has to
// be asked again about the one before.
func agreement(seen []epochStart, leader kafka.EpochEnd) (next int64, ok bool) {
	for i, s := range seen {
		if s.epoch > leader.Epoch {
			return min(s.from, leader.End), i > 0
		}
	}
	return 0, false
}

const truncation = "the log was truncated (an unclean leader election?): "

// truncated is a log that is the same up to an offset.
func truncated(at position, from int64) resumption {
	return resumption{from, true, fmt.Sprintf(truncation+"offsets %d to %d that were read before are no longer in Kafka; what is there now is read from offset %d on, as another branch", from, at.next-1, from)}
}

// rewritten is a log that may be another from its start.
func rewritten(at position, start int64) resumption {
	return resumption{start, true, fmt.Sprintf(truncation+"it is not known which of the offsets below %d that were read before are still in Kafka; everything there is read again from offset %d on, as another branch", at.next, start)}
}
