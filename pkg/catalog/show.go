package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/store"
)

// A Listed backup is one that [List] found. What it holds is from its manifest; where
// there is none, only its folder is known.
type Listed struct {
	Path       string     `json:"path"` // below the remote; "" is the remote itself
	Updated    *time.Time `json:"updated,omitempty"`
	Topics     int        `json:"topics,omitempty"`
	Partitions int        `json:"partitions,omitempty"`
	Records    int64      `json:"records,omitempty"`
	Bytes      int64      `json:"bytes,omitempty"`
	Points     int        `json:"points,omitempty"`
	// NewestPoint is the last one in the log, and of how many topics it speaks.
	NewestPoint *commitlog.ManifestPoint `json:"newest_point,omitempty"`
}

// newest describes the newest point for people.
func (b *Listed) newest() string {
	switch p := b.NewestPoint; {
	case p == nil:
		return "-"
	case p.Topics == 0:
		return when(p.Time)
	default:
		return fmt.Sprintf("%s, of %d of %s", when(p.Time), p.Topics, command.Count(int64(b.Topics), "topic"))
	}
}

// List prints the backups in a store and the folders below it.
func List(ctx context.Context, st *store.Store, depth int, asJSON bool, env *command.Env, out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	lines := json.NewEncoder(out)
	n := 0
	err := st.Backups(ctx, "", depth, func(dir string) error {
		b, err := listed(ctx, st, dir)
		if errors.Is(err, commitlog.ErrCorrupt) || errors.Is(err, commitlog.ErrVersion) {
			env.Log.Warn(fmt.Sprintf("%s: %v; the backup itself does not depend on it", st.Path(path.Join(dir, commitlog.ManifestName)), err))
			b, err = &Listed{Path: dir}, nil
		}
		if err != nil {
			return err
		}
		if n++; asJSON {
			return lines.Encode(b)
		}
		if n == 1 {
			fmt.Fprintln(table, "BACKUP\tUPDATED\tTOPICS\tPARTITIONS\tRECORDS\tSIZE\tPOINTS\tNEWEST POINT")
		}
		name := printable(b.Path)
		if name == "" {
			name = "."
		}
		if b.Updated == nil {
			fmt.Fprintf(table, "%s\t-\t-\t-\t-\t-\t-\t-\n", name)
			return nil
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\t%d\t%s\n", name, when(b.Updated.UnixMilli()), b.Topics, b.Partitions,
			humanize.Comma(b.Records), humanize.IBytes(uint64(b.Bytes)), b.Points, b.newest())
		return nil
	})
	if err != nil {
		return err
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if n == 0 {
		return command.WithHint(fmt.Errorf("no backup in %s, nor in the folders below it", st.Name()), "is the path right? --depth looks deeper")
	}
	return nil
}

func listed(ctx context.Context, st *store.Store, dir string) (*Listed, error) {
	b := &Listed{Path: dir}
	data, err := st.ReadLoose(ctx, path.Join(dir, commitlog.ManifestName))
	if errors.Is(err, store.ErrNotFound) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := commitlog.DecodeManifest(data)
	if err != nil {
		return nil, err
	}
	b.Updated, b.Points, b.NewestPoint = &m.Updated, m.Points, m.NewestPoint
	names := make(map[string]bool)
	for _, t := range m.Topics {
		names[t.Name] = true
		b.Partitions += len(t.Partitions)
		for _, p := range t.Partitions {
			b.Records += p.Records
			b.Bytes += p.Bytes
		}
	}
	b.Topics = len(names)
	return b, nil
}

// A Report is what [Show] prints as JSON.
type Report struct {
	Backup  string           `json:"backup"`
	ID      string           `json:"id,omitempty"` // the backup's, however it is called
	Updated time.Time        `json:"updated"`      // the time of the log's last entry
	Entries int              `json:"entries"`      // of the log, those that were compacted too
	Source  commitlog.Source `json:"source"`
	Topics  []ReportTopic    `json:"topics"`
	Groups  []ReportGroup    `json:"groups"`
	Points  []ReportPoint    `json:"points"` // oldest first
	// ClusterSnapshots are what the cluster has besides records, oldest first.
	ClusterSnapshots []ReportSnapshot `json:"cluster_snapshots,omitempty"`
}

// A ReportTopic is one incarnation of a topic.
type ReportTopic struct {
	Name              string                        `json:"name"`
	ID                string                        `json:"id,omitempty"`
	Newest            bool                          `json:"newest"` // false: the topic was deleted and created again
	ReplicationFactor int                           `json:"replication_factor,omitempty"`
	Configs           map[string]string             `json:"configs,omitempty"`
	Records           int64                         `json:"records"`
	Segments          int64                         `json:"segments"`
	Bytes             int64                         `json:"bytes"`                 // as stored
	RawBytes          int64                         `json:"raw_bytes"`             // of the streams inside
	BatchBytes        int64                         `json:"batch_bytes,omitempty"` // of Bytes, those of segments that hold batches
	MinTimestamp      *int64                        `json:"min_timestamp,omitempty"`
	MaxTimestamp      *int64                        `json:"max_timestamp,omitempty"`
	Lost              int64                         `json:"lost"`             // offsets deleted before they were read
	Holes             int64                         `json:"holes"`            // offsets that are not backed up, between others that are
	Losses            []string                      `json:"losses,omitempty"` // what the runs that read it last could not have, for people
	Pruned            int64                         `json:"pruned,omitempty"`
	Filtered          int64                         `json:"filtered,omitempty"`     // offsets that are here only as filters have left them
	NewestPoint       *ReportPoint                  `json:"newest_point,omitempty"` // that includes it
	Partitions        []commitlog.ManifestPartition `json:"partitions"`
}

// A ReportGroup is a consumer group's committed offsets, as they were last seen.
type ReportGroup struct {
	ID      string                                     `json:"id"`
	Offsets map[string]map[int32]commitlog.GroupOffset `json:"offsets"`
}

// A ReportPoint is a restore point.
type ReportPoint struct {
	ID   string `json:"id"`   // as kbk-pull --point takes it
	Time int64  `json:"time"` // milliseconds since the epoch
	// Topics are those that it includes, and how many of their partitions.
	Topics map[string]int `json:"topics,omitempty"`
}

// partitions is how many partitions a point speaks of.
func (p *ReportPoint) partitions() (n int) {
	for _, of := range p.Topics {
		n += of
	}
	return n
}

// Covers names the topics of a point, or some of them.
func (p *ReportPoint) Covers() string {
	names := sortedKeys(p.Topics)
	for i := range names {
		names[i] = printable(names[i])
	}
	const most = 3
	if len(names) > most+1 {
		return fmt.Sprintf("%s and %d more topics", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// cover says of restore points which topics they speak of, as far as it is shown. What speaks
// of each partition goes into points.
func (r *Report) cover(ctx context.Context, st *store.Store, log *store.Log, m *partitions.Matcher, points pointsOf) error {
	place := make(map[string]int)
	for i := range r.Points {
		place[r.Points[i].ID] = i
	}
	err := st.EachMoment(ctx, log.State, func(err error) error {
		if len(log.Damage) > 0 { // which has been told
			return nil
		}
		return err
	}, func(moment *commitlog.Moment) error {
		if i, known := place[moment.Entry]; known {
			r.at(moment, i, m, points)
		}
		return nil
	})
	r.newestPoints(points)
	return err
}

// at takes what belongs to the point at a place.
func (r *Report) at(moment *commitlog.Moment, place int, m *partitions.Matcher, points pointsOf) {
	p := &r.Points[place]
	p.Topics = make(map[string]int)
	for _, t := range moment.Topics {
		for n := range t.Partitions {
			if m.Matches(t.Name, n) {
				p.Topics[t.Name]++
			}
		}
	}
	points.add(moment, place, p.ID, p.Time)
}

// newestPoints says of each topic which point is the newest that speaks of some of it.
func (r *Report) newestPoints(points pointsOf) {
	for i := range r.Topics {
		t := &r.Topics[i]
		newest := -1
		for j := range t.Partitions {
			if of := points.of[partitionOf{t.Name, t.ID, t.Partitions[j].Partition}]; of != nil {
				newest = max(newest, of.newest.place)
			}
		}
		if newest >= 0 {
			t.NewestPoint = &ReportPoint{ID: r.Points[newest].ID, Time: r.Points[newest].Time}
		}
	}
}

func report(st *store.Store, state *commitlog.State, m *partitions.Matcher) (*Report, error) {
	sums := state.Manifest()
	r := &Report{Backup: st.Name(), ID: state.Backup(), Updated: sums.Updated, Entries: sums.Entries, Source: state.Source(), Topics: []ReportTopic{}, Groups: []ReportGroup{}, Points: []ReportPoint{}}
	for _, sum := range sums.Topics {
		ids := state.Incarnations(sum.Name)
		d := state.Description(sum.Name, sum.ID)
		t := ReportTopic{Name: sum.Name, ID: sum.ID, Newest: ids[len(ids)-1] == sum.ID, ReplicationFactor: d.ReplicationFactor, Configs: d.Configs}
		for _, p := range sum.Partitions {
			if !m.Matches(sum.Name, p.Partition) {
				continue
			}
			t.Partitions = append(t.Partitions, p)
			t.Records += p.Records
			t.Segments += p.Segments
			t.Bytes += p.Bytes
			t.RawBytes += p.RawBytes
			t.BatchBytes += p.BatchBytes
			t.Lost += total(p.Lost)
			t.Holes += total(p.Holes)
			t.Pruned += total(p.Gone)
			for _, l := range state.Losses(sum.Name, sum.ID, p.Partition) {
				if !slices.Contains(t.Losses, l) {
					t.Losses = append(t.Losses, l)
				}
			}
			for _, f := range state.OnlyFiltered(sum.Name, sum.ID, p.Partition) {
				t.Filtered += f.Next - f.From
			}
			if p.Segments > 0 {
				if t.MinTimestamp == nil {
					t.MinTimestamp, t.MaxTimestamp = new(int64), new(int64)
					*t.MinTimestamp, *t.MaxTimestamp = p.MinTimestamp, p.MaxTimestamp
				}
				*t.MinTimestamp, *t.MaxTimestamp = min(*t.MinTimestamp, p.MinTimestamp), max(*t.MaxTimestamp, p.MaxTimestamp)
			}
		}
		if len(t.Partitions) > 0 {
			r.Topics = append(r.Topics, t)
		}
	}
	if err := m.Missing(); err != nil {
		return nil, fmt.Errorf("in %s: %w", st.Name(), err)
	}
	for _, g := range state.Groups(nil) {
		r.Groups = append(r.Groups, ReportGroup{g.ID, g.Offsets})
	}
	for _, p := range state.Points() {
		r.Points = append(r.Points, ReportPoint{ID: p.Entry, Time: p.Time})
	}
	for _, s := range state.ClusterSnapshots() {
		r.ClusterSnapshots = append(r.ClusterSnapshots, reportSnapshot(&s))
	}
	return r, nil
}

func total(ranges [][2]int64) (n int64) {
	for _, r := range ranges {
		n += r[1] - r[0]
	}
	return n
}

// Show prints what a backup holds: as a table, with a line for each partition if
// details is set, or as one JSON object.
func Show(ctx context.Context, st *store.Store, opts store.LogOptions, m *partitions.Matcher, details, asJSON bool, env *command.Env, out io.Writer) error {
	opts.Keep = noSegments
	log, err := load(ctx, st, opts, env)
	if err != nil {
		return err
	}
	state := log.State
	r, err := report(st, state, m)
	if err != nil {
		return err
	}
	if err := r.cover(ctx, st, log, m, newPoints(time.Now())); err != nil {
		return err
	}
	if asJSON {
		return errors.Join(json.NewEncoder(out).Encode(r), without(log))
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TOPIC\tPARTITIONS\tRECORDS\tSEGMENTS\tSIZE\tBATCHES\tRATIO\tFIRST RECORD\tLAST RECORD\tLOST\tHOLES\tNEWEST POINT")
	for _, t := range r.Topics {
		first, last := "-", "-"
		if t.MinTimestamp != nil {
			first, last = when(*t.MinTimestamp), when(*t.MaxTimestamp)
		}
		point := "-"
		if t.NewestPoint != nil {
			point = when(t.NewestPoint.Time)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.name(), len(t.Partitions), humanize.Comma(t.Records), humanize.Comma(t.Segments),
			humanize.IBytes(uint64(t.Bytes)), batches(t.BatchBytes, t.Bytes), ratio(t.RawBytes, t.Bytes), first, last, count(t.Lost), count(t.Holes), point)
	}
	if details {
		fmt.Fprintln(table, "\nTOPIC\tPARTITION\tFROM\tNEXT\tRECORDS\tSEGMENTS\tSIZE\tFIRST RECORD\tLAST RECORD")
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				first, last := "-", "-"
				if p.Segments > 0 {
					first, last = when(p.MinTimestamp), when(p.MaxTimestamp)
				}
				fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", t.name(), p.Partition, p.From, p.Next,
					humanize.Comma(p.Records), humanize.Comma(p.Segments), humanize.IBytes(uint64(p.Bytes)), first, last)
			}
		}
	}
	head := "\nTOPIC\tPARTITION\tOFFSETS\tWHAT OF THEM"
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			for _, x := range remarks(state, &t, &p) {
				if head != "" {
					fmt.Fprintln(table, head)
					head = ""
				}
				fmt.Fprintf(table, "%s\t%d\t%d to %d\t%s\n", t.name(), p.Partition, x.from, x.next-1, x.what)
			}
		}
	}
	head = "\nLOST, AS THE LAST RUNS SAID"
	told := make(map[string]bool) // one may be of several topics
	for _, t := range r.Topics {
		for _, l := range t.Losses {
			if !told[l] {
				if head != "" {
					fmt.Fprintln(table, head)
					head = ""
				}
				fmt.Fprintln(table, command.Printable(l))
				told[l] = true
			}
		}
	}
	if len(r.Groups) > 0 {
		fmt.Fprintln(table, "\nGROUP\tTOPICS\tPARTITIONS")
		for _, g := range r.Groups {
			n := 0
			for _, parts := range g.Offsets {
				n += len(parts)
			}
			fmt.Fprintf(table, "%s\t%d\t%d\n", printable(g.ID), len(g.Offsets), n)
		}
	}
	if len(r.Points) > 0 {
		fmt.Fprintln(table, "\nRESTORE POINT\tTIME\tPARTITIONS\tTOPICS")
		for _, p := range r.Points {
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", p.ID, when(p.Time), p.partitions(), p.Covers())
		}
	}
	if len(r.ClusterSnapshots) > 0 {
		fmt.Fprintln(table, "\nSNAPSHOT OF THE CLUSTER\tTIME\tSIZE\tHOLDS")
		for _, s := range r.ClusterSnapshots {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", printable(s.ID), when(s.Time), humanize.IBytes(uint64(s.Bytes)), s.holds())
		}
	}
	return errors.Join(table.Flush(), without(log))
}

