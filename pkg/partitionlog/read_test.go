package partitionlog

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/kafka/kafkatest"
)

func TestBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, 10*time.Second)
	w.write(2, 3, 4)
	if err := w.logs.DeleteBelow(t.Context(), Partition{"t", 1}, 5); err != nil {
		t.Fatal(err)
	}
	n := 0
	// The leader has more than its followers, for a while.
	w.fake.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		list := req.(*kmsg.ListOffsetsRequest)
		if n++; list.ReplicaID != -2 || n > 10 {
			return nil, nil, false
		}
		return kafkatest.Listed(list, 99), nil, true
	})
	got, err := w.logs.Bounds(t.Context(), []string{"t"})
	if err != nil || len(got) != 2 || got[Partition{"t", 0}] != (Bounds{0, 12}) || got[Partition{"t", 1}] != (Bounds{5, 12}) {
		t.Errorf("%v, %v", got, err)
	}
	if n < 10 {
		t.Errorf("it did not wait for the followers: %d questions", n)
	}
	n = 0
	if end, err := w.logs.End(t.Context(), Partition{"t", 1}); err != nil || end != 12 || n < 10 {
		t.Errorf("the end of one is %d, %v, after %d questions", end, err, n)
	}
	if none, err := w.logs.Bounds(t.Context(), nil); len(none) > 0 || err != nil {
		t.Errorf("%v, %v", none, err)
	}
	if _, err := w.logs.Bounds(t.Context(), []string{"t", "none"}); err == nil {
		t.Error("a topic that does not exist has bounds")
	}
	if got := (&behind{Partition{"t", 1}, 3, 4}).Error(); got != "the replicas of t/1 have 3 of 4 offsets" {
		t.Error(got)
	}
}

// TestRetries lets every kind of request fail for a moment, and then for good.
func TestRetries(t *testing.T) {
	t.Parallel()
	p := Partition{"t", 0}
	for key, do := range map[kmsg.Key]func(*world) error{
		kmsg.Fetch:             func(w *world) error { _, err := w.logs.Read(t.Context(), p, 0, 1<<20, Committed); return err },
		kmsg.ListOffsets:       func(w *world) error { _, err := w.logs.End(t.Context(), p); return err },
		kmsg.DeleteRecords:     func(w *world) error { return w.logs.DeleteBelow(t.Context(), p, 1) },
		kmsg.InitProducerID:    func(w *world) error { _, _, err := w.logs.ProducerID(t.Context()); return err },
		kmsg.DescribeProducers: func(w *world) error { _, _, err := w.logs.Sequence(t.Context(), p, 1); return err },
	} {
		t.Run(key.Name(), func(t *testing.T) {
			w := newWorld(t, 1, 20*time.Second)
			w.write(1, 1, 3)
			w.logs.topics = make(map[string]*topic) // nothing is known
			w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: kerr.NotLeaderForPartition, Count: 3, Topic: topicOf(key)})
			if key == kmsg.InitProducerID {
				w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: kerr.CoordinatorLoadInProgress, Count: 3, TopLevel: true})
			}
			if err := do(w); err != nil {
				t.Errorf("for a moment: %v", err)
			}
			w.logs.topics = make(map[string]*topic)
			w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: kerr.TopicAuthorizationFailed, Count: -1, Topic: topicOf(key), TopLevel: key == kmsg.InitProducerID})
			if err := do(w); !errors.Is(err, kerr.TopicAuthorizationFailed) {
				t.Errorf("for good: %v", err)
			}
		})
	}
}

func topicOf(key kmsg.Key) string {
	if key == kmsg.InitProducerID {
		return ""
	}
	return "t"
}

func TestRetryTimeout(t *testing.T) {
	w := newWorld(t, 1, 300*time.Millisecond)
	p := Partition{"t", 0}
	w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: -1})
	if _, err := w.logs.Read(t.Context(), p, 0, 1<<20, Committed); !errors.Is(err, kerr.NotLeaderForPartition) || !strings.Contains(err.Error(), "(for 300ms)") {
		t.Errorf("an error: %v", err)
	}
	w = newWorld(t, 1, 300*time.Millisecond)
	w.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, true })
	if _, err := w.logs.Read(t.Context(), p, 0, 1<<20, Committed); err == nil || !strings.Contains(err.Error(), "no answer (for 300ms)") {
		t.Errorf("no answer: %v", err)
	}
}

