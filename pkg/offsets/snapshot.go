package offsets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
)

// SnapshotConfig says what a snapshot holds.
type SnapshotConfig struct {
	Kafka  kafka.Config
	Groups func(id string) bool
	Topics func(name string) bool
	Next   bool // also which record each group is going to read next
	JSON   bool
}

// Snapshot writes the committed offsets of consumer groups as a stream, or as one JSON
// object a group and line.
func Snapshot(ctx context.Context, cfg SnapshotConfig, env *command.Env, out io.Writer) error {
	// The header first: a pipe without a byte would tell the next command that nobody
	// writes to it, and not that this one has failed.
	w := format.NewWriter(out)
	if !cfg.JSON {
		err := w.WriteHeader(&format.Header{Created: time.Now().UnixMilli(), Content: format.ContentRecords})
		if err = errors.Join(err, w.Flush()); err != nil {
			return err
		}
	}
	cl, err := kafka.NewClient(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	all, err := groups.Read(ctx, kadm.NewClient(cl), cfg.Groups, cfg.Topics)
	if err != nil {
		return err
	}
	wanted := make(map[place][]int64)
	topics := make(map[string]bool)
	for i := range all {
		for p, o := range each(&all[i]) {
			wanted[p] = append(wanted[p], o.Offset)
			topics[p.topic] = true
		}
	}
	r, err := newReader(ctx, cl, names(topics))
	if err != nil {
		return err
	}
	bounds, err := r.whole(ctx)
	if err != nil { // of a cluster that is going under, the offsets are what matters
		env.Log.Warn("where the partitions end is left out: " + err.Error())
	}
	var next map[place]map[int64]format.NextRecord
	if cfg.Next {
		for p, offsets := range wanted {
			slices.Sort(offsets)
			wanted[p] = slices.Compact(offsets)
		}
		if next, err = r.peek(ctx, wanted); err != nil {
			return err
		}
	}
	n := int64(0)
	for i := range all {
		for p, o := range each(&all[i]) {
			n++
			if b, ok := bounds[p]; ok {
				o.End = &b[1]
			}
			if rec, ok := next[p][o.Offset]; ok {
				o.Record = &rec
			} else if cfg.Next && o.End != nil {
				o.End = &o.Offset // markers, aborted and open transactions are nothing to read
			}
			all[i].Offsets[p.topic][p.num] = o
		}
	}
	if cfg.JSON {
		e := json.NewEncoder(out)
		for i := range all {
			if err := e.Encode(struct {
				Group   string                                  `json:"group"`
				Offsets map[string]map[int32]format.GroupOffset `json:"offsets"`
			}{all[i].ID, all[i].Offsets}); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range all {
		if err := w.Write(&all[i]); err != nil {
			return fmt.Errorf("group %s: %w", all[i].ID, err)
		}
	}
	if err := w.Close(new(format.End)); err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("read %s of %s", command.Count(n, "offset"), command.Count(int64(len(all)), "group")))
	return nil
}
