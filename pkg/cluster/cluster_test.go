package cluster

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/command"
)

func ptr(s string) *string { return &s }

func acl(principal, resource, operation, permission string) *format.ACL {
	return &format.ACL{ResourceType: resource, ResourceName: "r", PatternType: "LITERAL", Principal: principal, Host: "*", Operation: operation, Permission: permission}
}

func logger(out *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(out, nil)) }

func TestPasswords(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"a=b\n":                       {"a": "b"},
		"# who\n\n a = b=c \r\nd=é\n": {"a": " b=c ", "d": "é"},
		`{"a=b": "c", "d": "\""}`:     {"a=b": "c", "d": `"`},
		"  {}":                        {},
		"":                            {},
		"a":                           nil,
		"=secret":                     nil,
		"a=":                          nil,
		"a=secret\na=other":           nil,
		`{"a": 1}`:                    nil,
		`{"a": "secret"`:              nil,
	} {
		got, err := parsePasswords([]byte(text))
		if (err != nil) != (want == nil) || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
		if want != nil && (len(got) != len(want) || !slices.ContainsFunc([]map[string]string{got}, func(m map[string]string) bool {
			for k, v := range want {
				if m[k] != v {
					return false
				}
			}
			return true
		})) {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// TestPasswordsGiven wants each user to get its own password, and none of a variable that may be
// another's.
func TestPasswordsGiven(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwords")
	if err := os.WriteFile(file, []byte("carol=c\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"KBK_PASSWORD_ALICE": "a", "KBK_PASSWORD_B_B": "b", "KBK_PASSWORD_x": "x"}
	var said bytes.Buffer
	p, err := passwords(file, func(name string) string { return env[name] }, logger(&said))
	if err != nil || !strings.Contains(said.String(), "chmod 600") {
		t.Errorf("%v, %s", err, &said)
	}
	var changes []change.Change
	for _, user := range []string{"alice", "b.b", "b-b", "carol", "dave", "x"} {
		changes = append(changes, change.Change{Kind: format.ClusterUsers, Action: change.Add, Lacks: diff.LacksPassword, After: &format.User{Name: user, Credentials: make([]format.Credential, 1)}})
	}
	changes = append(changes, change.Change{Kind: format.ClusterConfigs, Action: change.Add, Lacks: diff.LacksTopic, After: &format.Config{Name: "alice"}})
	p.give(changes)
	for i, want := range []string{"", "might be for another user", "might be for another user", "", diff.LacksPassword, "", diff.LacksTopic} {
		if got := changes[i].Lacks; want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("change %d lacks %q, and should lack %q", i, got, want)
		}
	}
}

func TestGuard(t *testing.T) {
	remove := func(f format.Encoder) change.Change { return change.Change{Action: change.Remove, Before: f} }
	add := func(f format.Encoder) change.Change { return change.Change{Action: change.Add, After: f} }
	own := &format.User{Name: "me"}
	for _, c := range []struct {
		what   string
		change change.Change
		own    string
		kept   bool
	}{
		{"its own right", remove(acl("User:me", "TOPIC", "READ", "ALLOW")), "User:me", true},
		{"somebody's right", remove(acl("User:you", "TOPIC", "READ", "ALLOW")), "User:me", false},
		{"somebody's right on the cluster", remove(acl("User:you", "CLUSTER", "ALTER", "ALLOW")), "User:me", false},
		{"everybody's right on the cluster", remove(acl("User:*", "CLUSTER", "ALTER", "ALLOW")), "User:me", true},
		{"a right on the cluster, of who knows whom", remove(acl("User:you", "CLUSTER", "ALTER", "ALLOW")), "", true},
		{"a right on a topic, of who knows whom", remove(acl("User:you", "TOPIC", "READ", "ALLOW")), "", false},
		{"what denies it", remove(acl("User:me", "CLUSTER", "ALTER", "DENY")), "User:me", false},
		{"to be denied", add(acl("User:me", "CLUSTER", "ALTER", "DENY")), "User:me", true},
		{"everybody to be denied", add(acl("User:*", "CLUSTER", "ALTER", "DENY")), "User:me", true},
		{"somebody to be denied", add(acl("User:you", "CLUSTER", "ALTER", "DENY")), "User:me", false},
		{"a topic to be denied", add(acl("User:me", "TOPIC", "READ", "DENY")), "User:me", false},
		{"itself", remove(own), "User:me", true},
		{"its own password", change.Change{Action: change.Alter, Before: own, After: own}, "User:me", true},
		{"another user", remove(&format.User{Name: "you"}), "User:me", false},
	} {
		all := []change.Change{c.change}
		if guard(all, c.own); (all[0].Lacks != "") != c.kept {
			t.Errorf("%s: %q", c.what, all[0].Lacks)
		}
	}
}

func TestDecide(t *testing.T) {
	changes := []change.Change{{Action: change.Add, Name: "a"}, {Action: change.Add, Name: "b", Lacks: "x"}, {Action: change.Remove, Name: "c"}, {Action: change.Remove, Name: "d", Lacks: "x"}}
	names := func(all []change.Change) (out string) {
		for _, c := range all {
			out += c.Name
		}
		return out
	}
	for prune, want := range map[bool]string{false: "a//b/cd", true: "ac/c/bd/"} {
		d := decide(changes, prune)
		if got := strings.Join([]string{names(d.todo), names(d.removals), names(d.lacking), names(d.extra)}, "/"); got != want {
			t.Errorf("prune %v: %s, and not %s", prune, got, want)
		}
	}
}

func TestPrint(t *testing.T) {
	changes := []change.Change{
		{Kind: "acls", Action: change.Add, Name: "User:a\x1b[2J READ", After: acl("User:a", "TOPIC", "READ", "ALLOW")},
		{Kind: "configs", Action: change.Alter, Name: "topic t: k", Details: []change.Detail{{Field: "k", Before: ptr("1"), After: ptr("2")}}},
		{Kind: "configs", Action: change.Remove, Name: "topic t: s", Details: []change.Detail{{Field: "s"}}},
		{Kind: "users", Action: change.Add, Name: "u: SCRAM-SHA-256", Lacks: "the password is missing"},
	}
	var out bytes.Buffer
	if err := printChanges(&out, changes); err != nil {
		t.Fatal(err)
	}
	const want = `acls
  + User:a\x1b[2J READ
configs
  ~ topic t: k  1 → 2
  - topic t: s  (not shown)
users
  + u: SCRAM-SHA-256  (cannot be applied: the password is missing)
1 to add, 1 to change, 1 that the snapshot does not have, 1 that cannot be applied
`
	if out.String() != want {
		t.Errorf("it prints\n%s\nand not\n%s", &out, want)
	}
	out.Reset()
	if err := printJSON(&out, changes[:2]); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`"action":"add"`, `"acl":{"resource_type":"TOPIC"`, `"details":[{"field":"k","before":"1","after":"2"}]`} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("%s is not in %s", text, &out)
		}
	}
	out.Reset()
	if err := printChanges(&out, nil); err != nil || out.String() != "no differences\n" {
		t.Errorf("%v, %q", err, &out)
	}
}

