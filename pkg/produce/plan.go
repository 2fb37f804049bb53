package produce

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/partitionlog"
)

// A wish is a topic of the stream that is to be written to the cluster.
type wish struct {
	source  string
	target  string
	about   *format.Topic // nil where the stream does not say
	highest int           // the most partitions that its records are known to need
}

// A topicState is a topic as the cluster has it.
type topicState struct {
	exists     bool
	err        error // it cannot be looked at
	internal   bool
	id         string
	partitions int
	settings   map[string]setting // nil: they may not be seen
	bounds     map[int32]partitionlog.Bounds
}

// A setting is a config as a topic has it.
type setting struct {
	value     string
	own       bool   // set on the topic itself
	byDefault string // what it would be otherwise
}

// A plan is what is to be done before the first record is written. Making it takes
// nothing but what the stream and the cluster say.
type plan struct {
	topics []topicPlan // by name
}

// A topicPlan is what is to be done to one topic.
type topicPlan struct {
	name       string
	wish       wish
	create     bool
	replicas   int // of a topic that is created; -1: the broker's default
	configs    map[string]*string
	had        int               // partitions
	partitions int               // and how many there will be
	hold       map[string]string // configs that would eat or change what is restored
	full       []int32           // partitions that hold records, and are to be emptied
	deleted    int64             // offsets that this would take
	notes      []string          // what else is to be known
}

// notRecreated are configs that speak of brokers of the source, not of the topic.
var notRecreated = []string{"leader.replication.throttled.replicas", "follower.replication.throttled.replicas"}

// internalTopics are Kafka's own: clients may not write to them.
var internalTopics = []string{"__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata", "__remote_log_metadata"}

