// Package pull reads a backup from any rclone remote as a stream of segments.
package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime/debug"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/metrics/prom"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pattern"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/statusline"
	"github.com/kbkio/kbk/pkg/store"
)

// Config says what to read.
type Config struct {
	Remote    string
	Selection partitions.Selection
	TopicIDs  []string   // incarnations to read instead of the newest
	Newest    bool       // read the newest incarnation even if it has no records, and an older one has
	From, To  int64      // offsets [From, To) of each partition; To 0: to the end
	Since     *time.Time // timestamps from here
	Until     *time.Time // to here, itself included
	Point     string     // a restore point: see [commitlog.State.Find]
	At        *time.Time // or the last one at this time or before
	Cluster   string     // which snapshots of the cluster: ClusterAuto, ClusterOnly or ClusterNone

	Transfers   int          // downloads at once
	Memory      int64        // bytes of segments that are held
	SkipDamaged bool         // go on without what cannot be read
	Signers     sign.Signers // whose entries count; nil: everybody's
}

// App is the command kbk-pull.
func App() *cli.App {
	return command.App(command.Spec{
		Name:    "kbk-pull",
		Usage:   "read a backup as a stream of segments",
		Args:    "REMOTE",
		MaxArgs: 1,
		Description: `Reads the backup's log, downloads the segments that together hold every selected record
once, checks them and writes them to standard output: those of one partition in order,
the partitions in turn. Segments are whole; kbk-pack -d leaves out what was not asked for.
REMOTE may be a stored segment, or a folder of them, too.

   kbk-pull s3:bucket/nightly | kbk-pack -d | kbk-produce -b localhost:9092 --create-topics > map.kbk
   kbk-pull -t orders --at 2026-11-20T22:00:00Z s3:bucket/nightly | kbk-pack -d | …`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "read `TOPIC`: a name, a name with partitions (orders:0,3-5), or a regular expression that begins with ^; repeatable", DefaultText: "all"},
			&cli.StringSliceFlag{Name: "exclude", Usage: "leave out `TOPIC`: a name, or a regular expression that begins with ^; repeatable"},
			&cli.StringFlag{Name: "partitions", Aliases: []string{"p"}, Usage: "read only partitions `LIST`, such as 0,3-5"},
			&cli.StringSliceFlag{Name: "topic-id", Usage: "if a topic was deleted and created again, read the incarnation `ID`, not the newest; repeatable"},
			&cli.BoolFlag{Name: "newest", Usage: "read the newest incarnation of each topic, even if it has no records and an older one has"},
			&cli.StringFlag{Name: "shard", Usage: "read part `I/N` of the partitions, such as 1/3 here, 2/3 and 3/3 on other machines"},
			&cli.StringFlag{Name: "from", Usage: "begin at `OFFSET` of each partition"},
			&cli.StringFlag{Name: "to", Usage: "end before `OFFSET` of each partition"},
			&cli.StringFlag{Name: "since", Usage: "read records with timestamps at or after `TIME`: RFC 3339, milliseconds since the epoch, or a duration before now such as 24h"},
			&cli.StringFlag{Name: "until", Usage: "read records with timestamps at or before `TIME`"},
			&cli.StringFlag{Name: "point", Usage: "read what belongs to restore point `ID`, as kbk-catalog show lists it"},
			&cli.StringFlag{Name: "at", Usage: "read each partition up to the last restore point at or before `TIME` that includes it"},
			&cli.StringFlag{Name: "cluster-snapshot", Value: ClusterAuto, Usage: "which snapshots of the cluster to read, `HOW`: auto (those that belong to what is read, none with -t), only (no records) or none"},
			&cli.IntFlag{Name: "transfers", Value: 8, Usage: "download `N` segments at once"},
			command.SizeFlag("memory", 128<<20, "hold at most `SIZE` of segments in memory"),
			&cli.BoolFlag{Name: "skip-damaged", Usage: "continue without missing or damaged segments and files of the log; end with status 4 if nothing else has their records"},
			sign.SignersFlag(),
		},
		Groups: []command.FlagGroup{
			{Name: "Which records", Flags: []string{"topic", "exclude", "partitions", "topic-id", "newest", "shard", "from", "to", "since", "until", "point", "at", "cluster-snapshot"}},
		},
		Action:  action,
		Values:  values(),
		Metrics: prom.Open,
	})
}

// values are those of a backup, and of flags that have few.
func values() map[string]command.Completer {
	v := store.Values()
	v["cluster-snapshot"] = command.OneOf(ClusterAuto, ClusterOnly, ClusterNone)
	return v
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := Config{
		Remote:      c.Args().First(),
		Selection:   partitions.Selection{Topics: c.StringSlice("topic"), Exclude: c.StringSlice("exclude")},
		TopicIDs:    c.StringSlice("topic-id"),
		Newest:      c.Bool("newest"),
		Point:       c.String("point"),
		Cluster:     c.String("cluster-snapshot"),
		Transfers:   c.Int("transfers"),
		Memory:      command.SizeOf(c, "memory"),
		SkipDamaged: c.Bool("skip-damaged"),
	}
	switch {
	case cfg.Remote == "":
		return command.WithHint(command.Usagef("no remote"), "say where the backup is: a folder, or REMOTE:PATH as rclone knows it")
	case cfg.Transfers < 1:
		return command.Usagef("--transfers %d is below 1", cfg.Transfers)
	case cfg.Memory < 1<<20:
		return command.Usagef("--memory is below 1MiB")
	case c.IsSet("point") && c.IsSet("at"):
		return command.Usagef("--point and --at exclude one another")
	case c.IsSet("point") && cfg.Point == "":
		return command.Usagef("--point: nothing is not a restore point")
	}
	if err := bounds(&cfg, c, time.Now()); err != nil {
		return err
	}
	if err := cfg.checkCluster(); err != nil {
		return err
	}
	var err error
	if cfg.Signers, err = sign.SignersFromFlags(c); err != nil {
		return err
	}
	out, err := command.Stdout()
	if err != nil {
		return err
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // GOMEMLIMIT is not set
		debug.SetMemoryLimit(cfg.Memory + ownMemory)
	}
	return Run(ctx, cfg, env, out)
}

