package fetch

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/pkg/kafka"
)

// facts are what a partition's leader says when it is asked about it.
type facts struct {
	known
	local int64 // the first offset on its own disk; -1: it does not say, or was not asked
}

// A question is about one partition, to its leader.
type question struct {
	topic       string
	num         int32
	leaderEpoch int32
	read        int32 // leader epoch of the last batch read, -1 where there is none
	uncommitted bool
	local       bool // where what is on the leader's own disk begins has to be known
}

// ask gets the facts.
func (q *question) ask(ctx context.Context, cl *kgo.Client) (facts, error) {
	f := facts{known{since: -1, epochs: epochs{unasked, unasked, unasked}}, -1}
	var failed error
	offset := func(at int64, committed bool) int64 {
		o := kafka.ListOffsets(ctx, cl, map[string][]int32{q.topic: {q.num}}, at, committed).Of(q.topic, q.num)
		if o.Err != nil {
			failed = o.Err
		}
		return o.Offset
	}
	epoch := func(n int32) kafka.EpochEnd {
		if n < 0 || failed != nil {
			return unasked
		}
		return kafka.EpochEnds(ctx, cl, map[string]map[int32]int32{q.topic: {q.num: n}})[q.topic][q.num]
	}
	f.high = offset(kafka.EndOffset, false)
	f.end = offset(kafka.EndOffset, !q.uncommitted)
	// The beginning after the end: what it is afterwards, retention has decided.
	f.start = offset(kafka.StartOffset, false)
	f.current, f.last = epoch(q.leaderEpoch), epoch(q.read)
	if f.last.Epoch > 0 && f.last.Epoch < q.read {
		f.before = epoch(f.last.Epoch - 1)
	}
	if failed == nil {
		failed = f.epochs.err()
	}
	if q.local && failed == nil {
		f.local, failed = kafka.LocalStart(ctx, cl, q.topic, q.num, f.start)
	}
	return f, failed
}