// makePlan decides what is to be done for some topics. Whatever is refused is in the
// error, of all topics at once.
func makePlan(cfg *Config, wishes []wish, have map[string]topicState) (plan, error) {
	var p plan
	var errs []error
	var missing []string
	from := make(map[string]string)
	for _, w := range wishes {
		if other, ok := from[w.target]; ok {
			errs = append(errs, command.Usagef("topics %s and %s would both go to %s", other, w.source, w.target))
			continue
		}
		from[w.target] = w.source
		state := have[w.target]
		switch {
		case state.internal || slices.Contains(internalTopics, w.target):
			errs = append(errs, command.WithHint(fmt.Errorf("topic %s is Kafka's own, and takes no records of others", w.target),
				"leave topic "+w.source+" out, or write it to another with --rename"))
		case state.err != nil:
			errs = append(errs, fmt.Errorf("topic %s: %w", w.target, state.err))
		case !state.exists && !cfg.CreateTopics:
			missing = append(missing, w.target)
		case !state.exists:
			tp, err := planCreation(cfg, w)
			errs = append(errs, err)
			p.topics = append(p.topics, tp)
		default:
			tp, err := planPresent(cfg, w, state)
			errs = append(errs, err)
			p.topics = append(p.topics, tp)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		errs = append(errs, command.WithHint(fmt.Errorf("topic %s does not exist", strings.Join(missing, ", ")), "create it, or let --create-topics do it"))
	}
	slices.SortFunc(p.topics, func(a, b topicPlan) int { return strings.Compare(a.name, b.name) })
	errs = append(errs, p.unmeant(cfg))
	return p, errors.Join(errs...)
}

// needs is the number of partitions that a topic must have.
func needs(cfg *Config, w wish) int {
	if cfg.Partitioner != "" {
		return 1
	}
	most := w.highest
	if w.about != nil {
		for num := range w.about.Partitions {
			most = max(most, int(cfg.partition(int32(num)))+1)
		}
	}
	return max(most, 1)
}

func planCreation(cfg *Config, w wish) (topicPlan, error) {
	tp := topicPlan{name: w.target, wish: w, create: true, partitions: cfg.Partitions, replicas: cfg.ReplicationFactor, configs: make(map[string]*string)}
	need := needs(cfg, w)
	if tp.partitions == 0 && w.about != nil && w.about.Partitions > 0 {
		tp.partitions = max(w.about.Partitions, need)
	}
	switch {
	case tp.partitions == 0:
		return tp, command.WithHint(fmt.Errorf("topic %s cannot be created: the stream does not say how many partitions it had", w.target), "give --partitions N, or create it by hand")
	case tp.partitions < need:
		return tp, command.WithHint(fmt.Errorf("topic %s with %d partitions would be too small: %s needs %d", w.target, tp.partitions, w.source, need),
			"--partitioner murmur2 spreads the records by their keys over fewer")
	}
	if tp.replicas == 0 && w.about != nil {
		tp.replicas = w.about.ReplicationFactor
	}
	if tp.replicas == 0 {
		tp.replicas = -1
	}
	if w.about != nil && !cfg.NoConfigs {
		for k, v := range w.about.Configs {
			if !slices.Contains(cfg.SkipConfigs, k) && !slices.Contains(notRecreated, k) {
				tp.configs[k] = &v
			}
		}
	}
	for k, v := range cfg.Configs {
		tp.configs[k] = &v
	}
	settings := make(map[string]setting)
	for k, v := range tp.configs {
		settings[k] = setting{value: *v, own: true}
	}
	tp.planHold(cfg, settings)
	return tp, nil
}

func planPresent(cfg *Config, w wish, state topicState) (topicPlan, error) {
	tp := topicPlan{name: w.target, wish: w, had: state.partitions, partitions: max(state.partitions, needs(cfg, w))}
	tp.planHold(cfg, state.settings)
	var records int64
	for _, num := range slices.Sorted(maps.Keys(state.bounds)) {
		if b := state.bounds[num]; b.Start < b.End {
			records += b.End - b.Start
			tp.full = append(tp.full, num)
		}
	}
	switch {
	case cfg.IfNotEmpty == purge:
		tp.deleted = records
	case records > 0:
		tp.notes = append(tp.notes, fmt.Sprintf("has %s in %s already", command.Count(records, "offset"), command.Count(int64(len(tp.full)), "partition")))
	}
	if w.about != nil {
		tp.compareLimits(w.about.Configs["max.message.bytes"], state.settings["max.message.bytes"].value)
	}
	if tp.had < tp.partitions && !cfg.AddPartitions {
		return tp, tooFew(w.source, w.target, tp.had, tp.partitions)
	}
	return tp, nil
}

func tooFew(source, target string, has, needs int) error {
	return command.WithHint(fmt.Errorf("topic %s has %d partitions, and %s needs %d", target, has, source, needs),
		"let --add-partitions add them, or write to another topic with --rename")
}

// compareLimits notes that the topic takes smaller batches than the source did. Whether a
// record is too large is only seen when it comes.
func (tp *topicPlan) compareLimits(had, has string) {
	a, err1 := strconv.ParseInt(had, 10, 64)
	b, err2 := strconv.ParseInt(has, 10, 64)
	if err1 == nil && err2 == nil && a > b {
		tp.notes = append(tp.notes, fmt.Sprintf("takes batches of up to %d bytes, and %s took up to %d bytes: a larger record stops the run", b, tp.wish.source, a))
	}
}

// planHold decides which configs are suspended.
func (tp *topicPlan) planHold(cfg *Config, settings map[string]setting) {
	if settings["message.timestamp.type"].value == "LogAppendTime" && !cfg.KeepConfigs {
		tp.notes = append(tp.notes, "has LogAppendTime: restored records keep their times, as CreateTime; later records get the broker's time")
	}
	tp.hold = make(map[string]string)
	if cfg.KeepConfigs {
		return
	}
	for key, s := range settings {
		if to := held(key, s.value); to != "" {
			tp.hold[key] = to
		}
	}
}

// held says which value a config of a topic must have while records are restored
// that may be old, come in another order than they did, and have a timestamp
// already; "" where the value it has does no harm.
func held(name, value string) string {
	limit := strconv.FormatInt(math.MaxInt64, 10)
	switch name {
	case "retention.ms", "retention.bytes":
		if value != "-1" {
			return "-1"
		}
	case "cleanup.policy": // the broker refuses DeleteRecords where it is only compact
		if value != "delete" {
			return "delete"
		}
	case "message.timestamp.type":
		if value != "CreateTime" {
			return "CreateTime"
		}
	case "message.timestamp.before.max.ms", "message.timestamp.after.max.ms", "message.timestamp.difference.max.ms":
		if value != limit {
			return limit
		}
	}
	return ""
}

// unmeant refuses a purge that nobody has confirmed.
func (p *plan) unmeant(cfg *Config) error {
	if what := p.purged(); what != "" && !cfg.Yes && !cfg.DryRun {
		return command.WithHint(command.Usagef("--if-not-empty purge would delete %s for good", what), "add --yes if that is what you want")
	}
	return nil
}

// purged says what a purge takes; empty for nothing.
func (p *plan) purged() string {
	var count int64
	var names []string
	for _, tp := range p.topics {
		if tp.deleted > 0 {
			count += tp.deleted
			names = append(names, tp.name)
		}
	}
	if count == 0 {
		return ""
	}
	return fmt.Sprintf("%s of topic %s", command.Count(count, "offset"), strings.Join(names, ", "))
}

// lines are the plan for people.
func (p *plan) lines() []string {
	var out []string
	for _, tp := range p.topics {
		switch {
		case tp.create:
			line := fmt.Sprintf("would create topic %s with %s", tp.name, command.Count(int64(tp.partitions), "partition"))
			if tp.replicas > 0 {
				line += fmt.Sprintf(", replication factor %d", tp.replicas)
			}
			for _, k := range slices.Sorted(maps.Keys(tp.configs)) {
				line += fmt.Sprintf(", %s=%s", k, *tp.configs[k])
			}
			out = append(out, line)
		case tp.had < tp.partitions:
			out = append(out, fmt.Sprintf("would add partitions to topic %s, which has %d, up to %d", tp.name, tp.had, tp.partitions))
		}
		var holds []string
		for _, k := range slices.Sorted(maps.Keys(tp.hold)) {
			holds = append(holds, k+"="+tp.hold[k])
		}
		if len(holds) > 0 {
			out = append(out, fmt.Sprintf("would set configs of topic %s during the run: %s", tp.name, strings.Join(holds, ", ")))
		}
		for _, note := range tp.notes {
			out = append(out, fmt.Sprintf("topic %s %s", tp.name, note))
		}
	}
	if what := p.purged(); what != "" {
		out = append(out, "would delete "+what)
	}
	return out
}
