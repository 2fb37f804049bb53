package simulate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/command/commandtest"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A part is a partition of one incarnation of a topic.
type part struct {
	topic, id string
	n         int32
}

func (p part) String() string { return fmt.Sprintf("%s/%d (%s)", p.topic, p.n, p.id) }

// A content is what a record has besides its place.
type content struct {
	key, value string
	time       int64
}

// truth is every record that was committed, by offset.
type truth map[part]map[int64]content

// A world is what a history happens to: a cluster, two stores, and the model of what must
// be in them.
type world struct {
	t      *testing.T
	ctx    context.Context
	cancel context.CancelFunc
	rng    *rand.Rand // of the step that is going on
	fake   *kfake.Cluster
	net    *kfake.VirtualNetwork
	cl     *kgo.Client
	adm    *kadm.Client

	topics    map[string]string // the current topic id of each topic
	truth     truth
	compacted map[part]map[int64]bool // of the truth: Kafka has it no more
	open      *transaction
	groups    map[string]map[string]map[int32]int64 // committed offsets: group, topic, partition
	number    int                                   // of the record produced last
	vaults    []*vault
	log       []string // what the steps did
	compared  int64
	texts     commandtest.Messages
	snapshots int // that were taken
	filters   []filter
	unpacker  *recordbatch.Decoder
	brokers   int
	leading   atomic.Bool
	calm      bool // stores and processes do not fail

	// What is to be done outside of the cluster's bubble. Both channels are made there: the
	// cluster's clock does not go on for who waits for them.
	outside chan func()
	done    chan struct{}
}

// A transaction is one that is open.
type transaction struct {
	cl      *kgo.Client
	records map[part]map[int64]content
	since   time.Time
}

// transactionTimeout is when Kafka aborts a transaction.
const transactionTimeout = 15 * time.Minute

// A broken invariant ends a history.
type broken struct{ error }

// A fault of the simulation itself, or of its cluster.
type trouble struct{ error }

func (w *world) breaks(f string, args ...any) { panic(broken{fmt.Errorf(f, args...)}) }

func (w *world) must(err error) {
	if err != nil {
		panic(trouble{err})
	}
}

func (w *world) say(f string, args ...any) { w.log = append(w.log, fmt.Sprintf(f, args...)) }

const partitionCount = 3

var topicNames = []string{"orders", "audit", "users"}

func newWorld(t *testing.T, rng *rand.Rand) *world {
	return &world{t: t, rng: rng, net: new(kfake.VirtualNetwork), outside: make(chan func()), done: make(chan struct{}), topics: make(map[string]string), truth: make(truth), compacted: make(map[part]map[int64]bool), groups: make(map[string]map[string]map[int32]int64)}
}

// begin makes the cluster, its topics, and two stores.
func (w *world) begin() {
	rng := w.rng
	time.Sleep(days(rng)) // the clocks of Kafka and of each command that works on a store are their own
	w.ctx, w.cancel = context.WithTimeout(context.Background(), 8*time.Hour)
	var err error
	w.fake, err = kfake.NewCluster(kfake.Ports(9092, 9093, 9094), kfake.ListenFn(w.net.Listen))
	w.must(err)
	w.cl = w.client()
	w.adm = kadm.NewClient(w.cl)
	w.holdEpochs()
	wantNoMetrics(w.fake)
	w.brokers = 3
	for range 1 + rng.IntN(2) {
		w.filters = append(w.filters, []func(string) filter{keepOnly, mask}[rng.IntN(2)](fmt.Sprintf("k%d", rng.IntN(5))))
	}
	w.unpacker = recordbatch.NewDecoder()
	w.vaults = []*vault{newVault(rng), newVault(rng)}
	for _, name := range topicNames[:1+rng.IntN(len(topicNames))] {
		w.create(name)
	}
}

func (w *world) close() {
	if w.open != nil {
		w.open.cl.Close()
	}
	if w.cl != nil {
		w.cl.Close()
	}
	if w.fake != nil {
		w.fake.Close()
	}
	if w.cancel != nil {
		w.cancel()
	}
}

func (w *world) client(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append(opts, kgo.TransactionTimeout(transactionTimeout), kgo.SeedBrokers(w.fake.ListenAddrs()...), kgo.Dialer(w.dial), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(10*time.Millisecond), kgo.ProducerLinger(0))...)
	w.must(err)
	return cl
}

