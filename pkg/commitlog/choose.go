package commitlog

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// sources are the segments that a branch of a partition may be read from, those that were
// kept whole and those that were not, each sorted by their beginning.
type sources [2][]chosen

const (
	whole = iota
	filtered
)

func (p *partition) sources(branch int) (s sources) {
	cuts := p.cuts(branch)
	for i := range p.segments {
		seg := &p.segments[i]
		if int(seg.branch) > branch || seg.From >= cuts[seg.branch] {
			continue
		}
		kind := whole
		if len(seg.Filters) > 0 {
			kind = filtered
		}
		s[kind] = append(s[kind], chosen{&seg.Content, seg.From, min(seg.Next, cuts[seg.branch])})
	}
	return s
}

// choose returns segments that give every record that a branch has, whole where any has it
// whole: those that were kept whole first, and between them what filters have left. Of offsets
// that several have scanned they are those of the filters that the plan names. Segments that
// reach over the offset next give only what no other segment has: see [Plan.Cut].
func (s sources) choose(v *coverage, next int64) []chosen {
	out := fewest(nil, s[whole], math.MinInt64, math.MaxInt64, next)
	if len(s[filtered]) == 0 {
		return out
	}
	for _, p := range v.onlyPartial() {
		left := slices.Clone(s[filtered])
		left = slices.DeleteFunc(left, func(c chosen) bool { return !slices.Equal(c.Filters, p.Filters) })
		pick := fewest
		if slices.Contains(p.Filters, Window) {
			pick = ofWindows
		}
		for _, r := range p.Ranges {
			out = pick(out, left, r[0], r[1], next)
		}
	}
	slices.SortFunc(out, func(a, b chosen) int { return cmp.Compare(a.at, b.at) })
	return out
}

// fewest appends to out the fewest of segments, which are sorted by their beginning, that
// together give of [at, until) what all of them give: of those that begin at or before the
// first offset that is still to be given, always the one that reaches furthest, but not over
// the offset next; where all of them do, the one that ends first.
func fewest(out, segments []chosen, at, until, next int64) []chosen {
	var open []chosen // those that begin at or before at, and may end behind it
	for i := 0; ; {
		open = slices.DeleteFunc(open, func(c chosen) bool { return c.end <= at })
		if len(open) == 0 {
			if i == len(segments) {
				return out
			}
			at = max(at, segments[i].at)
		}
		if at >= until {
			return out
		}
		for ; i < len(segments) && segments[i].at <= at; i++ {
			if segments[i].end > at {
				open = append(open, segments[i])
			}
		}
		if len(open) == 0 {
			continue
		}
		best := open[0]
		for _, c := range open[1:] {
			if best.end > next && c.end < best.end || best.end < c.end && c.end <= next {
				best = c
			}
		}
		end := min(best.end, until)
		out = append(out, chosen{best.Content, at, end})
		at = end
	}
}

// ofWindows appends to out segments of windows, each for the offsets of [from, until) at
// which it has records: those of another window lie before them or behind. Where records of
// two lie among one another, those of one are read.
func ofWindows(out, segments []chosen, from, until, next int64) []chosen {
	var holding []chosen // for the offsets from their first record to their last
	scanned := make(map[*Content]chosen)
	for i, c := range segments {
		at, end := max(c.at, c.First, from), min(c.end, c.Last+1, until)
		if at >= end || inAnother(segments, i, at, end) {
			continue
		}
		holding = append(holding, chosen{c.Content, at, end})
		scanned[c.Content] = c
	}
	slices.SortStableFunc(holding, func(a, b chosen) int { return cmp.Compare(a.at, b.at) })
	first := len(out)
	out = fewest(out, holding, from, until, next)
	// Each also stands for what it has scanned between its records and those of others.
	picked := out[first:]
	for i := range picked {
		before := from
		if i > 0 {
			before = picked[i-1].end
		}
		picked[i].at = max(before, min(picked[i].at, scanned[picked[i].Content].at))
	}
	for i := range picked {
		behind := until
		if i+1 < len(picked) {
			behind = picked[i+1].at
		}
		picked[i].end = min(behind, max(picked[i].end, scanned[picked[i].Content].end))
	}
	return out
}

// inAnother tells whether another segment than number i has all records that it has in
// [at, end). Of two that have the same it is true of the second one.
func inAnother(segments []chosen, i int, at, end int64) bool {
	for j, o := range segments {
		if o.at > at { // as do all behind it
			return false
		}
		if j != i && o.end >= end && o.HasAllOf(segments[i].Content) && (j < i || !segments[i].HasAllOf(o.Content)) {
			return true
		}
	}
	return false
}

// HasAllOf tells whether c surely has every record of o, as o has it, at the offsets that both
// have scanned, unless Kafka has compacted records away between the two runs: see
// [Plan.Replaces].
func (c *Content) HasAllOf(o *Content) bool {
	if len(c.Filters) == 0 || c.SHA256 == o.SHA256 || sameFilters(c.Filters, o.Filters) {
		return true
	}
	// A window is an interval of times: what holds an earlier record and a later one than all
	// of the other holds these, too. Times of batches, or behind a filter, may be others.
	window := []string{Window}
	return slices.Equal(c.Filters, window) && slices.Equal(o.Filters, window) && c.Holds == "" &&
		c.MinTimestamp <= o.MinTimestamp && o.MaxTimestamp <= c.MaxTimestamp
}

// contiguous tells whether c surely has a record at each offset of [from, next).
func (c *Content) contiguous(from, next int64) bool {
	return c.Records == c.Last-c.First+1 && c.First <= from && next <= c.Last+1
}

// Hidden is what a segment may have that a plan does not read: records of [From, Next), which
// filters have left.
type Hidden struct {
	From, Next int64
	Filters    []string
	since      int64 // the first timestamp in the segment,
	until      int64 // and the last
}

// Why says, of the offsets, what is not read.
func (h Hidden) Why() string {
	return "are read as one run has left them; what " + strings.Join(h.Filters, ", ") + " of another run left of them is not read"
}

// hidden is what filtered segments may have that picked ones, sorted, do not give.
func (s sources) hidden(v *coverage, picked []chosen) (all []Hidden) {
	known := v.scanned()
	for _, c := range s[filtered] {
		at, end := max(c.at, c.First), min(c.end, c.Last+1)
		if at >= end {
			continue
		}
		for _, r := range (spans{{at, end}}).without(v.whole).without(known.gaps(at, end)) { // what was pruned is gone
			i, _ := slices.BinarySearchFunc(picked, r[0], func(p chosen, at int64) int { return cmp.Compare(p.end, at+1) })
			rest := spans{r}
			for ; i < len(picked) && picked[i].at < r[1]; i++ {
				if p := picked[i]; p.HasAllOf(c.Content) {
					rest = rest.without(spans{{p.at, p.end}})
				}
			}
			for _, r := range rest {
				all = append(all, Hidden{r[0], r[1], c.Filters, c.MinTimestamp, c.MaxTimestamp})
			}
		}
	}
	return all
}

// cutHidden leaves what may have records of offsets in [from, next) with timestamps from since
// to until.
func cutHidden(hidden []Hidden, from, next, since, until int64) (left []Hidden) {
	for _, h := range hidden {
		h.From, h.Next = max(h.From, from), min(h.Next, next)
		if h.From < h.Next && h.since <= until && h.until >= since {
			left = append(left, h)
		}
	}
	return left
}
