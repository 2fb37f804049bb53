package fetch

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestSessionRequests has orders one after another, and what of them a broker is told.
func TestSessionRequests(t *testing.T) {
	id := [16]byte{1}
	parts := make(map[int32]*partition)
	for num := range int32(4) {
		parts[num] = &partition{topic: "t", id: id, num: num}
	}
	again := &partition{topic: "t", id: [16]byte{2}, num: 0} // of a topic of the same name
	of := func(ps ...*partition) []*partition { return ps }
	cfg := Config{FetchBytes: 1 << 20, FetchPartitionBytes: 1 << 20}
	s := newSession()
	var now []*partition
	for i, step := range []struct {
		before    func()
		parts     []*partition // nil: the same as before
		session   int32        // the answer's
		epoch     int32        // the request's
		asked     string
		forgotten string
	}{
		{nil, of(parts[0], parts[1], parts[2]), 7, 0, "t/0@0 t/1@0 t/2@0", ""},
		{nil, of(parts[0], parts[1], parts[2]), 7, 1, "", ""},
		{func() { parts[1].pos = 5 }, nil, 7, 2, "t/1@5", ""},
		{nil, of(parts[0], parts[1]), 7, 3, "", "t/2"},
		{nil, of(parts[0], parts[1], parts[3], again), 7, 4, "t/3@0 t/0@0", ""},
		{nil, of(parts[1], parts[3], again), 7, 5, "", "t/0"},
		{func() { parts[3].epoch = 2 }, nil, 7, 6, "t/3@0", ""},
		{func() { s.end() }, nil, 8, 0, "t/1@5 t/3@0 t/0@0", ""},
		{nil, nil, 0, 1, "", ""}, // the broker has no room for it any more
		{nil, nil, 0, 0, "t/1@5 t/3@0 t/0@0", ""},
		{nil, nil, 9, 0, "t/1@5 t/3@0 t/0@0", ""},
		{nil, nil, 9, 1, "", ""},
	} {
		if step.before != nil {
			step.before()
		}
		if step.parts != nil {
			now = step.parts
		}
		req := s.request(newOrder(now, true, 0), cfg)
		var asked, forgotten []string
		for _, rt := range req.Topics {
			for _, rp := range rt.Partitions {
				asked = append(asked, fmt.Sprintf("%s/%d@%d", rt.Topic, rp.Partition, rp.FetchOffset))
			}
		}
		for _, rt := range req.ForgottenTopics {
			for _, num := range rt.Partitions {
				forgotten = append(forgotten, fmt.Sprintf("%s/%d", rt.Topic, num))
			}
		}
		if got := strings.Join(asked, " "); req.SessionEpoch != step.epoch || got != step.asked || strings.Join(forgotten, " ") != step.forgotten {
			t.Errorf("order %d: epoch %d, asked for %q, forgot %q; want %+v", i, req.SessionEpoch, got, forgotten, step)
		}
		s.answered(&kmsg.FetchResponse{SessionID: step.session})
	}
	if len(s.known) != 3 || len(s.byKey) != 3 {
		t.Errorf("%d partitions are known, by %d keys", len(s.known), len(s.byKey))
	}
}

// TestSession follows many partitions, of which a request names those alone that have
// changed, and has the broker forget what it was asked for.
func TestSession(t *testing.T) {
	const partitions = 200
	w := newWorld(t, 1, "t", partitions)
	var named, fetches, fail atomic.Int64
	w.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		fetch := req.(*kmsg.FetchRequest)
		if fail.Load() > 0 && fetch.SessionEpoch > 0 {
			fail.Add(-1)
			resp := fetch.ResponseKind().(*kmsg.FetchResponse)
			resp.ErrorCode = kerr.FetchSessionIDNotFound.Code
			return resp, nil, true
		}
		fetches.Add(1)
		for _, rt := range fetch.Topics {
			named.Add(int64(len(rt.Partitions)))
		}
		return nil, nil, false
	})
	f := w.follow(func(c *Config) { c.PointEvery = 200 * time.Millisecond })
	f.until(0, "point")
	named.Store(0)
	fetches.Store(0)
	want := make(map[string]bool)
	for i := range 20 {
		p := int32(i * 7 % partitions)
		w.produce("t", p, 1)
		want[fmt.Sprintf("rec t/%d 0", p)] = true
		if i == 10 {
			fail.Store(2)
		}
		f.until(0, fmt.Sprintf("rec t/%d 0", p))
	}
	f.until(f.until(0, "mark t/133 1"), "point")
	frames := f.end()
	got := make(map[string]bool)
	for _, frame := range frames {
		if strings.HasPrefix(frame, "rec") {
			if got[frame] {
				t.Errorf("%s twice", frame)
			}
			got[frame] = true
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("read %v", slices.Sorted(maps.Keys(got)))
	}
	// All of them twice, for the session that was lost twice; and each record's once.
	if n := named.Load(); n > 3*partitions || fail.Load() != 0 {
		t.Errorf("%d requests named %d partitions", fetches.Load(), n)
	}
}
