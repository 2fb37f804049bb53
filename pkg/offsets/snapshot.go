package offsets

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
)

// SnapshotConfig says what a snapshot holds.
type SnapshotConfig struct {
	Kafka         kafka.Config
	Groups        []string // names, or regular expressions that begin with ^; none is all
	ExcludeGroups []string
	Topics        func(name string) bool
	Next          bool // also which record each group is going to read next
	JSON          bool
}

// Snapshot writes the committed offsets of consumer groups as a stream, or as one JSON
// object a group and line. What it cannot have of a partition it names, and goes on; the
// error is of status [command.Loss] then.
func Snapshot(ctx context.Context, cfg SnapshotConfig, env *command.Env, out io.Writer) error {
	// The header first: a pipe without a byte would tell the next command that nobody
	// writes to it, and not that this one has failed.
	w := command.NewWriter(out)
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
	adm := kadm.NewClient(cl)
	topics, err := topicIDs(ctx, adm, cfg.Topics)
	if err != nil {
		return err
	}
	all, err := groups.Read(ctx, adm, groups.Request{Include: cfg.Groups, Exclude: cfg.ExcludeGroups, Topics: topics})
	if err != nil {
		return err
	}
	n, end, err := addNext(ctx, cl, cfg.Next, all.Groups, env.Log)
	if err != nil {
		return err
	}
	for _, what := range all.LeftOut {
		env.Log.Warn(what)
		end.Lose(what)
	}
	if cfg.JSON {
		err = printGroups(all.Groups, out)
	} else {
		for _, f := range all.Frames() {
			if err == nil {
				err = w.Write(f)
			}
		}
		err = errors.Join(err, w.Close(end))
	}
	if err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("read %s of %s", command.Count(n, "offset"), command.Count(int64(len(all.Groups)), "group")))
	return command.EndStatus(end, "")
}

// topicIDs returns the ids of the topics that are wanted.
func topicIDs(ctx context.Context, adm *kadm.Client, wanted func(name string) bool) (map[string]string, error) {
	meta, err := adm.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	out := make(map[string]string)
	for name, t := range meta.Topics {
		if wanted(name) {
			out[name] = kafka.FormatTopicID(t.ID)
		}
	}
	return out, nil
}

// addNext adds to each offset where its partition ends, and, if that is wanted, the record
// that is read next. It returns how many offsets there are, and what it could not have.
func addNext(ctx context.Context, cl *kgo.Client, next bool, all []format.Group, log *slog.Logger) (n int64, end *format.End, err error) {
	wanted := make(map[place][]int64)
	topics := make(map[string]bool)
	for i := range all {
		for p, o := range each(&all[i]) {
			wanted[p] = append(wanted[p], o.Offset)
			topics[p.topic] = true
			n++
		}
	}
	r, err := newReader(ctx, cl, log, names(topics))
	if err != nil {
		return 0, nil, err
	}
	var bounds map[place][2]int64
	var unknown map[place]error
	// Who has committed an offset has read up to there. Offsets may stay past the end, as those of a
	// topic that was created again do.
	_ = kafka.UntilCaughtUp(ctx, func() bool {
		bounds, unknown = r.bounds(ctx, false)
		return !anyPast(wanted, bounds)
	})
	end = new(format.End)
	var records map[place]map[int64]format.NextRecord
	var unread map[place]error
	if next {
		for p, offsets := range wanted {
			slices.Sort(offsets)
			wanted[p] = slices.Compact(offsets)
		}
		records, unread = r.peek(ctx, wanted)
	}
	for _, p := range slices.SortedFunc(maps.Keys(wanted), place.compare) {
		if err := cmp.Or(unread[p], unknown[p]); err != nil && next {
			what := fmt.Sprintf("%s: it is not known what its groups read next: %v", p, err)
			log.Warn(what)
			end.Lose(what)
		} else if err != nil { // of a cluster that is going under, the offsets are what matters
			log.Warn(fmt.Sprintf("%s: where it ends is left out: %v", p, err))
		}
	}
	for i := range all {
		for p, o := range each(&all[i]) {
			if b, ok := bounds[p]; ok {
				o.End = &b[1]
			}
			if rec, ok := records[p][o.Offset]; ok {
				o.Record = &rec
			} else if next && o.End != nil && unread[p] == nil {
				o.End = &o.Offset // markers, aborted and open transactions are nothing to read
			}
			all[i].Offsets[p.topic][p.num] = o
		}
	}
	return n, end, ctx.Err()
}

// anyPast tells whether any offset is past the end of its partition.
func anyPast(offsets map[place][]int64, bounds map[place][2]int64) bool {
	for p, all := range offsets {
		if b, ok := bounds[p]; ok && slices.Max(all) > b[1] {
			return true
		}
	}
	return false
}

// printGroups writes groups as JSON.
func printGroups(all []format.Group, out io.Writer) error {
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
