package produce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka/kafkatest"
)

func topic(name string, partitions int, configs ...string) *format.Topic {
	t := &format.Topic{Name: name, Partitions: partitions, Configs: make(map[string]string)}
	for _, c := range configs {
		k, v, _ := strings.Cut(c, "=")
		t.Configs[k] = v
	}
	return t
}

// TestTimestamps restores what is found where something counts micro- or nanoseconds, or
// nothing.
func TestTimestamps(t *testing.T) {
	r := newRig(t)
	var frames frameList
	for i, ts := range []int64{1_700_000_000_000_000, -62_135_596_800_000, 1_700_000_000_000_000_000, math.MaxInt64, math.MinInt64, -1, 0} {
		frames = append(frames, format.Record{Topic: "t", Offset: int64(i), Timestamp: ts})
	}
	in := stream(t, &format.End{}, append(frameList{topic("t", 1, "retention.ms=-1")}, frames...)...)
	r.produce(in, nil).want(t, 0, "produced 7 records")
	h := newHasher()
	s := newScan(r.logs(), partition0("t"), 1<<20, h)
	got := s.read(t.Context(), 0, 7)
	for i, f := range frames {
		rec := f.(format.Record)
		if got.err != nil || len(got.spans) != len(frames) || got.spans[i].sum != s.hasher.sum(&rec) {
			t.Fatalf("record %d of %+v is another, %v", i, got.spans, got.err)
		}
	}
	r.produce(in, nil).want(t, 0, "7 records were already")
}

// TestParts restores a backup in parts, one behind the other and at the same time.
func TestParts(t *testing.T) {
	r := newRig(t)
	part := func(num int32) []byte {
		return stream(t, &format.End{}, join(frameList{topic("t", 2), &format.Mark{Topic: "t", Partition: num}}, records("t", num, 0, 50), frameList{&format.Mark{Topic: "t", Partition: num, Next: 50}})...)
	}
	for num := range int32(2) {
		o := r.produce(part(num), nil)
		o.want(t, 0, "produced 50 records")
		if !o.whole {
			t.Errorf("part %d: the map has no end", num)
		}
	}
	r.create("u", 2)
	errs := make(chan error, 2)
	rename := func(c *Config) { c.Naming.Prefix = "u." }
	r.create("u.t", 2, "retention.ms=86400000")
	for num := range int32(2) {
		go func() { errs <- r.produce(part(num), rename).err }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := len(r.values("u.t", 2)); got != 100 {
		t.Errorf("%d records", got)
	}
	if got := r.own("u.t"); got != "retention.ms=86400000" {
		t.Errorf("the topic has %s", got)
	}
}

// slowInput gives away some of a stream, and the rest when it is told to.
type slowInput struct {
	first, rest io.Reader
	go_         chan struct{}
}

func (s *slowInput) Read(b []byte) (int, error) {
	n, err := s.first.Read(b)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	<-s.go_
	return s.rest.Read(b)
}

// until waits for something that is to come.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("waited in vain for %s", what)
		}
	}
}

func (r *rig) end(topic string, num int32) int64 {
	ends, err := r.adm.ListEndOffsets(r.Context(), topic)
	if err != nil || ends.Error() != nil {
		return -1
	}
	o, _ := ends.Lookup(topic, num)
	return o.Offset
}

// begin starts a run that is given only some of its input, and waits until what it has
// been given is written. The rest comes when the function that is returned is called.
func (r *rig) begin(in []byte, topic string, change func(*Config)) (finish func() *outcome) {
	r.Helper()
	half := len(in) * 3 / 4
	slow := &slowInput{bytes.NewReader(in[:half]), bytes.NewReader(in[half:]), make(chan struct{})}
	done := make(chan *outcome, 1)
	go func() { done <- r.produceFrom(r.Context(), slow, change) }()
	r.until("the first records", func() bool { return r.end(topic, 0) > 0 })
	return func() *outcome {
		close(slow.go_)
		return <-done
	}
}

// TestTwoRestores lets two restores share a topic: the one that ends first must not put
// back what the other needs suspended.
func TestTwoRestores(t *testing.T) {
	r := newRig(t)
	r.create("t", 2, "retention.ms=86400000", "cleanup.policy=compact,delete")
	was := r.own("t")
	long := stream(t, &format.End{}, append(frameList{topic("t", 2)}, records("t", 0, 0, 400)...)...)
	finish := r.begin(long, "t", nil)
	held := r.own("t")
	if held == was {
		t.Fatalf("nothing is suspended: %s", held)
	}
	cmd, said := r.command(stream(t, &format.End{}, append(frameList{topic("t", 2)}, records("t", 1, 0, 4)...)...))
	if err := cmd.Run(); err != nil || !strings.Contains(said.String(), "still needs its configs suspended") {
		t.Fatal(err, said)
	}
	if now := r.own("t"); now != held {
		t.Errorf("while the other still runs the topic has %s", now)
	}
	finish().want(t, 0, "produced 400 records")
	if now := r.own("t"); now != was {
		t.Errorf("afterwards the topic has %s, and not %s", now, was)
	}
	if n := r.noted(); len(n) > 0 {
		t.Errorf("notes are left: %v", n)
	}
}

func (r *rig) set(topic, key, value string) {
	r.Helper()
	resps, err := r.adm.AlterTopicConfigs(r.Context(), []kadm.AlterConfig{{Name: key, Value: &value}}, topic)
	if err != nil || resps[0].Err != nil {
		r.Fatal(err, resps)
	}
}

