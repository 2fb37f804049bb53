package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/carry"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/connect"
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/cluster/registry"
	"github.com/kbkio/kbk/pkg/command"
)

// PlanConfig says what is compared, and under which names.
type PlanConfig struct {
	Where
	Kinds    []string
	Named    bool // Kinds were asked for one by one: that the snapshot lacks one is an error
	Rules    carry.Rules
	MaxFrame int64
}

// A planned is a plan, and what it was made of.
type planned struct {
	*diff.Plan
	in    *input
	kinds []string
	want  []format.Encoder // what the snapshot has, under the names of the target
	have  []format.Encoder // what the target has
}

// planFor reads a snapshot and the target, and finds what differs.
func planFor(ctx context.Context, cfg PlanConfig, env *command.Env, in io.Reader, l *live) (*planned, error) {
	snap, err := readSnapshot(ctx, in, cfg.MaxFrame)
	if err != nil {
		return nil, err
	}
	p := &planned{in: snap}
	if p.kinds, err = snap.choose(cfg, env.Log); err != nil {
		return nil, err
	}
	carried, err := cfg.Rules.Frames(of(snap.frames, p.kinds))
	if err != nil {
		return nil, command.WithHint(err, "give one of them another name with --rename, --rename-group or --map-principal")
	}
	var absent map[string]string
	if p.have, absent, err = l.readAll(ctx, p.kinds); err != nil {
		return nil, err
	}
	p.want = carried.Frames
	p.Plan = diff.Find(p.want, p.have, p.kinds)
	for _, n := range carried.Notes {
		env.Log.Warn(n)
	}
	p.Changes = append(p.Changes, carried.Left...)
	if err := p.beside(cfg, env.Log); err != nil {
		return nil, err
	}
	for i := range p.Changes {
		if why, ok := absent[p.Changes[i].Kind]; ok && p.Changes[i].Lacks == "" {
			p.Changes[i].Lacks = "this cluster does not support it: " + why
		}
	}
	slices.SortStableFunc(p.Changes, func(a, b change.Change) int {
		return slices.Index(format.ClusterKinds, a.Kind) - slices.Index(format.ClusterKinds, b.Kind)
	})
	return p, nil
}

// beside adds what differs in the schema registry and in Kafka Connect.
func (p *planned) beside(cfg PlanConfig, log *slog.Logger) error {
	target := cfg.Rules.Topics.Target
	if slices.Contains(p.kinds, format.ClusterSchemas) {
		want, err := registry.Rename(registry.Of(p.want), target)
		if err != nil {
			return err
		}
		p.replace(format.ClusterSchemas, want.Frames())
		changes, notes := registry.Plan(want, registry.Of(p.have))
		p.add(changes, notes)
	}
	if slices.Contains(p.kinds, format.ClusterConnectors) {
		want, notes := connect.Of(p.want), []string(nil)
		if cfg.Rules.Topics.Changes() {
			want, notes = connect.Rename(want, target)
		}
		p.replace(format.ClusterConnectors, want.Frames())
		for _, n := range notes {
			log.Warn(n)
		}
		p.add(connect.Plan(want, connect.Of(p.have)))
	}
	return nil
}

func (p *planned) add(changes []change.Change, notes []string) {
	p.Changes, p.Notes = append(p.Changes, changes...), append(p.Notes, notes...)
}

// replace puts frames in the place of those of a kind.
func (p *planned) replace(kind string, frames []format.Encoder) {
	others := slices.DeleteFunc(slices.Clone(format.ClusterKinds), func(k string) bool { return k == kind })
	p.want = append(of(p.want, others), frames...)
}

