// Package offsets carries consumer groups over to a restored cluster: it translates
// their committed offsets, shows, commits, checks and takes back what came of it.
package offsets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// App is the command kbk-offsets.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-offsets",
		Usage: "carry consumer groups over to a restored cluster",
		Description: `Consumers carry on exactly where they were: each committed offset becomes that of the first
restored record that is not before it.

   kbk-offsets snapshot -b src:9092 | kbk-offsets translate --map map.kbk | kbk-offsets apply -b dst:9092

The groups may also be those in the backup; kbk-produce passes them on:

   kbk-pull backup | kbk-pack -d | kbk-produce -b dst:9092 > map.kbk
   kbk-offsets translate < map.kbk | kbk-offsets apply -b dst:9092`,
		Values: kafka.Values(),
		Commands: []command.Spec{
			{
				Name: "snapshot", Usage: "read the committed offsets of consumer groups",
				Flags: append(append(kafka.Flags(), groupFlags()...),
					&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "only offsets of `TOPIC`: a name, or a regular expression that begins with ^; repeatable", DefaultText: "all topics"},
					&cli.BoolFlag{Name: "next", Usage: "also read which record each group is going to read next"},
					&cli.BoolFlag{Name: "json", Usage: "write JSON, one group per line"},
				),
				Action: snapshot,
			},
			{
				Name: "cursor", Usage: "print where the logs of a mirror end, for kbk-fetch --from",
				Flags: append(kafka.Flags(),
					&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "only `TOPIC`: a name, or a regular expression that begins with ^; repeatable", DefaultText: "all topics"},
					&cli.Int64Flag{Name: "overlap", Value: 100, Usage: "read `N` offsets before the ends again, to check that the source is the same"},
				),
				Action: printCursor,
			},
			{
				Name: "map", Usage: "make a map from the records in the target, if there is none from kbk-produce",
				Flags: append(append(kafka.Flags(), groupFlags()...),
					&cli.StringFlag{Name: "by", Usage: "find them `HOW`: by the headers of kbk-produce --offset-headers, or by their content"},
					recordsFlag(), renameFlag(), command.MaxFrameFlag(),
				),
				Action: mapRecords,
			},
			{
				Name: "translate", Usage: "find where the offsets are in the target",
				Flags: append(append(kafka.Flags(), groupFlags()...),
					&cli.StringFlag{Name: "by", Value: byMap, Usage: "find them `HOW`: by a map, by timestamp, or by identity, after an exact restore"},
					&cli.StringSliceFlag{Name: "map", Usage: "read the map of kbk-produce or kbk-offsets map from `FILE`; repeatable"},
					&cli.BoolFlag{Name: "may-skip", Usage: "with --by timestamp: do without the backup's records; records whose times are not in order may be skipped"},
					recordsFlag(), renameFlag(),
					&cli.StringSliceFlag{Name: "rename-group", Usage: "rename group OLD to NEW in the target, as `OLD=NEW` or ^REGEXP=NEW; repeatable"},
					command.MaxFrameFlag(),
				),
				Action: translate,
			},
			{
				Name: "plan", Usage: "show what apply would commit",
				Flags: append(kafka.Flags(),
					&cli.BoolFlag{Name: "json", Usage: "write JSON, one offset per line"},
					command.MaxFrameFlag(),
				),
				Action: plan,
			},
			{
				Name: "apply", Usage: "commit the offsets that translate has found",
				Flags: append(kafka.Flags(), skipFlag(),
					&cli.BoolFlag{Name: "rewind", Usage: "also commit offsets that are lower than what is committed there"},
					&cli.StringFlag{Name: "undo", Usage: "keep what is overwritten in `FILE`, which must not exist", DefaultText: "kbk-offsets-undo-TIME.kbk"},
					command.MaxFrameFlag(),
				),
				Action: apply,
			},
			{
				Name: "rollback", Usage: "put back the offsets that apply has overwritten",
				Flags:  append(kafka.Flags(), skipFlag(), command.MaxFrameFlag()),
				Action: rollback,
			},
			{
				Name: "verify", Usage: "compare what is committed, and the next records, with the plan",
				Flags: append(kafka.Flags(), skipFlag(),
					recordsFlag(), command.MaxFrameFlag(),
				),
				Action: verify,
			},
			{
				Name: "script", Usage: "write the plan as commands of kafka-consumer-groups.sh",
				Flags:  append(kafka.Flags(), command.MaxFrameFlag()),
				Action: script,
			},
		},
	})
}

func groupFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "groups", Usage: "only consumer group `GROUP`: a name, or a regular expression that begins with ^; repeatable", DefaultText: "all groups"},
		&cli.StringSliceFlag{Name: "exclude-groups", Usage: "leave out `GROUP`, likewise; repeatable"},
	}
}

func recordsFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "records", Usage: "read the backup's records, a stream as kbk-pack -d writes it, from `FILE`; repeatable"}
}

func renameFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "rename", Usage: "topic OLD is called NEW in the target: `OLD=NEW`, or ^REGEXP=NEW with $1 for its first group; only needed where no map says so; repeatable"}
}

func skipFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "skip", Usage: "leave out `GROUP` of the target: a name, or a regular expression that begins with ^; repeatable"}
}

// matching returns what tells whether a name is one of the patterns of a flag. Without
// any, it is empty.
func matching(c *cli.Context, flag string, empty bool) (func(string) bool, error) {
	patterns := c.StringSlice(flag)
	if len(patterns) == 0 {
		return func(string) bool { return empty }, nil
	}
	m, err := pattern.Compile(patterns)
	if err != nil {
		return nil, command.Usagef("--%s %v", flag, err)
	}
	return m, nil
}

func chosenGroups(c *cli.Context) (func(string) bool, error) {
	in, err := matching(c, "groups", true)
	if err != nil {
		return nil, err
	}
	out, err := matching(c, "exclude-groups", false)
	return func(id string) bool { return in(id) && !out(id) }, err
}

// cluster is that of a command that can do without; nil where none is given.
func cluster(c *cli.Context) (*kafka.Config, error) {
	cfg, err := kafka.FromFlags(c)
	if errors.Is(err, kafka.ErrNoBrokers) {
		return nil, nil
	}
	return &cfg, err
}

func snapshot(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := SnapshotConfig{Next: c.Bool("next"), JSON: c.Bool("json")}
	var err error
	if cfg.Kafka, err = kafka.FromFlags(c); err != nil {
		return err
	}
	if _, err = chosenGroups(c); err != nil {
		return err
	}
	cfg.Groups, cfg.ExcludeGroups = c.StringSlice("groups"), c.StringSlice("exclude-groups")
	if cfg.Topics, err = matching(c, "topic", true); err != nil {
		return err
	}
	if cfg.JSON { // for people too
		return Snapshot(ctx, cfg, env, os.Stdout)
	}
	out, err := command.Stdout()
	if err != nil {
		return command.WithHint(err, "the stream is binary: pipe it into kbk-offsets translate, or read it as --json")
	}
	return Snapshot(ctx, cfg, env, out)
}

func printCursor(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := CursorConfig{Overlap: c.Int64("overlap")}
	if cfg.Overlap < 0 {
		return command.Usagef("--overlap %d is below 0", cfg.Overlap)
	}
	var err error
	if cfg.Kafka, err = kafka.FromFlags(c); err != nil {
		return err
	}
	if cfg.Topics, err = matching(c, "topic", true); err != nil {
		return err
	}
	return Cursor(ctx, cfg, env.Log, os.Stdout)
}

func translate(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := TranslateConfig{By: c.String("by"), Maps: c.StringSlice("map"), Records: c.StringSlice("records"), MaySkip: c.Bool("may-skip"), MaxFrame: command.SizeOf(c, "max-frame")}
	switch {
	case cfg.By == byHeaders || cfg.By == byContent:
		return command.WithHint(command.Usagef("translate does not look for records by %s", cfg.By), "put kbk-offsets map --by "+cfg.By+" before it")
	case !slices.Contains(methods, cfg.By):
		return command.Usagef("--by %q is none of %s", cfg.By, strings.Join(methods, ", "))
	case cfg.MaySkip && cfg.By != byTimestamp:
		return command.Usagef("--may-skip is only for --by timestamp")
	}
	var err error
	if cfg.Groups, err = chosenGroups(c); err != nil {
		return err
	}
	if cfg.Topics, err = renames(c, "rename"); err != nil {
		return err
	}
	if cfg.RenameGroups, err = renames(c, "rename-group"); err != nil {
		return err
	}
	if cfg.By == byTimestamp {
		if cfg.Kafka, err = kafka.FromFlags(c); err != nil {
			return err
		}
	}
	in, out, err := streams(len(cfg.Maps) + len(cfg.Records))
	if err != nil {
		return err
	}
	return Translate(ctx, cfg, env, in, out)
}

