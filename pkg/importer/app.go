package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/foreign"
	"github.com/kbkio/kbk/pkg/foreign/connects3"
	"github.com/kbkio/kbk/pkg/foreign/datakeep"
	"github.com/kbkio/kbk/pkg/foreign/handy"
	"github.com/kbkio/kbk/pkg/foreign/kcat"
	"github.com/kbkio/kbk/pkg/foreign/oso"
	"github.com/kbkio/kbk/pkg/metrics/prom"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pattern"
	"github.com/kbkio/kbk/pkg/store"
)

// A known format, in the order in which detect tries them.
type known struct {
	name, about string
	detect      func(context.Context, *foreign.Tree) bool
	format      func(keys [][]byte) foreign.Format
}

var formats = []known{
	{"oso", "OSO kafka-backup", oso.Detect, func([][]byte) foreign.Format { return oso.Format{} }},
	{"handy", "kafka-handy-backup", handy.Detect, func(keys [][]byte) foreign.Format { return handy.Format{Keys: keys} }},
	{"data-keep", "kafka-data-keep", datakeep.Detect, func([][]byte) foreign.Format { return datakeep.Format{} }},
	{"connect-s3", "Confluent's S3 sink connector, JsonFormat", connects3.Detect, func([][]byte) foreign.Format { return connects3.Format{} }},
	{"kcat", "lines of kcat -J", kcat.Detect, func([][]byte) foreign.Format { return kcat.Format{} }},
}

// App is the command kbk-import.
func App() *cli.App {
	spec := command.Spec{
		Name:  "kbk-import",
		Usage: "read a backup of another tool as a stream of records",
		Description: `Turns what another tool has stored, on any rclone remote, into a stream of records, and
says what that tool may have lost or changed. docs/import.md has a table for each.

   kbk-import oso s3:bucket/prefix | kbk-pack -r age1… | kbk-push s3:bucket/kbk
   kbk-import detect s3:bucket/prefix`,
	}
	for _, f := range formats {
		sub := command.Spec{
			Name: f.name, Usage: "read a backup of " + f.about, Args: "REMOTE", MaxArgs: 1,
			Flags:   flags(),
			Metrics: prom.Open,
			Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
				return action(ctx, c, env, f)
			},
		}
		switch f.name {
		case "handy":
			sub.Flags = append(sub.Flags, &cli.StringSliceFlag{Name: "key-file", Usage: "decrypt with the key in `FILE`, 32 bytes; repeatable"})
		case "kcat":
			sub.Args = "REMOTE|-"
		}
		spec.Commands = append(spec.Commands, sub)
	}
	spec.Commands = append(spec.Commands, command.Spec{
		Name: "detect", Usage: "say which tool has written a backup", Args: "REMOTE", MaxArgs: 1, Action: detect,
	})
	return command.App(spec)
}

func flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "read `TOPIC`: a name, a name with partitions (orders:0,3-5), or a regular expression that begins with ^; repeatable", DefaultText: "all"},
		&cli.StringSliceFlag{Name: "exclude", Usage: "leave out `TOPIC`: a name, or a regular expression that begins with ^; repeatable"},
		&cli.StringFlag{Name: "partitions", Aliases: []string{"p"}, Usage: "read only partitions `LIST`, such as 0,3-5"},
		&cli.BoolFlag{Name: "internal", Usage: "read topics whose names begin with __ too"},
		&cli.StringFlag{Name: "from", Usage: "begin at `OFFSET` of each partition"},
		&cli.StringFlag{Name: "to", Usage: "end before `OFFSET` of each partition"},
		&cli.StringFlag{Name: "since", Usage: "read records with timestamps at or after `TIME`: RFC 3339, milliseconds since the epoch, or a duration before now such as 24h"},
		&cli.StringFlag{Name: "until", Usage: "read records with timestamps at or before `TIME`"},
		&cli.IntFlag{Name: "transfers", Value: 4, Usage: "read `N` files at once"},
		&cli.BoolFlag{Name: "skip-damaged", Usage: "continue after damaged files, and end with status 4"},
		&cli.BoolFlag{Name: "strict", Usage: "end with status 4 if the tool may have changed something"},
	}
}

