// Package groups reads consumer groups' committed offsets.
package groups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// atOnce is how many groups one request asks for: a response with 1,000 partitions of
// each is some 10 MB.
const atOnce = 200

// takeOver is how long the brokers get to tell one another who leads what.
const takeOver = 2 * time.Second

// What kbk itself keeps in a cluster, as offsets of consumer groups. It means nothing
// elsewhere, and is no data.
const (
	// Produce is the group in which kbk-produce keeps what topic configs are to be when
	// a restore is over.
	Produce = "kbk-produce"
	// fetchMetadata is the metadata of the offsets that kbk-fetch --group commits, whose
	// group may have any name.
	fetchMetadata = "kbk-fetch: stored up to here"
)

// MarkOwn marks what is about to be committed as kbk's own.
func MarkOwn(req *kmsg.OffsetCommitRequest) {
	metadata := fetchMetadata
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			req.Topics[i].Partitions[j].Metadata = &metadata
		}
	}
}

// own tells whether a committed offset is kbk's own.
func own(group, metadata string) bool {
	return group == Produce || group == Mirror || metadata == fetchMetadata
}

// DropOwn takes the offsets out of a group that are kbk's own, as backups of before have
// them, and tells whether there is anything left of it.
func DropOwn(g *format.Group) bool {
	if g.ID == Produce || g.ID == Mirror {
		return false
	}
	dropped := false
	for topic, parts := range g.Offsets {
		for num, o := range parts {
			if o.Metadata != nil && own(g.ID, *o.Metadata) {
				delete(parts, num)
				dropped = true
			}
		}
		if len(parts) == 0 {
			delete(g.Offsets, topic)
		}
	}
	return !dropped || len(g.Offsets) > 0
}

// A Request says which groups to read, and of which topics.
type Request struct {
	Include, Exclude []string          // names, or regular expressions that begin with ^; no Include is all
	Topics           map[string]string // topic ids by name, "" where one is not known
}

// A Snapshot is what groups had committed.
type Snapshot struct {
	Asked  format.Groups // the frame that says what was asked for and found
	Groups []format.Group
	// LeftOut says what was left out, or matched nothing, in lines for people.
	LeftOut []string
	own     []string // groups that are kbk's own
}

// Frames are the frames of the snapshot, none where nobody asked for groups.
func (s *Snapshot) Frames() []format.Encoder {
	if s == nil {
		return nil
	}
	out := []format.Encoder{&s.Asked}
	for i := range s.Groups {
		out = append(out, &s.Groups[i])
	}
	return out
}

// Len is the number of groups.
func (s *Snapshot) Len() int64 {
	if s == nil {
		return 0
	}
	return int64(len(s.Groups))
}

// Read returns the committed offsets of groups, by group id. Classic groups and those of
// KIP-848 (consumer) and KIP-1071 (streams) are alike here; share groups (KIP-932) have
// no committed offsets. A group without an offset in the topics is left out. An offset
// that a transaction has committed counts once the transaction has; until then it is the
// one before.
func Read(ctx context.Context, adm *kadm.Client, r Request) (*Snapshot, error) {
	if len(r.Include) == 0 {
		r.Include = []string{"^"}
	}
	included, err := pattern.Compile(r.Include)
	if err != nil {
		return nil, err
	}
	excluded, err := pattern.Compile(r.Exclude)
	if err != nil {
		return nil, err
	}
	listed, err := List(ctx, adm)
	if err != nil {
		return nil, fmt.Errorf("list consumer groups: %w", err)
	}
	s := &Snapshot{Asked: format.Groups{IDs: []string{}, GroupsInfo: format.GroupsInfo{Include: r.Include, Exclude: r.Exclude, Topics: r.Topics}}}
	var ids, share []string
	for _, id := range slices.Sorted(maps.Keys(listed)) {
		switch {
		case !included(id) || excluded(id):
		case listed[id].ProtocolType == "share":
			share = append(share, id)
		default:
			ids = append(ids, id)
		}
	}
	for _, id := range r.Include { // its coordinator knows better than a list
		if _, ok := listed[id]; !ok && !pattern.IsRegexp(id) && !excluded(id) {
			ids = append(ids, id)
		}
	}
	if len(share) > 0 {
		s.LeftOut = append(s.LeftOut, "share groups have no committed offsets, and are left out: "+strings.Join(share, ", "))
	}
	for some := range slices.Chunk(ids, atOnce) {
		fetched, err := Fetch(ctx, adm, some)
		if err != nil {
			return nil, err
		}
		for _, id := range some {
			if err := s.add(id, fetched[id]); err != nil {
				return nil, fmt.Errorf("read the offsets of group %s: %w", id, err)
			}
		}
	}
	s.LeftOut = append(s.LeftOut, unmatched(r.Include, slices.Concat(listed.Groups(), s.Asked.IDs))...)
	// It goes without saying where nobody has asked for them by name.
	asked := slices.DeleteFunc(s.own, func(id string) bool { return !slices.Contains(r.Include, id) })
	if len(asked) > 0 {
		s.LeftOut = append(s.LeftOut, "groups in which kbk keeps its own notes are left out: "+strings.Join(asked, ", "))
	}
	return s, nil
}

