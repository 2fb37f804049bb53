package cluster

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/registry/registrytest"
	"github.com/kbkio/kbk/pkg/cluster/rest"
	"github.com/kbkio/kbk/pkg/command"
)

// TestApplyStoppedAmidSchemas has Ctrl-C come while schemas are registered: those that were not begun are
// left, and the mode of the registry is put back.
func TestApplyStoppedAmidSchemas(t *testing.T) {
	t.Chdir(t.TempDir())
	const schemas = 200
	stop := make(chan struct{})
	var posts atomic.Int64
	url, end := (&registrytest.Registry{Before: func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && posts.Add(1) == 20 {
			close(stop)
		}
		return false
	}}).Serve()
	defer end()
	frames := []format.Encoder{
		&format.Cluster{ID: "1", Time: 1, ClusterInfo: format.ClusterInfo{Kinds: []string{format.ClusterSchemas}}},
		&format.Subject{SubjectInfo: format.SubjectInfo{Compatibility: "BACKWARD", Mode: "READWRITE"}},
	}
	for i := range schemas {
		name := fmt.Sprint("s", i)
		frames = append(frames, &format.Subject{Name: name}, &format.Schema{Subject: name, Version: 1, SchemaInfo: format.SchemaInfo{ID: 100 + i, Schema: fmt.Sprintf(`{"type":"enum","name":"E%d","symbols":["A"]}`, i)}})
	}
	_, where := fake(t)
	where.Registry = &rest.Server{URL: url}
	cfg := ApplyConfig{PlanConfig: PlanConfig{Where: where, Kinds: []string{format.ClusterSchemas}, MaxFrame: 1 << 20}, Save: "saved", Password: new(Passwords)}
	var out bytes.Buffer
	err := Apply(t.Context(), cfg, &command.Env{Log: slog.New(slog.DiscardHandler), Stop: stop}, stream(t, format.ContentRecords, frames...), &out)
	if command.StatusOf(err) != command.Interrupted {
		t.Errorf("%v", err)
	}
	if n := posts.Load(); n < 20 || n > schemas/2 {
		t.Errorf("%d of %d schemas were registered", n, schemas)
	}
	answer, err := http.Get(url + "/mode")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if mode, err := io.ReadAll(answer.Body); err != nil || !strings.Contains(string(mode), "READWRITE") {
		t.Errorf("the mode is left as %s, %v", mode, err)
	}
}
