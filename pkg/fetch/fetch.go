// Package fetch reads topics of a Kafka cluster into a stream of records.
package fetch

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pattern"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// Config says what to read.
type Config struct {
	Kafka       kafka.Config
	Topics      []string         // names, perhaps with partitions (orders:0,3-5), or regular expressions that begin with ^
	Exclude     []string         // likewise, without partitions
	Internal    bool             // Kafka's own topics may be read too
	Partitions  map[int32]bool   // of every topic; nil: all
	Shard       partitions.Shard // the part of the partitions that this run reads; zero: all of it
	Cursor      *cursor.Cursor   // where to begin, of the partitions that it names; nil: at From
	From        Bound            // where to begin; zero: at the beginning
	To          Bound            // where to end; zero: at the end
	Uncommitted bool             // read what may yet be aborted, to the high watermark
	NoConfigs   bool             // leave topic configs out
	FailOnLoss  bool             // stop where records cannot be had: deleted before they were read, say
	MaxBatch    int64            // bytes that a batch may decompress to
	Concurrency int              // partitions read at once, unless they are followed
	Timeout     time.Duration    // how long a partition may make no progress

	Groups        []string // consumer groups: names, or regular expressions that begin with ^
	ExcludeGroups []string

	Follow     bool          // go on at the end
	Refresh    time.Duration // how often to look for new topics and partitions
	PointEvery time.Duration // a restore point so often; 0: none

	Group          string        // read what this consumer group deals out to this process
	Receipts       string        // a file or FIFO that says what is stored, and may be committed
	SessionTimeout time.Duration // of the group

	MaxRate    int64 // bytes a second from the brokers, as they come; 0: no limit
	MaxRecords int64 // records a second; 0: no limit

	FetchBytes          int32         // of one response of a broker (fetch.max.bytes)
	FetchPartitionBytes int32         // of it for one partition, at least (max.partition.fetch.bytes)
	FetchWait           time.Duration // how long a broker may wait for records (fetch.max.wait.ms)
}

func (c *Config) isolation() string {
	if c.Uncommitted {
		return "read_uncommitted"
	}
	return "read_committed"
}

// maxBatch is the most that --max-batch may be: a record is a frame, and frames end at
// 1 GiB.
const maxBatch = 512 << 20

