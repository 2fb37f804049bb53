package fetch

import (
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics/prom"
)

// TestPage reads the page of a run that follows: records and lag of each partition; what
// Kafka's client counts is there too.
func TestPage(t *testing.T) {
	w := newWorld(t, 1, "t", 2)
	w.produce("t", 0, 10)
	stop := make(chan struct{})
	env := &command.Env{Name: "kbk-fetch", Log: slog.New(slog.DiscardHandler), Stop: stop}
	page, err := prom.Open(t.Context(), env, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	scrape := func() string {
		resp, err := http.Get(page.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d, %v", resp.StatusCode, err)
		}
		return string(text)
	}
	until := func(lines ...string) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			text, missing := scrape(), ""
			for _, line := range lines {
				if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(text) {
					missing = line
				}
			}
			if missing == "" {
				return
			}
			if time.Since(began) > 20*time.Second {
				t.Fatalf("no %s in\n%s", missing, text)
			}
		}
	}
	cfg := Config{
		Kafka: kafka.Config{Brokers: w.fake.ListenAddrs()}, Topics: []string{"t"}, Timeout: 30 * time.Second, Follow: true, Refresh: time.Hour,
		FetchBytes: 16 << 20, FetchPartitionBytes: 256 << 10, FetchWait: 50 * time.Millisecond,
	}
	in, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := Run(page.Context, cfg, env, out)
		_ = out.Close()
		ended <- err
	}()
	go func() { _, _ = io.Copy(io.Discard, in) }()
	until(`kbk_records_total\{command="kbk-fetch"\} 10`, `kbk_partition_lag\{command="kbk-fetch",partition="0",topic="t"\} 0`, `kbk_partition_end_offset\{command="kbk-fetch",partition="0",topic="t"\} 10`,
		`kbk_partition_lag\{command="kbk-fetch",partition="1",topic="t"\} 0`, `kbk_lag\{command="kbk-fetch"\} 0`, `kbk_ready\{command="kbk-fetch"\} 1`, `kbk_kafka_client_connects_total\{node_id="0"\} [1-9].*`)
	for began := time.Now(); !env.Counters.Snapshot().Idle; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatal("all is read, and it is not idle")
		}
	}
	w.produce("t", 1, 5)
	until(`kbk_records_total\{command="kbk-fetch"\} 15`, `kbk_partition_end_offset\{command="kbk-fetch",partition="1",topic="t"\} 5`)
	close(stop)
	if err := <-ended; command.StatusOf(err) != command.Interrupted {
		t.Error(err)
	}
	page.Ended(command.Interrupted)
	if text := scrape(); !strings.Contains(text, `kbk_exit_status{command="kbk-fetch"} 130`) {
		t.Error(text)
	}
}
