package catalog

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
)

// Geometry of a timeline, in the SVG's own units: 1000 across.
const (
	plotLeft  = 80.0
	plotWidth = 810.0
	plotTop   = 22
	rowHeight = 16
	barHeight = 12

	minBar = 3.0 // a bar that would be narrower would not be seen
)

// A timelineView is the timeline of a topic.
type timelineView struct {
	Name, Anchor string
	Height       int
	Bottom       int
	Ticks        []tick
	Later        string // how long ago the data ends
	Rows         []row
	Points       []point
	Grouped      int // partitions in a row, where there is not a row for each
	Partitions   int
	Affected     string // partitions of which something is missing, where they have no row of their own
}

type tick struct {
	X            float64
	Anchor, Text string
}

type row struct {
	Label    string
	Y, TextY int
	Title    string
	Bars     []bar
}

type bar struct {
	Class    string // covered, held, lost or hole
	X, Width float64
	Title    string
	n        int // bars that it stands for
}

type point struct {
	X     float64
	Title string
}

// An axis turns times into places.
type axis struct{ from, to int64 } // milliseconds since the epoch

func (a axis) x(ms int64) float64 {
	ms = min(max(ms, a.from), a.to)
	x := plotLeft + plotWidth*float64(ms-a.from)/float64(max(a.to-a.from, 1))
	return math.Round(x*10) / 10
}

// span is from one time to another, but never too narrow to be seen.
func (a axis) span(from, to int64) (x, width float64) {
	x, end := a.x(from), a.x(to)
	width = math.Round(max(end-x, minBar)*10) / 10
	return min(x, plotLeft+plotWidth-width), width
}

// axisOf is from where a topic's data begins to where it ends: at its newest record, or at the
// newest restore point that includes it. A record's timestamp that is later than the log's
// last entry is not a time at which there was data.
func (p *pageView) axisOf(t *ReportTopic, points []ReportPoint) axis {
	a := axis{math.MaxInt64, math.MinInt64}
	if t.MinTimestamp != nil {
		last := min(*t.MaxTimestamp, max(p.Report.Updated.UnixMilli(), *t.MinTimestamp))
		a = axis{*t.MinTimestamp, last}
	}
	for _, x := range points {
		a.from, a.to = min(a.from, x.Time), max(a.to, x.Time)
	}
	if a.from > a.to { // neither records nor points
		a = axis{}
	}
	return a
}

func (p *pageView) timeline(t *topicView, barsInRow int) timelineView {
	points := slices.DeleteFunc(slices.Clone(p.Report.Points), func(x ReportPoint) bool { return x.Topics != nil && x.Topics[t.Topic.Name] == 0 })
	a := p.axisOf(t.Topic, points)
	parts := t.Topic.Partitions
	v := timelineView{Name: t.Name, Anchor: t.Anchor, Partitions: len(parts)}
	v.Later = ago(max(p.Now.Sub(time.UnixMilli(a.to)), 0))
	for i, anchor := range []string{"start", "middle", "end"} {
		ms := a.from + (a.to-a.from)/2*int64(i)
		v.Ticks = append(v.Ticks, tick{plotLeft + plotWidth/2*float64(i), anchor, when(ms)})
	}
	size := (len(parts) + maxRows - 1) / maxRows
	if size > 1 {
		v.Grouped = size
		v.Affected = affected(parts)
	}
	for i := 0; i < len(parts); i += max(size, 1) {
		y := plotTop + rowHeight*len(v.Rows)
		r := p.row(t.Topic, parts[i:min(i+max(size, 1), len(parts))], a)
		r.Y, r.TextY, r.Bars = y, y+barHeight-2, fewer(r.Bars, barsInRow)
		v.Rows = append(v.Rows, r)
	}
	v.Height = plotTop + rowHeight*len(v.Rows)
	v.Bottom = v.Height - rowHeight + barHeight
	v.Points = lines(a, points)
	return v
}

// row shows some partitions as one.
func (p *pageView) row(t *ReportTopic, parts []commitlog.ManifestPartition, a axis) row {
	first, last := &parts[0], &parts[len(parts)-1]
	var bars []bar
	var records int64
	for i := range parts {
		plan, _ := p.state.Plan(t.Name, t.ID, parts[i].Partition)
		bars = append(bars, heldAndMissing(a, &plan)...)
		records += parts[i].Records
	}
	if from, to, ok := p.covered(t, parts); ok {
		x, width := a.span(from, to)
		bars = append([]bar{{"covered", x, width, "covered up to the restore point of " + when(to), 1}}, bars...)
	}
	if len(parts) == 1 {
		return row{Label: strconv.Itoa(int(first.Partition)), Bars: bars,
			Title: fmt.Sprintf("%s/%d: offsets %d to %d, %s", t.Name, first.Partition, first.From, first.Next, command.Count(records, "record"))}
	}
	return row{Label: fmt.Sprintf("%d to %d", first.Partition, last.Partition), Bars: near(bars, 0),
		Title: fmt.Sprintf("%s/%d to %d: %d partitions, %s", t.Name, first.Partition, last.Partition, len(parts), command.Count(records, "record"))}
}