// TestConfigsChanged has an operator set configs while records are restored.
func TestConfigsChanged(t *testing.T) {
	r := newRig(t)
	r.create("t", 1, "retention.ms=86400000")
	in := stream(t, &format.End{}, append(frameList{topic("t", 1)}, records("t", 0, 0, 400)...)...)
	finish := r.begin(in, "t", nil)
	r.set("t", "cleanup.policy", "compact")
	r.set("t", "retention.ms", "172800000")
	o := finish()
	o.want(t, command.Loss, "topic t: its cleanup.policy was changed while records were restored", "somebody has changed retention.ms to 172800000")
	if now := r.own("t"); now != "cleanup.policy=compact retention.ms=172800000" {
		t.Errorf("the topic has %s, and not what the operator has set", now)
	}
}

// TestStamped lets a broker set timestamps: each acknowledgement tells.
func TestStamped(t *testing.T) {
	r := newRig(t)
	in := stream(t, &format.End{}, append(frameList{topic("t", 1)}, records("t", 0, 0, 20)...)...)
	r.create("t", 1)
	wrote := false
	r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		p, ok := req.(*kmsg.ProduceRequest)
		if !ok || wrote {
			return nil, nil, false
		}
		wrote = true
		r.fake.SleepControl(func() {
			if _, err := p.RequestWith(t.Context(), r.cl); err != nil {
				t.Error(err)
			}
		})
		resp := p.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range p.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			sp := kmsg.NewProduceResponseTopicPartition()
			sp.BaseOffset, sp.LogAppendTime = 0, 12345
			st.Partitions = append(st.Partitions, sp)
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	r.produce(in, nil).want(t, command.Loss, "topic t, partition 0: the broker replaced timestamps of records between offsets 0 and 19")
}

// TestDeletedMeanwhile has somebody delete records while others are restored.
func TestDeletedMeanwhile(t *testing.T) {
	r := newRig(t)
	in := stream(t, &format.End{}, append(frameList{topic("t", 1)}, records("t", 0, 0, 400)...)...)
	finish := r.begin(in, "t", nil)
	if err := r.logs().DeleteBelow(t.Context(), partition0("t"), 7); err != nil {
		t.Fatal(err)
	}
	finish().want(t, command.Loss, "topic t, partition 0: offsets 0 to 6 have been deleted while records were restored")
}

// TestGoneMeanwhile has somebody delete the topic and create it again when all records are
// acknowledged: the run must not say that they are there.
func TestGoneMeanwhile(t *testing.T) {
	frames := append(frameList{topic("t", 2)}, records("t", 0, 0, 40)...)
	all, end := stream(t, &format.End{}, frames...), len(stream(t, nil, frames...))
	for name, change := range map[string]func(*Config){
		"resume": nil,
		"exact":  func(c *Config) { c.Exact = true },
		"append": func(c *Config) { c.IfNotEmpty = appending },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			slow := &slowInput{bytes.NewReader(all[:end]), bytes.NewReader(all[end:]), make(chan struct{})}
			done := make(chan *outcome, 1)
			go func() { done <- r.produceFrom(r.Context(), slow, change) }()
			r.until("the records", func() bool { return r.end("t", 0) == 40 })
			if _, err := r.adm.DeleteTopic(t.Context(), "t"); err != nil {
				t.Fatal(err)
			}
			r.create("t", 2, "retention.ms=1000", "cleanup.policy=compact")
			close(slow.go_)
			o := <-done
			o.want(t, 1, "topic t was deleted and created again while records were restored")
			if now := r.own("t"); now != "cleanup.policy=compact retention.ms=1000" {
				t.Errorf("the new topic has %s", now)
			}
			if n := r.noted(); len(n) > 0 {
				t.Errorf("notes are left: %v", n)
			}
			if o.whole {
				t.Error("the map has an end")
			}
		})
	}
}

// TestAnother tells topics by their ids, where there are any.
func TestAnother(t *testing.T) {
	for _, c := range []struct {
		had, has string
		want     bool
	}{{"A", "A", false}, {"A", "B", true}, {"", "", false}, {"A", "", false}, {"", "A", false}} {
		if got := another(c.had, c.has); got != c.want {
			t.Errorf("%q, then %q: %v", c.had, c.has, got)
		}
	}
}

// TestDeletedTopic has somebody delete the topic, for good.
func TestDeletedTopic(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	frames := append(frameList{topic("t", 1)}, records("t", 0, 0, 40)...)
	all, end := stream(t, &format.End{}, frames...), len(stream(t, nil, frames...))
	slow := &slowInput{bytes.NewReader(all[:end]), bytes.NewReader(all[end:]), make(chan struct{})}
	done := make(chan *outcome, 1)
	go func() {
		done <- r.produceFrom(r.Context(), slow, func(c *Config) { c.Timeout, c.IfNotEmpty = 2*time.Second, appending })
	}()
	r.until("the records", func() bool { return r.end("t", 0) == 40 })
	if _, err := r.adm.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	close(slow.go_)
	(<-done).want(t, 1, "topic t is gone")
}

