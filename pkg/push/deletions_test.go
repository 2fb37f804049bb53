package push

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command/commandtest"
	"github.com/kbkio/kbk/pkg/commitlog"
)

// TestDeletions warns where Kafka may have removed tombstones between two runs.
func TestDeletions(t *testing.T) {
	began := time.Date(2026, 11, 20, 2, 0, 0, 0, time.UTC)
	compact := map[string]string{"cleanup.policy": "compact"}
	for _, c := range []struct {
		name    string
		configs map[string]string
		unread  time.Duration // 0: the run does not go on where another has ended
		records int64         // of ten offsets
		want    string
	}{
		{"read the day before", compact, 23*time.Hour + 59*time.Minute, 4, ""},
		{"a night was left out", compact, 48*time.Hour + 90*time.Second, 4, "topic users: it was last read 48 h 2 min before this run, and keeps deletions of keys for 24 h after compaction (delete.retention.ms)"},
		{"nothing was compacted", compact, 48 * time.Hour, 10, ""},
		{"from the beginning", compact, 0, 4, ""},
		{"not compacted", map[string]string{"cleanup.policy": "delete"}, 48 * time.Hour, 4, ""},
		{"the brokers' policy", nil, 48 * time.Hour, 4, ""},
		{"kept for longer", map[string]string{"cleanup.policy": "compact,delete", "delete.retention.ms": "259200000"}, 48 * time.Hour, 4, ""},
		{"kept for ever", map[string]string{"cleanup.policy": "compact", "delete.retention.ms": "9223372036854775807"}, 48 * time.Hour, 4, ""},
		{"kept for a shorter time", map[string]string{"cleanup.policy": "compact,delete", "delete.retention.ms": "5400000"}, 2 * time.Hour, 4, "2 h 1 min before this run, and keeps deletions of keys for 1 h 30 min"},
	} {
		d := newDeletions(began)
		d.topic(&commitlog.Topic{Name: "users", Configs: c.configs})
		k := key{"users", "id", 3}
		if c.unread > 0 {
			d.read[k] = began.Add(-c.unread)
		}
		d.segment(k, &format.Segment{Topic: "users", TopicID: "id", Partition: 3, From: 20, Next: 30, Records: c.records})
		var said commandtest.Messages
		d.warn(slog.New(slog.NewTextHandler(&said, nil)))
		if got := said.String(); !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: it says %q, and should say %q", c.name, got, c.want)
		}
	}
}

// TestDeletionsBetweenRuns has a run go on three days after the last one, and another begin anew.
func TestDeletionsBetweenRuns(t *testing.T) {
	dir := t.TempDir()
	run := func(days int, from, next int64) string {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments, Created: time.Now().AddDate(0, 0, days).UnixMilli()}))
		ok(t, w.Write(&format.Topic{Name: "t", ID: "id", Partitions: 1, Configs: map[string]string{"cleanup.policy": "compact"}}))
		mark(t, w, from, format.MarkInfo{})
		seg := segmentOf(from, next, []byte{byte(from), byte(next)})
		seg.Records--
		ok(t, w.WriteSegment(seg, []byte{byte(from), byte(next)}))
		mark(t, w, next, format.MarkInfo{})
		ok(t, w.Close(new(format.End)))
		var said commandtest.Messages
		ok(t, Run(t.Context(), testConfig(dir), testEnv(&said), &b, io.Discard))
		return said.String()
	}
	for _, r := range []struct {
		days       int
		from, next int64
		warns      bool
	}{{0, 0, 10, false}, {0, 10, 20, false}, {3, 20, 30, true}, {3, 0, 40, false}} {
		if said := run(r.days, r.from, r.next); strings.Contains(said, "topic t: it was last read 72 h") != r.warns {
			t.Errorf("offsets %d to %d, after %d days: it says %s", r.from, r.next, r.days, said)
		}
	}
}
