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
	"github.com/twmb/franz-go/pkg/kgo"
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
	Rewind   bool   // commit offsets that are lower than those that are committed; apply only
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
		return command.Stopped("nothing is committed, because not everything was restored")
	}
	planned = slices.DeleteFunc(planned, func(g *format.Group) bool { return cfg.Skip(g.ID) })
	cl, states, err := connectToCommit(ctx, cfg.Kafka, planned)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	placed, _ := count(planned)
	_, ids, err := resolveInTarget(ctx, cl, planned)
	if err != nil {
		return err
	}
	if now, _ := count(planned); now > placed { // those from before, translate has told
		tell(env.Log, planned)
	}
	committed, err := fetchOffsets(ctx, adm, states.known(), planned)
	if err != nil {
		return err
	}
	if err := refuseRewind(env.Log, rewinds(planned, committed), cfg.Rewind); err != nil {
		return err
	}
	env.Log.Info(states.unseen(planned))
	if n := standing(planned, committed); n > 0 {
		env.Log.Warn(fmt.Sprintf("already committed as planned: %s; if an earlier apply did that, its undo file has what was there before, and %s does not", command.Count(n, "offset"), cfg.Undo))
	}
	if err := keep(cfg.Undo, undoOf(planned, states.known(), committed, ids)); err != nil {
		return fmt.Errorf("keep what is overwritten: %w", err)
	}
	offsets, groups, err := commit(ctx, adm, planned)
	if err != nil {
		return undoHint(fmt.Errorf("%w (%s of %s committed before)", err, command.Count(offsets, "offset"), command.Count(groups, "group")), cfg.Undo)
	}
	env.Log.Info(fmt.Sprintf("committed %s of %s; what was there before is in %s", command.Count(offsets, "offset"), command.Count(groups, "group"), cfg.Undo),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	if err := writeApplied(out, planned, end); err != nil {
		return undoHint(fmt.Errorf("all is committed, but not written: %w", err), cfg.Undo)
	}
	return endStatus(end, "", lossOf(count(planned)))
}

