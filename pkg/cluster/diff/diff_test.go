package diff

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
)

func ptr(s string) *string { return &s }

func acl(principal, operation, name string) *format.ACL {
	return &format.ACL{ResourceType: "TOPIC", ResourceName: name, PatternType: "LITERAL", Principal: principal, Host: "*", Operation: operation, Permission: "ALLOW"}
}

func topic(name string, partitions, replicas int, pairs ...string) *format.Config {
	c := config(Topic, name, pairs...)
	c.Partitions, c.ReplicationFactor = partitions, replicas
	return c
}

// config has nil where the text is "secret".
func config(resource, name string, pairs ...string) *format.Config {
	c := &format.Config{ResourceType: resource, Name: name, Values: make(map[string]*string)}
	for i := 0; i < len(pairs); i += 2 {
		c.Values[pairs[i]] = ptr(pairs[i+1])
		if pairs[i+1] == "secret" {
			c.Values[pairs[i]] = nil
		}
	}
	return c
}

func user(name string, iterations int32, mechanisms ...string) *format.User {
	u := &format.User{Name: name}
	for _, m := range mechanisms {
		u.Credentials = append(u.Credentials, format.Credential{Mechanism: m, Iterations: iterations})
	}
	return u
}

func quota(user *string, pairs map[string]float64) *format.Quota {
	return &format.Quota{Entity: []format.QuotaEntity{{Type: "user", Name: user}}, Values: pairs}
}

// texts are changes as "+ name before > after !lacks".
func texts(changes []change.Change) (out []string) {
	show := func(s *string) string {
		if s == nil {
			return "-"
		}
		return *s
	}
	for _, c := range changes {
		text := string(c.Action) + " " + c.Name
		for _, d := range c.Details {
			text += fmt.Sprintf(" %s>%s", show(d.Before), show(d.After))
		}
		if c.Lacks != "" {
			text += " !"
		}
		out = append(out, text)
	}
	return out
}

