// Package produce writes a stream of records to the topics of a Kafka cluster.
package produce

import (
	"context"
	"errors"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/heartbeat"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics/prom"
	"github.com/kbkio/kbk/pkg/pattern"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// Config says where the records go, and how.
type Config struct {
	Kafka  kafka.Config
	Naming pattern.Naming

	PartitionMap map[int32]int32 // target partition by source partition; others keep their number
	Partitioner  string          // murmur2, roundRobin, or "": as they were

	CreateTopics      bool
	Partitions        int  // of topics that are created; 0: as stored
	ReplicationFactor int  // likewise
	NoConfigs         bool // create topics without the stored configs
	SkipConfigs       []string
	Configs           map[string]string // of topics that are created, besides the stored ones
	AddPartitions     bool
	KeepConfigs       bool   // hold none off during the run
	PutBackRetention  bool   // also where it deletes what was restored
	IfNotEmpty        string // resume, appending or purge
	Yes               bool   // purge is meant

	Exact  bool  // records keep their offsets
	MaxGap int64 // the most offsets without a record to write markers for

	OffsetHeaders bool
	StripHeaders  []string
	Compression   string // none, gzip, snappy, lz4, zstd; "": as the topic says
	MaxRate       int64  // bytes a second, before compression unless they come compressed; 0: no limit
	MaxRecords    int64  // records a second; 0: no limit
	DryRun        bool

	Timeout  time.Duration // how long to wait for what does not move
	Memory   int64
	MaxFrame int64
}

// Values of the flags.
const (
	murmur2    = "murmur2"
	roundRobin = "round-robin"

	resume    = "fail" // unless what is there is what an earlier run has produced
	appending = "append"
	purge     = "purge"
)

// partition is where the records of a partition go.
func (c *Config) partition(num int32) int32 {
	if to, ok := c.PartitionMap[num]; ok {
		return to
	}
	return num
}

// App is the command kbk-produce.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-produce",
		Usage: "write a stream of records or batches to a Kafka cluster",
		Description: `Writes the records on standard input to their topics and partitions, in order and as they
are, as an idempotent producer. Record batches, which kbk-fetch --batches writes, stay as
they are where the topic takes them so. Which offset became which goes to standard output, unless
that is a terminal: kbk-offsets carries consumer groups over with it.

A restore that was killed is resumed by the same line: what is in the target already is
compared with the input, and not produced again. If the input turns out to be cut short, what
came before has been produced; the status is 3.

   kbk-pull /var/backups/nightly | kbk-pack -d | kbk-produce -b localhost:9092 --create-topics > map.kbk`,
		Flags: slices.Concat(kafka.Flags(), []cli.Flag{
			&cli.StringSliceFlag{Name: "rename", Usage: "write topic OLD to NEW, as `OLD=NEW`, or as '^(.*)$=restored.$1'; repeatable"},
			&cli.StringFlag{Name: "prefix", Usage: "put `TEXT` before the names of topics that --rename does not change"},
			&cli.StringFlag{Name: "partition-map", Usage: "write partitions to other partitions: `0=2,1=0`"},
			&cli.StringFlag{Name: "partitioner", Usage: "choose new partitions `BY` murmur2 (the key, as Java clients do) or round-robin", DefaultText: "as they were"},
			&cli.BoolFlag{Name: "create-topics", Usage: "create topics that do not exist, with the partitions, replication factor and configs they had"},
			&cli.IntFlag{Name: "partitions", Usage: "create topics with `N` partitions", DefaultText: "as they had"},
			&cli.IntFlag{Name: "replication-factor", Usage: "create topics with `N` replicas", DefaultText: "as they had"},
			&cli.StringSliceFlag{Name: "topic-config", Usage: "create topics with config `KEY=VALUE`; repeatable"},
			&cli.StringSliceFlag{Name: "skip-config", Usage: "create topics without the config `KEY` that they had; repeatable"},
			&cli.BoolFlag{Name: "no-configs", Usage: "create topics without the configs they had"},
			&cli.BoolFlag{Name: "add-partitions", Usage: "add partitions to topics that have too few"},
			&cli.BoolFlag{Name: "keep-configs", Usage: "do not suspend configs of the topics during the run; retention may then delete what is restored"},
			&cli.BoolFlag{Name: "put-back-retention", Usage: "put a topic's retention back at the end even if it deletes what was restored"},
			&cli.BoolFlag{Name: "release", Usage: "read no stream; put back the configs that killed runs have suspended"},
			&cli.StringFlag{Name: "if-not-empty", Value: resume, Usage: "`WHAT` to do when a target topic holds other records than this restore's: fail, append or purge"},
			&cli.BoolFlag{Name: "yes", Usage: "confirm --if-not-empty purge"},
			&cli.StringFlag{Name: "offsets", Value: "new", Usage: "`WHICH` offsets records get: new, or exact for those they had"},
			&cli.Int64Flag{Name: "max-gap", Value: 1_000_000, Usage: "with exact offsets: write markers into gaps of at most `N` offsets"},
			&cli.BoolFlag{Name: "offset-headers", Usage: "add headers with the origin of a record: kbk.source.topic, partition, offset and timestamp"},
			&cli.StringSliceFlag{Name: "strip-header", Usage: "leave out headers of this `NAME`; repeatable"},
			&cli.StringFlag{Name: "compression", Usage: "compress batches with `CODEC`: none, gzip, snappy, lz4 or zstd", DefaultText: "as the topic says, or zstd"},
			&cli.BoolFlag{Name: "dry-run", Usage: "read and check everything, say what would be done, and do nothing"},
			&cli.StringFlag{Name: "map", Usage: "write the map from old to new offsets to `FILE`"},
			&cli.DurationFlag{Name: "timeout", Value: kafka.Patience, Usage: "give up after `TIME` without progress, such as a leader that is away or replicas that are behind"},
			command.SizeFlag("memory", 128<<20, "hold at most `SIZE` of records that are on their way"),
			command.MaxFrameFlag(),
			heartbeat.Flag(),
		}, command.RateFlags("produced")),
		Groups: []command.FlagGroup{
			{Name: "Where to", Flags: []string{"rename", "prefix", "partition-map", "partitioner"}},
			{Name: "Topics", Flags: []string{"create-topics", "partitions", "replication-factor", "topic-config", "skip-config", "no-configs", "add-partitions", "keep-configs", "put-back-retention", "release", "if-not-empty", "yes"}},
			{Name: "Offsets", Flags: []string{"offsets", "max-gap", "map"}},
			{Name: "Records", Flags: []string{"offset-headers", "strip-header", "compression", "dry-run"}},
		},
		Action: action,
		Values: map[string]command.Completer{
			"cluster":      kafka.Values()["cluster"],
			"partitioner":  command.OneOf("murmur2", "round-robin"),
			"if-not-empty": command.OneOf("fail", "append", "purge"),
			"offsets":      command.OneOf("new", "exact"),
			"compression":  command.OneOf("none", "gzip", "snappy", "lz4", "zstd"),
		},
		Metrics: prom.Open,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg, err := fromFlags(c)
	if err != nil {
		return err
	}
	if c.Bool("release") {
		return Release(ctx, cfg, env)
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // GOMEMLIMIT is not set
		debug.SetMemoryLimit(cfg.Memory + ownMemory)
	}
	beats, err := heartbeat.Start(ctx, c, env)
	if err != nil {
		return err
	}
	defer beats.Close()
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	out, err := command.ByProduct(c.String("map"))
	if err != nil {
		return err
	}
	if err = Run(ctx, cfg, env, in, out); err == nil && !cfg.DryRun { // the target may have had everything
		beats.Beat()
	}
	if status := command.StatusOf(err); status != command.OK && status != command.Loss {
		return err // the map has no end, and is open for the reason
	}
	return errors.Join(err, out.Close())
}

