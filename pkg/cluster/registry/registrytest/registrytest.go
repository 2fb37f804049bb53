// Package registrytest is a schema registry in memory, for tests. It does what Confluent's registry is
// documented to do, as far as a backup and a restore get to see it: contexts, modes, ids and versions that
// are given in mode IMPORT, soft deletion, references. franz-go's srfake has modes too, but takes no ids.
package registrytest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Incompatible is what the text of a schema has that is compatible with nothing.
const Incompatible = "incompatible"

// A Registry is one. Its fields are to be set before it is used.
type Registry struct {
	// NoModes makes it one that gives ids of its own and numbers versions one by one.
	NoModes bool
	// NoImport makes it one that shows modes, has no mode IMPORT, and does the same.
	NoImport bool
	// Page is how many entries of a list there are in an answer at the most, 0 for any number.
	Page int
	// Subjects is how many subjects a registry without modes lists at the most: it knows no pages. 0 is all.
	Subjects int
	// NoList takes away the list of all schemas.
	NoList bool
	// Before sees each request first, and has answered it if it returns true.
	Before func(http.ResponseWriter, *http.Request) bool

	mu       sync.Mutex
	subjects map[string]*subject
	ids      map[string]map[int]string // content, by context and id
	requests map[string]int            // by method
}

type subject struct {
	versions map[int]*schema
	highest  int // the version that was given last
	config   map[string]any
	mode     string
}

