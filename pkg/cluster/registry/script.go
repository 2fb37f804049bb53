package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

// Script writes changes as commands of curl, for sh with `set -u`. The URL of the registry is in $REGISTRY, more
// arguments of curl are in $CURL_OPTS. What fails sets $failed to 1; a schema that gets another id than in
// the snapshot sets it to 4.
func Script(w io.Writer, want, have Content, changes []change.Change) error {
	st, m := arrange(want, have, changes), match(want, have)
	s := &script{
		Script: rest.Script{W: w, URL: "REGISTRY"}, steps: st, have: make(map[string]*format.Subject), modes: have.hasModes(),
		kept: st.numbers(m, have, st.keep), own: st.numbers(m, have, nil),
	}
	for _, h := range have.Subjects {
		s.have[h.Name] = h
	}
	s.schemas()
	for _, c := range st.subjects {
		s.settings(c)
	}
	return s.Err
}

// numbers are the versions that the registry has or will have, by version in the snapshot. It gives versions
// to the schemas of subjects that are not in keep: the next one each, and no new one to a schema that is
// there.
func (st *steps) numbers(m matching, have Content, keep map[string]bool) map[version]int {
	alike := whole
	if !have.hasModes() {
		alike = bare
	}
	type in struct {
		subject string
		content content
	}
	out, highest, live := make(map[version]int), make(map[string]int), make(map[in]int)
	for v, h := range m.here {
		out[v] = h.Version
	}
	for _, h := range have.Schemas {
		highest[h.Subject] = max(highest[h.Subject], h.Version)
		if !h.Deleted {
			live[in{h.Subject, alike(contentOf(h))}] = h.Version
		}
	}
	for _, c := range st.first {
		delete(live, in{schemaOf(c).Subject, alike(contentOf(m.here[versionOf(schemaOf(c))]))})
	}
	for _, c := range slices.Concat(st.register...) {
		s := schemaOf(c)
		k := in{s.Subject, alike(contentOf(numbered(s, out)))}
		n, is := live[k]
		if keep[s.Subject] {
			n = s.Version
		} else if !is {
			n = highest[s.Subject] + 1
		}
		out[versionOf(s)], highest[s.Subject] = n, max(highest[s.Subject], n)
		if !s.Deleted || st.referred[versionOf(s)] { // those are deleted last
			live[k] = n
		}
	}
	return out
}

// numbered is s with references to the versions of the registry.
func numbered(s *format.Schema, numbers map[version]int) *format.Schema {
	here := make(map[version]*format.Schema, len(s.References))
	for _, r := range s.References {
		if n, known := numbers[version{r.Subject, r.Version}]; known {
			here[version{r.Subject, r.Version}] = &format.Schema{Subject: r.Subject, Version: n}
		}
	}
	return (&matching{here: here}).referring(s)
}

type script struct {
	rest.Script
	steps
	have      map[string]*format.Subject
	modes     bool
	kept, own map[version]int // the versions in a registry that keeps them, and in one that has no mode IMPORT
}

// functions are those of the script. $keep is empty if the registry has no mode IMPORT; $sure is empty once a
// version is another one than expected, after which nothing may refer to a version or delete one.
const functions = `keep=yes sure=yes
send() { command curl -fsS $CURL_OPTS -X "$1" "$REGISTRY$2" -H 'Content-Type: application/json' --data-raw "$3" | tr -d '[:space:]'; }
# import_mode PATH NAME: sets mode IMPORT, so that ids are kept.
import_mode() {
	[ "$keep" ] || return 0
	answer=$(command curl -sS $CURL_OPTS -w ' %{http_code}' -X PUT "$REGISTRY$1?force=true" -H 'Content-Type: application/json' --data-raw '{"mode":"IMPORT"}')
	case $answer in
	*' 2'??) ;;
	*' 404' | *' 405' | *' 501' | *'"error_code":42204'*)
		keep=
		echo "the registry has no mode IMPORT: it gives schemas ids and versions of its own" >&2 ;;
	*)
		failed=1
		echo "setting mode IMPORT for the $2: $answer" >&2 ;;
	esac
}
# register PATH ID KEPT REST [VERSION]: registers a schema, with the id and the version KEPT if the registry
# keeps them, and says so if it has got another id. VERSION is the one that it must get else.
register() {
	if [ -z "$sure" ]; then failed=1; echo "$1: schema $2 is not registered, because a version is another one" >&2; return; fi
	answer=$(send POST "$1" "{${keep:+$3}$4")
	case $answer in
	'') failed=1; echo "$1: schema $2 is not registered. If it is not compatible, set the compatibility to NONE meanwhile" >&2; return ;;
	*'"id":'"$2"[,}]*) ;;
	*)
		[ "$failed" -ne 0 ] || failed=4
		echo "$1: schema $2 has another id here, so records need kbk-filter --schema-id-map: $answer" >&2 ;;
	esac
	[ "${5:-}" ] && [ -z "${keep:+$3}" ] || return 0
	case $(send POST "${1%/versions}" "{$4") in
	*'"version":'"$5"[,}]*) ;;
	*) sure= failed=1; echo "$1: schema $2 is not version $5 of the registry, so nothing more is registered or deleted: use kbk-cluster apply" >&2 ;;
	esac
}
# remove PATH: deletes a version.
remove() {
	if [ -z "$sure" ]; then failed=1; echo "$1 is not deleted, because a version is another one" >&2; return; fi
	command curl -fsS $CURL_OPTS -X DELETE "$REGISTRY$1" >/dev/null || failed=1
}`