// ownMemory is what pull takes beside segments, most of it rclone's.
const ownMemory = 64 << 20

// bounds reads the flags that narrow what is read.
func bounds(cfg *Config, c *cli.Context, now time.Time) error {
	var err error
	if list := c.String("partitions"); list != "" {
		if cfg.Selection.Numbers, err = pattern.Partitions(list); err != nil {
			return command.Usagef("--partitions: %w", err)
		}
	}
	if shard := c.String("shard"); shard != "" {
		if cfg.Selection.Shard, err = partitions.ParseShard(shard); err != nil {
			return command.Usagef("--shard: %w", err)
		}
	}
	if cfg.From, cfg.To, err = command.OffsetsFromFlags(c); err != nil {
		return err
	}
	if cfg.Since, cfg.Until, err = command.TimesFromFlags(c, now); err != nil {
		return err
	}
	cfg.At, err = command.TimeFromFlag(c, "at", now)
	return err
}

// Run writes what cfg selects of a backup to out. It returns an error of status
// [command.Loss], after a whole stream, where the backup has holes in what was selected.
func Run(ctx context.Context, cfg Config, env *command.Env, out io.Writer) (err error) {
	began := time.Now()
	display := env.NewDisplay(out, statusline.Plan{Flow: []statusline.Size{{Of: statusline.In, Name: "read"}}, Input: "the store", Output: "the output"})
	defer display.Close()
	display.Doing("reading the log of " + store.DisplayName(cfg.Remote))
	display.Kept(func() string { return command.NoEnd })
	b, err := open(ctx, cfg, env.Log, &env.Counters)
	if err != nil {
		return err
	}
	defer func() {
		if store.IsDamage(err) && command.StatusOf(err) == command.Failed {
			err = command.WithStatus(command.Corrupt, err)
		}
		err = errors.Join(err, b.Close())
	}()
	sel, err := b.choose(ctx, cfg)
	if err != nil {
		return err
	}
	warnAll(env.Log, sel.notes)
	if sel.leftOut != "" {
		env.Log.Info(sel.leftOut)
	}
	w := command.NewWriterTo(env.Counters.Output.Writer(out, &env.Counters.BytesOut), out)
	source := b.state.Source()
	h := &format.Header{
		Created: began.UnixMilli(),
		Content: format.ContentSegments,
		Source:  &format.Source{Cluster: source.ClusterID, Tool: source.Tool, Isolation: source.Isolation},
		Window:  sel.window,
		Total:   sel.total(),
	}
	display.Expect(h)
	display.Doing("")
	if err := errors.Join(w.WriteHeader(h), w.Flush()); err != nil { // the stages behind it show what is to come
		return err
	}
	for _, frame := range sel.topics {
		if err := w.WriteRaw(frame); err != nil {
			return err
		}
	}
	env.Counters.Ready()
	r := &reader{backup: b, freed: make(chan []byte, 1), cfg: cfg, env: env, w: w, parts: make([]*part, len(sel.plans))}
	for i := range sel.plans {
		r.parts[i] = newPart(&sel.plans[i])
	}
	if err := r.run(ctx); err != nil {
		return err
	}
	var losses []string
	if !r.stopped { // a moment of the cluster is not told when it is not all here
		if losses, err = b.writeSnapshots(ctx, cfg, w, sel); err != nil {
			return err
		}
		for _, frame := range sel.trailer {
			if err := w.WriteRaw(frame); err != nil {
				return err
			}
		}
		if err := writeMoments(w, sel.moments); err != nil {
			return err
		}
	}
	end := format.End{Records: r.records, Segments: r.segments, Interrupted: r.stopped}
	for _, d := range b.damage {
		end.Lose(fmt.Sprintf("%s of the log could not be read: what it lists is in no other file", d.Name))
	}
	for _, l := range append(sel.losses, losses...) {
		end.Lose(l)
	}
	for _, p := range r.parts {
		for _, l := range p.losses() {
			end.Lose(l)
		}
	}
	if err := w.Close(&end); err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("read %s, %s, from %s%s", command.Count(r.segments, "segment"), humanize.IBytes(uint64(r.size)), b.store.Name(), sel.withSnapshots()),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	return command.EndStatusThrough(out, &end, "the stream was ended properly, but it is not the whole backup")
}

// maxNotes is how many lines a run says of one kind of thing.
const maxNotes = 50

func warnAll(log *slog.Logger, notes []string) {
	for i, note := range notes {
		if i == maxNotes {
			log.Warn(fmt.Sprintf("and %d more like these", len(notes)-maxNotes))
			return
		}
		log.Warn(note)
	}
}
