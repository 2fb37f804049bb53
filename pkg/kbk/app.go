// Package kbk is the command kbk: it prints and runs the pipes that profiles stand for. It
// keeps no state, and knows no format.
package kbk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pipeline"
	"github.com/kbkio/kbk/pkg/profile"
)

// App is the command kbk.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk",
		Usage: "back up, restore and watch Kafka by profiles",
		Description: `A profile in kbk.yaml says what is backed up and where to. kbk runs the pipe that follows from
it, and with --print prints that pipe for a shell instead.

   kbk init && $EDITOR kbk.yaml && kbk doctor nightly
   kbk backup nightly
   kbk restore nightly --at 24h --to test

A tutorial and how-to guides: https://github.com/kbkio/kbk/tree/main/docs, or
/usr/share/doc/kbk/docs if a package is installed. man kbk is the entry page of the manual.`,
		Commands: []command.Spec{
			initSpec(), backupSpec(), restoreSpec(), mirrorSpec(), statusSpec(), drillSpec(), doctorSpec(), digestSpec(), completionSpec(),
		},
		Values: map[string]command.Completer{"PROFILE": profiles, "to": targets, "topic": ofBackup("--topic"), "at": ofBackup("--at")},
	})
}

// defaultFile is read where --config and KBK_CONFIG name none.
const defaultFile = "kbk.yaml"

func configPath(c *cli.Context) string {
	if path := c.String("config"); path != "" {
		return path
	}
	return defaultFile
}

// load reads the file, and the names of the profiles that are meant: that of the argument, or all.
func load(c *cli.Context) (*profile.File, []string, error) {
	f, err := profile.Load(configPath(c))
	if err != nil {
		return nil, nil, err
	}
	names := f.Names()
	if c.NArg() > 0 {
		names = c.Args().Slice()
	}
	if len(names) == 0 {
		return nil, nil, noProfile(f)
	}
	return f, names, nil
}

func printFlag() cli.Flag {
	return &cli.BoolFlag{Name: "print", Usage: "print the pipe as a line for sh, and run nothing"}
}

func targetFlag(usage string) cli.Flag { return &cli.StringFlag{Name: "to", Usage: usage} }

func restoreFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "at", Usage: "restore up to the last restore point at or before `TIME`", DefaultText: "all that is there"},
		&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "restore only `TOPIC`: a name, or a regular expression that begins with ^; repeatable", DefaultText: "all"},
	}
}

func backupSpec() command.Spec {
	return command.Spec{
		Name: "backup", Usage: "back up what a profile says", Args: "PROFILE", MaxArgs: 1,
		Description: `Goes on from where the backup ends. When that has ended well, it prunes and verifies the
backup as the profile says.`,
		Flags: []cli.Flag{printFlag()},
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			p, b, err := open(c)
			if err != nil {
				return err
			}
			return runOrPrint(ctx, c, env, p, b.Backup(p, time.Now().Weekday()))
		},
	}
}

func restoreSpec() command.Spec {
	return command.Spec{
		Name: "restore", Usage: "restore the backup of a profile", Args: "PROFILE", MaxArgs: 1,
		Description: `Restores all topics of the backup to a target of the profile, to another cluster of the file,
or, without --to, to the cluster that it is of. A topic that is there and holds other records
is never written to.`,
		Flags: append(restoreFlags(),
			targetFlag("restore to this `TARGET` of the profile, or to this cluster of the section clusters"),
			&cli.StringFlag{Name: "prefix", Usage: "put `TEXT` before the names of the topics, whatever the target says"},
			&cli.BoolFlag{Name: "groups", Usage: "carry the consumer groups over, too"},
			printFlag()),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			p, b, r, err := openRestore(c)
			if err != nil {
				return err
			}
			if c.IsSet("prefix") {
				r.Target.Prefix = c.String("prefix")
			}
			r.Target.Groups = r.Target.Groups || c.Bool("groups")
			if !r.Target.Groups && len(p.Groups) > 0 && !c.Bool("print") {
				env.Log.Info("consumer groups are left as they are in the target: --groups carries them over")
			}
			return runOrPrint(ctx, c, env, p, b.Restore(p, r))
		},
	}
}

