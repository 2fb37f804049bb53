// Package groups reads consumer groups' committed offsets.
package groups

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/format"
)

// atOnce is how many groups one request asks for: a response with 1,000 partitions of
// each is some 10 MB.
const atOnce = 200

// Read returns the committed offsets in the chosen topics of the chosen groups, by
// group id. Classic groups and those of KIP-848 and KIP-1071 are alike here; share
// groups (KIP-932) have no committed offsets. A group without an offset in these topics
// is left out. An offset that a transaction has committed counts once the transaction
// has; until then it is the one before.
func Read(ctx context.Context, adm *kadm.Client, group, topic func(name string) bool) ([]format.Group, error) {
	listed, err := adm.ListGroups(ctx)
	if err != nil {
		return nil, fmt.Errorf("list consumer groups: %w", err)
	}
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(listed)) {
		if group(id) && listed[id].ProtocolType != "share" {
			ids = append(ids, id)
		}
	}
	var out []format.Group
	for some := range slices.Chunk(ids, atOnce) {
		fetched := adm.FetchManyOffsets(ctx, some...)
		for _, id := range some {
			g, err := offsets(fetched[id], topic)
			if err != nil {
				return nil, fmt.Errorf("read the offsets of group %s: %w", id, err)
			}
			if len(g) > 0 {
				out = append(out, format.Group{ID: id, Offsets: g})
			}
		}
	}
	return out, nil
}

func offsets(g kadm.FetchOffsetsResponse, wanted func(topic string) bool) (map[string]map[int32]format.GroupOffset, error) {
	if errors.Is(g.Err, kerr.GroupIDNotFound) { // deleted since it was listed
		return nil, nil
	}
	if g.Err != nil {
		return nil, g.Err
	}
	out := make(map[string]map[int32]format.GroupOffset)
	for topic, parts := range g.Fetched {
		if !wanted(topic) {
			continue
		}
		for num, p := range parts {
			if p.Err != nil {
				return nil, fmt.Errorf("%s/%d: %w", topic, num, p.Err)
			}
			if p.At < 0 { // nothing committed
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
	return out, nil
}
