// Package diff finds what differs between two snapshots of a cluster, and whether what was
// changed is still so. It is pure: frames in, changes out.
package diff

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/kbkio/kbk/format"
)

// Types of resources in a [format.Config].
const (
	Broker        = "broker"
	Topic         = "topic"
	Group         = "group"
	ClientMetrics = "client-metrics"
)

// Everybody is the principal of an ACL that is for all users.
const Everybody = "User:*"

// An entry is the least that is added, altered and removed by itself: an ACL, one value of a
// quota, one credential of a user, one config of a resource; a subject, a version, a connector.
type entry struct {
	kind, name string
	frame      format.Encoder // of this entry alone
	field      string         // what value is of
	value      *string        // nil: there is none, or Kafka does not give it away
	secret     bool           // the value is there, and Kafka does not give it away
}

func (e *entry) key() string { return e.kind + "\x00" + e.name }

// KindOf returns to which of [format.ClusterKinds] a frame belongs; "" is none.
func KindOf(f format.Encoder) string {
	switch f.(type) {
	case *format.ACL:
		return format.ClusterACLs
	case *format.Quota:
		return format.ClusterQuotas
	case *format.User:
		return format.ClusterUsers
	case *format.Config:
		return format.ClusterConfigs
	case *format.Subject, *format.Schema:
		return format.ClusterSchemas
	case *format.Connector:
		return format.ClusterConnectors
	}
	return ""
}

// entries are what a frame consists of, in order.
func entries(f format.Encoder) (out []entry) {
	add := func(name string, f format.Encoder, field string, value *string, secret bool) {
		out = append(out, entry{KindOf(f), name, f, field, value, secret})
	}
	switch f := f.(type) {
	case *format.ACL:
		add(ACLName(f), f, "", nil, false)
	case *format.Quota:
		f = &format.Quota{Entity: sorted(f.Entity), Values: f.Values}
		for _, key := range slices.Sorted(maps.Keys(f.Values)) {
			value := Number(f.Values[key])
			add(EntityName(f.Entity)+": "+key, &format.Quota{Entity: f.Entity, Values: map[string]float64{key: f.Values[key]}}, key, &value, false)
		}
	case *format.User:
		for _, c := range f.Credentials {
			value := fmt.Sprintf("%d iterations", c.Iterations)
			add(Quoted(f.Name)+": "+c.Mechanism, &format.User{Name: f.Name, Credentials: []format.Credential{c}}, "iterations", &value, false)
		}
	case *format.Config:
		for _, key := range slices.Sorted(maps.Keys(f.Values)) {
			one := &format.Config{ResourceType: f.ResourceType, Name: f.Name, Values: map[string]*string{key: f.Values[key]}}
			add(ResourceName(f)+": "+key, one, key, f.Values[key], f.Values[key] == nil)
		}
	case *format.Subject:
		add("subject "+Quoted(f.Name), f, "", nil, false)
	case *format.Schema:
		add(fmt.Sprintf("subject %s version %d", Quoted(f.Subject), f.Version), f, "", nil, false)
	case *format.Connector:
		add("connector "+Quoted(f.Name), f, "", nil, false)
	}
	return out
}

// same tells whether two entries of one key are equal, as far as that can be told: schemas may
// have other ids in another registry, and a connector's offsets move by themselves.
func same(a, b *entry) bool {
	switch x := a.frame.(type) {
	case *format.Schema:
		y, ok := b.frame.(*format.Schema)
		if !ok {
			return false
		}
		one, other := *x, *y
		one.ID, other.ID = 0, 0
		return equalFrames(&one, &other)
	case *format.Connector:
		y, ok := b.frame.(*format.Connector)
		return ok && maps.Equal(x.Config, y.Config) && x.State == y.State
	}
	return equalFrames(a.frame, b.frame)
}

func equalFrames(a, b format.Encoder) bool {
	x, errX := a.AppendFrame(nil)
	y, errY := b.AppendFrame(nil)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// byKey are the entries of frames by key.
func byKey(frames []format.Encoder) map[string]*entry {
	out := make(map[string]*entry)
	for _, f := range frames {
		for _, e := range entries(f) {
			out[e.key()] = &e
		}
	}
	return out
}

// Sort puts frames into the order in which a snapshot has them: by kind and name. Schemas keep
// theirs, in which each comes behind those that it refers to.
func Sort(frames []format.Encoder) {
	type keyed struct {
		kind int
		name string
		f    format.Encoder
	}
	all := make([]keyed, len(frames))
	for i, f := range frames {
		all[i] = keyed{slices.Index(format.ClusterKinds, KindOf(f)), Name(f), f}
		switch f.(type) {
		case *format.Subject, *format.Schema:
			all[i].name = ""
		}
	}
	slices.SortStableFunc(all, func(a, b keyed) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name)) })
	for i := range all {
		frames[i] = all[i].f
	}
}

// Name says what a frame is about, for people. It is unique within the kind.
func Name(f format.Encoder) string {
	switch f := f.(type) {
	case *format.Quota:
		return EntityName(sorted(f.Entity))
	case *format.User:
		return Quoted(f.Name)
	case *format.Config:
		return ResourceName(f)
	}
	if all := entries(f); len(all) == 1 {
		return all[0].name
	}
	return ""
}

// ACLName says what an ACL is.
func ACLName(a *format.ACL) string {
	var b strings.Builder
	b.WriteString(Quoted(a.Principal))
	if a.Permission != "ALLOW" {
		b.WriteString(" " + a.Permission)
	}
	fmt.Fprintf(&b, " %s on %s ", a.Operation, a.ResourceType)
	if a.PatternType != "LITERAL" {
		b.WriteString(strings.ToLower(a.PatternType) + " ")
	}
	b.WriteString(Quoted(a.ResourceName))
	if a.Host != "*" {
		b.WriteString(" from " + Quoted(a.Host))
	}
	return b.String()
}

// sorted is an entity with its parts in order: user, client-id, ip.
func sorted(entity []format.QuotaEntity) []format.QuotaEntity {
	order := []string{"user", "client-id", "ip"}
	return slices.SortedFunc(slices.Values(entity), func(a, b format.QuotaEntity) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Type), slices.Index(order, b.Type)), strings.Compare(a.Type, b.Type))
	})
}

// EntityName says what a quota is of.
func EntityName(entity []format.QuotaEntity) string {
	var parts []string
	for _, e := range entity {
		if e.Name == nil {
			parts = append(parts, e.Type+" <default>")
		} else {
			parts = append(parts, e.Type+" "+Quoted(*e.Name))
		}
	}
	return strings.Join(parts, ", ")
}

// ResourceName says what configs are of.
func ResourceName(c *format.Config) string {
	if c.ResourceType == Broker && c.Name == "" {
		return "all brokers"
	}
	return c.ResourceType + " " + Quoted(c.Name)
}

// Quoted is a name as it is, or in quotes where it might be taken for something else.
func Quoted(name string) string {
	plain := name != "" && strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-:@/=*+,", r))
	}) < 0
	if plain && !strings.HasSuffix(name, ":") {
		return name
	}
	return strconv.Quote(name)
}

// Number writes a quota's value as Kafka's own tools take it.
func Number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
