package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// A plan is what a run will read: topics, and of each partition the offsets
// [from, end).
type plan struct {
	cluster string
	time    time.Time // when the end offsets were taken
	topics  []format.Topic
	groups  []format.Group
	parts   []*partition
}

// offsets is how many offsets there are to scan.
func (p *plan) offsets() int64 {
	var n int64
	for _, part := range p.parts {
		n += part.end - part.pos
	}
	return n
}

// makePlan plans to read the selected partitions.
func makePlan(ctx context.Context, adm *kadm.Client, cfg Config, meta kadm.Metadata, selected selection, log *slog.Logger, lost *losses) (*plan, error) {
	names := slices.Sorted(maps.Keys(selected))
	p := &plan{cluster: meta.Cluster}
	if len(names) == 0 { // kadm would take it as all
		return p, nil
	}
	configs := make(map[string]map[string]string)
	var err error
	if !cfg.NoConfigs {
		if configs, err = topicConfigs(ctx, adm, names, log); err != nil {
			return nil, err
		}
	}
	// The groups before the ends, so that no committed offset is past them; the ends
	// before the beginnings: what these are afterwards, retention has decided.
	if p.groups, err = readGroups(ctx, adm, cfg, selected); err != nil {
		return nil, err
	}
	p.time = time.Now()
	o, err := listOffsets(ctx, adm, names, cfg)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		t := meta.Topics[name]
		id := kafka.FormatTopicID(t.ID)
		p.topics = append(p.topics, format.Topic{
			Name: name, ID: id, Partitions: len(t.Partitions), ReplicationFactor: t.Partitions.NumReplicas(), Configs: configs[name],
		})
		resume := cfg.Cursor
		if resume != nil && resume.Topics[name].ID != "" && resume.Topics[name].ID != id {
			log.Warn(fmt.Sprintf("topic %s was deleted and created again: reading the new one from its beginning", name),
				"was", resume.Topics[name].ID, "is", id)
			resume = nil
		}
		for _, num := range slices.Sorted(maps.Keys(selected[name])) {
			start, ok1 := o.starts.Lookup(name, num)
			end, ok2 := o.ends.Lookup(name, num)
			if !ok1 || !ok2 {
				return nil, fmt.Errorf("%s/%d: the brokers told no offsets", name, num)
			}
			d := t.Partitions[num]
			part := &partition{
				topic: name, id: t.ID, num: num, leader: d.Leader, epoch: d.LeaderEpoch,
				pos: start.Offset, end: max(end.Offset, start.Offset), logStart: start.Offset,
			}
			part.target = part.end
			if err := part.bound(cfg, resume, o); err != nil {
				return nil, err
			}
			if part.pos < start.Offset {
				part.lost = [2]int64{part.pos, min(start.Offset, part.end)}
				what := deleted(part, part.lost[0], part.lost[1])
				if cfg.FailOnLoss {
					return nil, lossError(what)
				}
				lost.add(what)
			}
			if cfg.Follow {
				part.end = openEnd
			}
			p.parts = append(p.parts, part)
		}
	}
	return p, nil
}

// readGroups reads the groups that cfg asks for, as far as they are about the selected
// topics.
func readGroups(ctx context.Context, adm *kadm.Client, cfg Config, selected selection) ([]format.Group, error) {
	if len(cfg.Groups) == 0 {
		return nil, nil
	}
	included, err := matcher("--groups", cfg.Groups)
	if err != nil {
		return nil, err
	}
	excluded, err := matcher("--exclude-groups", cfg.ExcludeGroups)
	if err != nil {
		return nil, err
	}
	return groups.Read(ctx, adm, func(id string) bool { return included(id) && !excluded(id) }, func(topic string) bool { return selected[topic] != nil })
}

// bound narrows what is read of a partition from all that it holds.
func (part *partition) bound(cfg Config, resume *cursor.Cursor, o *offsets) error {
	start, end := part.pos, part.end
	if cfg.From.kind != unbounded {
		part.pos = cfg.From.offsetOf(start, end, o.ofTime(part))
	}
	// Up to a time means all records of that time: later ones may have come before
	// them. So a time does not bound offsets from above.
	if cfg.To.kind != atTime {
		part.end = cfg.To.offsetOf(start, end, 0)
	}
	if resume != nil {
		if next, ok := resume.Topics[part.topic].Partitions[part.num]; ok {
			if next > end {
				return command.WithHint(
					fmt.Errorf("%s/%d: the backup goes on at offset %d, but the partition ends at %d: records were lost at the source (unclean leader election?)", part.topic, part.num, next, end),
					"back the topic up afresh, to another place")
			}
			part.pos = next
		}
	}
	part.end = max(part.end, part.pos)
	return nil
}

// offsets are what brokers say of partitions.
type offsets struct {
	starts, ends kadm.ListedOffsets
	since        kadm.ListedOffsets // of the first record of Config.From's time or later
}

func (o *offsets) ofTime(part *partition) int64 {
	l, _ := o.since.Lookup(part.topic, part.num)
	return l.Offset
}

