// Package catalog looks into backups, verifies them, and keeps them small.
package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/metrics/prom"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/store"
)

// App is the command kbk-catalog.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-catalog",
		Usage: "look into backups, verify them, and keep them small",
		Description: `A REMOTE is a backup: a local folder, or REMOTE:PATH as rclone knows it.

   kbk-catalog show s3:bucket/nightly
   kbk-catalog status -b localhost:9092 s3:bucket/nightly
   kbk-catalog verify --deep -i key.txt s3:bucket/nightly
   kbk-catalog cursor s3:bucket/nightly | kbk-fetch -b localhost:9092 -t orders --from - | …`,
		Commands: []command.Spec{
			listSpec(), showSpec(), statusSpec(), verifySpec(), cursorSpec(), catSpec(), compactSpec(), pruneSpec(), repairSpec(), checkSpec(),
		},
		Values: store.Values(),
	})
}

// remote is the argument that all of the commands begin with.
func remote(c *cli.Context) (string, error) {
	if c.Args().First() == "" {
		return "", command.WithHint(command.Usagef("no remote"), "say where the backup is: a folder, or REMOTE:PATH as rclone knows it")
	}
	return c.Args().First(), nil
}

// with opens the backup that the command is about, and gives it to do.
func with(ctx context.Context, c *cli.Context, opts store.Options, do func(*store.Store) error) (err error) {
	name, err := remote(c)
	if err != nil {
		return err
	}
	st, err := store.OpenWith(ctx, name, opts)
	if err != nil {
		return err
	}
	err = do(st)
	if store.IsDamage(err) && command.StatusOf(err) == command.Failed {
		err = command.WithStatus(command.Corrupt, err)
	}
	return errors.Join(err, st.Close())
}

// load reads a backup's log. That there is none is an error.
func load(ctx context.Context, st *store.Store, opts store.LogOptions, env *command.Env) (*store.Log, error) {
	log, err := st.ReadLog(ctx, opts)
	if store.IsDamage(err) && !opts.SkipDamaged {
		err = command.WithHint(err, "kbk-catalog verify shows all that is wrong, kbk-catalog repair what can be done; --skip-damaged continues without it")
	}
	if err != nil {
		return nil, err
	}
	log.Warn(env.Log)
	if log.Entries() == 0 && len(log.Damage) == 0 {
		return nil, noBackup(st)
	}
	return log, nil
}

// logFlags are about how a log is read.
func logFlags() []cli.Flag {
	return []cli.Flag{
		sign.SignersFlag(),
		&cli.BoolFlag{Name: "skip-damaged", Usage: "continue without files of the log that are missing, damaged or not signed, and end with status 4"},
	}
}

// reading is the [store.LogOptions] that [logFlags] ask for.
func reading(c *cli.Context) (store.LogOptions, error) {
	signers, err := sign.SignersFromFlags(c)
	return store.LogOptions{SkipDamaged: c.Bool("skip-damaged"), Signed: signers.Check()}, err
}

// without is the error of status [command.Loss] for what was left out of a log, or nil.
func without(log *store.Log) error {
	if len(log.Damage) == 0 {
		return nil
	}
	return command.WithStatus(command.Loss, fmt.Errorf("done, but without %s of the log", command.Count(int64(len(log.Damage)), "damaged file")))
}

// errNoBackup is the error for a remote without a log.
var errNoBackup = errors.New("it has no log")

func noBackup(st *store.Store) error {
	return command.WithHint(fmt.Errorf("no backup in %s: %w", st.Name(), errNoBackup), "kbk-catalog list shows the backups below a remote")
}

// noSegments is the [store.LogOptions] Keep of who needs sums only.
func noSegments(string, int32) bool { return false }

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

func topicFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "show `TOPIC`: a name, a name with partitions (orders:0,3-5), or a regular expression that begins with ^; repeatable", DefaultText: "all"},
		&cli.StringSliceFlag{Name: "exclude", Usage: "leave out `TOPIC`: a name, or a regular expression that begins with ^; repeatable"},
	}
}

func matcher(c *cli.Context) (*partitions.Matcher, error) {
	m, err := partitions.Selection{Topics: c.StringSlice("topic"), Exclude: c.StringSlice("exclude")}.Compile()
	if err != nil {
		err = command.WithStatus(command.Usage, err)
	}
	return m, err
}

func listSpec() command.Spec {
	return command.Spec{
		Name: "list", Usage: "list the backups below a remote", Args: "REMOTE", MaxArgs: 1,
		Description: "Looks for backups at REMOTE and in the folders below it, and prints what their manifests say.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "depth", Value: 3, Usage: "look `N` folders deep"},
			jsonFlag(),
		},
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			if c.Int("depth") < 0 {
				return command.Usagef("--depth %d is below 0", c.Int("depth"))
			}
			return with(ctx, c, store.Options{}, func(st *store.Store) error {
				return List(ctx, st, c.Int("depth"), c.Bool("json"), env, os.Stdout)
			})
		},
	}
}