// openRestore is [open] for what is restored, as the flags say, to a target of the profile.
func openRestore(c *cli.Context) (p *profile.Profile, b profile.Builder, r profile.Restore, err error) {
	if p, b, err = open(c); err != nil {
		return nil, b, r, err
	}
	r = profile.Restore{At: c.String("at"), Topics: c.StringSlice("topic")}
	if r.Target, err = b.File.Target(p, c.String("to")); err != nil {
		return nil, b, r, command.Usagef("--to: %w", err)
	}
	return p, b, r, nil
}

func mirrorSpec() command.Spec {
	return command.Spec{
		Name: "mirror", Usage: "keep another cluster the same as that of a profile", Args: "PROFILE", MaxArgs: 1,
		Description: "Runs until it is stopped. The target is the one that the profile names under mirror, or --to.",
		Flags:       []cli.Flag{targetFlag("mirror to this `TARGET` of the profile, or to this cluster of the section clusters"), printFlag()},
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			p, b, err := open(c)
			if err != nil {
				return err
			}
			name := p.Mirror
			if c.String("to") != "" {
				name = c.String("to")
			}
			if name == "" {
				return command.WithHint(command.Usagef("the profile %s names no mirror", p.Name), "write mirror: TARGET in the profile, or give --to TARGET")
			}
			t, err := b.File.Target(p, name)
			if err != nil {
				return command.Usagef("--to: %w", err)
			}
			if t.Cluster == p.Cluster {
				return command.Usagef("the target %s is the cluster that is mirrored", name)
			}
			return runOrPrint(ctx, c, env, p, b.Mirror(p, t))
		},
	}
}

func statusSpec() command.Spec {
	return command.Spec{
		Name: "status", Usage: "say whether backups are good", Args: "[PROFILE]", MaxArgs: 1,
		Description: "Runs kbk-catalog status for a profile, or for all of them. The status is the worst of theirs.",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print JSON"}, printFlag()},
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			f, names, err := load(c)
			if err != nil {
				return err
			}
			var more []string
			if c.Bool("json") {
				more = append(more, "--json")
			}
			b := builder(c, f)
			return statuses(ctx, c, env, f, names, func(p *profile.Profile) []pipeline.Step { return b.Status(p, more...) })
		},
	}
}

// statuses asks for the status of each profile, whatever that of the others is.
func statuses(ctx context.Context, c *cli.Context, env *command.Env, f *profile.File, names []string, steps func(*profile.Profile) []pipeline.Step) error {
	var worst error
	for _, name := range names {
		p, err := f.Profile(name)
		if err != nil {
			return err
		}
		if len(names) > 1 && !c.Bool("json") {
			if _, err := fmt.Fprintf(os.Stdout, "# %s\n", name); err != nil {
				return err
			}
		}
		err = verdict(name, runOrPrint(ctx, c, env, p, steps(p)))
		if command.StatusOf(err) == command.Interrupted {
			return err
		}
		if worse(err, worst) {
			if worst != nil {
				env.Log.Warn(worst.Error())
			}
			worst = err
		} else if err != nil {
			env.Log.Warn(err.Error())
		}
	}
	return worst
}

// verdict is the error for a backup that is not good: it has been said why.
func verdict(name string, err error) error {
	switch status := command.StatusOf(err); status {
	case command.Loss, command.Corrupt:
		return command.WithStatus(status, fmt.Errorf("the backup %s is not good: see above", name))
	}
	return err
}

// worse says whether a says more of what is wrong than b: a failure more than a loss.
func worse(a, b error) bool {
	rank := func(err error) int {
		switch command.StatusOf(err) {
		case command.OK:
			return 0
		case command.Loss:
			return 1
		}
		return 2
	}
	return rank(a) > rank(b)
}

