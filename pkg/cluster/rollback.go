package cluster

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/command"
)

// RollbackConfig says what is taken back.
type RollbackConfig struct {
	Where
	File     string // what Apply has saved
	Force    bool   // also put back what has changed since
	Password *Passwords
	MaxFrame int64
}

// Rollback takes back what Apply has changed. What has changed since is named, and left.
func Rollback(ctx context.Context, cfg RollbackConfig, env *command.Env, out io.Writer) error {
	changes, cluster, err := readSaved(ctx, cfg.File, cfg.MaxFrame)
	if err != nil {
		return err
	}
	l, err := dial(ctx, cfg.Where)
	if err != nil {
		return err
	}
	defer l.close()
	id, err := l.kafka.Cluster(ctx)
	if err != nil {
		return err
	}
	if cluster != id {
		return fmt.Errorf("%s belongs to the cluster %s, but this is the cluster %s", cfg.File, cluster, id)
	}
	var kinds []string
	for _, c := range changes {
		if !slices.Contains(kinds, c.Kind) {
			kinds = append(kinds, c.Kind)
		}
	}
	for _, kind := range kinds {
		if !cfg.has(kind) {
			return command.Usagef("%s has changes of %s: %s says where they are", cfg.File, kind, flagOf[kind])
		}
	}
	have, _, err := l.readAll(ctx, kinds)
	if err != nil {
		return err
	}
	u := diff.Undo(changes, have)
	todo, left := u.Back, 0
	if cfg.Force {
		todo = append(todo, u.Changed...)
	} else {
		for _, c := range u.Changed {
			env.Log.Warn(fmt.Sprintf("left unchanged, because it has changed since then: %s: %s", c.Kind, c.Name))
			left++
		}
	}
	cfg.Password.give(todo)
	if !cfg.Force {
		guard(todo, cfg.Kafka.Principal())
	}
	d := decide(todo, true)
	d.tell(env.Log)
	if u.Gone > 0 {
		env.Log.Info(fmt.Sprintf("already as before: %s", command.Count(int64(u.Gone), "change")))
	}
	if len(d.todo) == 0 {
		env.Log.Info("nothing to change")
	} else if err := l.make(ctx, applying{changes: d.todo, have: have, password: cfg.Password.Of, stop: env.Stop}, env.Log, out); err != nil {
		return command.WithHint(err, "run the same line again: it takes back the rest")
	}
	switch left += len(d.lacking); {
	case len(u.Changed) > 0 && !cfg.Force:
		return command.WithHint(command.WithStatus(command.Loss, fmt.Errorf("done, except for %s: see above", command.Count(int64(left), "change"))), "--force puts back what has changed since too")
	case left > 0:
		return command.WithStatus(command.Loss, fmt.Errorf("done, except for %s: see above", command.Count(int64(left), "change")))
	}
	return nil
}
