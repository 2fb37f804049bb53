package catalog

import (
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/store"
)

//go:embed page.html
var page string

//go:embed page.css
var pageStyle string

var pageFuncs = template.FuncMap{
	"when":   when,
	"ratio":  ratio,
	"count":  count,
	"things": func(n int, thing string) string { return command.Count(int64(n), thing) },
	"style":  func() template.CSS { return template.CSS(pageStyle) },
	"size":   func(n int64) string { return humanize.IBytes(uint64(n)) },
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
}

var pageTemplate = template.Must(template.New("page").Funcs(pageFuncs).Parse(page))

// pageMaxAge is how old restore points may be on a page, as it is for status by itself.
const pageMaxAge = 26 * time.Hour

// HTML writes a page about a backup to a file: the verdict, what [Show] prints, and
// timelines. The page needs nothing else and runs no script.
func HTML(ctx context.Context, st *store.Store, opts store.LogOptions, m *partitions.Matcher, file string, env *command.Env) (err error) {
	opts.Keep = m.Matches
	log, err := load(ctx, st, opts, env)
	if err != nil {
		return err
	}
	r, err := report(st, log.State, m)
	if err != nil {
		return err
	}
	now := time.Now()
	points := newPoints(now)
	if err := r.cover(ctx, st, log, m, points); err != nil {
		return err
	}
	p := newPage(log.State, r, points, m, now)
	for _, d := range log.Damage {
		p.Status.Damage = append(p.Status.Damage, fmt.Sprintf("%s: %v", d.Name, d.Err))
	}
	if err := writeFile(file, p.write); err != nil {
		return err
	}
	return without(log)
}

// What a page shows at most, those topics first of which something is wrong. However large a
// backup is, its page is a few hundred kilobytes.
const (
	maxListed    = 500  // topics in the table
	maxTimelines = 20   // topics with a timeline
	maxRows      = 24   // in a timeline
	maxBars      = 3000 // in all timelines
	maxLines     = 40   // of restore points, in a timeline
	maxPoints    = 100  // in the table of restore points
	maxGroups    = 500
	maxFindings  = 20
)

// A pageView is what the page shows.
type pageView struct {
	Report *Report
	Status *Status
	Now    time.Time

	Partitions, Records, Segments, Bytes, RawBytes, Lost, Holes int64

	Newest          *ReportPoint // restore point
	NewestAge       string
	NewestOf        int // topics that it includes
	NewestParts     int
	CurrentTopics   int
	NotInNewest     []string // topics that the newest point does not speak of
	NotInNewestMore int

	Topics     []topicView // that are listed
	Unlisted   int
	Timelines  []timelineView
	LastPoints []ReportPoint // newest first
	Groups     []ReportGroup
	Problems   []Finding
	Notes      []Finding

	state  *commitlog.State
	points pointsOf
}

// A topicView is a line of the table.
type topicView struct {
	Topic  *ReportTopic
	Status *StatusTopic
	Name   string
	Anchor string // of its timeline, empty where it has none
	Kind   string // the worst of what was found, or "good"
	Age    string
	Run    string
}

func newPage(state *commitlog.State, r *Report, points pointsOf, m *partitions.Matcher, now time.Time) *pageView {
	s := &Status{Backup: r.Backup, ID: r.ID, Checked: now.UTC(), MaxAge: "26h", MaxAgeSeconds: int64(pageMaxAge / time.Second), Topics: []StatusTopic{}}
	s.addTopics(state, points, m)
	s.setAges(points.limit)
	return &pageView{Report: r, Status: s, Now: now, state: state, points: points}
}

// write writes the page.
func (p *pageView) write(w io.Writer) error {
	p.Status.judge()
	p.sumUp()
	p.newest()
	p.list()
	return pageTemplate.Execute(w, p)
}

