package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/cluster/kafkatools"
	"github.com/kbkio/kbk/pkg/command"
)

// Script writes what Apply would do as commands of Kafka's own tools. Passwords are variables.
func Script(ctx context.Context, cfg PlanConfig, prune bool, env *command.Env, in io.Reader, out io.Writer) error {
	l, err := connect(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer l.close()
	p, err := planFor(ctx, cfg, env, in, l)
	if err != nil {
		return err
	}
	for _, n := range p.Notes {
		env.Log.Info(n)
	}
	for i := range p.Changes { // whoever runs the script gives the passwords
		if p.Changes[i].Lacks == diff.LacksPassword {
			p.Changes[i].Lacks = ""
		}
	}
	d := decide(p.Changes, prune)
	d.tell(env.Log)
	w := bufio.NewWriter(out)
	kafkatools.Head(w, strings.Join(cfg.Kafka.Brokers, ","), kafkatools.Users(d.todo))
	kafkatools.Kafka(w, d.todo)
	comments(w, "cannot be done", d.lacking)
	comments(w, "left, as the snapshot does not have it", d.extra)
	kafkatools.Tail(w)
	if err := w.Flush(); err != nil {
		return err
	}
	var own error
	if len(d.lacking) > 0 {
		own = command.WithStatus(command.Loss, fmt.Errorf("the script is written, but for %s that no command can make", command.Count(int64(len(d.lacking)), "difference")))
	}
	return endStatus(p.in.end, "the script is incomplete", own)
}

func comments(w io.Writer, what string, changes []change.Change) {
	if len(changes) > 0 {
		fmt.Fprintln(w)
	}
	for _, c := range changes {
		kafkatools.Comment(w, "%s: %s: %s", what, c.Kind, line(c))
	}
}
