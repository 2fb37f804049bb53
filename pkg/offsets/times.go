package offsets

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// A timed offset of a translation by timestamp.
type timed struct {
	time   int64  // milliseconds since the epoch; no record that the group has not read is older
	none   bool   // there is no such record
	offset int64  // in the target: of the first record that is not older
	why    string // it has none
}

// times are the offsets of a translation by timestamp, by partition and offset of the
// source.
type times map[place]map[int64]*timed

// findTimes looks for the first record in the target that is not older than any record
// that a group has not read. Whatever was restored of these is not before it, in
// whichever order their times are.
func (t *translation) findTimes(ctx context.Context) (times, error) {
	if t.records.n == 0 && !t.cfg.MaySkip {
		return nil, command.WithHint(command.Usagef("--by timestamp needs the backup's records: if times are not in order, the time of the next record alone may skip others"),
			"give them with --records FILE, or accept it with --may-skip")
	}
	all, err := t.oldest()
	if err != nil {
		return nil, err
	}
	cl, err := kafka.NewClient(ctx, t.cfg.Kafka)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	topics := make(map[string]bool)
	for p := range all {
		topics[t.namesake(p).topic] = true
	}
	r, err := lookAtTopics(ctx, cl, names(topics))
	if err != nil {
		return nil, err
	}
	bounds, err := r.committed(ctx)
	if err != nil {
		return nil, err
	}
	queues := make(map[place][]*timed) // what is to be asked, by partition of the target
	for p, offsets := range all {
		to := t.namesake(p)
		_, exists := bounds[to]
		for _, o := range offsets {
			switch {
			case !exists:
				o.why = fmt.Sprintf("the target has no partition %s", to)
			case o.why == "" && !o.none:
				queues[to] = append(queues[to], o)
			}
		}
	}
	return all, askForTimes(ctx, cl, queues)
}

// oldest finds, for each committed offset, how old the oldest record is that is not
// before it: among the records that were read, or else of the record that is known to
// come next.
func (t *translation) oldest() (times, error) {
	all := make(times)
	wanted := make(map[place][]int64) // ascending
	for _, g := range t.groups.byID {
		for p, o := range each(g) {
			if all[p] == nil {
				all[p] = make(map[int64]*timed)
			}
			if all[p][o.Offset] == nil {
				all[p][o.Offset] = &timed{time: math.MaxInt64, none: true}
				wanted[p] = append(wanted[p], o.Offset)
			}
		}
	}
	for _, offsets := range wanted {
		slices.Sort(offsets)
	}
	// The least time from an offset up to the next one, and then up to the end.
	read := make(map[place]bool)
	err := t.eachRecord(func(p place, rec format.NextRecord) {
		read[p] = true
		i, same := slices.BinarySearch(wanted[p], rec.Offset)
		if !same {
			i--
		}
		if i >= 0 {
			o := all[p][wanted[p][i]]
			o.time, o.none = min(o.time, rec.Timestamp), false
		}
	})
	if err != nil {
		return nil, err
	}
	for p, offsets := range wanted {
		for i := len(offsets) - 2; i >= 0; i-- {
			o, behind := all[p][offsets[i]], all[p][offsets[i+1]]
			o.time, o.none = min(o.time, behind.time), o.none && behind.none
		}
	}
	for _, g := range t.groups.byID {
		for p, o := range each(g) {
			if !read[p] {
				all[p][o.Offset].withoutRecords(&o, t.coverage[p])
			}
		}
	}
	return all, nil
}

// withoutRecords goes by what is known of an offset of whose partition no record was
// read.
func (o *timed) withoutRecords(committed *format.GroupOffset, c *covered) {
	switch {
	case committed.Record != nil:
		o.time, o.none = committed.Record.Timestamp, false
	case committed.End != nil && committed.Offset >= *committed.End, c != nil && committed.Offset <= c.through:
	default:
		o.why = "it is not known which record comes next: kbk-offsets snapshot --next reads it from the source"
	}
}

// askForTimes asks brokers for the offsets of times, all partitions at once: a broker
// takes one question for a partition at a time.
func askForTimes(ctx context.Context, cl *kgo.Client, queues map[place][]*timed) error {
	for len(queues) > 0 {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID, req.IsolationLevel = -1, 1
		asked := make(map[place]*timed)
		topics := make(map[string][]kmsg.ListOffsetsRequestTopicPartition)
		for to, q := range queues {
			asked[to] = q[0]
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = to.num, q[0].time
			topics[to.topic] = append(topics[to.topic], rp)
			if queues[to] = q[1:]; len(q) == 1 {
				delete(queues, to)
			}
		}
		for _, topic := range slices.Sorted(maps.Keys(topics)) {
			rt := kmsg.NewListOffsetsRequestTopic()
			rt.Topic, rt.Partitions = topic, topics[topic]
			req.Topics = append(req.Topics, rt)
		}
		for _, shard := range cl.RequestSharded(ctx, req) {
			if shard.Err != nil {
				return fmt.Errorf("list offsets by timestamp: %w", shard.Err)
			}
			for _, rt := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
				for _, rp := range rt.Partitions {
					to := place{rt.Topic, rp.Partition}
					if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
						return fmt.Errorf("list offsets of %s by timestamp: %w", to, err)
					}
					o := asked[to]
					if o == nil {
						return fmt.Errorf("a broker answered for %s, which it was not asked for", to)
					}
					if o.offset = rp.Offset; rp.Offset < 0 {
						o.why = "no record in the target is as late as those that come next"
					}
				}
			}
		}
	}
	return nil
}

// placeByTime goes by what findTimes has found.
func (t *translation) placeByTime(out plannedGroup, topic string, offsets map[int32]format.GroupOffset) {
	for num, o := range offsets {
		p := place{topic, num}
		switch found := t.times[p][o.Offset]; {
		case found.why != "":
			out.leaveOut(p, o.Offset, found.why)
		case found.none:
			out.putLowest(t.namesake(p), t.atEnd(p, o))
		default:
			out.putLowest(t.namesake(p), t.alone(p, o, found.offset))
		}
	}
}
