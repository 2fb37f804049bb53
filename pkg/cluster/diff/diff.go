package diff

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize/english"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
)

// Why a change cannot be applied, in [change.Change.Lacks].
const (
	LacksPassword = "the password is missing, because Kafka does not reveal it"
	LacksValue    = "the value is missing, because Kafka does not reveal it"
	LacksTopic    = "the topic does not exist: kbk-produce creates topics"
	LacksBroker   = "the cluster does not have this broker"
	lacksCount    = "kbk-cluster does not change partitions: kbk-produce --add-partitions adds them"
)

// A Plan is what it takes to make a live cluster as a snapshot is.
type Plan struct {
	Changes []change.Change
	Notes   []string // what is no change, and that people should know, in a line each
}

// Find returns what differs in ACLs, quotas, users and configs between a snapshot and a live
// cluster, in order. Both have the frames of kinds alone.
func Find(want, have []format.Encoder, kinds []string) *Plan {
	p := new(Plan)
	for _, kind := range kinds {
		w, h := of(kind, want), of(kind, have)
		switch kind {
		case format.ClusterConfigs:
			p.configs(w, h)
		case format.ClusterACLs, format.ClusterQuotas:
			p.plain(w, h)
		case format.ClusterUsers:
			p.plain(w, h)
			p.users(w, h)
		}
	}
	return p
}

func of(kind string, frames []format.Encoder) (out []format.Encoder) {
	for _, f := range frames {
		if KindOf(f) == kind {
			out = append(out, f)
		}
	}
	return out
}

func (p *Plan) note(f string, args ...any) { p.Notes = append(p.Notes, fmt.Sprintf(f, args...)) }

// plain compares entries one by one.
func (p *Plan) plain(want, have []format.Encoder) {
	w, h := byKey(want), byKey(have)
	for _, key := range slices.Sorted(maps.Keys(merged(w, h))) {
		if c, ok := between(h[key], w[key]); ok {
			p.Changes = append(p.Changes, c)
		}
	}
}

func merged(a, b map[string]*entry) map[string]*entry {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// between is the change that makes before what after is; either may be nil.
func between(before, after *entry) (c change.Change, differs bool) {
	if equal(before, after) {
		return c, false
	}
	some := after
	if after == nil {
		some = before
	}
	c = change.Change{Kind: some.kind, Name: some.name, Action: change.Alter}
	detail := change.Detail{Field: some.field}
	if before != nil {
		c.Before, detail.Before = before.frame, before.value
	} else {
		c.Action = change.Add
	}
	if after != nil {
		c.After, detail.After = after.frame, after.value
	} else {
		c.Action = change.Remove
	}
	if detail.Field != "" {
		c.Details = []change.Detail{detail}
	}
	if after != nil && after.secret {
		c.Lacks = LacksValue
	}
	if after != nil && after.kind == format.ClusterUsers {
		c.Lacks = LacksPassword
	}
	return c, true
}

// users notes that nobody can tell whether passwords are equal.
func (p *Plan) users(want, have []format.Encoder) {
	w, h := byKey(want), byKey(have)
	n := 0
	for key := range w {
		if h[key] != nil {
			n++
		}
	}
	if n > 0 {
		p.note("%s in both clusters: the passwords cannot be compared", english.Plural(n, "credential", ""))
	}
}

// configs compares configs resource by resource. Topics and brokers are not kbk-cluster's to
// make or to delete: of those that only one side has, nothing is changed.
func (p *Plan) configs(want, have []format.Encoder) {
	w, h := resources(want), resources(have)
	var unknown []string // topics and brokers that the snapshot does not have
	secret := 0
	for _, name := range slices.Sorted(maps.Keys(mergedConfigs(w, h))) {
		before, after := h[name], w[name]
		switch {
		case before == nil && after.ResourceType == Topic && Internal(after.Name):
			p.note("topic %s does not exist yet; Kafka creates it with configs of its own", after.Name)
		case before == nil && after.ResourceType == Topic:
			p.lacking(after, LacksTopic)
		case before == nil && after.ResourceType == Broker && after.Name != "":
			if len(after.Values) > 0 {
				p.lacking(after, LacksBroker)
			}
		case after == nil && (before.ResourceType == Topic || before.ResourceType == Broker && before.Name != ""):
			if len(before.Values) > 0 {
				unknown = append(unknown, name)
			}
		default:
			p.shape(before, after)
			secret += p.values(before, after)
		}
	}
	if len(unknown) > 0 {
		p.note("not in the snapshot, so their configs stay: %s", Some(unknown))
	}
	if secret > 0 {
		p.note("%s set in both clusters: the values cannot be compared", english.Plural(secret, "sensitive value", ""))
	}
}

func resources(frames []format.Encoder) map[string]*format.Config {
	out := make(map[string]*format.Config)
	for _, f := range frames {
		if c, ok := f.(*format.Config); ok {
			out[ResourceName(c)] = c
		}
	}
	return out
}

func mergedConfigs(a, b map[string]*format.Config) map[string]*format.Config {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func (p *Plan) lacking(c *format.Config, what string) {
	p.Changes = append(p.Changes, change.Change{Kind: format.ClusterConfigs, Action: change.Add, Name: ResourceName(c), After: c, Lacks: what})
}

// shape compares how many partitions and replicas a topic has.
func (p *Plan) shape(before, after *format.Config) {
	if before == nil || after == nil || after.ResourceType != Topic {
		return
	}
	if a, b := after.Partitions, before.Partitions; a > 0 && b > 0 && a != b {
		x, y := strconv.Itoa(b), strconv.Itoa(a)
		p.Changes = append(p.Changes, change.Change{Kind: format.ClusterConfigs, Action: change.Alter, Name: ResourceName(after) + ": partitions", Before: before, After: after,
			Details: []change.Detail{{Field: "partitions", Before: &x, After: &y}}, Lacks: lacksCount})
	}
	if a, b := after.ReplicationFactor, before.ReplicationFactor; a > 0 && b > 0 && a != b {
		p.note("topic %s has %s, and %d in the snapshot", after.Name, english.Plural(b, "replica", ""), a)
	}
}

// values compares the values of one resource, and returns how many cannot be compared.
func (p *Plan) values(before, after *format.Config) (secret int) {
	var frames [2][]format.Encoder
	for i, c := range []*format.Config{before, after} {
		if c != nil {
			frames[i] = []format.Encoder{c}
		}
	}
	h, w := byKey(frames[0]), byKey(frames[1])
	for key, e := range w {
		if h[key] != nil && e.secret && h[key].secret {
			secret++
		}
	}
	p.plain(frames[1], frames[0])
	return secret
}

// internal are the topics that Kafka makes itself.
var internal = []string{"__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata", "__remote_log_metadata"}

// Internal tells whether Kafka itself makes a topic.
func Internal(topic string) bool { return slices.Contains(internal, topic) }

// Some joins names, not too many of them.
func Some(names []string) string {
	const most = 10
	text := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return text
}
