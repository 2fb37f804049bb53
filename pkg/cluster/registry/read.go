package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

const (
	schemaPage  = 1000 // schemas in an answer; Confluent's registry gives no more
	subjectPage = 10000
	roundNumber = 500 // of which the limit of a registry is a multiple
)

// New returns a client of a registry.
func New(s *rest.Server) *rest.Client {
	// The registry's leader changes, or its store was too slow.
	return rest.New(s, func(e *rest.Error) bool { return e.Code == 50002 || e.Code == 50003 || e.Code == 50004 })
}

var withDeleted = url.Values{"deleted": {"true"}}

// A schemaAnswer is a version of a subject as a registry has it in its answers and takes it.
type schemaAnswer struct {
	Subject    string                   `json:"subject,omitempty"`
	Version    int                      `json:"version,omitempty"`
	ID         int                      `json:"id,omitempty"`
	Type       string                   `json:"schemaType,omitempty"`
	Schema     string                   `json:"schema"`
	References []format.SchemaReference `json:"references,omitempty"`
	Metadata   json.RawMessage          `json:"metadata,omitempty"`
	Rules      json.RawMessage          `json:"ruleSet,omitempty"`
}

func (a *schemaAnswer) frame(deleted bool) *format.Schema {
	s := &format.Schema{Subject: a.Subject, Version: a.Version, SchemaInfo: format.SchemaInfo{
		ID: a.ID, Type: a.Type, Schema: a.Schema, References: a.References, Deleted: deleted,
		Metadata: jsonText(a.Metadata), Rules: jsonText(a.Rules),
	}}
	if s.Type == "AVRO" {
		s.Type = ""
	}
	return s
}

func jsonText(raw json.RawMessage) string {
	if string(raw) == "null" {
		return ""
	}
	return string(raw)
}

// Read reads all that the registry has: in all contexts, deleted subjects and versions too, if they
// were deleted softly.
func Read(ctx context.Context, c *rest.Client) (Content, error) {
	r := &reader{c: c, schemas: make(map[version]*format.Schema)}
	out, err := r.read(ctx)
	if err != nil {
		return Content{}, fmt.Errorf("reading the schema registry: %w", err)
	}
	return out, nil
}

type reader struct {
	c        *rest.Client
	defaults format.Subject // of the default context

	mu      sync.Mutex
	schemas map[version]*format.Schema
	leftOut []string
}

