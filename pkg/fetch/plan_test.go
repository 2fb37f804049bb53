package fetch

import (
	"bytes"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/kafka"
)

// TestResume has what a leader may say of the leader epochs, to one who has read the
// partition up to offset 100, of which the last batch was of epoch 5.
func TestResume(t *testing.T) {
	ends := func(epoch int32, end int64) kafka.EpochEnd { return kafka.EpochEnd{Epoch: epoch, End: end} }
	const epoch = 5
	for name, c := range map[string]struct {
		epoch  int32
		known  known
		from   int64
		branch bool
	}{
		"the log goes on":                        {epoch, known{0, 120, 120, -1, epochs{ends(5, 120), unasked, unasked}}, 100, false},
		"in another epoch":                       {epoch, known{0, 120, 120, -1, epochs{ends(5, 100), unasked, unasked}}, 100, false},
		"there is no more":                       {epoch, known{0, 100, 100, -1, epochs{ends(5, 100), unasked, unasked}}, 100, false},
		"behind an open transaction":             {epoch, known{0, 90, 120, -1, epochs{ends(5, 120), unasked, unasked}}, 100, false},
		"a new leader that is told late":         {epoch, known{0, 90, 90, -1, epochs{ends(5, 120), unasked, unasked}}, 100, false},
		"retention took what was read":           {epoch, known{110, 120, 120, -1, epochs{ends(5, 110), unasked, unasked}}, 100, false},
		"truncated":                              {epoch, known{0, 80, 80, -1, epochs{ends(5, 80), unasked, unasked}}, 80, true},
		"truncated, and grown past the cursor":   {epoch, known{0, 200, 200, -1, epochs{ends(5, 80), unasked, unasked}}, 80, true},
		"grown again, and expired":               {epoch, known{150, 200, 200, -1, epochs{ends(5, 80), unasked, unasked}}, 80, true},
		"all of the epoch is gone":               {epoch, known{0, 200, 200, -1, epochs{ends(4, 95), ends(3, 60), unasked}}, 60, true},
		"and of that below nothing is known":     {epoch, known{7, 200, 200, -1, epochs{ends(4, 95), unasked, unasked}}, 7, true},
		"no epoch is as high":                    {epoch, known{7, 200, 200, -1, epochs{unasked, unasked, ends(3, 200)}}, 7, true},
		"it keeps no epochs":                     {epoch, known{0, 200, 200, -1, epochs{unasked, unasked, unasked}}, 100, false},
		"it keeps none, and the log is shorter":  {epoch, known{7, 80, 80, -1, epochs{unasked, unasked, unasked}}, 7, true},
		"of no known epoch":                      {-1, known{0, 200, 200, -1, epochs{unasked, unasked, unasked}}, 100, false},
		"of no known epoch, past the end":        {-1, known{7, 80, 80, -1, epochs{unasked, unasked, ends(3, 80)}}, 7, true},
		"of no known epoch, past what is stable": {-1, known{0, 80, 120, -1, epochs{unasked, unasked, unasked}}, 100, false},
		"of no known epoch, not yet told":        {-1, known{0, 80, 80, -1, epochs{unasked, unasked, ends(3, 120)}}, 100, false},
	} {
		r := resume(position{next: 100, epoch: c.epoch}, c.known)
		if r.from != c.from || r.branch != c.branch || (r.why != "") != c.branch {
			t.Errorf("%s: %+v, want %d, %v", name, r, c.from, c.branch)
		}
	}
}

