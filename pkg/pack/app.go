// Package pack turns a stream of records into a stream of compressed segments,
// and back.
package pack

import (
	"context"
	"math"
	"runtime/debug"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/metrics/prom"
	"github.com/kbkio/kbk/pkg/segment"
)

// Config says how to pack and unpack.
type Config struct {
	SegmentSize int64         // close a segment at this many bytes, uncompressed; a compressed batch counts for eight times its bytes
	SegmentAge  time.Duration // or when it has been open for so long; 0: never
	Memory      int64         // bytes; open segments take half of it at most, closed ones a quarter
	MaxFrame    int64         // bytes of the largest frame accepted

	Codec      *segment.Codec  // packs
	Recompress bool            // decompress batches first
	Level      int             // of the codec, as its own tool counts
	Recipients []age.Recipient // encrypt to them; none: do not encrypt
	Identities []age.Identity  // decrypt with the one that fits
	Batches    bool            // unpack batches as they are stored
}

// App is the command kbk-pack.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-pack",
		Usage: "turn a stream of records into compressed segments, and back",
		Description: `Gathers the records on standard input into segments, one partition each, compresses
them and writes them to standard output. With -d it unpacks and checks segments.
With -r they are encrypted with age, and with -d -i opened again.

   kbk-fetch -b localhost:9092 -t orders | kbk-pack | kbk-push /var/backups/nightly
   kbk-pull /var/backups/nightly | kbk-pack -d | kbk-produce -b localhost:9092 > map.kbk`,
		Flags: slices.Concat([]cli.Flag{
			&cli.BoolFlag{Name: "unpack", Aliases: []string{"d"}, Usage: "unpack segments"},
			&cli.BoolFlag{Name: "batches", Usage: "with -d: write batches as they are stored, for kbk-produce and other commands that read them"},
			command.SizeFlag("segment-size", 128<<20, "close a segment at `SIZE` of uncompressed bytes; a compressed batch counts eight times its size"),
			&cli.DurationFlag{Name: "segment-age", Usage: "close a segment when it has been open for `TIME`, such as 10m", DefaultText: "never"},
			command.SizeFlag("memory", 256<<20, "use at most `SIZE` of memory; when half of it holds open segments, the largest are closed"),
			&cli.StringFlag{Name: "codec", Value: "zstd", Usage: "compress with `CODEC`: " + segment.CodecNames(), EnvVars: []string{"KBK_CODEC"}},
			&cli.BoolFlag{Name: "recompress", Usage: "decompress batches, and compress their records with the codec: smaller, and slower"},
			&cli.IntFlag{Name: "level", Value: 1, Usage: "compress at level `N` of the codec: 1 (fastest) to 19 for zstd, to 9 for lz4 and gzip"},
		}, segment.RecipientFlags(), segment.IdentityFlags(), []cli.Flag{command.MaxFrameFlag()}),
		Groups: []command.FlagGroup{
			{Name: "Packing", Flags: []string{"segment-size", "segment-age", "codec", "level", "recompress"}},
			{Name: "Unpacking", Flags: []string{"unpack", "batches"}},
			{Name: "Encryption", Flags: []string{"recipient", "recipients-file", "identity", "passphrase-file"}},
		},
		Action:  action,
		Values:  map[string]command.Completer{"codec": command.OneOf("zstd", "lz4", "gzip", "snappy", "none")},
		Metrics: prom.Open,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := Config{
		SegmentSize: command.SizeOf(c, "segment-size"),
		SegmentAge:  c.Duration("segment-age"),
		Memory:      command.SizeOf(c, "memory"),
		Codec:       segment.CodecOf(c.String("codec")),
		Level:       c.Int("level"),
		MaxFrame:    command.SizeOf(c, "max-frame"),
		Batches:     c.Bool("batches"),
		Recompress:  c.Bool("recompress"),
	}
	switch {
	case cfg.Batches && !c.Bool("unpack"):
		return command.WithHint(command.Usagef("--batches goes with -d"), "batches are packed as they come")
	case cfg.Codec == nil:
		return command.Usagef("--codec %q is not %s", c.String("codec"), segment.CodecNames())
	case cfg.Recompress && c.Bool("unpack"):
		return command.Usagef("--recompress does not go with -d")
	case cfg.Recompress && cfg.Codec.Name == segment.None:
		return command.Usagef("--recompress: --codec none does not compress")
	case cfg.Codec.Levels == 0 && c.IsSet("level"):
		return command.Usagef("--level: %s has no levels", cfg.Codec.Name)
	case cfg.Level < 1 || cfg.Level > max(1, cfg.Codec.Levels):
		return command.Usagef("--level %d is not between 1 and %d", cfg.Level, cfg.Codec.Levels)
	case cfg.SegmentSize < 1:
		return command.Usagef("--segment-size is below 1 byte")
	case cfg.SegmentAge < 0:
		return command.Usagef("--segment-age %s is below 0", cfg.SegmentAge)
	case cfg.Memory < minMemory:
		return command.Usagef("--memory is below 16MiB")
	}
	// Before the first byte: a person may be asked for a passphrase.
	var err error
	keys := segment.KeysOf(c)
	if c.Bool("unpack") {
		cfg.Identities, err = keys.Decryption(ctx, env)
	} else {
		cfg.Recipients, err = keys.Encryption(env)
	}
	if err != nil {
		return err
	}
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	out, err := command.Stdout()
	if err != nil {
		return err
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // GOMEMLIMIT is not set
		debug.SetMemoryLimit(cfg.Memory - cfg.Memory/8) // the program itself is not in it
	}
	return command.WhileRead(ctx, out, func(ctx context.Context) error {
		if c.Bool("unpack") {
			_, stop := flushSignals() // one that is for every kbk-pack of a machine ends none
			defer stop()
			return Unpack(ctx, cfg, env, in, out)
		}
		return Pack(ctx, cfg, env, in, out)
	})
}
