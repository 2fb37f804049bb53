package offsets

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// scanHeaders makes a map of the headers that kbk-produce --offset-headers has added.
func (t *translation) scanHeaders(ctx context.Context, r *reader) error {
	var mu sync.Mutex
	n := int64(0)
	take := func(m *format.Map) {
		if m.Count == 0 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		n += m.Count
		t.coverage.restored(place{m.Topic, m.Partition}, m.SourceFirst+m.Count)
		t.rule.add(m)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for to, b := range t.bounds {
		g.Go(func() error {
			var run format.Map
			err := r.each(ctx, to, b[0], b[1], scanBytes, func(rec *format.Record) bool {
				p, offset, ok := origin(rec)
				if !ok {
					return false
				}
				if run.Count > 0 && p == (place{run.Topic, run.Partition}) && offset == run.SourceFirst+run.Count && rec.Offset == run.TargetFirst+run.Count {
					run.Count++
					return false
				}
				take(&run)
				run = format.Map{Topic: p.topic, Partition: p.num, SourceFirst: offset, TargetTopic: to.topic, TargetPartition: to.num, TargetFirst: rec.Offset, Count: 1}
				return false
			})
			take(&run)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if n == 0 {
		return command.WithHint(fmt.Errorf("no record in the target has the headers %s*", originHeader), "kbk-produce adds them with --offset-headers; is --rename the same here as there?")
	}
	return nil
}

// origin reads where a record was from its headers, the last of each name.
func origin(r *format.Record) (p place, offset int64, ok bool) {
	var have int
	for i := len(r.Headers) - 1; i >= 0 && have != 7; i-- {
		h := &r.Headers[i]
		switch string(h.Name) {
		case originHeader + "topic":
			if have&1 == 0 {
				p.topic, have = string(h.Value), have|1
			}
		case originHeader + "partition":
			n, err := strconv.ParseInt(string(h.Value), 10, 32)
			if have&2 == 0 && err == nil && n >= 0 {
				p.num, have = int32(n), have|2
			}
		case originHeader + "offset":
			n, err := strconv.ParseInt(string(h.Value), 10, 64)
			if have&4 == 0 && err == nil && n >= 0 {
				offset, have = n, have|4
			}
		}
	}
	return p, offset, have == 7
}

// candidates is how many records, from a committed offset on, are looked for in the
// target: some may have been left out of the restore, or be compacted away since.
const candidates = 16

type digest [32]byte

// A tally counts the records of one content in one partition.
type tally struct {
	source int64           // how many the backup has
	rank   map[int64]int64 // by source offset of a candidate: how many of them are before it
	target int64           // how many the target has
	at     map[int64]int64 // by rank: target offset of the one with so many before it
	first  int64           // target offset of the first
}

// scanContent finds, in the same partition of the target, the records that come next in
// the backup. Of records that are all alike it takes the one with as many before it; if
// the target has another number of them than the backup, then the first, so that none is
// skipped.
func (t *translation) scanContent(ctx context.Context, r *reader) error {
	if t.records.n == 0 {
		return command.WithHint(command.Usagef("there are no records to look for"), "give the backup's with --records FILE, or on standard input: kbk-pull … | kbk-pack -d | kbk-offsets translate --by content …")
	}
	// The records that may be the next one for an offset, and the last of each partition.
	looked := make(map[place]map[int64][]format.NextRecord)
	last := make(map[place]format.NextRecord)
	heads := make(map[place]int) // offsets before have all their candidates
	err := t.eachRecord(func(p place, rec format.NextRecord) {
		a := t.rule.asked[p]
		if a == nil {
			return
		}
		rec.Digest = slices.Clone(rec.Digest)
		last[p] = rec
		if looked[p] == nil {
			looked[p] = make(map[int64][]format.NextRecord)
		}
		for i := heads[p]; i < len(a.at) && a.at[i] <= rec.Offset; i++ {
			if looked[p][a.at[i]] = append(looked[p][a.at[i]], rec); len(looked[p][a.at[i]]) == candidates {
				heads[p] = i + 1 // those behind have fewer
			}
		}
	})
	if err != nil {
		return err
	}
	tallies := make(map[place]map[digest]*tally)
	want := func(p place, rec format.NextRecord) {
		if tallies[p] == nil {
			tallies[p] = make(map[digest]*tally)
		}
		if tallies[p][digest(rec.Digest)] == nil {
			tallies[p][digest(rec.Digest)] = &tally{rank: make(map[int64]int64), at: make(map[int64]int64), first: -1}
		}
		tallies[p][digest(rec.Digest)].rank[rec.Offset] = -1
	}
	for p, offsets := range looked {
		for _, recs := range offsets {
			for _, rec := range recs {
				want(p, rec)
			}
		}
		want(p, last[p])
	}
	err = t.eachRecord(func(p place, rec format.NextRecord) {
		c := tallies[p][digest(rec.Digest)]
		if c == nil {
			return
		}
		if _, ok := c.rank[rec.Offset]; ok {
			c.rank[rec.Offset] = c.source
			c.at[c.source] = -1
		}
		c.source++
		t.coverage.restored(p, rec.Offset+1)
	})
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for p, all := range tallies {
		to := place{t.cfg.Topics.Name(p.topic), p.num}
		b := t.bounds[to] // none: nothing is found
		g.Go(func() error {
			return r.each(gctx, to, b[0], b[1], scanBytes, func(rec *format.Record) bool {
				next := nextRecord(rec)
				c := all[digest(next.Digest)]
				if c == nil {
					return false
				}
				if c.target == 0 {
					c.first = rec.Offset
				}
				if _, ok := c.at[c.target]; ok {
					c.at[c.target] = rec.Offset
				}
				c.target++
				return false
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for p, offsets := range looked {
		for at, recs := range offsets {
			if !slices.ContainsFunc(recs, func(rec format.NextRecord) bool { return t.found(p, rec, tallies[p]) }) {
				t.fail(p, at, fmt.Sprintf("of the %s from there on, none is in the target", command.Count(int64(len(recs)), "record")))
			}
		}
		t.found(p, last[p], tallies[p])
	}
	return nil
}

// found adds a run of the one record, if the target has it.
func (t *translation) found(p place, rec format.NextRecord, tallies map[digest]*tally) bool {
	c := tallies[digest(rec.Digest)]
	if c.target == 0 {
		return false
	}
	at := c.first
	if c.target == c.source {
		at = c.at[c.rank[rec.Offset]]
	}
	t.rule.add(&format.Map{Topic: p.topic, Partition: p.num, SourceFirst: rec.Offset, TargetTopic: t.cfg.Topics.Name(p.topic), TargetPartition: p.num, TargetFirst: at, Count: 1})
	return true
}

func (t *translation) fail(p place, offset int64, why string) {
	if t.failed[p] == nil {
		t.failed[p] = make(map[int64]string)
	}
	t.failed[p][offset] = why
}

// searchTimestamps looks for the first record in the target that is not older than the
// one that comes next in the source. No record that comes behind that one is before it.
func (t *translation) searchTimestamps(ctx context.Context, r *reader) error {
	wanted := make(map[place][]int64)
	for _, g := range t.groups {
		for p, o := range each(g) {
			wanted[p] = append(wanted[p], o.Offset)
		}
	}
	times, err := firstRecords(wanted, t.eachRecord)
	if err != nil {
		return err
	}
	type question struct {
		p    place
		time int64
	}
	offsets := make(map[question][]int64)
	for _, g := range t.groups {
		for p, o := range each(g) {
			rec, ok := times[p][o.Offset]
			if !ok && o.Record != nil {
				rec, ok = *o.Record, true
			}
			_, exists := t.bounds[place{t.cfg.Topics.Name(p.topic), p.num}]
			switch c := t.coverage[p]; {
			case !exists:
				t.fail(p, o.Offset, "the target has no such partition")
			case ok:
				if q := (question{p, rec.Timestamp}); !slices.Contains(offsets[q], o.Offset) {
					offsets[q] = append(offsets[q], o.Offset)
				}
			case o.End != nil && o.Offset >= *o.End, c != nil && o.Offset <= c.through: // no record, so the end
			default:
				t.fail(p, o.Offset, "it is not known which record comes next: kbk-offsets snapshot --next reads it from the source")
			}
		}
	}
	// A broker takes one question for a partition at a time.
	queues := make(map[place][]question)
	for q := range offsets {
		to := place{t.cfg.Topics.Name(q.p.topic), q.p.num}
		queues[to] = append(queues[to], q)
	}
	for len(queues) > 0 {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID, req.IsolationLevel = -1, 1
		asked := make(map[place]question)
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
		for _, shard := range r.cl.RequestSharded(ctx, req) {
			if shard.Err != nil {
				return fmt.Errorf("list offsets by timestamp: %w", shard.Err)
			}
			for _, rt := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
				for _, rp := range rt.Partitions {
					to := place{rt.Topic, rp.Partition}
					if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
						return fmt.Errorf("list offsets of %s by timestamp: %w", to, err)
					}
					q := asked[to]
					for _, offset := range offsets[q] {
						if rp.Offset < 0 {
							t.fail(q.p, offset, "no record in the target is as late as the one that comes next")
							continue
						}
						if t.direct[q.p] == nil {
							t.direct[q.p] = make(map[int64]int64)
						}
						t.direct[q.p][offset] = rp.Offset
					}
				}
			}
		}
	}
	return nil
}