func TestFind(t *testing.T) {
	for name, c := range map[string]struct {
		want, have []format.Encoder
		changes    []string
		notes      []string // what they have in them
	}{
		"ACLs": {
			want:    []format.Encoder{acl("User:a", "READ", "t"), acl("User:a", "WRITE", "t")},
			have:    []format.Encoder{acl("User:a", "READ", "t"), acl("User:b", "READ", "t")},
			changes: []string{"+ User:a WRITE on TOPIC t", "- User:b READ on TOPIC t"},
		},
		"a prefix is not a name": {
			want:    []format.Encoder{&format.ACL{ResourceType: "GROUP", ResourceName: "g", PatternType: "PREFIXED", Principal: "User:a", Host: "h", Operation: "READ", Permission: "DENY"}},
			have:    []format.Encoder{&format.ACL{ResourceType: "GROUP", ResourceName: "prefixed g", PatternType: "LITERAL", Principal: "User:a", Host: "h", Operation: "READ", Permission: "DENY"}},
			changes: []string{`- User:a DENY READ on GROUP "prefixed g" from h`, "+ User:a DENY READ on GROUP prefixed g from h"},
		},
		"quotas, a value each": {
			want:    []format.Encoder{quota(ptr("a"), map[string]float64{"x": 1, "y": 2.5}), quota(nil, map[string]float64{"x": 3})},
			have:    []format.Encoder{quota(ptr("a"), map[string]float64{"x": 2, "z": 1})},
			changes: []string{"+ user <default>: x ->3", "~ user a: x 2>1", "+ user a: y ->2.5", "- user a: z 1>-"},
		},
		"the parts of an entity in any order": {
			want: []format.Encoder{&format.Quota{Entity: []format.QuotaEntity{{Type: "user", Name: ptr("a")}, {Type: "client-id"}}, Values: map[string]float64{"x": 1}}},
			have: []format.Encoder{&format.Quota{Entity: []format.QuotaEntity{{Type: "client-id"}, {Type: "user", Name: ptr("a")}}, Values: map[string]float64{"x": 1}}},
		},
		"a user named like the default": {
			want:    []format.Encoder{quota(ptr("<default>"), map[string]float64{"x": 1})},
			have:    []format.Encoder{quota(nil, map[string]float64{"x": 1})},
			changes: []string{`+ user "<default>": x ->1`, "- user <default>: x 1>-"},
		},
		"users": {
			want:    []format.Encoder{user("a", 4096, "SCRAM-SHA-256", "SCRAM-SHA-512"), user("b", 4096, "SCRAM-SHA-256")},
			have:    []format.Encoder{user("a", 8192, "SCRAM-SHA-256"), user("b", 4096, "SCRAM-SHA-256", "SCRAM-SHA-512")},
			changes: []string{"~ a: SCRAM-SHA-256 8192 iterations>4096 iterations !", "+ a: SCRAM-SHA-512 ->4096 iterations !", "- b: SCRAM-SHA-512 4096 iterations>-"},
			notes:   []string{"2 credentials in both clusters"},
		},
		"configs": {
			want:    []format.Encoder{config(Broker, "", "k", "1"), config(Broker, "0", "k", "2"), topic("t", 1, 1, "r", "5"), config(Group, "g", "x", "1")},
			have:    []format.Encoder{config(Broker, ""), config(Broker, "0", "k", "3"), topic("t", 1, 1, "s", ""), config(ClientMetrics, "m", "i", "1")},
			changes: []string{"+ all brokers: k ->1", "~ broker 0: k 3>2", "- client-metrics m: i 1>-", "+ group g: x ->1", "+ topic t: r ->5", "- topic t: s >-"},
		},
		"a sensitive value": {
			want:    []format.Encoder{config(Broker, "", "a", "secret", "b", "secret")},
			have:    []format.Encoder{config(Broker, "", "b", "secret", "c", "secret")},
			changes: []string{"+ all brokers: a ->- !", "- all brokers: c ->-"},
			notes:   []string{"1 sensitive value set in both clusters"},
		},
		"topics and brokers that are not there": {
			want:    []format.Encoder{topic("t", 1, 1, "r", "5", "s", "6"), topic("__consumer_offsets", 50, 3, "r", "1"), config(Broker, "7", "k", "1"), config(Broker, "8")},
			have:    []format.Encoder{topic("mine", 1, 1, "r", "1"), topic("bare", 1, 1), config(Broker, "0", "k", "1")},
			changes: []string{"+ broker 7 !", "+ topic t !"},
			notes:   []string{"topic __consumer_offsets does not exist yet", "so their configs stay: broker 0, topic mine"},
		},
		"shapes of topics": {
			want:    []format.Encoder{topic("t", 3, 3)},
			have:    []format.Encoder{topic("t", 2, 1)},
			changes: []string{"~ topic t: partitions 2>3 !"},
			notes:   []string{"topic t has 1 replica, and 3 in the snapshot"},
		},
	} {
		p := Find(c.want, c.have, format.ClusterKinds)
		if got := texts(p.Changes); !slices.Equal(got, c.changes) {
			t.Errorf("%s:\n%s\nand not\n%s", name, strings.Join(got, "\n"), strings.Join(c.changes, "\n"))
		}
		if len(p.Notes) != len(c.notes) {
			t.Errorf("%s: notes %q", name, p.Notes)
			continue
		}
		for i, n := range c.notes {
			if !strings.Contains(p.Notes[i], n) {
				t.Errorf("%s: %q is not in %q", name, n, p.Notes[i])
			}
		}
	}
}

// TestFindKinds wants kinds that are not asked for to be left alone.
func TestFindKinds(t *testing.T) {
	p := Find(nil, []format.Encoder{acl("User:a", "READ", "t"), quota(ptr("a"), map[string]float64{"x": 1})}, []string{format.ClusterQuotas})
	if got := texts(p.Changes); !slices.Equal(got, []string{"- user a: x 1>-"}) {
		t.Errorf("%q", got)
	}
}

