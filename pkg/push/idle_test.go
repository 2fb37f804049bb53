package push

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// TestIdleRun wants a run that finds nothing new in 2,000 partitions to add little to the
// log: it is what most runs of a quiet cluster are.
func TestIdleRun(t *testing.T) {
	const topics, partitions = 20, 100
	dir := filepath.Join(t.TempDir(), "b")
	stream := func() *bytes.Buffer {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments, Source: &format.Source{Cluster: "c"}}))
		for topic := range topics {
			name, id := fmt.Sprintf("orders-of-a-region-%d", topic), fmt.Sprintf("AAAAAAAAAAAAAAAAAAAA%02d", topic)
			ok(t, w.Write(&format.Topic{Name: name, ID: id, Partitions: partitions, ReplicationFactor: 3, Configs: map[string]string{"retention.ms": "604800000"}}))
			for p := range int32(partitions) {
				next := int64(topic)*1_000_003 + int64(p)*7919 + 1_000_000
				info := format.MarkInfo{TopicID: id, LogStart: new(int64(0)), End: &next, LeaderEpoch: new(int32(4))}
				ok(t, w.Write(&format.Mark{Topic: name, Partition: p, Next: next, MarkInfo: info}))
				ok(t, w.Write(&format.Mark{Topic: name, Partition: p, Next: next, MarkInfo: info}))
			}
		}
		ok(t, w.Write(&format.Point{Time: time.Now().UnixMilli()}))
		ok(t, w.Close(new(format.End)))
		return &b
	}
	for range 2 {
		cfg := Config{Remote: dir, Transfers: 1, Checkpoint: time.Hour, CheckpointSegments: 1000, MaxFrame: 1 << 20}
		ok(t, Run(t.Context(), cfg, &command.Env{Name: "test", Log: slog.New(slog.DiscardHandler)}, stream(), io.Discard))
	}
	entries, err := filepath.Glob(filepath.Join(dir, "log/*.json"))
	if ok(t, err); len(entries) != 2 {
		t.Fatalf("%d entries", len(entries))
	}
	// What is large is folded before there are many.
	defer func(n int64) { compactBytes = n }(compactBytes)
	info, err := os.Stat(entries[1])
	ok(t, err)
	t.Logf("%d bytes for %d partitions", info.Size(), topics*partitions)
	if info.Size() > 40<<10 {
		t.Errorf("an idle run adds %d bytes to the log", info.Size())
	}
	compactBytes = 3 * info.Size()
	for range 2 {
		cfg := Config{Remote: dir, Transfers: 1, Checkpoint: time.Hour, CheckpointSegments: 1000, MaxFrame: 1 << 20, CompactAfter: 1000}
		ok(t, Run(t.Context(), cfg, &command.Env{Name: "test", Log: slog.New(slog.DiscardHandler)}, stream(), io.Discard))
	}
	snapshots, err := filepath.Glob(filepath.Join(dir, "log/*.snapshot.json"))
	if ok(t, err); len(snapshots) != 1 {
		t.Errorf("%d snapshots", len(snapshots))
	}
}