// dial connects to a broker. A client tries again where an error is the network's.
func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := w.net.DialContext(ctx, network, address)
	if err != nil {
		err = &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	return conn, err
}

// kafka is how commands connect to a cluster.
func (w *world) kafka(c *kfake.Cluster) kafka.Config {
	return kafka.Config{Brokers: c.ListenAddrs(), ClientID: "simulate", Dial: w.dial}
}

func (w *world) env(name string) *command.Env {
	return &command.Env{Name: name, Log: slog.New(slog.NewTextHandler(&w.texts, &slog.HandlerOptions{Level: slog.LevelWarn}))}
}

func (w *world) create(name string) {
	configs := map[string]string{}
	if compacts(name) {
		configs["cleanup.policy"] = "compact"
	}
	w.must(w.fake.CreateTopic(name, partitionCount, configs))
	w.topics[name] = kafka.FormatTopicID(w.fake.TopicInfo(name).TopicID)
	w.say("created %s as %s", name, w.topics[name])
}

// anyTopic is one of the topics that there are.
func (w *world) anyTopic() string {
	names := slices.Sorted(maps.Keys(w.topics))
	return names[w.rng.IntN(len(names))]
}

// produce writes some records to one or more partitions of a topic.
func (w *world) produce() {
	topic := w.anyTopic()
	n := 1 + w.rng.IntN(12)
	kind := w.rng.IntN(10)
	switch {
	case kind < 6:
		w.into(w.truth, w.send(w.cl, topic, n))
		w.say("produced %d to %s", n, topic)
	case kind == 6 && w.open == nil:
		cl := w.client(kgo.TransactionalID(fmt.Sprintf("tx%d", w.number)))
		w.must(cl.BeginTransaction())
		since := time.Now()
		w.open = &transaction{cl, w.send(cl, topic, n), since}
		w.say("began a transaction with %d records in %s", n, topic)
	case kind == 6:
		w.endTransaction()
	default:
		cl := w.client(kgo.TransactionalID(fmt.Sprintf("tx%d", w.number)))
		defer cl.Close()
		w.must(cl.BeginTransaction())
		sent := w.send(cl, topic, n)
		commit := kind < 9
		w.must(cl.EndTransaction(w.ctx, kgo.TransactionEndTry(commit)))
		if commit {
			w.into(w.truth, sent)
		}
		w.say("a transaction with %d records in %s, committed: %v", n, topic, commit)
	}
}

func (w *world) endTransaction() {
	commit := w.rng.IntN(2) == 0
	if err := w.open.cl.EndTransaction(w.ctx, kgo.TransactionEndTry(commit)); err == nil && commit {
		w.into(w.truth, w.open.records)
	} else {
		w.must(err)
	}
	w.open.cl.Close()
	w.open = nil
	w.say("ended the open transaction, committed: %v", commit)
}

// pass lets time go on. A transaction that is open for too long is aborted.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	if w.open != nil && time.Since(w.open.since) > transactionTimeout-time.Minute {
		time.Sleep(2 * time.Minute)
		w.open.cl.Close()
		w.open = nil
		w.say("the open transaction was aborted")
	}
}

// wait is a step in which nothing else happens.
func (w *world) wait() {
	d := time.Duration(1+w.rng.IntN(10)) * 2 * time.Minute
	w.say("%s went by", d)
	w.pass(d)
}

func (w *world) into(t truth, records map[part]map[int64]content) {
	for p, rs := range records {
		if t[p] == nil {
			t[p] = make(map[int64]content)
		}
		maps.Copy(t[p], rs)
	}
}

func (w *world) send(cl *kgo.Client, topic string, n int, to ...int32) map[part]map[int64]content {
	sent := make(map[part]map[int64]content)
	var rs []*kgo.Record
	for range n {
		w.number++
		at := time.Now().Add(time.Duration(w.rng.IntN(2000)-1000) * time.Minute).Truncate(time.Millisecond)
		partition := int32(w.rng.IntN(partitionCount))
		if len(to) > 0 {
			partition = to[0]
		}
		rs = append(rs, &kgo.Record{
			Topic: topic, Partition: partition, Timestamp: at,
			Key: fmt.Appendf(nil, "k%d", w.number%5), Value: fmt.Appendf(nil, "record %d %s", w.number, strings.Repeat("x", w.rng.IntN(300))),
		})
	}
	w.must(cl.ProduceSync(w.ctx, rs...).FirstErr())
	for _, r := range rs {
		p := part{topic, w.topics[topic], r.Partition}
		if sent[p] == nil {
			sent[p] = make(map[int64]content)
		}
		sent[p][r.Offset] = content{string(r.Key), string(r.Value), r.Timestamp.UnixMilli()}
	}
	return sent
}