// TestSave reads what was saved, and refuses it cut short anywhere.
func TestSave(t *testing.T) {
	changes := []change.Change{
		{Kind: "acls", Action: change.Add, Name: "a", After: acl("User:a", "TOPIC", "READ", "ALLOW")},
		{Kind: "users", Action: change.Remove, Name: "u", Before: &format.User{Name: "u", Credentials: []format.Credential{{Mechanism: "SCRAM-SHA-256", Iterations: 4096}}}},
		{Kind: "configs", Action: change.Alter, Name: "c", Before: &format.Config{ResourceType: "topic", Name: "t", Values: map[string]*string{"k": nil}},
			After: &format.Config{ResourceType: "topic", Name: "t", Values: map[string]*string{"k": ptr("v")}}},
		{Kind: "quotas", Action: change.Add, Name: "q", After: &format.Quota{Entity: []format.QuotaEntity{{Type: "user"}}, Values: map[string]float64{"x": 1.5}}},
		{Kind: "schemas", Action: change.Add, Name: "s", After: &format.Schema{Subject: "s", Version: 1}},
		{Kind: "schemas", Action: change.Add, Name: "t", After: &format.Subject{Name: "s"}},
		{Kind: "connectors", Action: change.Add, Name: "n", After: &format.Connector{Name: "n", Config: map[string]string{"a": "b"}}},
	}
	file := filepath.Join(t.TempDir(), "saved")
	if err := save(file, "id", changes); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	got, cluster, err := readSaved(t.Context(), file, 1<<20)
	if err != nil || cluster != "id" || len(got) != len(changes) {
		t.Fatalf("%d changes of %q, %v", len(got), cluster, err)
	}
	for i := range got {
		one, _ := saved{got[i]}.AppendFrame(nil)
		other, _ := saved{changes[i]}.AppendFrame(nil)
		if !bytes.Equal(one, other) || (got[i].Before == nil) != (changes[i].Before == nil) {
			t.Errorf("change %d: %+v", i, got[i])
		}
	}
	if err := save(file, "id", changes); !errors.Is(err, os.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readSaved(t.Context(), file, 1<<20); err == nil {
			t.Fatalf("read when cut at %d of %d", n, len(whole))
		}
	}
}

