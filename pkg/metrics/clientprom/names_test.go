package clientprom

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics/prom"
)

// shown are the names of all that a page can show: of counters that all have something, and
// of a client that has asked a broker.
func shown(t *testing.T) map[string]bool {
	t.Helper()
	env := &command.Env{Name: "kbk-test", Log: slog.New(slog.DiscardHandler)}
	page, err := prom.Open(t.Context(), env, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	c := &env.Counters
	c.Expected.Store(1)
	c.Commit()
	c.Retries.Add("x")
	c.Errors.Add("x")
	c.Uploads.Add(time.Second)
	p := c.Partitions.Open("t", 0)
	p.Read(1, 2)
	p.Commit(1)
	page.Ended(command.OK)

	fake, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	cl, err := kafka.NewClient(page.Context, kafka.Config{Brokers: fake.ListenAddrs()}, Opts(page.Context)...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).ListTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(page.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, line := range regexp.MustCompile(`(?m)^# TYPE (\w+) (\w+)$`).FindAllStringSubmatch(string(text), -1) {
		names[line[1]] = true
		if line[2] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				names[line[1]+suffix] = true
			}
		}
	}
	return names
}

var (
	metric = regexp.MustCompile(`\b(?:kbk|process|go)_[a-z0-9_]+`)
	listed = regexp.MustCompile("(?m)^\\| `(kbk_[a-z0-9_]+)")
)

// TestNames holds the dashboards, the alerts and the documentation to the names that there
// are.
func TestNames(t *testing.T) {
	names := shown(t)
	const root = "../../../"
	doc, err := os.ReadFile(root + "docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, m := range listed.FindAllStringSubmatch(string(doc), -1) {
		if !strings.HasPrefix(m[1], "kbk_backup_") { // which kbk-catalog status writes
			documented[m[1]] = true
		}
	}
	for name := range names {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, "kbk_") && !strings.HasPrefix(name, "kbk_kafka_client_") && !documented[name] && !documented[base] {
			t.Errorf("%s is not in docs/monitoring.md", name)
		}
	}
	for name := range documented {
		if !names[name] {
			t.Errorf("docs/monitoring.md has %s, and there is no such thing", name)
		}
	}
	var files []string
	for _, pattern := range []string{"contrib/grafana/*", "contrib/prometheus/*"} {
		some, err := filepath.Glob(root + pattern)
		if err != nil || len(some) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(some), err)
		}
		files = append(files, some...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]bool)
		for _, name := range metric.FindAllString(string(text), -1) {
			found[name] = true
		}
		if len(found) < 3 {
			t.Errorf("%s names %d metrics", file, len(found))
		}
		for _, name := range slices.Sorted(maps.Keys(found)) {
			if !names[name] {
				t.Errorf("%s names %s, which no command has", file, name)
			}
		}
	}
}

// TestWithoutPage has no page, and so nothing to register.
func TestWithoutPage(t *testing.T) {
	if opts := Opts(t.Context()); opts != nil {
		t.Errorf("%d options", len(opts))
	}
}