// TestCutMeanwhile has the log cut off below what was acknowledged, as an unclean leader
// election does: at the end of a run, or before it goes on.
func TestCutMeanwhile(t *testing.T) {
	t.Parallel()
	frames := append(frameList{topic("t", 1)}, records("t", 0, 0, 40)...)
	more := join(frames, records("t", 0, 40, 10))
	for _, exact := range []bool{false, true} {
		for name, c := range map[string]struct {
			frames       frameList
			cut          func(r *rig, cut int64)
			want, helped string
		}{
			"at the end":        {frames, (*rig).endAt, "topic t, partition 0: the log ends at offset 30, and this run has written up to 40: records that the broker had acknowledged are gone", "run the same line again to write them again"},
			"before it goes on": {more, (*rig).writeAt, "topic t, partition 0: a batch was written at offset 30 and not at 40, which was next: records that the broker had acknowledged are gone", "delete the topic"},
		} {
			t.Run(fmt.Sprintf("%s, exact=%t", name, exact), func(t *testing.T) {
				r := newRig(t)
				all, some := stream(t, &format.End{}, c.frames...), len(stream(t, nil, frames...))
				slow := &slowInput{bytes.NewReader(all[:some]), bytes.NewReader(all[some:]), make(chan struct{})}
				done := make(chan *outcome, 1)
				go func() { done <- r.produceFrom(r.Context(), slow, func(c *Config) { c.Exact = exact }) }()
				r.until("the records", func() bool { return r.end("t", 0) == 40 })
				c.cut(r, 30)
				close(slow.go_)
				o := <-done
				o.want(t, 1, c.want)
				if hint := command.HintOf(o.err); !strings.Contains(hint, c.helped) {
					t.Errorf("the hint is %q", hint)
				}
			})
		}
	}
}

// endAt has all logs end at an offset, as brokers say.
func (r *rig) endAt(end int64) {
	r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		list, ok := req.(*kmsg.ListOffsetsRequest)
		if !ok || len(list.Topics) == 0 || list.Topics[0].Partitions[0].Timestamp != -1 {
			return nil, nil, false
		}
		return kafkatest.Listed(list, end), nil, true
	})
}

// writeAt has the broker write the next batch at an offset.
func (r *rig) writeAt(offset int64) {
	r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		write, ok := req.(*kmsg.ProduceRequest)
		if !ok {
			return nil, nil, false
		}
		resp := write.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range write.Topics {
			st, sp := kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
			st.Topic, st.TopicID, sp.BaseOffset = rt.Topic, rt.TopicID, offset
			st.Partitions = append(st.Partitions, sp)
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
}

// TestMarkersOfOldLeader has a leader write markers that its followers never get, and another
// leader cut them off.
func TestMarkersOfOldLeader(t *testing.T) {
	t.Parallel()
	for _, gap := range []int64{1, 3} {
		r := newRig(t)
		frames := join(frameList{topic("t", 1)}, records("t", 0, 0, 5), records("t", 0, 5+gap, 5))
		asked, isolated := 0, false
		r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
			switch req := req.(type) {
			case *kmsg.WriteTxnMarkersRequest:
				if !isolated {
					isolated = true
					return nil, errors.New("no followers"), true
				}
			case *kmsg.ListOffsetsRequest:
				if isolated && req.ReplicaID == -2 && asked < 4 {
					asked++
					return kafkatest.Listed(req, 5+gap), nil, true
				}
			}
			return nil, nil, false
		})
		r.produce(stream(t, &format.End{}, frames...), func(c *Config) { c.Exact = true }).want(t, 0)
		if asked < 4 {
			t.Errorf("the old leader was asked %d times", asked)
		}
		r.free()
		r.same("t", 1, wanted(true, frames, 1))
	}
}

func TestRetention(t *testing.T) {
	old := func() frameList {
		all := records("t", 0, 0, 50)
		for i := range all {
			rec := all[i].(format.Record)
			rec.Timestamp = 1_600_000_000_000
			all[i] = rec
		}
		return append(frameList{topic("t", 1)}, all...)
	}
	in := stream(t, &format.End{}, old()...)
	r := newRig(t)
	r.create("t", 1, "retention.ms=86400000", "message.timestamp.type=LogAppendTime")
	r.produce(in, func(c *Config) { c.DryRun = true }).want(t, 0, "its retention.ms of 86400000 would delete what is restored", "would set configs of topic t during the run")
	o := r.produce(in, nil)
	o.want(t, command.Loss, "topic t: not put back, because it would delete what was just restored: retention.ms of 86400000", "kafka-configs.sh", "--add-config 'retention.ms=86400000'")
	if now := r.own("t"); now != "message.timestamp.type=LogAppendTime retention.ms=-1" {
		t.Errorf("the topic has %s", now)
	}
	if !o.whole {
		t.Error("the map has no end")
	}
	r.create("wanted.t", 1, "retention.ms=86400000")
	r.produce(in, func(c *Config) { c.PutBackRetention, c.Naming.Prefix = true, "wanted." }).want(t, 0, "its retention.ms of 86400000 would delete what is restored")
	if now := r.own("wanted.t"); now != "retention.ms=86400000" {
		t.Errorf("the topic has %s", now)
	}
	r.create("kept.t", 1, "retention.bytes=10")
	r.produce(in, func(c *Config) { c.KeepConfigs, c.Naming.Prefix = true, "kept." }).want(t, command.Loss, "topic kept.t: its retention.bytes of 10 would delete what is restored")
	// A run that fails leaves it for the next one.
	r.create("failed.t", 1, "retention.ms=86400000", "cleanup.policy=compact,delete")
	failed := func(c *Config) { c.Naming.Prefix = "failed." }
	r.produce(in[:len(in)-40], failed).want(t, command.Corrupt, "retention.ms stays off, because it would delete what was restored")
	if now := r.own("failed.t"); now != "cleanup.policy=compact,delete retention.ms=-1" {
		t.Errorf("the topic has %s", now)
	}
	env := &command.Env{Log: discard()}
	if n := r.noted(); len(n) != 1 {
		t.Errorf("notes: %v", n)
	}
	r.pretendDead("failed.t")
	if err := Release(t.Context(), r.config(nil), env); err != nil {
		t.Fatal(err)
	}
	if now := r.own("failed.t"); now != "cleanup.policy=compact,delete retention.ms=86400000" {
		t.Errorf("after --release the topic has %s", now)
	}
	if n := r.noted(); len(n) > 0 {
		t.Errorf("notes are left: %v", n)
	}
}