func TestMarkers(t *testing.T) {
	w := newWorld(t, 2, 10*time.Second)
	p := Partition{"t", 1}
	if err := w.logs.WriteMarkers(t.Context(), p, time.Time{}, 77, 1, 30); err != nil {
		t.Fatal(err)
	}
	if end, err := w.logs.End(t.Context(), p); err != nil || end != 30 {
		t.Errorf("the log ends at %d, %v", end, err)
	}
	w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.WriteTxnMarkers}, Err: kerr.ClusterAuthorizationFailed})
	if err := w.logs.WriteMarkers(t.Context(), p, time.Time{}, 77, 31, 1); !errors.Is(err, kerr.ClusterAuthorizationFailed) {
		t.Errorf("without the right: %v", err)
	}
	if err := w.logs.WriteMarkers(t.Context(), Partition{"t", 9}, time.Time{}, 77, 31, 1); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("of no partition: %v", err)
	}
}

// TestMarkersTogether wants markers of several partitions that wait for the same broker to
// share a request, and each to know of its own failure.
func TestMarkersTogether(t *testing.T) {
	const partitions, each = 6, 10
	w := newWorld(t, partitions, 10*time.Second)
	for num := range int32(partitions) {
		if err := w.fake.MoveTopicPartition("t", num, 0); err != nil {
			t.Fatal(err)
		}
	}
	requests := 0
	w.fake.ControlKey(int16(kmsg.WriteTxnMarkers), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		requests++
		return nil, nil, false
	})
	w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.WriteTxnMarkers}, Err: kerr.NotLeaderForPartition, Topic: "t", Partitions: []int32{3}})
	waiting, done := make(chan *markerJob, maxMarkerJobs), make([]chan error, partitions)
	for num := range int32(partitions) {
		done[num] = make(chan error, 1)
		waiting <- &markerJob{p: Partition{"t", num}, producer: 77, epoch: 1, n: each, done: done[num]}
	}
	go w.logs.sendMarkers(0, waiting)
	for num := range int32(partitions) {
		err := <-done[num]
		end, endErr := w.logs.End(t.Context(), Partition{"t", num})
		if failed := num == 3; endErr != nil || (err != nil) != failed || end != map[bool]int64{false: each}[failed] {
			t.Errorf("partition %d ends at %d, %v, %v", num, end, err, endErr)
		}
	}
	if requests != 1 {
		t.Errorf("%d requests", requests)
	}
}

// TestMarkersAtOnce writes markers to several partitions, with a goroutine for each.
func TestMarkersAtOnce(t *testing.T) {
	const partitions, each = 6, 10
	w := newWorld(t, partitions, 10*time.Second)
	var wg sync.WaitGroup
	for num := range int32(partitions) {
		wg.Go(func() {
			for epoch := range int16(each) {
				if err := w.logs.WriteMarkers(t.Context(), Partition{"t", num}, time.Time{}, 77, epoch+1, 1); err != nil {
					t.Error(err)
				}
			}
			if end, err := w.logs.End(t.Context(), Partition{"t", num}); err != nil || end != each {
				t.Errorf("partition %d ends at %d, %v", num, end, err)
			}
		})
	}
	wg.Wait()
}