// A remark is what is to be said of some offsets.
type remark struct {
	from, next int64
	what       string
}

// remarks are on what of a partition is not as it was in Kafka, by offset.
func remarks(state *commitlog.State, t *ReportTopic, p *commitlog.ManifestPartition) (out []remark) {
	for what, ranges := range map[string][][2]int64{
		"lost: they could not be read": p.Lost, "hole: they are not backed up": p.Holes, "pruned": p.Gone,
	} {
		for _, r := range ranges {
			out = append(out, remark{r[0], r[1], what})
		}
	}
	for _, f := range state.OnlyFiltered(t.Name, t.ID, p.Partition) {
		out = append(out, remark{f.From, f.Next, "only as filters have left them: " + printable(strings.Join(f.Filters, ", "))})
	}
	slices.SortFunc(out, func(a, b remark) int { return cmp.Compare(a.from, b.from) })
	return out
}

// name tells an old incarnation from the newest.
func (t *ReportTopic) name() string { return incarnation(t.Name, t.ID, t.Newest) }

func incarnation(name, id string, newest bool) string {
	if newest {
		return name
	}
	return name + " (" + printable(id) + ", deleted)"
}

// printable quotes what came from elsewhere and might do something to a terminal.
func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}

func when(ms int64) string {
	if ms == math.MinInt64 { // a batch that was too large to look into
		return "unknown"
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}

func ratio(raw, packed int64) string {
	if packed == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(raw)/float64(packed))
}

// batches is how much of what is stored is batches.
func batches(some, all int64) string {
	if some == 0 || all == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*float64(some)/float64(all))
}

func count(n int64) string {
	if n == 0 {
		return "-"
	}
	return humanize.Comma(n)
}
