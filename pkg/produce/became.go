package produce

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/kafka"
)

// spoken are the partitions that a stream speaks of, by topic: those with a mark or a
// record.
type spoken map[string]map[int32]bool

func (s spoken) add(topic string, partition int32) {
	if s[topic] == nil {
		s[topic] = make(map[int32]bool)
	}
	s[topic][partition] = true
}

// becameFrames say what each partition of the stream became, with records or without: a
// group that had read all of a partition has to find it again.
func becameFrames(cfg *Config, all spoken, ids map[string]string) []format.Target {
	var out []format.Target
	for _, topic := range slices.Sorted(maps.Keys(all)) {
		name := cfg.Naming.Target(topic)
		for _, num := range slices.Sorted(maps.Keys(all[topic])) {
			to := int32(-1) // records were spread over the partitions
			if cfg.Partitioner == "" {
				to = cfg.partition(num)
			}
			out = append(out, format.Target{
				Topic: topic, Partition: num, TargetTopic: name, TargetPartition: to, TargetInfo: format.TargetInfo{TargetID: ids[name]},
			})
		}
	}
	return out
}

// became looks up the topics that the stream's partitions went to.
func (p *producer) became(ctx context.Context) ([]format.Target, error) {
	if p.cfg.DryRun || len(p.spoken) == 0 { // of a dry run there is no map
		return nil, nil
	}
	names := make(map[string]bool)
	for topic := range p.spoken {
		names[p.cfg.Naming.Target(topic)] = true
	}
	meta, err := p.targets.adm.Metadata(ctx, slices.Sorted(maps.Keys(names))...)
	if err != nil {
		return nil, fmt.Errorf("look at the target topics: %w", err)
	}
	ids := make(map[string]string)
	for name, t := range meta.Topics {
		ids[name] = kafka.FormatTopicID(t.ID)
	}
	return becameFrames(p.cfg, p.spoken, ids), nil
}
