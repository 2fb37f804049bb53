package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

// putBackLimit is the time for putting modes and compatibility back after Ctrl-C.
const putBackLimit = time.Minute

const (
	modeImport = "IMPORT"
	none       = "NONE"
)

// steps are the changes in the order in which they are made.
type steps struct {
	first    []change.Change   // versions that are to be deleted, and would be taken for those that are registered
	register [][]change.Change // of schemas, a level of [levels] each
	remove   []change.Change   // of schemas, those that refer to others first
	subjects []change.Change   // what subjects have of their own; the registry's defaults last
	// imports are the names whose mode is to be IMPORT meanwhile: of subjects, or "" for the registry.
	imports []string
	keep    map[string]bool // subjects whose schemas keep their ids and versions
	// referred are the versions of the snapshot that others refer to. They are deleted last.
	referred map[version]bool
	wanted   map[version]*format.Schema // the snapshot's
	hides    map[string]bool            // subjects of which a version is to be deleted
}

// arrange sorts changes. It leaves out those that lack something.
func arrange(want, have Content, changes []change.Change) steps {
	st := steps{keep: make(map[string]bool), referred: referredBy(want.Schemas), wanted: make(map[version]*format.Schema), hides: make(map[string]bool)}
	for _, s := range want.Schemas {
		st.wanted[versionOf(s)] = s
		st.hides[s.Subject] = st.hides[s.Subject] || s.Deleted
	}
	of := make(map[version]change.Change)
	var schemas []*format.Schema
	for _, c := range changes {
		if c.Lacks != "" {
			continue
		}
		switch after := c.After.(type) {
		case *format.Subject:
			st.subjects = append(st.subjects, c)
			continue
		case *format.Schema:
			registers := c.Action == change.Add || !after.Deleted
			if registers {
				schemas = append(schemas, after)
				of[versionOf(after)] = c
			}
			switch last := st.referred[versionOf(after)]; {
			case after.Deleted && last:
				st.remove = append(st.remove, c)
			case after.Deleted && !registers:
				st.first = append(st.first, c)
			}
			continue
		}
		switch c.Before.(type) {
		case *format.Subject:
			st.subjects = append(st.subjects, c)
		case *format.Schema:
			st.remove = append(st.remove, c)
		}
	}
	st.importing(want, have, schemas)
	// An id that the registry gives could be one that another schema is to keep.
	for _, keep := range []bool{true, false} {
		some := slices.DeleteFunc(slices.Clone(schemas), func(s *format.Schema) bool { return st.keep[s.Subject] != keep })
		for _, level := range levels(some) {
			var l []change.Change
			for _, s := range level {
				l = append(l, of[versionOf(s)])
			}
			st.register = append(st.register, l)
		}
	}
	slices.SortStableFunc(st.subjects, func(a, b change.Change) int { return depthOf(b) - depthOf(a) })
	st.remove = backwards(st.remove)
	return st
}

// depthOf is more for what depends on something else: a subject depends on its context's defaults.
func depthOf(c change.Change) int {
	switch name := subjectOf(c).Name; {
	case name == "":
		return 0
	case isDefaults(name):
		return 1
	}
	return 2
}

func subjectOf(c change.Change) *format.Subject {
	if s, ok := c.After.(*format.Subject); ok {
		return s
	}
	return c.Before.(*format.Subject)
}

func schemaOf(c change.Change) *format.Schema {
	if s, ok := c.After.(*format.Schema); ok {
		return s
	}
	return c.Before.(*format.Schema)
}

// backwards sorts deletions so that a schema goes before those that it refers to.
func backwards(changes []change.Change) []change.Change {
	of := make(map[version]change.Change)
	var schemas []*format.Schema
	for _, c := range changes {
		s := schemaOf(c)
		schemas, of[versionOf(s)] = append(schemas, s), c
	}
	var out []change.Change
	for _, level := range slices.Backward(levels(schemas)) {
		for _, s := range level {
			out = append(out, of[versionOf(s)])
		}
	}
	return out
}

// importing decides which modes change so that ids are kept.
func (st *steps) importing(want, have Content, schemas []*format.Schema) {
	if !have.hasModes() || len(schemas) == 0 {
		return
	}
	empty := len(have.Schemas) == 0 && !slices.ContainsFunc(have.Subjects, func(s *format.Subject) bool { return !isDefaults(s.Name) })
	foreign := foreignIDs(want, have, match(want, have))
	names := make(map[string]bool)
	for _, s := range schemas {
		if foreign[s.Subject] {
			continue
		}
		st.keep[s.Subject] = true
		if empty && contextOf(s.Subject) == "." {
			names[""] = true // one request instead of two for each subject
		} else {
			names[s.Subject] = true
		}
	}
	st.imports = slices.Sorted(maps.Keys(names))
}

