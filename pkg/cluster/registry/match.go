package registry

import (
	"slices"

	"github.com/kbkio/kbk/format"
)

// A matching says which version in the registry is which version of the snapshot.
type matching struct {
	here  map[version]*format.Schema // by version in the snapshot
	used  map[version]bool           // versions in the registry
	tried map[version]bool           // of the snapshot
}

// match pairs each schema of the snapshot with the same one of the registry, under the same version if
// it is there, else under another one of the subject. The most alike are paired first, so that versions
// that differ only in their metadata, or in that one is deleted, are not taken for one another. The
// references of the same schemas lead to the same schemas, whatever their versions are.
func match(want, have Content) matching {
	m := matching{here: make(map[version]*format.Schema, len(want.Schemas)), used: make(map[version]bool, len(want.Schemas))}
	f := newFinder(want, have)
	comparisons := []func(content) content{whole, bare}
	if !f.modes {
		comparisons = comparisons[1:] // it keeps no metadata
	}
	for _, f.alike = range comparisons {
		for _, f.deleted = range []bool{true, false} {
			m.tried = make(map[version]bool, len(want.Schemas))
			for _, s := range f.want {
				if m.here[versionOf(s)] == nil {
					m.pair(s, f.find(m, s))
				}
				m.tried[versionOf(s)] = true
			}
		}
	}
	return m
}

// A finder looks for schemas in a registry.
type finder struct {
	alike     func(content) content // what it compares of a schema
	deleted   bool                  // whether it compares that
	modes     bool
	want      []*format.Schema // behind those that they refer to
	bySubject map[string][]*format.Schema
	contents  map[version]content
	wanted    map[version]*format.Schema
}

func newFinder(want, have Content) *finder {
	f := &finder{
		modes: have.hasModes(), want: slices.Concat(levels(want.Schemas)...), bySubject: make(map[string][]*format.Schema),
		contents: make(map[version]content, len(have.Schemas)), wanted: make(map[version]*format.Schema, len(want.Schemas)),
	}
	for _, s := range have.Schemas {
		f.contents[versionOf(s)] = contentOf(s)
		f.bySubject[s.Subject] = append(f.bySubject[s.Subject], s)
	}
	for _, s := range want.Schemas {
		f.wanted[versionOf(s)] = s
	}
	return f
}

// find returns the version that is s and no other of the snapshot; nil if there is none.
func (f *finder) find(m matching, s *format.Schema) *format.Schema {
	if len(f.bySubject[s.Subject]) == 0 || m.without(s) {
		return nil
	}
	var found, shared *format.Schema
	best := -1
	same := contentOf(m.referring(s))
	for _, h := range f.bySubject[s.Subject] {
		is := f.contents[versionOf(h)]
		switch {
		case f.alike(same) != f.alike(is), f.deleted && s.Deleted != h.Deleted:
		case m.used[versionOf(h)]:
			if !h.Deleted && !s.Deleted {
				shared = h
			}
		case f.itself(m, s, h):
		default:
			if n := closeness(s, h, same == is); n > best {
				found, best = h, n
			}
		}
	}
	if found == nil && !f.modes {
		return shared // versions that differ in metadata are one where the registry keeps none
	}
	return found
}

// itself tells whether h is another version than s in the snapshot, too.
func (f *finder) itself(m matching, s, h *format.Schema) bool {
	w := f.wanted[versionOf(h)]
	if w == nil || w == s || m.here[versionOf(w)] != nil || w.Deleted != h.Deleted || len(w.References) != len(h.References) {
		return false
	}
	to := *w
	to.References = slices.Clone(w.References)
	for i := range to.References {
		if w.References[i].Subject == h.References[i].Subject {
			to.References[i] = h.References[i] // under another number, perhaps
		}
	}
	return f.alike(contentOf(&to)) == f.alike(f.contents[versionOf(h)])
}

// closeness is more for a version that is more like s, of those that may be s.
func closeness(s, h *format.Schema, exact bool) int {
	n := 0
	if exact {
		n += 4
	}
	if h.Deleted == s.Deleted {
		n += 2
	}
	if h.Version == s.Version {
		n++
	}
	return n
}

func whole(c content) content { return c }

// bare is c without what a registry may leave out.
func bare(c content) content { return content{kind: c.kind, text: c.text, references: c.references} }

// pair notes that here is s; nil is none.
func (m *matching) pair(s, here *format.Schema) {
	if here != nil {
		m.here[versionOf(s)], m.used[versionOf(here)] = here, true
	}
}

// without tells whether s refers to a version of the snapshot that is not in the registry: then s is not
// there either, whatever has its text.
func (m *matching) without(s *format.Schema) bool {
	return slices.ContainsFunc(s.References, func(r format.SchemaReference) bool {
		v := version{r.Subject, r.Version}
		return m.tried[v] && m.here[v] == nil
	})
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
