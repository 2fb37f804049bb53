package offsets

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/kafka/kafkatest"
	"github.com/kbkio/kbk/pkg/partitionlog"
)

// TestSnapshotLeaderless looks which records groups read next, of which one is in a
// partition that has no leader.
func TestSnapshotLeaderless(t *testing.T) {
	w := newWorld(t, "t")
	fake, cl := w.c, w.cl
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
		if end.Lost != next || next && !strings.Contains(end.Losses[0], "t/0: it is not known what its groups read next") {
			t.Errorf("next %v: end %+v", next, end)
		}
	}
}

func (w *world) snapshot(change func(*SnapshotConfig)) (*bytes.Buffer, error) {
	cfg := SnapshotConfig{Kafka: w.kafka(), Topics: everybody}
	if change != nil {
		change(&cfg)
	}
	var out bytes.Buffer
	err := Snapshot(w.t.Context(), cfg, w.env, &out)
	return &out, err
}

// TestSnapshot reads offsets, where partitions end, topic ids and next records; kbk's own
// group is no data.
func TestSnapshot(t *testing.T) {
	w := newWorld(t, "t", "u")
	w.produce("t", 0, "abcde")
	w.commit("a", "t", 0, 2)
	w.commit("a", "t", 1, 0)
	w.commit("b", "u", 0, 0)
	w.commit(groups.Produce, "t", 0, 0)
	meta, err := w.adm.Metadata(t.Context(), "t")
	ok(t, err)
	for _, next := range []bool{false, true} {
		out, err := w.snapshot(func(c *SnapshotConfig) { c.Next = next })
		ok(t, err)
		w.tells("read 3 offsets of 2 groups")
		all, end := read(t, out)
		if len(all) != 2 || all[0].ID != "a" || all[1].ID != "b" || end.Lost {
			t.Fatalf("%+v, %+v", all, end)
		}
		id := meta.Topics["t"].ID.String()
		if o := all[0].Offsets["t"][0]; o.Offset != 2 || *o.End != 5 || *o.LeaderEpoch != 0 || *o.Metadata != "note" || all[0].Topics["t"] == "" || len(all[0].Topics["t"]) != 22 {
			t.Errorf("%+v of %+v (%s)", o, all[0], id)
		}
		rec := all[0].Offsets["t"][0].Record
		if want := nextRecord(&format.Record{Offset: 2, Timestamp: 1002, Value: []byte("c")}); next != (rec != nil) || next && (rec.Offset != 2 || !bytes.Equal(rec.Digest, want.Digest)) {
			t.Errorf("next: %+v", rec)
		}
		if o := all[0].Offsets["t"][1]; o.Record != nil || *o.End != 0 {
			t.Errorf("an empty partition: %+v", o)
		}
	}
	out, err := w.snapshot(func(c *SnapshotConfig) {
		c.JSON, c.Topics = true, func(name string) bool { return name == "u" }
	})
	var line struct {
		Group   string
		Offsets map[string]map[string]struct{ Offset, End int64 }
	}
	ok(t, err)
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Group != "b" || line.Offsets["u"]["0"].Offset != 0 {
		t.Errorf("%s, %v", out, err)
	}
	// Nobody to talk to: there is a header, so that the next command knows that this one
	// has failed.
	cfg := SnapshotConfig{Topics: everybody}
	cfg.Kafka.Brokers = []string{"127.0.0.1:1"}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var broken bytes.Buffer
	if err := Snapshot(ctx, cfg, w.env, &broken); err == nil || broken.Len() == 0 {
		t.Errorf("%v, %d bytes", err, broken.Len())
	}
}

// TestSnapshotUnread says which partition broke while its records were looked for, and
// does not take it for one without records.
func TestSnapshotUnread(t *testing.T) {
	w := newWorld(t, "t")
	w.produce("t", 0, "abc")
	w.produce("t", 1, "xyz")
	w.commit("a", "t", 0, 1)
	w.commit("a", "t", 1, 1)
	w.c.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		w.c.KeepControl()
		req := r.(*kmsg.FetchRequest)
		if req.Topics[0].Partitions[0].Partition == 0 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.Partition, rp.ErrorCode = 1, kerr.TopicAuthorizationFailed.Code
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	out, err := w.snapshot(func(c *SnapshotConfig) { c.Next = true })
	fails(t, err, command.Loss, "t/1: it is not known what its groups read next: read t/1 from offset 1: TOPIC_AUTHORIZATION_FAILED")
	all, _ := read(t, out)
	if a := all[0].Offsets["t"]; a[0].Record == nil || a[1].Record != nil || a[1].End == nil || *a[1].End != 3 {
		t.Errorf("%+v", all[0])
	}
}

