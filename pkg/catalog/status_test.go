package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/partitions"
)

// statusAt is the verdict on a backup at a time, in milliseconds since the epoch.
func statusAt(t *testing.T, dir string, now int64, cfg StatusConfig) *Status {
	t.Helper()
	cfg.MaxAge, cfg.MaxAgeText = time.Second, "1s"
	r, err := statusOf(t.Context(), open(t, dir), cfg, env(), time.UnixMilli(now))
	ok(t, err)
	r.judge()
	return r
}

// TestStatus asks how a backup is while it gets older, is compacted, and is damaged.
func TestStatus(t *testing.T) {
	dir := backup(t) // whose restore points are at 100, 200 and 300 ms
	same := func(when string) {
		t.Helper()
		for now, want := range map[int64]string{
			1300: "good: newest restore point is 1 s old",
			1301: "stale: newest restore point is 1 s old, --max-age 1s",
		} {
			r := statusAt(t, dir, now, StatusConfig{})
			if r.Summary != want {
				t.Errorf("%s, at %d: %s, want %s", when, now, r.Summary, want)
			}
			topic := r.Topics[0]
			if len(r.Topics) != 1 || topic.Partitions != 2 || topic.Records != 60 || !topic.Whole || topic.NewestPoint.Time != 300 || *topic.CoveredAt != 300 || *topic.NewestRecord != 290 {
				t.Errorf("%s: %+v", when, topic)
			}
			if len(topic.LastRuns) != 1 || topic.LastRuns[0].Ended != "finished" {
				t.Errorf("%s: last runs %+v", when, topic.LastRuns)
			}
		}
	}
	same("in entries")
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	same("compacted")

	one := partitions.Selection{Topics: []string{"t:1", "u"}}
	if r := statusAt(t, dir, 400, StatusConfig{Topics: one}); r.Summary != `missing: topic "u" is not there` || r.Topics[0].Partitions != 1 {
		t.Errorf("%s: %s, of %d partitions", one.Topics, r.Summary, r.Topics[0].Partitions)
	}
	if r := statusAt(t, dir, 400, StatusConfig{Signers: noOne}); r.Verdict != isDamaged || !strings.Contains(r.Summary, "sign") {
		t.Errorf("signed by nobody: %s", r.Summary)
	}
	run(t, dir, 15, 20, 40) // an entry behind the snapshot
	entries := entriesOf(t, dir)
	ok(t, os.WriteFile(entries[len(entries)-1], []byte("garbage\n"), 0o600))
	if r := statusAt(t, dir, 400, StatusConfig{}); r.Verdict != isDamaged {
		t.Errorf("an entry is garbage: %s", r.Summary)
	}
	ok(t, os.RemoveAll(filepath.Join(dir, "log")))
	if r := statusAt(t, dir, 400, StatusConfig{}); r.Verdict != isDamaged {
		t.Errorf("the log is gone: %s", r.Summary)
	}
	if r := statusAt(t, t.TempDir(), 400, StatusConfig{}); r.Verdict != isMissing {
		t.Errorf("an empty folder: %s", r.Summary)
	}
}

// TestStatusPoints takes away the file of the restore points.
func TestStatusPoints(t *testing.T) {
	dir := backup(t)
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	files, err := filepath.Glob(filepath.Join(dir, "index/points/*"))
	ok(t, err)
	for _, f := range files {
		ok(t, os.Remove(f))
	}
	if r := statusAt(t, dir, 400, StatusConfig{}); r.Verdict != isDamaged || !strings.Contains(r.Summary, "index/points/") {
		t.Errorf("without %q: %s", files, r.Summary)
	}
}

