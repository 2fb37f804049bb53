package heartbeat

import (
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/command/commandtest"
)

func start(t *testing.T, to string) (*Heartbeat, *command.Env, *commandtest.Messages, error) {
	t.Helper()
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.String("heartbeat", to, "")
	said := new(commandtest.Messages)
	env := &command.Env{Name: "kbk-test", Log: slog.New(slog.NewTextHandler(said, nil))}
	h, err := Start(t.Context(), cli.NewContext(nil, flags, nil), env)
	return h, env, said, err
}

func TestFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "beat")
	h, env, said, err := start(t, file)
	if err != nil {
		t.Fatal(err)
	}
	env.Counters.Committed.Add(7)
	for range 1000 { // the work does not wait
		env.Counters.Commit()
	}
	h.Close()
	var got note
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil || got.Commits != 1000 || got.Records != 7 || got.Command != "kbk-test" || time.Since(got.Time) > time.Minute {
		t.Errorf("%s: %v", text, err)
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) != 1 || said.String() != "" {
		t.Errorf("%v, %v, said %q", left, err, said)
	}
}

// TestNone has no commit, and so no heartbeat.
func TestNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "beat")
	h, _, _, err := start(t, file)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
	h, _, _, err = start(t, "")
	if h != nil || err != nil {
		t.Errorf("%v, %v", h, err)
	}
	h.Beat()
	h.Close()
}

func TestURL(t *testing.T) {
	var requests, status atomic.Int64
	status.Store(500)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1); r.Method != http.MethodGet || r.URL.Path != "/ping/secret" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.WriteHeader(int(status.Load()))
	}))
	defer server.Close()
	h, env, said, err := start(t, server.URL+"/ping/secret")
	if err != nil {
		t.Fatal(err)
	}
	h.every = 0
	beat := func(n int64) {
		t.Helper()
		env.Counters.Commit()
		for began := time.Now(); requests.Load() < n || len(h.due) > 0; time.Sleep(time.Millisecond) {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("%d requests", requests.Load())
			}
		}
	}
	beat(1)
	beat(2)
	status.Store(204)
	beat(3)
	h.Close()
	if text := said.String(); strings.Count(text, "500 Internal Server Error") != 1 || strings.Count(text, "works again") != 1 || strings.Contains(text, "secret") {
		t.Errorf("said %s", text)
	}
	if n := env.Counters.Errors.All()["heartbeat"]; n != 2 {
		t.Errorf("%d errors", n)
	}
}

// TestHangs has a monitor that does not answer. The run that is told to stop at once does
// not wait for it.
func TestHangs(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(gone)
	}))
	defer server.Close()
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.String("heartbeat", server.URL, "")
	ctx, cancel := context.WithCancel(t.Context())
	env := &command.Env{Log: slog.New(slog.DiscardHandler)}
	h, err := Start(ctx, cli.NewContext(nil, flags, nil), env)
	if err != nil {
		t.Fatal(err)
	}
	env.Counters.Commit()
	<-asked
	began := time.Now()
	for range 100 {
		env.Counters.Commit()
	}
	cancel()
	h.Close()
	<-gone
	if took := time.Since(began); took > limit/2 {
		t.Errorf("took %s", took)
	}
}

func TestRefused(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	h, env, said, err := start(t, server.URL+"/secret")
	if err != nil {
		t.Fatal(err)
	}
	env.Counters.Commit()
	h.Close()
	if text := said.String(); !strings.Contains(text, "connection refused") || strings.Contains(text, "secret") {
		t.Errorf("said %s", text)
	}
	for _, to := range []string{"ftp://host/x", "http://", filepath.Join(t.TempDir(), "no", "folder")} {
		if _, _, _, err := start(t, to); command.StatusOf(err) != command.Usage {
			t.Errorf("%s: %v", to, err)
		}
	}
}
