package groups

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/kafka"
)

// States are the groups of a cluster and how they stand, by id.
type States map[string]kadm.ListedGroup

// ReadStates asks all brokers.
func ReadStates(ctx context.Context, adm *kadm.Client) (States, error) {
	listed, err := List(ctx, adm)
	if err != nil {
		return nil, fmt.Errorf("list consumer groups: %w", err)
	}
	var silent []string // before Kafka 2.6 (KIP-518)
	for id, l := range listed {
		if l.State == "" {
			silent = append(silent, id)
		}
	}
	if len(silent) > 0 {
		described, err := adm.DescribeGroups(ctx, silent...)
		if err != nil {
			return nil, fmt.Errorf("describe consumer groups: %w", err)
		}
		for id, d := range described {
			l := listed[id]
			l.State = d.State
			listed[id] = l
		}
	}
	return States(listed), nil
}

// Shared tells whether a group is a share group, which has no committed offsets.
func (s States) Shared(id string) bool { return s[id].ProtocolType == "share" }

// Active tells whether a group has members, who would commit over what others do.
func (s States) Active(id string) bool {
	l, ok := s[id]
	return ok && !s.Shared(id) && l.State != "Empty" && l.State != "Dead"
}

// Commit commits offsets of a group, and tries again while its coordinator is away.
func Commit(ctx context.Context, adm *kadm.Client, id string, offsets map[string]map[int32]format.GroupOffset) error {
	set := make(kadm.Offsets)
	for topic, parts := range offsets {
		for num, o := range parts {
			k := kadm.Offset{Topic: topic, Partition: num, At: o.Offset, LeaderEpoch: -1}
			if o.LeaderEpoch != nil {
				k.LeaderEpoch = *o.LeaderEpoch
			}
			if o.Metadata != nil {
				k.Metadata = *o.Metadata
			}
			set.Add(k)
		}
	}
	if len(set) == 0 {
		return nil
	}
	if err := kafka.Retry(ctx, adm, kafka.Patience, func() error { return adm.CommitAllOffsets(ctx, id, set) }); err != nil {
		return fmt.Errorf("commit the offsets of group %s: %w", id, err)
	}
	return nil
}