// ownMemory is what the program takes beside records.
const ownMemory = 8 << 20

func fromFlags(c *cli.Context) (Config, error) {
	cfg := Config{
		Partitioner:       c.String("partitioner"),
		CreateTopics:      c.Bool("create-topics"),
		Partitions:        c.Int("partitions"),
		ReplicationFactor: c.Int("replication-factor"),
		NoConfigs:         c.Bool("no-configs"),
		SkipConfigs:       c.StringSlice("skip-config"),
		Configs:           make(map[string]string),
		AddPartitions:     c.Bool("add-partitions"),
		KeepConfigs:       c.Bool("keep-configs"),
		PutBackRetention:  c.Bool("put-back-retention"),
		IfNotEmpty:        c.String("if-not-empty"),
		Yes:               c.Bool("yes"),
		MaxGap:            c.Int64("max-gap"),
		OffsetHeaders:     c.Bool("offset-headers"),
		StripHeaders:      c.StringSlice("strip-header"),
		Compression:       c.String("compression"),
		DryRun:            c.Bool("dry-run"),
		Timeout:           c.Duration("timeout"),
		Memory:            command.SizeOf(c, "memory"),
		MaxFrame:          command.SizeOf(c, "max-frame"),
	}
	var err error
	if cfg.Kafka, err = kafka.FromFlags(c); err != nil {
		return cfg, err
	}
	if cfg.Naming, err = parseNaming(c.StringSlice("rename"), c.String("prefix")); err != nil {
		return cfg, err
	}
	if cfg.PartitionMap, err = parsePartitionMap(c.String("partition-map")); err != nil {
		return cfg, err
	}
	cfg.MaxRate, cfg.MaxRecords = command.Rates(c)
	for _, s := range c.StringSlice("topic-config") {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return cfg, command.Usagef("--topic-config %q is not KEY=VALUE", s)
		}
		cfg.Configs[k] = v
	}
	switch s := c.String("offsets"); s {
	case "new":
	case "exact":
		cfg.Exact = true
	default:
		return cfg, command.Usagef("--offsets %q is neither new nor exact", s)
	}
	creates := c.IsSet("replication-factor") || c.IsSet("partitions") || c.IsSet("topic-config") || c.IsSet("skip-config") || cfg.NoConfigs
	switch {
	case c.IsSet("replication-factor") && (cfg.ReplicationFactor < 1 || cfg.ReplicationFactor > 32767):
		return cfg, command.Usagef("--replication-factor %d is not between 1 and 32767", cfg.ReplicationFactor)
	case c.IsSet("partitions") && cfg.Partitions < 1:
		return cfg, command.Usagef("--partitions %d is below 1", cfg.Partitions)
	case creates && !cfg.CreateTopics:
		return cfg, command.WithHint(command.Usagef("--partitions, --replication-factor, --topic-config, --skip-config and --no-configs are only for topics that are created"), "add --create-topics")
	case cfg.Partitioner != "" && cfg.Partitioner != murmur2 && cfg.Partitioner != roundRobin:
		return cfg, command.Usagef("--partitioner %q is neither murmur2 nor round-robin", cfg.Partitioner)
	case cfg.Partitioner != "" && len(cfg.PartitionMap) > 0:
		return cfg, command.Usagef("--partitioner and --partition-map do not go together")
	case cfg.IfNotEmpty != resume && cfg.IfNotEmpty != appending && cfg.IfNotEmpty != purge:
		return cfg, command.Usagef("--if-not-empty %q is neither fail, append nor purge", cfg.IfNotEmpty)
	case cfg.Exact && cfg.Partitioner != "":
		return cfg, command.Usagef("--offsets exact keeps records in their partitions: it does not go with --partitioner")
	case cfg.Exact && cfg.IfNotEmpty == appending:
		return cfg, command.Usagef("--offsets exact cannot append to records: it does not go with --if-not-empty append")
	case cfg.Exact && cfg.IfNotEmpty == purge:
		return cfg, command.WithHint(command.Usagef("--offsets exact does not go with --if-not-empty purge: a log whose records were deleted continues where it was"),
			"delete the topic, and let --create-topics create it again")
	case cfg.Timeout <= 0:
		return cfg, command.Usagef("--timeout %s is not above 0", cfg.Timeout)
	case cfg.MaxGap < 0:
		return cfg, command.Usagef("--max-gap %d is below 0", cfg.MaxGap)
	case cfg.Compression != "" && !recordbatch.IsCodec(cfg.Compression):
		return cfg, command.Usagef("--compression %q is not none, gzip, snappy, lz4 or zstd", cfg.Compression)
	case cfg.Memory < 1<<20:
		return cfg, command.Usagef("--memory is below 1MiB")
	}
	return cfg, nil
}