// pretendDead makes the holders of a topic's note those of another machine, long ago.
func (r *rig) pretendDead(topic string) {
	r.Helper()
	k := newKeeper(r.cl, discard(), time.Second)
	if err := k.meet(r.Context()); err != nil {
		r.Fatal(err)
	}
	n, _ := parseNote(r.noted()[topic], "", "")
	for i := range n.Holders {
		n.Holders[i].Host, n.Holders[i].Renewed = "elsewhere", 1
	}
	if err := k.write(r.Context(), map[string]note{topic: n}); err != nil {
		r.Fatal(err)
	}
}

// TestStaleNotes wants a note of another cluster, another topic or a run that is over to
// change nothing.
func TestStaleNotes(t *testing.T) {
	hour := "3600000"
	in := stream(t, &format.End{}, append(frameList{topic("t", 1)}, records("t", 0, 0, 5)...)...)
	for name, change := range map[string]func(*note){
		"of another cluster":    func(n *note) { n.Cluster = "other" },
		"of another topic":      func(n *note) { n.TopicID = "other" },
		"of a run that is over": func(n *note) { n.Was, n.Holders = nil, nil },
	} {
		r := newRig(t)
		r.create("t", 1, "retention.ms=-1") // by the admin
		k := newKeeper(r.cl, discard(), time.Second)
		if err := k.meet(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := note{Version: noteVersion, Cluster: k.cluster, TopicID: r.id("t"), Was: map[string]*string{"retention.ms": &hour}, Holders: []holder{{Run: "x", Host: "elsewhere"}}}
		change(&n)
		if err := k.write(t.Context(), map[string]note{"t": n}); err != nil {
			t.Fatal(err)
		}
		r.produce(in, nil).want(t, 0, "produced 5 records")
		if now := r.own("t"); now != "retention.ms=-1" {
			t.Errorf("%s: the topic has %s", name, now)
		}
	}
}

func (r *rig) id(topic string) string {
	r.Helper()
	targets, err := newTargets(&Config{Timeout: time.Second}, discard(), r.cl, r.logs())
	if err != nil {
		r.Fatal(err)
	}
	have, err := targets.look(r.Context(), []wish{{target: topic}})
	if err != nil {
		r.Fatal(err)
	}
	return have[topic].id
}

// TestNextRunReleases wants a run to put back what one that was killed has left on
// another topic.
func TestNextRunReleases(t *testing.T) {
	r := newRig(t)
	r.create("t", 1, "retention.ms=86400000")
	r.killAndCatch(0, stream(t, &format.End{}, append(frameList{topic("t", 1)}, records("t", 0, 0, 5)...)...))
	if now := r.own("t"); now != "retention.ms=-1" {
		t.Fatalf("the topic has %s", now)
	}
	r.create("u", 1)
	r.produce(stream(t, &format.End{}, append(frameList{topic("u", 1)}, records("u", 0, 0, 5)...)...), nil).want(t, 0, "topic t: put back what a run that was killed has suspended: retention.ms")
	if now := r.own("t"); now != "retention.ms=86400000" {
		t.Errorf("the topic has %s", now)
	}
}

// TestGrowing has topics and partitions appear in mid-stream, as --follow sees them.
func TestGrowing(t *testing.T) {
	r := newRig(t)
	first := join(frameList{topic("t", 1)}, records("t", 0, 0, 300))
	later := join(frameList{topic("t", 3), topic("new", 2), topic("empty", 4), &format.Point{Time: 1}, &format.Mark{Topic: "new", Partition: 1}}, records("t", 2, 0, 5), records("new", 0, 0, 5))
	in := stream(t, &format.End{}, join(first, later)...)
	r.produce(in, nil).want(t, 1, "topic t has 1 partitions, and t needs 3")
	o := r.produce(in, func(c *Config) { c.AddPartitions = true })
	o.want(t, 0, "added partitions to topic t", "300 records were already")
	if got := len(r.values("t", 3)) + len(r.values("new", 2)); got != 310 {
		t.Errorf("%d records", got)
	}
	r.produce(in, func(c *Config) { c.AddPartitions = true }).want(t, 0, "produced 0 records to 3 topics, where 310 records were already")
	// Records of a partition that no topic frame has spoken of.
	in = stream(t, &format.End{}, join(frameList{topic("w", 1)}, records("w", 0, 0, 5), records("w", 4, 0, 5))...)
	r.produce(in, func(c *Config) { c.AddPartitions = true }).want(t, 0, "added partitions to topic w")
}

// TestNoRecords wants a stream without records to be treated like any other.
func TestNoRecords(t *testing.T) {
	r := newRig(t)
	in := stream(t, &format.End{}, topic("t", 3), &format.Mark{Topic: "t", Partition: 2, Next: 0})
	r.produce(in, func(c *Config) { c.CreateTopics = false }).want(t, 1, "topic t does not exist")
	o := r.produce(in, nil)
	o.want(t, 0, "created topic t")
	if !slices.Contains(o.frames, format.KindTarget) {
		t.Errorf("the map has %v", o.frames)
	}
	r.create("full.t", 3)
	full := func(c *Config) { c.Naming.Prefix = "full." }
	r.produce(stream(t, &format.End{}, join(frameList{topic("t", 3)}, records("t", 2, 0, 9))...), full).want(t, 0)
	r.produce(in, full).want(t, 1, "topic full.t is not empty: partition 2, offset 0: this restore ends before it")
	r.produce(in, func(c *Config) { full(c); c.IfNotEmpty, c.Yes = purge, true }).want(t, 0, "deleted 9 offsets of topic full.t")
	r.produce(stream(t, &format.End{}), nil).want(t, 0, "produced 0 records to 0 topics")
}

func TestAppend(t *testing.T) {
	r := newRig(t)
	r.create("t", 1)
	stop := make(chan struct{})
	written := make(chan int)
	go func() { // somebody else writes all the time
		n := 0
		for {
			select {
			case <-stop:
				written <- n
				return
			default:
			}
			if r.cl.ProduceSync(context.Background(), &kgo.Record{Topic: "t", Value: []byte("other")}).FirstErr() == nil {
				n++
			}
		}
	}()
	in := stream(t, &format.End{}, append(frameList{topic("t", 1)}, records("t", 0, 0, 200)...)...)
	for range 2 { // the second doubles them
		r.produce(in, func(c *Config) { c.IfNotEmpty = appending }).want(t, 0, "produced 200 records")
	}
	close(stop)
	others := <-written
	if got, want := r.end("t", 0), int64(400+others); got != want {
		t.Errorf("%d records, not %d", got, want)
	}
}

func TestPartitioner(t *testing.T) {
	r := newRig(t)
	in := stream(t, &format.End{}, join(frameList{topic("t", 2)}, records("t", 0, 0, 300), records("t", 1, 0, 300))...)
	for _, by := range []string{murmur2, roundRobin} {
		change := func(c *Config) { c.Partitioner, c.Partitions, c.Naming.Prefix = by, 5, by+"." }
		o := r.produce(in, change)
		o.want(t, 0, "produced 600 records")
		if o.mapped() != 600 {
			t.Errorf("%s: the map has %d records", by, o.mapped())
		}
		if got := len(r.values(by+".t", 5)); got != 600 {
			t.Errorf("%s: %d records", by, got)
		}
		r.produce(in, change).want(t, 0, "produced 0 records to 1 topic, where 600 records were already")
		r.produce(in[:len(in)/2], change).want(t, command.Corrupt)
	}
}

func TestTooLarge(t *testing.T) {
	r := newRig(t)
	r.create("t", 1, "max.message.bytes=20000")
	noise := make([]byte, 30_000)
	for i := range noise {
		noise[i] = byte(i * i * i >> 5)
	}
	frames := append(frameList{topic("t", 1, "max.message.bytes=5000000")}, records("t", 0, 0, 100)...)
	in := stream(t, &format.End{}, append(slices.Clone(frames), format.Record{Topic: "t", Offset: 100, Timestamp: time.Now().UnixMilli(), Value: bytes.Repeat([]byte("x"), 100_000)})...)
	r.produce(in, func(c *Config) { c.DryRun = true }).want(t, 0, "topic t takes batches of up to 20000 bytes, and t took up to 5000000 bytes")
	r.produce(in, nil).want(t, 0, "produced 101 records") // compressed it fits
	large := stream(t, &format.End{}, append(slices.Clone(frames), format.Record{Topic: "t", Offset: 100, Timestamp: time.Now().UnixMilli(), Value: noise})...)
	change := func(c *Config) {
		c.Naming.Prefix, c.Compression, c.Configs = "none.", "none", map[string]string{"max.message.bytes": "20000"}
	}
	r.produce(large, func(c *Config) { change(c); c.DryRun = true }).want(t, 1, "t/0: the record of offset 100 takes 29 KiB, and topic none.t takes batches of 20 KiB", "1 record too large")
	r.produce(large, change).want(t, 1, "the record of offset 100 takes 29 KiB, and topic none.t takes batches of 20 KiB")
}

// TestLargeRecords restores records of several megabytes with a memory of 16 MiB.
func TestLargeRecords(t *testing.T) {
	r := newRig(t)
	r.create("t", 2, "max.message.bytes=40000000")
	var frames frameList
	for i := range int64(6) {
		value := make([]byte, 5<<20*(i+1)%(17<<20))
		for j := range value {
			value[j] = byte(int64(j) * (i + 3) >> 3)
		}
		frames = append(frames, format.Record{Topic: "t", Partition: int32(i % 2), Offset: i / 2, Timestamp: time.Now().UnixMilli(), Value: value})
		frames = append(frames, records("u", 0, 3*i, 3)...)
	}
	in := stream(t, &format.End{}, join(frameList{topic("t", 2), topic("u", 1)}, frames)...)
	r.produce(in, nil).want(t, 0, "produced 24 records")
	r.produce(in, nil).want(t, 0, "24 records were already")
}

// TestManyLanes has more partitions than there is memory for batches that grow.
func TestManyLanes(t *testing.T) {
	r := newRig(t)
	var frames frameList
	for i := range int64(40) {
		for num := range int32(200) {
			frames = append(frames, format.Record{Topic: "t", Partition: num, Offset: i, Timestamp: time.Now().UnixMilli(), Value: fmt.Append(nil, i)})
		}
	}
	in := stream(t, &format.End{}, append(frameList{topic("t", 200)}, frames...)...)
	r.produce(in, func(c *Config) { c.Memory = 1 << 20 }).want(t, 0, "produced 8,000 records")
	if got := len(r.values("t", 200)); got != 8000 {
		t.Errorf("%d records", got)
	}
}

func TestExactModes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	exact := func(c *Config) { c.Exact = true }
	frames := join(frameList{topic("t", 2), &format.Mark{Topic: "t", Next: 250_000}}, records("t", 0, 250_010, 30), records("t", 0, 250_100, 30),
		frameList{&format.Mark{Topic: "t", Next: 250_200}, &format.Mark{Topic: "t", Partition: 1, Next: 0}, &format.Mark{Topic: "t", Partition: 1, Next: 7}})
	in := stream(t, &format.End{}, frames...)
	r.produce(in, func(c *Config) { exact(c); c.DryRun = true }).want(t, 0, "would fill 250,000 offsets below the first records of topic t, and write 147 markers into 4 gaps between")
	o := r.produce(in, exact)
	o.want(t, 0, "proved the offsets of 2 partitions by their ends and 4 sampled records", "filled 250,000 offsets of topic t, partition 0")
	r.same("t", 2, wanted(true, frames, 2))
	if r.end("t", 0) != 250_200 || r.end("t", 1) != 7 {
		t.Errorf("the logs end at %d and %d", r.end("t", 0), r.end("t", 1))
	}
	if o.mapped() != 60 || o.maps[0].TargetFirst != o.maps[0].SourceFirst {
		t.Errorf("the map: %+v", o.maps)
	}
	r.produce(in, exact).want(t, 0, "produced 0 records")
	r.produce(in, func(c *Config) { exact(c); c.MaxGap, c.Naming.Prefix = 20, "gap." }).want(t, 1, "more than --max-gap")
	r.produce(stream(t, &format.End{}, records("t", 0, 9, 1)...), exact).want(t, 1, "topic t is not empty")
	r.produce(stream(t, &format.End{}, join(frameList{topic("m", 2)}, records("m", 0, 0, 3), records("m", 1, 0, 3))...), func(c *Config) {
		exact(c)
		c.PartitionMap = map[int32]int32{1: 0}
	}).want(t, command.Usage, "partitions 0 and 1 of topic m would both go to partition 0")
	// The leader moves and requests fail while gaps are filled.
	n := 0
	r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		if req.Key() != int16(kmsg.WriteTxnMarkers) {
			return nil, nil, false
		}
		n++
		return nil, errors.New("dropped"), n%2 == 1
	})
	var many frameList
	for i := range int64(8) {
		many = append(many, records("d", 0, 5*i, 3)...)
	}
	r.produce(stream(t, &format.End{}, append(frameList{topic("d", 1)}, many...)...), exact).want(t, 0)
	r.free()
	r.same("d", 1, wanted(true, many, 1))
}

