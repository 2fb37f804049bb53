package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// A plan is what a run will read: topics, and of each partition the offsets
// [from, end).
type plan struct {
	cluster string
	time    time.Time // when the end offsets were taken
	topics  []format.Topic
	parts   []*partition
	lost    bool
}

// offsets is how many offsets there are to scan.
func (p *plan) offsets() int64 {
	var n int64
	for _, part := range p.parts {
		n += part.end - part.pos
	}
	return n
}

func makePlan(ctx context.Context, adm *kadm.Client, cfg Config, log *slog.Logger) (*plan, error) {
	meta, err := adm.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	names, err := selectTopics(meta.Topics, cfg.Topics)
	if err != nil {
		return nil, err
	}
	p := &plan{cluster: meta.Cluster}
	configs, err := topicConfigs(ctx, adm, names, log)
	if err != nil {
		return nil, err
	}
	// The end first: what the beginning is afterwards, retention has decided.
	p.time = time.Now()
	ends, err := adm.ListCommittedOffsets(ctx, names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	starts, err := adm.ListStartOffsets(ctx, names...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list start offsets: %w", err)
	}
	for _, name := range names {
		t := meta.Topics[name]
		id := kafka.FormatTopicID(t.ID)
		p.topics = append(p.topics, format.Topic{
			Name: name, ID: id, Partitions: len(t.Partitions), ReplicationFactor: t.Partitions.NumReplicas(), Configs: configs[name],
		})
		from := cfg.From
		if from != nil && from.Topics[name].ID != "" && from.Topics[name].ID != id {
			log.Warn(fmt.Sprintf("topic %s was deleted and created again: reading the new one from its beginning", name),
				"was", from.Topics[name].ID, "is", id)
			from = nil
		}
		for _, num := range t.Partitions.Numbers() {
			start, ok1 := starts.Lookup(name, num)
			end, ok2 := ends.Lookup(name, num)
			if !ok1 || !ok2 {
				return nil, fmt.Errorf("%s/%d: the brokers told no offsets", name, num)
			}
			d := t.Partitions[num]
			part := &partition{
				topic: name, id: t.ID, num: num, leader: d.Leader, epoch: d.LeaderEpoch,
				pos: start.Offset, end: max(end.Offset, start.Offset), logStart: start.Offset,
			}
			if from != nil {
				if next, ok := from.Topics[name].Partitions[num]; ok {
					if next > end.Offset {
						return nil, command.WithHint(
							fmt.Errorf("%s/%d: the backup goes on at offset %d, but the partition ends at %d: records were lost at the source (unclean leader election?)", name, num, next, end.Offset),
							"back the topic up afresh, to another place")
					}
					part.pos = next
				}
			}
			if part.pos < start.Offset {
				part.lost = [2]int64{part.pos, start.Offset}
				p.lost = true
				log.Warn(fmt.Sprintf("%s/%d: offsets %d to %d were deleted before they were read", name, num, part.pos, start.Offset-1))
			}
			p.parts = append(p.parts, part)
		}
	}
	return p, nil
}

// selectTopics finds the topics that the selectors mean. Internal ones are never
// among those that an expression matches.
func selectTopics(all kadm.TopicDetails, selectors []string) ([]string, error) {
	picked := make(map[string]bool)
	for _, s := range selectors {
		if !strings.HasPrefix(s, "^") {
			t, ok := all[s]
			if !ok || errors.Is(t.Err, kerr.UnknownTopicOrPartition) {
				return nil, command.WithHint(fmt.Errorf("topic %q does not exist", s), "list topics with kcat -L, or match several with -t '^PATTERN'")
			}
			picked[s] = true
			continue
		}
		re, err := regexp.Compile(s)
		if err != nil {
			return nil, command.Usagef("-t %q: %w", s, err)
		}
		matched := false
		for name, t := range all {
			if !t.IsInternal && re.MatchString(name) {
				picked[name], matched = true, true
			}
		}
		if !matched {
			return nil, fmt.Errorf("no topic matches %q", s)
		}
	}
	var names []string
	for name := range picked {
		if err := all[name].Err; err != nil {
			return nil, fmt.Errorf("topic %s: %w", name, err)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// topicConfigs returns the configs that were set on each topic; the rest are the
// broker's, and no concern of a backup.
func topicConfigs(ctx context.Context, adm *kadm.Client, names []string, log *slog.Logger) (map[string]map[string]string, error) {
	all, err := adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe topic configs: %w", err)
	}
	out := make(map[string]map[string]string)
	for _, r := range all {
		if r.Err != nil {
			log.Warn(fmt.Sprintf("topic %s: its configs cannot be read and are not in the stream: %v", r.Name, r.Err))
			continue
		}
		for _, c := range r.Configs {
			if c.Source == kmsg.ConfigSourceDynamicTopicConfig && c.Value != nil {
				if out[r.Name] == nil {
					out[r.Name] = make(map[string]string)
				}
				out[r.Name][c.Key] = *c.Value
			}
		}
	}
	return out, nil
}