// open reads the file, and the profile that the command is about.
func open(c *cli.Context) (*profile.Profile, profile.Builder, error) {
	f, err := profile.Load(configPath(c))
	if err != nil {
		return nil, profile.Builder{}, err
	}
	if c.Args().First() == "" {
		return nil, profile.Builder{}, noProfile(f)
	}
	p, err := f.Profile(c.Args().First())
	return p, builder(c, f), err
}

func noProfile(f *profile.File) error {
	err := command.Usagef("no profile")
	if len(f.Names()) == 0 {
		return command.WithHint(err, f.Path+" has none: kbk init writes a file with one")
	}
	return command.WithHint(err, "the profiles in "+f.Path+": "+strings.Join(f.Names(), ", "))
}

// builder gives the stages the flags of kbk's own output.
func builder(c *cli.Context, f *profile.File) profile.Builder {
	b := profile.Builder{File: f}
	for _, name := range []string{"quiet", "verbose"} {
		if command.Given(c, name) && c.Bool(name) {
			b.Output = append(b.Output, "--"+name)
		}
	}
	if command.Given(c, "log-format") {
		b.Output = append(b.Output, "--log-format", c.String("log-format"))
	}
	return b
}

func runOrPrint(ctx context.Context, c *cli.Context, env *command.Env, p *profile.Profile, steps []pipeline.Step) error {
	if c.Bool("print") {
		_, err := io.WriteString(os.Stdout, pipeline.Script(steps, pipeline.Called))
		return err
	}
	return runSteps(ctx, env, p.Name, steps)
}

func runSteps(ctx context.Context, env *command.Env, name string, steps []pipeline.Step) error {
	r := &pipeline.Runner{Find: pipeline.Find, Stop: env.Stop}
	var apart error // of a step before, that was apart
	for i, step := range steps {
		if i > 0 && stopped(env) {
			return command.Stopped(leftOut(steps[i:]))
		}
		got, err := r.Run(ctx, step, nil)
		if err == nil {
			err = explain(step.What+" of "+name, got)
		}
		if err != nil && step.Apart && command.StatusOf(err) != command.Interrupted {
			apart = err
			continue
		}
		if err = withApart(err, apart); err != nil {
			if rest := leftOut(steps[i+1:]); rest != "" && command.StatusOf(err) != command.Interrupted {
				err = fmt.Errorf("%w; %s", err, rest)
			}
			return err
		}
	}
	return apart
}

// withApart is the error of a step behind one that was apart: what failed in either of them.
func withApart(err, apart error) error {
	switch {
	case apart == nil, err != nil && command.StatusOf(err) == command.Interrupted:
		return err
	case err == nil:
		return apart
	case worse(apart, err):
		err, apart = apart, err
	}
	return fmt.Errorf("%w; %v", err, apart)
}

func stopped(env *command.Env) bool {
	select {
	case <-env.Stop:
		return true
	default:
		return false
	}
}

// leftOut says which steps were not done.
func leftOut(steps []pipeline.Step) string {
	var names []string
	for _, s := range steps {
		names = append(names, s.What)
	}
	switch len(names) {
	case 0:
		return ""
	case 1:
		return names[0] + " was left out"
	}
	return strings.Join(names, " and ") + " were left out"
}

// explain is the error for how a pipe ended: one line, which names the stage.
func explain(what string, got pipeline.Outcome) error {
	switch got.Status {
	case command.OK:
		return nil
	case command.Interrupted:
		return command.Stopped(what + " was stopped; the same command continues from there")
	case command.Loss:
		return command.WithStatus(command.Loss, fmt.Errorf("%s is done, but with loss: the messages of %s name it", what, got.Cause))
	}
	var why string
	switch {
	case got.Exit == 128+9:
		why = fmt.Sprintf("%s was killed, which the kernel does when memory runs out", got.Cause)
	case got.Exit > 128:
		why = fmt.Sprintf("%s was ended by signal %d", got.Cause, got.Exit-128)
	default:
		why = fmt.Sprintf("%s ended with status %d: its message says why", got.Cause, got.Exit)
	}
	return command.WithStatus(got.Status, errors.New(what+" failed: "+why))
}