func action(ctx context.Context, c *cli.Context, env *command.Env, f known) error {
	cfg := Config{
		Selection: partitions.Selection{Topics: c.StringSlice("topic"), Exclude: c.StringSlice("exclude")},
		Internal:  c.Bool("internal"), Transfers: c.Int("transfers"), SkipDamaged: c.Bool("skip-damaged"), Strict: c.Bool("strict"),
	}
	if cfg.Transfers < 1 {
		return command.Usagef("--transfers %d is below 1", cfg.Transfers)
	}
	if err := bounds(&cfg, c, time.Now()); err != nil {
		return err
	}
	keys, err := readKeys(c.StringSlice("key-file"))
	if err != nil {
		return err
	}
	cfg.Format = f.format(keys)
	out, err := command.Stdout()
	if err != nil {
		return err
	}
	remote := c.Args().First()
	if f.name == "kcat" && remote == kcat.Stdin {
		in, err := command.Stdin()
		if err != nil {
			return err
		}
		from := env.Counters.Input.Reader(in, new(atomic.Int64)) // bytes are counted where the tree is read
		cfg.Tree = &foreign.Tree{Objects: []foreign.Object{{Path: kcat.Stdin}}, Open: func(ctx context.Context, _ string) (io.ReadCloser, error) {
			return io.NopCloser(command.Interruptible(ctx, from)), nil
		}}
		return Run(ctx, cfg, env, out)
	}
	tree, done, err := openTree(ctx, remote)
	if err != nil {
		return err
	}
	cfg.Tree = tree
	return errors.Join(Run(ctx, cfg, env, out), done())
}

// bounds reads the flags that narrow what is read.
func bounds(cfg *Config, c *cli.Context, now time.Time) error {
	var err error
	if list := c.String("partitions"); list != "" {
		if cfg.Selection.Numbers, err = pattern.Partitions(list); err != nil {
			return command.Usagef("--partitions: %w", err)
		}
	}
	if cfg.From, cfg.To, err = command.OffsetsFromFlags(c); err != nil {
		return err
	}
	cfg.Since, cfg.Until, err = command.TimesFromFlags(c, now)
	return err
}

// readKeys reads files of one key each; a newline behind it does not count.
func readKeys(files []string) (keys [][]byte, err error) {
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--key-file: %w", err)
		}
		if len(raw) != 32 {
			raw = []byte(strings.TrimRight(string(raw), "\r\n"))
		}
		if len(raw) != 32 {
			return nil, command.Usagef("--key-file %s: it has %d bytes, and a key has 32 bytes", name, len(raw))
		}
		keys = append(keys, raw)
	}
	return keys, nil
}

func detect(ctx context.Context, c *cli.Context, _ *command.Env) error {
	tree, done, err := openTree(ctx, c.Args().First())
	if err != nil {
		return err
	}
	name := Detect(ctx, tree)
	if err := done(); err != nil {
		return err
	}
	if name == "" {
		return command.WithHint(fmt.Errorf("no backup of a tool that is known, among %s", command.Count(int64(len(tree.Objects)), "file")), "docs/import.md says what is looked for")
	}
	_, err = fmt.Fprintln(command.Text(), name)
	return err
}

// Detect returns the name of the format that a tree is in, or "".
func Detect(ctx context.Context, t *foreign.Tree) string {
	for _, f := range formats {
		if f.detect(ctx, t) {
			return f.name
		}
	}
	return ""
}

// openTree lists a remote. done closes it.
func openTree(ctx context.Context, remote string) (tree *foreign.Tree, done func() error, err error) {
	if remote == "" {
		return nil, nil, command.WithHint(command.Usagef("no remote"), "say where the backup is: a folder, or REMOTE:PATH as rclone knows it")
	}
	dir, file := remote, ""
	if info, err := os.Stat(remote); err == nil && info.Mode().IsRegular() { // of the lines of kcat
		at := strings.LastIndexByte(remote, '/') + 1
		dir, file = remote[:at], remote[at:]
		if dir == "" {
			dir = "."
		}
	}
	st, err := store.Open(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	tree = &foreign.Tree{Open: st.OpenFile}
	err = st.List(ctx, "", func(path string, size int64) error {
		if file == "" || path == file {
			tree.Objects = append(tree.Objects, foreign.Object{Path: path, Size: size})
		}
		return nil
	})
	if err == nil && len(tree.Objects) == 0 {
		err = fmt.Errorf("there is no file in %s", st.Name())
	}
	if err != nil {
		return nil, nil, errors.Join(err, st.Close())
	}
	tree.Sort()
	return tree, st.Close, nil
}
