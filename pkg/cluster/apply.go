package cluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/kbkio/kbk/pkg/cluster/admin"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/command"
)

// ApplyConfig says what is applied.
type ApplyConfig struct {
	PlanConfig
	Save      string // the file for what is changed; "": one named by the time
	SchemaIDs string // the file for the ids of schemas; "": none
	Prune     bool
	Yes       bool // prune without asking
	Password  *Passwords
}

// Apply changes a cluster to what a snapshot has. What it is going to change it saves first.
// One change that fails does not keep the others from being made.
func Apply(ctx context.Context, cfg ApplyConfig, env *command.Env, in io.Reader, out io.Writer) error {
	l, err := dial(ctx, cfg.Where)
	if err != nil {
		return err
	}
	defer l.close()
	p, err := planFor(ctx, cfg.PlanConfig, env, in, l)
	if err != nil {
		return err
	}
	if p.in.end.Interrupted {
		return command.Stopped("nothing was changed, because the stream is incomplete")
	}
	for _, n := range p.Notes {
		env.Log.Info(n)
	}
	cfg.Password.give(p.Changes)
	guard(p.Changes, cfg.Kafka.Principal())
	d := decide(p.Changes, cfg.Prune)
	d.tell(env.Log)
	if len(d.removals) > 0 && !cfg.Yes {
		if err := askTwice(d.removals, env.Stop); err != nil {
			return err
		}
	}
	var own error
	if len(d.todo) == 0 {
		env.Log.Info("nothing to change")
	} else {
		own = l.saveAndMake(ctx, cfg, p, d.todo, env, out)
	}
	if err := l.schemaIDs(ctx, cfg, p, env.Log); own == nil {
		own = err
	} else if err != nil { // what has failed decides on the status
		env.Log.Warn(err.Error())
	}
	if own == nil && len(d.lacking) > 0 {
		own = command.WithStatus(command.Loss, fmt.Errorf("done, except for %s that cannot be applied: see above", command.Count(int64(len(d.lacking)), "difference")))
	}
	return endStatus(p.in.end, "what was read is applied, but the stream is incomplete", own)
}

// saveAndMake saves changes, and makes them.
func (l *live) saveAndMake(ctx context.Context, cfg ApplyConfig, p *planned, todo []change.Change, env *command.Env, out io.Writer) error {
	id, err := l.kafka.Cluster(ctx)
	if err != nil {
		return err
	}
	if cfg.Save == "" {
		cfg.Save = fmt.Sprintf("kbk-cluster-before-%s.kbk", time.Now().UTC().Format("20060102T150405Z"))
	}
	if err := save(cfg.Save, id, todo); err != nil {
		return fmt.Errorf("save what is changed: %w", err)
	}
	env.Log.Info("what will be changed is saved in " + cfg.Save)
	err = l.make(ctx, applying{changes: todo, want: p.want, have: p.have, password: cfg.Password.Of, stop: env.Stop}, env.Log, out)
	if err != nil {
		return command.WithHint(err, "kbk-cluster rollback "+cfg.Save+" takes back what was changed; the same line again changes the rest")
	}
	return nil
}

// decided are changes by what becomes of them.
type decided struct {
	todo     []change.Change // to be made
	removals []change.Change // those of todo that delete
	lacking  []change.Change // cannot be made
	extra    []change.Change // would delete, and are left
}

// decide says which changes are made. It has no effects.
func decide(changes []change.Change, prune bool) (d decided) {
	for _, c := range changes {
		remove := c.Action == change.Remove
		switch {
		case remove && !prune:
			d.extra = append(d.extra, c)
		case c.Lacks != "":
			d.lacking = append(d.lacking, c)
		default:
			d.todo = append(d.todo, c)
			if remove {
				d.removals = append(d.removals, c)
			}
		}
	}
	return d
}

// tell names what is not done.
func (d *decided) tell(log *slog.Logger) {
	for _, c := range d.lacking {
		log.Warn(fmt.Sprintf("%s: %s", c.Kind, line(c)))
	}
	var names []string
	for _, c := range d.extra {
		names = append(names, c.Kind+": "+c.Name)
	}
	if len(names) > 0 {
		log.Info(fmt.Sprintf("left unchanged, because the snapshot does not have them (--prune deletes them): %s", diff.Some(names)))
	}
}

// showing is how long brokers may take until all of them show what was changed.
const showing = 15 * time.Second

// make makes changes, prints each, and looks whether they are there.
func (l *live) make(ctx context.Context, a applying, log *slog.Logger, out io.Writer) error {
	var made []change.Change
	failed, stopped := 0, 0
	a.done = func(c change.Change, err error) {
		switch {
		case err == nil:
			made = append(made, c)
			fmt.Fprintln(out, line(c))
		case isStopped(err):
			stopped++
		default:
			failed++
			log.Warn(fmt.Sprintf("failed: %s: %s: %v", c.Kind, line(c), err))
		}
	}
	beside := l.apply(ctx, a)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	missing, err := l.awaitShown(ctx, made)
	if err != nil {
		return fmt.Errorf("look at what was changed: %w", err)
	}
	for _, c := range missing {
		failed++
		log.Warn(fmt.Sprintf("failed: %s: %s: the broker accepted it, but does not show it", c.Kind, line(c)))
	}
	done := command.Count(int64(len(made)-len(missing)), "change")
	switch {
	case beside != nil:
		return fmt.Errorf("%s made, and %d failed: %w", done, failed, beside)
	case stopped > 0:
		return command.Stopped(fmt.Sprintf("%s of %d made", done, len(a.changes)))
	case failed > 0:
		return fmt.Errorf("%d of %s failed", failed, command.Count(int64(len(a.changes)), "change"))
	}
	log.Info(done + " made")
	return nil
}

// awaitShown waits until the cluster shows changes, and returns those that it does not. A registry
// shows what it has taken at once, under versions of its own perhaps.
func (l *live) awaitShown(ctx context.Context, made []change.Change) (missing []change.Change, err error) {
	var kinds []string
	var shown []change.Change
	for _, c := range made {
		if slices.Contains(admin.Kinds, c.Kind) {
			shown = append(shown, c)
			if !slices.Contains(kinds, c.Kind) {
				kinds = append(kinds, c.Kind)
			}
		}
	}
	if len(shown) == 0 {
		return nil, nil
	}
	for began := time.Now(); ; {
		now, err := l.read(ctx, kinds)
		if err != nil {
			return nil, err
		}
		missing = diff.Missing(shown, now.Frames)
		if len(missing) == 0 || time.Since(began) > showing {
			return missing, nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