// answerEpochs answers what is asked about leader epochs.
func (w *world) answerEpochs(of func(epoch int32) (int32, int64)) {
	w.fake.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for _, t := range req.(*kmsg.OffsetForLeaderEpochRequest).Topics {
			rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				rp.Partition = p.Partition
				rp.LeaderEpoch, rp.EndOffset = of(p.LeaderEpoch)
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

// TestBranch begins at a cursor of which the log was truncated, and has grown again.
func TestBranch(t *testing.T) {
	w := newWorld(t, 1, "t", 2)
	w.produce("t", 0, 10)
	w.produce("t", 1, 10)
	w.answerEpochs(func(epoch int32) (int32, int64) {
		if epoch == 7 {
			return 7, 4
		}
		return epoch, 10
	})
	from := func(c *Config) {
		c.Cursor = &cursor.Cursor{Version: 1, Topics: map[string]cursor.Topic{"t": {
			Partitions: map[int32]int64{0: 8, 1: 8}, Epochs: map[int32]int32{0: 7, 1: 3},
		}}}
	}
	r := w.fetch(from, nil)
	if command.StatusOf(r.err) != command.Loss || !r.end.Lost || !slices.Equal(r.branches, []int64{4}) || len(r.end.Losses) != 1 ||
		!strings.Contains(r.end.Losses[0], "t/0") || !strings.Contains(r.end.Losses[0], "offsets 4 to 7") || !strings.Contains(r.log, r.end.Losses[0]) {
		t.Errorf("%v, end %+v, branches %d\n%s", r.err, r.end, r.branches, r.log)
	}
	r.err = nil
	w.want(r, "t/0", []int64{4, 5, 6, 7, 8, 9}, 4, 10)
	w.want(r, "t/1", []int64{8, 9}, 8, 10)
	r = w.fetch(func(c *Config) { from(c); c.FailOnLoss = true }, nil)
	if command.StatusOf(r.err) != command.Loss || r.end != nil || len(r.kinds) > 0 {
		t.Errorf("to fail on loss: %v, frames %q", r.err, r.kinds)
	}
}

// leaderless takes the leader of partition 0 of topic t away, as long as it says.
func (w *world) leaderless(gone *atomic.Bool) {
	w.Helper()
	req := kmsg.NewPtrMetadataRequest()
	all, err := req.RequestWith(w.Context(), w.cl)
	if err != nil {
		w.Fatal(err)
	}
	for i := range all.Topics {
		for j := range all.Topics[i].Partitions {
			if p := &all.Topics[i].Partitions[j]; *all.Topics[i].Topic == "t" && p.Partition == 0 {
				p.Leader, p.ErrorCode = -1, kerr.LeaderNotAvailable.Code
			}
		}
	}
	w.fake.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		resp := *all
		resp.SetVersion(req.GetVersion())
		return &resp, nil, gone.Load()
	})
}

