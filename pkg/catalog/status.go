package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/store"
	"github.com/kbkio/kbk/pkg/timespec"
)

// StatusConfig says what is asked of a backup.
type StatusConfig struct {
	Topics     partitions.Selection
	Kafka      *kafka.Config // the cluster that it is held against; nil: none
	MaxAge     time.Duration // of restore points
	MaxAgeText string        // as it was given
	Signers    sign.Signers  // who may sign; nil: signatures are not looked at
	JSON       bool
	Prometheus string // a file, too; empty: none
}

// A Status is what [ShowStatus] prints as JSON.
type Status struct {
	Verdict  string    `json:"verdict"`  // "good", or the worst kind of Problems
	Summary  string    `json:"summary"`  // in a line, for people
	Problems []Finding `json:"problems"` // the worst first
	Notes    []Finding `json:"notes"`

	Backup        string         `json:"backup"`
	ID            string         `json:"id,omitempty"`
	Checked       time.Time      `json:"checked"`
	MaxAge        string         `json:"max_age"`
	MaxAgeSeconds int64          `json:"max_age_seconds"`
	Cluster       *StatusCluster `json:"cluster,omitempty"` // where there is one to hold it against
	Topics        []StatusTopic  `json:"topics"`
	Damage        []string       `json:"damage,omitempty"`    // of the log
	NoBackup      bool           `json:"no_backup,omitempty"` // there is no log, and no segment
	Unmatched     []string       `json:"unmatched,omitempty"` // what of the selection is nowhere
	// ClusterSnapshot is when the newest snapshot of what the cluster has besides records was
	// begun, in milliseconds since the epoch.
	ClusterSnapshot *int64 `json:"cluster_snapshot,omitempty"`

	selected bool // topics were asked for
}

// A StatusTopic is one incarnation of a topic. Times are in milliseconds since the epoch.
type StatusTopic struct {
	Name       string `json:"name"`
	ID         string `json:"id,omitempty"`
	Newest     bool   `json:"newest"` // false: the topic was deleted and created again
	Partitions int    `json:"partitions"`
	Records    int64  `json:"records"`
	Bytes      int64  `json:"bytes"` // as stored
	// NewestRecord is the latest timestamp of a record, as its producer has set it.
	NewestRecord *int64 `json:"newest_record,omitempty"`
	// NewestPoint is, in the order of the log, the newest restore point that speaks of the
	// partition whose newest one is the oldest.
	NewestPoint *StatusPoint `json:"newest_point,omitempty"`
	// CoveredAt is the time of the newest restore point that includes all partitions, and
	// NewestMoment that of the newest one that speaks of any. Of ByWorkers the time counts, too,
	// when their worker wrote to the log last; the newest such time is NewestCommit. What is ahead
	// of the clock does not count.
	CoveredAt    *int64      `json:"covered_at,omitempty"`
	NewestMoment *int64      `json:"newest_moment,omitempty"`
	NewestCommit *int64      `json:"newest_commit,omitempty"`
	AgeSeconds   *int64      `json:"age_seconds,omitempty"`         // how long ago CoveredAt was
	ClockAhead   int64       `json:"clock_ahead_seconds,omitempty"` // how far the newest point's time is ahead of the clock
	WithoutPoint []int32     `json:"without_point,omitempty"`       // partitions of which no restore point speaks, but for ByWorkers
	ByWorkers    []int32     `json:"by_workers,omitempty"`          // partitions that workers of consumer groups have read last: they make no points
	Workers      []string    `json:"workers,omitempty"`             // these groups
	LastRuns     []StatusRun `json:"last_runs"`                     // that read it, in the order of the log
	Lost         int64       `json:"lost"`                          // offsets that could not be read
	Losses       []string    `json:"losses,omitempty"`              // what else the last runs could not have
	Holes        int64       `json:"holes"`                         // offsets that are not backed up, between others that are
	Filtered     int64       `json:"filtered"`                      // offsets that are here only as filters have left them
	Pruned       int64       `json:"pruned"`                        // offsets that were let go on purpose
	Whole        bool        `json:"whole"`                         // nothing of it is known to be missing, but what was pruned
	Cluster      *StatusLive `json:"cluster,omitempty"`             // what the cluster has of it

	ages []partitionAge
}

// A partitionAge is what tells how old the backup of a partition is.
type partitionAge struct {
	partition int32
	points    *partitionPoints // nil: no point includes it
	byWorker  bool             // a worker of a group has read it last
	commit    int64            // and this is the time of its last log entry
}

