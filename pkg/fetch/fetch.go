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
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics/clientprom"
	"github.com/kbkio/kbk/pkg/metrics/prom"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pattern"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/statusline"
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
	Batches     bool             // write record batches as they are, where that can be
	Uncommitted bool             // read what may yet be aborted, to the high watermark
	NoConfigs   bool             // leave topic configs out
	FailOnLoss  bool             // stop where records cannot be had: deleted before they were read, say
	OnOpen      OnOpen           // what to do about transactions that are open at the start
	MaxBatch    int64            // bytes that a batch may decompress to; 0: the default
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
			&cli.StringFlag{Name: "to", DefaultText: "end", Usage: "end at `WHERE`, likewise: before an offset, or at a time, itself included"},
			&cli.StringSliceFlag{Name: "offset", Aliases: []string{"o"}, Usage: "begin and end at `WHERE`, written as in kcat and kcl: beginning, end, N, -N, N:M, s@TIME, e@TIME, @TIME:TIME; repeatable"},
			&cli.BoolFlag{Name: "batches", Usage: "write record batches as the brokers store them: faster, but only for kbk's own commands, not for filters in other languages"},
			&cli.StringFlag{Name: "isolation", Value: "read_committed", Usage: "read_committed, or read_uncommitted for records that may still be aborted"},
			&cli.StringFlag{Name: "on-loss", Value: "record", Usage: "`WHAT` to do about records that cannot be read, for example because they were deleted: record the loss and continue, or fail"},
			&cli.StringFlag{Name: "on-open-transaction", Value: "note", Usage: "`WHAT` to do about a transaction that is open at the start and hides records: note it, wait until it has ended, or fail"},
			&cli.StringSliceFlag{Name: "groups", Usage: "put the committed offsets of consumer group `GROUP` into the stream: a name, or a regular expression that begins with ^; repeatable"},
			&cli.StringSliceFlag{Name: "exclude-groups", Usage: "leave out `GROUP`, likewise; repeatable"},
			&cli.BoolFlag{Name: "follow", Usage: "do not stop at the end, but read on until interrupted"},
			&cli.DurationFlag{Name: "refresh", Value: 30 * time.Second, Usage: "with --follow: look for new topics and partitions every `TIME`, and mark idle partitions"},
			&cli.DurationFlag{Name: "point-every", Value: 24 * time.Hour, Usage: "with --follow: make a restore point every `TIME`, the first when everything that was there is read; 0 for none"},
			&cli.StringFlag{Name: "group", Usage: "with --follow: share the partitions with the other processes of consumer group `NAME`"},
			&cli.StringFlag{Name: "receipts", Usage: "with --group: commit what the receipts of kbk-push in `FILE`, which may be a FIFO, report as stored"},
			&cli.DurationFlag{Name: "session-timeout", Value: 45 * time.Second, Usage: "with --group: let others take over when this process has been dead for `TIME`"},
			&cli.BoolFlag{Name: "no-configs", Usage: "leave out the topics' configs"},
			&cli.BoolFlag{Name: "list", Usage: "print topics and partitions, their offsets, sizes and times, and read nothing"},
			&cli.BoolFlag{Name: "json", Usage: "with --list: print JSON"},
			&cli.IntFlag{Name: "concurrency", Value: 64, Usage: "read `N` partitions at once"},
			&cli.DurationFlag{Name: "timeout", Value: 2 * time.Minute, Usage: "wait `TIME` for a partition that makes no progress; then leave it out if it has no leader, or else give up"},
			command.SizeFlag("max-batch", recordbatch.DefaultMaxSize, "read at most the first `SIZE` of a batch, decompressed, and report the rest as lost"),
			command.SizeFlag("fetch-max-bytes", 16<<20, "ask a broker for at most `SIZE` at once"),
			command.SizeFlag("fetch-partition-bytes", 256<<10, "ask a broker for up to `SIZE` of each partition, or more if there is room"),
			&cli.DurationFlag{Name: "fetch-max-wait", Value: 500 * time.Millisecond, Usage: "let a broker wait for new records for up to `TIME`"},
		}, command.RateFlags("read from the brokers")),
		Groups: []command.FlagGroup{
			{Name: "Which records", Flags: []string{"topic", "exclude", "internal", "partitions", "shard", "from", "to", "offset", "isolation"}},
			{Name: "Consumer groups and configs", Flags: []string{"groups", "exclude-groups", "no-configs"}},
			{Name: "Continuously", Flags: []string{"follow", "refresh", "point-every", "group", "receipts", "session-timeout"}},
			{Name: "How they are read", Flags: []string{"batches", "on-loss", "on-open-transaction", "concurrency", "fetch-max-bytes", "fetch-partition-bytes", "fetch-max-wait"}},
			{Name: "Looking", Flags: []string{"list", "json"}},
		},
		Action:  action,
		Values:  values(),
		Metrics: prom.Open,
	})
}

