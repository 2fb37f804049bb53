package produce

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/partitionlog"
)

func TestPlan(t *testing.T) {
	about := func(partitions int, configs ...string) *format.Topic {
		top := &format.Topic{Name: "a", Partitions: partitions, ReplicationFactor: 3, Configs: make(map[string]string)}
		for _, c := range configs {
			k, v, _ := strings.Cut(c, "=")
			top.Configs[k] = v
		}
		return top
	}
	present := func(partitions int, configs ...string) topicState {
		s := topicState{exists: true, partitions: partitions, settings: make(map[string]setting), bounds: make(map[int32]partitionlog.Bounds)}
		for _, c := range configs {
			k, v, _ := strings.Cut(c, "=")
			s.settings[k] = setting{value: v, own: true}
		}
		return s
	}
	full := func(s topicState, ends ...int64) topicState {
		for num, end := range ends {
			s.bounds[int32(num)] = partitionlog.Bounds{Start: 1, End: end}
		}
		return s
	}
	one := func(w wish) []wish { w.source, w.target = "a", "b"; return []wish{w} }
	for _, c := range []struct {
		name   string
		cfg    Config
		wishes []wish
		have   map[string]topicState
		errs   []string // parts of the error; none: there is none
		status int
		lines  []string
	}{
		{"create", Config{CreateTopics: true}, one(wish{about: about(3, "retention.ms=5", "leader.replication.throttled.replicas=*")}), nil, nil, 0,
			[]string{"would create topic b with 3 partitions, replication factor 3, retention.ms=5", "would set configs of topic b during the run: retention.ms=-1"}},
		{"create with other configs", Config{CreateTopics: true, SkipConfigs: []string{"x"}, Configs: map[string]string{"y": "2"}, Partitions: 9, ReplicationFactor: 1},
			one(wish{about: about(3, "x=5", "y=1")}), nil, nil, 0, []string{"would create topic b with 9 partitions, replication factor 1, y=2"}},
		{"create without configs", Config{CreateTopics: true, NoConfigs: true}, one(wish{about: about(1, "x=5")}), nil, nil, 0, []string{"would create topic b with 1 partition, replication factor 3"}},
		{"create as records need", Config{CreateTopics: true}, one(wish{about: about(1), highest: 4}), nil, nil, 0, []string{"would create topic b with 4 partitions, replication factor 3"}},
		{"not to be created", Config{}, []wish{{source: "a", target: "a"}, {source: "b", target: "b"}}, nil, []string{"topic a, b does not exist"}, 1, nil},
		{"how many partitions", Config{CreateTopics: true}, one(wish{}), nil, []string{"the stream does not say how many partitions it had"}, 1, nil},
		{"too few to create", Config{CreateTopics: true, Partitions: 2}, one(wish{about: about(3)}), nil, []string{"topic b with 2 partitions would be too small: a needs 3"}, 1, nil},
		{"spread", Config{CreateTopics: true, Partitions: 2, Partitioner: murmur2}, one(wish{about: about(3)}), nil, nil, 0, []string{"would create topic b with 2 partitions, replication factor 3"}},
		{"present", Config{}, one(wish{about: about(3)}), map[string]topicState{"b": present(3)}, nil, 0, nil},
		{"present, mapped", Config{PartitionMap: map[int32]int32{0: 7}}, one(wish{about: about(1)}), map[string]topicState{"b": present(8)}, nil, 0, nil},
		{"too few", Config{}, one(wish{about: about(3)}), map[string]topicState{"b": present(2)}, []string{"topic b has 2 partitions, and a needs 3"}, 1, nil},
		{"added", Config{AddPartitions: true}, one(wish{about: about(3)}), map[string]topicState{"b": present(2)}, nil, 0, []string{"would add partitions to topic b, which has 2, up to 3"}},
		{"held", Config{}, one(wish{}), map[string]topicState{"b": present(1, "cleanup.policy=compact", "message.timestamp.type=LogAppendTime", "retention.bytes=7", "retention.ms=-1")}, nil, 0,
			[]string{"would set configs of topic b during the run: cleanup.policy=delete, message.timestamp.type=CreateTime, retention.bytes=-1", "topic b has LogAppendTime: "}},
		{"not held", Config{KeepConfigs: true}, one(wish{}), map[string]topicState{"b": present(1, "cleanup.policy=compact", "message.timestamp.type=LogAppendTime")}, nil, 0, nil},
		{"smaller batches", Config{}, one(wish{about: about(1, "max.message.bytes=5000000")}), map[string]topicState{"b": present(1, "max.message.bytes=1000000")}, nil, 0,
			[]string{"topic b takes batches of up to 1000000 bytes, and a took up to 5000000 bytes: a larger record stops the run"}},
		{"records are there", Config{}, one(wish{}), map[string]topicState{"b": full(present(2), 11, 1)}, nil, 0, []string{"topic b has 10 offsets in 1 partition already"}},
		{"purge", Config{IfNotEmpty: purge}, one(wish{}), map[string]topicState{"b": full(present(2), 11, 21)}, []string{"--if-not-empty purge would delete 30 offsets of topic b for good"}, 2, nil},
		{"purge is meant", Config{IfNotEmpty: purge, Yes: true}, one(wish{}), map[string]topicState{"b": full(present(2), 11, 21)}, nil, 0, []string{"would delete 30 offsets of topic b"}},
		{"two to one", Config{}, []wish{{source: "a", target: "x"}, {source: "b", target: "x"}}, map[string]topicState{"x": present(1)}, []string{"topics a and b would both go to x"}, 2, nil},
		{"Kafka's own", Config{CreateTopics: true}, []wish{{source: "a", target: "__consumer_offsets"}, {source: "b", target: "own"}}, map[string]topicState{"own": {exists: true, internal: true}},
			[]string{"topic __consumer_offsets is Kafka's own", "topic own is Kafka's own"}, 1, nil},
		{"all that is wrong", Config{}, []wish{{source: "a", target: "a", highest: 2}, {source: "b", target: "b"}, {source: "c", target: "c"}},
			map[string]topicState{"a": present(1), "b": {exists: true, err: kerr.TopicAuthorizationFailed}}, []string{"topic a has 1 partitions", "topic b: TOPIC_AUTHORIZATION_FAILED", "topic c does not exist"}, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := makePlan(&c.cfg, c.wishes, c.have)
			if len(c.errs) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				lines := p.lines()
				ok := len(lines) == len(c.lines)
				for i := range c.lines {
					ok = ok && strings.HasPrefix(lines[i], c.lines[i])
				}
				if !ok {
					t.Errorf("the plan is\n%s\nand not\n%s", strings.Join(lines, "\n"), strings.Join(c.lines, "\n"))
				}
				return
			}
			for _, e := range c.errs {
				if err == nil || !strings.Contains(err.Error(), e) {
					t.Errorf("%v does not say %q", err, e)
				}
			}
			if command.StatusOf(err) != c.status {
				t.Errorf("status %d", command.StatusOf(err))
			}
		})
	}
}

