package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/connect"
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/cluster/kafkatools"
	"github.com/kbkio/kbk/pkg/cluster/registry"
	"github.com/kbkio/kbk/pkg/command"
)

// Script writes what Apply would do as commands of Kafka's own tools. Passwords are variables.
func Script(ctx context.Context, cfg PlanConfig, prune bool, env *command.Env, in io.Reader, out io.Writer) error {
	p, err := planNow(ctx, cfg, env, in)
	if err != nil {
		return err
	}
	for i := range p.Changes { // whoever runs the script gives the passwords
		if p.Changes[i].Lacks == diff.LacksPassword {
			p.Changes[i].Lacks = ""
		}
	}
	d := decide(p.Changes, prune)
	d.tell(env.Log)
	w := bufio.NewWriter(out)
	if err := writeScript(w, cfg, p, d.todo); err != nil {
		return err
	}
	comments(w, "cannot be done", d.lacking)
	comments(w, "left unchanged, because the snapshot does not have it", d.extra)
	kafkatools.Tail(w)
	if err := w.Flush(); err != nil {
		return err
	}
	var own error
	if len(d.lacking) > 0 {
		own = command.WithStatus(command.Loss, fmt.Errorf("the script is written, except for %s that no command can make", command.Count(int64(len(d.lacking)), "difference")))
	}
	return endStatus(p.in.end, "the script is incomplete", own)
}

// writeScript writes the commands for changes, in the order in which apply makes them.
func writeScript(w *bufio.Writer, cfg PlanConfig, p *planned, todo []change.Change) error {
	kafkatools.Head(w, strings.Join(cfg.Kafka.Brokers, ","), kafkatools.Users(todo))
	var first, schemas, acls, connectors, removals []change.Change
	for _, c := range todo {
		switch to := (map[string]*[]change.Change{format.ClusterSchemas: &schemas, format.ClusterConnectors: &connectors, format.ClusterACLs: &acls})[c.Kind]; {
		case c.Action == change.Remove && c.Kind != format.ClusterSchemas && c.Kind != format.ClusterConnectors:
			removals = append(removals, c)
		case to != nil:
			*to = append(*to, c)
		default:
			first = append(first, c)
		}
	}
	if len(schemas) > 0 {
		kafkatools.HeadCurl(w, "REGISTRY", cfg.Registry.URL)
	}
	if len(connectors) > 0 {
		kafkatools.HeadCurl(w, "CONNECT", cfg.Connect.URL)
	}
	kafkatools.Kafka(w, first)
	if len(schemas) > 0 {
		fmt.Fprintln(w, "\n# schemas")
		if err := registry.Script(w, registry.Of(p.want), registry.Of(p.have), schemas); err != nil {
			return err
		}
	}
	kafkatools.Kafka(w, acls)
	if len(connectors) > 0 {
		fmt.Fprintln(w, "\n# connectors")
		if err := connect.Script(w, connectors); err != nil {
			return err
		}
	}
	kafkatools.Kafka(w, removals)
	return nil
}

func comments(w io.Writer, what string, changes []change.Change) {
	if len(changes) > 0 {
		fmt.Fprintln(w)
	}
	for _, c := range changes {
		kafkatools.Comment(w, "%s: %s: %s", what, c.Kind, line(c))
	}
}