// Apply makes changes, which are of a [Plan] for want and have. It calls done for each, one at a time,
// with nil or the error; one that fails does not stop the others. The mode and the compatibility that a
// subject has meanwhile, so that it takes the schemas, are put back at the end, also when ctx is
// cancelled: an error says that this has failed, or that ctx was cancelled.
func Apply(ctx context.Context, c *rest.Client, want, have Content, changes []change.Change, done func(change.Change, error)) error {
	a := &applier{
		c: c, have: make(map[string]*format.Subject), steps: arrange(want, have, changes),
		versions: make(map[version]int), failed: make(map[version]bool), changed: make(map[string]bool),
		modes: have.hasModes() && (want.hasModes() || !slices.ContainsFunc(want.Subjects, func(s *format.Subject) bool { return s.Name == "" })),
	}
	a.done = func(c change.Change, err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		done(c, err)
	}
	for _, s := range have.Subjects {
		a.have[s.Name] = s
	}
	for v, h := range match(want, have).here {
		a.versions[v] = h.Version
	}
	a.schemas(ctx)
	if err := a.putBack(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	for _, c := range a.subjects {
		err := ctx.Err()
		if err == nil {
			err = a.settings(ctx, c)
		}
		a.done(c, err)
	}
	return ctx.Err()
}

type applier struct {
	c     *rest.Client
	done  func(change.Change, error)
	have  map[string]*format.Subject
	modes bool // are to be as the snapshot has them
	steps

	mu       sync.Mutex
	versions map[version]int  // in the registry, by version in the snapshot
	failed   map[version]bool // to be registered, and were not
	imported []string         // of steps.imports, those that were set

	allowing sync.Mutex
	changed  map[string]bool // whose compatibility is NONE meanwhile: subjects, and "" for the registry
}

// schemas registers and deletes schemas.
func (a *applier) schemas(ctx context.Context) {
	refused := make(map[string]error)
	a.each(ctx, len(a.imports), func(ctx context.Context, i int) {
		err := a.setMode(ctx, a.imports[i], modeImport)
		a.mu.Lock()
		defer a.mu.Unlock()
		if unknown(err) || err != nil && rest.Answered(err) != nil && rest.Answered(err).Code == invalidMode {
			a.doWithout(a.imports[i]) // a registry that shows modes and has no mode IMPORT
			return
		}
		a.imported = append(a.imported, a.imports[i]) // also if nobody knows whether it was
		if err != nil {
			refused[a.imports[i]] = fmt.Errorf("setting mode IMPORT, so that ids are kept: %w", err)
		}
	})
	a.deletions(ctx, a.first)
	for _, level := range a.register {
		a.each(ctx, len(level), func(ctx context.Context, i int) {
			c, s := level[i], schemaOf(level[i])
			err := errors.Join(ctx.Err(), refused[s.Subject])
			if err == nil && contextOf(s.Subject) == "." && a.keep[s.Subject] {
				err = refused[""]
			}
			if err == nil {
				err = a.registerOne(ctx, s)
			}
			later := s.Deleted && a.referred[versionOf(s)]
			if err == nil && s.Deleted && !later {
				err = a.delete(ctx, c)
			}
			if err != nil {
				a.mu.Lock()
				a.failed[versionOf(s)] = true
				a.mu.Unlock()
			}
			if err != nil || !later {
				a.done(c, err)
			}
		})
	}
	a.deletions(ctx, a.remove)
}

// invalidMode is the code of an answer to a mode that the registry does not have.
const invalidMode = 42204

// doWithout lets the registry give ids to the schemas of a subject, or of all subjects.
func (a *applier) doWithout(name string) {
	if name == "" {
		clear(a.keep)
	}
	delete(a.keep, name)
}

// deletions deletes versions one by one, for one that others refer to cannot be deleted.
func (a *applier) deletions(ctx context.Context, changes []change.Change) {
	for _, c := range changes {
		if c.After != nil && a.failed[versionOf(schemaOf(c))] {
			continue // it was said
		}
		err := ctx.Err()
		if err == nil {
			err = a.delete(ctx, c)
		}
		a.done(c, err)
	}
}

// each calls f for 0 to n-1, a few at a time. It does not begin any once ctx is cancelled, but f is called
// to say so.
func (a *applier) each(ctx context.Context, n int, f func(context.Context, int)) {
	var g errgroup.Group
	g.SetLimit(rest.AtOnce)
	for i := range n {
		g.Go(func() error { f(ctx, i); return nil })
	}
	g.Wait()
}

func (a *applier) setMode(ctx context.Context, name, mode string) error {
	return a.c.Do(ctx, http.MethodPut, modePath(name), force, modeBody{mode}, nil)
}

type modeBody struct {
	Mode string `json:"mode"`
}

// force lets a subject that has schemas be in mode IMPORT.
var force = url.Values{"force": {"true"}}

// body is what registers a schema.
func body(s *format.Schema, keep bool) schemaAnswer {
	b := schemaAnswer{Type: kindOf(s.Type), Schema: s.Schema, References: s.References, Metadata: raw(s.Metadata), Rules: raw(s.Rules)}
	if b.Type == "AVRO" {
		b.Type = "" // older registries know no types
	}
	if keep {
		b.ID, b.Version = s.ID, s.Version
	}
	return b
}

func raw(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}

func (a *applier) registerOne(ctx context.Context, s *format.Schema) error {
	a.mu.Lock()
	here := a.hereLocked(s)
	a.mu.Unlock()
	for _, r := range s.References {
		if v := (version{r.Subject, r.Version}); a.wanted[v] != nil && here[v] == nil {
			return fmt.Errorf("it refers to %s, which is not in the registry", v) // there, it may be another schema
		}
	}
	to := (&matching{here: here}).referring(s)
	keep := a.keep[s.Subject]
	path := rest.Path("subjects", s.Subject, "versions")
	var got struct {
		ID int `json:"id"`
	}
	err := a.c.Do(ctx, http.MethodPost, path, nil, body(to, keep), &got)
	// It is not compatible, which it was not at its time either. With Apicurio a subject has no level of
	// its own once that is NONE, and follows the defaults.
	for _, name := range []string{s.Subject, ""} {
		if rest.Status(err) != http.StatusConflict {
			break
		}
		if err := a.allow(ctx, name); err != nil {
			return err
		}
		err = a.c.Do(ctx, http.MethodPost, path, nil, body(to, keep), &got)
	}
	if err != nil {
		return err
	}
	if keep && got.ID != s.ID {
		return fmt.Errorf("the registry gave it id %d instead of %d", got.ID, s.ID)
	}
	number := s.Version
	if !keep && (a.hides[s.Subject] || a.referred[versionOf(s)]) {
		if number, err = a.numberOf(ctx, to); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.versions[versionOf(s)] = number
	return nil
}

// hereLocked has the versions that s refers to, by their numbers in the registry.
func (a *applier) hereLocked(s *format.Schema) map[version]*format.Schema {
	out := make(map[version]*format.Schema, len(s.References))
	for _, r := range s.References {
		v := version{r.Subject, r.Version}
		if n, known := a.versions[v]; known {
			out[v] = &format.Schema{Subject: r.Subject, Version: n}
		}
	}
	return out
}

// numberOf asks for the version that a schema got.
func (a *applier) numberOf(ctx context.Context, s *format.Schema) (int, error) {
	var got schemaAnswer
	if err := a.c.Do(ctx, http.MethodPost, rest.Path("subjects", s.Subject), nil, body(s, false), &got); err != nil {
		return 0, fmt.Errorf("asking for the version of what was registered: %w", err)
	}
	return got.Version, nil
}

// allow sets the compatibility of a subject, or that of the registry, to NONE.
func (a *applier) allow(ctx context.Context, name string) error {
	a.allowing.Lock() // until it is so
	defer a.allowing.Unlock()
	if a.changed[name] {
		return nil
	}
	a.changed[name] = true
	if err := a.c.Do(ctx, http.MethodPut, configPath(name), nil, configOf("", none), nil); err != nil {
		return fmt.Errorf("setting compatibility NONE for the time of the restore: %w", err)
	}
	return nil
}

// configOf is what sets a subject's config.
func configOf(config, level string) map[string]json.RawMessage {
	out := settings(config)
	if out == nil {
		out = make(map[string]json.RawMessage)
	}
	if level != "" {
		out["compatibility"], _ = json.Marshal(level)
	}
	return out
}

func (a *applier) delete(ctx context.Context, c change.Change) error {
	s := schemaOf(c)
	number := s.Version
	if c.After != nil { // by its number in the snapshot
		a.mu.Lock()
		n, known := a.versions[versionOf(s)]
		other := a.keeping(s, n, a.versions)
		a.mu.Unlock()
		if other != nil {
			return fmt.Errorf("version %d of the registry is %s, too, which is not to be deleted", n, versionOf(other))
		}
		if known {
			number = n
		}
	}
	err := a.c.Do(ctx, http.MethodDelete, rest.Path("subjects", s.Subject, "versions", strconv.Itoa(number)), nil, nil, nil)
	if unknown(err) {
		return nil // it is deleted
	}
	return err
}

// keeping is a version of the snapshot, not to be deleted, that has number n in the registry as s has; nil is
// none. A registry that gives versions takes schemas that are the same for one.
func (st *steps) keeping(s *format.Schema, n int, versions map[version]int) *format.Schema {
	for v, is := range versions {
		if w := st.wanted[v]; is == n && v.subject == s.Subject && w != nil && !w.Deleted {
			return w
		}
	}
	return nil
}

// putBack puts back what has changed meanwhile.
func (a *applier) putBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, putBackLimit)
	defer cancel()
	changed := slices.Sorted(maps.Keys(a.changed))
	errs := make([]error, len(a.imported)+len(changed))
	a.each(ctx, len(a.imported), func(ctx context.Context, i int) {
		name := a.imported[i]
		if err := a.restoreMode(ctx, name, a.mode(name)); err != nil {
			errs[i] = fmt.Errorf("the mode of %s is still IMPORT: %w", subjectName(&format.Subject{Name: name}), err)
		}
	})
	a.each(ctx, len(changed), func(ctx context.Context, i int) {
		was := &format.Subject{Name: changed[i]}
		if s := a.have[was.Name]; s != nil {
			was = s
		}
		if err := a.restoreConfig(ctx, was); err != nil {
			errs[len(a.imported)+i] = fmt.Errorf("the compatibility of %s is still NONE: %w", subjectName(was), err)
		}
	})
	return errors.Join(errs...)
}