// TestInterrupted wants the end of a source that was stopped to be passed on, and a loss.
func TestEnds(t *testing.T) {
	r := newRig(t)
	frames := append(frameList{topic("t", 1)}, records("t", 0, 0, 9)...)
	r.produce(stream(t, &format.End{Interrupted: true}, frames...), nil).want(t, command.Interrupted, "the topics have what was read, which is not everything")
	end := new(format.End)
	end.Lose("t/0: 5 offsets had expired")
	o := r.produce(stream(t, end, frames...), nil)
	o.want(t, command.Loss, "t/0: 5 offsets had expired")
	r.produce(stream(t, nil, frames...), nil).want(t, command.Corrupt, "stream ended before its end frame")
	r.produce([]byte("no stream"), nil).want(t, command.Corrupt)
	r.produce(stream(t, &format.End{}, &format.Batch{Topic: "t", Data: []byte("x")}), nil).want(t, command.Corrupt, "a batch in a stream of records")
}

// TestDisorder refuses a stream that has offsets twice or goes back, with new offsets and
// with exact ones. What came before it is there, and the map has no end.
func TestDisorder(t *testing.T) {
	t.Parallel()
	mark := func(next int64) *format.Mark { return &format.Mark{Topic: "t", Next: next} }
	for name, c := range map[string]struct {
		frames frameList
		want   string
	}{
		"a record twice":          {join(records("t", 0, 0, 5), records("t", 0, 4, 1)), "t/0: record of offset 4 where 5 or above is expected"},
		"records that go back":    {join(records("t", 0, 0, 5), records("t", 1, 0, 5), records("t", 0, 0, 5)), "t/0: record of offset 0 where 5 or above is expected"},
		"a record below a mark":   {join(records("t", 0, 0, 5), frameList{mark(9)}, records("t", 0, 7, 1)), "t/0: record of offset 7 where 9 or above is expected"},
		"a mark that goes back":   {join(records("t", 0, 0, 5), frameList{mark(4)}), "t/0: a mark at offset 4 behind 5"},
		"marks before any record": {join(frameList{mark(9), mark(0)}, records("t", 0, 0, 5)), "t/0: a mark at offset 0 behind 9"},
	} {
		for _, exact := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/exact=%v", name, exact), func(t *testing.T) {
				r := newRig(t)
				in := stream(t, &format.End{}, join(frameList{topic("t", 2)}, c.frames)...)
				for range 2 { // a second time the target has what came before
					o := r.produce(in, func(cfg *Config) { cfg.Exact = exact })
					o.want(t, command.Corrupt, "standard input: "+c.want)
					if o.whole {
						t.Error("the map has an end")
					}
				}
			})
		}
	}
	// Scanning that begins anew may go back.
	r := newRig(t)
	anew := &format.Mark{Topic: "t", Next: 0, MarkInfo: format.MarkInfo{Begins: true}}
	in := stream(t, &format.End{}, join(frameList{topic("t", 1)}, records("t", 0, 5, 5), frameList{anew}, records("t", 0, 0, 5))...)
	r.produce(in, nil).want(t, 0, "produced 10 records")
	r.produce(in, func(c *Config) { c.Exact, c.Naming.Prefix = true, "x." }).want(t, 1, "offset 0 is not available")
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	frames := append(frameList{topic("t", 1, "no.such=1", "retention.ms=soon"), topic("u", 1, "no.such=1")}, records("t", 0, 0, 9)...)
	refused := r.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: "u", Err: kerr.InvalidConfig, Count: -1})
	r.produce(stream(t, &format.End{}, frames...), nil).want(t, 1, "create topic u: the cluster refuses no.such=1")
	refused.Remove()
	r.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: "u", Err: kerr.InvalidReplicationFactor})
	r.produce(stream(t, &format.End{}, frames...), nil).want(t, 1, "create topic u with -1 replicas")
	if r.end("t", 0) != -1 {
		t.Error("a topic was created though another was refused")
	}
	r.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidTimestamp, Count: -1})
	in := stream(t, &format.End{}, append(frameList{topic("w", 1)}, records("w", 0, 0, 9)...)...)
	r.produce(in, nil).want(t, 1, "produce w/0 to topic w, partition 0, from offset 0 on: INVALID_TIMESTAMP")
}