// recreate deletes a topic, and mostly makes it again.
func (w *world) recreate() {
	topic := w.anyTopic()
	if w.open != nil { // its topic may be this one
		w.endTransaction()
	}
	if len(w.topics) == 1 && w.rng.IntN(2) == 0 {
		return
	}
	w.must(w.fake.DeleteTopic(topic))
	delete(w.topics, topic)
	for _, offsets := range w.groups { // Kafka does it too
		delete(offsets, topic)
	}
	w.say("deleted %s", topic)
	if len(w.topics) == 0 || w.rng.IntN(3) > 0 {
		w.create(topic)
	}
	w.reconnect()
}

// reconnect gives the producer a client that does not know what was.
func (w *world) reconnect() {
	w.cl.Close()
	w.cl = w.client()
	w.adm = kadm.NewClient(w.cl)
}

// expire deletes the oldest records of a partition.
func (w *world) expire() {
	topic, n := w.anyTopic(), int32(w.rng.IntN(partitionCount))
	info := w.fake.PartitionInfo(topic, n)
	if info.LastStableOffset <= info.LogStartOffset {
		return
	}
	to := info.LogStartOffset + 1 + w.rng.Int64N(info.LastStableOffset-info.LogStartOffset)
	w.must(w.fake.DeleteRecords(topic, n, to))
	for _, v := range w.vaults { // a run that begins at the beginning says nothing of what is before it
		v.holes = true
	}
	w.say("retention: %s/%d begins at %d", topic, n, to)
}

// retain has Kafka delete records that are older than a time that a topic's retention is set to.
func (w *world) retain() {
	topic := w.anyTopic()
	if compacts(topic) || w.open != nil { // the fake cluster would delete what is not committed, too
		return
	}
	d := time.Duration(w.rng.IntN(1500)+1) * time.Minute
	set := func(op kadm.IncrementalOp, value *string) {
		rs, err := w.adm.AlterTopicConfigs(w.ctx, []kadm.AlterConfig{{Op: op, Name: "retention.ms", Value: value}}, topic)
		w.must(err)
		for _, r := range rs {
			w.must(r.Err)
		}
	}
	value := fmt.Sprint(d.Milliseconds())
	set(kadm.SetConfig, &value)
	w.fake.ApplyRetention()
	set(kadm.DeleteConfig, nil) // the fake cluster would go on doing so whenever it likes
	for _, v := range w.vaults {
		v.holes = true
	}
	w.say("retention: %s keeps %s", topic, d)
}

// deleteGroup deletes a consumer group.
func (w *world) deleteGroup() {
	ids := slices.Sorted(maps.Keys(w.groups))
	if len(ids) == 0 {
		return
	}
	id := ids[w.rng.IntN(len(ids))]
	if _, err := w.adm.DeleteGroup(w.ctx, id); !errors.Is(err, kerr.GroupIDNotFound) { // its topics may be gone
		w.must(err)
	}
	delete(w.groups, id)
	w.say("deleted group %s", id)
}

// lead moves leaders, with or without a broker.
func (w *world) lead() {
	w.leading.Store(true)
	defer w.leading.Store(false)
	switch gone := int32(w.brokers - 1); w.rng.IntN(4) {
	case 0:
		if w.brokers > 1 && w.open == nil { // its producer does not look for another coordinator
			w.must(w.fake.RemoveNode(gone))
			w.brokers--
			w.reconnect()
			w.say("broker %d is gone", gone)
		}
	case 1:
		if w.brokers < 3 {
			_, _, err := w.fake.AddNode(int32(w.brokers), 9092+w.brokers)
			w.must(err)
			w.brokers++
		}
		w.reconnect()
		w.say("%d brokers", w.brokers)
	default:
		w.fake.ShufflePartitionLeaders()
		w.say("leaders moved")
	}
	// The fake cluster does not know where a leader's epoch begins before there is a batch of
	// it. Nobody may ask before.
	for topic := range w.topics {
		for n := range int32(partitionCount) {
			w.into(w.truth, w.send(w.cl, topic, 1, n))
		}
	}
}

