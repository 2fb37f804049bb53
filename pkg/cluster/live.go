package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/admin"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/connect"
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/cluster/registry"
	"github.com/kbkio/kbk/pkg/cluster/rest"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// Where is a cluster, and what is beside it.
type Where struct {
	Kafka    kafka.Config
	Registry *rest.Server // nil: none
	Connect  *rest.Server // likewise
}

// A live is a cluster that is read and changed.
type live struct {
	Where
	cl       *kgo.Client
	kafka    *admin.Client
	registry *rest.Client // nil: none
	connect  *rest.Client // likewise
}

func dial(ctx context.Context, w Where) (*live, error) {
	cl, err := kafka.NewClient(ctx, w.Kafka)
	if err != nil {
		return nil, err
	}
	l := &live{Where: w, cl: cl}
	if l.kafka, err = admin.New(ctx, cl); err != nil {
		cl.Close()
		return nil, err
	}
	if w.Registry != nil {
		l.registry = registry.New(w.Registry)
	}
	if w.Connect != nil {
		l.connect = connect.New(w.Connect)
	}
	return l, nil
}

func (l *live) close() { l.cl.Close() }

// read reads what there is of kinds, in the order of a snapshot.
func (l *live) read(ctx context.Context, kinds []string) (*admin.Snapshot, error) {
	s, err := l.kafka.Read(ctx, kinds)
	if err != nil {
		return nil, err
	}
	if slices.Contains(kinds, format.ClusterSchemas) && l.registry != nil {
		c, err := registry.Read(ctx, l.registry)
		add(s, format.ClusterSchemas, c.Frames(), c.LeftOut, err)
	}
	if slices.Contains(kinds, format.ClusterConnectors) && l.connect != nil {
		c, err := connect.Read(ctx, l.connect)
		add(s, format.ClusterConnectors, c.Frames(), c.LeftOut, err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	diff.Sort(s.Frames)
	return s, nil
}

// add adds what was read of a kind to a snapshot, or why it was not.
func add(s *admin.Snapshot, kind string, frames []format.Encoder, leftOut []string, err error) {
	if err != nil {
		s.Missing = append(s.Missing, admin.Missing{Kind: kind, Why: err.Error()})
		return
	}
	s.Kinds = append(s.Kinds, kind)
	s.Frames = append(s.Frames, frames...)
	s.LeftOut = append(s.LeftOut, leftOut...)
}

// readAll is [live.read] for what is to be compared and changed: what cannot be seen can be
// neither. It returns why the target has nothing of a kind, too.
func (l *live) readAll(ctx context.Context, kinds []string) (frames []format.Encoder, absent map[string]string, err error) {
	s, err := l.read(ctx, kinds)
	if err != nil {
		return nil, nil, err
	}
	absent = make(map[string]string)
	for _, m := range s.Missing {
		if !m.Absent {
			return nil, nil, command.WithHint(fmt.Errorf("in the target, %s", m), "--exclude "+m.Kind+" leaves them out")
		}
		absent[m.Kind] = m.Why
	}
	return s.Frames, absent, nil
}

// An applying is how changes are made.
type applying struct {
	changes    []change.Change
	want, have []format.Encoder // what changes are of; want is empty where they take others back
	password   func(user string) string
	stop       <-chan struct{} // closed: no more are made
	done       func(change.Change, error)
}

// apply makes changes: those that add and alter in the order in which things need each other,
// and then those that remove, the other way round. The error is of what is no change.
func (l *live) apply(ctx context.Context, a applying) (err error) {
	order := []string{format.ClusterQuotas, format.ClusterUsers, format.ClusterConfigs, format.ClusterSchemas, format.ClusterACLs, format.ClusterConnectors}
	for _, remove := range []bool{false, true} {
		for _, kind := range order {
			if some := chosen(a.changes, kind, remove); len(some) > 0 {
				err = errors.Join(err, l.applySome(ctx, kind, some, a))
			}
		}
		slices.Reverse(order)
	}
	return err
}

// applySome makes changes of one kind.
func (l *live) applySome(ctx context.Context, kind string, some []change.Change, a applying) error {
	select {
	case <-a.stop:
		for _, c := range some {
			a.done(c, errStopped)
		}
		return nil
	default:
	}
	switch kind {
	case format.ClusterSchemas:
		return l.applySchemas(ctx, some, a)
	case format.ClusterConnectors:
		return a.untilStopped(ctx, func(ctx context.Context, done func(change.Change, error)) error {
			return connect.Apply(ctx, l.connect, some, done)
		})
	}
	l.kafka.Apply(ctx, kind, some, a.password, a.done)
	return nil
}

func (l *live) applySchemas(ctx context.Context, some []change.Change, a applying) error {
	have := registry.Of(a.have)
	if some[0].Action == change.Remove { // the registry has changed since
		now, err := registry.Read(ctx, l.registry)
		if err != nil {
			for _, c := range some {
				a.done(c, err)
			}
			return nil
		}
		have = now
	}
	return a.untilStopped(ctx, func(ctx context.Context, done func(change.Change, error)) error {
		return registry.Apply(ctx, l.registry, registry.Of(a.want), have, some, done)
	})
}

// untilStopped makes changes by a function that heeds its context: that is cancelled when the
// command is to stop. What is put back at the end is put back all the same.
func (a *applying) untilStopped(ctx context.Context, apply func(context.Context, func(change.Change, error)) error) error {
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-a.stop:
			cancel()
		case <-within.Done():
		}
	}()
	stopped := func(err error) bool { return errors.Is(err, context.Canceled) && ctx.Err() == nil }
	err := apply(within, func(c change.Change, err error) {
		if stopped(err) {
			err = errStopped
		}
		a.done(c, err)
	})
	if stopped(err) {
		return nil // it was said of each change that was not made
	}
	return err
}

// errStopped is what becomes of a change that is not made because the command is to stop.
var errStopped = errors.New("stopped")

func isStopped(err error) bool { return errors.Is(err, errStopped) }

func chosen(changes []change.Change, kind string, remove bool) (out []change.Change) {
	for _, c := range changes {
		if c.Kind == kind && (c.Action == change.Remove) == remove {
			out = append(out, c)
		}
	}
	return out
}