// TestTimeout wants a run to end that cannot go on, and to say why.
func TestTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	r.create("t", 1, "retention.ms=86400000")
	in := stream(t, &format.End{}, append(frameList{topic("t", 1)}, records("t", 0, 0, 9)...)...)
	r.produce(in, func(c *Config) { c.Timeout = 9 * time.Second }).want(t, 1, "waiting for t/0", "NOT_ENOUGH_REPLICAS", "(for 9s)")
	if now := r.own("t"); now != "retention.ms=86400000" {
		t.Errorf("the topic has %s", now)
	}
}

// TestMarkersTimeout wants the same of markers.
func TestMarkersTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.WriteTxnMarkers}, Err: kerr.NotEnoughReplicas, Count: -1})
	in := stream(t, &format.End{}, join(frameList{topic("t", 2)}, records("t", 1, 0, 3), records("t", 1, 5, 3))...)
	r.produce(in, func(c *Config) { c.Exact, c.Timeout = true, 9*time.Second }).want(t, 1,
		"waiting for t/1, for", "write transaction markers: NOT_ENOUGH_REPLICAS", "(for 9s)")
}

// TestReady says what a topic lacks.
func TestReady(t *testing.T) {
	with := func(leaders ...int32) kadm.TopicDetail {
		d := kadm.TopicDetail{Partitions: make(kadm.PartitionDetails)}
		for num, leader := range leaders {
			d.Partitions[int32(num)] = kadm.PartitionDetail{Partition: int32(num), Leader: leader}
		}
		return d
	}
	for _, c := range []struct {
		have kadm.TopicDetail
		want string
	}{
		{with(0, 1, 0), ""},
		{with(0, -1, 0), "partition 1 has no leader"},
		{with(0, 1), "it has 2 of 3 partitions"},
		{kadm.TopicDetail{Err: kerr.UnknownTopicOrPartition}, "UNKNOWN_TOPIC_OR_PARTITION"},
	} {
		if err := ready(c.have, 3); (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

// A brokenPipe fails once some bytes have been written to it.
type brokenPipe struct{ left int }

func (b *brokenPipe) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, errors.New("broken pipe")
	}
	return len(p), nil
}

// TestMapBreaks wants configs back when the map's reader is gone.
func TestMapBreaks(t *testing.T) {
	for _, left := range []int{100, 5000} {
		r := newRig(t)
		r.create("t", 1, "retention.ms=86400000")
		var frames frameList
		for i := range int64(2000) { // each in a run of its own
			frames = append(frames, format.Record{Topic: "t", Offset: 2 * i, Timestamp: time.Now().UnixMilli()})
		}
		env := &command.Env{Log: discard()}
		err := Run(t.Context(), r.config(nil), env, bytes.NewReader(stream(t, &format.End{}, append(frameList{topic("t", 1)}, frames...)...)), &brokenPipe{left})
		if err == nil || !strings.Contains(err.Error(), "broken pipe") {
			t.Errorf("%v", err)
		}
		if now := r.own("t"); now != "retention.ms=86400000" {
			t.Errorf("the topic has %s", now)
		}
	}
}

// TestManyTopics wants the configs of all topics to be suspended, and put back, in one
// request each: whoever presses Ctrl-C twice does not wait long.
func TestManyTopics(t *testing.T) {
	r := newRig(t)
	var frames frameList
	for i := range 400 {
		name := fmt.Sprint("t", i)
		frames = append(frames, topic(name, 1, "retention.ms=86400000"), format.Record{Topic: name, Timestamp: time.Now().UnixMilli()})
	}
	slices.SortStableFunc(frames, func(a, b any) int { // topics first
		_, x := a.(format.Record)
		_, y := b.(format.Record)
		return map[bool]int{true: 1}[x] - map[bool]int{true: 1}[y]
	})
	requests := 0
	r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		if req.Key() == int16(kmsg.IncrementalAlterConfigs) {
			requests++
		}
		return nil, nil, false
	})
	r.produce(stream(t, &format.End{}, frames...), nil).want(t, 0, "produced 400 records to 400 topics")
	if requests != 2 {
		t.Errorf("%d requests", requests)
	}
	if now := r.own("t399"); now != "retention.ms=86400000" {
		t.Errorf("the topic has %s", now)
	}
}