// List lists the groups of all brokers, and asks again while one is away. A broker leaves
// the groups out that it is about to take over from another, without an error. So while a
// replica of Kafka's own topic of groups is away, there is a second list a moment later,
// until one says the same as the one before.
func List(ctx context.Context, adm *kadm.Client) (listed kadm.ListedGroups, err error) {
	list := func() error {
		listed, err = adm.ListGroups(ctx)
		return err
	}
	if err = kafka.Retry(ctx, adm, kafka.Patience, list); err != nil {
		return nil, err
	}
	for began := time.Now(); moving(ctx, adm) && time.Since(began) < kafka.Patience; {
		before := listed.Groups()
		select {
		case <-time.After(takeOver):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if err = kafka.Retry(ctx, adm, kafka.Patience, list); err != nil {
			return nil, err
		}
		if slices.Equal(before, listed.Groups()) {
			break
		}
	}
	return listed, nil
}

// moving says whether groups may be on their way from one broker to another.
func moving(ctx context.Context, adm *kadm.Client) bool {
	const topic = "__consumer_offsets"
	meta, err := adm.Metadata(ctx, topic)
	if err != nil {
		return true
	}
	for _, p := range meta.Topics[topic].Partitions {
		if p.Leader < 0 || len(p.ISR) < len(p.Replicas) || len(p.OfflineReplicas) > 0 {
			return true
		}
	}
	return false
}

// Fetch asks for what groups have committed, and again while a coordinator is away. Other
// errors are left to whoever looks at a group.
func Fetch(ctx context.Context, adm *kadm.Client, ids []string) (kadm.FetchOffsetsResponses, error) {
	fetched := make(kadm.FetchOffsetsResponses)
	left := ids
	err := kafka.Retry(ctx, adm, kafka.Patience, func() (away error) {
		asked := left
		left = nil
		for id, g := range adm.FetchManyOffsets(ctx, asked...) {
			fetched[id] = g
			if err := cmp.Or(g.Err, g.Fetched.Error()); kafka.Transient(err) {
				left, away = append(left, id), fmt.Errorf("read the offsets of group %s: %w", id, err)
			}
		}
		return away
	})
	return fetched, err
}

// unmatched says which patterns match none of the groups.
func unmatched(patterns, ids []string) (out []string) {
	for _, p := range patterns {
		if matches, err := pattern.Compile([]string{p}); err == nil && !slices.ContainsFunc(ids, matches) {
			out = append(out, fmt.Sprintf("no consumer group matches %q; groups that the user has no right to DESCRIBE are not visible", p))
		}
	}
	return out
}

// add takes up a group's offsets.
func (s *Snapshot) add(id string, g kadm.FetchOffsetsResponse) error {
	if errors.Is(g.Err, kerr.GroupIDNotFound) { // deleted since it was listed
		return nil
	}
	if g.Err != nil {
		return g.Err
	}
	out, isOwn := make(map[string]map[int32]format.GroupOffset), false
	for topic, parts := range g.Fetched {
		if _, wanted := s.Asked.Topics[topic]; !wanted {
			continue
		}
		for num, p := range parts {
			if p.Err != nil {
				return fmt.Errorf("%s/%d: %w", topic, num, p.Err)
			}
			if p.At < 0 { // nothing committed
				continue
			}
			if own(id, p.Metadata) {
				isOwn = true
				continue
			}
			if out[topic] == nil {
				out[topic] = make(map[int32]format.GroupOffset)
			}
			o := format.GroupOffset{Offset: p.At}
			if p.LeaderEpoch >= 0 {
				o.LeaderEpoch = &p.LeaderEpoch
			}
			if p.Metadata != "" {
				o.Metadata = &p.Metadata
			}
			out[topic][num] = o
		}
	}
	if len(out) > 0 {
		topics := make(map[string]string, len(out)) // of the others, Asked says that they were looked at
		for topic := range out {
			topics[topic] = s.Asked.Topics[topic]
		}
		s.Asked.IDs = append(s.Asked.IDs, id)
		s.Groups = append(s.Groups, format.Group{ID: id, Offsets: out, GroupInfo: format.GroupInfo{Topics: topics}})
	} else if isOwn {
		s.own = append(s.own, id)
	}
	return nil
}