func (r *reader) read(ctx context.Context) (Content, error) {
	contexts, err := r.contexts(ctx)
	if err != nil {
		return Content{}, err
	}
	if err := r.readDefaults(ctx); err != nil {
		return Content{}, err
	}
	live, err := r.names(ctx, contexts, nil)
	if err != nil {
		return Content{}, err
	}
	all, err := r.names(ctx, contexts, withDeleted)
	if err != nil {
		return Content{}, err
	}
	complete, err := r.listed(ctx)
	if err != nil {
		return Content{}, err
	}
	out := Content{Subjects: []*format.Subject{&r.defaults}}
	for _, context := range contexts {
		if context != "." {
			out.Subjects = append(out.Subjects, &format.Subject{Name: defaultsOf(context)})
		}
	}
	for name := range all {
		out.Subjects = append(out.Subjects, &format.Subject{Name: name, SubjectInfo: format.SubjectInfo{Deleted: !live[name]}})
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(rest.AtOnce)
	for _, s := range out.Subjects[1:] {
		g.Go(func() error { return r.subject(gctx, s, complete[s.Name]) })
	}
	if err := g.Wait(); err != nil {
		return Content{}, err
	}
	out.Subjects = slices.DeleteFunc(out.Subjects, func(s *format.Subject) bool {
		return s.Name != "" && isDefaults(s.Name) && s.SubjectInfo == format.SubjectInfo{}
	})
	for _, s := range r.schemas {
		out.Schemas = append(out.Schemas, s)
	}
	slices.Sort(r.leftOut)
	out.LeftOut = r.leftOut
	out.sort()
	return out, nil
}

// unknown tells whether an error says that the registry does not have what was asked for, or has no
// such thing at all.
func unknown(err error) bool {
	s := rest.Status(err)
	return s == http.StatusNotFound || s == http.StatusMethodNotAllowed || s == http.StatusNotImplemented
}

func (r *reader) leave(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leftOut = append(r.leftOut, fmt.Sprintf(format, args...))
}

// contexts returns the names of all contexts, the default first.
func (r *reader) contexts(ctx context.Context) ([]string, error) {
	var got []string
	if err := r.c.Get(ctx, "/contexts", nil, &got); err != nil && !unknown(err) {
		return nil, err
	}
	out := []string{"."}
	for _, c := range got {
		if c != "." && c != ":.:" { // as Apicurio calls it
			out = append(out, c)
		}
	}
	return out, nil
}

// readDefaults reads compatibility and mode of all subjects that have none of their own.
func (r *reader) readDefaults(ctx context.Context) error {
	config, err := r.config(ctx, "")
	switch {
	case unknown(err):
		r.leave("schema registry: compatibility: this registry does not know it")
	case err != nil:
		return err
	}
	r.defaults.Compatibility, r.defaults.Config = config.level, config.text
	r.defaults.Mode, err = r.mode(ctx, "")
	if unknown(err) || err == nil && r.defaults.Mode == "" {
		r.leave("schema registry: modes: this registry does not know them, and gives schemas ids of its own")
		return nil
	}
	return err
}

type subjectConfig struct{ level, text string }

func configPath(subject string) string {
	if subject == "" {
		return "/config"
	}
	return rest.Path("config", subject)
}

func modePath(subject string) string {
	if subject == "" {
		return "/mode"
	}
	return rest.Path("mode", subject)
}

var notDefaults = url.Values{"defaultToGlobal": {"false"}}

func (r *reader) config(ctx context.Context, subject string) (subjectConfig, error) {
	var raw json.RawMessage
	if err := r.c.Get(ctx, configPath(subject), notDefaults, &raw); err != nil {
		return subjectConfig{}, err
	}
	var known struct {
		Level string `json:"compatibilityLevel"`
	}
	if err := json.Unmarshal(raw, &known); err != nil {
		return subjectConfig{}, fmt.Errorf("config of subject %q: %w", subject, err)
	}
	out := subjectConfig{level: known.Level}
	if len(settings(string(raw))) > 0 {
		out.text = string(raw)
	}
	return out, nil
}

func (r *reader) mode(ctx context.Context, subject string) (string, error) {
	var got struct {
		Mode string `json:"mode"`
	}
	err := r.c.Get(ctx, modePath(subject), notDefaults, &got)
	return got.Mode, err
}

// names returns the subjects of all contexts.
func (r *reader) names(ctx context.Context, contexts []string, query url.Values) (map[string]bool, error) {
	out := make(map[string]bool)
	for _, c := range contexts {
		q := url.Values{}
		if c != "." {
			q.Set("subjectPrefix", defaultsOf(c)) // a registry that knows contexts may list the default alone
		}
		n := 0
		paged, err := pages(ctx, r.c, "/subjects", merge(q, query), subjectPage, func(name string) bool {
			known := out[name]
			if out[name] = true; !known {
				n++
			}
			return !known
		})
		if err != nil {
			return nil, err
		}
		if !paged && r.defaults.Mode == "" && n > 0 && n%roundNumber == 0 {
			return nil, fmt.Errorf("it lists exactly %d subjects and knows no pages, so it may have more: Apicurio lists 1000 unless apicurio.ccompat.max-subjects says more", n)
		}
	}
	return out, nil
}

func merge(a, b url.Values) url.Values {
	for k, v := range b {
		a[k] = v
	}
	return a
}

// pages reads a list a page at a time and gives each entry to add, which tells whether it is a new one. A
// page may have fewer entries than were asked for, so an answer with nothing new is the end. It tells
// whether the registry knows pages: one that does not answers with all of the list, or with as much of it
// as it lists at all.
func pages[T any](ctx context.Context, c *rest.Client, path string, query url.Values, size int, add func(T) bool) (known bool, err error) {
	for offset := 0; ; {
		query.Set("offset", strconv.Itoa(offset))
		query.Set("limit", strconv.Itoa(size))
		var got []T
		if err := c.Get(ctx, path, query, &got); err != nil {
			return false, err
		}
		news := false
		for _, e := range got {
			news = add(e) || news
		}
		if len(got) > size || !news {
			return len(got) == 0, nil
		}
		offset += len(got)
	}
}

// listed reads the schemas that the registry lists all at once, if it can, and returns their
// subjects. Those of other subjects are read one by one.
func (r *reader) listed(ctx context.Context) (map[string]bool, error) {
	subjects, live := make(map[string]bool), make(map[version]bool)
	_, err := pages(ctx, r.c, "/schemas", url.Values{}, schemaPage, func(a schemaAnswer) bool {
		v := version{a.Subject, a.Version}
		known := live[v]
		live[v] = true
		return !known
	})
	if unknown(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	_, err = pages(ctx, r.c, "/schemas", url.Values{"deleted": {"true"}}, schemaPage, func(a schemaAnswer) bool {
		v := version{a.Subject, a.Version}
		_, known := r.schemas[v]
		r.schemas[v] = a.frame(!live[v])
		subjects[a.Subject] = true
		return !known
	})
	return subjects, err
}

// subject completes s, and reads its versions unless they are known.
func (r *reader) subject(ctx context.Context, s *format.Subject, listed bool) error {
	config, err := r.config(ctx, s.Name)
	if err != nil && !unknown(err) {
		return err
	}
	// A registry without modes answers with the default where a subject has nothing of its own.
	if r.defaults.Mode != "" || config.level != r.defaults.Compatibility || config.text != r.defaults.Config {
		s.Compatibility, s.Config = config.level, config.text
	}
	if r.defaults.Mode != "" {
		if s.Mode, err = r.mode(ctx, s.Name); err != nil && !unknown(err) {
			return err
		}
	}
	if listed || isDefaults(s.Name) {
		return nil
	}
	return r.versions(ctx, s.Name)
}

func (r *reader) versions(ctx context.Context, subject string) error {
	path := rest.Path("subjects", subject, "versions")
	var live, all []int
	if err := r.c.Get(ctx, path, nil, &live); err != nil && !unknown(err) {
		return err
	}
	if err := r.c.Get(ctx, path, withDeleted, &all); unknown(err) {
		r.leave("schema registry: subject %s: it was deleted while it was read", subject)
		return nil
	} else if err != nil {
		return err
	}
	for _, n := range all {
		var a schemaAnswer
		err := r.c.Get(ctx, rest.Path("subjects", subject, "versions", strconv.Itoa(n)), withDeleted, &a)
		if unknown(err) {
			r.leave("schema registry: subject %s, version %d: it is deleted, and the registry does not show it", subject, n)
			continue
		}
		if err != nil {
			return err
		}
		if a.Subject != subject || a.Version != n {
			return errors.New("the registry answers with " + version{a.Subject, a.Version}.String() + " for " + version{subject, n}.String())
		}
		r.mu.Lock()
		r.schemas[version{subject, n}] = a.frame(!slices.Contains(live, n))
		r.mu.Unlock()
	}
	return nil
}