func (a *applier) mode(name string) string {
	if s := a.have[name]; s != nil {
		return s.Mode
	}
	return ""
}

// restoreMode gives a subject a mode; "" is none of its own. Old registries cannot take a mode
// away, so the subject gets that of the registry.
func (a *applier) restoreMode(ctx context.Context, name, mode string) error {
	if mode == "" {
		err := a.c.Do(ctx, http.MethodDelete, modePath(name), nil, nil, nil)
		if !unknown(err) {
			return err
		}
		var now modeBody
		if err := a.c.Get(ctx, modePath(name), notDefaults, &now); unknown(err) || err == nil && now.Mode != modeImport {
			return nil
		}
		mode = a.mode("")
	}
	return a.setMode(ctx, name, mode)
}

// restoreConfig gives a subject a config, or takes its own away.
func (a *applier) restoreConfig(ctx context.Context, s *format.Subject) error {
	if conf := configOf(s.Config, s.Compatibility); len(conf) > 0 {
		return a.c.Do(ctx, http.MethodPut, configPath(s.Name), nil, conf, nil)
	}
	if s.Name == "" {
		return nil // it has one always
	}
	if err := a.c.Do(ctx, http.MethodDelete, configPath(s.Name), nil, nil, nil); !unknown(err) {
		return err
	}
	return nil
}

