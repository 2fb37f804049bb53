package prom

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/metrics"
)

func open(t *testing.T, addr string) (*command.Env, *command.Page) {
	t.Helper()
	env := &command.Env{Name: "kbk-test", Log: slog.New(slog.DiscardHandler)}
	page, err := Open(t.Context(), env, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(page.Close)
	return env, page
}

func get(t *testing.T, client *http.Client, url string) (status int, body string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestPage(t *testing.T) {
	env, page := open(t, "127.0.0.1:0")
	c, base := &env.Counters, strings.TrimSuffix(page.URL, "/metrics")
	scrape := func(want ...string) {
		t.Helper()
		status, text := get(t, http.DefaultClient, page.URL)
		for _, line := range want {
			if name, absent := strings.CutPrefix(line, "!"); absent == strings.Contains(text, "\n"+name) || status != 200 {
				t.Errorf("%d, %s in\n%s", status, line, text)
			}
		}
	}
	scrape(`kbk_records_total{command="kbk-test"} 0`, "!kbk_last_commit_timestamp_seconds{", "!kbk_exit_status", "!kbk_partition_lag", `kbk_build_info{command="kbk-test",goversion="go`, "!kbk_records_expected{")
	if status, _ := get(t, http.DefaultClient, base+"/readyz"); status != 503 {
		t.Errorf("ready before it is: %d", status)
	}
	if status, text := get(t, http.DefaultClient, base+"/healthz"); status != 200 || text != "ok\n" {
		t.Errorf("healthz: %d %s", status, text)
	}
	c.Ready()
	c.Records.Add(7)
	c.Expected.Store(70)
	c.Retries.Add("NOT_LEADER_OR_FOLLOWER")
	c.Uploads.Add(30 * time.Millisecond)
	c.Commit()
	read := c.Partitions.Open("t", 3)
	read.Read(10, 25)
	c.Partitions.Open("t\xff", 4).Commit(9)
	scrape(`kbk_records_total{command="kbk-test"} 7`, `kbk_records_expected{command="kbk-test"} 70`, `kbk_retries_total{command="kbk-test",kind="NOT_LEADER_OR_FOLLOWER"} 1`,
		`kbk_upload_duration_seconds_bucket{command="kbk-test",le="0.05"} 1`, `kbk_upload_duration_seconds_bucket{command="kbk-test",le="0.025"} 0`, `kbk_upload_duration_seconds_count{command="kbk-test"} 1`,
		"kbk_last_commit_timestamp_seconds{", `kbk_partition_lag{command="kbk-test",partition="3",topic="t"} 15`, `kbk_partition_end_offset{command="kbk-test",partition="3",topic="t"} 25`,
		`kbk_partition_committed_offset{command="kbk-test",partition="4",topic="t�"} 9`, `kbk_lag{command="kbk-test"} 15`, `kbk_ready{command="kbk-test"} 1`)
	if status, _ := get(t, http.DefaultClient, base+"/readyz"); status != 200 {
		t.Errorf("not ready: %d", status)
	}
	read.Close()
	page.Ended(command.Corrupt)
	scrape(`kbk_exit_status{command="kbk-test"} 3`, "kbk_end_timestamp_seconds{", `kbk_errors_total{command="kbk-test",kind="input"} 1`, "!kbk_partition_lag", "!kbk_lag{")
}

// TestManyPartitions has more partitions than there are series.
func TestManyPartitions(t *testing.T) {
	env, page := open(t, "127.0.0.1:0")
	for i := range int32(maxSeries + 5) {
		env.Counters.Partitions.Open("t", i).Read(0, 2)
	}
	_, text := get(t, http.DefaultClient, page.URL)
	if n := strings.Count(text, "\nkbk_partition_lag{"); n != maxSeries {
		t.Errorf("%d series", n)
	}
	for _, line := range []string{fmt.Sprintf(`kbk_lag{command="kbk-test"} %d`, 2*(maxSeries+5)), `kbk_partitions_without_series{command="kbk-test"} 5`, `kbk_lag_max{command="kbk-test"} 2`} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no %s", line)
		}
	}
}

func TestUnix(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	left, err := net.Listen("unix", socket) // by a process that was killed
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	_, page := open(t, "unix:"+socket)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	if status, text := get(t, client, "http://kbk/metrics"); status != 200 || !strings.Contains(text, "kbk_build_info") || page.URL != "unix:"+socket {
		t.Errorf("%d at %s", status, page.URL)
	}
	client.CloseIdleConnections()
	for _, addr := range []string{"unix:" + socket, "unix:" + filepath.Join(t.TempDir(), "no", "folder")} {
		if _, err := Open(t.Context(), &command.Env{}, addr); err == nil {
			t.Errorf("%s can be had twice", addr)
		}
	}
}

func TestAddresses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, addr := range []string{l.Addr().String(), "9100", "nowhere.invalid:9100", "127.0.0.1:port"} {
		if _, err := Open(t.Context(), &command.Env{}, addr); err == nil || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "--metrics "+addr) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// TestWatch goes through what a stage can do and wait for.
func TestWatch(t *testing.T) {
	busy := metrics.Snapshot{Records: 5}
	for _, c := range []struct {
		name string
		s    metrics.Snapshot
		well bool
	}{
		{"nothing moves", metrics.Snapshot{Records: 5}, false},
		{"a stage before is waited for", metrics.Snapshot{Records: 5, FromStage: true, WaitsForInput: true}, true},
		{"a stage before is waited for, and something is on its way to the store", metrics.Snapshot{Records: 5, FromStage: true, WaitsForInput: true, Pending: 1}, false},
		{"the brokers are waited for", metrics.Snapshot{Records: 5, WaitsForInput: true}, false},
		{"all is read", metrics.Snapshot{Records: 5, WaitsForInput: true, Idle: true}, true},
		{"the stage behind is waited for", metrics.Snapshot{Records: 5, ToStage: true, WaitsForOutput: true, Pending: 4}, true},
		{"the store is waited for", metrics.Snapshot{Records: 5, WaitsForOutput: true, Pending: 4}, false},
		{"bytes move", metrics.Snapshot{Records: 5, BytesStored: 1, WaitsForOutput: true, Pending: 4}, true},
	} {
		begin := time.Unix(1e9, 0)
		w := newWatch(begin)
		w.look(busy, false, begin)
		s := c.s
		for now := begin; now.Sub(begin) <= patience; now = now.Add(time.Minute) {
			if s.BytesStored > 0 {
				s.BytesStored++
			}
			w.look(s, false, now)
		}
		if well := w.stalled() < patience; well != c.well {
			t.Errorf("%s: %s without progress", c.name, w.stalled())
		}
	}
	w := newWatch(time.Unix(1e9, 0))
	w.look(busy, true, time.Unix(2e9, 0))
	if w.stalled() != 0 {
		t.Error("the work has ended, and should go on")
	}
}

// TestStalled answers with a status that orchestrators understand.
func TestStalled(t *testing.T) {
	env := &command.Env{Name: "kbk-test"}
	env.Counters.Ready()
	p := &page{env: env, watch: newWatch(time.Unix(1e9, 0))}
	p.watch.look(metrics.Snapshot{}, false, time.Unix(1e9, 0).Add(patience))
	for _, path := range []string{"/healthz", "/readyz"} {
		rec := httptest.NewRecorder()
		p.handler(prometheus.NewRegistry()).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		if rec.Code != 503 || rec.Body.String() != "no progress for 10m0s\n" {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body.String())
		}
	}
}
