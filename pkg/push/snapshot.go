package push

import (
	"context"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/segment"
)

// snapshot uploads a snapshot of a cluster, unless the backup has it already.
func (p *pusher) snapshot(ctx context.Context, raw []byte) error {
	m, data, err := format.DecodeSnapshot(raw)
	if err != nil {
		return command.Input(err)
	}
	s, err := commitlog.ClusterSnapshotOf(m, p.appender.run.Name())
	if err != nil {
		return command.WithStatus(command.Corrupt, command.Input(err))
	}
	p.mu.Lock()
	known := p.state.HasClusterSnapshot(s.ID)
	p.mu.Unlock()
	p.upload(raw, func() error {
		return p.putOrCheck(ctx, s.Path, data, s.SHA256.String(), known || int64(len(data)) != m.Size, func() error { return segment.CheckSnapshot(m, data) })
	})
	if known {
		return nil
	}
	p.current.entry.ClusterSnapshots = append(p.current.entry.ClusterSnapshots, s)
	p.snapshots++
	p.stored += s.Size
	return nil
}
