package produce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/partitionlog"
)

const (
	committers = 16  // groups that are committed at once
	askAtOnce  = 200 // groups whose offsets are asked for at once
)

// commitGroups commits the offsets of groups that have no members in the target. all asks for
// those too that this run has committed before.
func (m *mirror) commitGroups(ctx context.Context, wanted map[string]placed, all bool) (committed int64, err error) {
	var ids []string
	for _, id := range sortedNames(wanted) {
		if all || !maps.EqualFunc(wanted[id], m.ours[id], sameOffset) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return 0, nil
	}
	states, err := groups.ReadStates(ctx, m.adm)
	if err != nil {
		return 0, err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return m.inUse(states, id) })
	for some := range slices.Chunk(ids, askAtOnce) {
		n, err := m.commitSome(ctx, some, states, wanted)
		if committed += n; err != nil {
			return committed, err
		}
	}
	return committed, nil
}

func sameOffset(a, b format.GroupOffset) bool {
	return a.Offset == b.Offset && (a.Metadata == nil) == (b.Metadata == nil) && (a.Metadata == nil || *a.Metadata == *b.Metadata)
}

// inUse tells whether a group of the target is to be left alone, and says why, once.
func (m *mirror) inUse(states groups.States, id string) bool {
	switch {
	case states.Shared(id):
		m.tell(id, fmt.Sprintf("group %s is a share group in the target, which has no committed offsets: it is left alone", id))
	case states.Active(id):
		m.tell(id, fmt.Sprintf("group %s has active members in the target: it is left alone while they are active", id))
	default:
		delete(m.told, id)
		return false
	}
	delete(m.ours, id) // whatever it commits now is its own
	return true
}

func (m *mirror) tell(key, text string) {
	if !m.told[key] {
		m.told[key] = true
		m.p.env.Log.Warn(text)
	}
}

// commitSome commits the offsets of some groups.
func (m *mirror) commitSome(ctx context.Context, ids []string, states groups.States, wanted map[string]placed) (committed int64, err error) {
	known := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { _, ok := states[id]; return !ok })
	fetched, err := groups.Fetch(ctx, m.adm, known)
	if err != nil {
		return 0, err
	}
	planned := make(map[string]placed)
	for _, id := range ids {
		has := fetched[id]
		if has.Err != nil && !errors.Is(has.Err, kerr.GroupIDNotFound) {
			return committed, fmt.Errorf("read the offsets of group %s: %w", id, has.Err)
		}
		var ahead []partitionlog.Partition
		ahead, planned[id] = split(wanted[id], has.Fetched, m.ours[id])
		if len(ahead) == 0 {
			delete(m.told, id+" is ahead")
			continue
		}
		c, _ := has.Fetched.Lookup(ahead[0].Topic, ahead[0].Num)
		m.tell(id+" is ahead", fmt.Sprintf("group %s is further in the target than in the source, in %s at %d and not at %d: it is left there; kbk-offsets apply --rewind would take it back",
			id, ahead[0], c.At, wanted[id][ahead[0]].Offset))
	}
	return m.commit(ctx, planned)
}

// commit commits offsets of groups, and remembers them.
func (m *mirror) commit(ctx context.Context, planned map[string]placed) (committed int64, err error) {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(committers)
	for id, offsets := range planned {
		g.Go(func() error {
			err := groups.Commit(ctx, m.adm, id, byTopic(offsets))
			if errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.RebalanceInProgress) { // somebody has joined a moment ago
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			m.ours[id] = offsets
			committed += int64(len(offsets))
			return nil
		})
	}
	err = g.Wait()
	return committed, err
}

// split tells the offsets that may be committed from those that would go back behind
// what somebody else has committed in the target. ours is what this run has.
func split(wanted placed, has kadm.OffsetResponses, ours placed) (ahead []partitionlog.Partition, commit placed) {
	commit = make(placed)
	for at, o := range wanted {
		c, ok := has.Lookup(at.Topic, at.Num)
		mine, known := ours[at]
		if ok && c.At > o.Offset && !(known && mine.Offset == c.At) {
			ahead = append(ahead, at)
			continue
		}
		commit[at] = o
	}
	slices.SortFunc(ahead, func(a, b partitionlog.Partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Num, b.Num))
	})
	return ahead, commit
}

func byTopic(offsets placed) map[string]map[int32]format.GroupOffset {
	out := make(map[string]map[int32]format.GroupOffset)
	for at, o := range offsets {
		if out[at.Topic] == nil {
			out[at.Topic] = make(map[int32]format.GroupOffset)
		}
		out[at.Topic][at.Num] = o
	}
	return out
}