// TestPutBackFails wants what could not be put back to be listed with commands that do it.
func TestPutBackFails(t *testing.T) {
	r := newRig(t)
	r.create("t", 1, "retention.ms=86400000", "cleanup.policy=compact,delete")
	n := 0
	r.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.IncrementalAlterConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1, When: func(kmsg.Request) bool { n++; return n > 1 }})
	o := r.produce(stream(t, &format.End{}, append(frameList{topic("t", 1)}, records("t", 0, 0, 5)...)...), nil)
	o.want(t, 1, "topic t: put back its configs: TOPIC_AUTHORIZATION_FAILED", "--add-config 'cleanup.policy=[compact,delete],retention.ms=86400000'")
	if len(r.noted()) != 1 {
		t.Error("the note is gone, and nobody will put them back")
	}
}

// TestBrokerAway takes a broker away for a while, in the middle.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("t", 1)
	in := stream(t, &format.End{}, append(frameList{topic("t", 1)}, records("t", 0, 0, 400)...)...)
	finish := r.begin(in, "t", nil)
	gone := time.Now().Add(3 * time.Second)
	r.control(func(kmsg.Request) (kmsg.Response, error, bool) {
		if time.Now().Before(gone) {
			return nil, errors.New("away"), true
		}
		return nil, nil, false
	})
	finish().want(t, 0, "produced 400 records")
	r.free()
	if got := len(r.values("t", 1)); got != 400 {
		t.Errorf("%d records", got)
	}
}