// App is the command kbk-fetch.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-fetch",
		Usage: "read topics of a Kafka cluster as a stream of records",
		Description: `Reads the selected topics from their beginning, or from --from, to the end offsets
seen at the start, writes them to standard output and stops; with --follow it goes on.
Only committed records are read: the end is the last stable offset. With --list it says
what there is.

   kbk-fetch -b localhost:9092 -t orders -t '^audit\.' | kbk-pack | kbk-push /var/backups/nightly`,
		Flags: slices.Concat(kafka.Flags(), []cli.Flag{
			&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "read `TOPIC`: a name, a name with partitions (orders:0,3-5), or a regular expression that begins with ^; repeatable"},
			&cli.StringSliceFlag{Name: "exclude", Usage: "leave out `TOPIC`: a name, or a regular expression that begins with ^; repeatable"},
			&cli.BoolFlag{Name: "internal", Usage: "let --topic select Kafka's internal topics too"},
			&cli.StringFlag{Name: "partitions", Aliases: []string{"p"}, Usage: "read only partitions `LIST`, such as 0,3-5"},
			&cli.StringFlag{Name: "shard", Usage: "read part `I/N` of the partitions, such as 1/3 here, 2/3 and 3/3 on other machines"},
			&cli.StringFlag{Name: "from", DefaultText: "beginning", Usage: "begin at `WHERE`: beginning, end, an offset, -N for the last N, a time, or a cursor file (- is standard input)"},
			&cli.StringFlag{Name: "to", DefaultText: "end", Usage: "end at `WHERE`, likewise; an offset is not read itself, a time is"},
			&cli.StringSliceFlag{Name: "offset", Aliases: []string{"o"}, Usage: "begin and end at `WHERE` as kcat and kcl have it: beginning, end, N, -N, N:M, s@TIME, e@TIME, @TIME:TIME; repeatable"},
			&cli.StringFlag{Name: "isolation", Value: "read_committed", Usage: "read_committed, or read_uncommitted for what may yet be aborted"},
			&cli.StringFlag{Name: "on-loss", Value: "record", Usage: "`WHAT` to do about records that cannot be read, deleted before, say: record the loss and go on, or fail"},
			&cli.StringSliceFlag{Name: "groups", Usage: "put the committed offsets of consumer group `GROUP` into the stream: a name, or a regular expression that begins with ^; repeatable"},
			&cli.StringSliceFlag{Name: "exclude-groups", Usage: "leave out `GROUP`, likewise; repeatable"},
			&cli.BoolFlag{Name: "follow", Usage: "go on at the end, until interrupted"},
			&cli.DurationFlag{Name: "refresh", Value: 30 * time.Second, Usage: "with --follow: look for new topics and partitions every `TIME`, and mark idle partitions"},
			&cli.DurationFlag{Name: "point-every", Value: 24 * time.Hour, Usage: "with --follow: make a restore point every `TIME`, the first when all there was is read; 0 for none"},
			&cli.StringFlag{Name: "group", Usage: "with --follow: share the partitions with the other processes of consumer group `NAME`"},
			&cli.StringFlag{Name: "receipts", Usage: "with --group: commit what the receipts of kbk-push in `FILE`, or from a FIFO, say is stored"},
			&cli.DurationFlag{Name: "session-timeout", Value: 45 * time.Second, Usage: "with --group: let others take over when this process is dead for `TIME`"},
			&cli.BoolFlag{Name: "no-configs", Usage: "leave the topics' configs out"},
			&cli.BoolFlag{Name: "list", Usage: "print topics and partitions, their offsets, sizes and times, and read nothing"},
			&cli.BoolFlag{Name: "json", Usage: "with --list: print JSON"},
			&cli.IntFlag{Name: "concurrency", Value: 64, Usage: "read `N` partitions at once"},
			&cli.DurationFlag{Name: "timeout", Value: 2 * time.Minute, Usage: "give up when a partition makes no progress for this long"},
			command.SizeFlag("max-batch", recordbatch.DefaultMaxSize, "leave out what a batch holds behind its first `SIZE`, decompressed, and say so"),
			command.SizeFlag("fetch-max-bytes", 16<<20, "ask a broker for no more than `SIZE` at once"),
			command.SizeFlag("fetch-partition-bytes", 256<<10, "and for up to `SIZE` of each partition, or more where there is room"),
			&cli.DurationFlag{Name: "fetch-max-wait", Value: 500 * time.Millisecond, Usage: "let a broker wait for new records for up to `TIME`"},
		}, command.RateFlags("read from the brokers")),
		Action: action,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := Config{
		Topics:      c.StringSlice("topic"),
		Exclude:     c.StringSlice("exclude"),
		Internal:    c.Bool("internal"),
		NoConfigs:   c.Bool("no-configs"),
		Concurrency: c.Int("concurrency"),
		Timeout:     c.Duration("timeout"),

		Groups:        c.StringSlice("groups"),
		ExcludeGroups: c.StringSlice("exclude-groups"),

		Follow:     c.Bool("follow"),
		Refresh:    c.Duration("refresh"),
		PointEvery: c.Duration("point-every"),

		Group:          c.String("group"),
		Receipts:       c.String("receipts"),
		SessionTimeout: c.Duration("session-timeout"),

		FetchWait: c.Duration("fetch-max-wait"),
	}
	cfg.MaxRate, cfg.MaxRecords = command.Rates(c)
	cfg.MaxBatch = command.SizeOf(c, "max-batch")
	var err error
	if cfg.FetchBytes, err = fetchSize(c, "fetch-max-bytes"); err != nil {
		return err
	}
	if cfg.FetchPartitionBytes, err = fetchSize(c, "fetch-partition-bytes"); err != nil {
		return err
	}
	if cfg.Kafka, err = kafka.FromFlags(c); err != nil {
		return err
	}
	if len(cfg.Topics) == 0 && c.Bool("list") {
		cfg.Topics = []string{"^"}
	}
	switch isolation := c.String("isolation"); {
	case len(cfg.Topics) == 0:
		return command.WithHint(command.Usagef("no topics"), "give -t NAME, or -t '^' for all")
	case cfg.Concurrency < 1:
		return command.Usagef("--concurrency %d is below 1", cfg.Concurrency)
	case cfg.MaxBatch < 1 || cfg.MaxBatch > maxBatch:
		return command.Usagef("--max-batch %s is not from 1B to 512MiB", c.Generic("max-batch"))
	case cfg.Timeout <= 0:
		return command.Usagef("--timeout %s is not above 0", cfg.Timeout)
	case isolation == "read_uncommitted":
		cfg.Uncommitted = true
	case isolation != "read_committed":
		return command.Usagef("--isolation %q is neither read_committed nor read_uncommitted", isolation)
	case c.Bool("json") && !c.Bool("list"):
		return command.Usagef("--json is only for --list")
	case cfg.Follow && (c.Bool("list") || c.IsSet("to")):
		return command.Usagef("--follow has no end: leave out --to and --list")
	case cfg.Follow && c.IsSet("concurrency"):
		return command.Usagef("--concurrency is not for --follow, which reads all partitions at once")
	case !cfg.Follow && (c.IsSet("refresh") || c.IsSet("point-every")):
		return command.Usagef("--refresh and --point-every are only for --follow")
	case cfg.Follow && (cfg.Refresh <= 0 || cfg.PointEvery < 0):
		return command.Usagef("--refresh %s or --point-every %s is too short", cfg.Refresh, cfg.PointEvery)
	case cfg.FetchWait < 0 || cfg.FetchWait > time.Minute:
		return command.Usagef("--fetch-max-wait %s is not from 0s to 1m", cfg.FetchWait)
	case cfg.Group != "" && !cfg.Follow:
		return command.WithHint(command.Usagef("--group is only for --follow"), "for a part of a one-shot run there is --shard I/N")
	case cfg.Group != "" && cfg.Receipts == "":
		return command.WithHint(command.Usagef("--group has to know what is stored"), "make a FIFO, give it as --receipts, and let kbk-push write to it: kbk-push REMOTE > FIFO")
	case cfg.Group == "" && (cfg.Receipts != "" || c.IsSet("session-timeout")):
		return command.Usagef("--receipts and --session-timeout are only for --group")
	case cfg.Group != "" && cfg.SessionTimeout < time.Second:
		return command.Usagef("--session-timeout %s is below 1s", cfg.SessionTimeout)
	case cfg.Group != "" && (c.IsSet("shard") || c.IsSet("partitions") || c.IsSet("groups") || c.IsSet("point-every")):
		return command.Usagef("--group deals out whole topics and makes no restore points: leave out --shard, --partitions, --groups and --point-every")
	case len(cfg.ExcludeGroups) > 0 && len(cfg.Groups) == 0:
		return command.Usagef("--exclude-groups is only for --groups")
	}
	switch onLoss := c.String("on-loss"); onLoss {
	case "record":
	case "fail":
		cfg.FailOnLoss = true
	default:
		return command.Usagef("--on-loss %q is neither record nor fail", onLoss)
	}
	if shard := c.String("shard"); shard != "" {
		if cfg.Shard, err = partitions.ParseShard(shard); err != nil {
			return command.Usagef("--shard: %w", err)
		}
	}
	if list := c.String("partitions"); list != "" {
		if cfg.Partitions, err = pattern.Partitions(list); err != nil {
			return command.Usagef("--partitions: %w", err)
		}
	}
	if c.Bool("list") {
		return List(ctx, cfg, env.Log, c.Bool("json"), os.Stdout)
	}
	if err := setBounds(&cfg, c, time.Now()); err != nil {
		return err
	}
	if cfg.Follow && cfg.To.kind != unbounded {
		return command.Usagef("--follow has no end, and -o gives one")
	}
	out, err := command.Stdout()
	if err != nil {
		return err
	}
	return Run(ctx, cfg, env, out)
}

