package pull

import (
	"context"
	"fmt"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// Which snapshots of the cluster are read, in [Config.Cluster].
const (
	// ClusterAuto, or "", reads those that belong to what is read; none where topics are selected.
	ClusterAuto = "auto"
	ClusterOnly = "only" // reads the newest, or the one of a restore point, and no records
	ClusterNone = "none"
)

// snapshotsOf decides which snapshots of the cluster are read. at is the time of what is read,
// nil for the newest state. whole says that the stream is all of the backup, as for a copy. A
// note is for the user to know.
func snapshotsOf(state *commitlog.State, cfg Config, at *time.Time, whole bool) (chosen []commitlog.ClusterSnapshot, note string) {
	all := state.ClusterSnapshots()
	switch {
	case cfg.Cluster == ClusterNone || len(all) == 0:
		return nil, ""
	case at != nil:
		if one, ok := state.ClusterSnapshotAt(at.UnixMilli()); ok {
			return []commitlog.ClusterSnapshot{one}, ""
		}
		return nil, fmt.Sprintf("no snapshot of the cluster is from %s or before: the first one is from %s",
			at.UTC().Format(time.RFC3339), time.UnixMilli(all[0].Time).UTC().Format(time.RFC3339))
	case cfg.Cluster != ClusterOnly && whole:
		return all, ""
	}
	return all[len(all)-1:], ""
}

// momentOf is the time of what cfg asks for, nil where that is the newest state.
func (b *backup) momentOf(cfg Config) (*time.Time, error) {
	switch {
	case cfg.Point != "":
		point, err := b.state.Find(cfg.Point)
		if err != nil {
			return nil, command.WithHint(fmt.Errorf("in %s: %w", b.store.Name(), err), "kbk-catalog show lists them")
		}
		at := time.UnixMilli(point.Time)
		return &at, nil
	case cfg.At != nil:
		return cfg.At, nil
	}
	return cfg.Until, nil
}

// addSnapshots adds the snapshots of the cluster that belong to what is read.
func (b *backup) addSnapshots(cfg Config, sel *selection) error {
	if cfg.Cluster != ClusterNone && len(cfg.Selection.Topics) > 0 { // whoever exports a topic does not want to give all names away
		if len(b.state.ClusterSnapshots()) > 0 {
			sel.leftOut = "the snapshot of the cluster is left out, as topics are selected; --cluster-snapshot only reads it"
		}
		return nil
	}
	at, err := b.momentOf(cfg)
	if err != nil {
		return err
	}
	var note string
	if sel.snapshots, note = snapshotsOf(b.state, cfg, at, sel.window == nil); note != "" {
		sel.notes = append(sel.notes, note)
	}
	return nil
}

// chooseCluster chooses the snapshot of the cluster alone.
func (b *backup) chooseCluster(cfg Config) (*selection, error) {
	at, err := b.momentOf(cfg)
	if err != nil {
		return nil, err
	}
	sel := new(selection)
	var note string
	if sel.snapshots, note = snapshotsOf(b.state, cfg, at, false); len(sel.snapshots) > 0 {
		return sel, nil
	}
	if note != "" {
		return nil, command.WithHint(fmt.Errorf("in %s: %s", b.store.Name(), note), "kbk-catalog show lists them")
	}
	return nil, command.WithHint(fmt.Errorf("%s has no snapshot of a cluster", b.store.Name()), "kbk-cluster snapshot | kbk-pack | kbk-push makes one")
}

// writeSnapshots writes the snapshots that were chosen. It returns what could not be read, in a
// line for people each, where that is to be left out.
func (b *backup) writeSnapshots(ctx context.Context, cfg Config, w *format.Writer, sel *selection) (losses []string, err error) {
	for i := range sel.snapshots {
		s := &sel.snapshots[i]
		data, err := b.store.ReadSegment(ctx, s.Object())
		switch {
		case store.IsDamage(err) && cfg.SkipDamaged:
			losses = append(losses, fmt.Sprintf("the snapshot of the cluster from %s: %v", time.UnixMilli(s.Time).UTC().Format(time.RFC3339), err))
			continue
		case store.IsDamage(err):
			return nil, command.WithHint(err, "--skip-damaged continues without it")
		case err != nil:
			return nil, err
		}
		if err := w.WriteSnapshot(s.Frame(), data); err != nil {
			return nil, err
		}
	}
	return losses, nil
}

// checkCluster tells whether --cluster-snapshot is one that there is, and goes with the other flags.
func (cfg *Config) checkCluster() error {
	switch cfg.Cluster {
	case ClusterAuto, ClusterNone:
		return nil
	case ClusterOnly:
		if len(cfg.Selection.Topics) > 0 {
			return command.Usagef("--cluster-snapshot only reads no records: it does not go with --topic")
		}
		return nil
	}
	return command.Usagef("--cluster-snapshot %q is neither auto, only nor none", cfg.Cluster)
}

// withSnapshots says for people how many snapshots were chosen.
func (sel *selection) withSnapshots() string {
	if len(sel.snapshots) == 0 {
		return ""
	}
	return ", with " + command.Count(int64(len(sel.snapshots)), "snapshot") + " of the cluster"
}