// choose returns which of the kinds that are wanted the snapshot has, and names the others.
func (in *input) choose(cfg PlanConfig, log *slog.Logger) (kinds []string, err error) {
	what := fmt.Sprintf("the snapshot of %s", time.UnixMilli(in.Time).UTC().Format(time.RFC3339))
	if in.others > 0 {
		log.Info(fmt.Sprintf("%s is the newest of %d in the stream", what, in.others+1))
	}
	for _, kind := range cfg.Kinds {
		switch {
		case slices.Contains(in.Kinds, kind):
			kinds = append(kinds, kind)
		case cfg.Named:
			return nil, command.WithHint(fmt.Errorf("%s has no %s", what, kind), "it was made without them, or had no right to read them")
		default:
			log.Warn(fmt.Sprintf("%s has no %s, so they stay as they are", what, kind))
		}
	}
	for _, kind := range in.Kinds {
		if !cfg.has(kind) {
			log.Info(fmt.Sprintf("%s also has %s: they are left out, because %s is not given", what, kind, flagOf[kind]))
		}
	}
	if len(kinds) == 0 {
		return nil, fmt.Errorf("%s has none of the kinds that are wanted: it has %s", what, join(in.Kinds))
	}
	return kinds, nil
}

// of are the frames of kinds.
func of(frames []format.Encoder, kinds []string) (out []format.Encoder) {
	for _, f := range frames {
		if slices.Contains(kinds, diff.KindOf(f)) {
			out = append(out, f)
		}
	}
	return out
}

// planNow is [planFor] for those who change nothing. It says the plan's notes.
func planNow(ctx context.Context, cfg PlanConfig, env *command.Env, in io.Reader) (*planned, error) {
	l, err := dial(ctx, cfg.Where)
	if err != nil {
		return nil, err
	}
	defer l.close()
	p, err := planFor(ctx, cfg, env, in, l)
	if err != nil {
		return nil, err
	}
	for _, n := range p.Notes {
		env.Log.Info(n)
	}
	return p, nil
}

// Plan shows what Apply would change. It changes nothing.
func Plan(ctx context.Context, cfg PlanConfig, asJSON bool, env *command.Env, in io.Reader, out io.Writer) error {
	p, err := planNow(ctx, cfg, env, in)
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(out, p.Changes)
	} else {
		err = printChanges(out, p.Changes)
	}
	if err != nil {
		return err
	}
	return endStatus(p.in.end, "the plan is incomplete", nil)
}

// endStatus is what a command returns that has done its work on an input that ended with end:
// own is what it could not do, or nil. What the source lost is said in any case.
func endStatus(end *format.End, what string, own error) error {
	switch {
	case own == nil || end.Interrupted:
		return command.EndStatus(end, what)
	case len(end.Losses) > 0:
		return command.WithStatus(command.StatusOf(own), fmt.Errorf("%w; the source had lost: %s", own, join(end.Losses)))
	}
	return own
}

// Verify compares a cluster with a snapshot, and names each difference.
func Verify(ctx context.Context, cfg PlanConfig, env *command.Env, in io.Reader, out io.Writer) error {
	p, err := planNow(ctx, cfg, env, in)
	if err != nil {
		return err
	}
	if len(p.Changes) > 0 {
		if err := printChanges(out, p.Changes); err != nil {
			return err
		}
		return endStatus(p.in.end, "", errors.New("not equal: "+command.Count(int64(len(p.Changes)), "difference")))
	}
	env.Log.Info(fmt.Sprintf("equal: %s", counted(of(p.have, p.kinds))))
	return endStatus(p.in.end, "what was read is equal, but the stream is incomplete", nil)
}

// counted says how many frames of each kind there are.
func counted(frames []format.Encoder) string {
	n := make(map[string]int64)
	for _, f := range frames {
		n[diff.KindOf(f)]++
	}
	things := map[string]string{
		format.ClusterACLs: "ACL", format.ClusterQuotas: "quota", format.ClusterUsers: "user", format.ClusterConfigs: "config resource",
		format.ClusterSchemas: "subject or version", format.ClusterConnectors: "connector",
	}
	var parts []string
	for _, kind := range format.ClusterKinds {
		if n[kind] > 0 {
			parts = append(parts, command.Count(n[kind], things[kind]))
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

func join(all []string) string { return strings.Join(all, "; ") }