// fetchSize reads a size that is 32 bits in Kafka's protocol.
func fetchSize(c *cli.Context, name string) (int32, error) {
	n := command.SizeOf(c, name)
	if n < 1 || n > 1<<30 {
		return 0, command.Usagef("--%s %s is not from 1B to 1GiB", name, c.Generic(name))
	}
	return int32(n), nil
}

// setBounds reads the flags that say where to begin and to end.
func setBounds(cfg *Config, c *cli.Context, now time.Time) error {
	if c.IsSet("offset") && (c.IsSet("from") || c.IsSet("to")) {
		return command.Usagef("-o and --from or --to exclude one another")
	}
	for _, o := range c.StringSlice("offset") {
		if err := parseOffsets(o, now, &cfg.From, &cfg.To); err != nil {
			return command.Usagef("-o: %w", err)
		}
	}
	if to := c.String("to"); to != "" {
		var err error
		if cfg.To, err = ParseBound(to, now); err != nil {
			return command.Usagef("--to: %w", err)
		}
	}
	from := c.String("from")
	if from == "" {
		return nil
	}
	bound, err := ParseBound(from, now)
	if err == nil {
		cfg.From = bound
		return nil
	}
	if _, statErr := os.Stat(from); from != "-" && statErr != nil {
		return command.WithHint(command.Usagef("--from: %w", err), "nor is there a cursor file of that name")
	}
	if cfg.Cursor, err = readCursor(from); err != nil {
		return command.WithStatus(command.Usage, fmt.Errorf("--from %s: %w", from, err))
	}
	return nil
}