func showSpec() command.Spec {
	return command.Spec{
		Name: "show", Usage: "show what a backup holds", Args: "REMOTE", MaxArgs: 1,
		Description: "Prints topics, what of them is there, lost and missing, consumer groups and restore points. With -t it prints partitions, too.",
		Flags: append(append(topicFlags(), logFlags()...), jsonFlag(),
			&cli.StringFlag{Name: "html", Usage: "write a page with timelines to `FILE` instead"},
		),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			m, err := matcher(c)
			if err != nil {
				return err
			}
			if c.Bool("json") && c.String("html") != "" {
				return command.Usagef("--json and --html exclude one another")
			}
			opts, err := reading(c)
			if err != nil {
				return err
			}
			return with(ctx, c, store.Options{}, func(st *store.Store) error {
				if file := c.String("html"); file != "" {
					return HTML(ctx, st, opts, m, file, env)
				}
				return Show(ctx, st, opts, m, len(c.StringSlice("topic")) > 0, c.Bool("json"), env, os.Stdout)
			})
		},
	}
}

func verifySpec() command.Spec {
	return command.Spec{
		Name: "verify", Usage: "verify a backup", Args: "REMOTE", MaxArgs: 1, Metrics: prom.Open,
		Description: `Verifies the chain of the log, that coverage has no holes, and that all objects are there
and have the right size. With --deep it downloads, decrypts and decompresses them, too: all, or
a part, --deep=2/7 today and --deep=3/7 tomorrow, --deep=5% or --deep=10GiB at random.
What is wrong is listed on standard output, and the exit status is 3.`,
		Flags: append([]cli.Flag{
			newDeepFlag(),
			sign.SignersFlag(),
			&cli.IntFlag{Name: "transfers", Value: 8, Usage: "with --deep: download `N` segments at once"},
			command.SizeFlag("memory", 256<<20, "with --deep: hold at most `SIZE` of segments in memory"),
			jsonFlag(),
			&cli.StringFlag{Name: "report", Usage: "write what was found to `FILE`, too: a page if its name ends in .html, JSON if it ends in .json"},
			&cli.StringFlag{Name: "sign", Usage: "with --report: sign it with the SSH key in `FILE`"},
			&cli.StringFlag{Name: "sign-passphrase-file", Usage: "read the passphrase of that key from `FILE`", EnvVars: []string{"KBK_SIGN_PASSPHRASE_FILE"}},
		}, segment.IdentityFlags()...),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			cfg := VerifyConfig{Transfers: c.Int("transfers"), Memory: command.SizeOf(c, "memory"), JSON: c.Bool("json"), Report: c.String("report")}
			var err error
			if cfg.Deep, cfg.Part, err = deepFrom(c); err != nil {
				return err
			}
			switch {
			case cfg.Transfers < 1:
				return command.Usagef("--transfers %d is below 1", cfg.Transfers)
			case cfg.Memory < 1<<20:
				return command.Usagef("--memory is below 1MiB")
			case !cfg.Deep && (c.IsSet("identity") || c.IsSet("passphrase-file")):
				return command.Usagef("keys are only of use with --deep")
			case cfg.Report != "" && !isReport(cfg.Report):
				return command.Usagef("--report %s: its name ends neither in .html nor in .json", cfg.Report)
			}
			if cfg.Report != "" { // a configuration file may have a key for other commands
				key, err := sign.FromFlags(c)
				if err != nil {
					return err
				}
				if key != nil {
					defer key.Close()
					cfg.Sign = key.Sign
				}
			}
			if cfg.Deep {
				if cfg.Identities, err = segment.KeysOf(c).Decryption(ctx, env); err != nil {
					return err
				}
			}
			if cfg.Signers, err = sign.SignersFromFlags(c); err != nil {
				return err
			}
			return with(ctx, c, store.Options{Counters: &env.Counters}, func(st *store.Store) error { return Verify(ctx, st, cfg, env, os.Stdout) })
		},
	}
}

func cursorSpec() command.Spec {
	return command.Spec{
		Name: "cursor", Usage: "print where the next run begins", Args: "REMOTE", MaxArgs: 1,
		Description: `Prints, as kbk-fetch --from reads it, how far each partition of the backup goes. What was
read through a filter or a window does not count: a run without them stores the whole. With
--skip-damaged, where the log has damaged files, it is how far each partition goes without a hole
from offset 0 on.`,
		Flags: append(logFlags(),
			&cli.BoolFlag{Name: "filtered", Usage: "count what was read through filters, too: for jobs that always filter"},
		),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			opts, err := reading(c)
			if err != nil {
				return err
			}
			return with(ctx, c, store.Options{}, func(st *store.Store) error { return Cursor(ctx, st, opts, c.Bool("filtered"), env, os.Stdout) })
		},
	}
}