func TestUndo(t *testing.T) {
	before := []format.Encoder{acl("User:a", "READ", "t"), config(Broker, "", "k", "1", "gone", "x"), user("u", 4096, "SCRAM-SHA-256")}
	after := []format.Encoder{acl("User:b", "READ", "t"), config(Broker, "", "k", "2", "new", "y"), user("u", 8192, "SCRAM-SHA-256")}
	made := Find(after, before, format.ClusterKinds).Changes
	all := []string{"+ User:a READ on TOPIC t", "- User:b READ on TOPIC t", "~ u: SCRAM-SHA-256 8192 iterations>4096 iterations !", "+ all brokers: gone ->x", "~ all brokers: k 2>1", "- all brokers: new y>-"}
	for name, c := range map[string]struct {
		now           []format.Encoder
		back, changed []string
		gone          int
	}{
		"all was applied":  {now: after, back: all},
		"nothing was":      {now: before, gone: 6},
		"half of it was":   {now: []format.Encoder{before[0], acl("User:b", "READ", "t"), before[1], before[2]}, back: all[1:2], gone: 5},
		"somebody changed": {now: []format.Encoder{after[0], config(Broker, "", "k", "3", "new", "y"), after[2]}, back: slices.Concat(all[:4], all[5:]), changed: []string{"~ all brokers: k 3>1"}},
		"somebody deleted": {now: []format.Encoder{before[0], config(Broker, "", "gone", "x"), after[2]}, back: all[2:3], changed: []string{"+ all brokers: k ->1"}, gone: 4},
	} {
		u := Undo(made, c.now)
		back, changed := texts(u.Back), texts(u.Changed)
		slices.Sort(back)
		want := slices.Sorted(slices.Values(c.back))
		if !slices.Equal(back, want) || !slices.Equal(changed, c.changed) || u.Gone != c.gone {
			t.Errorf("%s: back %q, not %q; changed %q; gone %d", name, back, want, changed, u.Gone)
		}
	}
	if left := Missing(made, before); len(left) != len(made) {
		t.Errorf("before: %d of %d missing", len(left), len(made))
	}
	if left := Missing(made, after); len(left) > 0 {
		t.Errorf("after: missing %q", texts(left))
	}
}

// TestUndoSchema takes a version back that the registry has under another number and id.
func TestUndoSchema(t *testing.T) {
	s := &format.Schema{Subject: "s", Version: 1, SchemaInfo: format.SchemaInfo{ID: 7, Schema: `"int"`}}
	here := &format.Schema{Subject: "s", Version: 4, SchemaInfo: format.SchemaInfo{ID: 9, Schema: `"int"`}}
	other := &format.Schema{Subject: "s", Version: 1, SchemaInfo: format.SchemaInfo{ID: 8, Schema: `"long"`}}
	made := []change.Change{{Kind: format.ClusterSchemas, Action: change.Add, Name: "schema s version 1", After: s}}
	if u := Undo(made, []format.Encoder{here}); len(u.Back) != 1 || u.Back[0].Before != format.Encoder(here) || u.Back[0].After != nil {
		t.Errorf("%+v", u)
	}
	if u := Undo(made, []format.Encoder{other}); len(u.Back) != 0 || len(u.Changed) != 1 {
		t.Errorf("another schema under its version: %+v", u)
	}
	if u := Undo(made, nil); u.Gone != 1 {
		t.Errorf("%+v", u)
	}
}

