// Package cluster backs up and restores what a cluster has besides its records: ACLs, quotas,
// users, configs, and the schemas and connectors that belong to it.
package cluster

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/carry"
	"github.com/kbkio/kbk/pkg/cluster/rest"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// App is the command kbk-cluster.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-cluster",
		Usage: "back up and restore ACLs, quotas, users, configs, schemas and connectors",
		Description: `Writes what a cluster has besides its records as a stream, which is packed, encrypted and stored
as records are:

   kbk-cluster snapshot -b src:9092 | kbk-pack --recipient KEY | kbk-push REMOTE

Shows what is different in another cluster, and makes it the same:

   kbk-pull REMOTE | kbk-pack -d > cluster.kbk
   kbk-cluster plan -b dst:9092 < cluster.kbk
   kbk-cluster apply -b dst:9092 --save before.kbk < cluster.kbk`,
		Values: values(),
		Commands: []command.Spec{
			{
				Name: "snapshot", Usage: "write what a cluster has besides its records",
				Flags: flags(kindFlags(), []cli.Flag{
					&cli.BoolFlag{Name: "strict", Usage: "exit with status 4 where anything is left out"},
				}),
				Action: snapshot,
			},
			{
				Name: "plan", Usage: "show what apply would change",
				Flags: flags(kindFlags(), nameFlags(), []cli.Flag{
					&cli.BoolFlag{Name: "json", Usage: "write JSON, one change a line"}, command.MaxFrameFlag(),
				}),
				Action: plan,
			},
			{
				Name: "apply", Usage: "change a cluster to what the snapshot has",
				Flags: flags(kindFlags(), nameFlags(), pruneFlags(), passwordFlags(), []cli.Flag{
					&cli.StringFlag{Name: "save", Usage: "save what is changed in `FILE`, which must not exist", DefaultText: "kbk-cluster-before-TIME.kbk"},
					&cli.StringFlag{Name: "schema-ids", Usage: "write to `FILE` which ids the schemas have in the target, for kbk-filter --schema-id-map"},
					command.MaxFrameFlag(),
				}),
				Action: apply,
			},
			{
				Name: "rollback", Usage: "take back what apply has changed", Args: "FILE", MaxArgs: 1,
				Flags: flags(passwordFlags(), []cli.Flag{
					&cli.BoolFlag{Name: "force", Usage: "also put back what has changed since"}, command.MaxFrameFlag(),
				}),
				Action: rollback,
			},
			{
				Name: "script", Usage: "write the plan as commands of Kafka's own tools",
				Flags: flags(kindFlags(), nameFlags(), []cli.Flag{
					&cli.BoolFlag{Name: "prune", Usage: "also delete what the snapshot does not have"}, command.MaxFrameFlag(),
				}),
				Action: script,
			},
			{
				Name: "verify", Usage: "compare a cluster with the snapshot",
				Flags:  flags(kindFlags(), nameFlags(), []cli.Flag{command.MaxFrameFlag()}),
				Action: verify,
			},
		},
	})
}

// flags are those of connections, and others.
func flags(more ...[]cli.Flag) []cli.Flag {
	return slices.Concat(append([][]cli.Flag{kafka.Flags(), rest.Flags("schema-registry", registryTitle), rest.Flags("connect", connectTitle)}, more...)...)
}

const registryTitle, connectTitle = "the schema registry", "Kafka Connect"

// whereOf reads the flags of connections.
func whereOf(c *cli.Context) (w Where, err error) {
	if w.Kafka, err = kafka.FromFlags(c); err != nil {
		return w, err
	}
	if w.Registry, err = rest.FromFlags(c, "schema-registry", registryTitle); err != nil {
		return w, err
	}
	w.Connect, err = rest.FromFlags(c, "connect", connectTitle)
	return w, err
}

// kinds are those that kbk-cluster knows.
var kinds = format.ClusterKinds

// flagOf is the flag for the connection to what has a kind, where that is not Kafka.
var flagOf = map[string]string{format.ClusterSchemas: "--schema-registry", format.ClusterConnectors: "--connect"}

// has tells whether there is a connection to what has a kind.
func (w *Where) has(kind string) bool {
	switch kind {
	case format.ClusterSchemas:
		return w.Registry != nil
	case format.ClusterConnectors:
		return w.Connect != nil
	}
	return true
}

func kindFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "only", Usage: "only `KIND,…`: " + strings.Join(kinds, ", ") + "; repeatable", DefaultText: "all kinds"},
		&cli.StringSliceFlag{Name: "exclude", Usage: "leave out `KIND,…`, likewise; repeatable"},
	}
}

func nameFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "rename", Usage: "topic OLD is NEW in the target, as `OLD=NEW`, or ^REGEXP=NEW with $1 for its first group; repeatable"},
		&cli.StringFlag{Name: "prefix", Usage: "put `TEXT` before the names of topics that --rename does not change"},
		&cli.StringSliceFlag{Name: "rename-group", Usage: "consumer group OLD is NEW in the target, as `OLD=NEW`, likewise; repeatable"},
		&cli.StringSliceFlag{Name: "map-principal", Usage: "principal FROM is TO in the target, as `FROM=TO`, likewise; repeatable"},
	}
}

func pruneFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "prune", Usage: "also delete what the snapshot does not have; asks on the terminal before"},
		&cli.BoolFlag{Name: "yes", Usage: "with --prune: delete without asking"},
	}
}

func passwordFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "passwords-file", Usage: "read the passwords of users from `FILE`: USER=PASSWORD lines, or a JSON object"},
	}
}

// values complete what the flags of kinds take.
func values() map[string]command.Completer {
	v := kafka.Values()
	v["KIND,…"] = func(context.Context, *cli.Context) []string { return kinds }
	return v
}

// kindsOf are the kinds that the flags choose.
func kindsOf(c *cli.Context, w Where) (chosen []string, named bool, err error) {
	only, err := listOf(c, "only")
	if err != nil {
		return nil, false, err
	}
	exclude, err := listOf(c, "exclude")
	if err != nil {
		return nil, false, err
	}
	for _, k := range kinds {
		switch {
		case slices.Contains(exclude, k):
		case slices.Contains(only, k) && !w.has(k):
			return nil, false, command.Usagef("--only %s: %s says where they are", k, flagOf[k])
		case w.has(k) && (len(only) == 0 || slices.Contains(only, k)):
			chosen = append(chosen, k)
		}
	}
	if len(chosen) == 0 {
		return nil, false, command.Usagef("--only and --exclude leave nothing")
	}
	return chosen, len(only) > 0, nil
}

func listOf(c *cli.Context, flag string) (out []string, err error) {
	for _, list := range c.StringSlice(flag) {
		for _, k := range strings.Split(list, ",") {
			if k = strings.TrimSpace(k); !slices.Contains(kinds, k) {
				return nil, command.Usagef("--%s %q is none of %s%s", flag, k, strings.Join(kinds, ", "), command.Nearest(k, kinds))
			}
			out = append(out, k)
		}
	}
	return out, nil
}

// rulesOf are the names that the flags give.
func rulesOf(c *cli.Context) (r carry.Rules, err error) {
	for _, f := range []struct {
		flag string
		to   **pattern.Renames
	}{{"rename", &r.Topics.Renames}, {"rename-group", &r.Groups.Renames}, {"map-principal", &r.Principals}} {
		if *f.to, err = pattern.CompileRenames(c.StringSlice(f.flag)); err != nil {
			return r, command.Usagef("--%s %v", f.flag, err)
		}
	}
	r.Topics.Prefix = c.String("prefix")
	return r, nil
}

func snapshot(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := SnapshotConfig{Strict: c.Bool("strict")}
	var err error
	if cfg.Where, err = whereOf(c); err != nil {
		return err
	}
	if cfg.Kinds, cfg.Named, err = kindsOf(c, cfg.Where); err != nil {
		return err
	}
	out, err := command.Stdout()
	if err != nil {
		return command.WithHint(err, "the stream is binary: pipe it into kbk-pack, or redirect it into a file")
	}
	return Snapshot(ctx, cfg, env, out)
}

func planConfig(c *cli.Context) (cfg PlanConfig, err error) {
	cfg.MaxFrame = command.SizeOf(c, "max-frame")
	if cfg.Where, err = whereOf(c); err != nil {
		return cfg, err
	}
	if cfg.Kinds, cfg.Named, err = kindsOf(c, cfg.Where); err != nil {
		return cfg, err
	}
	cfg.Rules, err = rulesOf(c)
	return cfg, err
}

// planInput is what a plan is made of: the flags, and the input.
func planInput(c *cli.Context) (cfg PlanConfig, in *os.File, err error) {
	if cfg, err = planConfig(c); err == nil {
		in, err = command.Stdin()
	}
	return cfg, in, err
}

func plan(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg, in, err := planInput(c)
	if err != nil {
		return err
	}
	return Plan(ctx, cfg, c.Bool("json"), env, in, os.Stdout)
}

func verify(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg, in, err := planInput(c)
	if err != nil {
		return err
	}
	return Verify(ctx, cfg, env, in, os.Stdout)
}

func script(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg, in, err := planInput(c)
	if err != nil {
		return err
	}
	return Script(ctx, cfg, c.Bool("prune"), env, in, os.Stdout)
}

func apply(ctx context.Context, c *cli.Context, env *command.Env) error {
	p, err := planConfig(c)
	if err != nil {
		return err
	}
	cfg := ApplyConfig{PlanConfig: p, Save: c.String("save"), SchemaIDs: c.String("schema-ids"), Prune: c.Bool("prune"), Yes: c.Bool("yes")}
	if cfg.Yes && !cfg.Prune {
		return command.Usagef("--yes is only for --prune")
	}
	if cfg.Password, err = passwords(c.String("passwords-file"), os.Getenv, env.Log); err != nil {
		return err
	}
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	return Apply(ctx, cfg, env, in, os.Stdout)
}

func rollback(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := RollbackConfig{File: c.Args().First(), Force: c.Bool("force"), MaxFrame: command.SizeOf(c, "max-frame")}
	if cfg.File == "" {
		return command.WithHint(command.Usagef("no file"), "name the file in which apply has saved what it changed")
	}
	var err error
	if cfg.Where, err = whereOf(c); err != nil {
		return err
	}
	if cfg.Password, err = passwords(c.String("passwords-file"), os.Getenv, env.Log); err != nil {
		return err
	}
	return Rollback(ctx, cfg, env, os.Stdout)
}
