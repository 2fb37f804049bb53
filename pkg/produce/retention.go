package produce

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// An eaten is a config of a topic by which the broker would delete what was restored, as
// soon as the config is back.
type eaten struct {
	key, value string
	why        string
	own        bool // set on the topic, and no default
}

func (e eaten) line(topic string) string {
	return fmt.Sprintf("topic %s: its %s of %s would delete what is restored: %s", topic, e.key, e.value, e.why)
}

// eatenBy decides which retention of a topic would delete what was restored to it.
// settings are the topic's own, without what is suspended; oldest is the least timestamp
// of the records, largest what the largest partition takes in the log.
func eatenBy(settings map[string]string, oldest, largest int64, now time.Time) (out []eaten) {
	if policy := settings["cleanup.policy"]; policy != "" && !slices.Contains(strings.Split(policy, ","), "delete") {
		return nil // only compaction deletes there
	}
	ms, err := strconv.ParseInt(settings["retention.ms"], 10, 64)
	if err == nil && ms >= 0 && oldest != math.MaxInt64 && oldest < now.UnixMilli()-ms {
		out = append(out, eaten{"retention.ms", settings["retention.ms"],
			fmt.Sprintf("that is %s, and there are records from %s", period(ms), instant(oldest)), true})
	}
	bytes, err := strconv.ParseInt(settings["retention.bytes"], 10, 64)
	if err == nil && bytes >= 0 && largest > bytes {
		out = append(out, eaten{"retention.bytes", settings["retention.bytes"],
			fmt.Sprintf("a partition of it has %s", humanize.IBytes(uint64(largest))), true})
	}
	return out
}

// period is a time span as people say it.
func period(ms int64) string {
	d := time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
	now := time.Unix(0, 0)
	return strings.TrimSpace(humanize.RelTime(now, now.Add(d), "", ""))
}

// instant is a time as people write it, or the number where it is none.
func instant(ms int64) string {
	at := time.UnixMilli(ms).UTC()
	if at.Year() < 0 || at.Year() > 9999 {
		return strconv.FormatInt(ms, 10)
	}
	return at.Format(time.RFC3339)
}

// eaten are the configs by which a topic would lose what was restored. was are those that
// are suspended, nil where they were not set on the topic.
func (t *target) eaten(was map[string]*string, now time.Time) []eaten {
	settings := make(map[string]string)
	for key, s := range t.settings {
		settings[key] = s.value
	}
	for key, value := range was {
		if settings[key] = t.settings[key].byDefault; value != nil {
			settings[key] = *value
		}
	}
	var largest int64
	for _, l := range t.lanes {
		largest = max(largest, l.written)
	}
	found := eatenBy(settings, t.oldest, largest, now)
	for i := range found {
		found[i].own = was[found[i].key] != nil
	}
	return found
}

// eaten returns, by topic, the configs that are better not put back.
func (t *targets) eaten(now time.Time) map[string][]eaten {
	out := make(map[string][]eaten)
	for name, target := range t.topics {
		if found := target.eaten(t.keeper.original(name), now); len(found) > 0 {
			out[name] = found
		}
	}
	return out
}

// keys are the names of configs, by topic.
func keys(all map[string][]eaten) map[string][]string {
	out := make(map[string][]string)
	for name, found := range all {
		for _, e := range found {
			out[name] = append(out[name], e.key)
		}
	}
	return out
}

// leftLine says which retention of which topic was left off, and how to put it back.
func leftLine(name string, found []eaten) string {
	set := make(map[string]string)
	var why, unset []string
	for _, e := range found {
		if set[e.key] = e.value; !e.own {
			delete(set, e.key)
			unset = append(unset, e.key)
		}
		why = append(why, fmt.Sprintf("%s of %s (%s)", e.key, e.value, e.why))
	}
	slices.Sort(why)
	return fmt.Sprintf("topic %s: not put back, because it would delete what was just restored: %s; to have it all the same: %s",
		name, strings.Join(why, ", "), commands(name, set, unset))
}

// sortedNames are the names of a map of topics.
func sortedNames[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