// connectToCommit connects to a cluster in which offsets of groups are going to be committed. It
// refuses groups for which that cannot be done.
func connectToCommit(ctx context.Context, cfg kafka.Config, groups []*format.Group) (*kgo.Client, states, error) {
	cl, err := kafka.NewClient(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	states, err := statesOf(ctx, kadm.NewClient(cl))
	if err == nil {
		err = states.refuse(groups)
	}
	if err != nil {
		cl.Close()
		return nil, nil, err
	}
	return cl, states, nil
}

// undoHint names the file that takes back what was committed.
func undoHint(err error, file string) error {
	return command.WithHint(err, "what was there before is in "+file+": kbk-offsets rollback puts it back. To run the same line again, give another --undo; this file stays the one to roll back with")
}

// writeApplied writes the plan as it was committed: an end is a number now.
func writeApplied(out io.Writer, planned []*format.Group, end *format.End) error {
	w := format.NewWriter(out)
	if err := w.WriteHeader(&format.Header{Created: time.Now().UnixMilli(), Content: format.ContentRecords}); err != nil {
		return err
	}
	for _, g := range planned {
		for p, o := range each(g) {
			o.AtEnd = false
			g.Offsets[p.topic][p.num] = o
		}
		if err := w.Write(g); err != nil {
			return err
		}
	}
	end.Records, end.Segments = 0, 0
	return w.Close(end)
}

// states are the groups of a cluster and how they stand, by id.
type states groups.States

func statesOf(ctx context.Context, adm *kadm.Client) (states, error) {
	s, err := groups.ReadStates(ctx, adm)
	return states(s), err
}

// known are the ids of the groups that there are.
func (s states) known() map[string]bool {
	out := make(map[string]bool)
	for id := range s {
		out[id] = true
	}
	return out
}

// refuse wants none of the groups to have members, and none to be a share group, which
// has no committed offsets.
func (s states) refuse(planned []*format.Group) error {
	var active, shared []string
	for _, g := range planned {
		switch all := groups.States(s); {
		case all.Shared(g.ID):
			shared = append(shared, g.ID)
		case all.Active(g.ID):
			active = append(active, g.ID)
		}
	}
	switch {
	case len(shared) > 0:
		return command.WithHint(fmt.Errorf("%s share groups in the target, which have no committed offsets", areOrIs(shared)), "leave a group out with --skip, or give it another name with translate --rename-group")
	case len(active) == 1:
		return command.WithHint(fmt.Errorf("group %s has active members, who would commit over it", active[0]), "stop the consumers, or leave a group out with --skip")
	case len(active) > 1:
		return command.WithHint(fmt.Errorf("groups %s have active members, who would commit over it", some(active)), "stop the consumers, or leave a group out with --skip")
	}
	return nil
}

// unseen says which consumers the groups may have although they have no members: those
// that assign partitions to themselves.
func (s states) unseen(groups []*format.Group) string {
	var simple []string // that have offsets, and never had a member
	for _, g := range groups {
		if l, ok := s[g.ID]; ok && l.ProtocolType == "" {
			simple = append(simple, g.ID)
		}
	}
	const why = "consumers that use assign() are no members of their group, and cannot be seen: make sure that none is running"
	if len(simple) == 0 {
		return why
	}
	return why + ", of " + some(simple) + " above all: they have offsets, and never had a member"
}

// some joins names, not too many of them.
func some(names []string) string {
	text := strings.Join(names[:min(len(names), told)], ", ")
	if len(names) > told {
		text += fmt.Sprintf(" and %d more", len(names)-told)
	}
	return text
}

func areOrIs(ids []string) string {
	if len(ids) == 1 {
		return ids[0] + " is one of the"
	}
	return some(ids) + " are"
}

// A rewind is an offset that is to become lower than it is.
type rewind struct {
	group string
	place
	from, to int64
}

// rewinds returns the planned offsets that are lower than what is committed.
func rewinds(planned []*format.Group, committed map[string]kadm.OffsetResponses) (out []rewind) {
	for _, g := range planned {
		for p, o := range each(g) {
			if c, ok := committed[g.ID].Lookup(p.topic, p.num); ok && c.At > o.Offset {
				out = append(out, rewind{g.ID, p, c.At, o.Offset})
			}
		}
	}
	return out
}

// refuseRewind names the groups that would go back, and fails unless that is wanted.
func refuseRewind(log *slog.Logger, back []rewind, wanted bool) error {
	if len(back) == 0 {
		return nil
	}
	for _, r := range back[:min(len(back), told)] {
		log.Warn(fmt.Sprintf("group %s goes back in %s, from %d to %d", r.group, r.place, r.from, r.to))
	}
	if len(back) > told {
		log.Warn(fmt.Sprintf("and %s more: kbk-offsets plan -b lists them all", command.Count(int64(len(back)-told), "offset")))
	}
	if wanted {
		return nil
	}
	return command.WithHint(fmt.Errorf("nothing is committed: %s would become lower than what the groups have committed, and records would be read again", command.Count(int64(len(back)), "offset")),
		"--rewind takes them back; --skip leaves a group out")
}

// standing counts the planned offsets that are committed already.
func standing(planned []*format.Group, committed map[string]kadm.OffsetResponses) (n int64) {
	for _, g := range planned {
		for p, o := range each(g) {
			if c, ok := committed[g.ID].Lookup(p.topic, p.num); ok && c.At == o.Offset {
				n++
			}
		}
	}
	return n
}

// undoOf is what the groups have committed in the partitions that are going to be
// committed. ids are those of the topics.
func undoOf(planned []*format.Group, known map[string]bool, committed map[string]kadm.OffsetResponses, ids map[string]string) []*format.Group {
	var out []*format.Group
	for _, g := range planned {
		was := &format.Group{ID: g.ID, Offsets: make(map[string]map[int32]format.GroupOffset)}
		was.New, was.Topics = !known[g.ID], make(map[string]string)
		for p := range each(g) {
			was.Topics[p.topic] = ids[p.topic]
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
	return out
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
func keep(file string, groups []*format.Group) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		if errors.Is(err, os.ErrExist) {
			return command.WithHint(err, "it may still be needed: name another file with --undo")
		}
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file) // half of it is of no use
		}
	}()
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
func commit(ctx context.Context, adm *kadm.Client, all []*format.Group) (offsets, committed int64, err error) {
	var o, n atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(committers)
	for _, group := range all {
		g.Go(func() error {
			var of int64
			for range each(group) {
				of++
			}
			if of == 0 {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("commit the offsets of group %s: %w", group.ID, err)
			}
			if err := groups.Commit(ctx, adm, group.ID, group.Offsets); err != nil {
				return err
			}
			n.Add(1)
			o.Add(of)
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
	cl, states, err := connectToCommit(ctx, cfg.Kafka, was)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	reborn, err := leaveOutReborn(ctx, cl, was)
	if err != nil {
		return err
	}
	for _, topic := range reborn {
		env.Log.Warn(fmt.Sprintf("topic %s was deleted and created again since: what groups have committed in it is left as it is", topic))
	}
	known := states.known()
	now, err := fetchOffsets(ctx, adm, known, was)
	if err != nil {
		return err
	}
	env.Log.Info(states.unseen(was))
	offsets, groups, err := commit(ctx, adm, was)
	if err != nil {
		return command.WithHint(fmt.Errorf("%w (%s of %s put back before)", err, command.Count(offsets, "offset"), command.Count(groups, "group")), "run the same line again: it puts all of them back")
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
	var own error
	if len(reborn) > 0 {
		own = command.WithStatus(command.Loss, fmt.Errorf("done, but not in %s, which were deleted and created again", some(reborn)))
	}
	return endStatus(end, "what was read is put back, but it is not everything", own)
}

// leaveOutReborn takes out what groups had committed in topics that have been deleted and
// created again since, and returns these topics.
func leaveOutReborn(ctx context.Context, cl *kgo.Client, was []*format.Group) ([]string, error) {
	ids := make(map[string]bool)
	for _, g := range was {
		for topic := range g.Topics {
			ids[topic] = true
		}
	}
	r, err := lookAtTopics(ctx, cl, names(ids))
	if err != nil {
		return nil, err
	}
	reborn := make(map[string]bool)
	for _, g := range was {
		for topic, id := range g.Topics {
			if now := r.id(topic); id != "" && now != "" && id != now {
				delete(g.Offsets, topic)
				delete(g.Absent, topic)
				reborn[topic] = true
			}
		}
	}
	return names(reborn), nil
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
		if errors.Is(err, kerr.GroupIDNotFound) { // if it had offsets a moment ago, the answer to a first request was lost
			return n, n > 0, nil
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
	if errors.Is(err, kerr.GroupIDNotFound) { // likewise: a group goes with its last offset
		err = nil
	}
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

// idsOf are the ids of groups, as known.
func idsOf(groups []*format.Group) map[string]bool {
	out := make(map[string]bool)
	for _, g := range groups {
		out[g.ID] = true
	}
	return out
}
