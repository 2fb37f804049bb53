package commitlog

import (
	"cmp"
	"math"
	"slices"
)

// A coverage is what a log says of the offsets of a partition.
//
// Covered is what was scanned and kept whole. What was scanned through a filter or a
// window is only scanned: records of it may be missing or changed.
type coverage struct {
	whole   spans
	partial []partial // by filters
	lost    spans     // could not be read, and no run has it
	pruned  spans     // was in the backup, and was let go on purpose
	// from and next are the lowest and the highest offset that is spoken of; reach is how
	// far it was scanned whole, or lost, or -1: a mark may speak of no offset but its own.
	from, next, reach int64
	epoch             *int32 // the leader epoch of the last batch below reach
}

// partial is what was scanned in one and the same way.
type partial struct {
	Filters []string   `json:"filters"`
	Ranges  [][2]int64 `json:"ranges"`
}

func newCoverage(at int64) coverage { return coverage{from: at, next: at, reach: -1} }

// Window is the filter that stands for a window. Two windows are not the same: what one
// has scanned says nothing of the other.
const Window = "window"

// sameFilters tells whether what was scanned through a is as what is scanned through b.
func sameFilters(a, b []string) bool {
	return slices.Equal(a, b) && !slices.Contains(a, Window)
}

// scan notes that [from, next) was scanned.
func (c *coverage) scan(from, next int64, filters []string) {
	c.from, c.next = min(c.from, from), max(c.next, next)
	if from < next {
		c.pruned = c.pruned.without(spans{{from, next}})
	}
	if len(filters) == 0 {
		c.whole.add(from, next)
		c.reachTo(next)
		return
	}
	if from >= next {
		return
	}
	i := slices.IndexFunc(c.partial, func(p partial) bool { return slices.Equal(p.Filters, filters) })
	if i < 0 {
		c.partial = append(c.partial, partial{Filters: filters})
		slices.SortFunc(c.partial, func(a, b partial) int { return slices.Compare(a.Filters, b.Filters) })
		i = slices.IndexFunc(c.partial, func(p partial) bool { return slices.Equal(p.Filters, filters) })
	}
	ranges := spans(c.partial[i].Ranges)
	ranges.add(from, next)
	c.partial[i].Ranges = ranges
}

// lose notes that [from, next) could not be read. It is not covered: another run may have
// it, or get it.
func (c *coverage) lose(from, next int64, filters []string) {
	c.from, c.next = min(c.from, from), max(c.next, next)
	c.lost.add(from, next)
	if len(filters) == 0 {
		c.reachTo(next)
	}
}

// reachTo notes that offsets up to next were scanned or lost. The epoch of the last batch
// below is not that of the one before: whoever knows it sets it behind this.
func (c *coverage) reachTo(next int64) {
	if next > c.reach {
		c.reach, c.epoch = next, nil
	}
}

// covers tells whether a run that scans [from, next) through filters finds nothing that is
// not in the backup.
func (c *coverage) covers(from, next int64, filters []string) bool {
	if c.whole.covers(from, next) {
		return true
	}
	for _, p := range c.partial {
		if sameFilters(p.Filters, filters) {
			all := slices.Clone(c.whole)
			all.addAll(p.Ranges)
			return all.covers(from, next)
		}
	}
	return false
}

// scanned is what was scanned in any way.
func (c *coverage) scanned() spans {
	if len(c.partial) == 0 {
		return c.whole
	}
	all := slices.Clone(c.whole)
	for _, p := range c.partial {
		all.addAll(p.Ranges)
	}
	return all
}

// missing is what was lost and is in no segment either.
func (c *coverage) missing() spans { return c.lost.without(c.scanned()) }

// gone is what was pruned, as far as nothing else is known of it.
func (c *coverage) gone() spans { return c.pruned.without(c.scanned()).without(c.lost) }

// holes are the offsets that nothing is known of.
func (c *coverage) holes() spans {
	known := c.scanned()
	if len(c.lost)+len(c.pruned) > 0 {
		known = slices.Clone(known)
		known.addAll(c.lost)
		known.addAll(c.pruned)
	}
	return known.gaps(c.from, c.next)
}

