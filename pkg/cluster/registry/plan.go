package registry

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
)

// Of returns what a snapshot's frames say of a registry.
func Of(frames []format.Encoder) Content {
	var c Content
	for _, f := range frames {
		switch f := f.(type) {
		case *format.Subject:
			c.Subjects = append(c.Subjects, f)
		case *format.Schema:
			c.Schemas = append(c.Schemas, f)
		}
	}
	return c
}

// A matching says which version in the registry is which version of the snapshot.
type matching struct {
	here map[version]*format.Schema // by version in the snapshot
	used map[version]bool           // versions in the registry
}

// match pairs each schema of the snapshot with the same one of the registry, under the same version if
// it is there, else under another one of the subject. The references of the same schemas lead to the
// same schemas, whatever their versions are.
func match(want, have Content) matching {
	m := matching{make(map[version]*format.Schema, len(want.Schemas)), make(map[version]bool, len(want.Schemas))}
	f := newFinder(want, have)
	for _, level := range levels(want.Schemas) {
		var others []*format.Schema
		for _, s := range level {
			h := f.byVersion[versionOf(s)]
			if h != nil && s.Deleted == h.Deleted && !m.used[versionOf(h)] && bare(contentOf(m.referring(s))) == f.contents[versionOf(h)] {
				m.pair(s, h)
			} else {
				others = append(others, s)
			}
		}
		for _, s := range others {
			if h := f.find(m, s); h != nil {
				m.pair(s, h)
			}
		}
	}
	return m
}

// A finder looks for schemas in a registry.
type finder struct {
	modes     bool
	byVersion map[version]*format.Schema
	bySubject map[string][]*format.Schema
	contents  map[version]content
	wanted    map[version]*format.Schema
}

func newFinder(want, have Content) *finder {
	f := &finder{
		modes: have.hasModes(), byVersion: make(map[version]*format.Schema), bySubject: make(map[string][]*format.Schema),
		contents: make(map[version]content), wanted: make(map[version]*format.Schema),
	}
	for _, s := range have.Schemas {
		v := versionOf(s)
		f.byVersion[v], f.contents[v] = s, bare(contentOf(s))
		f.bySubject[s.Subject] = append(f.bySubject[s.Subject], s)
	}
	for _, s := range want.Schemas {
		f.wanted[versionOf(s)] = s
	}
	return f
}

// find returns the version that is s and no other of the snapshot; nil if there is none.
func (f *finder) find(m matching, s *format.Schema) *format.Schema {
	if len(f.bySubject[s.Subject]) == 0 {
		return nil
	}
	var found, shared *format.Schema
	same := bare(contentOf(m.referring(s)))
	for _, h := range f.bySubject[s.Subject] {
		switch {
		case same != f.contents[versionOf(h)]:
		case m.used[versionOf(h)]:
			if !h.Deleted && !s.Deleted {
				shared = h
			}
		case f.itself(s, h):
		case found == nil || closeness(s, h) > closeness(s, found):
			found = h
		}
	}
	if found == nil && !f.modes {
		return shared // versions that differ in metadata are one where the registry keeps none
	}
	return found
}

// itself tells whether h is another version than s in the snapshot, too.
func (f *finder) itself(s, h *format.Schema) bool {
	w := f.wanted[versionOf(h)]
	if w == nil || w == s || w.Deleted != h.Deleted || len(w.References) != len(h.References) {
		return false
	}
	to := *w
	to.References = slices.Clone(w.References)
	for i := range to.References {
		if w.References[i].Subject == h.References[i].Subject {
			to.References[i] = h.References[i] // under another number, perhaps
		}
	}
	return bare(contentOf(&to)) == f.contents[versionOf(h)]
}

// closeness is more for a version that is more like s, of those with the same content.
func closeness(s, h *format.Schema) int {
	n := 0
	if h.Deleted == s.Deleted {
		n += 2
	}
	if h.Version == s.Version {
		n++
	}
	return n
}

// bare is c without what a registry may leave out.
func bare(c content) content { return content{kind: c.kind, text: c.text, references: c.references} }

