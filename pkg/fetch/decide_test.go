package fetch

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// at is a partition that is being read to offset 100, and has come to pos.
func at(pos int64, change ...func(*partition)) *partition {
	p := &partition{topic: "t", pos: pos, end: 100, target: 100, progress: progress{state: idle, local: -1, moved: noon}}
	for _, c := range change {
		c(p)
	}
	return p
}

func followed(p *partition)           { p.end = openEnd }
func inTrouble(p *partition)          { p.why = errors.New("something") }
func emptied(n int) func(*partition)  { return func(p *partition) { p.empty = n } }
func target(n int64) func(*partition) { return func(p *partition) { p.target = n } }
func local(n int64) func(*partition)  { return func(p *partition) { p.local = n } }
func outOfRange(p *partition)         { p.why = kerr.OffsetOutOfRange }
func seen(e ...epochStart) func(*partition) {
	return func(p *partition) { p.seen = e }
}

func TestNextFetches(t *testing.T) {
	part := func(num, leader int32, s state, empty int, moved time.Duration) *partition {
		return &partition{num: num, leader: leader, progress: progress{state: s, empty: empty, moved: noon.Add(moved)}}
	}
	all := []*partition{
		part(0, 1, idle, 0, 3), part(1, 1, idle, 0, 1), part(2, 1, fetching, 0, 0), part(3, 1, idle, 0, 2), // busy, and the least recent first
		part(4, 2, idle, 0, 0), part(5, 2, idle, 1, 0), part(6, 2, idle, 2, 0), // one alone
		part(7, 3, idle, 0, 0),                           // its broker is busy
		part(8, -1, idle, 0, 0), part(9, 4, stuck, 0, 0), // nobody to ask
		part(10, 5, done, 0, 0),
	}
	got := make(map[int32][]int32)
	for id, parts := range nextFetches(all, func(id int32) bool { return id != 3 }) {
		for _, p := range parts {
			got[id] = append(got[id], p.num)
		}
	}
	want := map[int32][]int32{1: {1, 3, 0}, 2: {5}}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestJudge(t *testing.T) {
	nothing := partAnswer{next: 50, stable: 100, high: 100}
	of := func(stable, high int64) partAnswer { return partAnswer{next: 50, stable: stable, high: high} }
	failed := func(err error) partAnswer { return partAnswer{next: 50, err: err, stable: -1, high: -1} }
	for name, c := range map[string]struct {
		p     *partition
		a     partAnswer
		alone bool
		want  verdict
		why   string
	}{
		"records":                            {p: at(50), a: partAnswer{next: 60}, want: verdict{do: advance, next: 60}},
		"records past the end":               {p: at(50), a: partAnswer{next: 160}, want: verdict{do: advance, next: 100}},
		"records while following":            {p: at(50, followed), a: partAnswer{next: 160}, want: verdict{do: advance, next: 160}},
		"nothing more yet":                   {p: at(50, followed, target(50)), a: nothing, want: verdict{do: quiet}},
		"part of a batch":                    {p: at(50), a: partAnswer{next: 50, partial: true, stable: 100, high: 100}, want: verdict{do: again}},
		"part of a batch, alone":             {p: at(50), a: partAnswer{next: 50, partial: true, stable: 100, high: 100}, alone: true, want: verdict{do: again}, why: "cut short"},
		"nothing, and others were asked for": {p: at(50), a: nothing, want: verdict{do: alone}},
		"nothing, though it was alone":       {p: at(50, emptied(1)), a: nothing, alone: true, want: verdict{do: alone}},
		"nothing, again and again":           {p: at(50, emptied(confirmEmpty)), a: nothing, alone: true, want: verdict{do: inspect}, why: "has no records"},
		"nothing, again, but of many":        {p: at(50, emptied(confirmEmpty)), a: nothing, want: verdict{do: alone}},
		"nothing of what is remote":          {p: at(50, local(80)), a: nothing, alone: true, want: verdict{do: again}, why: "offsets 50 to 79, which are in remote storage"},
		"nothing of what is local":           {p: at(50, local(50)), a: nothing, want: verdict{do: alone}},
		"nothing up to a point":              {p: at(50, followed, emptied(confirmEmpty)), a: nothing, alone: true, want: verdict{do: inspect}, why: "has no records"},
		"an open transaction came between":   {p: at(50), a: of(70, 100), want: verdict{do: again}},
		"the leader is behind":               {p: at(50), a: of(70, 70), want: verdict{do: again}, why: "ended at offset 100 before and ends at 70 now"},
		"the leader is behind for long":      {p: at(50, inTrouble), a: of(70, 70), want: verdict{do: inspect}, why: "ends at 70 now"},
		"a new leader":                       {p: at(50), a: failed(kerr.NotLeaderForPartition), want: verdict{do: lookUp}, why: "NOT_LEADER"},
		"the topic is not known":             {p: at(50), a: failed(kerr.UnknownTopicID), want: verdict{do: lookUp}, why: "UNKNOWN_TOPIC_ID"},
		"the topic is another":               {p: at(50), a: failed(kerr.InconsistentTopicID), want: verdict{do: lookUp}, why: "INCONSISTENT_TOPIC_ID"},
		"an old epoch":                       {p: at(50), a: failed(kerr.FencedLeaderEpoch), want: verdict{do: lookUp}, why: "FENCED_LEADER_EPOCH"},
		"no such offset":                     {p: at(50), a: failed(kerr.OffsetOutOfRange), want: verdict{do: inspect}, why: "OFFSET_OUT_OF_RANGE"},
		"another log":                        {p: at(50), a: failed(errDiverging), want: verdict{do: inspect}, why: "not the one that was read"},
		"no right":                           {p: at(50), a: failed(kerr.TopicAuthorizationFailed), want: verdict{do: refuse}, why: "TOPIC_AUTHORIZATION_FAILED"},
		"a batch that cannot be read":        {p: at(50), a: failed(recordbatch.ErrPartial), want: verdict{do: fail}, why: "partial"},
	} {
		got := judge(c.p, &c.a, c.alone, noon.Add(2*soon))
		check(t, name, got, c.want, c.why)
	}
}

func check(t *testing.T, name string, got, want verdict, why string) {
	t.Helper()
	said := ""
	if got.why != nil {
		said = got.why.Error()
	}
	if got.do != want.do || got.next != want.next || got.end != want.end || !strings.Contains(said, why) || (why == "") != (said == "") {
		t.Errorf("%s: got step %d to %d, %q; want step %d to %d, %q", name, got.do, got.next, said, want.do, want.next, why)
	}
}

func TestDiagnose(t *testing.T) {
	end := func(epoch int32, end int64) kafka.EpochEnd { return kafka.EpochEnd{Epoch: epoch, End: end} }
	// The log is 0 to 100, all of it on the leader's disk and of epoch 4.
	sound := func(change func(*facts)) facts {
		f := facts{known: known{start: 0, end: 100, high: 100, since: -1, epochs: epochs{last: end(4, 100), before: unasked, current: end(4, 100)}}}
		if change != nil {
			change(&f)
		}
		return f
	}
	read := seen(epochStart{1, 0}, epochStart{4, 20})
	for name, c := range map[string]struct {
		p    *partition
		f    facts
		want verdict
		why  string
	}{
		"compacted":                         {p: at(50, emptied(confirmEmpty)), f: sound(nil), want: verdict{do: skip, next: 100}},
		"compacted up to a point":           {p: at(50, emptied(confirmEmpty), followed, target(70)), f: sound(nil), want: verdict{do: skip, next: 70}},
		"not asked often enough":            {p: at(50, emptied(1)), f: sound(nil), want: verdict{do: again}},
		"in remote storage":                 {p: at(50, emptied(confirmEmpty)), f: sound(func(f *facts) { f.local = 51 }), want: verdict{do: again}, why: "remote storage"},
		"in remote storage, perhaps":        {p: at(50, emptied(confirmEmpty)), f: sound(func(f *facts) { f.local = -1 }), want: verdict{do: again}, why: "does not say"},
		"an open transaction came between":  {p: at(50, emptied(confirmEmpty)), f: sound(func(f *facts) { f.end = 70 }), want: verdict{do: again}},
		"deleted":                           {p: at(50, outOfRange), f: sound(func(f *facts) { f.start = 60 }), want: verdict{do: lose, next: 60}},
		"all deleted":                       {p: at(50, outOfRange), f: sound(func(f *facts) { f.start, f.end, f.high, f.current.End = 160, 170, 170, 170 }), want: verdict{do: lose, next: 100}},
		"the leader is behind":              {p: at(50, read, outOfRange), f: sound(func(f *facts) { f.end, f.high, f.current = 40, 40, unasked }), want: verdict{do: lookUp}, why: "past the end"},
		"cut off, of no known epoch":        {p: at(50, outOfRange), f: sound(func(f *facts) { f.start, f.end, f.high, f.current.End = 10, 40, 40, 40 }), want: verdict{do: branch, next: 10, end: 40}, why: "truncated"},
		"cut off":                           {p: at(50, read, outOfRange), f: sound(func(f *facts) { f.end, f.high, f.current.End, f.last.End = 40, 40, 40, 40 }), want: verdict{do: branch, next: 40, end: 40}, why: "offsets 40 to 49"},
		"grown again":                       {p: at(50, read), f: sound(func(f *facts) { f.last.End = 40 }), want: verdict{do: branch, next: 40, end: 100}, why: "offsets 40 to 49"},
		"an epoch that is not there":        {p: at(50, read), f: sound(func(f *facts) { f.last = end(1, 40) }), want: verdict{do: branch, next: 20, end: 100}, why: "offsets 20 to 49"},
		"cut off, and the rest deleted":     {p: at(50, read), f: sound(func(f *facts) { f.last.End, f.start = 40, 45 }), want: verdict{do: branch, next: 45, end: 100}, why: "offsets 40 to 49"},
		"agrees":                            {p: at(50, read), f: sound(nil), want: verdict{do: again}},
		"agrees, next epoch begins there":   {p: at(50, read), f: sound(func(f *facts) { f.last.End = 50 }), want: verdict{do: again}},
		"cut off above what was read":       {p: at(50, read), f: sound(func(f *facts) { f.last.End, f.current.End, f.end, f.high = 70, 70, 70, 70 }), want: verdict{do: shrink, next: 70}},
		"its epoch is not known any more":   {p: at(50, read, outOfRange), f: sound(func(f *facts) { f.last, f.current = unasked, unasked }), want: verdict{do: forget}},
		"its epoch is not known, nor asked": {p: at(50, read), f: sound(func(f *facts) { f.last, f.current = unasked, unasked }), want: verdict{do: again}},
	} {
		check(t, name, diagnose(c.p, c.f), c.want, c.why)
	}
}

func TestAgreement(t *testing.T) {
	for _, c := range []struct {
		seen   []epochStart
		leader kafka.EpochEnd
		next   int64
		ok     bool
	}{
		{[]epochStart{{2, 0}, {5, 30}}, kafka.EpochEnd{Epoch: 2, End: 60}, 30, true},
		{[]epochStart{{2, 0}, {5, 30}}, kafka.EpochEnd{Epoch: 2, End: 20}, 20, true},
		{[]epochStart{{2, 0}, {5, 30}}, kafka.EpochEnd{Epoch: 4, End: 20}, 20, true}, // 4 was not read: ask about 2
		{[]epochStart{{2, 0}, {3, 10}, {5, 30}}, kafka.EpochEnd{Epoch: 2, End: 60}, 10, true},
		{[]epochStart{{5, 30}}, kafka.EpochEnd{Epoch: 4, End: 60}, 0, false}, // nobody knows what was before
	} {
		next, ok := agreement(c.seen, c.leader)
		if ok != c.ok || ok && next != c.next {
			t.Errorf("%v, leader %v: %d, %v, want %d", c.seen, c.leader, next, ok, c.next)
		}
	}
}

func TestFindAndGone(t *testing.T) {
	id, other := kadm.TopicID{1}, kadm.TopicID{2}
	topic := func(id kadm.TopicID, leader int32) kadm.TopicDetail {
		return kadm.TopicDetail{Topic: "t", ID: id, Partitions: kadm.PartitionDetails{0: {Partition: 0, Leader: leader}}}
	}
	for name, c := range map[string]struct {
		topics kadm.TopicDetails
		id     kadm.TopicID
		want   finding
	}{
		"led":                  {kadm.TopicDetails{"t": topic(id, 3)}, id, led},
		"no leader":            {kadm.TopicDetails{"t": topic(id, -1)}, id, unled},
		"not there":            {kadm.TopicDetails{}, id, missing},
		"said not to be there": {kadm.TopicDetails{"t": {Err: kerr.UnknownTopicOrPartition}}, id, missing},
		"nobody knows":         {kadm.TopicDetails{"t": {Err: kerr.LeaderNotAvailable}}, id, uncertain},
		"another":              {kadm.TopicDetails{"t": topic(other, 3)}, id, replaced},
		"a broker without ids": {kadm.TopicDetails{"t": topic(kadm.TopicID{}, 3)}, id, led},
		"no partition":         {kadm.TopicDetails{"t": {Topic: "t", ID: id}}, id, uncertain},
	} {
		if got := find(&partition{topic: "t", id: c.id}, c.topics); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	for _, c := range []struct {
		since, now time.Duration // since 0: not missing so far
		f          finding
		gone       bool
		then       time.Duration
	}{
		{0, 5, missing, false, 5},
		{5, 6, missing, false, 5},
		{5, 9, missing, true, 5},
		{5, 9, replaced, true, 5},
		{5, 9, led, false, 0},
		{5, 9, uncertain, false, 0},
	} {
		p := &partition{}
		clock := func(d time.Duration) time.Time {
			if d == 0 {
				return time.Time{}
			}
			return noon.Add(d)
		}
		p.missing = clock(c.since)
		if got, then := gone(p, c.f, clock(c.now), 4); got != c.gone || !then.Equal(clock(c.then)) {
			t.Errorf("%+v: %v since %v", c, got, then)
		}
	}
}

func TestPointRules(t *testing.T) {
	finished := at(10, func(p *partition) { p.state = done })
	absent := at(10, func(p *partition) { p.absent = true })
	for _, c := range []struct {
		parts        []*partition
		due, reached bool
	}{
		{nil, false, true},
		{[]*partition{finished}, false, true},
		{[]*partition{at(10)}, true, false},
		{[]*partition{at(100), finished}, true, true},
		{[]*partition{at(100), absent}, true, true},
	} {
		if got := pointDue(c.parts, noon, noon); got != c.due {
			t.Errorf("%v: due %v", c.parts, got)
		}
		if pointDue(c.parts, noon.Add(1), noon) {
			t.Errorf("%v: due before its time", c.parts)
		}
		if got := pointReached(c.parts); got != c.reached {
			t.Errorf("%v: reached %v", c.parts, got)
		}
	}
	part := func(topic string, num int32, why leftOut, absent bool) *partition {
		return &partition{topic: topic, num: num, progress: progress{left: why, absent: absent}}
	}
	unread := []unplaced{{partition: part("d", 0, whole, false)}, {partition: part("e", 3, whole, false)}}
	got := without([]*partition{
		part("a", 1, leaderless, false), part("a", 0, topicDeleted, false), part("a", 2, whole, false),
		part("b", 0, topicDeleted, false), part("b", 0, whole, false), // created again
		part("c", 0, whole, true), part("d", 0, topicDeleted, false), part("d", 0, topicDeleted, false),
	}, unread)
	if want := "map[a:[0 1] c:[0] d:[0] e:[3]]"; fmt.Sprint(got) != want {
		t.Errorf("without %v, want %s", got, want)
	}
	if without([]*partition{part("a", 0, whole, false)}, nil) != nil {
		t.Error("nothing is left out")
	}
}

func TestRememberEpochs(t *testing.T) {
	p := at(0)
	for i := range int32(40) {
		p.remember(epochStart{i, int64(i) * 10})
	}
	if len(p.seen) != maxSeen || p.lastEpoch() != 39 || p.seen[0] != (epochStart{40 - maxSeen, 0}) {
		t.Errorf("%v", p.seen)
	}
}
