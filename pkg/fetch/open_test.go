package fetch

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// TestNormallyOpen has transactions of which more or less is known.
func TestNormallyOpen(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, c := range map[string]struct {
		transaction
		want bool
	}{
		"nothing is known":                 {transaction{}, false},
		"begun just now":                   {transaction{since: ago(time.Second)}, true},
		"begun long ago":                   {transaction{since: ago(time.Hour)}, false},
		"records with times to come":       {transaction{since: now.Add(time.Hour)}, false},
		"old records, begun just now":      {transaction{since: ago(time.Hour), started: ago(time.Second)}, true},
		"records of today, begun long ago": {transaction{since: ago(time.Second), started: ago(time.Hour)}, false},
		"clocks that differ a little":      {transaction{since: now.Add(10 * time.Second)}, true},
	} {
		h := hidden{transaction: c.transaction}
		if got := h.normal(now); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// openWorld has 3 records, a transaction that is open with 2, and 4 records behind it.
func openWorld(t *testing.T, age time.Duration) *world {
	t.Helper()
	w := newWorld(t, 1, "t", 2)
	w.produce("t", 1, 1)
	w.produce("t", 0, 3)
	plain := w.cl
	w.connect(kgo.TransactionalID("tx"))
	if err := w.cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r := &kgo.Record{Topic: "t", Value: []byte("open"), Timestamp: time.Now().Add(-age)}
		if err := w.cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	tx := w.cl
	w.cl = plain
	w.produce("t", 0, 4)
	w.cl = tx
	return w
}

// forgotten makes the coordinators know of no transaction: it hangs.
func (w *world) forgotten() {
	w.fake.ControlKey(int16(kmsg.ListTransactions), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		return req.ResponseKind(), nil, true
	})
}

// TestHangingTransaction has one that is open for an hour.
func TestHangingTransaction(t *testing.T) {
	w := openWorld(t, time.Hour)
	w.forgotten()
	r := w.fetch(nil, nil)
	if command.StatusOf(r.err) != command.Loss || !r.end.Lost || len(r.end.Losses) != 1 || !strings.Contains(r.log, "t/0: offsets 3 to 8 are hidden") {
		t.Fatalf("%v, end %+v\n%s", r.err, r.end, r.log)
	}
	for _, part := range []string{"t/0: offsets 3 to 8 are hidden behind a transaction that is open since ", "(1h0m", ", of producer ", "kafka-transactions.sh --bootstrap-server 127.0.0.1:", " abort --topic t --partition 0 --start-offset 3"} {
		if !strings.Contains(r.end.Losses[0], part) {
			t.Errorf("it does not say %q: %s", part, r.end.Losses[0])
		}
	}
	if !slices.Equal(r.open, [][2]int64{{3, 9}}) || r.point == nil {
		t.Errorf("marks with open %d, point %+v", r.open, r.point)
	}
	r.err = nil
	w.want(r, "t/0", upTo(3), 0, 3, 3)
	w.want(r, "t/1", upTo(1), 0, 1)

	// What ends before, or reads what is not committed, loses nothing.
	for name, change := range map[string]func(*Config){
		"--to 3":           func(c *Config) { c.To = Bound{atOffset, 3} },
		"read_uncommitted": func(c *Config) { c.Uncommitted = true },
		"another one":      func(c *Config) { c.Topics = []string{"t:1"} },
	} {
		if r := w.fetch(change, nil); r.err != nil || strings.Contains(r.log, "hidden") || r.open != nil {
			t.Errorf("%s: %v, open %d\n%s", name, r.err, r.open, r.log)
		}
	}
	if r = w.fetch(func(c *Config) { c.To = Bound{atOffset, 4} }, nil); command.StatusOf(r.err) != command.Loss {
		t.Errorf("--to 4: %v", r.err)
	}

	if r = w.fetch(func(c *Config) { c.OnOpen = FailOpen }, nil); command.StatusOf(r.err) != command.Loss || len(r.kinds) > 0 || !strings.Contains(r.err.Error(), "t/0: offsets 3 to 8 are hidden") {
		t.Errorf("to fail: %v, frames %q", r.err, r.kinds)
	}
	r = w.fetch(func(c *Config) { c.OnOpen, c.Timeout = WaitOpen, 600*time.Millisecond }, nil)
	if command.StatusOf(r.err) != command.Loss || !strings.Contains(r.log, "waiting up to 600ms: t/0: offsets 3 to 8") || !slices.Equal(r.open, [][2]int64{{3, 9}}) {
		t.Errorf("to wait: %v, open %d\n%s", r.err, r.open, r.log)
	}
}

// TestOpenForAMoment has a transaction as they are open at any time.
func TestOpenForAMoment(t *testing.T) {
	w := openWorld(t, time.Hour) // of old records, but the coordinator knows since when
	r := w.fetch(nil, nil)
	w.want(r, "t/0", upTo(3), 0, 3)
	if strings.Contains(r.log, "hidden") || r.open != nil || r.end.Lost {
		t.Errorf("open %d, end %+v\n%s", r.open, r.end, r.log)
	}
	t.Run("waited for in vain", func(t *testing.T) {
		r := w.with(t).fetch(func(c *Config) { c.OnOpen, c.Timeout = WaitOpen, 600*time.Millisecond }, nil)
		if command.StatusOf(r.err) != command.Loss || !slices.Equal(r.open, [][2]int64{{3, 9}}) || !strings.Contains(r.end.Losses[0], `(transactional id "tx")`) {
			t.Errorf("%v, open %d, end %+v", r.err, r.open, r.end)
		}
	})
	for name, onOpen := range map[string]OnOpen{"wait": WaitOpen, "fail": FailOpen} {
		t.Run(name, func(t *testing.T) {
			w := openWorld(t, 0)
			ending := make(chan error, 1)
			time.AfterFunc(500*time.Millisecond, func() { ending <- w.cl.EndTransaction(w.Context(), kgo.TryCommit) })
			r := w.fetch(func(c *Config) { c.OnOpen = onOpen }, nil)
			if err := <-ending; err != nil {
				t.Fatal(err)
			}
			w.want(r, "t/0", upTo(9), 0, 10)
			if !strings.Contains(r.log, "t/0: offsets 3 to 8 are hidden") || r.end.Lost {
				t.Errorf("end %+v\n%s", r.end, r.log)
			}
		})
	}
}

// TestFollowHanging says at each restore point what is hidden.
func TestFollowHanging(t *testing.T) {
	w := openWorld(t, time.Hour)
	w.forgotten()
	f := w.follow(func(c *Config) { c.PointEvery = 200 * time.Millisecond })
	first := f.until(0, "mark t/0 3 open 3-9")
	first = f.until(first, "point")
	if err := w.cl.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	f.until(f.until(first, "rec t/0 8"), "mark t/0 10")
	f.end()
	if said := strings.Count(f.log.String(), "t/0: offsets 3 to 8 are hidden"); said == 0 {
		t.Errorf("said\n%s", f.log.String())
	}
}

// TestListOpen lists it.
func TestListOpen(t *testing.T) {
	w := openWorld(t, time.Hour)
	var out, said bytes.Buffer
	cfg := Config{Kafka: kafka.Config{Brokers: w.fake.ListenAddrs(), ClientID: "test"}, Topics: []string{"t"}}
	if err := List(t.Context(), cfg, slog.New(slog.NewTextHandler(&said, nil)), true, &out); err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(&out); d.More(); {
		var l Listing
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		open := l.Partition == 0
		if (l.OpenSince != nil) != open || (l.Producer != nil) != open || (l.Transactional == "tx") != open || (l.End > l.Stable) != open {
			t.Errorf("listed %+v", l)
		}
	}
	if !strings.Contains(said.String(), "t/0: offsets 3 to 8 are hidden") {
		t.Errorf("said %s", &said)
	}
}
