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

// Plan returns what it takes to make the registry as the snapshot is, and what there is to say for
// people besides. What cannot be done is a change that Lacks something.
func Plan(want, have Content) ([]change.Change, []string) {
	p := &planner{want: want, have: have, modes: want.hasModes() && have.hasModes(), matching: match(want, have), wantDeleted: make(map[version]bool)}
	for _, s := range want.Schemas {
		p.wantDeleted[versionOf(s)] = s.Deleted
	}
	p.subjects()
	p.schemas()
	p.sayIDs()
	return p.changes, p.notes
}

type planner struct {
	want, have Content
	modes      bool // both know them
	matching
	wantDeleted map[version]bool // of the snapshot's versions
	changes     []change.Change
	notes       []string
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
			p.say("%s: in mode IMPORT here, so it accepts no schemas from serializers; the snapshot has no mode for it", subjectName(h))
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
	twins := p.twins(foreign)
	conflict := make(map[*format.Schema]bool) // versions here that are another schema in the snapshot
	lacking := make(map[version]bool)         // versions of the snapshot that cannot be had
	for _, s := range slices.Concat(levels(p.want.Schemas)...) {
		name := "schema " + versionOf(s).String()
		h := p.here[versionOf(s)]
		if h == nil {
			c := change.Change{Action: change.Add, Name: name, After: s}
			numbered := !p.have.hasModes() || foreign[s.Subject]
			switch other := taken[versionOf(s)]; {
			case other != nil && !(numbered && p.used[versionOf(other)]): // to register it would write over the other one
				c.Action, c.Before, c.Details = change.Alter, other, schemaDetails(s, other)
				c.Lacks = "this version is a different schema here, and a registry does not change versions"
				conflict[other] = true
			case twins[versionOf(s)]:
				c.Lacks = "this registry keeps equal schemas once only, and another version of it is not deleted"
			case slices.ContainsFunc(s.References, func(r format.SchemaReference) bool { return lacking[version{r.Subject, r.Version}] }):
				c.Lacks = "it refers to a version that cannot be registered here"
			case slices.ContainsFunc(s.References, p.stayDeleted):
				c.Lacks = "it refers to a version that is deleted here"
			case numbered:
				if next[s.Subject]++; next[s.Subject] != s.Version {
					p.say("%s will be version %d here: this registry numbers versions one by one", name, next[s.Subject])
				}
			}
			lacking[versionOf(s)] = c.Lacks != ""
			p.add(c)
			continue
		}
		if h.Version != s.Version {
			p.say("%s is version %d here", name, h.Version)
		}
		if d := schemaDetails(p.referring(s), h); len(d) > 0 {
			c := change.Change{Action: change.Alter, Name: name, Before: h, After: s, Details: d}
			if slices.ContainsFunc(d, func(d change.Detail) bool { return d.Field != "deleted" }) {
				c.Lacks = "a registry does not change the metadata and rules of a version, and some registries keep none"
			}
			p.add(c)
		}
	}
	for _, subject := range slices.Sorted(maps.Keys(foreign)) {
		p.say("subject %s: this registry assigns ids to its schemas, because one of the ids belongs to another schema here", subject)
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

// stayDeleted tells whether a reference is to a version that is deleted here, as in the snapshot. No registry
// takes such a reference.
func (p *planner) stayDeleted(r format.SchemaReference) bool {
	h := p.here[version{r.Subject, r.Version}]
	return h != nil && h.Deleted && p.wantDeleted[version{r.Subject, r.Version}]
}

// twins are deleted versions that a registry which gives versions would take for one that is not
// deleted: for an earlier one, or for a later one if they are deleted last because others refer to them.
func (p *planner) twins(foreign map[string]bool) map[version]bool {
	alike := whole
	if !p.have.hasModes() {
		alike = bare
	}
	type in struct {
		subject string
		content content
	}
	live, deleted := make(map[in]version), make(map[in]version)
	once := matching{here: make(map[version]*format.Schema)} // of the same versions, the first
	referred := referredBy(p.want.Schemas)
	out := make(map[version]bool)
	for _, s := range slices.Concat(levels(p.want.Schemas)...) {
		if p.have.hasModes() && !foreign[s.Subject] {
			continue
		}
		k, v := in{s.Subject, alike(contentOf(once.referring(s)))}, versionOf(s)
		first, is := live[k]
		switch last, waits := deleted[k]; {
		case s.Deleted && is:
			out[v] = true
		case s.Deleted && referred[v]:
			deleted[k] = v
		case s.Deleted:
		case is:
			once.here[v] = &format.Schema{Subject: s.Subject, Version: first.number}
		default:
			live[k], out[last] = v, waits
		}
	}
	return out
}

// referredBy are the versions that schemas refer to.
func referredBy(schemas []*format.Schema) map[version]bool {
	out := make(map[version]bool)
	for _, s := range schemas {
		for _, r := range s.References {
			out[version{r.Subject, r.Version}] = true
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
		h := m.here[versionOf(s)]
		if again := h != nil && h.Deleted && !s.Deleted; !again && (h != nil || taken[versionOf(s)] && !m.used[versionOf(s)]) {
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
		for _, k := range []inContext{{contextOf(h.Subject), contentOf(h)}, {contextOf(h.Subject), bare(contentOf(h))}} {
			if was := elsewhere[k]; was == nil || h.ID < was.ID {
				elsewhere[k] = h
			}
		}
	}
	out, kept, lost := make(map[string]map[int]int), make(map[string]map[int]bool), make(map[string]map[int]version)
	for _, s := range want.Schemas {
		c, h := contextOf(s.Subject), m.here[versionOf(s)]
		if h == nil && !m.without(s) {
			same := contentOf(m.referring(s))
			h = cmp.Or(elsewhere[inContext{c, same}], elsewhere[inContext{c, bare(same)}])
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