func (t *StatusTopic) name() string { return incarnation(t.Name, t.ID, t.Newest) }

// A StatusPoint is a restore point.
type StatusPoint struct {
	ID   string `json:"id"`
	Time int64  `json:"time"`
}

// A StatusRun is a run that has read a topic.
type StatusRun struct {
	Run   string `json:"run"`
	Time  int64  `json:"time"`  // of its last log entry
	Ended string `json:"ended"` // "finished", "with loss", "interrupted", "not ended" or "damaged"
	Lossy bool   `json:"lossy,omitempty"`
}

// A StatusLive is what a cluster has of a topic.
type StatusLive struct {
	State   string  `json:"state"` // "same", "recreated", "deleted" or "unknown"
	ID      string  `json:"id,omitempty"`
	Behind  int64   `json:"behind"`                  // offsets that the backup has not yet
	Seconds int64   `json:"behind_seconds"`          // 0 where it has them all, else since the newest restore point
	Expired int64   `json:"expired,omitempty"`       // of those, deleted in Kafka already
	Earlier int64   `json:"earlier,omitempty"`       // offsets in Kafka before the first one of the backup
	Missing []int32 `json:"missing,omitempty"`       // partitions with records that are not in the backup
	Empty   []int32 `json:"missing_empty,omitempty"` // partitions without records that are not
	CutOff  []int32 `json:"cut_off,omitempty"`       // partitions that end in Kafka before they do in the backup
	Error   string  `json:"error,omitempty"`         // why something is not known

	caughtUp map[int32]bool // partitions of which the cluster has no more than the backup
}

// A StatusCluster is the cluster that a backup is held against.
type StatusCluster struct {
	ID          string          `json:"id,omitempty"`
	Error       string          `json:"error,omitempty"` // why it is not
	NotInBackup []StatusMissing `json:"not_in_backup"`   // topics that were asked for
}

// A StatusMissing is a topic that a backup does not have.
type StatusMissing struct {
	Name    string `json:"name"`
	Offsets int64  `json:"offsets"`
	Error   string `json:"error,omitempty"` // why Offsets are not known
}

func statusSpec() command.Spec {
	flags := append(kafka.Flags(), topicFlags()...)
	return command.Spec{
		Name: "status", Usage: "say whether a backup is good", Args: "REMOTE", MaxArgs: 1,
		Values: kafka.Values(),
		Description: `Prints a verdict, good or what is wrong, and of each topic its newest restore point and its age,
how the last run ended, and what is lost or missing. With -b it holds the backup against the
cluster, too, and with -t it names topics that the backup should have. It reads the log and
no segments: kbk-catalog verify looks at these. The exit status is 0 if the backup is good, 3
if it is damaged, and else 4.`,
		Flags: append(flags,
			&cli.StringFlag{Name: "max-age", Value: "26h", Usage: "restore points must not be older than `DURATION`, such as 90m, 26h or 8d"},
			sign.SignersFlag(),
			&cli.StringFlag{Name: "prometheus", Usage: "write metrics to `FILE`, too, for node_exporter's textfile collector"},
			jsonFlag(),
		),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			cfg, err := statusConfig(c)
			if err != nil {
				return err
			}
			return with(ctx, c, store.Options{}, func(st *store.Store) error { return ShowStatus(ctx, st, cfg, env, os.Stdout) })
		},
	}
}

func statusConfig(c *cli.Context) (cfg StatusConfig, err error) {
	cfg = StatusConfig{
		Topics:     partitions.Selection{Topics: c.StringSlice("topic"), Exclude: c.StringSlice("exclude")},
		MaxAgeText: c.String("max-age"), JSON: c.Bool("json"), Prometheus: c.String("prometheus"),
	}
	if _, err := matcher(c); err != nil {
		return cfg, err
	}
	if cfg.MaxAge, err = timespec.ParseDuration(cfg.MaxAgeText); err != nil {
		return cfg, command.Usagef("--max-age %v", err)
	}
	if cfg.MaxAge < time.Second {
		return cfg, command.Usagef("--max-age %s is below 1s", cfg.MaxAgeText)
	}
	if cfg.Signers, err = sign.SignersFromFlags(c); err != nil {
		return cfg, err
	}
	switch k, err := kafka.FromFlags(c); {
	case errors.Is(err, kafka.ErrNoBrokers):
	case err != nil:
		return cfg, err
	default:
		cfg.Kafka = &k
	}
	return cfg, nil
}