// TestSnapshotShare names share groups, which are left out.
func TestSnapshotShare(t *testing.T) {
	w := newWorld(t, "t")
	w.produce("t", 0, "abc")
	w.commit("a", "t", 0, 1)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.c.ListenAddrs()...), kgo.ShareGroup("shared"), kgo.ConsumeTopics("t"))
	ok(t, err)
	defer cl.Close()
	for {
		listed, err := w.adm.ListGroups(t.Context())
		ok(t, err)
		if _, there := listed["shared"]; there {
			break
		}
		some, enough := context.WithTimeout(t.Context(), 50*time.Millisecond)
		cl.PollFetches(some)
		enough()
	}
	out, err := w.snapshot(nil)
	fails(t, err, command.Loss, "share groups have no committed offsets, and are left out: shared")
	if all, end := read(t, out); len(all) != 1 || all[0].ID != "a" || len(end.Losses) != 1 {
		t.Errorf("%+v, %+v", all, end)
	}
	_, err = w.snapshot(func(c *SnapshotConfig) { c.ExcludeGroups = []string{"shared"} })
	ok(t, err)
}

// TestRemoteIsNotTheEnd gets no record from a broker that has them in remote storage, and
// then from one that has none any more.
func TestRemoteIsNotTheEnd(t *testing.T) {
	w := newWorld(t, "t")
	fake, cl := w.c, w.cl
	for range 3 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	r, err := newReader(t.Context(), cl, slog.New(slog.DiscardHandler), []string{"t"})
	if err != nil {
		t.Fatal(err)
	}
	r.logs = partitionlog.New(t.Context(), cl, slog.New(slog.DiscardHandler), 500*time.Millisecond)
	fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		rt, rp := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
		rt.Topic, rt.TopicID = req.(*kmsg.FetchRequest).Topics[0].Topic, req.(*kmsg.FetchRequest).Topics[0].TopicID
		rp.HighWatermark, rp.LastStableOffset = 3, 3
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	var local int64
	fake.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		asked := req.(*kmsg.ListOffsetsRequest)
		if asked.Topics[0].Partitions[0].Timestamp != kafka.LocalStartOffset {
			return nil, nil, false
		}
		return kafkatest.Listed(asked, local), nil, true
	})
	p := place{"t", 0}
	for _, local = range []int64{2, -1} {
		if _, unread := r.peek(t.Context(), map[place][]int64{p: {1}}); unread[p] == nil || !strings.Contains(unread[p].Error(), "remote storage") {
			t.Errorf("local from %d: %v", local, unread)
		}
	}
	local = 1
	if found, unread := r.peek(t.Context(), map[place][]int64{p: {1}}); len(unread) > 0 || len(found[p]) > 0 {
		t.Errorf("compacted away: %v, %v", found, unread)
	}
}

// TestSnapshotLowEnd has a leader tell an end below what a group has read, as one does for a moment
// that was cut off from the other brokers: the offset would count as one at the end.
func TestSnapshotLowEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "t")
	w.produce("t", 0, "abcde")
	w.commit("a", "t", 0, 4)
	asked := 0
	w.c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.c.KeepControl()
		list := req.(*kmsg.ListOffsetsRequest)
		if list.Topics[0].Partitions[0].Timestamp != kafka.EndOffset {
			return nil, nil, false
		}
		if asked++; asked > 3 {
			return nil, nil, false
		}
		return kafkatest.Listed(list, 2), nil, true
	})
	var out bytes.Buffer
	if err := Snapshot(t.Context(), SnapshotConfig{Kafka: w.kafka(), Topics: everybody, Next: true, JSON: true}, w.env, &out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, `"end":5,"record":{"offset":4`) {
		t.Errorf("after %d questions: %s", asked, got)
	}
}
