package offsets

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// TestSnapshotLeaderless looks which records groups read next, of which one is in a
// partition that has no leader.
func TestSnapshotLeaderless(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var committed kadm.Offsets
	for p := range int32(2) {
		for range 3 {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Partition: p, Value: []byte("v")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		committed.Add(kadm.Offset{Topic: "t", Partition: p, At: 1, LeaderEpoch: -1})
	}
	if err := kadm.NewClient(cl).CommitAllOffsets(t.Context(), "app", committed); err != nil {
		t.Fatal(err)
	}
	meta, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	for i := range meta.Topics[0].Partitions {
		if p := &meta.Topics[0].Partitions[i]; p.Partition == 0 {
			p.Leader, p.ErrorCode = -1, kerr.LeaderNotAvailable.Code
		}
	}
	fake.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		resp := *meta
		resp.SetVersion(req.GetVersion())
		return &resp, nil, true
	})
	for _, next := range []bool{true, false} {
		var out, said bytes.Buffer
		cfg := SnapshotConfig{Kafka: kafka.Config{Brokers: fake.ListenAddrs()}, Topics: func(string) bool { return true }, Next: next}
		err := Snapshot(t.Context(), cfg, &command.Env{Log: slog.New(slog.NewTextHandler(&said, nil))}, &out)
		if want := map[bool]int{true: command.Loss, false: command.OK}[next]; command.StatusOf(err) != want {
			t.Fatalf("next %v: %v", next, err)
		}
		if !strings.Contains(said.String(), "t/0: ") {
			t.Errorf("next %v: said %s", next, &said)
		}
		var group *format.Group
		var asked *format.Groups
		var end *format.End
		for r := format.NewReader(&out, 0); end == nil; {
			f, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			switch f.Kind {
			case format.KindGroups:
				asked, err = format.DecodeGroups(f.Raw)
			case format.KindGroup:
				group, err = format.DecodeGroup(f.Raw)
			case format.KindEnd:
				end, err = format.DecodeEnd(f.Raw)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if asked == nil || !slices.Equal(asked.IDs, []string{"app"}) || asked.Topics["t"] == "" || group.Topics["t"] != asked.Topics["t"] {
			t.Errorf("next %v: asked %+v", next, asked)
		}
		parts := group.Offsets["t"]
		if parts[0].Offset != 1 || parts[0].End != nil || parts[0].Record != nil {
			t.Errorf("next %v: of the partition without a leader it says %+v", next, parts[0])
		}
		if parts[1].End == nil || *parts[1].End != 3 || (parts[1].Record != nil) != next {
			text, _ := json.Marshal(parts[1])
			t.Errorf("next %v: of the other one it says %s", next, text)
		}
		if end.Lost != next || next && !strings.Contains(end.Losses[0], "t/0: what its groups read next cannot be told") {
			t.Errorf("next %v: end %+v", next, end)
		}
	}
}
