// Package pack turns a stream of records into a stream of compressed segments,
// and back.
package pack

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

// Config says how to pack and unpack.
type Config struct {
	SegmentSize int64         // close a segment at this many bytes, uncompressed
	SegmentAge  time.Duration // or when it has been open for so long; 0: never
	Memory      int64         // bytes that segments may take, all together
	Level       int           // of zstd, as its own tool counts: 1 to 19
	MaxFrame    int64         // bytes of the largest frame accepted
}

// App is the command kbk-pack.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-pack",
		Usage: "turn a stream of records into compressed segments, and back",
		Description: `Gathers the records on standard input into segments, one partition each, compresses
them and writes them to standard output. With -d it unpacks and checks segments.

   kbk-fetch -b localhost:9092 -t orders | kbk-pack | kbk-push /var/backups/nightly
   kbk-pull /var/backups/nightly | kbk-pack -d | kbk-produce -b localhost:9092 > map.kbk`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "unpack", Aliases: []string{"d"}, Usage: "unpack segments"},
			command.SizeFlag("segment-size", 128<<20, "close a segment at `SIZE` of uncompressed bytes"),
			&cli.DurationFlag{Name: "segment-age", Usage: "close a segment when it has been open for `TIME`, such as 10m", DefaultText: "never"},
			command.SizeFlag("memory", 512<<20, "hold `SIZE` of segments in memory; when that is reached, the largest is closed"),
			&cli.IntFlag{Name: "level", Value: 1, Usage: "compress at zstd level `N`, 1 (fastest) to 19"},
			command.MaxFrameFlag(),
		},
		Action: action,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := Config{
		SegmentSize: command.SizeOf(c, "segment-size"),
		SegmentAge:  c.Duration("segment-age"),
		Memory:      command.SizeOf(c, "memory"),
		Level:       c.Int("level"),
		MaxFrame:    command.SizeOf(c, "max-frame"),
	}
	switch {
	case cfg.Level < 1 || cfg.Level > 19:
		return command.Usagef("--level %d is not between 1 and 19", cfg.Level)
	case cfg.SegmentSize < 1:
		return command.Usagef("--segment-size is below 1 byte")
	case cfg.SegmentAge < 0:
		return command.Usagef("--segment-age %s is below 0", cfg.SegmentAge)
	case cfg.Memory < minMemory:
		return command.Usagef("--memory is below 16MiB")
	}
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	out, err := command.Stdout()
	if err != nil {
		return err
	}
	if c.Bool("unpack") {
		return Unpack(ctx, cfg, env, in, out)
	}
	return Pack(ctx, cfg, env, in, out)
}
