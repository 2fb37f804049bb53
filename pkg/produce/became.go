package produce

import (
	"maps"
	"slices"

	"github.com/kbkio/kbk/format"
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

// became are the topics that the stream's partitions went to.
func (p *producer) became() []format.Target {
	if p.cfg.DryRun { // of a dry run there is no map
		return nil
	}
	ids := make(map[string]string)
	for name, t := range p.targets.topics {
		ids[name] = t.id
	}
	return becameFrames(p.cfg, p.spoken, ids)
}
