package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var metricsAt = regexp.MustCompile(`metrics are at (http://\S+)/metrics`)

// pages returns where each stage has its page.
func (p *pipeline) pages() []string {
	urls := make([]string, len(p.stages))
	p.until("the pages", func() bool {
		for i := range p.stages {
			m := metricsAt.FindStringSubmatch(p.said(i))
			if m == nil {
				return false
			}
			urls[i] = m[1]
		}
		return true
	})
	return urls
}

func page(t *testing.T, url string) (status int, text string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// metric is a number on a page, -1 where it is not there. labels are those beside the
// command, in their order.
func metric(t *testing.T, url, name, labels string) float64 {
	t.Helper()
	_, text := page(t, url+"/metrics")
	m := regexp.MustCompile(`(?m)^` + name + `\{command="[a-z-]+"` + regexp.QuoteMeta(labels) + `\} (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return -1
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestMetrics reads the pages of a pipe that follows a topic, while more comes. Segments are
// closed by a signal only.
func TestMetrics(t *testing.T) {
	if err := seedRecords(t.Context(), "metrics", 2, 2, 100, 100); err != nil {
		t.Fatal(err)
	}
	dir, beat := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "beat")
	p := start(t,
		fmt.Sprintf("kbk-fetch -b %s -t metrics --follow --point-every 0s --metrics 127.0.0.1:0", cluster.Bootstrap()),
		"kbk-pack --metrics 127.0.0.1:0",
		"kbk-push --checkpoint 200ms --metrics 127.0.0.1:0 --heartbeat "+beat+" "+dir,
	)
	at := p.pages()
	fetch, pack, push := at[0], at[1], at[2]
	stored := func(n float64) {
		t.Helper()
		p.until(fmt.Sprintf("%v records read", n), func() bool {
			return metric(t, fetch, "kbk_records_total", "") == n && metric(t, fetch, "kbk_lag", "") == 0
		})
		var asked time.Time
		p.until(fmt.Sprintf("%v records committed", n), func() bool {
			if time.Since(asked) > time.Second { // some may have been on their way to pack
				asked = time.Now()
				if err := p.stages[1].Process.Signal(syscall.SIGUSR1); err != nil {
					t.Fatal(err)
				}
			}
			return metric(t, push, "kbk_records_committed_total", "") == n
		})
	}
	stored(200)
	for i, url := range at {
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, text := page(t, url+path); status != http.StatusOK {
				t.Errorf("stage %d: %s: %d %s", i, path, status, text)
			}
		}
	}
	first := metric(t, push, "kbk_last_commit_timestamp_seconds", "")
	if age := time.Since(time.UnixMilli(int64(first * 1000))); age < 0 || age > time.Minute {
		t.Errorf("the last commit is %s old", age)
	}
	if err := seedRecords(t.Context(), "metrics", 2, 1, 50, 100); err != nil {
		t.Fatal(err)
	}
	stored(250)
	for _, want := range []struct {
		url, name, labels string
		value             float64
	}{
		{fetch, "kbk_partition_end_offset", `,partition="0",topic="metrics"`, 150},
		{fetch, "kbk_partition_lag", `,partition="0",topic="metrics"`, 0},
		{fetch, "kbk_losses_total", "", 0},
		{push, "kbk_segments_total", "", metric(t, pack, "kbk_segments_total", "")},
		{push, "kbk_upload_duration_seconds_count", "", metric(t, pack, "kbk_segments_total", "")},
		{push, "kbk_partition_committed_offset", `,partition="0",topic="metrics"`, 150},
		{push, "kbk_partition_committed_offset", `,partition="1",topic="metrics"`, 100},
		{push, "kbk_pending", "", 0},
	} {
		if got := metric(t, want.url, want.name, want.labels); got != want.value {
			t.Errorf("%s%s is %v and not %v", want.name, want.labels, got, want.value)
		}
	}
	if raw, packed := metric(t, pack, "kbk_segment_raw_bytes_total", ""), metric(t, pack, "kbk_segment_packed_bytes_total", ""); raw <= packed || packed <= 0 || packed != metric(t, push, "kbk_segment_packed_bytes_total", "") {
		t.Errorf("%v bytes became %v", raw, packed)
	}
	if last := metric(t, push, "kbk_last_commit_timestamp_seconds", ""); last <= first {
		t.Errorf("the last commit was at %v, and at %v before", last, first)
	}
	if _, text := page(t, fetch+"/metrics"); !strings.Contains(text, "\nkbk_kafka_client_read_bytes_total{") {
		t.Error("nothing of Kafka's client")
	}
	p.signal(syscall.SIGINT)
	p.wait()
	var told struct{ Commits, Records int64 }
	text, err := os.ReadFile(beat)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &told); err != nil || told.Records != 250 || told.Commits < 2 {
		t.Errorf("%s: %v", text, err)
	}
}

// TestKeepAlive reads the last values of a run that has ended, and that no stage waits for.
func TestKeepAlive(t *testing.T) {
	if err := seedRecords(t.Context(), "keep-alive", 1, 1, 10, 100); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p := start(t,
		fmt.Sprintf("kbk-fetch -b %s -t keep-alive --metrics 127.0.0.1:0 --keep-alive 1h", cluster.Bootstrap()),
		"kbk-pack --metrics 127.0.0.1:0 --keep-alive 1h",
		"kbk-push --metrics 127.0.0.1:0 --keep-alive 1h "+filepath.Join(t.TempDir(), "backup"),
	)
	for i, url := range p.pages() {
		p.until("the end of the work", func() bool { return metric(t, url, "kbk_exit_status", "") == 0 })
		if n := metric(t, url, "kbk_records_total", ""); n != 10 {
			t.Errorf("stage %d: %v records", i, n)
		}
		if end := metric(t, url, "kbk_end_timestamp_seconds", ""); end < float64(began.Unix()) {
			t.Errorf("stage %d ended at %v", i, end)
		}
	}
	p.signal(syscall.SIGTERM)
	for i, status := range p.wait() {
		if status != 0 {
			t.Errorf("stage %d ended with %d\n%s", i, status, p)
		}
	}
}