func TestWaits(t *testing.T) {
	now := time.Unix(1000, 0)
	w := newWaits(nil)
	if got := w.line(now); got != "" {
		t.Error(got)
	}
	a := w.begin(Partition{"b", 1}, now)
	if got := w.line(now.Add(4 * time.Second)); got != "" {
		t.Error(got)
	}
	b := w.begin(Partition{"a", 2}, now)
	again := w.begin(Partition{"a", 2}, now) // two that wait for the same one
	b.Because(kerr.NotLeaderForPartition)
	if got := w.line(now.Add(6 * time.Second)); !strings.HasPrefix(got, "waiting for a/2 and 1 more, for 6s: NOT_LEADER_FOR_PARTITION") {
		t.Error(got)
	}
	if got := w.line(now.Add(35 * time.Second)); got != "" {
		t.Error(got)
	}
	b.End()
	again.Moved()
	again.End()
	if got := w.line(now.Add(37 * time.Second)); got != "waiting for b/1, for 37s: no answer" {
		t.Error(got)
	}
	a.End()
	if got := w.line(now.Add(80 * time.Second)); got != "" || !w.said.IsZero() {
		t.Error(got)
	}
	w.begin(Partition{"a producer id", -1}, now)
	if got := w.line(now.Add(90 * time.Second)); got != "waiting for a producer id, for 1m30s: no answer" {
		t.Error(got)
	}
}

// TestReadBelow has a broker answer without records, for reasons of each kind.
func TestReadBelow(t *testing.T) {
	for name, c := range map[string]struct {
		empty  int   // answers
		stable int64 // which they tell
		local  int64 // where the leader's own log starts
		broken bool  // they end inside a batch
		want   string
	}{
		"records":                  {},
		"for a moment":             {empty: 2, stable: 2},
		"never":                    {empty: -1, stable: 2, want: "read t/0 from offset 1: the broker sends nothing (for 700ms)"},
		"compacted away":           {empty: -1, stable: 9, local: 1},
		"a part of a batch":        {empty: -1, stable: 9, local: 1, broken: true},
		"chance":                   {empty: confirmEmpty - 1, stable: 9},
		"in remote storage":        {empty: -1, stable: 9, local: 2, want: "which are in remote storage (for 700ms)"},
		"where is not to be known": {empty: -1, stable: 9, local: -1, want: "does not say whether they are in remote storage (for 700ms)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1, 700*time.Millisecond)
			w.write(1, 3, 3)
			whole, err := w.logs.Read(t.Context(), Partition{"t", 0}, 1, 1<<20, Committed)
			if err != nil {
				t.Fatal(err)
			}
			answers := 0
			w.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
				w.fake.KeepControl()
				if answers++; c.empty >= 0 && answers > c.empty {
					return nil, nil, false
				}
				resp := req.ResponseKind().(*kmsg.FetchResponse)
				st, sp := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
				st.Topic, st.TopicID, sp.LastStableOffset = "t", req.(*kmsg.FetchRequest).Topics[0].TopicID, c.stable
				if c.broken {
					sp.RecordBatches = whole.RecordBatches[:30]
				}
				st.Partitions = append(st.Partitions, sp)
				resp.Topics = append(resp.Topics, st)
				return resp, nil, true
			})
			w.fake.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
				w.fake.KeepControl()
				return kafkatest.Listed(req.(*kmsg.ListOffsetsRequest), c.local), nil, true
			})
			got, err := w.logs.ReadBelow(t.Context(), Partition{"t", 0}, 1, 9, 1<<20)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v; want %s", err, c.want)
				}
				return
			}
			if err != nil || (len(got.RecordBatches) > 0) != (c.empty >= 0) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestReaches(t *testing.T) {
	w := newWorld(t, 1, 10*time.Second)
	w.write(1, 2, 3) // offsets 0 to 5
	got, err := w.logs.Read(t.Context(), Partition{"t", 0}, 0, 1<<20, Committed)
	if err != nil {
		t.Fatal(err)
	}
	b := got.RecordBatches
	for _, c := range []struct {
		b      []byte
		offset int64
		want   bool
	}{{nil, 0, false}, {b, 0, true}, {b, 5, true}, {b, 6, false}, {b[:len(b)-1], 5, false}, {b[:len(b)-1], 2, true}, {make([]byte, 100), 0, true}} {
		if got := reaches(c.b, c.offset); got != c.want {
			t.Errorf("%d bytes, offset %d: %t", len(c.b), c.offset, got)
		}
	}
}
