package produce

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/command/commandtest"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/partitionlog"
)

// following encodes a stream of a cluster that goes on.
func following(t testing.TB, end *format.End, frames ...any) []byte {
	t.Helper()
	return followed(t, format.ContentRecords, streamOf(t, format.ContentRecords, end, frames...))
}

// followingBatches is the same in batches of four records.
func followingBatches(t testing.TB, end *format.End, frames ...any) []byte {
	t.Helper()
	return followed(t, format.ContentBatches, streamOf(t, format.ContentBatches, end, batched(t, "lz4", 4, frames)...))
}

// followed gives a stream the header of one that goes on.
func followed(t testing.TB, content string, whole []byte) []byte {
	t.Helper()
	plain, err := (&format.Header{Content: content}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := (&format.Header{Content: content, Follow: true, Source: &format.Source{Cluster: "A"}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return append(h, bytes.TrimPrefix(whole, plain)...)
}

type encoding func(t testing.TB, end *format.End, frames ...any) []byte

// encodings are those in which a mirror may come. What one has written the other goes on with.
var encodings = map[string][2]encoding{"records": {following, following}, "batches": {followingBatches, followingBatches}, "records, then batches": {following, followingBatches}, "batches, then records": {followingBatches, following}}

func mirrored(c *Config) { c.Exact, c.AddPartitions = true, true }

func mark(topic string, num int32, next int64) *format.Mark {
	return &format.Mark{Topic: topic, Partition: num, Next: next}
}

func group(id, topic string, offsets ...int64) *format.Group {
	g := &format.Group{ID: id, Offsets: map[string]map[int32]format.GroupOffset{topic: {}}}
	for num, o := range offsets {
		g.Offsets[topic][int32(num)] = format.GroupOffset{Offset: o}
	}
	return g
}

// committed is what a group has committed, as text.
func (r *rig) committed(id string) string {
	r.Helper()
	all, err := r.adm.FetchOffsets(r.Context(), id)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return ""
	}
	if err != nil {
		r.Fatal(err)
	}
	var out []string
	for _, o := range all.Sorted() {
		out = append(out, fmt.Sprintf("%s/%d %d", o.Topic, o.Partition, o.At))
	}
	return strings.Join(out, ", ")
}

func (r *rig) commit(id, topic string, num int32, offset int64) {
	r.Helper()
	var o kadm.Offsets
	o.Add(kadm.Offset{Topic: topic, Partition: num, At: offset, LeaderEpoch: -1})
	if err := r.adm.CommitAllOffsets(r.Context(), id, o); err != nil {
		r.Fatal(err)
	}
}

var stopped = &format.End{Interrupted: true}

// TestMirrorPoint wants what is due at a restore point: the logs end where the source's do,
// groups are committed, and retention and compaction are the topic's own again while the
// times are still taken as they come.
func TestMirrorPoint(t *testing.T) {
	r := newRig(t)
	frames := join(frameList{topic("t", 2, "retention.ms=3600000", "cleanup.policy=compact,delete", "message.timestamp.type=LogAppendTime"), topic("empty", 1),
		mark("t", 0, 0), mark("t", 1, 5), mark("empty", 0, 0)}, records("t", 0, 0, 10), records("t", 1, 5, 10))
	point := frameList{&format.Groups{IDs: []string{"g", "past", "kbk-produce"}}, group("g", "t", 4, 15), group("past", "t", 12), group("kbk-produce", "t", 3),
		mark("t", 0, 11), mark("t", 1, 15), mark("empty", 0, 0), &format.Point{Time: 1}}
	in := following(t, nil, join(frames, point)...)
	slow := &slowInput{bytes.NewReader(in), bytes.NewReader(nil), make(chan struct{})}
	done, said := make(chan *outcome, 1), new(commandtest.Messages)
	go func() { done <- r.produceSaying(t.Context(), said, slow, mirrored) }()
	r.until("the restore point", func() bool {
		return strings.Contains(said.String(), "the target has all of the restore point; committed 3 offsets")
	})
	if g, past := r.committed("g"), r.committed("past"); g != "t/0 4, t/1 15" || past != "t/0 11" {
		t.Errorf("the groups have %s; %s", g, past)
	}
	if got := r.own("t"); got != "cleanup.policy=compact,delete message.timestamp.type=CreateTime retention.ms=3600000" {
		t.Errorf("at the restore point the topic has %s", got)
	}
	if n := r.noted()["t"]; strings.Contains(n, "retention") || !strings.Contains(n, "message.timestamp.type") {
		t.Errorf("it is noted that %s", n)
	}
	if r.end("t", 0) != 11 {
		t.Errorf("the log ends at %d, and the source's at 11", r.end("t", 0))
	}
	close(slow.go_)
	o := <-done
	o.want(t, command.Corrupt)
	if got := r.own("t"); got != "cleanup.policy=compact,delete message.timestamp.type=LogAppendTime retention.ms=3600000" {
		t.Errorf("after the run the topic has %s", got)
	}
	origins, err := groups.ReadOrigins(t.Context(), r.adm, map[string]string{"t": r.id("t"), "empty": r.id("empty")})
	if want := map[string]groups.Origin{"t": {Cluster: "A", Topic: "t"}, "empty": {Cluster: "A", Topic: "empty"}}; err != nil || !maps.Equal(origins, want) {
		t.Errorf("the topics are said to be mirrors of %v, %v", origins, err)
	}
	r.same("t", 2, wanted(true, frames, 2))
	if o.whole {
		t.Error("the map has its end, and the stream had none")
	}
	// A stored stream is no mirror.
	r.produce(stream(t, &format.End{}, join(frameList{topic("s", 2)}, records("s", 0, 0, 3), frameList{group("stored", "s", 2), &format.Point{Time: 1}})...), mirrored).want(t, 0)
	if got := r.committed("stored"); got != "" {
		t.Errorf("a restore has committed %s", got)
	}
}

// TestMirrorGoesOn begins where the log ends, or a little before.
func TestMirrorGoesOn(t *testing.T) {
	t.Parallel()
	for name, in := range encodings {
		t.Run(name, func(t *testing.T) { goesOn(t, in[0], in[1]) })
	}
}

func goesOn(t *testing.T, first, then encoding) {
	r := newRig(t)
	all := records("t", 0, 0, 30)
	part := func(in encoding, from, to, end int64) []byte {
		return in(t, stopped, join(frameList{topic("t", 1), mark("t", 0, from)}, all[from:to], frameList{mark("t", 0, end), &format.Point{Time: 1}, mark("t", 0, end)})...)
	}
	r.produce(part(first, 0, 10, 12), mirrored).want(t, command.Interrupted)
	if r.end("t", 0) != 12 {
		t.Fatalf("the log ends at %d", r.end("t", 0))
	}
	all = append(all[:10:10], append(frameList{nil, nil}, all[12:]...)...) // markers
	r.produce(part(then, 8, 10, 12), mirrored).want(t, command.Interrupted, "2 records were already")
	r.produce(part(first, 12, 20, 20), mirrored).want(t, command.Interrupted, "produced 8 records")
	r.produce(part(then, 16, 25, 25), mirrored).want(t, command.Interrupted, "4 records were already")
	r.produce(part(first, 25, 25, 25), mirrored).want(t, command.Interrupted, "produced 0 records")
	r.produce(part(then, 25, 30, 30), mirrored).want(t, command.Interrupted)
	r.same("t", 1, wanted(true, append(all[:10:10], all[12:]...), 1))

	// It is interrupted before it has come to the end of what is there.
	r.produce(first(t, stopped, join(frameList{topic("t", 1), mark("t", 0, 20)}, all[20:22], frameList{mark("t", 0, 22)})...), mirrored).want(t, command.Interrupted)
	r.same("t", 1, wanted(true, append(all[:10:10], all[12:]...), 1))

	// A restore must not go on in this way.
	r.produce(stream(t, &format.End{}, join(frameList{topic("t", 1), mark("t", 0, 30)}, records("t", 0, 30, 3))...), func(c *Config) { c.Exact = true }).want(t, 1, "topic t is not empty")
}

// TestMirrorRefuses has the source and the target be no mirror of one another.
func TestMirrorRefuses(t *testing.T) {
	t.Parallel()
	for name, in := range encodings {
		t.Run(name, func(t *testing.T) { refuses(t, in[0], in[1]) })
	}
}

func refuses(t *testing.T, first, then encoding) {
	r := newRig(t)
	all := records("t", 0, 0, 40)
	whole := func(name string) {
		t.Helper()
		r.produce(first(t, stopped, join(frameList{topic("t", 1), mark("t", 0, 0)}, all[:20], frameList{mark("t", 0, 20), &format.Point{Time: 1}, mark("t", 0, 20)})...), to(name)).want(t, command.Interrupted)
	}
	other := all[18].(format.Record)
	other.Value = []byte("another")
	for name, test := range map[string]struct {
		frames frameList
		says   string
	}{
		"hole":       {join(frameList{mark("t", 0, 25)}, all[25:30]), "topic hole, partition 0: the stream begins at offset 25, and the log ends at 20: what is between is missing"},
		"differs":    {join(frameList{mark("t", 0, 15)}, all[15:18], frameList{other}, all[19:25]), "it has another record at offset 18"},
		"missing":    {join(frameList{mark("t", 0, 15)}, all[15:18], all[19:25]), "its next record is that of offset 18, and the source's that of 19"},
		"ahead":      {join(frameList{mark("t", 0, 10)}, all[10:15], frameList{mark("t", 0, 15), &format.Point{Time: 2}}), "it has a record at offset 15, and the source has none there"},
		"ahead-tail": {join(frameList{mark("t", 0, 20)}, frameList{&format.Mark{Topic: "t", Next: 18, MarkInfo: format.MarkInfo{Begins: true, Branch: true}}}), "the source was cut off at offset 18, and the log goes to 20"},
		"leap":       {join(frameList{mark("t", 0, 20)}, frameList{&format.Mark{Topic: "t", Next: 25, MarkInfo: format.MarkInfo{Begins: true}}}), "the stream leaves out offsets 20 to 24"},
		"other":      {join(frameList{mark("t", 0, 20)}, all[20:22], frameList{&format.Topic{Name: "t", ID: "new", Partitions: 1}}), "topic t was deleted and created again in the source: other has the records of the one before"},
	} {
		t.Run(name, func(t *testing.T) {
			whole(name)
			in := then(t, stopped, join(frameList{&format.Topic{Name: "t", ID: "old", Partitions: 1}}, test.frames)...)
			o := r.produce(in, to(name))
			o.want(t, command.Failed, test.says)
			want := wanted(true, all[:20], 1)
			if name == "other" {
				want = wanted(true, all[:22], 1)
			}
			r.same(name, 1, want)
		})
	}
	t.Run("written by both", func(t *testing.T) {
		whole("both")
		if err := r.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "both", Value: []byte("of the other side")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		r.produce(then(t, stopped, join(frameList{topic("t", 1), mark("t", 0, 15)}, all[15:20], frameList{mark("t", 0, 20), &format.Point{Time: 2}})...), to("both")).
			want(t, command.Failed, "topic both, partition 0, is not a mirror of the source: it has a record at offset 20, and the source has none there")
		r.produce(then(t, stopped, join(frameList{topic("t", 1), mark("t", 0, 15)}, all[15:30], frameList{mark("t", 0, 30), &format.Point{Time: 2}})...), to("both")).
			want(t, command.Failed, "it has another record at offset 20")
	})
	t.Run("log begins later", func(t *testing.T) {
		whole("later")
		if err := r.logs().DeleteBelow(t.Context(), partitionlog.Partition{Topic: "later"}, 5); err != nil {
			t.Fatal(err)
		}
		r.produce(then(t, stopped, join(frameList{topic("t", 1), mark("t", 0, 0)}, all[:25])...), to("later")).want(t, command.Failed, "the stream begins at offset 0, and the log at 5")
		r.produce(then(t, stopped, join(frameList{topic("t", 1), mark("t", 0, 5)}, all[5:25])...), to("later")).want(t, command.Interrupted, "produced 5 records")
	})
}

// to is a mirror under another name.
func to(name string) func(c *Config) {
	return func(c *Config) {
		mirrored(c)
		n, err := parseNaming([]string{"t=" + name}, "")
		if err != nil {
			panic(err)
		}
		c.Naming = n
	}
}

// TestMirrorCompacted has compaction take records on one side or the other.
func TestMirrorCompacted(t *testing.T) {
	for name, in := range encodings {
		t.Run(name, func(t *testing.T) { goesOnCompacted(t, in[0], in[1]) })
	}
}

func goesOnCompacted(t *testing.T, first, then encoding) {
	r := newRig(t)
	all := records("t", 0, 0, 30)
	about := topic("t", 1, "cleanup.policy=compact")
	have := join(all[:5], all[7:20])
	r.produce(first(t, stopped, join(frameList{about, mark("t", 0, 0)}, have, frameList{mark("t", 0, 20), &format.Point{Time: 1}})...), mirrored).want(t, command.Interrupted)
	// The source has lost 8 and 9, and has 5 and 6, which the target has not.
	r.produce(then(t, stopped, join(frameList{about, mark("t", 0, 2)}, all[2:8], all[10:25], frameList{mark("t", 0, 25), &format.Point{Time: 2}})...), mirrored).
		want(t, command.Interrupted, "produced 5 records")
	r.same("t", 1, wanted(true, join(have, all[20:25]), 1))
}

// TestMirrorGroups decides what of groups is carried over.
func TestMirrorGroups(t *testing.T) {
	r := newRig(t)
	r.create("t", 1)
	if err := r.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t"}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var said commandtest.Messages
	p := &producer{env: &command.Env{Log: slog.New(slog.NewTextHandler(&said, nil))}, targets: &targets{adm: r.adm}}
	m := newMirror(p, nil)
	at := partitionlog.Partition{Topic: "t"}
	carry := func(n int64, all bool, wanted map[string]int64) {
		t.Helper()
		groups := make(map[string]placed)
		for id, offset := range wanted {
			groups[id] = placed{at: {Offset: offset}}
		}
		if got, err := m.commitGroups(t.Context(), groups, all); err != nil || got != n {
			t.Fatalf("%d offsets committed and not %d: %v", got, n, err)
		}
	}
	r.commit("ahead", "t", 0, 50)
	consumer, err := kgo.NewClient(kgo.SeedBrokers(r.fake.ListenAddrs()...), kgo.ConsumerGroup("active"), kgo.ConsumeTopics("t"), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	r.until("a member", func() bool {
		consumer.PollFetches(t.Context())
		s, err := groups.ReadStates(t.Context(), r.adm)
		return err == nil && s.Active("active")
	})
	offsets := map[string]int64{"new": 10, "ahead": 20, "active": 5}
	carry(1, false, offsets)
	carry(0, false, offsets) // nothing has changed
	carry(1, true, offsets)  // but is to be kept
	if r.committed("new") != "t/0 10" || r.committed("ahead") != "t/0 50" || r.committed("active") != "" {
		t.Errorf("committed: %s; %s; %s", r.committed("new"), r.committed("ahead"), r.committed("active"))
	}
	if s := said.String(); strings.Count(s, "group active has active members in the target") != 1 || strings.Count(s, "group ahead is further in the target than in the source, in t/0 at 50 and not at 20") != 1 {
		t.Errorf("it says %s", s)
	}
	carry(1, false, map[string]int64{"new": 3}) // it was reset in the source
	if r.committed("new") != "t/0 3" {
		t.Errorf("committed: %s", r.committed("new"))
	}
	consumer.LeaveGroup()
	carry(1, false, map[string]int64{"active": 6})
	carry(1, false, map[string]int64{"ahead": 60})
}

// TestMirrorIsNobodyElse mirrors to a log that was the source before: it must not go on as
// the producers that have written it, who may write again.
func TestMirrorIsNobodyElse(t *testing.T) {
	r := newRig(t)
	r.create("t", 1)
	tx, err := kgo.NewClient(kgo.SeedBrokers(r.fake.ListenAddrs()...), kgo.TransactionalID("tx"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	for i, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := tx.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: fmt.Append(nil, i), Timestamp: time.UnixMilli(5)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := tx.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("last"), Timestamp: time.UnixMilli(6)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	have := frameList{format.Record{Topic: "t", Value: []byte("0"), Timestamp: 5}, format.Record{Topic: "t", Offset: 4, Value: []byte("last"), Timestamp: 6}}
	more := join(records("t", 0, 5, 5), frameList{mark("t", 0, 12), &format.Point{Time: 1}, mark("t", 0, 12)})
	r.produce(following(t, stopped, join(frameList{topic("t", 1), mark("t", 0, 0)}, have, more)...), mirrored).want(t, command.Interrupted, "2 records were already")
	s := newScan(r.logs(), partition0("t"), 1<<20, newHasher())
	before, after := s.read(t.Context(), 0, 5), s.read(t.Context(), 5, 12)
	if before.err != nil || after.err != nil || before.came.producer.id == after.came.producer.id || before.came.marker.id == after.came.marker.id {
		t.Errorf("the log was written by %+v and then by %+v: %v, %v", before.came, after.came, before.err, after.err)
	}
	// They go on as they were.
	if err := r.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t"}).FirstErr(); err != nil {
		t.Error(err)
	}
}

// TestMirrorDropsFillers has a broker forget that fillers were deleted.
func TestMirrorDropsFillers(t *testing.T) {
	r := newRig(t)
	for _, topic := range []string{"t", "u"} {
		r.create(topic, 1)
		var recs []*kgo.Record
		for range 20 {
			recs = append(recs, &kgo.Record{Topic: topic, Timestamp: time.UnixMilli(0)})
		}
		if err := r.cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	all := records("t", 0, 20, 20)
	run := func(topic string, start int64, from int) {
		t.Helper()
		first := mark("t", 0, int64(from)+20)
		first.LogStart = &start
		r.produce(following(t, stopped, join(frameList{&format.Topic{Name: "t", Partitions: 1}, first}, all[from:], frameList{mark("t", 0, 40), &format.Point{Time: 1}})...), to(topic)).want(t, command.Interrupted)
	}
	for _, topic := range []string{"t", "u"} {
		for i := range 10 {
			rec := all[i].(format.Record)
			if err := r.cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: rec.Key, Value: rec.Value, Timestamp: time.UnixMilli(rec.Timestamp)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	run("t", 20, 5)
	r.same("t", 1, wanted(true, all, 1))
	run("u", 0, 5) // the source has them: they are records
	if n := len(r.values("u", 1)); n != 40 {
		t.Errorf("%d records", n)
	}
}