func values() map[string]command.Completer {
	v := kafka.Values()
	v["isolation"] = command.OneOf("read_committed", "read_uncommitted")
	v["on-loss"] = command.OneOf("record", "fail")
	v["on-open-transaction"] = command.OneOf("note", "wait", "fail")
	v["from"] = command.OneOf("beginning", "end")
	v["to"] = command.OneOf("end")
	return v
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	if err := checkFlags(c); err != nil {
		return err
	}
	cfg, err := configOf(c)
	if err != nil {
		return err
	}
	if c.Bool("list") {
		return List(ctx, cfg, env.Log, c.Bool("json"), os.Stdout)
	}
	if err := setBounds(&cfg, c, time.Now()); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	out, err := command.Stdout()
	if err != nil {
		return err
	}
	return Run(ctx, cfg, env, out)
}

// checkFlags refuses flags that mean nothing beside others.
func checkFlags(c *cli.Context) error {
	follow, group := c.Bool("follow"), c.String("group") != ""
	switch {
	case c.Bool("json") && !c.Bool("list"):
		return command.Usagef("--json is only for --list")
	case c.Bool("batches") && c.Bool("list"):
		return command.Usagef("--list reads no batches: leave out --batches")
	case follow && (c.Bool("list") || c.IsSet("to")):
		return command.Usagef("--follow has no end: leave out --to and --list")
	case follow && c.IsSet("concurrency"):
		return command.Usagef("--concurrency is not for --follow, which reads all partitions at once")
	case !follow && (c.IsSet("refresh") || c.IsSet("point-every")):
		return command.Usagef("--refresh and --point-every are only for --follow")
	case !group && c.IsSet("session-timeout"):
		return command.Usagef("--session-timeout is only for --group")
	case group && c.IsSet("point-every"):
		return command.Usagef("--group makes no restore points: leave out --point-every")
	}
	return nil
}