// holdEpochs puts off who asks for the ends of epochs while leaders move.
func (w *world) holdEpochs() {
	w.fake.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if !w.leading.Load() {
			return nil, nil, false
		}
		asked := req.(*kmsg.OffsetForLeaderEpochRequest)
		resp := asked.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for _, t := range asked.Topics {
			rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, kerr.NotLeaderForPartition.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

// wantNoMetrics has a cluster ask its clients for no metrics, as most do.
func wantNoMetrics(c *kfake.Cluster) {
	c.ControlKey(int16(kmsg.GetTelemetrySubscriptions), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.GetTelemetrySubscriptionsResponse)
		resp.PushIntervalMillis = int32(time.Hour.Milliseconds())
		return resp, nil, true
	})
}

// commit sets offsets of a consumer group.
func (w *world) commit() {
	group, topic := []string{"billing", "search"}[w.rng.IntN(2)], w.anyTopic()
	offsets := make(kadm.Offsets)
	for n := range int32(partitionCount) {
		info := w.fake.PartitionInfo(topic, n)
		if w.rng.IntN(3) == 0 {
			continue
		}
		at := info.LogStartOffset + w.rng.Int64N(info.HighWatermark-info.LogStartOffset+1)
		offsets.AddOffset(topic, n, at, -1)
		if w.groups[group] == nil {
			w.groups[group] = make(map[string]map[int32]int64)
		}
		if w.groups[group][topic] == nil {
			w.groups[group][topic] = make(map[int32]int64)
		}
		w.groups[group][topic][n] = at
	}
	if len(offsets) == 0 {
		return
	}
	rs, err := w.adm.CommitOffsets(w.ctx, group, offsets)
	w.must(errors.Join(err, rs.Error()))
	w.say("group %s: %s at %v", group, topic, w.groups[group][topic])
}

// A stream is what a stream of records holds.
type stream struct {
	records map[part]map[int64]content
	first   map[part]int64 // of the first mark
	hollow  map[part]int64 // what is above was scanned without a hole
	next    map[part]int64 // of the last mark
	start   map[part]int64 // where Kafka's log began
	ids     map[string]string
	groups  map[string]*format.Group
	asked   bool // which groups there are was asked for
	points  []*point
	end     *format.End

	snapshots map[string]int64 // of what the cluster has besides records: their times, by id
	snapshot  string           // the one that is being read
}

// read takes a stream of records or batches apart, and checks that each record comes once, in
// order, and is what was produced.
func (w *world) read(what string, b []byte) *stream { return w.readPart(what, b, false) }