// stream has frames, and what belongs around them.
func stream(t *testing.T, content string, frames ...format.Encoder) *bytes.Buffer {
	t.Helper()
	out := new(bytes.Buffer)
	w := format.NewWriter(out)
	err := w.WriteHeader(&format.Header{Content: content})
	for _, f := range frames {
		if err == nil {
			err = w.Write(f)
		}
	}
	if err = errors.Join(err, w.Close(new(format.End))); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReadSnapshot(t *testing.T) {
	at := func(id string, time int64) *format.Cluster { return &format.Cluster{ID: id, Time: time} }
	a, b := acl("User:a", "TOPIC", "READ", "ALLOW"), acl("User:b", "TOPIC", "READ", "ALLOW")
	other := &format.Topic{Name: "t"}
	for name, c := range map[string]struct {
		in     []format.Encoder
		id     string
		frames int
	}{
		"one among others":     {[]format.Encoder{other, at("1", 5), a, other, b}, "1", 2},
		"the newest, last":     {[]format.Encoder{at("1", 5), a, b, at("2", 6), a}, "2", 1},
		"the newest, first":    {[]format.Encoder{at("1", 6), a, b, at("2", 5), a}, "1", 2},
		"of the same time":     {[]format.Encoder{at("1", 5), a, b, at("2", 5)}, "2", 0},
		"frames of nobody":     {[]format.Encoder{a, at("1", 5), b}, "1", 1},
		"none":                 {[]format.Encoder{other, a}, "", 0},
		"what apply has saved": {[]format.Encoder{saved{change.Change{Kind: "acls", Action: change.Add, After: a}}}, "", 0},
	} {
		in, err := readSnapshot(t.Context(), stream(t, format.ContentRecords, c.in...), 1<<20)
		if c.id == "" {
			if err == nil || command.StatusOf(err) != command.Failed || command.HintOf(err) == "" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || in.ID != c.id || len(in.frames) != c.frames {
			t.Errorf("%s: %+v, %v", name, in, err)
		}
	}
	if _, err := readSnapshot(t.Context(), stream(t, format.ContentSegments), 1<<20); command.StatusOf(err) != command.Usage {
		t.Errorf("of segments: %v", err)
	}
}

func TestChoose(t *testing.T) {
	in := &input{Cluster: &format.Cluster{ClusterInfo: format.ClusterInfo{Kinds: []string{format.ClusterACLs, format.ClusterSchemas}}}}
	var said bytes.Buffer
	kinds, err := in.choose(PlanConfig{Kinds: []string{format.ClusterACLs, format.ClusterUsers}}, logger(&said))
	if err != nil || !slices.Equal(kinds, []string{format.ClusterACLs}) || !strings.Contains(said.String(), "has no users") || !strings.Contains(said.String(), "also has schemas") {
		t.Errorf("%q, %v\n%s", kinds, err, &said)
	}
	for _, cfg := range []PlanConfig{{Kinds: []string{format.ClusterACLs, format.ClusterUsers}, Named: true}, {Kinds: []string{format.ClusterUsers}}} {
		if kinds, err := in.choose(cfg, logger(&said)); err == nil {
			t.Errorf("%+v: %q", cfg, kinds)
		}
	}
}