// TestAnswersLost loses the answers to what creates a topic and adds partitions: the client
// repeats the request, and the broker says that it is done already.
func TestAnswersLost(t *testing.T) {
	frames := append(frameList{topic("t", 2)}, records("t", 1, 0, 20)...)
	in := stream(t, &format.End{}, frames...)
	for name, c := range map[string]struct {
		had  int32
		lose func(kmsg.Request) bool
	}{
		"create": {0, func(req kmsg.Request) bool {
			r, ok := req.(*kmsg.CreateTopicsRequest)
			return ok && !r.ValidateOnly && r.Topics[0].Topic == "t"
		}},
		"look": {0, func(req kmsg.Request) bool { // what is created is seen at once, and the run had looked before
			r, ok := req.(*kmsg.CreateTopicsRequest)
			return ok && r.ValidateOnly
		}},
		"add": {1, func(req kmsg.Request) bool { return req.Key() == int16(kmsg.CreatePartitions) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if c.had > 0 {
				r.create("t", c.had)
			}
			lost := false
			r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
				if lost || !c.lose(req) {
					return nil, nil, false
				}
				lost = true
				r.fake.SleepControl(func() {
					if c.had == 0 {
						r.create("t", 2)
					} else if _, err := r.adm.UpdatePartitions(t.Context(), 2, "t"); err != nil {
						t.Error(err)
					}
				})
				add, ok := req.(*kmsg.CreatePartitionsRequest)
				if !ok {
					return nil, nil, false
				}
				// The embedded broker would take it.
				resp := add.ResponseKind().(*kmsg.CreatePartitionsResponse)
				resp.Topics = append(resp.Topics, kmsg.CreatePartitionsResponseTopic{Topic: "t", ErrorCode: kerr.InvalidPartitions.Code})
				return resp, nil, true
			})
			r.produce(in, func(c *Config) { c.AddPartitions = true }).want(t, 0, "produced 20 records")
			if !lost {
				t.Error("nothing was lost")
			}
			r.same("t", 2, wanted(false, frames, 2))
		})
	}
}

// TestReplicaAway creates a topic while a broker is away: of a cluster that knows of it, the
// run waits; of one that does not, it says what to do.
func TestReplicaAway(t *testing.T) {
	frames := append(frameList{topic("t", 1)}, records("t", 0, 0, 20)...)
	in := stream(t, &format.End{}, frames...)
	for name, c := range map[string]struct {
		replicas int
		knows    int // brokers that the cluster knows of, one of them away
		status   int
		says     string
	}{
		"away":                 {3, 3, 0, "produced 20 records"},
		"away, default":        {0, 3, 0, "produced 20 records"},
		"smaller":              {3, 2, 1, "create topic t with 3 replicas: INVALID_REPLICATION_FACTOR"},
		"nobody says, default": {0, 0, 1, "INVALID_REPLICATION_FACTOR"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			refused, described := 0, 0
			r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
				switch req := req.(type) {
				case *kmsg.DescribeClusterRequest:
					resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
					if described++; described == 1 {
						resp.ErrorCode = kerr.RequestTimedOut.Code
						return resp, nil, true
					}
					for i := range c.knows {
						resp.Brokers = append(resp.Brokers, kmsg.DescribeClusterResponseBroker{IsFenced: i == 0})
					}
					return resp, nil, true
				case *kmsg.CreateTopicsRequest:
					if refused++; refused > 3 {
						req.Topics[0].ReplicationFactor = 1
						return nil, nil, false
					}
					resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
					resp.Topics = append(resp.Topics, kmsg.CreateTopicsResponseTopic{Topic: "t", ErrorCode: kerr.InvalidReplicationFactor.Code})
					return resp, nil, true
				}
				return nil, nil, false
			})
			r.produce(in, func(cfg *Config) { cfg.ReplicationFactor = c.replicas }).want(t, c.status, c.says)
			if c.status == 0 && refused <= 3 || c.status != 0 && refused > 1 {
				t.Errorf("asked %d times", refused)
			}
		})
	}
}