// Cursor prints the next offset to read of each partition. Of a backup that does not
// exist yet there is none: the next run begins at the beginning. What only filtered runs
// have counts if filtered is set, and is named if it is not.
func Cursor(ctx context.Context, st *store.Store, opts store.LogOptions, filtered bool, env *command.Env, out io.Writer) error {
	opts.Keep = noSegments
	log, err := load(ctx, st, opts, env)
	if errors.Is(err, errNoBackup) {
		var has bool
		if has, err = st.HasSegments(ctx); has {
			env.Log.Warn(st.Name() + ": " + store.LogLost)
		}
		log = &store.Log{State: new(commitlog.State)}
	}
	if err != nil {
		return err
	}
	cur := cursor.Cursor{Version: cursor.Version, Topics: make(map[string]cursor.Topic)}
	for name, pos := range log.Cursor(filtered) {
		if len(log.Damage) > 0 { // what a damaged file stood for is to be read again
			for number, next := range pos.Partitions {
				known, ok := log.UpToHole(name, pos.ID, number, filtered)
				if pos.Partitions[number] = min(next, known); known < next {
					delete(pos.Epochs, number)
				}
				if !ok { // to be read from its beginning
					delete(pos.Partitions, number)
				}
			}
		}
		cur.Topics[name] = cursor.Topic{ID: pos.ID, Partitions: pos.Partitions, Epochs: pos.Epochs}
	}
	if !filtered {
		for _, line := range onlyFiltered(log.State) {
			env.Log.Warn(line)
		}
	}
	return errors.Join(json.NewEncoder(out).Encode(cur), without(log))
}

// onlyFiltered says, in a line for each topic, what is in the backup only as filters have
// left it.
func onlyFiltered(state *commitlog.State) (lines []string) {
	for _, name := range state.Topics() {
		ids := state.Incarnations(name)
		id := ids[len(ids)-1]
		var offsets int64
		var first string
		filters := make(map[string]bool)
		for _, n := range state.Partitions(name, id) {
			for _, f := range state.OnlyFiltered(name, id, n) {
				if first == "" {
					first = fmt.Sprintf("%s/%d: offsets %d to %d", name, n, f.From, f.Next-1)
				}
				offsets += f.Next - f.From
				filters[strings.Join(f.Filters, ", ")] = true
			}
		}
		if offsets > 0 {
			lines = append(lines, fmt.Sprintf("%s: %s are in the backup only as filters have left them (%s; the first: %s)",
				printable(name), command.Count(offsets, "offset"), strings.Join(sortedKeys(filters), "; "), first))
		}
	}
	return lines
}

