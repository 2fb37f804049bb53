// Package registry reads a schema registry, compares it with a snapshot of one, and makes it so:
// Confluent's registry, and those that speak its protocol. What differs is decided by functions over
// plain values ([Plan], [IDs]); [Read] and [Apply] ask the registry.
package registry

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kbkio/kbk/format"
)

// Content is what a registry has. Its order is that of a snapshot: subjects by name, schemas behind
// those that they refer to.
type Content struct {
	Subjects []*format.Subject
	Schemas  []*format.Schema
	LeftOut  []string // what could not be had, a line for people each
}

// Frames returns the frames of a snapshot.
func (c Content) Frames() []format.Encoder {
	out := make([]format.Encoder, 0, len(c.Subjects)+len(c.Schemas))
	for _, s := range c.Subjects {
		out = append(out, s)
	}
	for _, s := range c.Schemas {
		out = append(out, s)
	}
	return out
}

// A version is of a subject.
type version struct {
	subject string
	number  int
}

func (v version) String() string { return fmt.Sprintf("%s version %d", v.subject, v.number) }

func versionOf(s *format.Schema) version { return version{s.Subject, s.Version} }

// sort brings c into its order.
func (c *Content) sort() {
	slices.SortFunc(c.Subjects, func(a, b *format.Subject) int { return cmp.Compare(a.Name, b.Name) })
	c.Schemas = slices.Concat(levels(c.Schemas)...)
}

// levels sorts schemas so that each comes behind those that it refers to and behind the earlier
// versions of its subject. Those of one level do not depend on one another, and each is of another
// subject. Where references go round in a circle, they do not count.
func levels(schemas []*format.Schema) [][]*format.Schema {
	schemas = slices.Clone(schemas)
	slices.SortFunc(schemas, func(a, b *format.Schema) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Version, b.Version))
	})
	at := make(map[version]int, len(schemas))
	for i, s := range schemas {
		at[versionOf(s)] = i
	}
	level := make([]int, len(schemas)) // 0 is not known, -1 on the way
	var visit func(i int) int
	visit = func(i int) int {
		if level[i] != 0 {
			return max(level[i], 0)
		}
		level[i] = -1
		deepest := 0
		if i > 0 && schemas[i-1].Subject == schemas[i].Subject {
			deepest = visit(i - 1)
		}
		for _, r := range schemas[i].References {
			if j, here := at[version{r.Subject, r.Version}]; here {
				deepest = max(deepest, visit(j))
			}
		}
		level[i] = deepest + 1
		return level[i]
	}
	var out [][]*format.Schema
	for i := range schemas {
		for n := visit(i); len(out) < n; {
			out = append(out, nil)
		}
	}
	for i, s := range schemas {
		out[level[i]-1] = append(out[level[i]-1], s)
	}
	return out
}

// contextOf is the context of a subject, "." is the default.
func contextOf(subject string) string {
	if rest, in := strings.CutPrefix(subject, ":."); in {
		if name, _, ended := strings.Cut(rest, ":"); ended {
			return "." + name
		}
	}
	return "."
}

// defaultsOf is the subject that has the defaults of a context.
func defaultsOf(context string) string {
	if context == "." {
		return ""
	}
	return ":" + context + ":"
}

// isDefaults tells whether a subject stands for the defaults of a context.
func isDefaults(subject string) bool { return subject == defaultsOf(contextOf(subject)) }

// defaults has what subjects have that have nothing of their own.
func (c Content) defaults() *format.Subject {
	for _, s := range c.Subjects {
		if s.Name == "" {
			return s
		}
	}
	return new(format.Subject)
}

// hasModes tells whether the registry knows modes.
func (c Content) hasModes() bool { return c.defaults().Mode != "" }

// A content is what makes two schemas the same.
type content struct{ kind, text, references, metadata, rules string }

func contentOf(s *format.Schema) content {
	var refs []string
	for _, r := range s.References {
		refs = append(refs, fmt.Sprintf("%q %q %d", r.Name, r.Subject, r.Version))
	}
	slices.Sort(refs)
	return content{kindOf(s.Type), text(s), strings.Join(refs, "\n"), canonical(s.Metadata), canonical(s.Rules)}
}

func kindOf(t string) string { return cmp.Or(t, "AVRO") }

// text is a schema without the white space that a registry may change.
func text(s *format.Schema) string {
	if kindOf(s.Type) == "AVRO" || s.Type == "JSON" {
		return canonical(s.Schema)
	}
	return strings.TrimSpace(s.Schema)
}

// canonical is JSON in one form, so that two texts are the same if they say the same; what is no JSON
// stays. The order of fields is no difference, and numbers are kept as they are written.
func canonical(text string) string {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return strings.TrimSpace(text)
	}
	if v == nil {
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil {
		return text
	}
	return string(b)
}

// settings are the fields of a subject's config as they are compared and written: all but the
// compatibility, which has a place of its own.
func settings(config string) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal([]byte(config), &m) != nil {
		return nil
	}
	delete(m, "compatibilityLevel")
	delete(m, "compatibility")
	maps.DeleteFunc(m, func(_ string, v json.RawMessage) bool { return string(v) == "null" })
	return m
}

// Rename gives subjects the names that follow from new names of topics, by the strategy that
// serializers use by default: TOPIC-key and TOPIC-value. References follow. It fails where two
// subjects would become one.
func Rename(c Content, topic func(string) string) (Content, error) {
	names, from := make(map[string]string), make(map[string]string)
	rename := func(subject string) string {
		if to, known := names[subject]; known {
			return to
		}
		names[subject] = renamed(subject, topic)
		return names[subject]
	}
	out := Content{LeftOut: c.LeftOut}
	for _, s := range c.Subjects {
		to := *s
		to.Name = rename(s.Name)
		if was, twice := from[to.Name]; twice {
			return Content{}, fmt.Errorf("subjects %q and %q would both become %q", was, s.Name, to.Name)
		}
		from[to.Name] = s.Name
		out.Subjects = append(out.Subjects, &to)
	}
	for _, s := range c.Schemas {
		to := *s
		to.Subject = rename(s.Subject)
		if was, known := from[to.Subject]; known && was != s.Subject {
			return Content{}, fmt.Errorf("subjects %q and %q would both become %q", was, s.Subject, to.Subject)
		}
		from[to.Subject] = s.Subject
		to.References = slices.Clone(s.References)
		for i := range to.References {
			to.References[i].Subject = rename(to.References[i].Subject)
		}
		out.Schemas = append(out.Schemas, &to)
	}
	out.sort()
	return out, nil
}

func renamed(subject string, topic func(string) string) string {
	prefix := defaultsOf(contextOf(subject))
	name := strings.TrimPrefix(subject, prefix)
	for _, suffix := range []string{"-key", "-value"} {
		if t, ok := strings.CutSuffix(name, suffix); ok && t != "" {
			return prefix + topic(t) + suffix
		}
	}
	return subject
}
