package command

import (
	"encoding/json"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command/commandtest"
	"github.com/kbkio/kbk/pkg/statusline"
)

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

// TestDisplay draws a run on a terminal that is resized.
func TestDisplay(t *testing.T) {
	var screenful, log commandtest.Messages
	var width atomic.Int64
	var ours atomic.Bool
	width.Store(80)
	ours.Store(true)
	env := &Env{Name: "kbk-test", Log: logger("kbk-test", &log, slog.LevelInfo, false), screen: &screen{
		w: &screenful, width: func() int { return int(width.Load()) }, ours: ours.Load,
	}}
	began := time.Now()
	env.Counters.Records.Store(1000)
	env.Counters.Taken.Store(61000)
	d := env.NewDisplay(nil, statusline.Plan{Flow: []statusline.Size{{Of: statusline.Stored, Name: "stored"}}})
	d.Doing("opening s3:bucket")
	until(t, "the first line", func() bool { return strings.Contains(screenful.String(), "kbk-test: opening s3:bucket") })
	if took := time.Since(began); took > time.Second {
		t.Errorf("the first line took %s", took)
	}
	d.Doing("")
	d.Expect(&format.Header{Total: &format.Total{Offsets: 1_000_000, Records: 900_000}})
	until(t, "records of the total", func() bool { return strings.Contains(screenful.String(), " of 900,000 records") })
	width.Store(30)
	narrow := len(screenful.String())
	until(t, "a line in the new width", func() bool { return strings.Contains(screenful.String()[narrow:], clearLine) })
	until(t, "more of that width", func() bool { return strings.Count(screenful.String()[narrow:], redraw) > 2 })
	if n := strings.Count(screenful.String(), clearLine); n != 2 { // at each width once
		t.Errorf("what is below was cleared %d times", n)
	}
	d.stop()
	if got, want := log.String(), "kbk-test: finishing 61,000 records; again to stop now\n"; got != want {
		t.Errorf("said %q", got)
	}
	until(t, "that it stops", func() bool { return strings.Contains(screenful.String(), "stopping") })
	ours.Store(false) // the shell has put it into the background
	until(t, "no more lines", func() bool {
		n := len(screenful.String())
		time.Sleep(2 * drawEvery)
		return n == len(screenful.String())
	})
	ours.Store(true)
	d.Close()
	lines := strings.Split(strings.ReplaceAll(screenful.String(), redraw, clearLine), clearLine)
	for i, line := range lines[1:] {
		if i+1 < len(lines)-1 && !strings.HasSuffix(line, "\r") || strings.Count(line, "\n") > 0 {
			t.Errorf("line %q", line)
		}
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\r")); n > 79 {
			t.Errorf("a line of %d: %q", n, line)
		}
	}
	if lines[len(lines)-1] != "" {
		t.Errorf("%q is left on the terminal", lines[len(lines)-1])
	}
}

// TestHeartbeat has a run that nobody watches.
func TestHeartbeat(t *testing.T) {
	var log commandtest.Messages
	env := &Env{Name: "kbk-test", Log: logger("kbk-test", &log, slog.LevelInfo, false), heartbeat: 10 * time.Millisecond}
	c := &env.Counters
	c.Records.Store(1400)
	c.There.Store(100)
	c.Taken.Store(1700)
	c.Offsets.Store(1800)
	c.Committed.Store(1000)
	c.BytesRaw.Store(2 << 20)
	c.BytesStored.Store(1 << 20)
	c.Commit()
	plan := statusline.Plan{Records: 3000, Flow: []statusline.Size{{Of: statusline.Raw, Name: "read"}, {Of: statusline.Stored, Name: "stored"}}}
	d := env.NewDisplay(nil, plan)
	until(t, "a heartbeat", func() bool { return strings.Count(log.String(), "\n") > 1 })
	d.Close()
	if first, _, _ := strings.Cut(log.String(), "\n"); !strings.HasPrefix(first, "kbk-test: 50% · 1,500 of 3,000 records · 2.0 MiB read → 1.0 MiB stored · ") ||
		!strings.Contains(first, "1,000 committed 0s ago") || strings.Contains(first, "\x1b") {
		t.Errorf("%q", first)
	}

	var lines commandtest.Messages
	asJSON.Store(true)
	defer asJSON.Store(false)
	env.Log = logger("kbk-test", &lines, slog.LevelInfo, true)
	plan.Offsets = 4000
	d = env.NewDisplay(nil, plan)
	until(t, "a heartbeat", func() bool { return strings.Count(lines.String(), "\n") > 1 })
	d.Close()
	var got map[string]any
	first, _, _ := strings.Cut(lines.String(), "\n")
	if err := json.Unmarshal([]byte(first), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"msg": "progress", "command": "kbk-test", "records": 1500.0, "total_records": 3000.0, "total_offsets": 4000.0, "raw_bytes": 2097152.0, "offsets": 1600.0, "pending_records": 600.0, "stored_bytes": 1048576.0, "committed_records": 1000.0, "commits": 1.0} {
		if got[name] != want {
			t.Errorf("%s is %v, not %v", name, got[name], want)
		}
	}
	for _, name := range []string{"elapsed", "records_per_second", "bytes_per_second", "since_commit", "fraction"} {
		if _, ok := got[name].(float64); !ok {
			t.Errorf("no %s in %s", name, first)
		}
	}

	env.heartbeat = 0 // --quiet
	before := lines.String()
	d = env.NewDisplay(nil, statusline.Plan{})
	d.Close()
	if lines.String() != before {
		t.Errorf("it says %q", lines.String())
	}
}

// TestNoDisplay: nobody draws who has a stage behind.
func TestNoDisplay(t *testing.T) {
	_, pipe := testPipe(t)
	env := &Env{Log: slog.New(slog.DiscardHandler)}
	d := env.NewDisplay(pipe, statusline.Plan{})
	if d != nil {
		t.Error("it would draw")
	}
	d.Doing("x")
	d.Expect(&format.Header{})
	d.Kept(nil)
	d.Close()
}

func TestUTF8Locale(t *testing.T) {
	for _, test := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, false},
		{map[string]string{"LANG": "en_US.UTF-8"}, true},
		{map[string]string{"LANG": "C.utf8"}, true},
		{map[string]string{"LANG": "en_US.UTF-8", "LC_ALL": "C"}, false},
		{map[string]string{"LC_CTYPE": "UTF-8", "LANG": "C"}, true},
	} {
		if got := utf8Locale(func(name string) string { return test.env[name] }); got != test.want {
			t.Errorf("%v: %v", test.env, got)
		}
	}
}