type schema struct {
	Subject    string          `json:"subject,omitempty"`
	Version    int             `json:"version,omitempty"`
	ID         int             `json:"id,omitempty"`
	Type       string          `json:"schemaType,omitempty"`
	Schema     string          `json:"schema"`
	References []reference     `json:"references,omitempty"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
	Rules      json.RawMessage `json:"ruleSet,omitempty"`

	deleted bool
}

type reference struct {
	Name    string `json:"name"`
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

func (s *schema) content() string {
	b, _ := json.Marshal(schema{Type: s.Type, Schema: s.Schema, References: s.References, Metadata: s.Metadata, Rules: s.Rules})
	return string(b)
}

// Serve serves the registry and returns its URL. close ends it.
func (r *Registry) Serve() (url string, close func()) {
	r.subjects = map[string]*subject{"": {config: map[string]any{"compatibilityLevel": "BACKWARD"}, mode: "READWRITE"}}
	r.ids, r.requests = make(map[string]map[int]string), make(map[string]int)
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(*http.Request) (any, error){
		"GET /contexts":                                r.contexts,
		"GET /subjects":                                r.list,
		"GET /schemas":                                 r.schemas,
		"GET /subjects/{subject}/versions":             r.versions,
		"GET /subjects/{subject}/versions/{version}":   r.version,
		"POST /subjects/{subject}/versions":            r.register,
		"POST /subjects/{subject}":                     r.lookUp,
		"DELETE /subjects/{subject}/versions/{number}": r.delete,
		"GET /config":                                  r.config, "PUT /config": r.config,
		"GET /config/{subject}": r.config, "PUT /config/{subject}": r.config, "DELETE /config/{subject}": r.config,
		"GET /mode": r.modes, "PUT /mode": r.modes,
		"GET /mode/{subject}": r.modes, "PUT /mode/{subject}": r.modes, "DELETE /mode/{subject}": r.modes,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.requests[req.Method]++
			answer, err := h(req)
			if no, is := err.(refusal); is {
				w.WriteHeader(no.status)
				answer = map[string]any{"error_code": no.code, "message": no.message}
			}
			json.NewEncoder(w).Encode(answer)
		})
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.Before == nil || !r.Before(w, req) {
			mux.ServeHTTP(w, req)
		}
	}))
	return s.URL, s.Close
}

// Modes returns the modes of subjects that have one of their own, and that of the registry.
func (r *Registry) Modes() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]string)
	for name, s := range r.subjects {
		if s.mode != "" {
			out[name] = s.mode
		}
	}
	return out
}

// Requests returns how many requests there were with a method.
func (r *Registry) Requests(method string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests[method]
}

// Forget deletes a version for good.
func (r *Registry) Forget(name string, version int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.subjects[name].versions, version)
}

type refusal struct {
	status, code int
	message      string
}

func (e refusal) Error() string { return e.message }

func no(code int, format string, args ...any) error {
	status := code
	for status > 999 {
		status /= 100
	}
	return refusal{status, code, fmt.Sprintf(format, args...)}
}

func contextOf(name string) string {
	if rest, in := strings.CutPrefix(name, ":."); in {
		if c, _, ended := strings.Cut(rest, ":"); ended {
			return "." + c
		}
	}
	return "."
}

func (r *Registry) get(name string) *subject {
	if r.subjects[name] == nil {
		r.subjects[name] = &subject{versions: make(map[int]*schema)}
	}
	return r.subjects[name]
}

func (s *subject) live() bool {
	for _, v := range s.versions {
		if !v.deleted {
			return true
		}
	}
	return false
}

func (r *Registry) names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(r.subjects)), func(n string) bool { return len(r.subjects[n].versions) == 0 })
}

func (r *Registry) contexts(*http.Request) (any, error) {
	out := []string{"."}
	for _, n := range r.names() {
		if c := contextOf(n); !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}

func page[T any](r *Registry, all []T, req *http.Request) []T {
	offset, _ := strconv.Atoi(req.FormValue("offset"))
	limit, err := strconv.Atoi(req.FormValue("limit"))
	if err != nil {
		limit = len(all)
	}
	if r.Page > 0 {
		limit = min(limit, r.Page)
	}
	all = all[min(offset, len(all)):]
	return all[:min(limit, len(all))]
}

func (r *Registry) list(req *http.Request) (any, error) {
	out := []string{}
	for _, n := range r.names() {
		if strings.HasPrefix(n, req.FormValue("subjectPrefix")) && (req.FormValue("deleted") == "true" || r.subjects[n].live()) {
			out = append(out, n)
		}
	}
	if r.NoModes {
		if r.Subjects > 0 {
			out = out[:min(r.Subjects, len(out))]
		}
		return out, nil
	}
	return page(r, out, req), nil
}

func (r *Registry) schemas(req *http.Request) (any, error) {
	if r.NoList {
		return nil, no(404, "HTTP 404 Not Found")
	}
	out := []*schema{}
	for _, n := range r.names() {
		for _, v := range slices.Sorted(maps.Keys(r.subjects[n].versions)) {
			if s := r.subjects[n].versions[v]; !s.deleted || req.FormValue("deleted") == "true" {
				out = append(out, s)
			}
		}
	}
	return page(r, out, req), nil
}

func (r *Registry) versions(req *http.Request) (any, error) {
	out := []int{}
	if s := r.subjects[req.PathValue("subject")]; s != nil {
		for _, v := range slices.Sorted(maps.Keys(s.versions)) {
			if !s.versions[v].deleted || req.FormValue("deleted") == "true" {
				out = append(out, v)
			}
		}
	}
	if len(out) == 0 {
		return nil, no(40401, "Subject '%s' not found.", req.PathValue("subject"))
	}
	return out, nil
}

func (r *Registry) version(req *http.Request) (any, error) {
	s := r.subjects[req.PathValue("subject")]
	if s == nil {
		return nil, no(40401, "Subject not found.")
	}
	n, _ := strconv.Atoi(req.PathValue("version"))
	if v := s.versions[n]; v != nil && (!v.deleted || req.FormValue("deleted") == "true") {
		return v, nil
	}
	return nil, no(40402, "Version %d not found.", n)
}

func (r *Registry) modeOf(name string) string {
	if s := r.subjects[name]; s != nil && s.mode != "" {
		return s.mode
	}
	c := contextOf(name)
	if c == "." {
		return r.subjects[""].mode
	}
	if s := r.subjects[":"+c+":"]; s != nil && s.mode != "" {
		return s.mode
	}
	return "READWRITE"
}

func (r *Registry) register(req *http.Request) (any, error) {
	name := req.PathValue("subject")
	in := new(schema)
	if err := json.NewDecoder(req.Body).Decode(in); err != nil || in.Schema == "" {
		return nil, no(42201, "Empty schema")
	}
	for _, ref := range in.References {
		if s := r.subjects[ref.Subject]; s == nil || s.versions[ref.Version] == nil || s.versions[ref.Version].deleted {
			return nil, no(42201, "Invalid schema: no schema reference found for subject %q and version %d", ref.Subject, ref.Version)
		}
	}
	if r.NoModes { // as Apicurio does
		in.ID, in.Version, in.Metadata, in.Rules = 0, 0, nil, nil
	}
	if r.NoImport && in.ID+in.Version != 0 {
		return nil, no(42201, "ids are given by the registry")
	}
	mode := r.modeOf(name)
	switch {
	case mode == "READONLY":
		return nil, no(42205, "Subject %s is in read-only mode", name)
	case in.ID > 0 && mode != "IMPORT":
		return nil, no(42205, "Subject %s is not in import mode", name)
	case in.ID == 0 && mode != "READWRITE":
		return nil, no(42205, "Subject %s is not in read-write mode", name)
	}
	s := r.get(name)
	content := in.content()
	if in.ID == 0 {
		for _, v := range s.versions {
			if !v.deleted && v.content() == content {
				return map[string]int{"id": v.ID}, nil
			}
		}
		if r.level(name) != "NONE" && strings.Contains(in.Schema, Incompatible) {
			return nil, no(409, "Schema being registered is incompatible with an earlier schema")
		}
	}
	ids := r.ids[contextOf(name)]
	if ids == nil {
		ids = make(map[int]string)
		r.ids[contextOf(name)] = ids
	}
	if in.ID == 0 {
		in.ID = idFor(ids, content)
	} else if was, taken := ids[in.ID]; taken && was != content {
		return nil, no(42205, "Overwrite new schema with id %d is not permitted.", in.ID)
	}
	ids[in.ID] = content
	if in.Version == 0 {
		in.Version = s.highest + 1
	}
	s.highest = max(s.highest, in.Version)
	in.Subject = name
	s.versions[in.Version] = in
	return map[string]int{"id": in.ID}, nil
}

// idFor returns the id that a content has, or else the next one.
func idFor(ids map[int]string, content string) int {
	next := 1
	for id, c := range ids {
		if c == content {
			return id
		}
		next = max(next, id+1)
	}
	return next
}

func (r *Registry) lookUp(req *http.Request) (any, error) {
	in := new(schema)
	if err := json.NewDecoder(req.Body).Decode(in); err != nil {
		return nil, no(42201, "Invalid schema")
	}
	if r.NoModes {
		in.Metadata, in.Rules = nil, nil
	}
	s := r.subjects[req.PathValue("subject")]
	if s == nil {
		return nil, no(40401, "Subject not found.")
	}
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(s.versions))) {
		if v := s.versions[n]; !v.deleted && v.content() == in.content() {
			return v, nil
		}
	}
	return nil, no(40403, "Schema not found")
}

func (r *Registry) delete(req *http.Request) (any, error) {
	name := req.PathValue("subject")
	n, _ := strconv.Atoi(req.PathValue("number"))
	if r.modeOf(name) == "READONLY" {
		return nil, no(42205, "Subject %s is in read-only mode", name)
	}
	s := r.subjects[name]
	if s == nil || s.versions[n] == nil || s.versions[n].deleted {
		return nil, no(40402, "Version %d not found.", n)
	}
	for _, other := range r.subjects {
		for _, v := range other.versions {
			if !v.deleted && slices.ContainsFunc(v.References, func(ref reference) bool { return ref.Subject == name && ref.Version == n }) {
				return nil, no(42206, "One or more references exist to the schema")
			}
		}
	}
	s.versions[n].deleted = true
	return n, nil
}

func (r *Registry) level(name string) string {
	for _, n := range []string{name, ""} {
		if s := r.subjects[n]; s != nil && s.config["compatibilityLevel"] != nil {
			return s.config["compatibilityLevel"].(string)
		}
	}
	return ""
}

func (r *Registry) config(req *http.Request) (any, error) {
	name := req.PathValue("subject")
	switch req.Method {
	case http.MethodPut:
		in := make(map[string]any)
		if err := json.NewDecoder(req.Body).Decode(&in); err != nil {
			return nil, no(42203, "Invalid compatibility level")
		}
		set := maps.Clone(in)
		if in["compatibility"] != nil {
			set["compatibilityLevel"] = in["compatibility"]
			delete(set, "compatibility")
		}
		if r.NoModes && name != "" && in["compatibility"] == "NONE" && len(in) == 1 {
			set = nil // as Apicurio does: the defaults are in force
		}
		r.get(name).config = set
		return in, nil
	case http.MethodDelete:
		r.get(name).config = nil
		return map[string]any{}, nil
	}
	s := r.subjects[name]
	if s == nil || s.config == nil {
		if r.NoModes {
			return r.subjects[""].config, nil // as Apicurio answers
		}
		return nil, no(40408, "Subject '%s' does not have subject-level compatibility configured", name)
	}
	return s.config, nil
}

func (r *Registry) modes(req *http.Request) (any, error) {
	name := req.PathValue("subject")
	if r.NoModes {
		return nil, no(404, "HTTP 404 Not Found")
	}
	switch req.Method {
	case http.MethodPut:
		if r.NoImport {
			return nil, no(405, "HTTP 405 Method Not Allowed")
		}
		in := make(map[string]string)
		if err := json.NewDecoder(req.Body).Decode(&in); err != nil {
			return nil, no(42204, "Invalid mode")
		}
		if in["mode"] == "IMPORT" && r.modeOf(name) != "IMPORT" && req.FormValue("force") != "true" {
			for _, n := range r.names() {
				if name == "" || n == name {
					return nil, no(42205, "Cannot import since found existing subjects")
				}
			}
		}
		r.get(name).mode = in["mode"]
		return in, nil
	case http.MethodDelete:
		if r.subjects[name] == nil || r.subjects[name].mode == "" {
			return nil, no(40409, "Subject '%s' does not have subject-level mode configured", name)
		}
		was := r.subjects[name].mode
		r.subjects[name].mode = cmp.Or(map[string]string{"": "READWRITE"}[name], "")
		return map[string]string{"mode": was}, nil
	}
	if s := r.subjects[name]; s != nil && s.mode != "" {
		return map[string]string{"mode": s.mode}, nil
	}
	return nil, no(40409, "Subject '%s' does not have subject-level mode configured", name)
}
