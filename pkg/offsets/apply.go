package offsets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
)

const (
	committers = 16  // groups that are committed at once
	fetchMany  = 200 // groups whose offsets are asked for at once, as in package groups
)

// ApplyConfig says where offsets are committed.
type ApplyConfig struct {
	Kafka    kafka.Config
	Skip     func(id string) bool
	Undo     string // the file for what is overwritten; apply only
	MaxFrame int64
}

// Apply commits the offsets that translate has put into in. Before the first it writes
// what it is going to overwrite to the undo file. To out goes what it has committed.
func Apply(ctx context.Context, cfg ApplyConfig, env *command.Env, in io.Reader, out io.Writer) error {
	began := time.Now()
	planned, end, err := readTranslated(ctx, in, cfg.MaxFrame)
	if err != nil {
		return err
	}
	if end.Interrupted { // more may be restored yet
		return command.Stopped("nothing is committed, as not all was restored")
	}
	planned = slices.DeleteFunc(planned, func(g *format.Group) bool { return cfg.Skip(g.ID) })
	cl, err := kafka.NewClient(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	known, err := inactive(ctx, adm, planned)
	if err != nil {
		return err
	}
	placed, _ := count(planned)
	if _, err := settle(ctx, cl, planned); err != nil {
		return err
	}
	if now, _ := count(planned); now > placed { // those from before, translate has told
		tell(env.Log, planned)
	}
	undo, err := before(ctx, adm, known, planned)
	if err != nil {
		return err
	}
	if err := keep(cfg.Undo, undo); err != nil {
		return fmt.Errorf("keep what is overwritten: %w", err)
	}
	offsets, groups, err := commit(ctx, adm, planned)
	if err != nil {
		return command.WithHint(fmt.Errorf("%w (%s of %s committed before)", err, command.Count(offsets, "offset"), command.Count(groups, "group")),
			"what was there before is in "+cfg.Undo+": kbk-offsets rollback puts it back")
	}
	env.Log.Info(fmt.Sprintf("committed %s of %s; what was there before is in %s", command.Count(offsets, "offset"), command.Count(groups, "group"), cfg.Undo),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	w := format.NewWriter(out)
	if err := w.WriteHeader(&format.Header{Created: time.Now().UnixMilli(), Content: format.ContentRecords}); err != nil {
		return err
	}
	for _, g := range planned {
		for p, o := range each(g) {
			o.AtEnd = false // it is a number now
			g.Offsets[p.topic][p.num] = o
		}
		if err := w.Write(g); err != nil {
			return err
		}
	}
	end.Records, end.Segments = 0, 0
	if err := w.Close(end); err != nil {
		return err
	}
	return endStatus(end, "", lossOf(count(planned)))
}

// inactive wants none of the groups to have members. It returns which groups there are.
func inactive(ctx context.Context, adm *kadm.Client, wanted []*format.Group) (known map[string]bool, err error) {
	listed, err := groups.List(ctx, adm)
	if err != nil {
		return nil, fmt.Errorf("list consumer groups: %w", err)
	}
	known = make(map[string]bool)
	var active, silent []string
	for id, l := range listed {
		known[id] = true
		if l.State == "" { // before Kafka 2.6 (KIP-518)
			silent = append(silent, id)
		}
	}
	state := make(map[string]string)
	if len(silent) > 0 {
		described, err := adm.DescribeGroups(ctx, silent...)
		if err != nil {
			return nil, fmt.Errorf("describe consumer groups: %w", err)
		}
		for id, d := range described {
			state[id] = d.State
		}
	}
	for _, g := range wanted {
		l, ok := listed[g.ID]
		if s := l.State + state[g.ID]; ok && s != "Empty" && s != "Dead" {
			active = append(active, g.ID)
		}
	}
	if len(active) == 0 {
		return known, nil
	}
	which := "group " + active[0] + " has"
	if len(active) > 1 {
		which = "groups " + strings.Join(active[:min(len(active), told)], ", ")
		if len(active) > told {
			which += fmt.Sprintf(" and %d more", len(active)-told)
		}
		which += " have"
	}
	return nil, command.WithHint(fmt.Errorf("%s active members, who would commit over it", which), "stop the consumers, or leave a group out with --skip")
}

// before returns what the groups have committed in the partitions that are going to be
// committed.
func before(ctx context.Context, adm *kadm.Client, known map[string]bool, planned []*format.Group) ([]*format.Group, error) {
	committed, err := fetchOffsets(ctx, adm, known, planned)
	if err != nil {
		return nil, err
	}
	var out []*format.Group
	for _, g := range planned {
		was := &format.Group{ID: g.ID, Offsets: make(map[string]map[int32]format.GroupOffset)}
		was.New = !known[g.ID]
		for p := range each(g) {
			o, ok := committed[g.ID].Lookup(p.topic, p.num)
			if !ok || o.At < 0 {
				if was.Absent == nil {
					was.Absent = make(map[string][]int32)
				}
				was.Absent[p.topic] = append(was.Absent[p.topic], p.num)
				continue
			}
			b := format.GroupOffset{Offset: o.At}
			if o.LeaderEpoch >= 0 {
				b.LeaderEpoch = &o.LeaderEpoch
			}
			if o.Metadata != "" {
				b.Metadata = &o.Metadata
			}
			if was.Offsets[p.topic] == nil {
				was.Offsets[p.topic] = make(map[int32]format.GroupOffset)
			}
			was.Offsets[p.topic][p.num] = b
		}
		out = append(out, was)
	}
	return out, nil
}

// fetchOffsets returns what groups have committed, those that are not known left out.
func fetchOffsets(ctx context.Context, adm *kadm.Client, known map[string]bool, wanted []*format.Group) (map[string]kadm.OffsetResponses, error) {
	out := make(map[string]kadm.OffsetResponses)
	for some := range slices.Chunk(wanted, fetchMany) {
		var ids []string
		for _, g := range some {
			if known[g.ID] {
				ids = append(ids, g.ID)
			}
		}
		fetched, err := groups.Fetch(ctx, adm, ids)
		if err != nil {
			return nil, err
		}
		for id, r := range fetched {
			err := r.Err
			if err == nil {
				err = r.Fetched.Error()
			}
			if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
				return nil, fmt.Errorf("read the offsets of group %s: %w", id, err)
			}
			out[id] = r.Fetched
		}
	}
	return out, nil
}

// keep writes groups to a file that is not there yet.
func keep(file string, groups []*format.Group) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		if errors.Is(err, os.ErrExist) {
			return command.WithHint(err, "it may be needed yet: name another file with --undo")
		}
		return err
	}
	w := format.NewWriter(f)
	err = w.WriteHeader(&format.Header{Created: time.Now().UnixMilli(), Content: format.ContentRecords})
	for _, g := range groups {
		if err == nil {
			err = w.Write(g)
		}
	}
	if err == nil {
		err = w.Close(new(format.End))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// commit commits all offsets of groups, and returns how many it has.
func commit(ctx context.Context, adm *kadm.Client, all []*format.Group) (offsets, groups int64, err error) {
	var o, n atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(committers)
	for _, group := range all {
		g.Go(func() error {
			set := make(kadm.Offsets)
			for p, o := range each(group) {
				k := kadm.Offset{Topic: p.topic, Partition: p.num, At: o.Offset, LeaderEpoch: -1}
				if o.LeaderEpoch != nil {
					k.LeaderEpoch = *o.LeaderEpoch
				}
				if o.Metadata != nil {
					k.Metadata = *o.Metadata
				}
				set.Add(k)
			}
			if len(set) == 0 {
				return nil
			}
			err := ctx.Err()
			if err == nil {
				err = kafka.Retry(ctx, adm, kafka.Patience, func() error { return adm.CommitAllOffsets(ctx, group.ID, set) })
			}
			if err != nil {
				return fmt.Errorf("commit the offsets of group %s: %w", group.ID, err)
			}
			n.Add(1)
			for range each(group) {
				o.Add(1)
			}
			return nil
		})
	}
	err = g.Wait()
	return o.Load(), n.Load(), err
}

// Rollback puts back what was committed before, by the undo file of [Apply] or by a
// snapshot. Offsets that were not there are deleted, and so are groups that then have none.
func Rollback(ctx context.Context, cfg ApplyConfig, env *command.Env, in io.Reader) error {
	was, end, err := readGroups(ctx, in, cfg.MaxFrame)
	if err != nil {
		return err
	}
	was = slices.DeleteFunc(was, func(g *format.Group) bool { return cfg.Skip(g.ID) })
	for _, g := range was {
		if g.By != "" {
			return command.WithHint(command.Usagef("the offsets of group %s are a plan, and not what was there before", g.ID), "give the file that apply wrote to --undo")
		}
	}
	cl, err := kafka.NewClient(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	known, err := inactive(ctx, adm, was)
	if err != nil {
		return err
	}
	now, err := fetchOffsets(ctx, adm, known, was)
	if err != nil {
		return err
	}
	offsets, groups, err := commit(ctx, adm, was)
	if err != nil {
		return err
	}
	var deleted, gone atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(committers)
	for _, group := range was {
		if len(group.Absent) == 0 || !known[group.ID] {
			continue
		}
		g.Go(func() error {
			n, whole, err := remove(gctx, adm, group, now[group.ID])
			deleted.Add(n)
			if whole {
				gone.Add(1)
			}
			if err != nil {
				return fmt.Errorf("delete the offsets of group %s: %w", group.ID, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("put back %s of %s; deleted %s and %s", command.Count(offsets, "offset"), command.Count(groups, "group"),
		command.Count(deleted.Load(), "offset"), command.Count(gone.Load(), "group")))
	return command.EndStatus(end, "what was read is put back, and is not all")
}

// remove deletes the offsets of a group that were absent, and the group itself if it was
// new and has no others. now is what it has committed.
func remove(ctx context.Context, adm *kadm.Client, was *format.Group, now kadm.OffsetResponses) (n int64, whole bool, err error) {
	var set kadm.TopicsSet
	others := false
	now.Each(func(o kadm.OffsetResponse) {
		switch {
		case o.At < 0:
		case slices.Contains(was.Absent[o.Topic], o.Partition):
			set.Add(o.Topic, o.Partition)
			n++
		default:
			others = true
		}
	})
	if was.New && !others {
		err := kafka.Retry(ctx, adm, kafka.Patience, func() error {
			_, err := adm.DeleteGroup(ctx, was.ID)
			return err
		})
		if errors.Is(err, kerr.GroupIDNotFound) {
			return 0, false, nil
		}
		return n, err == nil, err
	}
	if n == 0 {
		return 0, false, nil
	}
	err = kafka.Retry(ctx, adm, kafka.Patience, func() error {
		resp, err := adm.DeleteOffsets(ctx, was.ID, set)
		if err != nil {
			return err
		}
		return resp.Error()
	})
	return n, false, err
}

// committedAs compares what is committed with the plan, and calls differ for each
// offset that is another; -1 is none. What is planned to be an end was the end then.
func committedAs(committed map[string]kadm.OffsetResponses, planned []*format.Group, differ func(g *format.Group, p place, want, got int64)) {
	for _, g := range planned {
		for p, o := range each(g) {
			got := int64(-1)
			if c, ok := committed[g.ID].Lookup(p.topic, p.num); ok {
				got = c.At
			}
			if got != o.Offset && (got < 0 || !o.AtEnd) {
				differ(g, p, o.Offset, got)
			}
		}
	}
}

// all are the ids of groups, as known.
func all(groups []*format.Group) map[string]bool {
	out := make(map[string]bool)
	for _, g := range groups {
		out[g.ID] = true
	}
	return out
}
