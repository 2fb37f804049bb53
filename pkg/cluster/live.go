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
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// A live is a cluster that is read and changed.
type live struct {
	cl    *kgo.Client
	kafka *admin.Client
}

func connect(ctx context.Context, cfg kafka.Config) (*live, error) {
	cl, err := kafka.NewClient(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l := &live{cl: cl}
	if l.kafka, err = admin.New(ctx, cl); err != nil {
		cl.Close()
		return nil, err
	}
	return l, nil
}

func (l *live) close() { l.cl.Close() }

// A contents is what a cluster, or a snapshot of one, has of some kinds.
type contents struct {
	kinds  []string // of which frames has all
	frames []format.Encoder
}

// read reads what there is of kinds, in the order of a snapshot.
func (l *live) read(ctx context.Context, kinds []string) (*admin.Snapshot, error) {
	s, err := l.kafka.Read(ctx, kinds)
	if err != nil {
		return nil, err
	}
	diff.Sort(s.Frames)
	return s, nil
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

// apply makes changes, those that add and alter in the order in which things need each other,
// and then those that remove, the other way round. When stop is closed it makes no more.
func (l *live) apply(ctx context.Context, changes []change.Change, password func(string) string, stop <-chan struct{}, done func(change.Change, error)) {
	order := []string{format.ClusterQuotas, format.ClusterUsers, format.ClusterConfigs, format.ClusterACLs}
	some := func(remove bool) {
		for _, kind := range order {
			chosen := chosen(changes, kind, remove)
			select {
			case <-stop:
				for _, c := range chosen {
					done(c, errStopped)
				}
			default:
				l.kafka.Apply(ctx, kind, chosen, password, done)
			}
		}
	}
	some(false)
	slices.Reverse(order)
	some(true)
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