func readCursor(name string) (*cursor.Cursor, error) {
	if name == "-" {
		return cursor.Read(os.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return cursor.Read(f)
}

// Run reads what cfg says and writes the stream to out. It returns an error of
// status [command.Interrupted] where env.Stop ended it early, and of status
// [command.Loss] where records had been deleted before they could be read; in
// both cases the stream is whole. After any other error it has no end frame.
func Run(ctx context.Context, cfg Config, env *command.Env, out io.Writer) error {
	began := time.Now()
	// Leaders move, and topics come and go: what is asked is answered by a broker.
	cl, err := kafka.NewClient(ctx, cfg.Kafka, kgo.MetadataMinAge(tendEvery))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	meta, selected, err := choose(ctx, adm, cfg, env.Log)
	if err != nil {
		return err
	}
	var m *member
	topics := slices.Collect(maps.Keys(selected))
	if cfg.Group != "" {
		cfg.PointEvery, selected = 0, nil // the group says what to read
		if m, err = join(ctx, cfg, env.Log); err != nil {
			return err
		}
		defer m.leave()
	}
	lost := &losses{log: env.Log}
	planner := &planner{cl: cl, adm: adm, cfg: cfg, log: env.Log, lost: lost}
	p, err := planner.plan(ctx, meta, selected)
	if err != nil {
		return err
	}
	if err := planner.wait(ctx, p, env.Stop); err != nil {
		return err
	}
	w := format.NewWriter(out)
	err = w.WriteHeader(&format.Header{
		ID:      runID(),
		Created: began.UnixMilli(),
		Content: format.ContentRecords,
		Source:  &format.Source{Cluster: p.cluster, Tool: "kbk-fetch " + command.Version(), Isolation: cfg.isolation()},
		Window:  timeWindow(cfg.From, cfg.To).header(),
	})
	if err != nil {
		return err
	}
	for i := range p.topics {
		if err := w.Write(&p.topics[i]); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	e := newEncoder(cfg, env.Stop, lost)
	s := newSource(cl, cfg, env, p.parts, e)
	total := int64(-1)
	if cfg.Follow {
		s.follower = newFollower(cfg, p)
	} else {
		total = p.offsets()
	}
	ended := make(chan struct{})
	var storing errgroup.Group
	if m != nil {
		s.member, s.events = m, m.events
		m.subscribe(topics...)
		storing.Go(func() error {
			err := m.follow(ctx, cfg.Receipts, ended)
			m.send(ctx, event{err: err})
			return err
		})
	}
	bar := env.NewProgress("reading", total, false)
	defer bar.Close()
	s.progress = bar.Set
	g.Go(func() error {
		defer e.Close()
		err := s.run(gctx)
		if m != nil {
			close(m.over)
		}
		return err
	})
	write := w.WriteRaw
	if cfg.Follow { // what waits for more to come may wait for long
		write = func(frames []byte) error { return errors.Join(w.WriteRaw(frames), w.Flush()) }
	}
	e.Start(gctx, g, write)
	if err := g.Wait(); err != nil {
		return err
	}
	bar.Close()
	s.mu.Lock()
	stopped := s.stopped || e.skipped.Load()
	s.mu.Unlock()
	if !stopped && !cfg.Follow {
		for i := range p.groups {
			if err := w.Write(&p.groups[i]); err != nil {
				return err
			}
		}
	}
	// One moment of the cluster: not where others read the rest of it, or this run ends
	// somewhere else.
	if whole := cfg.To.kind == unbounded || cfg.To.kind == atEnd; whole && cfg.Shard.IsAll() && !stopped {
		if err := w.Write(&format.Point{Time: p.time.UnixMilli(), Without: p.without()}); err != nil {
			return err
		}
	}
	end := &format.End{Records: e.records.Load(), Interrupted: stopped}
	lost.into(end)
	if err := w.Close(end); err != nil {
		return err
	}
	if m != nil {
		close(ended)
		if err := settleReceipts(out, &storing, cfg.Timeout); err != nil {
			return err
		}
	}
	env.Log.Info(fmt.Sprintf("read %s of %s", command.Count(e.records.Load(), "record"), command.Count(int64(s.topics()), "topic")),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	return command.EndStatus(end, "the stream was ended properly, and what was read is whole")
}

// settleReceipts ends the output, so that the stages downstream come to their ends, and
// waits for the last receipt.
func settleReceipts(out io.Writer, storing *errgroup.Group, timeout time.Duration) error {
	if c, ok := out.(io.Closer); ok {
		if err := c.Close(); err != nil {
			return err
		}
	}
	done := make(chan error, 1)
	go func() { done <- storing.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(timeout):
		return fmt.Errorf("no last receipt within %s: what was read may be stored, and is not committed", timeout)
	}
}

// topics is how many topics the run has read.
func (s *source) topics() int {
	names := make(map[string]bool)
	for _, p := range s.parts {
		names[p.topic] = true
	}
	return len(names)
}

// runID names one run of a source.
func runID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(b[:])
}
