package fetch

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestFollowPointsDespiteFaults lets a broker fail again and again while a restore point
// is due.
func TestFollowPointsDespiteFaults(t *testing.T) {
	w := newWorld(t, 1, "t", 2)
	w.produce("t", 0, 3)
	var fetches atomic.Int32
	w.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if fetches.Add(1)%3 != 0 {
			return nil, nil, false
		}
		w.fake.SleepControl(func() { time.Sleep(300 * time.Millisecond) }) // meanwhile the point becomes due
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		resp.ErrorCode = kerr.KafkaStorageError.Code
		return resp, nil, true
	})
	f := w.follow(func(c *Config) { c.PointEvery, c.FetchWait = 50*time.Millisecond, 200*time.Millisecond })
	at := 0
	for range 6 {
		at = f.until(at, "point") + 1
	}
	f.end()
}

// TestFollowSaysOnce has a restore point leave out the same as the one before.
func TestFollowSaysOnce(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.produce("t", 0, 3)
	f := w.follow(func(c *Config) { c.PointEvery, c.Groups = 20*time.Millisecond, []string{"^none"} })
	at := 0
	for range 4 {
		at = f.until(at, "point") + 1
	}
	f.end()
	f.mu.Lock()
	defer f.mu.Unlock()
	if said := f.log.String(); strings.Count(said, "no consumer group matches") != 1 {
		t.Errorf("it says\n%s", said)
	}
}
