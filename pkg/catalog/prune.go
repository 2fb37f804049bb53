package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/compaction"
	"github.com/kbkio/kbk/pkg/pattern"
	"github.com/kbkio/kbk/pkg/store"
	"github.com/kbkio/kbk/pkg/timespec"
)

// counts are the flags that keep the newest point of each of so many periods.
var counts = []struct{ name, period string }{
	{"keep-hourly", "hours"}, {"keep-daily", "days"}, {"keep-weekly", "weeks"}, {"keep-monthly", "months"}, {"keep-yearly", "years"},
}

func pruneSpec() command.Spec {
	flags := []cli.Flag{
		&cli.IntFlag{Name: "keep-last", Value: 1, Usage: "keep the last `N` restore points of each partition"},
		&cli.StringFlag{Name: "keep-within", Usage: "keep restore points that are at most `TIME`, such as 30d, older than the newest one"},
	}
	for _, c := range counts {
		flags = append(flags, &cli.IntFlag{Name: c.name, Usage: "keep the newest restore point of each of the last `N` " + c.period + " that have one; -1: of all"})
	}
	flags = append(flags,
		&cli.BoolFlag{Name: "keep-points", Usage: "keep all restore points"},
		&cli.StringFlag{Name: "older-than", Usage: "keep restore points and records that are not older than `TIME`, such as 30d"},
		&cli.StringSliceFlag{Name: "forget", Usage: "remove `TOPIC` from the backup: a name, a regular expression that begins with ^, or the topic id of an incarnation; repeatable"},
		&cli.BoolFlag{Name: "yes", Usage: "delete; without it, prune prints what would be deleted"},
	)
	return command.Spec{
		Name: "prune", Usage: "delete what the policy does not keep", Args: "REMOTE", MaxArgs: 1,
		Description: `Says what would be left of each topic, and with --yes deletes the rest. What is kept is decided
for each partition by the restore points that include it: a segment goes when none of those that are kept
needs it, and so does what is known of lost offsets. The newest point is always kept, and so is what no kept
point includes, and what came after them.`,
		Flags: append(flags, signFlags()...),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			r, forget, err := retention(c, time.Now())
			if err != nil {
				return err
			}
			return rewriting(ctx, c, func(st *store.Store, s Signing) error {
				return Prune(ctx, st, PruneConfig{r, forget, c.Bool("yes"), s}, env, os.Stdout)
			})
		},
	}
}

// retention reads the flags that say what to keep.
func retention(c *cli.Context, now time.Time) (r commitlog.Retention, forget []string, err error) {
	r.All, forget = c.Bool("keep-points"), c.StringSlice("forget")
	rules := 0
	if c.IsSet("keep-points") {
		rules++
	}
	if c.IsSet("keep-last") {
		rules++
		r.Last = c.Int("keep-last")
	}
	for i, to := range []*int{&r.Hourly, &r.Daily, &r.Weekly, &r.Monthly, &r.Yearly} {
		if c.IsSet(counts[i].name) {
			rules++
			*to = c.Int(counts[i].name)
		}
	}
	for _, name := range append([]string{"keep-last"}, names(counts)...) {
		if n := c.Int(name); c.IsSet(name) && (n < -1 || n == 0) {
			return r, nil, command.Usagef("--%s %d is neither above 0 nor -1", name, n)
		}
	}
	if c.IsSet("keep-within") {
		rules++
		if r.Within, err = timespec.ParseDuration(c.String("keep-within")); err != nil {
			return r, nil, command.Usagef("--keep-within: %w", err)
		}
	}
	if c.IsSet("older-than") {
		rules++
		if r.Since, err = timespec.Parse(c.String("older-than"), now); err != nil {
			return r, nil, command.Usagef("--older-than: %w", err)
		}
		r.Records = r.Since
	}
	switch {
	case rules == 0 && len(forget) == 0:
		return r, nil, command.WithHint(command.Usagef("nothing says what to keep"), "give --keep-last N, --keep-within 30d or --keep-points, for example")
	case rules == 0: // of the other topics everything stays
		r.All, r.Records = true, time.UnixMilli(math.MinInt64)
	}
	return r, forget, nil
}