// ShowStatus prints how a backup is, and returns an error with the status of the verdict.
func ShowStatus(ctx context.Context, st *store.Store, cfg StatusConfig, env *command.Env, out io.Writer) error {
	r, err := statusOf(ctx, st, cfg, env, time.Now())
	if err != nil {
		return err
	}
	r.judge()
	if cfg.Prometheus != "" {
		if err := writeFile(cfg.Prometheus, r.metrics); err != nil {
			return err
		}
	}
	if cfg.JSON {
		err = json.NewEncoder(out).Encode(r)
	} else {
		err = r.print(out)
	}
	if err != nil {
		return fmt.Errorf("print the status: %w", err)
	}
	if status := statusOfVerdict(r.Verdict); status != command.OK {
		return command.WithStatus(status, fmt.Errorf("%s is not good: %s: see above", r.Backup, r.Verdict))
	}
	return nil
}

// statusOf gathers what [Status.judge] goes by.
func statusOf(ctx context.Context, st *store.Store, cfg StatusConfig, env *command.Env, now time.Time) (*Status, error) {
	r := &Status{Backup: st.Name(), Checked: now.UTC(), MaxAge: cfg.MaxAgeText, MaxAgeSeconds: int64(cfg.MaxAge / time.Second), Topics: []StatusTopic{}}
	m, err := cfg.Topics.Compile()
	if err != nil {
		return nil, err
	}
	log, points, damage, err := readMoments(ctx, st, store.LogOptions{SkipDamaged: true, Signed: cfg.Signers.Check(), Keep: noSegments}, now)
	switch {
	case store.IsDamage(err):
		r.Damage = append(r.Damage, err.Error())
		return r, nil
	case err != nil:
		return nil, err
	}
	for _, d := range log.Damage {
		r.Damage = append(r.Damage, fmt.Sprintf("%s: %v", d.Name, d.Err))
	}
	r.Damage = append(r.Damage, damage...)
	log.Damage = nil
	log.Warn(env.Log)
	if log.Entries() == 0 && len(r.Damage) == 0 {
		has, err := st.HasSegments(ctx)
		if err != nil {
			return nil, err
		}
		if r.NoBackup = !has; has {
			r.Damage = append(r.Damage, store.LogLost)
		}
		return r, nil
	}
	r.ID = log.State.Backup()
	r.selected = len(cfg.Topics.Topics) > 0
	if all := log.ClusterSnapshots(); len(all) > 0 {
		r.ClusterSnapshot = &all[len(all)-1].Time
	}
	r.addTopics(log.State, points, m)
	if cfg.Kafka != nil {
		r.Cluster = holdAgainst(ctx, *cfg.Kafka, log.State, r.Topics, m, len(cfg.Topics.Topics) > 0)
	}
	r.setAges(points.limit)
	if err := m.Missing(); err != nil {
		r.Unmatched = append(r.Unmatched, err.Error())
	}
	return r, nil
}

// momentTries is how often the log is read anew because somebody compacts it meanwhile.
const momentTries = 3

// readMoments reads the log, and the times of the restore points of each partition, in the
// order of the log. damage is what cannot be read of the points.
func readMoments(ctx context.Context, st *store.Store, opts store.LogOptions, now time.Time) (log *store.Log, points pointsOf, damage []string, err error) {
	for try := 1; ; try++ {
		if log, err = st.ReadLog(ctx, opts); err != nil {
			return nil, points, nil, err
		}
		points, damage = newPoints(now), nil
		place := make(map[string]int)
		all := log.Points()
		for i := range all {
			place[all[i].Entry] = i
		}
		err = st.EachMoment(ctx, log.State, func(err error) error {
			damage = append(damage, err.Error())
			return nil
		}, func(m *commitlog.Moment) error {
			if i, known := place[m.Entry]; known {
				points.add(m, i, all[i].Entry, all[i].Time)
			}
			return nil
		})
		switch {
		case err != nil && !store.IsDamage(err):
			return nil, points, nil, err
		case err != nil:
			damage = append(damage, err.Error())
		}
		if len(log.Damage) > 0 { // what the points are without is part of that
			damage = nil
		}
		if len(damage) == 0 || try == momentTries {
			return log, points, damage, nil
		}
	}
}

type partitionOf struct {
	topic, id string
	partition int32
}

// pointsOf is what the restore points that speak of each partition come to.
type pointsOf struct {
	limit int64 // a later time is ahead of the clock
	of    map[partitionOf]*partitionPoints
}

func newPoints(now time.Time) pointsOf {
	return pointsOf{now.Add(clockSlack).UnixMilli(), make(map[partitionOf]*partitionPoints)}
}