// settings makes a change of what a subject has of its own.
func (a *applier) settings(ctx context.Context, c change.Change) error {
	to, from := frames(c)
	if to.Compatibility != from.Compatibility || canonical(to.Config) != canonical(from.Config) {
		if err := a.restoreConfig(ctx, to); err != nil {
			return err
		}
		if err := a.kept(ctx, to); err != nil {
			return err
		}
	}
	if !a.modes || to.Mode == from.Mode || to.Name == "" && to.Mode == "" {
		return nil
	}
	return a.restoreMode(ctx, to.Name, to.Mode)
}

// kept tells whether the registry has taken the level that it was given. Apicurio takes NONE of a subject for
// no level.
func (a *applier) kept(ctx context.Context, s *format.Subject) error {
	if a.mode("") != "" || s.Compatibility == "" {
		return nil
	}
	is, err := (&reader{c: a.c}).config(ctx, s.Name)
	if err == nil && is.level != s.Compatibility {
		err = fmt.Errorf("the registry does not keep %s for it: it has %s", s.Compatibility, is.level)
	}
	return err
}

// frames are a subject as it is to be, and as it is; what is not there has nothing of its own.
func frames(c change.Change) (to, from *format.Subject) {
	to = &format.Subject{Name: subjectOf(c).Name}
	from = &format.Subject{Name: to.Name}
	if after, ok := c.After.(*format.Subject); ok {
		to = after
	}
	if before, ok := c.Before.(*format.Subject); ok {
		from = before
	}
	return to, from
}