func names(counts []struct{ name, period string }) (out []string) {
	for _, c := range counts {
		out = append(out, c.name)
	}
	return out
}

// PruneConfig says what to prune.
type PruneConfig struct {
	Retention commitlog.Retention
	Forget    []string // topics: names, regular expressions that begin with ^, or topic ids
	Really    bool     // delete; otherwise only say what would be deleted
	Signing   Signing
}

// Prune says what would be left, and deletes the rest if it is told to.
func Prune(ctx context.Context, st *store.Store, cfg PruneConfig, env *command.Env, out io.Writer) error {
	r, err := rewrite(ctx, st, cfg.Signing, env)
	if err != nil {
		return err
	}
	if err := r.MaySign(cfg.Signing.Signs || !cfg.Really); err != nil {
		return err
	}
	if cfg.Retention.Forget, err = forgetting(r.State, cfg.Forget); err != nil {
		return err
	}
	p, err := prune(ctx, r, cfg.Retention)
	if err != nil {
		return err
	}
	if err := p.print(out); err != nil {
		return err
	}
	what := p.summary()
	switch {
	case what == "":
		env.Log.Info(st.Name() + ": there is nothing to prune")
		return nil
	case !cfg.Really:
		env.Log.Info(what + " would go; --yes deletes them")
		return nil
	}
	if err := r.Write(ctx, p.objects(), env.Log); err != nil {
		return err
	}
	env.Log.Info("deleted " + what)
	return nil
}

// forgetting returns what tells whether an incarnation of a topic is to be forgotten. What
// matches nothing is an error.
func forgetting(state *commitlog.State, forget []string) (func(topic, id string) bool, error) {
	if len(forget) == 0 {
		return nil, nil
	}
	for _, text := range forget {
		matches, err := pattern.Compile([]string{text})
		if err != nil {
			return nil, command.Usagef("--forget %w", err)
		}
		found := false
		for _, name := range state.Topics() {
			found = found || matches(name) || slices.Contains(state.Incarnations(name), text)
		}
		if !found {
			return nil, command.WithHint(fmt.Errorf("--forget %s: the backup has no such topic", text), "kbk-catalog show lists them")
		}
	}
	matches, err := pattern.Compile(forget)
	return func(topic, id string) bool { return matches(topic) || id != "" && slices.Contains(forget, id) }, err
}

// A pruning is what goes, and what it leaves.
type pruning struct {
	topics   []commitlog.PrunedTopic
	segments []commitlog.Segment
	clusters []commitlog.ClusterSnapshot
	points   []commitlog.RestorePoint // of which nothing is kept
	trimmed  int                      // points that are kept of some partitions only
}

