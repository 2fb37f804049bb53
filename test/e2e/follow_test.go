package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
)

// logged counts what a backup's log lists: points, records of each topic, and the
// offset of each group in partition 0 of the first topic that it names.
func logged(t *testing.T, dir string) (points int, records map[string]int64, groups map[string]int64) {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(dir, "log", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	records, groups = make(map[string]int64), make(map[string]int64)
	for _, name := range entries {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Points   []struct{ Time int64 }
			Segments []struct {
				Topic   string
				Records int64
			}
			Groups []struct {
				ID      string
				Offsets map[string]map[int32]struct{ Offset int64 }
			}
		}
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		points += len(e.Points)
		for _, s := range e.Segments {
			records[s.Topic] += s.Records
		}
		for _, g := range e.Groups {
			for _, parts := range g.Offsets {
				groups[g.ID] = parts[0].Offset
			}
		}
	}
	return points, records, groups
}

func commitOffset(t *testing.T, group, topic string, offset int64) {
	t.Helper()
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topic, At: offset, LeaderEpoch: -1, Metadata: "why"})
	if err := kadm.NewClient(cl).CommitAllOffsets(t.Context(), group, offsets); err != nil {
		t.Fatal(err)
	}
}

// TestFollow keeps a backup growing: records, a topic and a partition that come later,
// a topic that is deleted, and restore points with groups, until Ctrl-C.
func TestFollow(t *testing.T) {
	if err := seedRecords(t.Context(), "follow-a", 2, 2, 100, 100); err != nil {
		t.Fatal(err)
	}
	commitOffset(t, "follow-group", "follow-a", 42)
	commitOffset(t, "follow-other", "follow-a", 1)
	dir := filepath.Join(t.TempDir(), "backup")
	p := start(t,
		fmt.Sprintf("kbk-fetch -b %s -t ^follow-[a-z]$ --follow --refresh 500ms --point-every 2s --groups ^follow- --exclude-groups follow-other", cluster.Bootstrap()),
		"kbk-pack --segment-age 300ms",
		"kbk-push --checkpoint 200ms "+dir,
	)
	stored := func(topic string, n int64) {
		t.Helper()
		p.until(fmt.Sprintf("%d records of %s in the log", n, topic), func() bool {
			_, records, _ := logged(t, dir)
			return records[topic] == n
		})
	}
	stored("follow-a", 200)
	p.until("a restore point", func() bool { points, _, groups := logged(t, dir); return points > 0 && groups["follow-group"] == 42 })

	if err := seedRecords(t.Context(), "follow-b", 1, 1, 50, 100); err != nil {
		t.Fatal(err)
	}
	stored("follow-b", 50)
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).UpdatePartitions(t.Context(), 3, "follow-a"); err != nil {
		t.Fatal(err)
	}
	p.until("the new partition is there", func() bool { // a broker may not know of it at once
		cl.ForceMetadataRefresh()
		return cl.ProduceSync(t.Context(), &kgo.Record{Topic: "follow-a", Partition: 2, Value: []byte("new")}).FirstErr() == nil
	})
	stored("follow-a", 201)
	commitOffset(t, "follow-group", "follow-a", 77)
	p.until("another restore point", func() bool { points, _, groups := logged(t, dir); return points > 1 && groups["follow-group"] == 77 })

	deleteTopic(t, "follow-b")
	p.until("the word of the deleted topic", func() bool { return strings.Contains(p.said(source), "topic follow-b was deleted") })

	p.signal(syscall.SIGINT)
	for i, status := range p.wait() {
		if status != 130 {
			t.Errorf("stage %d ended with %d\n%s", i, status, p)
		}
	}
	if _, _, groups := logged(t, dir); groups["follow-other"] != 0 {
		t.Error("a group that was excluded is in the log")
	}
	if sum := verify(t, dir); !sum.final || sum.records != 251 {
		t.Errorf("the backup holds %+v", sum)
	}
	// What the run ended with is where another goes on: there is nothing new.
	again := run(t,
		fmt.Sprintf("kbk-fetch -b %s -t follow-a --groups follow-group", cluster.Bootstrap()),
		"kbk-pack", "kbk-push "+dir,
	)
	if !strings.Contains(again.said(2), "stored 0 segments") {
		t.Errorf("the next run:\n%s", again)
	}
	if points, _, _ := logged(t, dir); points < 3 {
		t.Errorf("%d restore points: one-shot runs make one", points)
	}
	run(t, "kbk-pull "+dir, "kbk-pack -d", fmt.Sprintf("kbk-produce -b %s --create-topics --rename follow-a=follow-a-back --rename follow-b=follow-b-back", cluster.Bootstrap()))
	if err := same(t.Context(), "follow-a", "follow-a-back", 201); err != nil {
		t.Error(err)
	}
	if back, err := count(t.Context(), "follow-b-back"); err != nil || back != 50 {
		t.Errorf("the deleted topic has %d records in the backup: %v", back, err)
	}
}