// schemas registers and deletes schemas.
func (s *script) schemas() {
	if len(s.imports)+len(s.first)+len(s.register)+len(s.remove) == 0 {
		return
	}
	s.Line(functions)
	for _, name := range s.imports {
		s.Line("import_mode " + rest.Quote(modePath(name)) + " " + rest.Quote(subjectName(&format.Subject{Name: name})))
	}
	for _, c := range s.first {
		s.removal(c)
	}
	for _, c := range slices.Concat(s.register...) {
		s.registration(c)
		if v := schemaOf(c); v.Deleted && !s.referred[versionOf(v)] {
			s.removal(c)
		}
	}
	for _, c := range s.remove {
		s.removal(c)
	}
	for _, name := range s.imports {
		s.Comment("the mode as it was")
		s.Line(`if [ "$keep" ]; then`)
		s.mode(name, modeOf(s.have[name]))
		s.Line("fi")
	}
}

// either writes a command for registries that keep ids and versions, and for those that have no mode IMPORT.
func (s *script) either(command func(numbers map[version]int) string) {
	own := command(s.own)
	if len(s.imports) == 0 {
		s.Line(own)
		return
	}
	if kept := command(s.kept); kept == own {
		s.Line(own)
	} else {
		s.Line("if [ \"$keep\" ]; then\n\t" + kept + "\nelse\n\t" + own + "\nfi")
	}
}

func (s *script) registration(c change.Change) {
	v := schemaOf(c)
	s.Comment(string(c.Action) + " " + c.Name)
	s.either(func(numbers map[version]int) string {
		b, err := json.Marshal(body(numbered(v, numbers), false))
		if err != nil && s.Err == nil {
			s.Err = err
		}
		kept, number := "", ""
		if s.keep[v.Subject] {
			kept = fmt.Sprintf(`"id":%d,"version":%d,`, v.ID, v.Version)
		}
		if s.hides[v.Subject] || s.referred[versionOf(v)] {
			n := s.own[versionOf(v)]
			if !s.keep[v.Subject] {
				n = numbers[versionOf(v)]
			}
			number = " " + strconv.Itoa(n)
		}
		return fmt.Sprintf("register %s %d %s %s%s", rest.Quote(rest.Path("subjects", v.Subject, "versions")), v.ID, rest.Quote(kept), rest.Quote(strings.TrimPrefix(string(b), "{")), number)
	})
}

func (s *script) removal(c change.Change) {
	v := schemaOf(c)
	s.Comment("- " + c.Name)
	s.either(func(numbers map[version]int) string {
		n := v.Version
		if c.After != nil { // by its number in the snapshot
			n = numbers[versionOf(v)]
			if other := s.keeping(v, n, numbers); other != nil {
				return "failed=1; echo " + rest.Quote(fmt.Sprintf("%s is not deleted: the registry has it as the same version as %s", versionOf(v), versionOf(other))) + " >&2"
			}
		}
		return "remove " + rest.Quote(rest.Path("subjects", v.Subject, "versions", strconv.Itoa(n)))
	})
}

func modeOf(s *format.Subject) string {
	if s == nil {
		return ""
	}
	return s.Mode
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
			if !s.modes && to.Compatibility != "" { // Apicurio takes NONE of a subject for no level
				path, level := rest.Quote(configPath(to.Name)+"?"+notDefaults.Encode()), `"compatibilityLevel":"`+to.Compatibility+`"`
				s.Line(`case $(command curl -fsS $CURL_OPTS "$REGISTRY"` + path + ` | tr -d '[:space:]') in *` + rest.Quote(level) + `*) ;; *) failed=1; echo ` +
					rest.Quote("the registry does not keep "+to.Compatibility+" for "+subjectName(to)) + ` >&2 ;; esac`)
			}
		} else if to.Name != "" {
			s.Curl(http.MethodDelete, configPath(to.Name), nil, nil)
		}
	}
	if s.modes && to.Mode != from.Mode && (to.Name != "" || to.Mode != "") {
		s.mode(to.Name, to.Mode)
	}
}