// prune lets go, in memory, of what is not to be kept.
func prune(ctx context.Context, r *compaction.Rewrite, keep commitlog.Retention) (*pruning, error) {
	retainer := commitlog.NewRetainer(keep, r.Points(), time.Now())
	err := r.EachMoment(ctx, func(m *commitlog.Moment) error {
		retainer.Note(m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	left := new(bytes.Buffer)
	add, end, err := commitlog.WriteMoments(left)
	if err != nil {
		return nil, err
	}
	p := new(pruning)
	err = r.EachMoment(ctx, func(m *commitlog.Moment) error {
		kept := retainer.Keep(m)
		if kept == nil {
			return nil
		}
		if partitionsOf(kept) < partitionsOf(m) {
			p.trimmed++
		}
		return add(kept)
	})
	if err = errors.Join(err, end()); err != nil {
		return nil, err
	}
	kept, gone, err := retainer.Points()
	if err != nil {
		return nil, err
	}
	p.points = gone
	p.segments, p.topics = r.Prune(retainer)
	p.clusters = r.PruneClusters(keep.Policy, kept, time.Now())
	if keep.Forget != nil {
		r.Forget(keep.Forget)
	}
	if len(gone)+p.trimmed > 0 { // all that are left go into one file
		r.ReplaceMoments(left, kept)
	}
	return p, nil
}

// objects are the paths of what is to be deleted.
func (p *pruning) objects() (paths []string) {
	for i := range p.segments {
		paths = append(paths, p.segments[i].Path)
	}
	for i := range p.clusters {
		paths = append(paths, p.clusters[i].Path)
	}
	return paths
}

func partitionsOf(m *commitlog.Moment) (n int) {
	for _, t := range m.Topics {
		n += len(t.Partitions)
	}
	return n
}

// summary names what goes, or is empty.
func (p *pruning) summary() string {
	var size, forgotten, lost int64
	for i := range p.segments {
		size += p.segments[i].Size
	}
	for _, t := range p.topics {
		if t.Forgotten {
			forgotten++
		}
		for _, l := range t.LetGo {
			lost += l.Next - l.From
		}
	}
	for i := range p.clusters {
		size += p.clusters[i].Size
	}
	if int64(len(p.segments)+len(p.points)+p.trimmed+len(p.clusters))+forgotten+lost == 0 {
		return ""
	}
	what := fmt.Sprintf("%s and %s, %s", command.Count(int64(len(p.points)), "restore point"), command.Count(int64(len(p.segments)), "segment"), humanize.IBytes(uint64(size)))
	if n := int64(len(p.clusters)); n > 0 {
		what += ", and " + command.Count(n, "snapshot") + " of the cluster"
	}
	if p.trimmed > 0 {
		what += fmt.Sprintf(", and some topics of %s", command.Count(int64(p.trimmed), "restore point"))
	}
	if lost > 0 {
		what += ", and what is known about " + command.Count(lost, "lost offset")
	}
	if forgotten > 0 {
		what += ", and everything about " + command.Count(forgotten, "topic")
	}
	return what
}

// print writes a table of what is left of each topic, one of the points that go, and one of
// the lost offsets that go.
func (p *pruning) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TOPIC\tSEGMENTS\tAFTER\tRECORDS\tAFTER\tSIZE\tAFTER\tNEWEST POINT KEPT")
	for _, t := range p.topics {
		point := "-, so that all stays"
		if t.Point != nil {
			point = when(t.Point.Time)
		}
		switch {
		case t.Forgotten:
			point = "NOTHING LEFT: forgotten"
		case t.Before.Segments > 0 && t.After.Segments == 0:
			point += "  NOTHING LEFT"
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", incarnation(t.Name, t.ID, t.NewestOfTopic), t.Before.Segments, t.After.Segments,
			humanize.Comma(t.Before.Records), humanize.Comma(t.After.Records), humanize.IBytes(uint64(t.Before.Bytes)), humanize.IBytes(uint64(t.After.Bytes)), point)
	}
	if len(p.points) > 0 {
		fmt.Fprintln(table, "\nRESTORE POINT THAT GOES\tTIME")
		for _, point := range p.points {
			fmt.Fprintf(table, "%s\t%s\n", point.Entry, when(point.Time))
		}
	}
	if len(p.clusters) > 0 {
		fmt.Fprintln(table, "\nSNAPSHOT OF THE CLUSTER THAT GOES\tTIME")
		for i := range p.clusters {
			fmt.Fprintf(table, "%s\t%s\n", printable(p.clusters[i].ID), when(p.clusters[i].Time))
		}
	}
	head := "\nLOST, AND IN NO POINT THAT STAYS\tPARTITION\tFROM\tTO\n"
	for _, t := range p.topics {
		for _, l := range t.LetGo {
			fmt.Fprintf(table, "%s%s\t%d\t%d\t%d\n", head, incarnation(t.Name, t.ID, t.NewestOfTopic), l.Partition, l.From, l.Next-1)
			head = ""
		}
	}
	return table.Flush()
}
