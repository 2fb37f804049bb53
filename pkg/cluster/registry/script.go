package registry

import (
	"io"
	"net/http"
	"strconv"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

// Script writes changes as commands of curl, for sh. The URL of the registry is in $REGISTRY, more
// arguments of curl are in $CURL_OPTS.
func Script(w io.Writer, want, have Content, changes []change.Change) error {
	st := arrange(want, have, changes)
	s := &script{Script: rest.Script{W: w, URL: "REGISTRY"}, have: make(map[string]*format.Subject), modes: have.hasModes()}
	for _, h := range have.Subjects {
		s.have[h.Name] = h
	}
	for _, name := range st.imports {
		s.Comment("keep ids")
		s.Curl(http.MethodPut, modePath(name), force, modeBody{modeImport})
	}
	for _, c := range st.first {
		s.delete(c)
	}
	m := match(want, have)
	for _, level := range st.register {
		for _, c := range level {
			v := schemaOf(c)
			s.Comment(string(c.Action) + " " + c.Name)
			s.Curl(http.MethodPost, rest.Path("subjects", v.Subject, "versions"), nil, body(m.referring(v), st.keep[v.Subject]))
			if v.Deleted && !st.referred[versionOf(v)] {
				s.delete(c)
			}
		}
	}
	for _, c := range st.remove {
		s.delete(c)
	}
	for _, name := range st.imports {
		s.Comment("the mode as it was")
		s.mode(name, modeOf(s.have[name]))
	}
	for _, c := range st.subjects {
		s.settings(c)
	}
	return s.Err
}

type script struct {
	rest.Script
	have  map[string]*format.Subject
	modes bool
}

func modeOf(s *format.Subject) string {
	if s == nil {
		return ""
	}
	return s.Mode
}

func (s *script) delete(c change.Change) {
	v := schemaOf(c)
	s.Comment("- " + c.Name)
	s.Curl(http.MethodDelete, rest.Path("subjects", v.Subject, "versions", strconv.Itoa(v.Version)), nil, nil)
}

func (s *script) mode(name, mode string) {
	if mode == "" {
		s.Curl(http.MethodDelete, modePath(name), nil, nil)
		return
	}
	s.Curl(http.MethodPut, modePath(name), force, modeBody{mode})
}

func (s *script) settings(c change.Change) {
	to, from := frames(c)
	s.Comment(string(c.Action) + " " + c.Name)
	if to.Compatibility != from.Compatibility || canonical(to.Config) != canonical(from.Config) {
		if conf := configOf(to.Config, to.Compatibility); len(conf) > 0 {
			s.Curl(http.MethodPut, configPath(to.Name), nil, conf)
		} else if to.Name != "" {
			s.Curl(http.MethodDelete, configPath(to.Name), nil, nil)
		}
	}
	if s.modes && to.Mode != from.Mode && (to.Name != "" || to.Mode != "") {
		s.mode(to.Name, to.Mode)
	}
}
