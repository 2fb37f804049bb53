package rest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// A Script is written as commands of curl, for sh. Err is the first error of writing it.
type Script struct {
	W   io.Writer
	URL string // the variable that has the server's URL
	Err error
}

func (s *Script) print(text string) {
	if s.Err == nil {
		_, s.Err = io.WriteString(s.W, text)
	}
}

// Comment writes a comment of one line.
func (s *Script) Comment(text string) {
	s.print("# " + strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text) + "\n")
}

// Line writes a command as it is.
func (s *Script) Line(text string) { s.print(text + "\n") }

// Curl writes one request. It fails, and with it a script with set -e, as the request does.
func (s *Script) Curl(method, path string, query url.Values, body any) {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	text := fmt.Sprintf(`curl -fsS $CURL_OPTS -X %s "$%s"%s`, method, s.URL, Quote(path))
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil && s.Err == nil {
			s.Err = err
		}
		text += " -H 'Content-Type: application/json' --data-raw " + Quote(string(b))
	}
	s.print(text + " > /dev/null\n")
}

// Quote makes one word of text, for sh.
func Quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
