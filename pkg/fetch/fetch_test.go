package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// These tests run against franz-go's embedded broker, for speed and for faults that
// a real one does not make on demand; test/e2e has the real one.

type world struct {
	*testing.T
	fake *kfake.Cluster
	cl   *kgo.Client
	adm  *kadm.Client
}

func newWorld(t *testing.T, brokers int, topic string, partitions int32, opts ...kgo.Opt) *world {
	t.Helper()
	return newWorldOf(t, []kfake.Opt{kfake.NumBrokers(brokers)}, topic, partitions, opts...)
}

func newWorldOf(t *testing.T, cluster []kfake.Opt, topic string, partitions int32, opts ...kgo.Opt) *world {
	t.Helper()
	fake, err := kfake.NewCluster(cluster...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	w := &world{T: t, fake: fake}
	w.connect(opts...)
	w.create(topic, partitions)
	return w
}

// with is the same for a test of its own.
func (w *world) with(t *testing.T) *world { return &world{t, w.fake, w.cl, w.adm} }

// connect makes a new client, which knows nothing of topics that were there before.
func (w *world) connect(opts ...kgo.Opt) {
	w.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(w.fake.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(20*time.Millisecond))...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(cl.Close)
	w.cl, w.adm = cl, kadm.NewClient(cl)
}

func (w *world) create(topic string, partitions int32) {
	w.Helper()
	if _, err := w.adm.CreateTopic(w.Context(), partitions, 1, nil, topic); err != nil {
		w.Fatal(err)
	}
}

// produce writes n records to a partition, each a batch of its own.
func (w *world) produce(topic string, partition int32, n int) {
	w.Helper()
	for i := range n {
		r := &kgo.Record{Topic: topic, Partition: partition, Value: fmt.Appendf(nil, "value %d", i)}
		if err := w.cl.ProduceSync(w.Context(), r).FirstErr(); err != nil {
			w.Fatal(err)
		}
	}
}

type result struct {
	open     [][2]int64 // offsets that marks say are hidden
	topics   map[string]*format.Topic
	header   *format.Header
	offsets  map[string][]int64 // of records, by topic/partition, those in batches too
	batches  [][2]int64         // first and last offsets
	marks    map[string][]int64
	lost     [][2]int64
	deleted  []string // partitions of which the topic was deleted
	branches []int64  // where marks say that one begins
	point    *format.Point
	kinds    []string
	end      *format.End
	err      error
	log      string
	counted  metrics.Snapshot
}

func (w *world) fetch(change func(*Config), stop <-chan struct{}) result {
	w.Helper()
	cfg := Config{
		Kafka:  kafka.Config{Brokers: w.fake.ListenAddrs(), ClientID: "test"},
		Topics: []string{"t"}, Concurrency: 64, Timeout: 30 * time.Second,
		FetchBytes: 16 << 20, FetchPartitionBytes: 256 << 10, FetchWait: 100 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	var out, log bytes.Buffer
	env := &command.Env{Name: "test", Log: slog.New(slog.NewTextHandler(&log, nil)), Stop: stop}
	res := result{topics: make(map[string]*format.Topic), offsets: make(map[string][]int64), marks: make(map[string][]int64)}
	res.err = Run(w.Context(), cfg, env, &out)
	res.log, res.counted = log.String(), env.Counters.Snapshot()
	r := format.NewReader(&out, 0)
	res.header, _ = r.Header()
	for {
		f, err := r.Next()
		if err != nil {
			if err != io.EOF && res.err == nil {
				w.Fatal(err)
			}
			return res
		}
		res.kinds = append(res.kinds, string(f.Name))
		switch f.Kind {
		case format.KindTopic:
			topic, err := format.DecodeTopic(f.Raw)
			if err != nil {
				w.Fatal(err)
			}
			res.topics[topic.Name] = topic
		case format.KindRec:
			k := fmt.Sprintf("%s/%d", f.Topic, f.Partition)
			res.offsets[k] = append(res.offsets[k], f.Offset)
		case format.KindBatch:
			b, err := format.DecodeBatch(f.Raw)
			if err != nil {
				w.Fatal(err)
			}
			opened, err := recordbatch.Open(b)
			if err != nil {
				w.Fatal(err)
			}
			res.batches = append(res.batches, [2]int64{b.First, b.Last})
			k := fmt.Sprintf("%s/%d", b.Topic, b.Partition)
			if err := recordbatch.NewDecoder().Records(opened, func(r *format.Record) error {
				res.offsets[k] = append(res.offsets[k], r.Offset)
				return nil
			}); err != nil {
				w.Fatal(err)
			}
		case format.KindMark:
			m, err := format.DecodeMark(f.Raw)
			if err != nil {
				w.Fatal(err)
			}
			k := fmt.Sprintf("%s/%d", m.Topic, m.Partition)
			res.marks[k] = append(res.marks[k], m.Next)
			res.lost = append(res.lost, m.Lost...)
			if m.Open != nil {
				res.open = append(res.open, *m.Open)
			}
			if m.Deleted {
				res.deleted = append(res.deleted, k)
			}
			if m.Branch {
				res.branches = append(res.branches, m.Next)
			}
		case format.KindPoint:
			res.point, _ = format.DecodePoint(f.Raw)
		case format.KindEnd:
			res.end, _ = format.DecodeEnd(f.Raw)
		}
	}
}

// TestRates holds a run down: what may pass in the first second passes at once.
func TestRates(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.produce("t", 0, 60)
	for name, limit := range map[string]func(*Config){
		"records": func(c *Config) { c.MaxRecords = 30 },
		"bytes":   func(c *Config) { c.MaxRate = 2500 }, // each batch is 68 bytes and its value
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			r := w.fetch(func(c *Config) { limit(c); c.Timeout = 500 * time.Millisecond }, nil)
			w.want(r, "t/0", upTo(60), 0, 60)
			if took := time.Since(began); took < 600*time.Millisecond {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func upTo(n int64) (out []int64) {
	for i := range n {
		out = append(out, i)
	}
	return out
}

func (w *world) want(r result, key string, offsets []int64, marks ...int64) {
	w.Helper()
	if r.err != nil {
		w.Fatalf("fetch: %v\n%s", r.err, r.log)
	}
	if !slices.Equal(r.offsets[key], offsets) || !slices.Equal(r.marks[key], marks) {
		w.Errorf("%s: records %d, marks %d; want %d, %d", key, r.offsets[key], r.marks[key], offsets, marks)
	}
}

func TestOneShot(t *testing.T) {
	w := newWorld(t, 3, "t", 3)
	w.produce("t", 0, 7)
	w.produce("t", 2, 3)
	r := w.fetch(nil, nil)
	w.want(r, "t/0", upTo(7), 0, 7)
	w.want(r, "t/1", nil, 0, 0)
	w.want(r, "t/2", upTo(3), 0, 3)
	if r.end.Records != 10 || r.kinds[0] != "topic" || r.kinds[len(r.kinds)-2] != "point" {
		t.Errorf("end %+v, frames %q", r.end, r.kinds)
	}
}

// TestTransactions has committed, aborted and open transactions: the end is the last
// stable offset, and the last offsets below it are markers.
func TestTransactions(t *testing.T) {
	w := newWorld(t, 1, "t", 1, kgo.TransactionalID("tx"))
	for i, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit, kgo.TryAbort} {
		if err := w.cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		w.produce("t", 0, i+1)
		if err := w.cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
	// 0 and its marker 1; 2 3 aborted, 4; 5 6 7, 8; 9 10 11 12 aborted, 13.
	if err := w.cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	w.produce("t", 0, 2)
	w.want(w.fetch(nil, nil), "t/0", []int64{0, 5, 6, 7}, 0, 14)
}

func TestCursor(t *testing.T) {
	w := newWorld(t, 1, "t", 2)
	w.produce("t", 0, 10)
	w.produce("t", 1, 2)
	meta, err := w.adm.Metadata(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	id := kafka.FormatTopicID(meta.Topics["t"].ID)
	from := func(id string, next int64) func(*Config) {
		return func(c *Config) {
			c.Cursor = &cursor.Cursor{Version: 1, Topics: map[string]cursor.Topic{"t": {ID: id, Partitions: map[int32]int64{0: next}}}}
		}
	}
	r := w.fetch(from(id, 8), nil)
	w.want(r, "t/0", []int64{8, 9}, 8, 10)
	w.want(r, "t/1", []int64{0, 1}, 0, 2)
	w.want(w.fetch(from(id, 10), nil), "t/0", nil, 10, 10)
	overlap := func(next, n int64) func(*Config) {
		return func(c *Config) { from(id, next)(c); c.Cursor.Overlap = n }
	}
	w.want(w.fetch(overlap(10, 3), nil), "t/0", []int64{7, 8, 9}, 7, 10)
	w.want(w.fetch(overlap(2, 3), nil), "t/0", upTo(10), 0, 10)
	r = w.fetch(from("AAAAAAAAAAAAAAAAAAAAAA", 8), nil)
	w.want(r, "t/0", upTo(10), 0, 10)
	if !strings.Contains(r.log, "created again") {
		t.Errorf("said %q", r.log)
	}
	// Without a leader epoch, a cursor past the end leaves nothing to be sure of.
	r = w.fetch(from(id, 11), nil)
	if command.StatusOf(r.err) != command.Loss || !r.end.Lost || !strings.Contains(r.err.Error(), "t/0: the log was truncated") || !slices.Equal(r.branches, []int64{0}) {
		t.Errorf("cursor past the end: %v, branches %d", r.err, r.branches)
	}
	r.err = nil
	w.want(r, "t/0", upTo(10), 0, 10)
	if _, err := w.adm.DeleteRecords(t.Context(), kadm.Offsets{"t": {0: {Topic: "t", Partition: 0, At: 5}}}); err != nil {
		t.Fatal(err)
	}
	r = w.fetch(from(id, 3), nil)
	if command.StatusOf(r.err) != command.Loss || !slices.Equal(r.lost, [][2]int64{{3, 5}}) || !r.end.Lost {
		t.Errorf("lost records: %v, marks lost %v", r.err, r.lost)
	}
	r.err = nil
	w.want(r, "t/0", []int64{5, 6, 7, 8, 9}, 3, 5, 10)
	w.want(w.fetch(overlap(7, 100), nil), "t/0", []int64{5, 6, 7, 8, 9}, 5, 10) // what is gone was read
	strict := from(id, 3)
	r = w.fetch(func(c *Config) { strict(c); c.FailOnLoss = true }, nil)
	if command.StatusOf(r.err) != command.Loss || r.end != nil || !strings.Contains(r.err.Error(), "t/0: offsets 3 to 4 were deleted") {
		t.Errorf("to fail on loss: %v, end %+v", r.err, r.end)
	}
}

// TestLostMeanwhile deletes records after the run has begun.
func TestLostMeanwhile(t *testing.T) {
	for _, strict := range []bool{false, true} {
		w := newWorld(t, 1, "t", 1)
		w.produce("t", 0, 10)
		var begin sync.Once
		var deleted atomic.Bool
		w.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
			w.fake.KeepControl()
			if deleted.Load() {
				return nil, nil, false
			}
			go begin.Do(func() { // the broker works on one request at a time
				if _, err := w.adm.DeleteRecords(context.Background(), kadm.Offsets{"t": {0: {Topic: "t", Partition: 0, At: 6}}}); err != nil {
					t.Error(err)
				}
				deleted.Store(true)
			})
			return nil, errors.New("not now"), true
		})
		r := w.fetch(func(c *Config) { c.FailOnLoss = strict }, nil)
		if command.StatusOf(r.err) != command.Loss || strict != (r.end == nil) {
			t.Fatalf("strict %v: %v, end %+v", strict, r.err, r.end)
		}
		if r.err = nil; !strict {
			w.want(r, "t/0", []int64{6, 7, 8, 9}, 0, 6, 10)
			if !slices.Equal(r.lost, [][2]int64{{0, 6}}) || !r.end.Lost {
				t.Errorf("lost %v, end %+v", r.lost, r.end)
			}
			if c := r.counted; c.Lost != 6 || c.Losses != 1 || c.Records != 4 || c.Offsets != 10 {
				t.Errorf("counted %+v", c)
			}
		}
	}
}

// TestShards reads a cluster in three parts.
func TestShards(t *testing.T) {
	w := newWorld(t, 1, "t", 10)
	w.create("u", 1)
	for p := range int32(10) {
		w.produce("t", p, 2)
	}
	seen := make(map[string]int)
	for _, s := range []string{"1/3", "2/3", "3/3"} {
		r := w.fetch(func(c *Config) {
			c.Topics = []string{"^"}
			var err error
			if c.Shard, err = partitions.ParseShard(s); err != nil {
				t.Fatal(err)
			}
		}, nil)
		if r.err != nil || !slices.Contains(r.kinds, "point") {
			t.Fatalf("%s: %v, frames %q", s, r.err, r.kinds)
		}
		for k := range r.marks {
			seen[k]++
		}
	}
	if len(seen) != 11 {
		t.Errorf("seen %v", seen)
	}
	for k, n := range seen {
		if n != 1 {
			t.Errorf("%s was read %d times", k, n)
		}
	}
}

func TestSelect(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.create("audit.a", 1)
	w.create("audit.b", 1)
	for _, c := range []struct {
		topics []string
		want   string // topics of marks, or an error
	}{
		{[]string{"t"}, "t/0"},
		{[]string{"^audit"}, "audit.a/0 audit.b/0"},
		{[]string{"^audit", "audit.a", "t"}, "audit.a/0 audit.b/0 t/0"},
		{[]string{"t", "missing"}, `topic "missing" does not exist`},
		{[]string{"^nothing"}, `no topic matches "^nothing"`},
		{[]string{"^("}, "missing closing )"},
	} {
		r := w.fetch(func(cfg *Config) { cfg.Topics = c.topics }, nil)
		if r.err != nil {
			if !strings.Contains(r.err.Error(), c.want) || len(r.kinds) > 0 {
				t.Errorf("%q: %v, frames %q", c.topics, r.err, r.kinds)
			}
			continue
		}
		var got []string
		for k := range r.marks {
			got = append(got, k)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q: got %q, want %s", c.topics, got, c.want)
		}
	}
}

// TestManyPartitions reads more partitions than may be read at once.
func TestManyPartitions(t *testing.T) {
	w := newWorld(t, 3, "t", 300)
	for p := range int32(300) {
		w.produce("t", p, int(p%3))
	}
	r := w.fetch(func(c *Config) { c.Concurrency = 7 }, nil)
	for p := range int64(300) {
		w.want(r, fmt.Sprintf("t/%d", p), upTo(p%3), 0, p%3)
	}
}

// TestTrouble makes brokers fail for a while, in each way that passes.
func TestTrouble(t *testing.T) {
	w := newWorld(t, 3, "t", 6)
	for p := range int32(6) {
		w.produce("t", p, 20)
	}
	trouble := []error{kerr.NotLeaderForPartition, kerr.UnknownLeaderEpoch, kerr.KafkaStorageError, kerr.LeaderNotAvailable, kerr.OffsetNotAvailable}
	turn := 0
	w.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		turn++
		if turn > 20 {
			return nil, nil, false
		}
		if turn%7 == 0 {
			return nil, errors.New("the connection breaks"), true
		}
		fetch := req.(*kmsg.FetchRequest)
		resp := fetch.ResponseKind().(*kmsg.FetchResponse)
		for _, t := range fetch.Topics {
			rt := kmsg.NewFetchResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewFetchResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, trouble[turn%len(trouble)].(*kerr.Error).Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	r := w.fetch(nil, nil)
	for p := range 6 {
		w.want(r, fmt.Sprintf("t/%d", p), upTo(20), 0, 20)
	}
	if turn <= 20 {
		t.Errorf("only %d fetches", turn)
	}
}

// answerEmpty answers fetches of one partition with nothing, so many times, and says
// that the partition ends at stable. It returns how many fetches there were.
func (w *world) answerEmpty(stable int64, times int) (fetches *int) {
	fetches = new(int)
	id := w.fake.TopicInfo("t").TopicID
	w.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if *fetches++; *fetches > times {
			return nil, nil, false
		}
		fetch := req.(*kmsg.FetchRequest)
		resp := fetch.ResponseKind().(*kmsg.FetchResponse)
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.TopicID = "t", id
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.HighWatermark, rp.LastStableOffset = stable, stable
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	return fetches
}

// TestEmptyIsNotTheEnd gets nothing from a fetch, for three reasons.
func TestEmptyIsNotTheEnd(t *testing.T) {
	t.Run("there is more", func(t *testing.T) {
		w := newWorld(t, 1, "t", 1)
		w.produce("t", 0, 5)
		fetches := w.answerEmpty(5, 2)
		w.want(w.fetch(nil, nil), "t/0", upTo(5), 0, 5)
		if *fetches < 3 {
			t.Errorf("only %d fetches", *fetches)
		}
	})
	t.Run("compaction took the rest", func(t *testing.T) {
		w := newWorld(t, 1, "t", 1)
		w.produce("t", 0, 5)
		fetches := w.answerEmpty(5, 1<<30)
		w.want(w.fetch(nil, nil), "t/0", nil, 0, 5)
		if *fetches <= confirmEmpty {
			t.Errorf("believed after %d fetches", *fetches)
		}
	})
	t.Run("the partition ends below where it ended", func(t *testing.T) {
		w := newWorld(t, 1, "t", 1)
		w.produce("t", 0, 5)
		w.answerEmpty(3, 1<<30)
		r := w.fetch(func(c *Config) { c.Timeout = time.Second }, nil)
		if r.err == nil || !strings.Contains(r.err.Error(), "ended at offset 5 before and ends at 3 now") || r.end != nil {
			t.Errorf("got %v", r.err)
		}
	})
}

// TestStop stops a run that cannot get on.
func TestStop(t *testing.T) {
	w := newWorld(t, 1, "t", 2)
	w.produce("t", 0, 5)
	w.produce("t", 1, 5)
	stop := make(chan struct{})
	fetches := 0
	w.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if fetches++; fetches == 1 {
			close(stop)
		}
		return nil, errors.New("no answer"), true
	})
	r := w.fetch(nil, stop)
	if command.StatusOf(r.err) != command.Interrupted || r.end == nil || !r.end.Interrupted || slices.Contains(r.kinds, "point") {
		t.Errorf("got %v, end %+v, frames %q", r.err, r.end, r.kinds)
	}
	for k, marks := range r.marks {
		if !slices.Equal(marks, []int64{0, 0}) {
			t.Errorf("%s: marks %d", k, marks)
		}
	}
}

// TestGivesUp waits no longer than the timeout.
func TestGivesUp(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.produce("t", 0, 5)
	w.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		return nil, errors.New("no answer"), true
	})
	r := w.fetch(func(c *Config) { c.Timeout = 500 * time.Millisecond }, nil)
	if r.err == nil || !strings.Contains(r.err.Error(), "t/0: no progress at offset 0") || r.end != nil {
		t.Errorf("got %v, end %+v", r.err, r.end)
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.produce("t", 0, 5)
	ctx, cancel := context.WithCancel(t.Context())
	w.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		cancel()
		return nil, errors.New("no answer"), true
	})
	var out bytes.Buffer
	cfg := Config{Kafka: kafka.Config{Brokers: w.fake.ListenAddrs()}, Topics: []string{"t"}, Concurrency: 1, Timeout: time.Minute, FetchBytes: 1 << 20, FetchPartitionBytes: 1 << 20}
	err := Run(ctx, cfg, &command.Env{Log: slog.New(slog.DiscardHandler)}, &out)
	if !errors.Is(err, context.Canceled) || command.StatusOf(err) != command.Interrupted {
		t.Errorf("got %v", err)
	}
}

