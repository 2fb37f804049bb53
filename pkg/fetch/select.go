package fetch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pattern"
)

// A selection is the partitions to read, by topic.
type selection map[string]map[int32]bool

// lists are the partitions as lists.
func (s selection) lists() map[string][]int32 {
	out := make(map[string][]int32)
	for name, nums := range s {
		out[name] = slices.Sorted(maps.Keys(nums))
	}
	return out
}

// choose asks the cluster what there is, and selects.
func choose(ctx context.Context, adm *kadm.Client, cfg Config, lost *losses) (kadm.Metadata, selection, error) {
	meta, err := adm.Metadata(ctx)
	if err != nil {
		return meta, nil, fmt.Errorf("list topics: %w", err)
	}
	if err := unlisted(ctx, adm, cfg, meta.Topics); err != nil {
		return meta, nil, err
	}
	for name, why := range troubled(meta.Topics, cfg) {
		what := fmt.Sprintf("topic %s is left out: %v", name, why)
		if cfg.FailOnLoss {
			return meta, nil, lossError(what)
		}
		lost.add(what)
		delete(meta.Topics, name)
	}
	selected, err := selectTopics(meta.Topics, cfg)
	if err != nil {
		return meta, nil, err
	}
	nothing := unmatched(meta.Topics, cfg)
	switch {
	case len(selected) > 0 || cfg.Follow:
		for _, what := range slices.Concat(nothing, withoutPartitions(meta.Topics, cfg), outOfSight(meta.Topics, cfg)) {
			lost.log.Warn(what)
		}
	case len(nothing) > 0:
		err = command.WithHint(errors.New(strings.Join(nothing, ", ")), invisible)
	default:
		err = errors.New("the selection leaves no partition to read")
	}
	return meta, selected, err
}

const invisible = "kbk-fetch --list says what there is; it does not see topics that the user has no right to DESCRIBE"

// expected tells whether a topic would be read, were it there, because an expression
// matches it.
func expected(cfg Config) func(name string) bool {
	expressions := slices.DeleteFunc(slices.Clone(cfg.Topics), func(s string) bool { return !pattern.IsRegexp(s) })
	included, err := pattern.Compile(expressions)
	excluded, err2 := pattern.Compile(cfg.Exclude)
	if errors.Join(err, err2) != nil { // said elsewhere
		return func(string) bool { return false }
	}
	return func(name string) bool { return included(name) && !excluded(name) }
}

// named are the topics that are selected by name.
func named(cfg Config) map[string]bool {
	out := make(map[string]bool)
	for _, s := range cfg.Topics {
		if !pattern.IsRegexp(s) {
			name, _, _ := strings.Cut(s, ":")
			out[name] = true
		}
	}
	return out
}

// troubled returns the topics of which a broker cannot say more than their names, and
// that only expressions select.
func troubled(all kadm.TopicDetails, cfg Config) map[string]error {
	out := make(map[string]error)
	matches, byName := expected(cfg), named(cfg)
	for name, t := range all {
		if t.Err != nil && matches(name) && !byName[name] && (!t.IsInternal || cfg.Internal) {
			out[name] = t.Err
		}
	}
	return out
}