// configOf reads the flags, but for those that say where to begin and to end.
func configOf(c *cli.Context) (Config, error) {
	cfg := Config{
		Topics:      c.StringSlice("topic"),
		Exclude:     c.StringSlice("exclude"),
		Internal:    c.Bool("internal"),
		Batches:     c.Bool("batches"),
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
	if len(cfg.Topics) == 0 && c.Bool("list") {
		cfg.Topics = []string{"^"}
	}
	cfg.MaxRate, cfg.MaxRecords = command.Rates(c)
	if cfg.MaxBatch = command.SizeOf(c, "max-batch"); cfg.MaxBatch < 1 || cfg.MaxBatch > maxBatch {
		return cfg, command.Usagef("--max-batch %s is not from 1B to 512MiB", c.Generic("max-batch"))
	}
	var err error
	if cfg.Uncommitted, err = oneOf(c, "isolation", "read_committed", "read_uncommitted"); err != nil {
		return cfg, err
	}
	if cfg.FailOnLoss, err = oneOf(c, "on-loss", "record", "fail"); err != nil {
		return cfg, err
	}
	if cfg.OnOpen, err = parseOnOpen(c.String("on-open-transaction")); err != nil {
		return cfg, err
	}
	if cfg.FetchBytes, err = fetchSize(c, "fetch-max-bytes"); err != nil {
		return cfg, err
	}
	if cfg.FetchPartitionBytes, err = fetchSize(c, "fetch-partition-bytes"); err != nil {
		return cfg, err
	}
	if shard := c.String("shard"); shard != "" {
		if cfg.Shard, err = partitions.ParseShard(shard); err != nil {
			return cfg, command.Usagef("--shard: %w", err)
		}
	}
	if list := c.String("partitions"); list != "" {
		if cfg.Partitions, err = pattern.Partitions(list); err != nil {
			return cfg, command.Usagef("--partitions: %w", err)
		}
	}
	cfg.Kafka, err = kafka.FromFlags(c)
	return cfg, err
}

// oneOf tells whether a flag has its second value; it may have the first.
func oneOf(c *cli.Context, name, first, second string) (bool, error) {
	switch v := c.String(name); v {
	case first:
		return false, nil
	case second:
		return true, nil
	default:
		return false, command.Usagef("--%s %q is neither %s nor %s", name, v, first, second)
	}
}

// Validate says what is wrong with c.
func (c *Config) Validate() error {
	switch {
	case len(c.Topics) == 0:
		return command.WithHint(command.Usagef("no topics"), "give -t NAME, or -t '^' for all")
	case c.Concurrency < 1 && !c.Follow:
		return command.Usagef("--concurrency %d is below 1", c.Concurrency)
	case c.Timeout <= 0:
		return command.Usagef("--timeout %s is not above 0", c.Timeout)
	case c.OnOpen != NoteOpen && (c.Follow || c.Uncommitted):
		return command.Usagef("--on-open-transaction is not for --follow, which reads on when a transaction ends, and not for read_uncommitted")
	case c.FetchBytes < 1 || c.FetchPartitionBytes < 1:
		return command.Usagef("--fetch-max-bytes or --fetch-partition-bytes is below 1")
	case c.FetchWait < 0 || c.FetchWait > time.Minute:
		return command.Usagef("--fetch-max-wait %s is not from 0s to 1m", c.FetchWait)
	case len(c.ExcludeGroups) > 0 && len(c.Groups) == 0:
		return command.Usagef("--exclude-groups is only for --groups")
	case c.Follow && c.To.kind != unbounded:
		return command.Usagef("--follow has no end, and -o gives one")
	case c.Follow && (c.Refresh <= 0 || c.PointEvery < 0):
		return command.Usagef("--refresh %s or --point-every %s is too short", c.Refresh, c.PointEvery)
	}
	return c.validateGroup()
}

func (c *Config) validateGroup() error {
	switch {
	case c.Group == "" && c.Receipts != "":
		return command.Usagef("--receipts is only for --group")
	case c.Group == "":
		return nil
	case !c.Follow:
		return command.WithHint(command.Usagef("--group is only for --follow"), "for a part of a one-shot run there is --shard I/N")
	case c.Receipts == "":
		return command.WithHint(command.Usagef("--group needs to know what is stored"), "make a FIFO, give it as --receipts, and let kbk-push write to it: kbk-push --receipts FIFO REMOTE")
	case c.SessionTimeout < time.Second:
		return command.Usagef("--session-timeout %s is below 1s", c.SessionTimeout)
	case !c.Shard.IsAll() || c.Partitions != nil || len(c.Groups) > 0:
		return command.Usagef("--group distributes whole topics: leave out --shard, --partitions and --groups")
	}
	return nil
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
// [command.Loss] where something was lost, which the end frame says; in both cases the
// stream is whole. After any other error it has no end frame.
func Run(ctx context.Context, cfg Config, env *command.Env, out io.Writer) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	r := &run{cfg: cfg, env: env, out: out, w: command.NewWriterTo(env.Counters.Output.Writer(out, &env.Counters.BytesOut), out), began: time.Now(), lost: &losses{log: env.Log, count: &env.Counters}}
	r.display = env.NewDisplay(out, statusline.Plan{Flow: []statusline.Size{{Of: statusline.In, Name: "read"}}, Input: "the brokers", Output: "the output"})
	defer r.display.Close()
	r.display.Doing("connecting to " + strings.Join(cfg.Kafka.Brokers, ", "))
	r.display.Kept(func() string { return command.NoEnd })
	// Leaders move, and topics come and go: what is asked is answered by a broker.
	var err error
	if r.cl, err = kafka.NewClient(ctx, cfg.Kafka, append(clientprom.Opts(ctx), kgo.MetadataMinAge(lookEvery))...); err != nil {
		return err
	}
	defer r.cl.Close()
	if err := r.prepare(ctx); err != nil {
		return err
	}
	if r.member != nil {
		defer r.member.leave()
	}
	if err := r.start(); err != nil {
		return err
	}
	env.Counters.Ready()
	if err := r.read(ctx); err != nil {
		return err
	}
	if err := r.noteHidden(ctx); err != nil {
		return err
	}
	if err := r.finish(); err != nil {
		return err
	}
	return r.outcome()
}

// A run is one call of [Run]. Its phases are prepare, start, read, finish and outcome.
type run struct {
	cfg   Config
	env   *command.Env
	out   io.Writer
	w     *format.Writer
	began time.Time
	cl    *kgo.Client

	display *command.Display
	planner *planner
	plan    *plan
	member  *member        // nil where the run is in no group
	topics  []string       // for member
	ended   chan struct{}  // for member: the stream has its end
	storing errgroup.Group // for member: what is stored is committed
	encoder *encoder
	source  *source
	lost    *losses
	end     format.End
}

// prepare decides what to read, before anything is written.
func (r *run) prepare(ctx context.Context) error {
	adm := kadm.NewClient(r.cl)
	meta, selected, err := choose(ctx, adm, r.cfg, r.lost)
	if err != nil {
		return err
	}
	if err := readable(ctx, adm, r.cfg, selected); err != nil {
		return err
	}
	limitMemory(r.cfg, len(meta.Brokers))
	if r.cfg.Group != "" {
		r.topics = slices.Collect(maps.Keys(selected))
		r.cfg.PointEvery, selected = 0, nil // the group says what to read
		if r.member, err = join(ctx, r.cfg, r.env.Log); err != nil {
			return err
		}
	}
	r.planner = &planner{cl: r.cl, adm: adm, cfg: r.cfg, log: r.env.Log, lost: r.lost, past: make(map[topicPartition]int64)}
	if err := r.planner.awaitTransactions(ctx, selected, r.env.Stop); err != nil {
		return err
	}
	if r.plan, err = r.planner.plan(ctx, meta, selected); err != nil {
		return err
	}
	if r.cfg.Follow && r.cfg.Group == "" {
		r.plan.hidden = r.planner.hiddenLong(ctx, selected.lists())
	}
	return r.planner.wait(ctx, r.plan, r.env.Stop)
}

// start writes what comes before the records.
func (r *run) start() error {
	content := format.ContentRecords
	if r.cfg.Batches {
		content = format.ContentBatches
	}
	h := &format.Header{
		ID:      runID(),
		Created: r.began.UnixMilli(),
		Content: content,
		Source:  &format.Source{Cluster: r.plan.cluster, Tool: "kbk-fetch " + command.Version(), Isolation: r.cfg.isolation(), Group: r.cfg.Group},
		Follow:  r.cfg.Follow,
		Window:  timeWindow(r.cfg.From, r.cfg.To).header(),
		Total:   r.total(),
	}
	r.display.Expect(h)
	r.display.Doing("")
	err := r.w.WriteHeader(h)
	for i := range r.plan.topics {
		if err == nil {
			err = r.w.Write(&r.plan.topics[i])
		}
	}
	return errors.Join(err, r.w.Flush()) // the stages behind it show what is to come
}

// total is what is to be read, or nil where the run has no end.
func (r *run) total() *format.Total {
	if r.cfg.Follow {
		return nil
	}
	return &format.Total{Offsets: r.plan.offsets()}
}

// read writes the records, and the marks that tell how far each partition was read.
func (r *run) read(ctx context.Context) error {
	r.encoder = newEncoder(r.cfg, r.env.Stop, r.lost, &r.env.Counters)
	s := newSource(r.cl, r.cfg, r.env, r.plan, r.encoder)
	r.source = s
	s.past = r.planner.past
	write := r.w.WriteRaw
	if r.cfg.Follow { // what waits for more to come may wait for long
		s.follower = newFollower(r.cfg, r.plan)
		write = func(frames []byte) error { return errors.Join(r.w.WriteRaw(frames), r.w.Flush()) }
	} else {
		r.env.Counters.Expected.Store(r.plan.offsets())
	}
	if m := r.member; m != nil {
		s.member, s.events, r.ended = m, m.events, make(chan struct{})
		m.subscribe(r.topics...)
		r.storing.Go(func() error {
			err := m.follow(ctx, r.cfg.Receipts, r.ended)
			m.send(ctx, event{err: err})
			return err
		})
	}
	err := command.WhileRead(ctx, r.out, func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error {
			defer r.encoder.Close()
			err := s.run(ctx)
			if r.member != nil {
				close(r.member.over)
			}
			return err
		})
		r.encoder.Start(ctx, g, write)
		return g.Wait()
	})
	if err != nil {
		return err
	}
	s.noteAbsent()
	for _, m := range s.lastMarks() {
		if err := r.w.Write(m); err != nil {
			return err
		}
	}
	r.end.Records, r.end.Interrupted = r.encoder.records.Load(), s.stopped || r.encoder.leftSome()
	return nil
}