// TestBounds reads parts of a partition whose timestamps are out of order.
func TestBounds(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	for _, ms := range []int64{1000, 2000, 5000, 3000, 1500, 4000, 2500} {
		r := &kgo.Record{Topic: "t", Timestamp: time.UnixMilli(ms), Value: []byte("v")}
		if err := w.cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		from, to string
		want     []int64
		marks    []int64
	}{
		{"beginning", "end", upTo(7), []int64{0, 7}},
		{"3", "5", []int64{3, 4}, []int64{3, 5}},
		{"-2", "end", []int64{5, 6}, []int64{5, 7}},
		{"beginning", "-5", []int64{0, 1}, []int64{0, 2}},
		{"end", "end", nil, []int64{7, 7}},
		{"100", "200", nil, []int64{7, 7}},
		{"5", "2", nil, []int64{5, 5}},
		// All of a time, whenever it came; the scan begins at the first record of the time
		// and goes on to the end.
		{"@2500", "end", []int64{2, 3, 5, 6}, []int64{2, 7}},
		{"beginning", "@2500", []int64{0, 1, 4, 6}, []int64{0, 7}},
		{"@1500", "@3000", []int64{1, 3, 4, 6}, []int64{1, 7}},
		{"@9000", "end", nil, []int64{7, 7}},
	} {
		r := w.fetch(func(cfg *Config) {
			for text, b := range map[string]*Bound{c.from: &cfg.From, c.to: &cfg.To} {
				var err error
				if *b, err = ParseBound(text, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			if c.from == c.to {
				cfg.From = cfg.To
			}
		}, nil)
		if r.err != nil || !slices.Equal(r.offsets["t/0"], c.want) || !slices.Equal(r.marks["t/0"], c.marks) {
			t.Errorf("%s to %s: %d, marks %d, %v; want %d, %d", c.from, c.to, r.offsets["t/0"], r.marks["t/0"], r.err, c.want, c.marks)
		}
	}
}

func TestSelectPartitions(t *testing.T) {
	w := newWorld(t, 1, "t", 5)
	w.create("u", 3)
	w.create("v", 1)
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Topics = []string{"t:0,2-3", "u:1"} }, "t/0 t/2 t/3 u/1"},
		{func(c *Config) { c.Topics = []string{"^"}; c.Partitions = map[int32]bool{2: true} }, "t/2 u/2"},
		{func(c *Config) { c.Topics = []string{"^"}; c.Exclude = []string{"t", "^v"} }, "u/0 u/1 u/2"},
		{func(c *Config) { c.Topics = []string{"t:7"} }, "topic t has no partition 7"},
		{func(c *Config) { c.Topics = []string{"t:x"} }, "not a list of partitions"},
		{func(c *Config) { c.Exclude = []string{"^"} }, "--exclude leaves it out"},
		{func(c *Config) { c.Exclude = []string{"^["} }, "--exclude"},
	} {
		r := w.fetch(c.change, nil)
		got := ""
		if r.err != nil {
			got = r.err.Error()
		} else {
			var keys []string
			for k := range r.marks {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			got = strings.Join(keys, " ")
		}
		if got != c.want && (r.err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestUncommitted reads a transaction that is open, and one that was aborted, as what
// may yet be: the header says so.
func TestUncommitted(t *testing.T) {
	w := newWorld(t, 1, "t", 1, kgo.TransactionalID("tx"))
	for _, end := range []bool{true, false} {
		if err := w.cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		w.produce("t", 0, 2)
		if end {
			if err := w.cl.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := w.fetch(func(c *Config) { c.Uncommitted = true }, nil)
	w.want(r, "t/0", []int64{0, 1, 3, 4}, 0, 5)
	if r.header.Source.Isolation != "read_uncommitted" {
		t.Errorf("header says %q", r.header.Source.Isolation)
	}
	r = w.fetch(nil, nil)
	w.want(r, "t/0", nil, 0, 3)
	if r.header.Source.Isolation != "read_committed" {
		t.Errorf("header says %q", r.header.Source.Isolation)
	}
}