func (m *matching) pair(s, here *format.Schema) {
	m.here[versionOf(s)], m.used[versionOf(here)] = here, true
}

// referring is s with references to the versions that the schemas have here.
func (m *matching) referring(s *format.Schema) *format.Schema {
	if len(s.References) == 0 {
		return s
	}
	out := *s
	out.References = slices.Clone(s.References)
	for i, r := range out.References {
		if h := m.here[version{r.Subject, r.Version}]; h != nil {
			out.References[i].Version = h.Version
		}
	}
	return &out
}

// Plan returns what it takes to make the registry as the snapshot is, and what there is to say for
// people besides. What cannot be done is a change that Lacks something.
func Plan(want, have Content) ([]change.Change, []string) {
	p := &planner{want: want, have: have, modes: want.hasModes() && have.hasModes(), matching: match(want, have)}
	p.subjects()
	p.schemas()
	p.sayIDs()
	return p.changes, p.notes
}

type planner struct {
	want, have Content
	modes      bool // both know them
	matching
	changes []change.Change
	notes   []string
}

func (p *planner) say(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

func (p *planner) add(c change.Change) {
	c.Kind = format.ClusterSchemas
	p.changes = append(p.changes, c)
}

func subjectName(s *format.Subject) string {
	switch {
	case s.Name == "":
		return "defaults of the schema registry"
	case isDefaults(s.Name):
		return "defaults of context " + contextOf(s.Name)
	}
	return "subject " + s.Name
}

// subjects compares what subjects have of their own.
func (p *planner) subjects() {
	have := make(map[string]*format.Subject)
	for _, s := range p.have.Subjects {
		have[s.Name] = s
	}
	want := make(map[string]bool)
	if len(p.want.Subjects) > 0 && len(p.have.Subjects) > 0 && p.want.hasModes() != p.have.hasModes() {
		p.say("modes are not compared: the registry of the snapshot or this one does not know them")
	}
	for _, s := range p.want.Subjects {
		want[s.Name] = true
		h := have[s.Name]
		if h == nil {
			h = &format.Subject{Name: s.Name}
		}
		details := p.differences(s, h)
		switch {
		case len(details) == 0:
		case have[s.Name] == nil:
			p.add(change.Change{Action: change.Add, Name: subjectName(s), After: s})
		default:
			p.add(change.Change{Action: change.Alter, Name: subjectName(s), Before: h, After: s, Details: details})
		}
	}
	for _, h := range p.have.Subjects {
		if !p.modes && h.Mode == modeImport {
			p.say("%s: in mode IMPORT here, in which it takes no schemas of serializers; the snapshot says no mode", subjectName(h))
		}
		if !want[h.Name] && h.Name != "" && len(p.differences(&format.Subject{Name: h.Name}, h)) > 0 {
			p.add(change.Change{Action: change.Remove, Name: subjectName(h), Before: h})
		}
	}
}

func (p *planner) differences(want, have *format.Subject) []change.Detail {
	var out []change.Detail
	differ := func(field, want, have string) {
		if want != have {
			out = append(out, change.Detail{Field: field, Before: orNil(have), After: orNil(want)})
		}
	}
	if !p.sameLevel(want, have) {
		differ("compatibility", want.Compatibility, have.Compatibility)
	}
	if p.modes {
		differ("mode", want.Mode, have.Mode)
	}
	w, h := settings(want.Config), settings(have.Config)
	fields := maps.Clone(w)
	if fields == nil {
		fields = make(map[string]json.RawMessage)
	}
	maps.Copy(fields, h)
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		differ(field, canonical(string(w[field])), canonical(string(h[field])))
	}
	return out
}