// TestLeaderless begins while a partition has no leader, which comes back, or does not.
func TestLeaderless(t *testing.T) {
	w := newWorld(t, 2, "t", 2)
	w.create("u", 1)
	w.produce("t", 0, 3)
	w.produce("t", 1, 4)
	w.produce("u", 0, 5)
	var gone atomic.Bool
	w.leaderless(&gone)
	all := func(timeout time.Duration) func(*Config) {
		return func(c *Config) { c.Topics, c.Timeout = []string{"^"}, timeout }
	}
	t.Run("it comes back", func(t *testing.T) {
		w := w.with(t)
		gone.Store(true)
		back := time.AfterFunc(500*time.Millisecond, func() { gone.Store(false) })
		defer back.Stop()
		r := w.fetch(all(30*time.Second), nil)
		w.want(r, "t/0", upTo(3), 0, 3)
		w.want(r, "t/1", upTo(4), 0, 4)
		if !strings.Contains(r.log, "t/0: its offsets cannot be read: waiting up to 30s") {
			t.Errorf("said %s", r.log)
		}
	})
	gone.Store(true)
	t.Run("it does not", func(t *testing.T) {
		w := w.with(t)
		r := w.fetch(all(500*time.Millisecond), nil)
		if command.StatusOf(r.err) != command.Loss || !r.end.Lost || len(r.end.Losses) != 1 || !strings.Contains(r.end.Losses[0], "t/0 is left out") {
			t.Errorf("%v, end %+v\n%s", r.err, r.end, r.log)
		}
		if r.point == nil || !reflect.DeepEqual(r.point.Without, map[string][]int32{"t": {0}}) || r.marks["t/0"] != nil {
			t.Errorf("point %+v, marks %d", r.point, r.marks["t/0"])
		}
		r.err = nil
		w.want(r, "t/1", upTo(4), 0, 4)
		w.want(r, "u/0", upTo(5), 0, 5)
	})
	t.Run("to fail on loss", func(t *testing.T) {
		r := w.with(t).fetch(func(c *Config) { all(500 * time.Millisecond)(c); c.FailOnLoss = true }, nil)
		if command.StatusOf(r.err) != command.Loss || r.end != nil || !strings.Contains(r.err.Error(), "t/0 is left out") {
			t.Errorf("%v, end %+v", r.err, r.end)
		}
	})
	t.Run("list", func(t *testing.T) {
		var out, said bytes.Buffer
		cfg := Config{Kafka: kafka.Config{Brokers: w.fake.ListenAddrs(), ClientID: "test"}, Topics: []string{"^"}}
		err := List(t.Context(), cfg, slog.New(slog.NewTextHandler(&said, nil)), false, &out)
		if err != nil || !strings.Contains(said.String(), "t/0: its offsets cannot be read") {
			t.Errorf("%v, said %s", err, &said)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 4 || !slices.Equal(strings.Fields(lines[1])[:7], []string{"t", "0", "-1", "1", "-1", "-1", "-1"}) || strings.Fields(lines[2])[6] != "4" {
			t.Errorf("printed\n%s", &out)
		}
	})
}

// TestConfigs has topics of which the configs may not be read.
func TestConfigs(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.create("u", 1)
	w.produce("t", 0, 1)
	w.fake.ControlKey(int16(kmsg.DescribeConfigs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
		for _, r := range req.(*kmsg.DescribeConfigsRequest).Resources {
			rr := kmsg.NewDescribeConfigsResponseResource()
			rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
			if r.ResourceName == "t" {
				rr.ErrorCode = kerr.TopicAuthorizationFailed.Code
			} else {
				c := kmsg.NewDescribeConfigsResponseResourceConfig()
				value := "compact"
				c.Name, c.Value, c.Source = "cleanup.policy", &value, kmsg.ConfigSourceDynamicTopicConfig
				rr.Configs = append(rr.Configs, c)
			}
			resp.Resources = append(resp.Resources, rr)
		}
		return resp, nil, true
	})
	r := w.fetch(func(c *Config) { c.Topics = []string{"^"} }, nil)
	w.want(r, "t/0", upTo(1), 0, 1)
	if !strings.Contains(r.log, "the topic configs of t are not in the stream: ") || !strings.Contains(r.log, "DESCRIBE_CONFIGS") {
		t.Errorf("said %s", r.log)
	}
	if !maps.Equal(r.topics["u"].Configs, map[string]string{"cleanup.policy": "compact"}) || r.topics["t"].Configs != nil {
		t.Errorf("topics %+v", r.topics)
	}
	if r = w.fetch(func(c *Config) { c.NoConfigs = true }, nil); r.err != nil || strings.Contains(r.log, "configs") {
		t.Errorf("without configs: %v\n%s", r.err, r.log)
	}
}

// TestUnmatched has expressions that match nothing, beside others that do.
func TestUnmatched(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.produce("t", 0, 1)
	r := w.fetch(func(c *Config) { c.Topics, c.Exclude = []string{"t", "^nothing"}, []string{"neither", "^nor"} }, nil)
	w.want(r, "t/0", upTo(1), 0, 1)
	for _, what := range []string{`no topic matches \"^nothing\"`, `no topic matches --exclude \"neither\"`, `no topic matches --exclude \"^nor\"`} {
		if !strings.Contains(r.log, what) {
			t.Errorf("it does not say %s:\n%s", what, r.log)
		}
	}
	r = w.fetch(func(c *Config) { c.Topics = []string{"missing", "^t"} }, nil)
	if r.err == nil || !strings.Contains(r.err.Error(), `topic "missing" does not exist`) || len(r.kinds) > 0 {
		t.Errorf("a name that is not there: %v, frames %q", r.err, r.kinds)
	}
}

func TestNoTopic(t *testing.T) {
	for name, want := range map[string][2]string{
		"order":       {`topic "order" does not exist; did you mean "orders"?`, invisible},
		"audit":       {`topic "audit" does not exist`, invisible},
		"orders*":     {`topic "orders*" does not exist; did you mean "orders"?`, `no topic has a name with "*" in it; a regular expression begins with ^, as in -t '^orders'`},
		"orders,cust": {`topic "orders,cust" does not exist`, `no topic has a name with "," in it; a regular expression begins with ^, as in -t '^orders'`},
	} {
		if err := noTopic(name, []string{"customers", "orders"}); err.Error() != want[0] || command.HintOf(err) != want[1] {
			t.Errorf("%s: %v, hint %q; want %q", name, err, command.HintOf(err), want)
		}
	}
}

// TestSelectedNothing has flags that select nothing, beside others that do.
func TestSelectedNothing(t *testing.T) {
	w := newWorld(t, 1, "t", 2)
	w.create("u", 1)
	w.produce("t", 1, 1)
	for name, c := range map[string]struct {
		change func(*Config)
		says   []string
	}{
		"named and excluded": {func(c *Config) { c.Topics, c.Exclude = []string{"t", "u"}, []string{"u"} }, []string{`topic \"u\" is named, and --exclude leaves it out`}},
		"partitions": {
			func(c *Config) { c.Topics, c.Partitions = []string{"^"}, map[int32]bool{1: true, 7: true} },
			[]string{"topic u has none of the partitions", "no topic that is selected has partition 7"},
		},
		"a topic of the cursor is gone": {
			func(c *Config) {
				c.Topics, c.Exclude = []string{"^", "u"}, []string{"x"}
				c.Cursor = &cursor.Cursor{Topics: map[string]cursor.Topic{"gone": {}, "x": {}, "t": {}}}
			},
			[]string{"topics that the cursor names are not there: ", ": gone\""},
		},
	} {
		r := w.fetch(c.change, nil)
		if r.err != nil || r.offsets["t/1"] == nil {
			t.Errorf("%s: %v, records %v", name, r.err, r.offsets)
		}
		for _, what := range c.says {
			if !strings.Contains(r.log, what) {
				t.Errorf("%s: it does not say %q:\n%s", name, what, r.log)
			}
		}
	}
}

// TestTroubledTopic has a topic of which the broker cannot say anything.
func TestTroubledTopic(t *testing.T) {
	all := kadm.TopicDetails{
		"good":  {Topic: "good", Partitions: kadm.PartitionDetails{0: {}}},
		"bad":   {Topic: "bad", Err: kerr.LeaderNotAvailable},
		"worse": {Topic: "worse", Err: kerr.InvalidTopicException},
	}
	for name, c := range map[string]struct {
		cfg  Config
		want []string
	}{
		"all":               {Config{Topics: []string{"^"}}, []string{"bad", "worse"}},
		"some":              {Config{Topics: []string{"^"}, Exclude: []string{"^wor"}}, []string{"bad"}},
		"one is named":      {Config{Topics: []string{"^", "bad:0"}}, []string{"worse"}},
		"none of them":      {Config{Topics: []string{"good"}}, nil},
		"a faulty selector": {Config{Topics: []string{"^("}}, nil},
	} {
		if got := slices.Sorted(maps.Keys(troubled(all, c.cfg))); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestWindow looks at the header of runs that times bound, and of others.
func TestWindow(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.produce("t", 0, 3)
	now := time.Now().UnixMilli()
	since, until := now-3_600_000, now+3_600_000
	for name, c := range map[string]struct {
		from, to     Bound
		since, until *int64
	}{
		"whole":   {},
		"offsets": {from: Bound{atOffset, 1}, to: Bound{atOffset, 2}},
		"since":   {from: Bound{atTime, since}, since: &since},
		"until":   {to: Bound{atTime, until}, until: &until},
		"both":    {from: Bound{atTime, since}, to: Bound{atTime, until}, since: &since, until: &until},
	} {
		r := w.fetch(func(cfg *Config) { cfg.From, cfg.To = c.from, c.to }, nil)
		win := r.header.Window
		if r.err != nil || (win == nil) != (c.since == nil && c.until == nil) {
			t.Fatalf("%s: %v, window %+v", name, r.err, win)
		}
		if win != nil && (!equal(win.Since, c.since) || !equal(win.Until, c.until)) {
			t.Errorf("%s: window %+v", name, win)
		}
	}
}

func equal(a, b *int64) bool { return a == b || a != nil && b != nil && *a == *b }
