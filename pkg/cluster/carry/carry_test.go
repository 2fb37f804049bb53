package carry

import (
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/pattern"
)

func ptr(s string) *string { return &s }

func acl(resource, pattern, name string) *format.ACL {
	return &format.ACL{ResourceType: resource, ResourceName: name, PatternType: pattern, Principal: "User:a", Host: "*", Operation: "READ", Permission: "ALLOW"}
}

func of(principal string) *format.ACL {
	a := acl("CLUSTER", "LITERAL", "kafka-cluster")
	a.Principal = principal
	return a
}

func topics(names ...string) (out []format.Encoder) {
	for _, n := range names {
		out = append(out, &format.Config{ResourceType: diff.Topic, Name: n})
	}
	return out
}

func rules(t *testing.T, rename, renameGroup, principals []string, prefix string) *Rules {
	t.Helper()
	compile := func(list []string) *pattern.Renames {
		r, err := pattern.CompileRenames(list)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	return &Rules{Topics: pattern.Naming{Renames: compile(rename), Prefix: prefix}, Groups: pattern.Naming{Renames: compile(renameGroup)}, Principals: compile(principals)}
}

func TestFrames(t *testing.T) {
	for name, c := range map[string]struct {
		rename, renameGroup, principals []string
		prefix                          string
		in                              []format.Encoder
		want                            []string // names
		left, note, err                 string   // part of what is said
	}{
		"nothing": {
			in:   []format.Encoder{acl("TOPIC", "PREFIXED", "o"), acl("TOPIC", "LITERAL", "*"), of("User:*")},
			want: []string{"User:a READ on TOPIC prefixed o", "User:a READ on TOPIC *", "User:* READ on CLUSTER kafka-cluster"},
		},
		"a prefix": {
			prefix: "p.",
			in: slices.Concat([]format.Encoder{acl("TOPIC", "LITERAL", "orders"), acl("TOPIC", "PREFIXED", "o"), acl("TOPIC", "LITERAL", "*"), acl("GROUP", "LITERAL", "orders"),
				acl("TRANSACTIONAL_ID", "LITERAL", "orders"), acl("TOPIC", "LITERAL", "__consumer_offsets")}, topics("orders", "__consumer_offsets")),
			want: []string{"User:a READ on TOPIC p.orders", "User:a READ on TOPIC prefixed p.o", "User:a READ on TOPIC prefixed p.", "User:a READ on GROUP orders",
				"User:a READ on TRANSACTIONAL_ID orders", "User:a READ on TOPIC __consumer_offsets", "topic p.orders", "topic __consumer_offsets"},
		},
		"a name": {
			rename: []string{"orders=bought"},
			in:     slices.Concat([]format.Encoder{acl("TOPIC", "LITERAL", "orders"), acl("TOPIC", "LITERAL", "*")}, topics("orders", "users")),
			want:   []string{"User:a READ on TOPIC bought", "User:a READ on TOPIC *", "topic bought", "topic users"},
			note:   "is for every topic of the target",
		},
		"a name leaves a pattern": {
			rename: []string{"orders=bought"},
			in:     slices.Concat([]format.Encoder{acl("TOPIC", "PREFIXED", "ord")}, topics("users")),
			want:   []string{"topic users"},
			left:   "orders becomes bought, which does not begin with ord",
		},
		"an expression": {
			rename: []string{"^(.*)$=x.$1"},
			in:     slices.Concat([]format.Encoder{acl("TOPIC", "PREFIXED", "ord")}, topics("orders", "users")),
			want:   []string{"User:a READ on TOPIC prefixed x.ord", "topic x.orders", "topic x.users"},
		},
		"groups": {
			renameGroup: []string{"g=h"},
			in:          []format.Encoder{acl("GROUP", "LITERAL", "g"), acl("TOPIC", "LITERAL", "g"), &format.Config{ResourceType: diff.Group, Name: "g"}},
			want:        []string{"User:a READ on GROUP h", "User:a READ on TOPIC g", "group h"},
		},
		"principals": {
			principals: []string{"User:a=User:b", "^User:(.*)$=User:eu-$1"},
			in: []format.Encoder{of("User:a"), of("User:c"), of("User:*"), of("Group:g"), acl("USER", "LITERAL", "User:c"), &format.User{Name: "a"},
				&format.Quota{Entity: []format.QuotaEntity{{Type: "user", Name: ptr("c")}, {Type: "client-id", Name: ptr("c")}}}, &format.Quota{Entity: []format.QuotaEntity{{Type: "user"}}}},
			want: []string{"User:b READ on CLUSTER kafka-cluster", "User:eu-c READ on CLUSTER kafka-cluster", "User:* READ on CLUSTER kafka-cluster", "Group:g READ on CLUSTER kafka-cluster",
				"User:b READ on USER User:eu-c", "b", "user eu-c, client-id c", "user <default>"},
		},
		"everybody by name": {
			principals: []string{"User:*=User:some"},
			in:         []format.Encoder{of("User:*")},
			want:       []string{"User:some READ on CLUSTER kafka-cluster"},
		},
		"no user any more": {
			principals: []string{"User:a=Role:b"},
			in:         []format.Encoder{&format.User{Name: "a"}, of("User:a")},
			want:       []string{"Role:b READ on CLUSTER kafka-cluster"},
			left:       "User:a becomes Role:b, which is no user",
		},
		"two ACLs become one": {
			principals: []string{"User:a=User:b"},
			in:         []format.Encoder{of("User:a"), of("User:b")},
			want:       []string{"User:b READ on CLUSTER kafka-cluster"},
		},
		"two topics become one": {
			rename: []string{"a=b"},
			in:     topics("a", "b"),
			err:    "topic a and topic b would both become topic b",
		},
		"two users become one": {
			principals: []string{"User:a=User:b"},
			in:         []format.Encoder{&format.User{Name: "a"}, &format.User{Name: "b"}},
			err:        "a and b would both become b",
		},
	} {
		got, err := rules(t, c.rename, c.renameGroup, c.principals, c.prefix).Frames(c.in)
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		var names []string
		for _, f := range got.Frames {
			names = append(names, diff.Name(f))
		}
		if !slices.Equal(names, c.want) {
			t.Errorf("%s:\n%s\nand not\n%s", name, strings.Join(names, "\n"), strings.Join(c.want, "\n"))
		}
		if (len(got.Left) == 1) != (c.left != "") || c.left != "" && !strings.Contains(got.Left[0].Lacks, c.left) {
			t.Errorf("%s: left %+v", name, got.Left)
		}
		if (len(got.Notes) == 1) != (c.note != "") || c.note != "" && !strings.Contains(got.Notes[0], c.note) {
			t.Errorf("%s: notes %q", name, got.Notes)
		}
	}
}