func (p *pageView) sumUp() {
	for i := range p.Report.Topics {
		t := &p.Report.Topics[i]
		p.Partitions += int64(len(t.Partitions))
		p.Records += t.Records
		p.Segments += t.Segments
		p.Bytes += t.Bytes
		p.RawBytes += t.RawBytes
		p.Lost += t.Lost
		p.Holes += t.Holes
	}
	p.Groups = p.Report.Groups[:min(len(p.Report.Groups), maxGroups)]
	p.Problems = p.Status.Problems[:min(len(p.Status.Problems), maxFindings)]
	p.Notes = p.Status.Notes[:min(len(p.Status.Notes), maxFindings)]
	for i := range slices.Backward(p.Report.Points) {
		if len(p.LastPoints) == maxPoints {
			break
		}
		p.LastPoints = append(p.LastPoints, p.Report.Points[i])
	}
}

// newest says what the newest restore point includes.
func (p *pageView) newest() {
	if len(p.LastPoints) == 0 {
		return
	}
	p.Newest = &p.LastPoints[0]
	p.NewestAge = ago(p.Status.since(p.Newest.Time))
	p.NewestParts, p.NewestOf = p.Newest.partitions(), len(p.Newest.Topics)
	for i := range p.Report.Topics {
		t := &p.Report.Topics[i]
		if !t.Newest {
			continue
		}
		if p.CurrentTopics++; p.Newest.Topics[t.Name] == 0 {
			if len(p.NotInNewest) == 5 {
				p.NotInNewestMore++
				continue
			}
			p.NotInNewest = append(p.NotInNewest, printable(t.Name))
		}
	}
}

// list chooses the topics that are shown, those with the worst first.
func (p *pageView) list() {
	worst := make(map[string]string)
	for _, f := range slices.Backward(p.Status.Problems) { // the worst come first
		worst[f.Topic] = f.Kind
	}
	all := make([]topicView, len(p.Report.Topics))
	for i := range p.Report.Topics {
		t := &p.Report.Topics[i]
		v := topicView{Topic: t, Name: t.name(), Kind: isGood, Age: "-", Run: "-"}
		if k := worst[v.Name]; k != "" {
			v.Kind = k
		}
		if j := slices.IndexFunc(p.Status.Topics, func(s StatusTopic) bool { return s.Name == t.Name && s.ID == t.ID }); j >= 0 {
			v.Status = &p.Status.Topics[j]
			_, v.Run = v.Status.lastRun()
			if v.Status.AgeSeconds != nil {
				v.Age = ago(time.Duration(*v.Status.AgeSeconds) * time.Second)
			}
		}
		all[i] = v
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return slices.Index(verdicts, all[a].Kind) - slices.Index(verdicts, all[b].Kind) })
	listed := order[:min(len(order), maxListed)]
	timed := slices.Clone(order[:min(len(order), maxTimelines)])
	p.Unlisted = len(order) - len(listed)
	slices.Sort(timed)
	rows := 0
	for _, i := range timed {
		all[i].Anchor = fmt.Sprint("t", i)
		rows += min(len(all[i].Topic.Partitions), maxRows)
	}
	for _, i := range timed {
		p.Timelines = append(p.Timelines, p.timeline(&all[i], max(maxBars/max(rows, 1), 4)))
	}
	slices.Sort(listed)
	for _, i := range listed {
		p.Topics = append(p.Topics, all[i])
	}
}

// Left is how many topics have no timeline.
func (p *pageView) Left() int { return len(p.Report.Topics) - len(p.Timelines) }

// MoreFindings is how many are not shown.
func (p *pageView) MoreFindings() int {
	return len(p.Status.Problems) + len(p.Status.Notes) - len(p.Problems) - len(p.Notes)
}

// Reason is what stands behind the verdict; what was found is listed below it.
func (p *pageView) Reason() string {
	var parts []string
	if n := len(p.Status.Problems); n > 0 {
		parts = append(parts, command.Count(int64(n), "problem"))
	}
	if p.Newest != nil {
		parts = append(parts, "newest restore point is "+p.NewestAge+" old")
	}
	return strings.Join(parts, "; ")
}