// onlyPartial is what no run has kept whole, by filters, no offset twice: of what several
// have scanned each, the first one's. Windows come last: they leave out records that belong
// to the offsets.
func (c *coverage) onlyPartial() []partial {
	var out []partial
	whole := c.whole
	ordered := slices.Clone(c.partial)
	slices.SortStableFunc(ordered, func(a, b partial) int {
		switch in := slices.Contains(a.Filters, Window); {
		case in == slices.Contains(b.Filters, Window):
			return 0
		case in:
			return 1
		}
		return -1
	})
	for _, p := range ordered {
		if rest := spans(p.Ranges).without(whole); len(rest) > 0 {
			out = append(out, partial{p.Filters, rest})
			whole = slices.Clone(whole)
			whole.addAll(rest)
		}
	}
	return out
}

// filteredReach is how far anything but a window has scanned, or -1.
func (c *coverage) filteredReach() int64 {
	at := int64(-1)
	for _, p := range c.partial {
		if !slices.Contains(p.Filters, Window) {
			at = max(at, p.Ranges[len(p.Ranges)-1][1])
		}
	}
	return at
}

// onlyFiltered is [coverage.onlyPartial] by offset.
func (c *coverage) onlyFiltered() []Filtered {
	var out []Filtered
	for _, p := range c.onlyPartial() {
		for _, r := range p.Ranges {
			out = append(out, Filtered{r[0], r[1], p.Filters})
		}
	}
	slices.SortFunc(out, func(a, b Filtered) int { return cmp.Compare(a.From, b.From) })
	return out
}

// let goes of what is in gone: it is not covered any more.
func (c *coverage) let(gone spans) {
	c.whole, c.lost = c.whole.without(gone), c.lost.without(gone)
	for i := range c.partial {
		c.partial[i].Ranges = spans(c.partial[i].Ranges).without(gone)
	}
	c.partial = slices.DeleteFunc(c.partial, func(p partial) bool { return len(p.Ranges) == 0 })
	c.pruned = slices.Clone(c.pruned)
	c.pruned.addAll(gone)
	c.beginAnew()
}

// letLost lets go of lost offsets: they count as pruned. What another run has scanned of
// them stays as it is.
func (c *coverage) letLost(gone spans) {
	c.lost = c.lost.without(gone)
	c.pruned = slices.Clone(c.pruned)
	c.pruned.addAll(gone.without(c.scanned()))
	if gone.covers(c.from, c.from+1) {
		c.beginAnew()
	}
}

// beginAnew finds the lowest offset that is spoken of, and was not let go.
func (c *coverage) beginAnew() {
	if known := c.scanned(); len(known) > 0 {
		c.from = known[0][0]
	} else {
		c.from = c.next
	}
	if len(c.lost) > 0 {
		c.from = min(c.from, c.lost[0][0])
	}
}

// forget says that nothing is known of gone.
func (c *coverage) forget(gone spans) {
	c.whole = c.whole.without(gone)
	for i := range c.partial {
		c.partial[i].Ranges = spans(c.partial[i].Ranges).without(gone)
	}
	c.partial = slices.DeleteFunc(c.partial, func(p partial) bool { return len(p.Ranges) == 0 })
}

// below returns what is said of the offsets below cut.
func (c *coverage) below(cut int64) coverage {
	if c.next <= cut && c.reach <= cut {
		return *c
	}
	b := coverage{
		whole: c.whole.clip(0, cut), lost: c.lost.clip(0, cut), pruned: c.pruned.clip(0, cut),
		from: min(c.from, cut), next: min(c.next, cut), reach: min(c.reach, cut),
	}
	if b.reach == c.reach {
		b.epoch = c.epoch
	}
	for _, p := range c.partial {
		if rest := spans(p.Ranges).clip(0, cut); len(rest) > 0 {
			b.partial = append(b.partial, partial{p.Filters, rest})
		}
	}
	return b
}

// join adds what an older branch says to what a newer one does.
func (c *coverage) join(old coverage) {
	c.whole, c.lost, c.pruned = slices.Clone(c.whole), slices.Clone(c.lost), slices.Clone(c.pruned)
	c.whole.addAll(old.whole)
	c.lost.addAll(old.lost)
	c.pruned.addAll(old.pruned)
	c.partial = slices.Clone(c.partial)
	for i := range c.partial {
		c.partial[i].Ranges = slices.Clone(c.partial[i].Ranges)
	}
	for _, p := range old.partial {
		for _, r := range p.Ranges {
			from, next := c.from, c.next
			c.scan(r[0], r[1], p.Filters)
			c.from, c.next = from, next
		}
	}
	c.from, c.next = min(c.from, old.from), max(c.next, old.next)
	if c.reach < old.reach {
		c.reach, c.epoch = old.reach, old.epoch
	}
}