func listOffsets(ctx context.Context, adm *kadm.Client, names []string, cfg Config) (*offsets, error) {
	o := new(offsets)
	var err error
	ends := adm.ListCommittedOffsets
	if cfg.Uncommitted {
		ends = adm.ListEndOffsets
	}
	if o.ends, err = ends(ctx, names...); err == nil {
		err = o.ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	if o.starts, err = adm.ListStartOffsets(ctx, names...); err == nil {
		err = o.starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list start offsets: %w", err)
	}
	if cfg.From.kind != atTime {
		return o, nil
	}
	if o.since, err = adm.ListOffsetsAfterMilli(ctx, cfg.From.n, names...); err == nil {
		err = o.since.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("look for the first records since %s: %w", time.UnixMilli(cfg.From.n).UTC().Format(time.RFC3339), err)
	}
	return o, nil
}

// A selection is the partitions to read, by topic.
type selection map[string]map[int32]bool

// choose asks the cluster what there is, and selects.
func choose(ctx context.Context, adm *kadm.Client, cfg Config) (kadm.Metadata, selection, error) {
	meta, err := adm.Metadata(ctx)
	if err != nil {
		return meta, nil, fmt.Errorf("list topics: %w", err)
	}
	if err := unlisted(ctx, adm, cfg, meta.Topics); err != nil {
		return meta, nil, err
	}
	selected, err := selectTopics(meta.Topics, cfg)
	if err == nil && len(selected) == 0 && !cfg.Follow {
		err = errors.New("the selection leaves no partition to read")
	}
	return meta, selected, err
}

// unlisted looks for topics that are named and not listed: a broker leaves out those
// that the user may not see, and says so when it is asked by name.
func unlisted(ctx context.Context, adm *kadm.Client, cfg Config, listed kadm.TopicDetails) error {
	for _, t := range cfg.Topics {
		name, _, _ := strings.Cut(t, ":")
		if pattern.IsRegexp(t) || listed.Has(name) {
			continue
		}
		meta, err := adm.Metadata(ctx, name)
		if err == nil {
			err = meta.Topics[name].Err
		}
		if errors.Is(err, kerr.TopicAuthorizationFailed) {
			return command.WithHint(fmt.Errorf("topic %q: not authorized", name), "the user needs READ and DESCRIBE on it")
		}
	}
	return nil
}

// selectTopics finds the partitions that the selectors mean. While following, a regular
// expression need not match a topic yet.
func selectTopics(all kadm.TopicDetails, cfg Config) (selection, error) {
	excluded, err := matcher("--exclude", cfg.Exclude)
	if err != nil {
		return nil, err
	}
	picked := make(selection)
	pick := func(name string, wanted func(int32) bool) {
		if picked[name] == nil {
			picked[name] = make(map[int32]bool)
		}
		for num := range all[name].Partitions {
			if wanted(num) && (cfg.Partitions == nil || cfg.Partitions[num]) && cfg.Shard.Holds(name, num) {
				picked[name][num] = true
			}
		}
	}
	for _, s := range cfg.Topics {
		if pattern.IsRegexp(s) {
			matches, err := matcher("-t", []string{s})
			if err != nil {
				return nil, err
			}
			matched := false
			for name, t := range all {
				if matches(name) && !excluded(name) && (!t.IsInternal || cfg.Internal) {
					matched = true
					pick(name, func(int32) bool { return true })
				}
			}
			if !matched && !cfg.Follow {
				return nil, fmt.Errorf("no topic matches %q", s)
			}
			continue
		}
		name, list, some := strings.Cut(s, ":")
		t, ok := all[name]
		switch {
		case !ok || errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			return nil, command.WithHint(fmt.Errorf("topic %q does not exist", name), "kbk-fetch --list says what there is; -t '^PATTERN' matches several")
		case t.IsInternal && !cfg.Internal:
			return nil, command.WithHint(fmt.Errorf("topic %q is Kafka's own", name), "to read it all the same, add --internal")
		case excluded(name):
			continue
		}
		wanted := func(int32) bool { return true }
		if some {
			nums, err := pattern.Partitions(list)
			if err != nil {
				return nil, command.Usagef("-t %s: %w", s, err)
			}
			for num := range nums {
				if _, ok := t.Partitions[num]; !ok {
					return nil, fmt.Errorf("topic %s has no partition %d", name, num)
				}
			}
			wanted = func(num int32) bool { return nums[num] }
		}
		pick(name, wanted)
	}
	for name, nums := range picked {
		if err := all[name].Err; err != nil {
			return nil, fmt.Errorf("topic %s: %w", name, err)
		}
		if len(nums) == 0 {
			delete(picked, name)
		}
	}
	return picked, nil
}

// matcher is [pattern.Compile] for the patterns of a flag.
func matcher(flag string, patterns []string) (func(string) bool, error) {
	matches, err := pattern.Compile(patterns)
	if err != nil {
		return nil, command.Usagef("%s %w", flag, err)
	}
	return matches, nil
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