func catSpec() command.Spec {
	return command.Spec{
		Name: "cat", Usage: "print records of one partition, or a snapshot of the cluster", Args: "REMOTE TOPIC:PARTITION", MaxArgs: 2,
		Description: `Writes records of a partition to standard output, as a stream or, with --json, as lines for
a look: keys and values that are no text are in base64. With --cluster-snapshot it writes a snapshot
of what the cluster has besides records.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "cluster-snapshot", Usage: "instead of records write the snapshot `ID` of the cluster, as show lists it, or " + Latest},
			&cli.StringFlag{Name: "topic-id", Usage: "if the topic was deleted and created again, take the incarnation `ID`, not the newest"},
			&cli.StringFlag{Name: "from", Usage: "begin at `OFFSET`", DefaultText: "beginning"},
			&cli.StringFlag{Name: "to", Usage: "end before `OFFSET`", DefaultText: "end"},
			&cli.StringFlag{Name: "since", Usage: "only records with timestamps at or after `TIME`"},
			&cli.StringFlag{Name: "until", Usage: "only records with timestamps at or before `TIME`"},
			&cli.Int64Flag{Name: "limit", Aliases: []string{"n"}, Usage: "at most `N` records", DefaultText: "no limit"},
			jsonFlag(),
			command.MaxFrameFlag(),
		}, append(logFlags(), segment.IdentityFlags()...)...),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			if c.IsSet("cluster-snapshot") {
				return catCluster(ctx, c, env)
			}
			cfg, err := catConfig(c, time.Now())
			if err != nil {
				return err
			}
			var out *os.File
			if cfg.Log, cfg.Identities, out, err = catInAndOut(ctx, c, env); err != nil {
				return err
			}
			return with(ctx, c, store.Options{}, func(st *store.Store) error { return Cat(ctx, st, cfg, env, out) })
		},
	}
}

// catInAndOut is what cat needs for records and for a snapshot: how the log is read, the keys, and
// where the output goes.
func catInAndOut(ctx context.Context, c *cli.Context, env *command.Env) (log store.LogOptions, keys []age.Identity, out *os.File, err error) {
	if log, err = reading(c); err != nil {
		return log, nil, nil, err
	}
	if keys, err = segment.KeysOf(c).Decryption(ctx, env); err != nil {
		return log, nil, nil, err
	}
	if c.Bool("json") {
		return log, keys, os.Stdout, nil
	}
	if out, err = command.Stdout(); err != nil {
		err = command.WithHint(err, "--json prints lines for people")
	}
	return log, keys, out, err
}

// catCluster reads the flags of cat for a snapshot of a cluster.
func catCluster(ctx context.Context, c *cli.Context, env *command.Env) error {
	for _, name := range []string{"topic-id", "from", "to", "since", "until", "limit"} {
		if c.IsSet(name) {
			return command.Usagef("--%s does not go with --cluster-snapshot", name)
		}
	}
	if c.NArg() > 1 {
		return command.Usagef("%q: --cluster-snapshot reads no partition", c.Args().Get(1))
	}
	cfg := CatClusterConfig{ID: c.String("cluster-snapshot"), MaxFrame: command.SizeOf(c, "max-frame"), JSON: c.Bool("json")}
	var out *os.File
	var err error
	if cfg.Log, cfg.Identities, out, err = catInAndOut(ctx, c, env); err != nil {
		return err
	}
	return with(ctx, c, store.Options{}, func(st *store.Store) error { return CatCluster(ctx, st, cfg, env, out) })
}

func catConfig(c *cli.Context, now time.Time) (CatConfig, error) {
	cfg := CatConfig{
		TopicID: c.String("topic-id"), Limit: c.Int64("limit"), JSON: c.Bool("json"),
		Since: -1 << 63, Until: 1<<63 - 1, MaxFrame: command.SizeOf(c, "max-frame"),
	}
	topic, number, found := strings.Cut(c.Args().Get(1), ":")
	n, err := strconv.ParseUint(number, 10, 31)
	switch {
	case !found || topic == "" || err != nil:
		return cfg, command.WithHint(command.Usagef("%q is not a topic and a partition, such as orders:3", c.Args().Get(1)), "kbk-catalog show lists the topics")
	case cfg.Limit < 0 || c.IsSet("limit") && cfg.Limit == 0:
		return cfg, command.Usagef("--limit %d is below 1", cfg.Limit)
	}
	cfg.Topic, cfg.Partition = topic, int32(n)
	if cfg.From, cfg.To, err = command.OffsetsFromFlags(c); err != nil {
		return cfg, err
	}
	cfg.To = cmp.Or(cfg.To, 1<<63-1)
	since, until, err := command.TimesFromFlags(c, now)
	if since != nil {
		cfg.Since = since.UnixMilli()
	}
	if until != nil {
		cfg.Until = until.UnixMilli()
	}
	return cfg, err
}

func compactSpec() command.Spec {
	return command.Spec{
		Name: "compact", Usage: "fold a backup's log into a snapshot", Args: "REMOTE", MaxArgs: 1,
		Description: `Writes one file that stands for all entries of the log, and indexes of the segments, and
deletes the entries. Pushes may go on meanwhile; another compact or prune may not.`,
		Flags: signFlags(),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			return rewriting(ctx, c, func(st *store.Store, s Signing) error {
				return Compact(ctx, st, s, env)
			})
		},
	}
}

// A Signing says how a log that is rewritten is signed.
type Signing struct {
	Signs    bool         // the store signs what is written to the log
	Signers  sign.Signers // whose files count; nil: everybody's
	Unsigned bool         // files without a signature count, too
}

func signFlags() []cli.Flag {
	return append(sign.Flags(), sign.SignersFlag(),
		&cli.BoolFlag{Name: "sign-unsigned", Usage: "with --sign: sign what nobody has signed, too; needed once, when you begin to sign"})
}

// rewriting is [with] for a command that writes to the log, and signs it if asked to.
func rewriting(ctx context.Context, c *cli.Context, do func(*store.Store, Signing) error) error {
	key, err := sign.FromFlags(c)
	if err != nil {
		return err
	}
	s := Signing{Signs: key != nil, Unsigned: c.Bool("sign-unsigned")}
	if s.Unsigned && key == nil {
		return command.Usagef("--sign-unsigned is of no use without --sign")
	}
	if s.Signers, err = sign.SignersFromFlags(c); err != nil {
		return err
	}
	opts := store.Options{}
	if key != nil {
		defer key.Close()
		opts.Sign = key.Sign
		if s.Signers == nil { // one signs for nothing but what one has signed
			s.Signers = key.Signers()
		}
	}
	return with(ctx, c, opts, func(st *store.Store) error { return do(st, s) })
}

// sortedKeys is a map's keys in order.
func sortedKeys[M ~map[K]V, K cmp.Ordered, V any](m M) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