// TestShowStatus prints a status in each form, and has the exit status of the verdict.
func TestShowStatus(t *testing.T) {
	dir := backup(t)
	file := filepath.Join(t.TempDir(), "kbk.prom")
	ok(t, os.WriteFile(file, []byte("old"), 0o600))
	for _, c := range []struct {
		maxAge time.Duration
		text   string
		want   string
		status int
	}{
		{time.Hour, "1h", "stale", command.Loss},
		{1 << 62, "ages", "good", command.OK},
	} {
		cfg := StatusConfig{MaxAge: c.maxAge, MaxAgeText: c.text, Prometheus: file}
		var out bytes.Buffer
		err := ShowStatus(t.Context(), open(t, dir), cfg, env(), &out)
		first, rest, _ := strings.Cut(out.String(), "\n")
		if command.StatusOf(err) != c.status || !strings.HasPrefix(first, c.want+": newest restore point is ") || !strings.Contains(rest, "finished") {
			t.Errorf("%v, printed %s", err, out.String())
		}
		cfg.JSON = true
		out.Reset()
		err = ShowStatus(t.Context(), open(t, dir), cfg, env(), &out)
		var r Status
		ok(t, json.Unmarshal(out.Bytes(), &r))
		if command.StatusOf(err) != c.status || r.Verdict != c.want || r.Summary != first || r.Topics[0].Name != "t" {
			t.Errorf("%v, as JSON %s", err, out.String())
		}
		text, err := os.ReadFile(file)
		ok(t, err)
		good := fmt.Sprintf("kbk_backup_good{backup=%q} %d\n", dir, 1-c.status/command.Loss)
		if !strings.Contains(string(text), good) {
			t.Errorf("no %q in\n%s", good, text)
		}
	}
	left, err := os.ReadDir(filepath.Dir(file))
	ok(t, err)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 || len(left) != 1 {
		t.Errorf("%v, %v, in a folder of %d", info, err, len(left))
	}
	if err := ShowStatus(t.Context(), open(t, dir), StatusConfig{Prometheus: filepath.Join(file, "x")}, env(), &bytes.Buffer{}); command.StatusOf(err) != command.Failed {
		t.Errorf("metrics that cannot be written: %v", err)
	}
	if full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0); err == nil {
		defer full.Close()
		if err := ShowStatus(t.Context(), open(t, dir), StatusConfig{MaxAge: 1 << 62}, env(), full); command.StatusOf(err) != command.Failed {
			t.Errorf("on a full disk: %v", err)
		}
	}
}

// TestStatusMetrics holds the metrics to the text format, with names that would break it, and to
// a bound on series.
func TestStatusMetrics(t *testing.T) {
	r := &Status{Backup: "a\\b\"c\nd\xff", Checked: statusNow, MaxAge: "26h", MaxAgeSeconds: 26 * 3600}
	for i := range maxTopics + 100 {
		r.Topics = append(r.Topics, healthy(fmt.Sprintf("t%04d", i), 6))
	}
	worst := &r.Topics[len(r.Topics)-1]
	worst.Lost = 7
	worst.Cluster = &StatusLive{State: "same", Behind: 42}
	old := healthy("t0000", 99)
	old.Newest = false
	r.Topics = append(r.Topics, old)
	r.judge()
	var out bytes.Buffer
	ok(t, r.metrics(&out))
	series := make(map[string]string)
	typed := ""
	for _, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			if typed = strings.TrimSuffix(rest, " gauge"); typed == rest {
				t.Errorf("no gauge: %s", line)
			}
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		at := strings.LastIndex(line, "} ")
		if at < 0 || !strings.HasPrefix(line, typed+"{") {
			t.Fatalf("%q behind the type of %s", line, typed)
		}
		if _, twice := series[line[:at+1]]; twice {
			t.Errorf("%s is there twice", line[:at+1])
		}
		series[line[:at+1]] = line[at+2:]
	}
	backup := `{backup="a\\b\"c\nd` + "\ufffd" + `"`
	for name, want := range map[string]string{
		"kbk_backup_good" + backup + "}":                                  "0",
		"kbk_backup_problems" + backup + `,kind="loss"}`:                  "1",
		"kbk_backup_problems" + backup + `,kind="stale"}`:                 "0",
		"kbk_backup_topics" + backup + "}":                                "600",
		"kbk_backup_topics_without_metrics" + backup + "}":                "100",
		"kbk_backup_lost_offsets" + backup + `,topic="t0599"}`:            "7",
		"kbk_backup_behind_offsets" + backup + `,topic="t0599"}`:          "42",
		"kbk_backup_point_timestamp_seconds" + backup + `,topic="t0000"}`: fmt.Sprint(*hoursAgo(6) / 1000),
	} {
		if series[name] != want {
			t.Errorf("%s is %q, want %s", name, series[name], want)
		}
	}
	if n := len(series); n > 20+maxTopics*len(topicMetrics) {
		t.Errorf("%d series", n)
	}
}