type partitionPoints struct {
	newest placedPoint // the last one in the log
	// at is the latest time, if known is set, of a point that is not ahead of the clock. Clocks of
	// writers may be behind or ahead of others.
	at          int64
	known       bool
	first, last int64 // times
}

// A placedPoint is a restore point and its place in the log.
type placedPoint struct {
	place int
	StatusPoint
}

func (p pointsOf) add(m *commitlog.Moment, place int, id string, ms int64) {
	for _, t := range m.Topics {
		for n := range t.Partitions {
			key := partitionOf{t.Name, t.ID, n}
			if p.of[key] == nil {
				p.of[key] = &partitionPoints{newest: placedPoint{place: -1}, first: ms, last: ms}
			}
			p.of[key].add(placedPoint{place, StatusPoint{id, ms}}, p.limit)
		}
	}
}

// add takes a point, in any order.
func (p *partitionPoints) add(x placedPoint, limit int64) {
	if x.place > p.newest.place {
		p.newest = x
	}
	if x.Time <= limit && (!p.known || x.Time > p.at) {
		p.at, p.known = x.Time, true
	}
	p.first, p.last = min(p.first, x.Time), max(p.last, x.Time)
}

// addTopics puts in what the log says of the topics that m names.
func (r *Status) addTopics(state *commitlog.State, points pointsOf, m *partitions.Matcher) {
	for _, sum := range state.Manifest().Topics {
		ids := state.Incarnations(sum.Name)
		t := StatusTopic{Name: sum.Name, ID: sum.ID, Newest: ids[len(ids)-1] == sum.ID, LastRuns: []StatusRun{}}
		var oldest *placedPoint
		for i := range sum.Partitions {
			p := &sum.Partitions[i]
			if !m.Matches(sum.Name, p.Partition) {
				continue
			}
			t.addPartition(state, p)
			of := points.of[partitionOf{t.Name, t.ID, p.Partition}]
			t.addAge(state, p.Partition, of)
			if of == nil {
				continue
			}
			if oldest == nil || of.newest.place < oldest.place {
				oldest = &of.newest
			}
			if of.newest.Time > points.limit {
				t.ClockAhead = max(t.ClockAhead, (of.newest.Time-r.Checked.UnixMilli())/1000)
			}
		}
		if t.Partitions == 0 {
			continue
		}
		if oldest != nil {
			t.NewestPoint = &oldest.StatusPoint
		}
		for _, run := range state.LastRuns(t.Name, t.ID) {
			t.LastRuns = append(t.LastRuns, statusRun(run))
		}
		r.Topics = append(r.Topics, t)
	}
}

// addAge notes what tells how old the backup of a partition is.
func (t *StatusTopic) addAge(state *commitlog.State, partition int32, points *partitionPoints) {
	age := partitionAge{partition: partition, points: points}
	if run, known := state.LastRun(t.Name, t.ID, partition); known && run.Group != "" {
		age.byWorker, age.commit = true, commitlog.TimeOf(run.Entry).UnixMilli()
		if !slices.Contains(t.Workers, run.Group) {
			t.Workers = append(t.Workers, run.Group)
		}
	}
	t.ages = append(t.ages, age)
}

// setAges says how old the backup of each topic is, and how long it has been behind the
// cluster. Times beyond limit are ahead of the clock.
func (r *Status) setAges(limit int64) {
	for i := range r.Topics {
		t := &r.Topics[i]
		t.setAge(r.Checked.UnixMilli(), limit)
		if t.CoveredAt == nil {
			continue
		}
		age := int64(r.since(*t.CoveredAt) / time.Second)
		t.AgeSeconds = &age
		if t.Cluster != nil && t.Cluster.Behind > 0 {
			t.Cluster.Seconds = age
		}
	}
}

// setAge goes through the partitions: the topic is as old as the oldest one. What a worker
// has stored of a partition is as new as the cluster, where that has no more of it.
func (t *StatusTopic) setAge(checked, limit int64) {
	covered := true
	for _, a := range t.ages {
		var at *int64
		if a.points != nil && a.points.known {
			at = &a.points.at
			t.NewestMoment = later(t.NewestMoment, *at)
		}
		if a.byWorker {
			t.ByWorkers = append(t.ByWorkers, a.partition)
			if a.commit <= limit {
				at = later(at, a.commit)
				t.NewestCommit = later(t.NewestCommit, a.commit)
			}
			if t.Cluster != nil && t.Cluster.caughtUp[a.partition] {
				at = &checked
			}
		}
		if a.points == nil && !a.byWorker {
			t.WithoutPoint = append(t.WithoutPoint, a.partition)
		}
		if at == nil {
			covered = false
		} else if t.CoveredAt == nil || *at < *t.CoveredAt {
			t.CoveredAt = at
		}
	}
	if !covered {
		t.CoveredAt = nil
	}
}

