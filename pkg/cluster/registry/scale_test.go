package registry

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/registry/registrytest"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

var (
	scale   = flag.Int("subjects", 100, "how many `SUBJECTS` of three versions TestScale has")
	scaleAt = flag.String("registry", "", "the `URL` of an empty registry for TestScale; it is filled")
)

// TestScale fills a registry and reads it, and counts the requests that this takes. docs/performance.md has
// its figures.
func TestScale(t *testing.T) {
	want := Content{Subjects: []*format.Subject{{SubjectInfo: format.SubjectInfo{Compatibility: "BACKWARD"}}}}
	id := 0
	for i := range *scale {
		name := fmt.Sprintf("topic-%04d-value", i)
		want.Subjects = append(want.Subjects, &format.Subject{Name: name})
		var fields []string
		for range 3 {
			for range 3 {
				fields = append(fields, fmt.Sprintf(`{"name":"field%d","type":["null","string"],"default":null,"doc":"field %d of topic %d"}`, len(fields), len(fields), i))
			}
			id++
			s := schemaFrame(name, len(fields)/3, id, `{"type":"record","name":"Record","fields":[`+strings.Join(fields, ",")+`]}`)
			want.Schemas = append(want.Schemas, s)
		}
	}
	want.sort()
	for _, r := range []*registrytest.Registry{{}, {NoModes: true, NoList: true}} {
		c := New(&rest.Server{URL: *scaleAt})
		if *scaleAt == "" {
			c = serve(t, r)
		}
		have := read(t, c)
		begin := time.Now()
		changes, _ := Plan(want, have)
		planned := time.Since(begin)
		begin = time.Now()
		n := 0
		if err := Apply(t.Context(), c, want, have, changes, func(c change.Change, err error) {
			if n++; err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		applied := time.Since(begin)
		begin = time.Now()
		got := read(t, c)
		t.Logf("%d schemas: plan %v, apply %v, read %v", len(got.Schemas), planned.Round(time.Millisecond), applied.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
		if status, err := os.ReadFile("/proc/self/status"); err == nil {
			_, peak, _ := strings.Cut(string(status), "VmHWM:")
			peak, _, _ = strings.Cut(strings.TrimSpace(peak), "\n")
			t.Log("memory at most, the test's own included:", peak)
		}
		if changes, _ := Plan(want, got); len(changes) > 0 || n != len(want.Schemas) || len(got.Schemas) != n {
			t.Errorf("%d changes are left, of %d; %d schemas", len(changes), n, len(got.Schemas))
		}
		if *scaleAt != "" {
			return
		}
		// A request for each schema, and twice two for each of the two reads of a subject's own.
		if posts, gets := r.Requests(http.MethodPost), r.Requests(http.MethodGet); posts != n || gets > 10*len(want.Subjects) {
			t.Errorf("%d POSTs and %d GETs", posts, gets)
		}
	}
}