// outOfSight says which topics the cursor names and an expression matches, and are not there:
// deleted, or out of sight for the user.
func outOfSight(all kadm.TopicDetails, cfg Config) []string {
	if cfg.Cursor == nil {
		return nil
	}
	matches := expected(cfg)
	var names []string
	for name := range cfg.Cursor.Topics {
		if matches(name) && !all.Has(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return []string{"topics that the cursor names are not there: they were deleted, or the user no longer has the right to DESCRIBE them: " + strings.Join(names, ", ")}
}

// unmatched says which selectors select nothing of the topics.
func unmatched(all kadm.TopicDetails, cfg Config) (out []string) {
	matchesAny := func(expression string, wanted func(name string) bool) bool {
		matches, err := pattern.Compile([]string{expression})
		if err != nil {
			return true // said elsewhere
		}
		for name := range all {
			if matches(name) && wanted(name) {
				return true
			}
		}
		return false
	}
	excluded, err := pattern.Compile(cfg.Exclude)
	if err != nil {
		return nil
	}
	for _, s := range cfg.Topics {
		name, _, _ := strings.Cut(s, ":")
		switch {
		case !pattern.IsRegexp(s) && excluded(name):
			out = append(out, fmt.Sprintf("topic %q is named, and --exclude leaves it out", name))
		case pattern.IsRegexp(s) && !matchesAny(s, func(name string) bool { return !excluded(name) && (!all[name].IsInternal || cfg.Internal) }):
			out = append(out, fmt.Sprintf("no topic matches %q", s))
		}
	}
	for _, s := range cfg.Exclude {
		if !matchesAny(s, func(string) bool { return true }) {
			out = append(out, fmt.Sprintf("no topic matches --exclude %q", s))
		}
	}
	return out
}

// withoutPartitions says which partitions --partitions names and no topic that is
// selected has, and of which topics it leaves nothing.
func withoutPartitions(all kadm.TopicDetails, cfg Config) (out []string) {
	if cfg.Partitions == nil {
		return nil
	}
	numbers := cfg.Partitions
	cfg.Partitions, cfg.Shard = nil, partitions.Shard{}
	selected, err := selectTopics(all, cfg)
	if err != nil {
		return nil
	}
	there := make(map[int32]bool)
	for _, name := range slices.Sorted(maps.Keys(selected)) {
		some := false
		for num := range selected[name] {
			if numbers[num] {
				there[num], some = true, true
			}
		}
		if !some {
			out = append(out, fmt.Sprintf("topic %s has none of the partitions that --partitions names", name))
		}
	}
	for _, num := range slices.Sorted(maps.Keys(numbers)) {
		if !there[num] {
			out = append(out, fmt.Sprintf("no topic that is selected has partition %d", num))
		}
	}
	return out
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
			return command.WithHint(fmt.Errorf("topic %q: not authorized", name), needsRead)
		}
	}
	return nil
}

const needsRead = "the user needs READ and DESCRIBE on it"

// readable looks whether the user may read the topics that are selected by name. Those of
// an expression are left out where he may not, once a leader says so.
func readable(ctx context.Context, adm *kadm.Client, cfg Config, selected selection) error {
	var names []string
	for name := range named(cfg) {
		if selected[name] != nil {
			names = append(names, name)
		}
	}
	if len(names) == 0 { // none would mean all
		return nil
	}
	meta, err := adm.Metadata(kadm.WithAuthorizedOps(ctx), names...)
	if err != nil {
		return fmt.Errorf("look at the topics: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		// Brokers before Kafka 2.3 do not tell.
		if ops := meta.Topics[name].AuthorizedOperations; len(ops) > 0 && !slices.Contains(ops, kadm.OpRead) {
			return command.WithHint(fmt.Errorf("topic %q: not authorized", name), needsRead)
		}
	}
	return nil
}

// selectTopics finds the partitions that the selectors mean. An expression may match
// nothing; a name has to be there.
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
			for name, t := range all {
				if matches(name) && !excluded(name) && (!t.IsInternal || cfg.Internal) {
					pick(name, func(int32) bool { return true })
				}
			}
			continue
		}
		name, list, some := strings.Cut(s, ":")
		t, ok := all[name]
		switch {
		case !ok || errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			return nil, noTopic(name, slices.Sorted(maps.Keys(all)))
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

// noTopic is the error about a topic that is not among those of the cluster.
func noTopic(name string, topics []string) error {
	err := fmt.Errorf("topic %q does not exist%s", name, command.Nearest(name, topics))
	if notOfTopics.MatchString(name) {
		return command.WithHint(err, fmt.Sprintf("no topic has a name with %q in it; a regular expression begins with ^, as in -t '^orders'", notOfTopics.FindString(name)))
	}
	return command.WithHint(err, invisible)
}

// notOfTopics is a character that Kafka does not allow in the name of a topic.
var notOfTopics = regexp.MustCompile(`[^A-Za-z0-9._-]`)
