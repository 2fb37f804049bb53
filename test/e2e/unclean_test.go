package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cursor"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// TestUncleanElection elects a leader that has not what a first run has read, lets the log
// grow past where that run ended, and runs again: what is there now at the same offsets
// is read, as a branch. A backup of both runs gives back either.
func TestUncleanElection(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := kafkatest.Start(ctx, kafkatest.Options{Brokers: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cl, err := connect(c.Bootstrap(), kgo.DisableIdempotentWrite())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	createOn(t, cl, "u", []int32{0, 1})
	steady := "steady"
	createOn(t, cl, steady, []int32{2})
	produce := func(topic, text string, n int) {
		t.Helper()
		for i := range n {
			r := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%s %d", text, i)}
			if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	state := func(what string, want func(kadm.PartitionDetail) bool) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
			meta, err := adm.Metadata(ctx, "u")
			if err == nil && want(meta.Topics["u"].Partitions[0]) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v, %v", what, meta.Topics["u"].Partitions[0], err)
			}
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	state("broker 0 leads, and both have it", func(p kadm.PartitionDetail) bool { return p.Leader == 0 && len(p.ISR) == 2 })
	produce("u", "both", 10)
	produce(steady, "steady", 5)
	do(c.KillBroker(1))
	state("broker 0 is alone", func(p kadm.PartitionDetail) bool { return p.Leader == 0 && len(p.ISR) == 1 })
	produce("u", "only broker 0", 10)

	first := fetchTo(t, c, "first", 0, "")
	backup := filepath.Join(t.TempDir(), "backup")
	store := func(flags string, want int) {
		t.Helper()
		p := start(t, "kbk-fetch -t ^ -b "+c.Bootstrap()+" "+flags, "kbk-pack", "kbk-push "+backup)
		if got := p.wait(); got[2] != want {
			t.Fatalf("status %d, not %d\n%s", got, want, p)
		}
	}
	store("", 0)
	between := time.Now().UnixMilli()
	if first.next["u"] != 20 || len(first.values["u"]) != 20 {
		t.Fatalf("the first run read up to %d, %q", first.next["u"], first.values["u"])
	}

	do(c.KillBroker(0))
	do(c.StartBroker(ctx, 1))
	state("there is no leader", func(p kadm.PartitionDetail) bool { return p.Leader < 0 })

	// While there is no leader, the run goes on with the rest, and says so.
	left := fetchTo(t, c, "left", 4, "--from "+first.cursor+" --timeout 3s")
	if len(left.values["u"]) > 0 || left.next[steady] != 5 || !slices.Equal(left.point.Without["u"], []int32{0}) {
		t.Errorf("without a leader: %+v, point %+v", left.values, left.point)
	}
	if !strings.Contains(left.said, "u/0") {
		t.Errorf("without a leader it said %s", left.said)
	}

	var unclean kadm.TopicsSet
	unclean.Add("u", 0)
	elected, err := adm.ElectLeaders(ctx, kadm.ElectLiveReplica, unclean)
	do(err)
	do(elected["u"][0].Err)
	state("broker 1 leads", func(p kadm.PartitionDetail) bool { return p.Leader == 1 })
	produce("u", "only broker 1", 25)

	second := fetchTo(t, c, "second", 4, "--from "+first.cursor)
	if !slices.Equal(second.branches, []int64{10}) || second.next["u"] != 35 || len(second.values["u"]) != 25 || second.values["u"][0] != "only broker 1 0" {
		t.Errorf("the second run read up to %d, branches %d, %q\n%s", second.next["u"], second.branches, second.values["u"], second.said)
	}
	if !strings.Contains(second.said, "u/0: the log was truncated") || !strings.Contains(second.said, "offsets 10 to 19") {
		t.Errorf("the second run said %s", second.said)
	}
	// The same in a backup: its own cursor knows the leader epochs.
	kept := start(t, "kbk-catalog cursor "+backup)
	if got := kept.wait(); got[0] != 0 {
		t.Fatalf("the backup's cursor: status %d\n%s", got, kept)
	}
	store("--from "+kept.output, 4)
	old := slices.Concat(numbered("both", 10), numbered("only broker 0", 10))
	now := slices.Concat(numbered("both", 10), numbered("only broker 1", 25))
	for flags, want := range map[string][]string{fmt.Sprintf("--at @%d", between): old, "": now} {
		p := start(t, "kbk-pull "+flags+" "+backup, "kbk-pack -d")
		got := p.wait()
		if r := readStream(t, p.output, "back"); !slices.Equal(r.values["u"], want) {
			t.Errorf("kbk-pull %s: status %d, %q\n%s", flags, got, r.values["u"], p)
		}
	}
	// From there on the log is one again.
	third := fetchTo(t, c, "third", 0, "--from "+second.cursor)
	if len(third.branches) > 0 || len(third.values["u"]) > 0 || third.next["u"] != 35 {
		t.Errorf("the third run read up to %d, branches %d, %q\n%s", third.next["u"], third.branches, third.values["u"], third.said)
	}
	// The old leader comes back, and gives up what it had alone.
	do(c.StartBroker(ctx, 0))
	state("both have it", func(p kadm.PartitionDetail) bool { return len(p.ISR) == 2 })
	if fourth := fetchTo(t, c, "fourth", 0, "--from "+third.cursor); len(fourth.branches) > 0 || fourth.next["u"] != 35 {
		t.Errorf("the fourth run read up to %d, branches %d\n%s", fourth.next["u"], fourth.branches, fourth.said)
	}
}

// numbered is what produce in TestUncleanElection makes.
func numbered(text string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s %d", text, i))
	}
	return out
}

// createOn creates a topic of one partition on some brokers.
func createOn(t *testing.T, cl *kgo.Client, topic string, brokers []int32) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, -1, -1
	ra := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
	ra.Replicas = brokers
	rt.ReplicaAssignment = append(rt.ReplicaAssignment, ra)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil || resp.Topics[0].ErrorCode != 0 {
		t.Fatalf("create %s: %v, %+v", topic, err, resp)
	}
}

// A fetched is what a run of kbk-fetch has read.
type fetched struct {
	values   map[string][]string
	next     map[string]int64 // of the last marks
	branches []int64
	point    *format.Point
	cursor   string // a file
	said     string
}

// fetchTo runs kbk-fetch of all topics, each of which has one partition.
func fetchTo(t *testing.T, c *kafkatest.Cluster, name string, status int, flags string) *fetched {
	t.Helper()
	p := start(t, "kbk-fetch -t ^ -b "+c.Bootstrap()+" "+flags)
	if got := p.wait(); got[0] != status {
		t.Fatalf("%s: status %d\n%s", name, got[0], p)
	}
	f := readStream(t, p.output, name)
	f.said = p.said(0)
	return f
}

// readStream reads a stream of topics with one partition each.
func readStream(t *testing.T, file, name string) *fetched {
	t.Helper()
	f := &fetched{values: make(map[string][]string), next: make(map[string]int64), cursor: filepath.Join(t.TempDir(), name+".json")}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cur := cursor.Cursor{Version: cursor.Version, Topics: make(map[string]cursor.Topic)}
	for r := format.NewReader(in, 0); ; {
		frame, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch frame.Kind {
		case format.KindRec:
			var rec format.Record
			if err := frame.Record(&rec); err != nil {
				t.Fatal(err)
			}
			f.values[rec.Topic] = append(f.values[rec.Topic], string(rec.Value))
		case format.KindPoint:
			if f.point, err = format.DecodePoint(frame.Raw); err != nil {
				t.Fatal(err)
			}
		case format.KindMark:
			m, err := format.DecodeMark(frame.Raw)
			if err != nil {
				t.Fatal(err)
			}
			if m.Branch {
				f.branches = append(f.branches, m.Next)
			}
			f.next[m.Topic] = m.Next
			topic := cursor.Topic{ID: m.TopicID, Partitions: map[int32]int64{0: m.Next}}
			if m.LeaderEpoch != nil {
				topic.Epochs = map[int32]int32{0: *m.LeaderEpoch}
			}
			cur.Topics[m.Topic] = topic
		}
	}
	text, err := json.Marshal(cur)
	if err == nil {
		err = os.WriteFile(f.cursor, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}