// A branch is a partition as it was until its log was cut off in Kafka and other records
// took the place of some (KIP-320). Most partitions have one.
type branch struct {
	since string // id of the entry that began it; "" of the first
	at    int64  // of earlier branches nothing is left at this offset and above
	coverage
}

// A partition is what is known of one partition of one incarnation.
type partition struct {
	branches []branch // oldest first, never none; what they say of the same offsets may differ
	sums     sums     // of segments that were kept whole
	partial  sums     // and of the others
	segments []held   // sorted by from, next and sha256; none twice
	run      string   // that read it last
	losses   []string // of the last run that read it to its end
}

// held is a segment of a partition.
type held struct {
	Content
	branch int32
}

func newPartition(at int64) *partition {
	return &partition{branches: []branch{{coverage: newCoverage(at)}}}
}

// newest is the branch that is in Kafka now.
func (p *partition) newest() *branch { return &p.branches[len(p.branches)-1] }

// fork begins a branch at an offset.
func (p *partition) fork(entry string, at int64) {
	p.branches = append(p.branches, branch{since: entry, at: at, coverage: newCoverage(at)})
}

// branchAt is the number of the branch that was the newest when an entry was written.
func (p *partition) branchAt(entry string) int {
	for i := len(p.branches) - 1; i > 0; i-- {
		if p.branches[i].since <= entry {
			return i
		}
	}
	return 0
}

// cuts returns, for each branch up to number, the offset from which on later ones of these
// have taken its place.
func (p *partition) cuts(number int) []int64 {
	cuts := make([]int64, number+1)
	cut := int64(math.MaxInt64)
	for i := number; i >= 0; i-- {
		cuts[i] = cut
		cut = min(cut, p.branches[i].at)
	}
	return cuts
}

// view is the coverage of the partition as a branch has it, with what is left of those
// before.
func (p *partition) view(number int) coverage {
	if number == 0 {
		return p.branches[0].coverage
	}
	cuts := p.cuts(number)
	v := p.branches[number].coverage
	for i := range number {
		v.join(p.branches[i].below(cuts[i]))
	}
	return v
}

// now is the view of the newest branch.
func (p *partition) now() coverage { return p.view(len(p.branches) - 1) }

// insert keeps p.segments in order. Two runs may list one object: it is the same.
func (p *partition) insert(seg held) {
	i, found := slices.BinarySearchFunc(p.segments, &seg, func(a held, b *held) int {
		return compareContents(&a.Content, &b.Content)
	})
	if !found {
		p.segments = slices.Insert(p.segments, i, seg)
	}
}

// sums are over the segments of a partition. One that adds nothing to what was covered
// before counts for nothing: another run has stored the same.
type sums struct {
	records, bytes, rawBytes, segments int64
	batchBytes                         int64 // of bytes, those of segments that hold batches
	minTimestamp, maxTimestamp         int64
}

func (t *sums) add(seg *Content) {
	if t.segments == 0 {
		t.minTimestamp, t.maxTimestamp = seg.MinTimestamp, seg.MaxTimestamp
	}
	t.segments++
	t.records += seg.Records
	t.bytes += seg.Size
	t.rawBytes += seg.RawSize
	if seg.Form != nil && seg.Holds != "" {
		t.batchBytes += seg.Size
	}
	t.minTimestamp = min(t.minTimestamp, seg.MinTimestamp)
	t.maxTimestamp = max(t.maxTimestamp, seg.MaxTimestamp)
}

// plus is the sum of both.
func (t sums) plus(o sums) sums {
	switch {
	case o.segments == 0:
		return t
	case t.segments == 0:
		return o
	}
	return sums{t.records + o.records, t.bytes + o.bytes, t.rawBytes + o.rawBytes, t.segments + o.segments, t.batchBytes + o.batchBytes,
		min(t.minTimestamp, o.minTimestamp), max(t.maxTimestamp, o.maxTimestamp)}
}

// total is what the partition's records come to: of offsets that were kept whole those
// of filtered runs do not count.
func (p *partition) total() sums {
	if v := p.now(); p.partial.segments == 0 || len(v.onlyPartial()) == 0 {
		return p.sums
	}
	return p.sums.plus(p.partial)
}
