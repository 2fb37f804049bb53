package catalog

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/store"
)

//go:embed page.html
var page string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"when":  when,
	"ratio": ratio,
	"count": count,
	"size":  func(n int64) string { return humanize.IBytes(uint64(n)) },
	"comma": func(n any) string {
		switch n := n.(type) {
		case int:
			return humanize.Comma(int64(n))
		case int64:
			return humanize.Comma(n)
		}
		return fmt.Sprint(n)
	},
	"topics": sortedKeys[map[string]map[int32]commitlog.GroupOffset],
}).Parse(page))

// HTML writes a page about a backup to a file: what [Show] prints, and for each
// partition a timeline. The page needs nothing else and runs no script.
func HTML(ctx context.Context, st *store.Store, opts store.LogOptions, m *partitions.Matcher, file string, env *command.Env) (err error) {
	opts.Keep = m.Matches
	log, err := load(ctx, st, opts, env)
	if err != nil {
		return err
	}
	state := log.State
	r, err := report(st, state, m)
	if err != nil {
		return err
	}
	if err := r.cover(ctx, st, log, m); err != nil {
		return err
	}
	if err := writeFile(file, func(w io.Writer) error { return render(w, state, r) }); err != nil {
		return err
	}
	return without(log)
}

// A view is what the page shows.
type view struct {
	Report     *Report
	LastPoints []ReportPoint // newest first
	Topics     []topicView
}

type topicView struct {
	Topic  *ReportTopic
	Name   string
	Anchor string
	Height int
	Ticks  []tick
	Rows   []row
	Points []point
}

// Geometry of a timeline, in the SVG's own units.
const (
	plotLeft  = 60.0
	plotWidth = 938.0
	plotTop   = 20
	rowHeight = 16
	barHeight = 12

	minBar    = 3.0 // a bar that would be narrower would not be seen
	maxPoints = 200 // lines in a timeline, and in the table
)

type tick struct {
	X            float64
	Anchor, Text string
}

type row struct {
	Partition int32
	Y, TextY  int
	Title     string
	Bars      []bar
}

type bar struct {
	Class    string // held, lost or hole
	X, Width float64
	Y        int
	Title    string
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

func render(w io.Writer, state *commitlog.State, r *Report) error {
	v := view{Report: r}
	for i := range slices.Backward(r.Points) {
		if len(v.LastPoints) == maxPoints {
			break
		}
		v.LastPoints = append(v.LastPoints, r.Points[i])
	}
	for i := range r.Topics {
		v.Topics = append(v.Topics, timeline(state, &r.Topics[i], fmt.Sprint("t", i), v.LastPoints))
	}
	return pageTemplate.Execute(w, v)
}

func timeline(state *commitlog.State, t *ReportTopic, anchor string, all []ReportPoint) topicView {
	points := slices.DeleteFunc(slices.Clone(all), func(p ReportPoint) bool { return p.Topics != nil && p.Topics[t.Name] == 0 })
	v := topicView{Topic: t, Name: t.name(), Anchor: anchor, Height: plotTop + rowHeight*len(t.Partitions)}
	a := axis{math.MaxInt64, math.MinInt64}
	if t.MinTimestamp != nil {
		a = axis{*t.MinTimestamp, *t.MaxTimestamp}
	}
	for _, p := range points {
		a.from, a.to = min(a.from, p.Time), max(a.to, p.Time)
	}
	if a.from > a.to { // neither records nor points
		a = axis{}
	}
	for i, anchor := range []string{"start", "middle", "end"} {
		ms := a.from + (a.to-a.from)/2*int64(i)
		v.Ticks = append(v.Ticks, tick{plotLeft + plotWidth/2*float64(i), anchor, when(ms)})
	}
	for i, p := range t.Partitions {
		y := plotTop + rowHeight*i
		plan, _ := state.Plan(t.Name, t.ID, p.Partition)
		v.Rows = append(v.Rows, row{
			Partition: p.Partition, Y: y, TextY: y + barHeight - 2, Bars: bars(a, &plan, y),
			Title: fmt.Sprintf("%s/%d: offsets %d to %d, %s records", t.Name, p.Partition, p.From, p.Next, humanize.Comma(p.Records)),
		})
	}
	for _, p := range points {
		v.Points = append(v.Points, point{a.x(p.Time), "restore point " + p.ID + ", " + when(p.Time)})
	}
	return v
}

// bars are what is held of a partition, between what is not. Offsets that are not held
// have no times: they lie between the times of what is around them.
func bars(a axis, plan *commitlog.Plan, y int) (out []bar) {
	type gap struct {
		class, what string
		at          [2]int64
	}
	var gaps []gap
	for _, h := range plan.Holes {
		gaps = append(gaps, gap{"hole", "hole: no word of", h})
	}
	for _, l := range plan.Lost {
		gaps = append(gaps, gap{"lost", "lost:", l})
	}
	for _, p := range plan.Pruned {
		gaps = append(gaps, gap{"hole", "pruned:", p})
	}
	slices.SortFunc(gaps, func(x, y gap) int { return cmp.Compare(x.at[0], y.at[0]) })
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
			out = append(out, bar{"held", x, width, y, fmt.Sprintf("offsets %d to %d, %s to %s", group[0].First, group[len(group)-1].Last, when(from), when(to))})
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
		missing = append(missing, bar{g.class, x, width, y, fmt.Sprintf("%s offsets %d to %d", g.what, g.at[0], g.at[1]-1)})
	}
	return append(out, missing...) // on top
}
