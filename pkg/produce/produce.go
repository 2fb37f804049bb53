// Package produce writes a stream of records to the topics of a Kafka cluster.
package produce

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// Config says where the records go.
type Config struct {
	Kafka             kafka.Config
	Rename            map[string]string // target topic by source topic; others keep their name
	CreateTopics      bool
	ReplicationFactor int  // of topics that are created; 0: as stored
	Append            bool // also to topics that hold records
	Memory            int64
	MaxFrame          int64
}

// App is the command kbk-produce.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-produce",
		Usage: "write a stream of records to a Kafka cluster",
		Description: `Writes the records on standard input to their topics and partitions, in order and as they
are, with an idempotent producer. Which offset became which goes to standard output, unless
that is a terminal: kbk-offsets carries consumer groups over with it.

If the input turns out to be cut short, what came before has been produced; the status is 3.

   kbk-pull /var/backups/nightly | kbk-pack -d | kbk-produce -b localhost:9092 --create-topics > map.kbk`,
		Flags: append(kafka.Flags(),
			&cli.StringSliceFlag{Name: "rename", Usage: "write topic OLD to NEW, as `OLD=NEW`; repeatable"},
			&cli.BoolFlag{Name: "create-topics", Usage: "create topics that do not exist, with the partitions, replication factor and configs they had"},
			&cli.IntFlag{Name: "replication-factor", Usage: "create topics with `N` replicas", DefaultText: "as they had"},
			&cli.StringFlag{Name: "if-not-empty", Value: "fail", Usage: "`WHAT` to do when a target topic holds records: fail or append"},
			&cli.StringFlag{Name: "map", Usage: "write which offset became which to `FILE`"},
			command.SizeFlag("memory", 128<<20, "hold `SIZE` of records that are on their way"),
			command.MaxFrameFlag(),
		),
		Action: action,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := Config{
		Rename:            make(map[string]string),
		CreateTopics:      c.Bool("create-topics"),
		ReplicationFactor: c.Int("replication-factor"),
		Memory:            command.SizeOf(c, "memory"),
		MaxFrame:          command.SizeOf(c, "max-frame"),
	}
	var err error
	if cfg.Kafka, err = kafka.FromFlags(c); err != nil {
		return err
	}
	for _, r := range c.StringSlice("rename") {
		from, to, ok := strings.Cut(r, "=")
		if !ok || from == "" || to == "" {
			return command.Usagef("--rename %q is not OLD=NEW", r)
		}
		if had, ok := cfg.Rename[from]; ok && had != to {
			return command.Usagef("--rename: topic %s to both %s and %s", from, had, to)
		}
		cfg.Rename[from] = to
	}
	switch {
	case c.IsSet("replication-factor") && (cfg.ReplicationFactor < 1 || cfg.ReplicationFactor > 32767):
		return command.Usagef("--replication-factor %d is not between 1 and 32767", cfg.ReplicationFactor)
	case c.IsSet("replication-factor") && !cfg.CreateTopics:
		return command.WithHint(command.Usagef("--replication-factor is only for topics that are created"), "add --create-topics")
	case cfg.Memory < 1<<20:
		return command.Usagef("--memory is below 1MiB")
	}
	switch s := c.String("if-not-empty"); s {
	case "fail":
	case "append":
		cfg.Append = true
	default:
		return command.Usagef("--if-not-empty %q is neither fail nor append", s)
	}
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	out, err := command.ByProduct(c.String("map"))
	if err != nil {
		return err
	}
	err = Run(ctx, cfg, env, in, out)
	return errors.Join(err, out.Close())
}

// Run produces the records that it reads from in, and writes to out, as a stream of
// map frames, what became of their offsets.
func Run(ctx context.Context, cfg Config, env *command.Env, in io.Reader, out io.Writer) error {
	began := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := format.NewReader(command.Interruptible(ctx, in), int(cfg.MaxFrame))
	h, err := r.Header()
	if err != nil {
		return command.Input(err)
	}
	if h.Content != format.ContentRecords {
		return command.WithHint(command.Usagef("standard input is a stream of segments, not of records"), "put kbk-pack -d before this command")
	}
	targets := &targets{cfg: cfg, log: env.Log, topics: make(map[string]*target), sources: make(map[string]*source)}
	connect := func(opts ...kgo.Opt) (*kgo.Client, error) {
		return kafka.NewClient(ctx, cfg.Kafka, append(opts,
			kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.RequiredAcks(kgo.AllISRAcks()),
			// A sequence that the broker lost would be taken up anew, and records doubled.
			kgo.StopProducerOnDataLossDetected(),
			kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()),
			// The client looks for a topic that was created a moment ago; by default it
			// would sit out seconds before it looks again.
			kgo.MetadataMinAge(100*time.Millisecond),
		)...)
	}
	cl, err := connect(
		kgo.ProducerBatchMaxBytesFn(targets.maxBatch),
		kgo.MaxBufferedRecords(1<<20),
		kgo.MaxBufferedBytes(int(cfg.Memory)),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	targets.adm = kadm.NewClient(cl)
	w := format.NewWriter(out)
	if err := w.WriteHeader(&format.Header{ID: h.ID, Created: began.UnixMilli(), Content: format.ContentRecords, Source: h.Source}); err != nil {
		return err
	}
	p := &producer{cl: cl, connect: connect, targets: targets, maps: w, fail: cancel}
	defer p.close()
	end, err := p.follow(ctx, r)
	if flushErr := cl.Flush(ctx); err == nil {
		err = flushErr
	}
	p.mu.Lock() // no promise is under way: only for the race detector's peace
	defer p.mu.Unlock()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if mapErr := p.writeRuns(); err == nil {
		err = mapErr
	}
	if err != nil {
		if p.acked > 0 {
			env.Log.Warn(fmt.Sprintf("%s went into the topics before this", command.Count(p.acked, "record")))
		}
		return errors.Join(err, w.Flush())
	}
	if err := w.Close(&format.End{Records: p.acked, Interrupted: end.Interrupted, Lost: end.Lost}); err != nil {
		return fmt.Errorf("write the map: %w", err)
	}
	env.Log.Info(fmt.Sprintf("produced %s to %s", command.Count(p.acked, "record"), command.Count(int64(len(targets.sources)), "topic")),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	if end.Interrupted {
		return command.Stopped("the topics hold what it had read, which is not all")
	}
	return nil
}
