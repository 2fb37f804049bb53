package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/admin"
	"github.com/kbkio/kbk/pkg/command"
)

// SnapshotConfig says what a snapshot holds.
type SnapshotConfig struct {
	Where
	Kinds  []string
	Named  bool // Kinds were asked for one by one: that one is not there is a loss
	Strict bool // that anything is left out is a loss
}

// Snapshot writes what a cluster has besides its records as a stream. What cannot be read it
// names, and goes on; the error is of status [command.Loss] then.
func Snapshot(ctx context.Context, cfg SnapshotConfig, env *command.Env, out io.Writer) error {
	w := command.NewWriter(out)
	began := time.Now()
	l, err := dial(ctx, cfg.Where)
	if err != nil {
		return err
	}
	defer l.close()
	id, err := l.kafka.Cluster(ctx)
	if err != nil {
		return fmt.Errorf("ask for the cluster's id: %w", err)
	}
	all, err := l.read(ctx, cfg.Kinds)
	if err != nil {
		return err
	}
	end := left(env.Log, cfg, all)
	if len(all.Kinds) == 0 {
		return errors.New("nothing was read")
	}
	if tokens := l.kafka.Tokens(ctx); tokens > 0 {
		what := command.Count(int64(tokens), "delegation token") + ", which a snapshot never has"
		env.Log.Warn("left out: " + what)
		all.LeftOut = append(all.LeftOut, what)
		if cfg.Strict {
			end.Lose("left out: " + what)
		}
	} else if tokens < 0 {
		all.LeftOut = append(all.LeftOut, "delegation tokens, if there are any")
	}
	for _, m := range all.Missing {
		all.LeftOut = append(all.LeftOut, m.String())
	}
	c := &format.Cluster{ID: newID(), Time: began.UnixMilli()}
	c.Cluster, c.Tool, c.Kinds, c.Features, c.LeftOut = id, tool(), all.Kinds, l.kafka.Features(), all.LeftOut
	if cfg.Registry != nil {
		c.Registry = cfg.Registry.URL
	}
	if cfg.Connect != nil {
		c.Connect = cfg.Connect.URL
	}
	if err := write(w, c, all.Frames, end); err != nil {
		return err
	}
	env.Log.Info("read " + counted(all.Frames))
	return command.EndStatusThrough(out, end, "")
}

// left names what is not in a snapshot, and returns the end of the stream: what is a loss is in it.
func left(log *slog.Logger, cfg SnapshotConfig, s *admin.Snapshot) *format.End {
	end := new(format.End)
	for _, what := range s.LeftOut {
		log.Warn("left out: " + what)
		if cfg.Strict {
			end.Lose("left out: " + what)
		}
	}
	for _, m := range s.Missing {
		what := m.String()
		if m.Absent {
			what = "left out: " + what
		}
		log.Warn(what)
		if !m.Absent || cfg.Strict || cfg.Named {
			end.Lose(what)
		}
	}
	return end
}

// write writes a stream with one snapshot.
func write(w *format.Writer, c *format.Cluster, frames []format.Encoder, end *format.End) error {
	err := w.WriteHeader(&format.Header{ID: c.ID, Created: c.Time, Content: format.ContentRecords, Source: &format.Source{Cluster: c.Cluster, Tool: c.Tool}})
	if err == nil {
		err = w.Write(c)
	}
	for _, f := range frames {
		if err == nil {
			err = w.Write(f)
		}
	}
	return errors.Join(err, w.Close(end))
}

func newID() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func tool() string { return "kbk-cluster " + command.Version() }
