package fetch

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
)

// A pastEnd is an offset that a group has committed past the end that the leader of its partition
// tells.
type pastEnd struct {
	at          topicPartition
	group       string
	offset, end int64
}

// pastEnds returns, of each partition, the offset that is furthest past its high watermark, sorted.
// Those that are known are left out, and so are partitions whose leaders did not answer.
func pastEnds(s *groups.Snapshot, high kafka.Offsets, known map[topicPartition]int64) []pastEnd {
	if s == nil {
		return nil
	}
	furthest := make(map[topicPartition]pastEnd)
	for _, g := range s.Groups {
		for topic, offsets := range g.Offsets {
			for num, o := range offsets {
				at, end := topicPartition{topic, num}, high.Of(topic, num)
				if end.Err == nil && o.Offset > max(end.Offset, known[at], furthest[at].offset) {
					furthest[at] = pastEnd{at, g.ID, o.Offset, end.Offset}
				}
			}
		}
	}
	var out []pastEnd
	for _, p := range furthest {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b pastEnd) int {
		return cmp.Or(cmp.Compare(a.at.topic, b.at.topic), cmp.Compare(a.at.num, b.at.num))
	})
	return out
}

// listEnds asks for the high watermarks, and for the ends that a run reads up to, until no offset of
// the groups that were read before is past them. Who has committed an offset has read up to there: a
// leader that tells a lower end was cut off from the other brokers, and another one leads. Offsets that
// stay past the end, as those of a topic that was created again do, are said once.
func (p *planner) listEnds(ctx context.Context, asked map[string][]int32, committed *groups.Snapshot) (high, ends kafka.Offsets) {
	var past []pastEnd
	caughtUp := kafka.UntilCaughtUp(ctx, func() bool {
		// The high watermark first, so that a last stable offset below it says that a
		// transaction is open.
		high = kafka.ListOffsets(ctx, p.cl, asked, kafka.EndOffset, false)
		if ends = high; !p.cfg.Uncommitted {
			ends = kafka.ListOffsets(ctx, p.cl, asked, kafka.EndOffset, true)
		}
		past = pastEnds(committed, high, p.past)
		return len(past) == 0
	})
	if !caughtUp && ctx.Err() == nil {
		p.staysPast(past)
	}
	return high, ends
}

// staysPast says which committed offsets stay past the ends. They are not waited for again.
func (p *planner) staysPast(past []pastEnd) {
	for _, o := range past {
		p.past[o.at] = o.offset
	}
	o := past[0]
	p.log.Warn(fmt.Sprintf("consumer groups have committed offsets past the end of %s: group %s is at %d of %s/%d, which ends at %d",
		command.Count(int64(len(past)), "partition"), o.group, o.offset, o.at.topic, o.at.num, o.end))
}