func mapRecords(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := MapConfig{By: c.String("by"), Records: c.StringSlice("records"), MaxFrame: command.SizeOf(c, "max-frame")}
	if cfg.By != byHeaders && cfg.By != byContent {
		return command.Usagef("--by %q is neither headers nor content", cfg.By)
	}
	var err error
	if cfg.Kafka, err = kafka.FromFlags(c); err != nil {
		return err
	}
	if cfg.Groups, err = chosenGroups(c); err != nil {
		return err
	}
	if cfg.Topics, err = renames(c, "rename"); err != nil {
		return err
	}
	in, out, err := streams(len(cfg.Records))
	if err != nil {
		return err
	}
	return Map(ctx, cfg, env, in, out)
}

func renames(c *cli.Context, flag string) (*pattern.Renames, error) {
	r, err := pattern.CompileRenames(c.StringSlice(flag))
	if err != nil {
		return nil, command.Usagef("--%s %v", flag, err)
	}
	return r, nil
}

// streams are standard input, nil where it is neither a pipe nor a file, and standard
// output.
func streams(files int) (in io.Reader, out io.Writer, err error) {
	if piped() {
		if in, err = command.Stdin(); err != nil {
			return nil, nil, err
		}
	} else if files == 0 {
		return nil, nil, command.WithHint(command.Usagef("there is nothing to read"), "put kbk-offsets snapshot before this command, or redirect what kbk-produce has written into it")
	}
	out, err = command.Stdout()
	return in, out, err
}

func plan(ctx context.Context, c *cli.Context, _ *command.Env) error {
	to, err := cluster(c)
	if err != nil {
		return err
	}
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	return Plan(ctx, to, command.SizeOf(c, "max-frame"), c.Bool("json"), in, os.Stdout)
}

func applyConfig(c *cli.Context) (cfg ApplyConfig, in io.Reader, err error) {
	cfg.MaxFrame = command.SizeOf(c, "max-frame")
	if cfg.Kafka, err = kafka.FromFlags(c); err != nil {
		return cfg, nil, err
	}
	if cfg.Skip, err = matching(c, "skip", false); err != nil {
		return cfg, nil, err
	}
	in, err = command.Stdin()
	return cfg, in, err
}

func apply(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg, in, err := applyConfig(c)
	if err != nil {
		return err
	}
	cfg.Rewind = c.Bool("rewind")
	if cfg.Undo = c.String("undo"); cfg.Undo == "" {
		cfg.Undo = fmt.Sprintf("kbk-offsets-undo-%s.kbk", time.Now().UTC().Format("20060102T150405Z"))
	}
	out, err := command.ByProduct("")
	if err != nil {
		return err
	}
	err = Apply(ctx, cfg, env, in, out)
	return errors.Join(err, out.Close())
}

func rollback(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg, in, err := applyConfig(c)
	if err != nil {
		return err
	}
	return Rollback(ctx, cfg, env, in)
}

func verify(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg, in, err := applyConfig(c)
	if err != nil {
		return err
	}
	return Verify(ctx, VerifyConfig{Kafka: cfg.Kafka, Records: c.StringSlice("records"), Skip: cfg.Skip, MaxFrame: cfg.MaxFrame}, env, in)
}

func script(ctx context.Context, c *cli.Context, _ *command.Env) error {
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	brokers := c.String("brokers")
	if c.String("cluster") != "" {
		cfg, err := kafka.FromFlags(c)
		if err != nil {
			return err
		}
		brokers = strings.Join(cfg.Brokers, ",")
	}
	return Script(ctx, command.SizeOf(c, "max-frame"), brokers, in, os.Stdout)
}