// sameLevel tells whether a difference in compatibility is none, for all that can be known.
func (p *planner) sameLevel(want, have *format.Subject) bool {
	if want.Name == "" {
		return want.Compatibility == "" || have.Compatibility == "" // a registry has no such thing
	}
	// A registry without modes does not say whether a subject has the default by itself.
	level := p.have.defaults().Compatibility
	return !p.have.hasModes() && have.Compatibility == "" && want.Compatibility == level && p.want.defaults().Compatibility == level
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (p *planner) schemas() {
	taken := make(map[version]*format.Schema, len(p.have.Schemas))
	next := make(map[string]int) // the version that the registry would give
	for _, h := range p.have.Schemas {
		taken[versionOf(h)] = h
		next[h.Subject] = max(next[h.Subject], h.Version)
	}
	foreign := foreignIDs(p.want, p.have, p.matching)
	twins := p.twins()
	conflict := make(map[*format.Schema]bool) // versions here that are another schema in the snapshot
	for _, s := range p.want.Schemas {
		name := "schema " + versionOf(s).String()
		h := p.here[versionOf(s)]
		if h == nil {
			c := change.Change{Action: change.Add, Name: name, After: s}
			numbered := !p.have.hasModes() || foreign[s.Subject]
			switch other := taken[versionOf(s)]; {
			case other != nil && !(numbered && p.used[versionOf(other)]): // to register it would write over the other one
				c.Action, c.Before, c.Details = change.Alter, other, schemaDetails(s, other)
				c.Lacks = "this version is another schema here, and no registry changes one"
				conflict[other] = true
			case twins[versionOf(s)]:
				c.Lacks = "this registry has the same schema once, and an earlier version of it is not deleted"
			case numbered:
				if next[s.Subject]++; next[s.Subject] != s.Version {
					p.say("%s will be version %d here: this registry numbers versions one by one", name, next[s.Subject])
				}
			}
			p.add(c)
			continue
		}
		if h.Version != s.Version {
			p.say("%s is version %d here", name, h.Version)
		}
		if d := schemaDetails(p.referring(s), h); len(d) > 0 {
			c := change.Change{Action: change.Alter, Name: name, Before: h, After: s, Details: d}
			if slices.ContainsFunc(d, func(d change.Detail) bool { return d.Field != "deleted" }) {
				c.Lacks = "no registry changes metadata and rules of a version, and some keep none"
			}
			p.add(c)
		}
	}
	for _, subject := range slices.Sorted(maps.Keys(foreign)) {
		p.say("subject %s: its schemas get ids of this registry: an id is another schema's here", subject)
	}
	hidden := 0
	for _, h := range slices.Backward(p.have.Schemas) { // those that refer to others before these
		switch {
		case p.used[versionOf(h)] || conflict[h]:
		case h.Deleted:
			hidden++
		default:
			p.add(change.Change{Action: change.Remove, Name: "schema " + versionOf(h).String(), Before: h})
		}
	}
	if hidden > 0 {
		p.say("%s that the snapshot does not have: deleted softly here, and left as they are", counted(hidden, "version"))
	}
}

// twins are deleted versions that a registry without metadata would take for an earlier one.
func (p *planner) twins() map[version]bool {
	out := make(map[version]bool)
	if p.have.hasModes() {
		return out
	}
	type in struct {
		subject string
		content content
	}
	live := make(map[in]bool)
	for _, s := range p.want.Schemas { // versions in their order
		if k := (in{s.Subject, bare(contentOf(s))}); !s.Deleted {
			live[k] = true
		} else if live[k] {
			out[versionOf(s)] = true
		}
	}
	return out
}

// schemaDetails are the differences of two versions of a subject.
func schemaDetails(want, have *format.Schema) []change.Detail {
	var out []change.Detail
	w, h := contentOf(want), contentOf(have)
	for _, f := range []struct{ field, want, have string }{
		{"type", w.kind, h.kind},
		{"schema", w.text, h.text},
		{"references", w.references, h.references},
		{"metadata", w.metadata, h.metadata},
		{"rules", w.rules, h.rules},
		{"deleted", yes(want.Deleted), yes(have.Deleted)},
	} {
		if f.want != f.have {
			out = append(out, change.Detail{Field: f.field, Before: orNil(f.have), After: orNil(f.want)})
		}
	}
	return out
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// foreignIDs are the subjects whose schemas cannot keep their ids: one that is to be registered has an
// id that is another schema's here, or refers to a schema of such a subject.
func foreignIDs(want, have Content, m matching) map[string]bool {
	out := make(map[string]bool)
	if !have.hasModes() {
		return out
	}
	type id struct {
		context string
		id      int
	}
	here, taken := make(map[id]content), make(map[version]bool)
	for _, h := range have.Schemas {
		taken[versionOf(h)] = true
		here[id{contextOf(h.Subject), h.ID}] = contentOf(h)
	}
	registered := make(map[version]*format.Schema)
	for _, s := range want.Schemas {
		if h := m.here[versionOf(s)]; h != nil && h.Deleted && !s.Deleted {
			registered[versionOf(s)] = s // once more, under the id that it has
			continue
		}
		if m.here[versionOf(s)] != nil || taken[versionOf(s)] && !m.used[versionOf(s)] {
			continue
		}
		registered[versionOf(s)] = s
		if other, used := here[id{contextOf(s.Subject), s.ID}]; used && other != contentOf(m.referring(s)) {
			out[s.Subject] = true
		}
	}
	for n := -1; n != len(out); {
		n = len(out)
		for _, s := range registered {
			for _, r := range s.References {
				if registered[version{r.Subject, r.Version}] != nil && out[r.Subject] {
					out[s.Subject] = true
				}
			}
		}
	}
	return out
}

// inContext is a schema as ids know it.
type inContext struct {
	context string
	content content
}

// IDs returns, by context, the ids of the snapshot's schemas that these do not have in the registry,
// and those that they have instead. An id that the registry has for the same schema, too, stays. The
// lines name schemas that are not in the registry although their ids may be in records.
func IDs(want, have Content) (map[string]map[int]int, []string) {
	return idsOf(want, have, match(want, have))
}

func idsOf(want, have Content, m matching) (map[string]map[int]int, []string) {
	elsewhere := make(map[inContext]*format.Schema) // for an id any subject's will do
	for _, h := range have.Schemas {
		k := inContext{contextOf(h.Subject), bare(contentOf(h))}
		if was := elsewhere[k]; was == nil || h.ID < was.ID {
			elsewhere[k] = h
		}
	}
	out, kept, lost := make(map[string]map[int]int), make(map[string]map[int]bool), make(map[string]map[int]version)
	for _, s := range want.Schemas {
		c, h := contextOf(s.Subject), m.here[versionOf(s)]
		if h == nil {
			h = elsewhere[inContext{c, bare(contentOf(m.referring(s)))}]
		}
		if out[c] == nil {
			out[c], kept[c], lost[c] = make(map[int]int), make(map[int]bool), make(map[int]version)
		}
		switch to, known := out[c][s.ID]; {
		case h == nil:
			lost[c][s.ID] = versionOf(s)
		case h.ID == s.ID:
			kept[c][s.ID] = true
		case !known || h.ID < to:
			out[c][s.ID] = h.ID
		}
	}
	var missing []string
	for c, ids := range out {
		maps.DeleteFunc(ids, func(id, _ int) bool { return kept[c][id] })
		for _, id := range slices.Sorted(maps.Keys(lost[c])) {
			if _, mapped := ids[id]; !mapped && !kept[c][id] {
				missing = append(missing, fmt.Sprintf("schema id %d (%s) is not in this registry: records with it cannot be read", id, lost[c][id]))
			}
		}
		if len(ids) == 0 {
			delete(out, c)
		}
	}
	slices.Sort(missing)
	return out, missing
}

// FormatIDs returns the lines that kbk-filter --schema-id-map takes.
func FormatIDs(ids map[int]int) string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		fmt.Fprintf(&b, "%d=%d\n", id, ids[id])
	}
	return b.String()
}

func (p *planner) sayIDs() {
	ids, _ := idsOf(p.want, p.have, p.matching)
	for _, c := range slices.SortedFunc(maps.Keys(ids), cmp.Compare[string]) {
		where := ""
		if c != "." {
			where = " of context " + c
		}
		p.say("%s%s: another id here than in the snapshot, so records need kbk-filter --schema-id-map", counted(len(ids[c]), "schema"), where)
	}
}
