package kbk

import (
	"context"
	"embed"
	"maps"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pipeline"
	"github.com/kbkio/kbk/pkg/profile"
)

//go:embed completions/kbk.bash completions/_kbk completions/kbk.fish
var completions embed.FS

// scripts are the files of completions by the shells that read them.
var scripts = map[string]string{"bash": "completions/kbk.bash", "zsh": "completions/_kbk", "fish": "completions/kbk.fish"}

func completionSpec() command.Spec {
	return command.Spec{
		Name: "completion", Usage: "print the completion script for bash, zsh or fish", Args: "SHELL", MaxArgs: 1,
		Description: `The script completes kbk and all kbk-* commands: flags, topics, groups, remotes, profiles,
and of a backup its topics and restore points.
make install and the packages install it.

   source <(kbk completion bash)      # in ~/.bashrc
   source <(kbk completion zsh)       # in ~/.zshrc, after compinit
   kbk completion fish | source       # in ~/.config/fish/config.fish`,
		Values: map[string]command.Completer{"SHELL": command.OneOf("bash", "zsh", "fish")},
		Action: func(_ context.Context, c *cli.Context, _ *command.Env) error {
			file, ok := scripts[c.Args().First()]
			if !ok {
				return command.WithHint(command.Usagef("%q is no shell that kbk has a completion script for", c.Args().First()), "run kbk completion bash, kbk completion zsh or kbk completion fish")
			}
			script, err := completions.ReadFile(file)
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(script)
			return err
		},
	}
}

// profiles are the names of the profiles in the file, for a shell that completes a line.
func profiles(_ context.Context, c *cli.Context) []string {
	f, err := profile.Load(configPath(c))
	if err != nil {
		return nil
	}
	return f.Names()
}

// targets are what --to takes: the targets of the profile that is typed, and the clusters.
func targets(_ context.Context, c *cli.Context) []string {
	f, err := profile.Load(configPath(c))
	if err != nil {
		return nil
	}
	names := slices.Collect(maps.Keys(f.Clusters))
	if p, err := f.Profile(c.Args().First()); err == nil {
		names = slices.AppendSeq(names, maps.Keys(p.Targets))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ofBackup asks kbk-pull, which has a flag of the same name, what the backup of the profile
// has for it: kbk itself does not link what reads a store.
func ofBackup(flag string) command.Completer {
	return func(ctx context.Context, c *cli.Context) []string {
		p, b, err := open(c)
		if err != nil {
			return nil
		}
		pull := b.Restore(p, profile.Restore{})[0].Stages[0]
		path, err := pipeline.Find(pull.Name)
		if err != nil {
			return nil
		}
		return command.AskAnother(ctx, path, append(pull.Args, flag)...)
	}
}
