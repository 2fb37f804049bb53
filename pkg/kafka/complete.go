package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

// Values are the topics and groups of the cluster that the [Flags] lead to, for a shell
// that completes a line. What fails has no values.
func Values() map[string]command.Completer {
	topics := ask(func(ctx context.Context, adm *kadm.Client) ([]string, error) {
		listed, err := adm.ListTopics(ctx)
		return listed.Names(), err
	})
	return map[string]command.Completer{
		"TOPIC": topics,
		"GROUP": ask(func(ctx context.Context, adm *kadm.Client) ([]string, error) {
			listed, err := adm.ListGroups(ctx)
			return listed.Groups(), err
		}),
		"cluster": func(_ context.Context, c *cli.Context) []string {
			f, err := command.ReadConfig(c.String("config"))
			if err != nil {
				return nil
			}
			var names []string
			for name := range f.Clusters {
				names = append(names, name)
			}
			slices.Sort(names)
			return names
		},
	}
}

func ask(list func(context.Context, *kadm.Client) ([]string, error)) command.Completer {
	return func(ctx context.Context, c *cli.Context) []string {
		cfg, err := FromFlags(c)
		if err != nil {
			return nil
		}
		cl, err := NewClient(ctx, cfg)
		if err != nil {
			return nil
		}
		defer cl.Close()
		names, err := list(ctx, kadm.NewClient(cl))
		if err != nil {
			return nil
		}
		return names
	}
}
