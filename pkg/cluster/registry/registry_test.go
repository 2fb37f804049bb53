package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/kafkatools"
	"github.com/kbkio/kbk/pkg/cluster/registry/registrytest"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

func serve(t *testing.T, r *registrytest.Registry) *rest.Client {
	t.Helper()
	url, stop := r.Serve()
	t.Cleanup(stop)
	return New(&rest.Server{Title: "the schema registry", URL: url})
}

func read(t *testing.T, c *rest.Client) Content {
	t.Helper()
	got, err := Read(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// applyAll applies changes, and then removals, as the command has it. What could not be deleted because
// something refers to it that the snapshot does not have is deleted after that.
func applyAll(t *testing.T, c *rest.Client, want Content) {
	t.Helper()
	for i, removals := range []bool{false, true, false} {
		have := read(t, c)
		changes, _ := Plan(want, have)
		changes = slices.DeleteFunc(changes, func(c change.Change) bool { return (c.Action == change.Remove) != removals || c.Lacks != "" })
		told := make(map[string]bool)
		err := Apply(t.Context(), c, want, have, changes, func(c change.Change, err error) {
			if answer := rest.Answered(err); err != nil && (i > 0 || answer == nil || answer.Code != 42206) {
				t.Errorf("%c %s: %v", c.Action, c.Name, err)
			}
			if told[c.Name] {
				t.Errorf("%s is told twice", c.Name)
			}
			told[c.Name] = true
		})
		if err != nil || len(told) != len(changes) {
			t.Fatalf("%d of %d changes: %v", len(told), len(changes), err)
		}
	}
}

func schemaFrame(subject string, n, id int, text string, refs ...format.SchemaReference) *format.Schema {
	return &format.Schema{Subject: subject, Version: n, SchemaInfo: format.SchemaInfo{ID: id, Schema: text, References: refs}}
}

// random is content that a registry may have. Ids are given by content and context, as registries do.
// With deletedRefs, deleted versions may refer to deleted ones.
func random(r *rand.Rand, deletedRefs bool) Content {
	c := Content{Subjects: []*format.Subject{{SubjectInfo: format.SubjectInfo{Compatibility: pick(r, "BACKWARD", "NONE"), Mode: pick(r, "READWRITE", "READONLY")}}}}
	ids := make(map[string]int)
	var live, all []version
	for _, context := range []string{"", ":.staging:"} {
		for i := range r.IntN(6) {
			s := &format.Subject{Name: fmt.Sprintf("%ss%d-value", context, i)}
			if r.IntN(3) == 0 {
				s.Compatibility = pick(r, "FULL", "NONE")
			}
			if s.Compatibility != "" && r.IntN(2) == 0 {
				s.Config = fmt.Sprintf(`{"alias":"a","compatibilityLevel":%q}`, s.Compatibility)
			}
			if r.IntN(4) == 0 {
				s.Mode = pick(r, "READONLY", "READWRITE")
			}
			n, alive := 0, false
			for range 1 + r.IntN(4) {
				n += 1 + r.IntN(5)/4 // some were deleted for good
				v := schemaFrame(s.Name, n, 0, fmt.Sprintf(`{"type":"fixed","name":"f","size":%d}`, r.IntN(30)))
				if r.IntN(4) == 0 {
					v.Type, v.Schema = "PROTOBUF", fmt.Sprintf("message M%d { }", r.IntN(30))
				}
				if r.IntN(5) == 0 {
					v.Schema = strings.Replace(v.Schema, "f", registrytest.Incompatible, 1)
				}
				if v.Deleted = r.IntN(4) == 0; !v.Deleted {
					alive = true
				}
				if r.IntN(5) == 0 {
					v.Metadata = fmt.Sprintf(`{"properties":{"n":"%d"}}`, r.IntN(3))
				}
				of := live
				if v.Deleted && deletedRefs {
					of = all
				}
				if len(of) > 0 && r.IntN(3) == 0 {
					ref := of[r.IntN(len(of))]
					if ref.subject != s.Name && contextOf(ref.subject) == contextOf(s.Name) {
						v.References = []format.SchemaReference{{Name: "r", Subject: ref.subject, Version: ref.number}}
					}
				}
				// No registry has one live schema twice in a subject.
				if slices.ContainsFunc(c.Schemas, func(o *format.Schema) bool {
					return o.Subject == v.Subject && !o.Deleted && contentOf(o) == contentOf(v)
				}) {
					continue
				}
				key := fmt.Sprint(context, contentOf(v))
				if ids[key] == 0 {
					ids[key] = 1 + len(ids)
				}
				v.ID = ids[key]
				c.Schemas = append(c.Schemas, v)
				all = append(all, versionOf(v))
				if !v.Deleted {
					live = append(live, versionOf(v))
				}
			}
			s.Deleted = !alive
			if slices.ContainsFunc(c.Schemas, func(v *format.Schema) bool { return v.Subject == s.Name }) {
				c.Subjects = append(c.Subjects, s)
			}
		}
	}
	c.sort()
	return c
}

func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

// some is a part of c, complete by its references.
func some(r *rand.Rand, c Content) Content {
	left := make(map[string]bool)
	for _, s := range c.Subjects[1:] {
		left[s.Name] = r.IntN(2) == 0
	}
	return without(c, left)
}

// without is c without some subjects, and those that refer to them.
func without(c Content, left map[string]bool) Content {
	out := Content{Subjects: c.Subjects[:1:1]}
	for again := true; again; {
		again = false
		for _, v := range c.Schemas {
			for _, ref := range v.References {
				if left[ref.Subject] && !left[v.Subject] {
					left[v.Subject], again = true, true
				}
			}
		}
	}
	for _, s := range c.Subjects[1:] {
		if !left[s.Name] {
			out.Subjects = append(out.Subjects, s)
		}
	}
	for _, v := range c.Schemas {
		if !left[v.Subject] {
			out.Schemas = append(out.Schemas, v)
		}
	}
	return out
}

func show(c Content) string {
	var b strings.Builder
	for _, f := range c.Frames() {
		text, _ := json.Marshal(f)
		fmt.Fprintln(&b, string(text))
	}
	return b.String()
}

// seeds plays n of them from the first on; KBK_SEED is one to be played alone, 0 as many as n by the time.
func seeds(t *testing.T, n int, f func(*testing.T, *rand.Rand)) {
	first := uint64(1)
	if text := os.Getenv("KBK_SEED"); text != "" {
		if first, _ = strconv.ParseUint(text, 10, 64); first > 0 {
			n = 1
		} else {
			first = uint64(time.Now().UnixNano())
		}
	}
	for i := range n {
		seed := first + uint64(i)
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { f(t, rand.New(rand.NewPCG(seed, 0))) }) {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestKept fills registries with modes, from none and from a part of it: they become what the
// snapshot is, ids and versions and all, and so they are read again.
func TestKept(t *testing.T) {
	seeds(t, 20, func(t *testing.T, r *rand.Rand) {
		want := random(r, false)
		if changes, notes := Plan(want, want); len(changes)+len(notes) > 0 {
			t.Errorf("from itself to itself: %v, %q", changes, notes)
		}
		reg := &registrytest.Registry{NoList: r.IntN(2) == 0, Page: r.IntN(3)}
		c := serve(t, reg)
		if r.IntN(2) == 0 {
			applyAll(t, c, some(r, want))
		}
		applyAll(t, c, want)
		got := read(t, c)
		if show(got) != show(want) || len(got.LeftOut) > 0 {
			t.Errorf("want\n%s\ngot\n%s\n%q", show(want), show(got), got.LeftOut)
		}
		if changes, notes := Plan(want, got); len(changes)+len(notes) > 0 {
			t.Errorf("still to do: %v, %q", changes, notes)
		}
		if ids, missing := IDs(want, got); len(ids)+len(missing) > 0 {
			t.Errorf("ids %v, %q", ids, missing)
		}
		for name, mode := range reg.Modes() {
			if mode == modeImport {
				t.Errorf("%q is still in mode IMPORT", name)
			}
		}
	})
}

// TestOther fills registries that have other content, or give ids of their own. What cannot be is a
// change that lacks something, and all others are made; ids of the snapshot lead to the same schemas.
func TestOther(t *testing.T) {
	seeds(t, 20, func(t *testing.T, r *rand.Rand) {
		want, other := random(r, true), random(r, true)
		other.Subjects[0].Mode = "READWRITE"
		kind := r.IntN(3)
		reg := &registrytest.Registry{NoModes: kind == 0, NoImport: kind == 1, NoList: r.IntN(2) == 0}
		c := serve(t, reg)
		want.Subjects[0].Mode = "READWRITE"
		for _, s := range slices.Concat(want.Subjects, other.Subjects) {
			if s.Mode == "READONLY" || reg.NoImport && s.Name != "" {
				s.Mode = ""
			}
			if reg.NoModes && s.Name != "" && s.Compatibility == "NONE" {
				s.Compatibility, s.Config = "FULL", "" // see TestNone
			}
		}
		applyAll(t, c, other)
		before := read(t, c)
		// What refers to a version that is another schema here cannot be registered.
		left := make(map[string]bool)
		for more := conflicts(want, before); len(more) > 0; more = conflicts(want, before) { // fewer versions have other numbers
			maps.Copy(left, more)
			c = serve(t, &registrytest.Registry{NoModes: reg.NoModes, NoImport: reg.NoImport})
			applyAll(t, c, without(other, left))
			before = read(t, c)
		}
		applyAll(t, c, want)
		got := read(t, c)
		changes, notes := Plan(want, got)
		for _, ch := range changes {
			if ch.Lacks == "" {
				t.Errorf("still to do: %c %s %v\nbefore\n%s\nwant\n%s\ngot\n%s\n%q", ch.Action, ch.Name, details(ch), show(before), show(want), show(got), notes)
			}
		}
		ids, missing := IDs(want, got)
		byID := make(map[string]*format.Schema)
		for _, s := range got.Schemas {
			byID[fmt.Sprint(contextOf(s.Subject), s.ID)] = s
		}
		m := match(want, got)
		lacks := lackingOf(changes)
		for _, s := range want.Schemas {
			named := func(m string) bool { return strings.HasPrefix(m, fmt.Sprintf("schema id %d (", s.ID)) }
			if lacks[versionOf(s)] && slices.ContainsFunc(missing, named) {
				continue
			}
			id := s.ID
			if to, mapped := ids[contextOf(s.Subject)][id]; mapped {
				id = to
			}
			h := byID[fmt.Sprint(contextOf(s.Subject), id)]
			if h == nil || bare(contentOf(h)) != bare(contentOf(m.referring(s))) {
				t.Errorf("id %d of %s leads to %v\n%v %q\nbefore\n%s\nwant\n%s\ngot\n%s", s.ID, versionOf(s), h, ids, missing, show(before), show(want), show(got))
			}
		}
	})
}

// TestNone has a registry that takes no NONE for a subject.
func TestNone(t *testing.T) {
	c := serve(t, &registrytest.Registry{NoModes: true})
	want := Content{
		Subjects: []*format.Subject{{SubjectInfo: format.SubjectInfo{Compatibility: "BACKWARD"}}, {Name: "a-value", SubjectInfo: format.SubjectInfo{Compatibility: "NONE"}}},
		Schemas:  []*format.Schema{schemaFrame("a-value", 1, 7, `"`+registrytest.Incompatible+`"`)},
	}
	have := read(t, c)
	changes, _ := Plan(want, have)
	var failed []string
	err := Apply(t.Context(), c, want, have, changes, func(c change.Change, err error) {
		if err != nil {
			failed = append(failed, c.Name+": "+err.Error())
		}
	})
	if err != nil || !slices.Equal(failed, []string{"subject a-value: the registry does not keep NONE for it: it has BACKWARD"}) {
		t.Errorf("%v, %q", err, failed)
	}
	got := read(t, c)
	if level := got.Subjects[0].Compatibility; level != "BACKWARD" || len(got.Schemas) != 1 {
		t.Errorf("%s, %d schemas", level, len(got.Schemas))
	}
}

// TestCut reads a registry that lists fewer subjects than it has, and does not say so.
func TestCut(t *testing.T) {
	reg := &registrytest.Registry{NoModes: true, Subjects: roundNumber}
	c := serve(t, reg)
	for i := range roundNumber + 1 {
		if err := c.Do(t.Context(), http.MethodPost, rest.Path("subjects", fmt.Sprintf("s%04d-value", i), "versions"), nil, schemaAnswer{Schema: `"int"`}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Read(t.Context(), c); err == nil || !strings.Contains(err.Error(), "exactly 500 subjects") {
		t.Errorf("%d subjects, %v", len(got.Subjects), err)
	}
	reg.Subjects = 0
	if got := read(t, c); len(got.Schemas) != roundNumber+1 {
		t.Errorf("%d schemas", len(got.Schemas))
	}
}

// conflicts are the subjects with a version that is another schema in have.
func conflicts(want, have Content) map[string]bool {
	out := make(map[string]bool)
	changes, _ := Plan(want, have)
	for _, c := range changes {
		if s, ok := c.After.(*format.Schema); ok && c.Lacks != "" && c.Before != nil && contentOf(s) != contentOf(c.Before.(*format.Schema)) {
			out[s.Subject] = true
		}
	}
	return out
}

// lackingOf are the versions of the snapshot that are said not to be had.
func lackingOf(changes []change.Change) map[version]bool {
	out := make(map[version]bool)
	for _, c := range changes {
		if s, ok := c.After.(*format.Schema); ok && c.Lacks != "" && c.Action == change.Add {
			out[versionOf(s)] = true
		}
	}
	return out
}

func details(c change.Change) string {
	var out []string
	for _, d := range c.Details {
		b, _ := json.Marshal(d)
		out = append(out, string(b))
	}
	return strings.Join(out, " ")
}

// TestPutBack cancels an apply, fails requests of it, and fails to put modes back.
func TestPutBack(t *testing.T) {
	want := Content{Schemas: []*format.Schema{schemaFrame("a-value", 1, 7, `"int"`), schemaFrame("b-value", 2, 8, `"long"`)}}
	for _, c := range []struct {
		name   string
		before func(cancel func(), w http.ResponseWriter, r *http.Request) bool
		there  bool   // a-value is, so that each subject has a mode of its own meanwhile
		want   string // in the error
		failed int
	}{
		{"cancelled", func(cancel func(), _ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost {
				_, _ = io.Copy(io.Discard, r.Body) // only then does the server see that the client has gone
				cancel()
				<-r.Context().Done()
				return true
			}
			return false
		}, false, "canceled", 2},
		{"refused", func(_ func(), w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return true
		}, true, "", 1},
		{"no mode", func(_ func(), w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return true
		}, false, "the mode of defaults of the schema registry is still IMPORT: PUT /mode", 2},
	} {
		reg := &registrytest.Registry{}
		client := serve(t, reg)
		if c.there {
			applyAll(t, client, Content{Schemas: want.Schemas[:1]})
		}
		have := read(t, client)
		changes, _ := Plan(want, have)
		ctx, cancel := context.WithCancel(t.Context())
		reg.Before = func(w http.ResponseWriter, r *http.Request) bool { return c.before(cancel, w, r) }
		failed := 0
		err := Apply(ctx, client, want, have, changes, func(_ change.Change, err error) {
			if err != nil {
				failed++
			}
		})
		if failed != c.failed || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d failed, %v", c.name, failed, err)
		}
		if modes := reg.Modes(); !maps.Equal(modes, map[string]string{"": "READWRITE"}) {
			t.Errorf("%s: modes %v", c.name, modes)
		}
		cancel()
	}
}

func TestPlan(t *testing.T) {
	modes := []*format.Subject{{SubjectInfo: format.SubjectInfo{Compatibility: "FULL", Mode: "READWRITE"}}}
	none := []*format.Subject{{SubjectInfo: format.SubjectInfo{Compatibility: "FULL"}}}
	for _, c := range []struct {
		name       string
		want, have Content
		changes    []string
		notes      []string
		ids        string
		missing    int
	}{
		{
			"another schema under the version",
			Content{Subjects: modes, Schemas: []*format.Schema{schemaFrame("a-value", 1, 7, `"int"`)}},
			Content{Subjects: modes, Schemas: []*format.Schema{schemaFrame("a-value", 1, 7, `"long"`)}},
			[]string{`~ schema a-value version 1 lacks this version is a different schema here, and a registry does not change versions {"Field":"schema","Before":"\"long\"","After":"\"int\""}`},
			nil, "", 1,
		},
		{
			"versions and ids of its own",
			Content{Subjects: none, Schemas: []*format.Schema{schemaFrame("a-value", 3, 7, `"int"`), schemaFrame("a-value", 5, 8, `"long"`)}},
			Content{Subjects: none, Schemas: []*format.Schema{schemaFrame("a-value", 1, 1, ` "int" `)}},
			[]string{"+ schema a-value version 5"},
			[]string{
				"schema a-value version 3 is version 1 here",
				"schema a-value version 5 will be version 2 here: this registry numbers versions one by one",
				"1 schema: another id here than in the snapshot, so records need kbk-filter --schema-id-map",
			},
			"7=1\n", 1,
		},
		{
			"an id that is taken",
			Content{Subjects: modes, Schemas: []*format.Schema{schemaFrame("a-value", 1, 7, `"int"`)}},
			Content{Subjects: modes, Schemas: []*format.Schema{schemaFrame("b-value", 1, 7, `"long"`)}},
			[]string{"+ schema a-value version 1", "- schema b-value version 1"},
			[]string{"subject a-value: this registry assigns ids to its schemas, because one of the ids belongs to another schema here"},
			"", 1,
		},
		{
			"one registry without modes",
			Content{Subjects: modes}, Content{Subjects: none}, nil,
			[]string{"modes are not compared: the registry of the snapshot or this one does not know them"}, "", 0,
		},
		{
			"a mode that was not put back",
			Content{Subjects: none}, Content{Subjects: []*format.Subject{modes[0], {Name: "a-value", SubjectInfo: format.SubjectInfo{Mode: "IMPORT"}}}}, nil,
			[]string{
				"modes are not compared: the registry of the snapshot or this one does not know them",
				"subject a-value: in mode IMPORT here, so it accepts no schemas from serializers; the snapshot has no mode for it",
			}, "", 0,
		},
		{
			"metadata that is not kept",
			Content{Subjects: none, Schemas: []*format.Schema{{Subject: "a-value", Version: 1, SchemaInfo: format.SchemaInfo{ID: 1, Schema: `"int"`, Metadata: `{"properties": {}}`}}}},
			Content{Subjects: none, Schemas: []*format.Schema{schemaFrame("a-value", 1, 1, `"int"`)}},
			[]string{`~ schema a-value version 1 lacks a registry does not change the metadata and rules of a version, and some registries keep none {"Field":"metadata","Before":null,"After":"{\"properties\":{}}"}`},
			nil, "", 0,
		},
		{
			"versions that differ in their metadata, and a reference to one of them",
			Content{Subjects: modes, Schemas: []*format.Schema{schemaFrame("a-value", 3, 7, `"int"`), withMetadata(schemaFrame("a-value", 5, 8, `"int"`)), schemaFrame("b-value", 1, 9, `"a"`, format.SchemaReference{Name: "a", Subject: "a-value", Version: 3})}},
			Content{Subjects: modes, Schemas: []*format.Schema{schemaFrame("a-value", 2, 1, `"int"`), withMetadata(schemaFrame("a-value", 3, 2, `"int"`)), schemaFrame("b-value", 1, 3, `"a"`, format.SchemaReference{Name: "a", Subject: "a-value", Version: 2})}},
			nil, []string{
				"schema a-value version 3 is version 2 here", "schema a-value version 5 is version 3 here",
				"3 schemas: another id here than in the snapshot, so records need kbk-filter --schema-id-map",
			}, "7=1\n8=2\n9=3\n", 0,
		},
		{
			"a reference to a version that is another schema here",
			Content{Subjects: modes, Schemas: []*format.Schema{schemaFrame("a-value", 1, 7, `"int"`), schemaFrame("b-value", 1, 8, `"a"`, format.SchemaReference{Name: "a", Subject: "a-value", Version: 1})}},
			Content{Subjects: modes, Schemas: []*format.Schema{schemaFrame("a-value", 1, 7, `"long"`), schemaFrame("c-value", 1, 8, `"a"`, format.SchemaReference{Name: "a", Subject: "a-value", Version: 1})}},
			[]string{
				`~ schema a-value version 1 lacks this version is a different schema here, and a registry does not change versions {"Field":"schema","Before":"\"long\"","After":"\"int\""}`,
				"+ schema b-value version 1 lacks it refers to a version that cannot be registered here",
				"- schema c-value version 1",
			}, nil, "", 2,
		},
		{
			"settings",
			Content{Subjects: []*format.Subject{modes[0], {Name: "a-value", SubjectInfo: format.SubjectInfo{Compatibility: "NONE", Mode: "READONLY"}}}},
			Content{Subjects: []*format.Subject{
				{SubjectInfo: format.SubjectInfo{Compatibility: "NONE", Mode: "IMPORT"}},
				{Name: "a-value", SubjectInfo: format.SubjectInfo{Config: `{"compatibilityLevel":"FULL","normalize":true}`, Compatibility: "FULL"}},
				{Name: "b-value", SubjectInfo: format.SubjectInfo{Mode: "READONLY"}}, {Name: "c-value"},
			}},
			[]string{
				`~ defaults of the schema registry {"Field":"compatibility","Before":"NONE","After":"FULL"} {"Field":"mode","Before":"IMPORT","After":"READWRITE"}`,
				`~ subject a-value {"Field":"compatibility","Before":"FULL","After":"NONE"} {"Field":"mode","Before":null,"After":"READONLY"} {"Field":"normalize","Before":"true","After":null}`,
				"- subject b-value",
			}, nil, "", 0,
		},
	} {
		changes, notes := Plan(c.want, c.have)
		var got []string
		for _, ch := range changes {
			line := fmt.Sprintf("%c %s", ch.Action, ch.Name)
			if ch.Lacks != "" {
				line += " lacks " + ch.Lacks
			}
			got = append(got, strings.TrimSpace(line+" "+details(ch)))
		}
		ids, missing := IDs(c.want, c.have)
		if !slices.Equal(got, c.changes) || !slices.Equal(notes, c.notes) || FormatIDs(ids["."]) != c.ids || len(missing) != c.missing {
			t.Errorf("%s:\n%s\nnotes %q\nids %v, %q", c.name, strings.Join(got, "\n"), notes, ids, missing)
		}
	}
}

func withMetadata(s *format.Schema) *format.Schema {
	s.Metadata = `{"properties":{"n":"1"}}`
	return s
}

// TestOneOfTwo has two versions that a registry without mode IMPORT takes for one: the one that is deleted in
// the snapshot is deleted last, and must not take the other one with it.
func TestOneOfTwo(t *testing.T) {
	c := serve(t, &registrytest.Registry{NoImport: true})
	hidden, referring := schemaFrame("a-value", 1, 7, `"int"`), schemaFrame("b-value", 1, 8, `"a"`, format.SchemaReference{Name: "a", Subject: "a-value", Version: 1})
	hidden.Deleted, referring.Deleted = true, true
	want := Content{Subjects: []*format.Subject{{SubjectInfo: format.SubjectInfo{Compatibility: "BACKWARD", Mode: "READWRITE"}}}, Schemas: []*format.Schema{hidden, schemaFrame("a-value", 2, 7, `"int"`), referring}}
	want.sort()
	failed := applyOnce(t, c, want)
	if !slices.Equal(failed, []string{"schema a-value version 1: version 1 of the registry is a-value version 2, too, which is not to be deleted"}) {
		t.Errorf("failed: %q", failed)
	}
	if got := read(t, c); len(got.Schemas) != 2 || got.Schemas[0].Deleted {
		t.Errorf("got\n%s", show(got))
	}
}

// TestReferenceNotRegistered has a schema that refers to one that the registry refuses, while another one has
// its number.
func TestReferenceNotRegistered(t *testing.T) {
	reg := &registrytest.Registry{NoModes: true}
	c := serve(t, reg)
	refused := false
	reg.Before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || refused {
			return false
		}
		refused = true
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	want := Content{Subjects: []*format.Subject{{SubjectInfo: format.SubjectInfo{Compatibility: "BACKWARD"}}}, Schemas: []*format.Schema{
		schemaFrame("a-value", 1, 7, `"int"`), schemaFrame("a-value", 2, 8, `"long"`), schemaFrame("b-value", 1, 9, `"a"`, format.SchemaReference{Name: "a", Subject: "a-value", Version: 1}),
	}}
	failed := applyOnce(t, c, want)
	if len(failed) != 2 || !strings.Contains(failed[1], "schema b-value version 1: it refers to a-value version 1, which is not in the registry") {
		t.Errorf("failed: %q", failed)
	}
}

func TestRename(t *testing.T) {
	topic := func(name string) string { return strings.TrimPrefix(name, "old.") }
	in := Content{
		Subjects: []*format.Subject{{}, {Name: ":.c:old.a-key"}, {Name: "old.a-value"}, {Name: "old.Record"}},
		Schemas:  []*format.Schema{schemaFrame("old.a-value", 1, 1, `"int"`), schemaFrame(":.c:old.a-key", 1, 1, `"R"`, format.SchemaReference{Name: "R", Subject: "old.a-value", Version: 1})},
	}
	got, err := Rename(in, topic)
	if err != nil {
		t.Fatal(err)
	}
	want := Content{
		Subjects: []*format.Subject{{}, {Name: ":.c:a-key"}, {Name: "a-value"}, {Name: "old.Record"}},
		Schemas:  []*format.Schema{schemaFrame("a-value", 1, 1, `"int"`), schemaFrame(":.c:a-key", 1, 1, `"R"`, format.SchemaReference{Name: "R", Subject: "a-value", Version: 1})},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", show(got), show(want))
	}
	in.Subjects = append(in.Subjects, &format.Subject{Name: "a-value"})
	if _, err := Rename(in, topic); err == nil || !strings.Contains(err.Error(), `"old.a-value" and "a-value" would both become "a-value"`) {
		t.Error(err)
	}
}

// TestScript runs scripts for registries of each kind, with curl. They do what Apply does.
func TestScript(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("NOT TESTED: scripts of curl:", err)
	}
	kind := 0
	seeds(t, 6, func(t *testing.T, r *rand.Rand) {
		kind++
		want := random(r, true)
		want.Subjects = append(want.Subjects, &format.Subject{Name: "it's-value", SubjectInfo: format.SubjectInfo{Deleted: true}})
		want.Schemas = append(want.Schemas, schemaFrame("it's-value", 1, 999, `"it's"`))
		want.Schemas[len(want.Schemas)-1].Deleted = true
		want.sort()
		want.Subjects[0].Mode = "READWRITE" // as long as it is, nothing can be registered
		for _, s := range want.Subjects[1:] {
			if kind%3 != 0 {
				s.Mode = ""
			}
		}
		for _, s := range want.Schemas {
			if kind%3 != 0 {
				s.Schema = strings.Replace(s.Schema, registrytest.Incompatible, "f", 1)
			}
		}
		var registries [2]*rest.Client // one for Apply, one for the script
		for i := range registries {
			registries[i] = serve(t, &registrytest.Registry{NoImport: kind%3 == 1, NoModes: kind%3 == 2})
			if kind > 3 {
				applyOnce(t, registries[i], some(rand.New(rand.NewPCG(uint64(kind), 1)), want))
			}
		}
		have := read(t, registries[1])
		failed := applyOnce(t, registries[0], want)
		var b bytes.Buffer
		changes, _ := Plan(want, have)
		if err := Script(&b, want, have, feasible(changes)); err != nil {
			t.Fatal(err)
		}
		script := b.String()
		status, said := run(t, registries[1], script)
		got, wanted := read(t, registries[1]), read(t, registries[0])
		other := slices.ContainsFunc(changes, func(c change.Change) bool { return otherID(c, want, got) })
		for _, s := range slices.Concat(got.Schemas, wanted.Schemas) {
			if kind%3 != 0 {
				s.ID = 0 // by the order in which they came, of which Apply has none
			}
		}
		switch {
		case len(failed) > 0 && status == 1:
		case len(failed) > 0 || show(got) != show(wanted):
			t.Errorf("kind %d, status %d, apply failed %q\nwant\n%s\ngot\n%s\n%s\n%s", kind, status, failed, show(wanted), show(got), said, script)
		case other && status != 4, !other && status != 0:
			t.Errorf("kind %d, status %d\n%s\n%s", kind, status, said, script)
		}
	})
	if err := Script(broken{}, Content{}, Content{}, []change.Change{{Action: change.Remove, Before: schemaFrame("a", 1, 1, "")}}); err == nil {
		t.Error("a script was written to nowhere")
	}
}

// feasible are changes that add or alter, and lack nothing.
func feasible(changes []change.Change) []change.Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c change.Change) bool { return c.Action == change.Remove || c.Lacks != "" })
}

// applyOnce makes all changes but removals, and returns those that failed.
func applyOnce(t *testing.T, c *rest.Client, want Content) (failed []string) {
	t.Helper()
	have := read(t, c)
	changes, _ := Plan(want, have)
	if err := Apply(t.Context(), c, want, have, feasible(changes), func(c change.Change, err error) {
		if err != nil {
			failed = append(failed, c.Name+": "+err.Error())
		}
	}); err != nil {
		t.Fatal(err)
	}
	return failed
}

// run runs a script as the commands of the command script have it.
func run(t *testing.T, c *rest.Client, script string) (status int, said string) {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintln(&b, "set -u\nfailed=0")
	kafkatools.HeadCurl(&b, "REGISTRY", c.URL())
	b.WriteString(script)
	kafkatools.Tail(&b)
	cmd := exec.Command("sh")
	cmd.Env, cmd.Stdin = []string{"PATH=/usr/bin:/bin"}, &b
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// otherID tells whether a schema that was registered has another id than in the snapshot.
func otherID(c change.Change, want, got Content) bool {
	s, ok := c.After.(*format.Schema)
	if !ok || c.Lacks != "" || c.Action == change.Alter && s.Deleted {
		return false
	}
	h := match(want, got).here[versionOf(s)]
	return h != nil && h.ID != s.ID
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// TestDamaged reads registries that answer nonsense.
func TestDamaged(t *testing.T) {
	for path, body := range map[string]string{
		"/subjects": `{}`, "/contexts": `[1]`, "/schemas": `[{"version":"one"}]`, "/config": `[]`, "/mode": `{"mode":1}`, "/config/a-value": `1`,
	} {
		reg := &registrytest.Registry{}
		c := serve(t, reg)
		applyAll(t, c, Content{Schemas: []*format.Schema{schemaFrame("a-value", 1, 7, `"int"`)}})
		reg.Before = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != path {
				return false
			}
			w.Write([]byte(body))
			return true
		}
		if got, err := Read(t.Context(), c); err == nil {
			t.Errorf("%s answers %s: %s", path, body, show(got))
		}
	}
}
