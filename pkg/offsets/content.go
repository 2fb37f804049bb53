package offsets

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

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

// A search is for the records of one partition.
type search struct {
	offsets []int64                       // that groups have committed, ascending
	looked  map[int64][]format.NextRecord // by these: the records that may come next
	last    *format.NextRecord            // of the partition, nil: it has none
	head    int                           // offsets before this index have all their candidates
	first   int64                         // offset of the partition's first record
	tallies map[digest]*tally
}

// scanContent finds, in the same partition of the target, the records that come next in
// the backup. Of records that are all alike it takes the one with as many before it; if
// the target has another number of them than the backup, then the first, so that none is
// skipped.
func (m *mapping) scanContent(ctx context.Context) error {
	if m.records.n == 0 {
		return command.WithHint(command.Usagef("there are no records to look for"), "give the backup's with --records FILE, or on standard input: kbk-pull … | kbk-pack -d | kbk-offsets map --by content …")
	}
	searches := m.searches()
	if err := m.pickCandidates(searches); err != nil {
		return err
	}
	if err := m.markPartitions(searches); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for p, s := range searches {
		to := place{m.cfg.Topics.Name(p.topic), p.num}
		b := m.bounds[to] // none: nothing is found
		g.Go(func() error {
			return m.reader.each(gctx, to, b[0], b[1], scanBytes, func(rec *format.Record) bool {
				s.meet(rec)
				return false
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for p, s := range searches {
		if err := m.writeFound(p, s); err != nil {
			return err
		}
	}
	return m.writeTargets(func(p place) []int64 { return searches[p].offsets }, nil)
}

// searches returns one for each partition that a group has an offset in.
func (m *mapping) searches() map[place]*search {
	all := make(map[place]*search)
	for _, g := range m.groups.byID {
		for p, o := range each(g) {
			if all[p] == nil {
				all[p] = &search{looked: make(map[int64][]format.NextRecord), tallies: make(map[digest]*tally)}
			}
			all[p].offsets = append(all[p].offsets, o.Offset)
		}
	}
	for _, s := range all {
		slices.Sort(s.offsets)
		s.offsets = slices.Compact(s.offsets)
	}
	return all
}

// pickCandidates goes twice through the backup's records: for those that may come next,
// and for how many are like them.
func (m *mapping) pickCandidates(searches map[place]*search) error {
	err := m.eachRecord(func(p place, rec format.NextRecord) {
		if s := searches[p]; s != nil {
			rec.Digest = slices.Clone(rec.Digest)
			s.candidate(rec)
		}
	})
	if err != nil {
		return err
	}
	for _, s := range searches {
		for _, recs := range s.looked {
			for _, rec := range recs {
				s.want(rec)
			}
		}
		if s.last != nil {
			s.want(*s.last)
		}
	}
	return m.eachRecord(func(p place, rec format.NextRecord) {
		if s := searches[p]; s != nil {
			s.count(rec)
		}
	})
}

func (s *search) candidate(rec format.NextRecord) {
	if s.last == nil {
		s.first = rec.Offset
	}
	s.last = &rec
	for i := s.head; i < len(s.offsets) && s.offsets[i] <= rec.Offset; i++ {
		at := s.offsets[i]
		if s.looked[at] = append(s.looked[at], rec); len(s.looked[at]) == candidates {
			s.head = i + 1 // those behind have fewer
		}
	}
}

func (s *search) want(rec format.NextRecord) {
	c := s.tallies[digest(rec.Digest)]
	if c == nil {
		c = &tally{rank: make(map[int64]int64), at: make(map[int64]int64), first: -1}
		s.tallies[digest(rec.Digest)] = c
	}
	c.rank[rec.Offset] = -1
}

func (s *search) count(rec format.NextRecord) {
	c := s.tallies[digest(rec.Digest)]
	if c == nil {
		return
	}
	if _, ok := c.rank[rec.Offset]; ok {
		c.rank[rec.Offset] = c.source
		c.at[c.source] = -1
	}
	c.source++
}

// meet takes the next record of the target.
func (s *search) meet(rec *format.Record) {
	next := nextRecord(rec)
	c := s.tallies[digest(next.Digest)]
	if c == nil {
		return
	}
	if c.target == 0 {
		c.first = rec.Offset
	}
	if _, ok := c.at[c.target]; ok {
		c.at[c.target] = rec.Offset
	}
	c.target++
}

// find returns the target offset of a record of the backup, if the target has it.
func (s *search) find(rec *format.NextRecord) (at int64, ok bool) {
	c := s.tallies[digest(rec.Digest)]
	switch {
	case c.target == 0:
		return 0, false
	case c.target == c.source:
		return c.at[c.rank[rec.Offset]], true
	}
	return c.first, true
}

// markPartitions writes the marks that a stream of records alone does not have: as far as
// its records go, they are all there.
func (m *mapping) markPartitions(searches map[place]*search) error {
	for p, s := range searches {
		if s.last == nil || m.coverage[p] != nil {
			continue
		}
		for _, mark := range []*format.Mark{
			{Topic: p.topic, Partition: p.num, Next: s.first},
			{Topic: p.topic, Partition: p.num, Next: s.last.Offset + 1},
		} {
			if err := m.w.Write(mark); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeFound writes a run for each record that was found, and takes the offsets out of
// the groups for which none was.
func (m *mapping) writeFound(p place, s *search) error {
	to := m.cfg.Topics.Name(p.topic)
	written := make(map[int64]bool)
	write := func(rec *format.NextRecord) (found bool, err error) {
		at, ok := s.find(rec)
		if !ok || written[rec.Offset] {
			return ok, nil
		}
		written[rec.Offset] = true
		return true, m.add(&format.Map{Topic: p.topic, Partition: p.num, SourceFirst: rec.Offset, TargetTopic: to, TargetPartition: p.num, TargetFirst: at, Count: 1})
	}
	for _, offset := range s.offsets {
		recs, any := s.looked[offset], false
		for i := range recs {
			found, err := write(&recs[i])
			if err != nil {
				return err
			}
			any = any || found
		}
		if len(recs) > 0 && !any {
			m.leaveOut(p, offset, fmt.Sprintf("of the %s from there on, none is in the target", command.Count(int64(len(recs)), "record")))
		}
	}
	if s.last != nil {
		if _, err := write(s.last); err != nil {
			return err
		}
	}
	return nil
}

// leaveOut says in the groups that stand at an offset that it has no place.
func (m *mapping) leaveOut(p place, offset int64, why string) {
	for _, g := range m.groups.byID {
		if o, ok := g.Offsets[p.topic][p.num]; ok && o.Offset == offset {
			delete(g.Offsets[p.topic], p.num)
			plannedGroup{g}.leaveOut(p, offset, why)
		}
	}
}