// covered is from when on, and up to when, restore points cover all of some partitions:
// one that none of them speaks of is not covered, and neither are they together.
func (p *pageView) covered(t *ReportTopic, parts []commitlog.ManifestPartition) (from, to int64, ok bool) {
	from, to = math.MaxInt64, math.MaxInt64
	for i := range parts {
		of := p.points.of[partitionOf{t.Name, t.ID, parts[i].Partition}]
		if of == nil {
			return 0, 0, false
		}
		from, to = min(from, of.first), min(to, of.last)
		if parts[i].Segments > 0 {
			from = min(from, parts[i].MinTimestamp)
		}
	}
	return min(from, to), to, true
}

// A gap is offsets that are not held.
type gap struct {
	class, what string
	at          [2]int64
}

// gapsOf are what is not held, by offset.
func gapsOf(plan *commitlog.Plan) (gaps []gap) {
	for _, h := range plan.Holes {
		gaps = append(gaps, gap{"hole", "hole, not backed up:", h})
	}
	for _, l := range plan.Lost {
		gaps = append(gaps, gap{"lost", "lost:", l})
	}
	for _, p := range plan.Pruned {
		gaps = append(gaps, gap{"pruned", "pruned:", p})
	}
	slices.SortFunc(gaps, func(x, y gap) int { return cmp.Compare(x.at[0], y.at[0]) })
	return gaps
}

// heldAndMissing are what is held of a partition, between what is not. Offsets that are not
// held have no times: they lie between the times of what is around them.
func heldAndMissing(a axis, plan *commitlog.Plan) (out []bar) {
	gaps := gapsOf(plan)
	segments := make([]commitlog.Segment, 0, plan.Len())
	for i := range plan.Len() {
		segments = append(segments, plan.Segment(i).Segment)
	}
	var missing []bar
	last := a.from // the time of what came before
	for i := 0; i < len(segments) || len(gaps) > 0; {
		// What is held up to the next gap is one bar.
		group := segments[i:i]
		for ; i < len(segments) && (len(gaps) == 0 || segments[i].From < gaps[0].at[1]); i++ {
			group = append(group, segments[i])
		}
		if len(group) > 0 {
			from, to := group[0].MinTimestamp, group[0].MaxTimestamp
			for _, s := range group {
				from, to = min(from, s.MinTimestamp), max(to, s.MaxTimestamp)
			}
			x, width := a.span(from, to)
			out = append(out, bar{"held", x, width, fmt.Sprintf("records of offsets %d to %d, %s to %s", group[0].First, group[len(group)-1].Last, when(from), when(to)), 1})
			last = to
		}
		if len(gaps) == 0 {
			continue
		}
		next := a.to
		if i < len(segments) {
			next = segments[i].MinTimestamp
		}
		g := gaps[0]
		gaps = gaps[1:]
		x, width := a.span(min(last, next), next)
		missing = append(missing, bar{g.class, x, width, fmt.Sprintf("%s offsets %d to %d", g.what, g.at[0], g.at[1]-1), 1})
	}
	return append(out, missing...) // on top
}

// classes are those of bars, in the order in which they are drawn.
var classes = []string{"covered", "held", "pruned", "hole", "lost"}

// fewer joins bars of one class that are near, until there are no more than most.
func fewer(bars []bar, most int) []bar {
	for distance := 1.0; len(bars) > most && distance < 2*plotWidth; distance *= 2 {
		bars = near(bars, distance)
	}
	return bars
}

// near joins bars of one class that are no further apart than distance.
func near(bars []bar, distance float64) (out []bar) {
	for _, class := range classes {
		var own []bar
		for _, b := range bars {
			if b.Class == class {
				own = append(own, b)
			}
		}
		slices.SortStableFunc(own, func(a, b bar) int { return cmp.Compare(a.X, b.X) })
		begin := len(out)
		for _, b := range own {
			if len(out) == begin || b.X > out[len(out)-1].X+out[len(out)-1].Width+distance {
				out = append(out, b)
				continue
			}
			last := &out[len(out)-1]
			last.n += b.n
			last.Width = math.Round(max(last.Width, b.X+b.Width-last.X)*10) / 10
			last.Title = fmt.Sprintf("%s in %s", map[string]string{"covered": "covered", "held": "records", "pruned": "pruned offsets", "hole": "holes: offsets not backed up", "lost": "lost offsets"}[class],
				command.Count(int64(last.n), "place"))
		}
	}
	return out
}

// lines are those of restore points, with some room between them.
func lines(a axis, points []ReportPoint) (out []point) {
	room := plotWidth / maxLines
	if len(points) <= maxLines {
		room = minBar
	}
	n := 1
	for _, p := range slices.Backward(slices.SortedFunc(slices.Values(points), func(a, b ReportPoint) int { return cmp.Compare(a.Time, b.Time) })) {
		x := a.x(p.Time)
		if len(out) > 0 && out[len(out)-1].X-x < room {
			n++
			out[len(out)-1].Title = fmt.Sprintf("%s restore points, from %s on", humanize.Comma(int64(n)), when(p.Time))
			continue
		}
		n = 1
		out = append(out, point{x, "restore point " + p.ID + ", " + when(p.Time)})
	}
	return out
}

// affected names partitions of which something is missing.
func affected(parts []commitlog.ManifestPartition) string {
	var names []int32
	for i := range parts {
		if p := &parts[i]; total(p.Lost)+total(p.Holes) > 0 {
			names = append(names, p.Partition)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return command.Partitions(names)
}