// TestRandom compares random snapshots. Of one with itself nothing differs; applied to a model of
// the other, the changes make it the one; and taken back, the other again.
func TestRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		a, b := randomSnapshot(r), randomSnapshot(r)
		if p := Find(a, a, format.ClusterKinds); len(p.Changes) > 0 {
			t.Fatalf("seed %d: a snapshot differs from itself: %q", seed, texts(p.Changes))
		}
		made := Find(a, b, format.ClusterKinds).Changes
		now := applied(b, made)
		if left := Find(a, now, format.ClusterKinds).Changes; len(left) > 0 {
			t.Fatalf("seed %d: left %q of %q", seed, texts(left), texts(made))
		}
		u := Undo(made, now)
		if len(u.Changed) > 0 || u.Gone > 0 || len(u.Back) != len(made) {
			t.Fatalf("seed %d: %d of %d back, %d changed, %d gone", seed, len(u.Back), len(made), len(u.Changed), u.Gone)
		}
		if left := Find(b, applied(now, u.Back), format.ClusterKinds).Changes; len(left) > 0 {
			t.Fatalf("seed %d: taken back, and left %q", seed, texts(left))
		}
		// What is sorted is sorted again as it is.
		Sort(a)
		again := slices.Clone(a)
		r.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		Sort(again)
		for i := range a {
			if !equalFrames(a[i], again[i]) {
				t.Fatalf("seed %d: frame %d is another", seed, i)
			}
		}
	}
}

// applied is a model of a cluster after changes: entries by key, and the topics and brokers.
func applied(frames []format.Encoder, changes []change.Change) (out []format.Encoder) {
	now := byKey(frames)
	for _, c := range changes {
		before, after := one(c.Before), one(c.After)
		if before != nil && (now[before.key()] == nil || !equal(now[before.key()], before)) {
			panic("a change of what is not there: " + c.Name)
		}
		if after != nil {
			now[after.key()] = after
		} else {
			delete(now, before.key())
		}
	}
	for _, f := range frames {
		if c, ok := f.(*format.Config); ok { // a resource is there without configs, too
			out = append(out, &format.Config{ResourceType: c.ResourceType, Name: c.Name, ConfigInfo: c.ConfigInfo, Values: make(map[string]*string)})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		c, isConfig := now[key].frame.(*format.Config)
		if isConfig {
			i := slices.IndexFunc(out, func(f format.Encoder) bool {
				other, ok := f.(*format.Config)
				return ok && ResourceName(other) == ResourceName(c)
			})
			if i >= 0 {
				maps.Copy(out[i].(*format.Config).Values, c.Values)
				continue
			}
		}
		out = append(out, now[key].frame)
	}
	return out
}

// randomSnapshot has the same topics and brokers each time.
func randomSnapshot(r *rand.Rand) (out []format.Encoder) {
	names := []string{"a", "b", "it's", "", "a: b", "*", "ü", "a\nb"}
	name := func() string { return names[r.IntN(len(names))] }
	seen := make(map[string]bool)
	add := func(f format.Encoder) {
		if key := KindOf(f) + Name(f); !seen[key] {
			seen[key] = true
			out = append(out, f)
		}
	}
	values := func() []string {
		var pairs []string
		for _, k := range []string{"k", "l", "m"} {
			if r.IntN(2) == 0 {
				pairs = append(pairs, k, name())
			}
		}
		return pairs
	}
	for range r.IntN(6) {
		a := acl("User:"+name(), []string{"READ", "WRITE"}[r.IntN(2)], name())
		a.PatternType = []string{"LITERAL", "PREFIXED"}[r.IntN(2)]
		a.Permission = []string{"ALLOW", "DENY"}[r.IntN(2)]
		add(a)
	}
	for range r.IntN(4) {
		q := quota(ptr(name()), map[string]float64{"x": float64(r.IntN(3)), "y": r.Float64()})
		if r.IntN(3) == 0 {
			q.Entity[0].Name = nil
		}
		if r.IntN(2) == 0 {
			q.Entity = append(q.Entity, format.QuotaEntity{Type: "client-id", Name: ptr(name())})
		}
		add(q)
	}
	for range r.IntN(3) {
		add(user(name(), int32(4096+r.IntN(2)), []string{"SCRAM-SHA-256", "SCRAM-SHA-512"}[:1+r.IntN(2)]...))
	}
	add(config(Broker, "", values()...))
	add(config(Broker, "0", values()...))
	for _, n := range []string{"t", "u"} {
		add(topic(n, 1, 1, values()...))
	}
	for range r.IntN(3) {
		if pairs := values(); len(pairs) > 0 {
			add(config([]string{Group, ClientMetrics}[r.IntN(2)], "n"+name(), pairs...))
		}
	}
	return out
}