// TestFollowAges checks that a stream that trickles is stored without being stopped,
// and what the last stage then knows of idle partitions.
func TestFollowAges(t *testing.T) {
	if err := seedRecords(t.Context(), "follow-idle", 2, 1, 5, 10); err != nil {
		t.Fatal(err)
	}
	end, err := seedTransactions(t.Context(), "follow-tx")
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	dir := filepath.Join(t.TempDir(), "backup")
	p := start(t,
		fmt.Sprintf("kbk-fetch -b %s -t ^follow-(idle|tx)$ --follow --refresh 300ms --point-every 0", cluster.Bootstrap()),
		"kbk-pack --segment-age 200ms",
		"kbk-push --checkpoint 100ms "+dir,
	)
	stable := stableEnds(t, "follow-tx")
	p.until("marks at the last stable offsets", func() bool { return marked(t, dir, "follow-tx", stable) })
	p.until("a mark of the empty partition", func() bool { return marked(t, dir, "follow-idle", map[int32]int64{0: 5, 1: 0}) })
	p.signal(syscall.SIGTERM)
	p.wait()
	if points, _, _ := logged(t, dir); points != 0 {
		t.Errorf("%d restore points, and none was to be made", points)
	}
}

func stableEnds(t *testing.T, topic string) map[int32]int64 {
	t.Helper()
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(t.Context(), topic)
	if err != nil || ends.Error() != nil {
		t.Fatal(err, ends.Error())
	}
	out := make(map[int32]int64)
	ends.Each(func(o kadm.ListedOffset) { out[o.Partition] = o.Offset })
	return out
}

// marked tells whether a backup covers the partitions of a topic up to these offsets.
func marked(t *testing.T, dir, topic string, want map[int32]int64) bool {
	t.Helper()
	if files(filepath.Join(dir, "log", "*.json")) == 0 {
		return false
	}
	out, err := exec.Command("kbk-catalog", "cursor", "-q", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	c, err := cursor.Read(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	got := c.Topics[topic].Partitions
	for n, next := range want {
		if at, ok := got[n]; !ok || at != next {
			return false
		}
	}
	return len(want) > 0
}

// TestFollowDownstreamDies kills the last stage of a pipe through which nothing goes: the
// stages before it end, from behind.
func TestFollowDownstreamDies(t *testing.T) {
	if err := seedRecords(t.Context(), "follow-dead", 1, 1, 3, 10); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "backup")
	p := start(t,
		fmt.Sprintf("kbk-fetch -b %s -t follow-dead --follow --point-every 0", cluster.Bootstrap()),
		"kbk-filter --topic follow-dead",
		"kbk-pack --segment-age 100ms",
		"kbk-push --checkpoint 100ms "+dir,
	)
	p.until("all in the log", func() bool { _, records, _ := logged(t, dir); return records["follow-dead"] == 3 })
	began := time.Now()
	if err := p.stages[3].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for i, status := range p.wait() {
		// The first stage says that nobody reads any more, and the others are silent.
		said := strings.Contains(p.said(i), "broken pipe") && strings.Contains(p.said(i), "hint: the command downstream ended")
		if i < 3 && (status != command.NoReader || said != (i == 0)) {
			t.Errorf("stage %d ended with %d\n%s", i, status, p.said(i))
		}
	}
	if took := time.Since(began); took > 20*time.Second { // a mark of the idle partition comes after 30
		t.Errorf("it took %s", took)
	}
}
