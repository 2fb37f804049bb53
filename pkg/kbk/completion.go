package kbk

import (
	"context"
	"embed"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/profile"
)

//go:embed completions/kbk.bash completions/_kbk completions/kbk.fish
var completions embed.FS

// scripts are the files of completions by the shells that read them.
var scripts = map[string]string{"bash": "completions/kbk.bash", "zsh": "completions/_kbk", "fish": "completions/kbk.fish"}

func completionSpec() command.Spec {
	return command.Spec{
		Name: "completion", Usage: "print the completion script for bash, zsh or fish", Args: "SHELL", MaxArgs: 1,
		Description: `The script completes kbk and all kbk-* commands: flags, topics, groups, remotes, profiles.
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