// readPart is read of a stream that may be cut short. Where that is so a partition may begin
// anew at a lower offset: it has been with another member of the group.
func (w *world) readPart(what string, b []byte, cut bool) *stream {
	s := &stream{records: make(map[part]map[int64]content), first: make(map[part]int64), hollow: make(map[part]int64), next: make(map[part]int64), start: make(map[part]int64),
		ids: make(map[string]string), groups: make(map[string]*format.Group), snapshots: make(map[string]int64)}
	r := format.NewReader(bytes.NewReader(b), 0)
	if _, err := r.Header(); err != nil {
		if cut {
			return s
		}
		w.breaks("%s: %v", what, err)
	}
	last := make(map[part]int64)
	for {
		f, err := r.Next()
		if err == io.EOF || err != nil && cut {
			return s
		}
		if err != nil {
			w.breaks("%s: %v", what, err)
		}
		switch f.Kind {
		case format.KindTopic:
			t, err := format.DecodeTopic(f.Raw)
			w.must(err)
			if old := s.ids[t.Name]; old != t.ID { // what was is no part of later points
				maps.DeleteFunc(s.next, func(p part, _ int64) bool { return p.topic == t.Name })
			}
			s.ids[t.Name] = t.ID
		case format.KindMark:
			m, err := format.DecodeMark(f.Raw)
			w.must(err)
			p := part{m.Topic, s.ids[m.Topic], m.Partition}
			if _, ok := s.first[p]; !ok {
				s.first[p], s.hollow[p] = m.Next, m.Next
			}
			if m.Begins && cut {
				delete(last, p)
			}
			if m.Begins || len(m.Lost) > 0 {
				s.hollow[p] = m.Next
			}
			if s.next[p] = m.Next; m.Deleted {
				delete(s.next, p)
			}
			if m.LogStart != nil {
				s.start[p] = *m.LogStart
			}
		case format.KindRec:
			var rec format.Record
			w.must(f.Record(&rec))
			rec.Topic, rec.Partition, rec.Offset = f.Topic, f.Partition, f.Offset
			w.record(what, s, last, &rec)
		case format.KindBatch:
			b, err := format.DecodeBatch(f.Raw)
			w.must(err)
			if err := w.unpacker.Unpack(b, func(rec *format.Record) error { w.record(what, s, last, rec); return nil }); err != nil {
				w.breaks("%s: %v", what, err)
			}
		case format.KindGroups:
			list, err := format.DecodeGroups(f.Raw)
			w.must(err)
			s.asked = true
			for id, g := range s.groups {
				if !slices.Contains(list.IDs, id) {
					maps.DeleteFunc(g.Offsets, func(topic string, _ map[int32]format.GroupOffset) bool { _, of := list.Topics[topic]; return of })
				}
			}
		case format.KindGroup:
			g, err := format.DecodeGroup(f.Raw)
			w.must(err)
			s.groups[g.ID] = g
		case format.KindPoint:
			at, err := format.DecodePoint(f.Raw)
			w.must(err)
			s.points = append(s.points, s.point(at))
		case format.KindEnd:
			s.end, err = format.DecodeEnd(f.Raw)
			w.must(err)
		default:
			w.snapshotFrame(what, s, f)
		}
	}
}

// hides tells whether a stream says that it leaves out what filters or windows have left of
// an offset, since another run has left something else.
func (s *stream) hides(p part, offset int64) bool {
	for _, loss := range s.end.Losses {
		if strings.HasPrefix(loss, "and more") {
			return true
		}
		rest, ok := strings.CutPrefix(loss, fmt.Sprintf("%s/%d: offsets ", p.topic, p.n))
		var from, last int64
		if n, _ := fmt.Sscanf(rest, "%d to %d", &from, &last); ok && n == 2 && offset >= from && offset <= last && strings.Contains(rest, " are read as ") {
			return true
		}
	}
	return false
}

// record takes in a record.
func (w *world) record(what string, s *stream, last map[part]int64, rec *format.Record) {
	p := part{rec.Topic, s.ids[rec.Topic], rec.Partition}
	if before, ok := last[p]; ok && rec.Offset <= before {
		w.breaks("%s: %s: record %d behind %d", what, p, rec.Offset, before)
	}
	last[p] = rec.Offset
	got := content{string(rec.Key), string(rec.Value), rec.Timestamp}
	want, ok := w.truth[p][rec.Offset]
	if !ok {
		w.breaks("%s: %s: record %d was never committed: %v", what, p, rec.Offset, got)
	}
	if got != want && !slices.ContainsFunc(w.filters, func(f filter) bool { left, _ := f.apply(want); return got == left }) {
		w.breaks("%s: %s: record %d is %v instead of %v", what, p, rec.Offset, got, want)
	}
	if s.records[p] == nil {
		s.records[p] = make(map[int64]content)
	}
	s.records[p][rec.Offset] = got
	w.compared++
}

// point is a restore point where the stream has come to.
func (s *stream) point(at *format.Point) *point {
	p := &point{time: at.Time, at: make(map[part][2]int64), groups: make(map[string]map[string]map[int32]int64)}
	for key, next := range s.next {
		if !slices.Contains(at.Without[key.topic], key.n) {
			p.at[key] = [2]int64{s.start[key], next}
		}
	}
	for id, g := range s.groups {
		p.groups[id] = make(map[string]map[int32]int64)
		for topic, offsets := range g.Offsets {
			p.groups[id][topic] = make(map[int32]int64)
			for n, o := range offsets {
				p.groups[id][topic][n] = o.Offset
			}
		}
	}
	return p
}
