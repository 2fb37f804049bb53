package rest

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// server runs fromFlags over a command line.
func server(t *testing.T, args ...string) (s *Server, err error) {
	t.Helper()
	app := &cli.App{
		Name: "test", Flags: Flags("connect", "Kafka Connect"),
		Action: func(c *cli.Context) error { s, err = FromFlags(c, "connect", "Kafka Connect"); return nil },
	}
	if err := app.Run(append([]string{"test"}, args...)); err != nil {
		t.Fatal(err)
	}
	return s, err
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want Server
	}{
		{[]string{"--connect", "host:8083"}, Server{URL: "http://host:8083"}},
		{[]string{"--connect", "https://u:p%40@host/path/"}, Server{URL: "https://host/path", User: "u", Password: "p@"}},
		{[]string{"--connect", "http://host", "--connect-auth", file(t, "u:p:q\n")}, Server{URL: "http://host", User: "u", Password: "p:q"}},
		{[]string{"--connect", "http://host", "--connect-auth", file(t, "bearer t.o.k\n")}, Server{URL: "http://host", Token: "t.o.k"}},
	} {
		got, err := server(t, c.args...)
		c.want.Title = "Kafka Connect"
		if err != nil || *got != c.want {
			t.Errorf("%q: %+v, %v", c.args, got, err)
		}
	}
	if s, err := server(t); s != nil || err != nil {
		t.Errorf("without a URL: %v, %v", s, err)
	}
	for _, args := range [][]string{
		{"--connect", "ftp://secret@host"},
		{"--connect", "http://u:secret@host:port"},
		{"--connect", "http://host?secret=1"},
		{"--connect", "http://"},
		{"--connect-ca", "f"},
		{"--connect", "http://u:secret@host", "--connect-auth", file(t, "u:secret")},
		{"--connect", "http://host", "--connect-auth", file(t, "secret")},
		{"--connect", "http://host", "--connect-auth", file(t, "a:secret\nb:secret")},
		{"--connect", "http://host", "--connect-auth", "/nowhere"},
		{"--connect", "http://host", "--connect-ca", file(t, "secret")},
		{"--connect", "http://host", "--connect-cert", file(t, "secret")},
	} {
		if s, err := server(t, args...); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %+v, %v", args, s, err)
		}
	}
}

func TestPath(t *testing.T) {
	if got := Path("subjects", ":.c:a/b c", "..", "a.b"); got != "/subjects/:.c:a%2Fb%20c/%2E%2E/a.b" {
		t.Error(got)
	}
}

// answers serves each answer once, the last one for good.
func answers(t *testing.T, all ...func(http.ResponseWriter, *http.Request)) (*Client, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all[min(int(n.Add(1)), len(all))-1](w, r)
	}))
	t.Cleanup(s.Close)
	c := New(&Server{Title: "the server", URL: s.URL, User: "u", Password: "secret"}, func(e *Error) bool { return e.Status == http.StatusConflict })
	c.wait = time.Millisecond
	return c, &n
}

func no(status int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); w.Write([]byte(body)) }
}

func yes(w http.ResponseWriter, r *http.Request) {
	if user, password, _ := r.BasicAuth(); user != "u" || password != "secret" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Write([]byte(`[1,2]`))
}

func broken(w http.ResponseWriter, _ *http.Request) {
	conn, _, _ := w.(http.Hijacker).Hijack()
	conn.Close()
}

func TestTries(t *testing.T) {
	c, n := answers(t, no(503, ""), broken, no(409, `{"message":"rebalance"}`), no(429, ""), yes)
	var got []int
	if err := c.Get(t.Context(), "/x", nil, &got); err != nil || len(got) != 2 || n.Load() != 5 {
		t.Errorf("%v, %v, %d requests", got, err, n.Load())
	}
	c, n = answers(t, no(409, `{"error_code":40901,"message":"still a\nrebalance"}`))
	err := c.Do(t.Context(), "PUT", "/x", nil, 1, nil)
	if want := "PUT /x: status 409, error 40901: still a rebalance"; err == nil || err.Error() != want || n.Load() != tries {
		t.Errorf("%v, %d requests", err, n.Load())
	}
	c, n = answers(t, no(404, `<html>secret page</html>`))
	err = c.Get(t.Context(), "/x", nil, nil)
	if Status(err) != 404 || n.Load() != 1 || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v, %d requests", err, n.Load())
	}
	c, _ = answers(t, no(200, `{`))
	if err := c.Get(t.Context(), "/x", nil, &got); err == nil || Status(err) != 0 {
		t.Error(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	c, n = answers(t, func(w http.ResponseWriter, _ *http.Request) { cancel(); w.WriteHeader(503) })
	if err := c.Get(ctx, "/x", nil, nil); !errors.Is(err, context.Canceled) || n.Load() > 1 {
		t.Errorf("%v, %d requests", err, n.Load())
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(yes))
	defer s.Close()
	ca := file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	url := strings.Replace(s.URL, "://", "://u:secret@", 1)
	for _, c := range []struct {
		args []string
		ok   bool
	}{{[]string{"--connect", url}, false}, {[]string{"--connect", url, "--connect-ca", ca}, true}} {
		srv, err := server(t, c.args...)
		if err != nil {
			t.Fatal(err)
		}
		client := New(srv, nil)
		client.wait = time.Millisecond
		err = client.Get(t.Context(), "/", nil, nil)
		if (err == nil) != c.ok || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}