func TestEatenBy(t *testing.T) {
	now := time.UnixMilli(1_000_000_000)
	for _, c := range []struct {
		name     string
		settings map[string]string
		oldest   int64
		largest  int64
		want     []string
	}{
		{"young enough", map[string]string{"retention.ms": "1000"}, now.UnixMilli() - 999, 0, nil},
		{"too old", map[string]string{"retention.ms": "1000"}, now.UnixMilli() - 1001, 0, []string{"retention.ms"}},
		{"without limit", map[string]string{"retention.ms": "-1", "retention.bytes": "-1"}, 0, math.MaxInt64, nil},
		{"no record", map[string]string{"retention.ms": "1000"}, math.MaxInt64, 0, nil},
		{"too large", map[string]string{"retention.bytes": "10"}, now.UnixMilli(), 11, []string{"retention.bytes"}},
		{"small enough", map[string]string{"retention.bytes": "10"}, now.UnixMilli(), 10, nil},
		{"both", map[string]string{"retention.bytes": "10", "retention.ms": "0", "cleanup.policy": "compact,delete"}, 0, 11, []string{"retention.ms", "retention.bytes"}},
		{"only compacted", map[string]string{"retention.bytes": "10", "retention.ms": "0", "cleanup.policy": "compact"}, 0, 11, nil},
		{"a time before all calendars", map[string]string{"retention.ms": "1000"}, math.MinInt64, 0, []string{"retention.ms"}},
		{"the longest", map[string]string{"retention.ms": "9223372036854775807"}, 0, 0, nil},
	} {
		var got []string
		for _, e := range eatenBy(c.settings, c.oldest, c.largest, now) {
			got = append(got, e.key)
			if e.line("t") == "" || !strings.Contains(leftLine("t", []eaten{e}), "kafka-configs.sh") {
				t.Errorf("%s: %s", c.name, leftLine("t", []eaten{e}))
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if got := commands("t", map[string]string{"a": "1", "cleanup.policy": "compact,delete"}, []string{"z", "b"}); got !=
		"kafka-configs.sh --bootstrap-server … --alter --entity-type topics --entity-name t --add-config 'a=1,cleanup.policy=[compact,delete]' --delete-config 'b,z'" {
		t.Error(got)
	}
}

func TestNotes(t *testing.T) {
	now := time.UnixMilli(10_000_000)
	w := &witness{now: now, run: "me", host: "here", pid: 5, alive: func(pid int) bool { return pid == 7 }}
	holders := []holder{
		{Run: "me", Host: "here", PID: 5},
		{Run: "neighbour", Host: "here", PID: 7, Renewed: now.UnixMilli() - 1000},
		{Run: "killed", Host: "here", PID: 8, Renewed: now.UnixMilli() - 1000, Producer: 12},
		{Run: "before me in this container", Host: "here", PID: 5, Renewed: now.UnixMilli() - 2000, Producer: 11},
		{Run: "far", Host: "there", PID: 8, Renewed: now.UnixMilli() - 1000},
		{Run: "far and dead", Host: "there", PID: 7, Renewed: now.UnixMilli() - deadAfter.Milliseconds() - 1, Producer: 10},
		{Run: "neighbour that hangs", Host: "here", PID: 7, Renewed: now.UnixMilli() - deadAfter.Milliseconds() - 1},
	}
	living, dead := w.split(holders)
	names := func(all []holder) (out []string) {
		for _, h := range all {
			out = append(out, h.Run)
		}
		return out
	}
	if got := names(living); !slices.Equal(got, []string{"me", "neighbour", "far"}) || len(dead) != 4 {
		t.Errorf("living: %v, dead: %v", got, names(dead))
	}

	hour := "3600000"
	n := note{Cluster: "c", TopicID: "id", Holders: holders[2:4], Was: map[string]*string{"retention.ms": &hour, "retention.bytes": nil, "cleanup.policy": &hour}}
	joined, last := n.join(holder{Run: "me"}, w, map[string]setting{
		"retention.ms":           {value: "-1", own: true},      // as it was held
		"retention.bytes":        {value: "-1"},                 // somebody has taken it off
		"cleanup.policy":         {value: "compact", own: true}, // somebody has set it
		"message.timestamp.type": {value: "LogAppendTime", own: true},
	}, map[string]string{"cleanup.policy": "delete", "message.timestamp.type": "CreateTime"})
	if last == nil || last.Producer != 12 || len(joined.Holders) != 1 {
		t.Errorf("goes on as %+v; holders %v", last, names(joined.Holders))
	}
	value := func(key string) string {
		v, ok := joined.Was[key]
		switch {
		case !ok:
			return "nothing"
		case v == nil:
			return "not set"
		}
		return *v
	}
	for key, want := range map[string]string{"retention.ms": hour, "retention.bytes": "nothing", "cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"} {
		if got := value(key); got != want {
			t.Errorf("%s was %s, and not %s", key, got, want)
		}
	}
	if back, ok := parseNote(joined.encode(), "c", "id"); !ok || len(back.Was) != 3 {
		t.Errorf("read again: %+v, %v", back, ok)
	}
	for _, other := range [][2]string{{"another", "id"}, {"c", "another"}} {
		if _, ok := parseNote(joined.encode(), other[0], other[1]); ok {
			t.Errorf("taken for one of %v", other)
		}
	}
	if _, ok := parseNote(`{"retention.ms":"1"}`, "", ""); ok {
		t.Error("something else was taken for a note")
	}
	if len(joined.encode()) > 1000 { // offset.metadata.max.bytes is 4096 by default
		t.Errorf("a note takes %d bytes", len(joined.encode()))
	}
}

func TestExplain(t *testing.T) {
	l := &lane{target: &target{name: "t"}, num: 3}
	g := &gathering{runs: []run{{route: &route{from: &partition{source: &source{name: "s"}, num: 1}}, first: 7}}}
	for _, c := range []struct {
		g    *gathering
		err  error
		want string
	}{
		{g, kerr.MessageTooLarge, "produce s/1 to topic t, partition 3, from offset 7 on: MESSAGE_TOO_LARGE"},
		{nil, partitionlog.ErrSequence, "topic t, partition 3: the broker has another batch"},
	} {
		if got := explain(l, c.g, c.err); !strings.HasPrefix(got.Error(), c.want) || !errors.Is(got, c.err) {
			t.Errorf("%v", got)
		}
	}
}