// later is the later one of two times; the first may be nil.
func later(a *int64, b int64) *int64 {
	if a == nil || b > *a {
		return &b
	}
	return a
}

func (t *StatusTopic) addPartition(state *commitlog.State, p *commitlog.ManifestPartition) {
	t.Partitions++
	t.Records += p.Records
	t.Bytes += p.Bytes
	t.Lost += total(p.Lost)
	t.Holes += total(p.Holes)
	t.Pruned += total(p.Gone)
	for _, f := range state.OnlyFiltered(t.Name, t.ID, p.Partition) {
		t.Filtered += f.Next - f.From
	}
	if p.Segments > 0 && (t.NewestRecord == nil || *t.NewestRecord < p.MaxTimestamp) {
		at := p.MaxTimestamp
		t.NewestRecord = &at
	}
	for _, line := range state.Losses(t.Name, t.ID, p.Partition) {
		offsets := slices.ContainsFunc(slices.Concat(p.Lost, p.Holes), func(l [2]int64) bool {
			return commitlog.TellsOf(line, t.Name, p.Partition, l)
		})
		if !offsets && !slices.Contains(t.Losses, line) {
			t.Losses = append(t.Losses, line)
		}
	}
}

func statusRun(run commitlog.RunEnd) StatusRun {
	s := StatusRun{Run: run.Run, Time: commitlog.TimeOf(run.Entry).UnixMilli(), Lossy: run.Lossy}
	switch {
	case run.Damaged:
		s.Ended = "damaged"
	case !run.Final:
		s.Ended = "not ended"
	case run.Interrupted:
		s.Ended = "interrupted"
	case run.Lossy:
		s.Ended = "with loss"
	default:
		s.Ended = "finished"
	}
	return s
}

// print prints a status for people.
func (r *Status) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, command.Printable(r.Summary))
	if len(r.Topics) > 0 {
		fmt.Fprintln(table, "\nTOPIC\tWHOLE\tNEWEST POINT\tAGE\tBEHIND\tNEWEST RECORD\tLAST RUN\tENDED\tLOST\tHOLES\tFILTERED")
	}
	for i := range r.Topics {
		t := &r.Topics[i]
		whole, point, age, record := "no", "-", "-", "-"
		if t.Whole {
			whole = "yes"
		}
		if t.NewestPoint != nil {
			point = when(t.NewestPoint.Time)
		}
		if t.AgeSeconds != nil {
			age = ago(time.Duration(*t.AgeSeconds) * time.Second)
		}
		if t.NewestRecord != nil {
			record = when(*t.NewestRecord)
		}
		last, ended := t.lastRun()
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable(t.name()), whole, point, age, t.Cluster.behind(), record, last, ended,
			count(t.Lost), count(t.Holes), count(t.Filtered))
	}
	if r.ClusterSnapshot != nil && !r.onlyCluster() {
		fmt.Fprintf(table, "\nnewest snapshot of the cluster: %s, %s old\n", when(*r.ClusterSnapshot), ago(r.clusterAge()))
	}
	for _, list := range [][]Finding{r.Problems, r.Notes} {
		for i, f := range list {
			if i == 0 {
				fmt.Fprintln(table)
			}
			fmt.Fprintf(table, "%s: %s\n", f.Kind, command.Printable(f.String()))
		}
	}
	return table.Flush()
}

// lastRun is the last run of a topic. Where several have read a part of it each, how the
// worst ended counts.
func (t *StatusTopic) lastRun() (at, ended string) {
	if len(t.LastRuns) == 0 {
		return "-", "unknown"
	}
	order := []string{"damaged", "not ended", "interrupted", "with loss", "finished"}
	worst := slices.MinFunc(t.LastRuns, func(a, b StatusRun) int { return slices.Index(order, a.Ended) - slices.Index(order, b.Ended) })
	return when(t.LastRuns[len(t.LastRuns)-1].Time), worst.Ended
}

// behind is what a cluster has more of a topic, for people.
func (l *StatusLive) behind() string {
	switch {
	case l == nil:
		return "-"
	case l.State != "same":
		return l.State
	}
	return humanize.Comma(l.Behind)
}
