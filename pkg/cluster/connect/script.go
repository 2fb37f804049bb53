package connect

import (
	"fmt"
	"io"
	"net/http"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

// Script writes changes as commands of curl, for sh. The URL of a worker is in $CONNECT, more arguments of
// curl are in $CURL_OPTS.
func Script(w io.Writer, changes []change.Change) error {
	s := &rest.Script{W: w, URL: "CONNECT"}
	for _, ch := range changes {
		if ch.Lacks != "" {
			continue
		}
		before, _ := ch.Before.(*format.Connector)
		after, _ := ch.After.(*format.Connector)
		s.Comment(string(ch.Action) + " " + ch.Name)
		switch {
		case after == nil:
			s.Curl(http.MethodDelete, rest.Path("connectors", before.Name), nil, nil)
		case before == nil:
			scriptCreate(s, after)
		default:
			scriptAlter(s, before, after)
		}
	}
	return s.Err
}

func scriptCreate(s *rest.Script, f *format.Connector) {
	s.Curl(http.MethodPost, "/connectors", nil, creation{f.Name, f.Config, stopped})
	to, err := parseOffsets(f.Offsets)
	switch {
	case err == nil && ofSink(to):
		s.Comment("carry the offsets of its group over before it begins: kbk-offsets apply")
	case err == nil && len(to) > 0:
		s.Curl(http.MethodPatch, rest.Path("connectors", f.Name, "offsets"), nil, patch(to, nil))
	}
	if f.State != stopped && verbOf(f.State) != "" {
		s.Curl(http.MethodPut, rest.Path("connectors", f.Name, verbOf(f.State)), nil, nil)
	}
}

func scriptAlter(s *rest.Script, before, after *format.Connector) {
	path := rest.Path("connectors", after.Name)
	state := before.State
	to, err := parseOffsets(after.Offsets)
	is, err2 := parseOffsets(before.Offsets)
	if after.Offsets != before.Offsets && err == nil && err2 == nil && !ofSink(to) && !ofSink(is) {
		s.Curl(http.MethodPut, path+"/stop", nil, nil)
		s.Line(fmt.Sprintf(`until curl -fsS $CURL_OPTS "$CONNECT"%s | grep -q '"state":"STOPPED".*"tasks":\[\]'; do sleep 1; done`, rest.Quote(path+"/status")))
		if state = stopped; len(to) == 0 {
			s.Curl(http.MethodDelete, path+"/offsets", nil, nil)
		} else {
			s.Curl(http.MethodPatch, path+"/offsets", nil, patch(to, is))
		}
	}
	if configText(before.Config) != configText(after.Config) {
		s.Curl(http.MethodPut, path+"/config", nil, after.Config)
	}
	if verb := verbOf(after.State); after.State != state && verb != "" {
		s.Curl(http.MethodPut, path+"/"+verb, nil, nil)
	}
}