// noteHidden writes what open transactions have hidden from the run.
func (r *run) noteHidden(ctx context.Context) error {
	if r.end.Interrupted || r.cfg.Follow {
		return nil
	}
	for _, h := range r.planner.stillHidden(ctx, r.plan) {
		r.lost.add(h.text(r.cfg.Kafka.Brokers, time.Now()))
		for _, p := range r.plan.parts {
			if (topicPartition{p.topic, p.num}) != h.at() {
				continue
			}
			m := p.newMark(p.written.next, p.written.epoch)
			m.Open = &[2]int64{h.stable, h.high}
			if err := r.w.Write(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish writes what comes behind the records, and waits until what was read is stored
// where a group has to know.
func (r *run) finish() error {
	if !r.end.Interrupted && !r.cfg.Follow {
		for _, f := range r.plan.groups.Frames() {
			if err := r.w.Write(f); err != nil {
				return err
			}
		}
		// One moment of the partitions that were read, of a shard too: not where this run ends
		// somewhere else.
		if r.cfg.To.kind == unbounded || r.cfg.To.kind == atEnd {
			if err := r.w.Write(&format.Point{Time: r.plan.time.UnixMilli(), Without: without(r.plan.parts, r.plan.unplaced)}); err != nil {
				return err
			}
		}
	}
	r.lost.into(&r.end)
	if err := r.w.Close(&r.end); err != nil {
		return err
	}
	if r.member == nil {
		return nil
	}
	close(r.ended)
	return awaitReceipts(r.out, &r.storing, r.cfg.Timeout)
}

// outcome says what came of it.
func (r *run) outcome() error {
	said := fmt.Sprintf("read %s of %s", command.Count(r.end.Records, "record"), command.Count(int64(r.source.topics()), "topic"))
	if r.end.Interrupted {
		said += ", until it was interrupted"
	}
	r.env.Log.Info(said,
		slog.Duration("in", time.Since(r.began).Round(time.Millisecond)))
	return command.EndStatusThrough(r.out, &r.end, "the stream was ended properly, and what was read is whole")
}

// awaitReceipts ends the output, so that the stages downstream come to their ends, and
// waits for the last receipt.
func awaitReceipts(out io.Writer, storing *errgroup.Group, timeout time.Duration) error {
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
		return fmt.Errorf("the last receipt did not come within %s: what was read may be stored, but is not committed", timeout)
	}
}

// topics is how many topics the run has read.
func (s *source) topics() int {
	names := make(map[string]bool)
	for _, p := range s.parts {
		if p.left != unreadable || len(p.seen) > 0 {
			names[p.topic] = true
		}
	}
	return len(names)
}

// runID names one run of a source.
func runID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(b[:])
}
