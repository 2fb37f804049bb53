package catalog

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/segment"
)

// A job is a run of a backup in the making.
type job struct {
	*format.Writer
	t   *testing.T
	dir string
	buf bytes.Buffer
	// without tells of which offsets the job has no records.
	without func(offset int64) bool
}

func newJob(t *testing.T, dir string, h format.Header) *job {
	t.Helper()
	j := &job{t: t, dir: dir}
	j.Writer = format.NewWriter(&j.buf)
	h.Content = format.ContentRecords
	ok(t, j.WriteHeader(&h))
	return j
}

// topic names a topic, and part says that a partition was read from one offset to another.
// Timestamps are ten times the offsets.
func (j *job) topic(name, id string, partitions int) {
	j.t.Helper()
	ok(j.t, j.Write(&format.Topic{Name: name, ID: id, Partitions: partitions}))
}

func (j *job) part(topic, id string, partition int32, from, next int64, info format.MarkInfo) {
	j.t.Helper()
	info.TopicID = id
	ok(j.t, j.Write(&format.Mark{Topic: topic, Partition: partition, Next: from, MarkInfo: info}))
	info.Begins, info.Branch = false, false
	for o := from; o < next; o++ {
		if j.without != nil && j.without(o) {
			continue
		}
		ok(j.t, j.WriteRecord(&format.Record{Topic: topic, Partition: partition, Offset: o, Timestamp: o * 10, Value: fmt.Append(nil, id, " ", o)}))
	}
	ok(j.t, j.Write(&format.Mark{Topic: topic, Partition: partition, Next: next, MarkInfo: info}))
}

func (j *job) group(id string, offsets map[string]int64, topics map[string]string) {
	j.t.Helper()
	g := &format.Group{ID: id, Offsets: make(map[string]map[int32]format.GroupOffset)}
	g.Topics = topics
	for topic, o := range offsets {
		g.Offsets[topic] = map[int32]format.GroupOffset{0: {Offset: o}}
	}
	ok(j.t, j.Write(g))
}

func (j *job) point(ms int64) {
	j.t.Helper()
	ok(j.t, j.Write(&format.Point{Time: ms}))
}

// store ends the job's stream and stores it.
func (j *job) store() {
	j.t.Helper()
	ok(j.t, j.Close(new(format.End)))
	var segments bytes.Buffer
	ok(j.t, pack.Pack(j.t.Context(), packing(nil), env(), &j.buf, &segments))
	pushed(j.t, j.dir, &segments)
}

func packing(keys []age.Identity) pack.Config {
	return pack.Config{SegmentSize: 1 << 20, Memory: 64 << 20, Level: 1, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd"), Identities: keys}
}

func pushed(t *testing.T, dir string, segments io.Reader) {
	t.Helper()
	okOrLoss(t, push.Run(t.Context(), push.Config{Remote: dir, Transfers: 2, Checkpoint: time.Hour, CheckpointSegments: 1000, MaxFrame: 1 << 20}, env(), segments, io.Discard))
}

func okOrLoss(t *testing.T, err error) {
	t.Helper()
	if s := command.StatusOf(err); s != command.OK && s != command.Loss {
		t.Fatal(err)
	}
}

// copied copies a backup, packed again if it is asked for.
func copied(t *testing.T, dir string, again bool, keys []age.Identity) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	var segments bytes.Buffer
	okOrLoss(t, pull.Run(t.Context(), pull.Config{Remote: dir, Transfers: 2, Memory: 1 << 20}, env(), &segments))
	if again {
		var records, packed bytes.Buffer
		okOrLoss(t, pack.Unpack(t.Context(), packing(keys), env(), &segments, &records))
		okOrLoss(t, pack.Pack(t.Context(), packing(nil), env(), &records, &packed))
		segments = packed
	}
	pushed(t, to, &segments)
	return to
}

// answers are what a backup says of itself and gives back, at each of its restore points,
// too.
func answers(t *testing.T, dir string, keys []age.Identity) (out []string) {
	t.Helper()
	state, err := open(t, dir).LoadLog(t.Context())
	ok(t, err)
	for _, filtered := range []bool{false, true} {
		cur := state.Cursor(filtered)
		for _, name := range sortedKeys(cur) {
			out = append(out, fmt.Sprint("cursor ", filtered, " ", name, " ", cur[name].ID, " ", cur[name].Partitions))
		}
	}
	for _, p := range state.Points() {
		got, status := restored(t, pull.Config{Remote: dir, Point: p.Entry, Newest: true}, keys)
		out = append(out, fmt.Sprint("point ", p.Entry, " ", p.Run, " ", p.Time, " ", status, " ", got))
	}
	got, status := restored(t, pull.Config{Remote: dir, Newest: true}, keys)
	for _, name := range state.Topics() {
		ids := state.Incarnations(name)
		for _, n := range state.Partitions(name, ids[len(ids)-1]) {
			s := state.Summary(name, ids[len(ids)-1], n)
			out = append(out, fmt.Sprint(name, "/", n, " ", s.From, " ", s.Next, " ", s.Lost, s.Holes, s.Gone, s.Filtered))
		}
	}
	return append(out, fmt.Sprint("now ", status, " ", got))
}

// varied is a backup with all that there is: several runs and jobs, holes, losses, filters,
// groups that come and go, points, a snapshot.
func varied(t *testing.T) (dir string) {
	dir = filepath.Join(t.TempDir(), "b")
	j := newJob(t, dir, format.Header{})
	j.topic("a", "a1", 2)
	j.part("a", "a1", 0, 0, 10, format.MarkInfo{})
	j.part("a", "a1", 1, 0, 4, format.MarkInfo{})
	j.group("g", map[string]int64{"a": 7}, map[string]string{"a": "a1"})
	j.point(1000)
	j.store()
	j = newJob(t, dir, format.Header{})
	j.topic("b", "b1", 1)
	j.part("b", "b1", 0, 5, 9, format.MarkInfo{Lost: [][2]int64{{2, 5}}})
	j.group("g", map[string]int64{"b": 6}, map[string]string{"b": "b1"})
	j.group("h", map[string]int64{"b": 8}, map[string]string{"b": "b1"})
	j.point(2000)
	j.store()
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	j = newJob(t, dir, format.Header{Filters: []string{"kbk-filter:12345678"}})
	j.topic("a", "a1", 2)
	j.part("a", "a1", 0, 10, 20, format.MarkInfo{})
	j.point(3000)
	j.store()
	j = newJob(t, dir, format.Header{})
	j.topic("a", "a1", 2)
	j.part("a", "a1", 0, 20, 25, format.MarkInfo{})
	j.part("a", "a1", 1, 8, 9, format.MarkInfo{})
	ok(t, j.Write(&format.Groups{IDs: []string{}, GroupsInfo: format.GroupsInfo{Include: []string{"^"}, Topics: map[string]string{"a": "a1"}}}))
	j.point(4000)
	j.store()
	return dir
}

// TestCopies wants a copy to say what its original says, of itself, of each restore point,
// and of what comes back.
func TestCopies(t *testing.T) {
	old, keys := oldBackup(t)
	// Of its first incarnation of users nothing is copied.
	ok(t, Prune(t.Context(), open(t, old), PruneConfig{Retention: commitlog.Retention{Policy: commitlog.Policy{All: true}}, Forget: []string{"users-id-1"}, Really: true}, env(), io.Discard))
	for name, b := range map[string]struct {
		dir  string
		keys []age.Identity
	}{"varied": {varied(t), nil}, "old": {old, keys}} {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", again), func(t *testing.T) {
				want := answers(t, b.dir, b.keys)
				copy := copied(t, b.dir, again, b.keys)
				if got := answers(t, copy, b.keys); !slices.Equal(got, want) {
					t.Errorf("the copy says\n%s\nthe original\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				if p := problems(t, copy, VerifyConfig{Deep: true, Identities: b.keys}); !slices.Equal(p, problems(t, b.dir, VerifyConfig{Deep: true, Identities: b.keys})) {
					t.Errorf("problems %q", p)
				}
				// A copy of the copy, compacted, and one that is copied once more, are no different.
				ok(t, Compact(t.Context(), open(t, copy), Signing{}, env()))
				if got := answers(t, copied(t, copy, false, b.keys), b.keys); !slices.Equal(got, want) {
					t.Errorf("the copy of the copy says\n%s\nthe original\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			})
		}
	}
}

// TestGroupsOfSeveralRuns restores groups as the newest run has them that speaks of each topic.
func TestGroupsOfSeveralRuns(t *testing.T) {
	dir := varied(t)
	got, _ := restored(t, pull.Config{Remote: dir}, nil)
	got = slices.DeleteFunc(got, func(s string) bool { return !strings.Contains(s, ": ") })
	// The last run asked for all groups of a, and found none: g keeps its offset in b.
	if want := []string{"g: b/0 6", "h: b/0 8"}; !slices.Equal(got, want) {
		t.Errorf("groups %q, want %q", got, want)
	}
	got, _ = restored(t, pull.Config{Remote: dir, At: at(2500)}, nil)
	got = slices.DeleteFunc(got, func(s string) bool { return !strings.Contains(s, ": ") })
	if want := []string{"g: a/0 7", "g: b/0 6", "h: b/0 8"}; !slices.Equal(got, want) {
		t.Errorf("at a point: groups %q, want %q", got, want)
	}
}

// TestAt takes of each partition the last point that includes it.
func TestAt(t *testing.T) {
	dir := varied(t)
	for _, c := range []struct {
		at     int64
		topics []string
		want   []string
		status int
	}{
		{1500, []string{"a"}, []string{"a1/0 [[0 10]]", "a1/1 [[0 4]]"}, command.OK},
		{1500, []string{"a", "b"}, []string{"a1/0 [[0 10]]", "a1/1 [[0 4]]"}, command.Loss},  // b has none
		{2500, nil, []string{"a1/0 [[0 10]]", "a1/1 [[0 4]]", "b1/0 [[5 9]]"}, command.Loss}, // b has lost offsets
		{3500, []string{"a"}, []string{"a1/0 [[0 20]]", "a1/1 [[0 4]]"}, command.OK},         // partition 1 from the first point
	} {
		got, status := restored(t, pull.Config{Remote: dir, At: at(c.at), Selection: partitions.Selection{Topics: c.topics}}, nil)
		got = slices.DeleteFunc(got, func(s string) bool { return strings.Contains(s, ": ") })
		if !slices.Equal(got, c.want) || status != c.status {
			t.Errorf("at %d of %q: %q, status %d, want %q, status %d", c.at, c.topics, got, status, c.want, c.status)
		}
	}
	if err := pull.Run(t.Context(), pull.Config{Remote: dir, At: at(10), Transfers: 1, Memory: 1 << 20}, env(), io.Discard); err == nil {
		t.Error("a point before the first")
	}
}

// TestTwoJobs has two jobs of one backup, each of its own topic: neither pushes the points of the
// other out, and what is pruned is not covered.
func TestTwoJobs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	for i, topic := range []string{"a", "b", "b"} {
		j := newJob(t, dir, format.Header{})
		j.topic(topic, topic+"1", 1)
		j.part(topic, topic+"1", 0, 0, 10, format.MarkInfo{})
		j.point(int64(i) * 1000)
		j.store()
	}
	j := newJob(t, dir, format.Header{}) // a run that has not come to its point
	j.topic("c", "c1", 1)
	j.part("c", "c1", 0, 0, 10, format.MarkInfo{})
	j.store()
	want, _ := restored(t, pull.Config{Remote: dir}, nil)
	var out bytes.Buffer
	ok(t, Prune(t.Context(), open(t, dir), PruneConfig{Retention: commitlog.Retention{Policy: commitlog.Policy{Last: 1}}, Really: true}, env(), &out))
	if got, _ := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, want) {
		t.Errorf("after prune %q, before %q\n%s", got, want, &out)
	}
	if strings.Contains(out.String(), "NOTHING LEFT") || !strings.Contains(out.String(), "so that all stays") {
		t.Errorf("said\n%s", &out)
	}
	out.Reset()
	ok(t, Prune(t.Context(), open(t, dir), PruneConfig{Retention: commitlog.Retention{Policy: commitlog.Policy{All: true}}, Forget: []string{"^[bc]"}, Really: true}, env(), &out))
	if strings.Count(out.String(), "NOTHING LEFT") != 2 {
		t.Errorf("said\n%s", &out)
	}
	if got, _ := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"a1/0 [[0 10]]"}) {
		t.Errorf("left %q", got)
	}
	if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
		t.Errorf("problems %q", p)
	}
	if err := Prune(t.Context(), open(t, dir), PruneConfig{Forget: []string{"zzz"}}, env(), io.Discard); err == nil {
		t.Error("a topic was forgotten that is not there")
	}
	j = newJob(t, dir, format.Header{}) // what was let go of is stored again
	j.topic("b", "b1", 1)
	j.part("b", "b1", 0, 0, 10, format.MarkInfo{})
	j.store()
	if got, _ := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"a1/0 [[0 10]]", "b1/0 [[0 10]]"}) {
		t.Errorf("after another run %q", got)
	}
}

// TestListNamesTheNewestPoint lists backups by their manifests: of two jobs the newest point
// does not speak of both topics, and says so.
func TestListNamesTheNewestPoint(t *testing.T) {
	dir := varied(t)
	var out bytes.Buffer
	ok(t, List(t.Context(), open(t, dir), 0, false, env(), &out))
	if !strings.Contains(out.String(), "1970-01-01T00:00:04Z, of 1 of 2 topics") {
		t.Errorf("listed\n%s", &out)
	}
	copy := copied(t, dir, false, nil)
	out.Reset()
	ok(t, List(t.Context(), open(t, copy), 0, false, env(), &out))
	if !strings.Contains(out.String(), "1970-01-01T00:00:04Z, of 1 of 2 topics") {
		t.Errorf("the copy is listed\n%s", &out)
	}
}

// TestFilteredRuns has a masked run, a windowed one, and then a whole one: the whole one
// stores the whole, and a restore takes it.
func TestFilteredRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	run := func(h format.Header, from, next int64) {
		j := newJob(t, dir, h)
		j.topic("a", "a1", 1)
		j.part("a", "a1", 0, from, next, format.MarkInfo{})
		j.store()
	}
	cursor := func(filtered bool) any {
		state, err := open(t, dir).LoadLog(t.Context())
		ok(t, err)
		return state.Cursor(filtered)["a"].Partitions
	}
	until := int64(40)
	objects := func() int {
		return len(slices.DeleteFunc(sortedKeys(tree(t, dir)), func(s string) bool { return !strings.HasPrefix(s, "topics/") }))
	}
	for _, step := range []struct {
		what          string
		h             format.Header
		from, next    int64
		whole, masked string
		objects       int
	}{
		{"masked", format.Header{Filters: []string{"mask:1"}}, 0, 10, "map[]", "map[0:10]", 1},
		{"masked the same way", format.Header{Filters: []string{"mask:1"}}, 0, 10, "map[]", "map[0:10]", 1},
		{"masked another way", format.Header{Filters: []string{"mask:2"}}, 0, 10, "map[]", "map[0:10]", 2},
		{"windowed", format.Header{Window: &format.Window{Until: &until}}, 0, 10, "map[]", "map[0:10]", 3},
		{"another window", format.Header{Window: &format.Window{Until: &until}}, 0, 10, "map[]", "map[0:10]", 4},
		{"whole", format.Header{}, 0, 6, "map[0:6]", "map[0:10]", 5},
		{"masked after whole", format.Header{Filters: []string{"mask:3"}}, 0, 6, "map[0:6]", "map[0:10]", 5},
		{"whole again", format.Header{}, 0, 6, "map[0:6]", "map[0:10]", 5},
		{"whole to the end", format.Header{}, 6, 10, "map[0:10]", "map[0:10]", 6},
	} {
		run(step.h, step.from, step.next)
		if w, m := fmt.Sprint(cursor(false)), fmt.Sprint(cursor(true)); w != step.whole || m != step.masked || objects() != step.objects {
			t.Errorf("%s: cursor %s, with filters %s, %d objects; want %s, %s, %d", step.what, w, m, objects(), step.whole, step.masked, step.objects)
		}
	}
	if got, _ := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"a1/0 [[0 10]]"}) {
		t.Errorf("restored %q", got)
	}
}

// TestFilteredBetweenWhole restores a partition of which filtered runs have what lies before,
// between and behind what was kept whole: every record once, and the copy says the same.
func TestFilteredBetweenWhole(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	for _, run := range []struct {
		filters    []string
		from, next int64
	}{{[]string{"mask:1"}, 0, 20}, {nil, 5, 8}, {nil, 11, 15}, {[]string{"mask:2"}, 20, 25}} {
		j := newJob(t, dir, format.Header{Filters: run.filters})
		j.topic("a", "a1", 1)
		j.part("a", "a1", 0, run.from, run.next, format.MarkInfo{})
		j.point(run.next)
		j.store()
	}
	want := answers(t, dir, nil)
	if got, status := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"a1/0 [[0 25]]"}) || status != command.OK {
		t.Errorf("restored %q, status %d", got, status)
	}
	for _, again := range []bool{false, true} {
		if got := answers(t, copied(t, dir, again, nil), nil); !slices.Equal(got, want) {
			t.Errorf("packed again: %v; the copy says\n%s\nthe original\n%s", again, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestWindows has runs read the same offsets for different times: a restore gives what each of
// them has stored, or says what it leaves out.
func TestWindows(t *testing.T) {
	for _, c := range []struct {
		name    string
		windows []func(offset int64) bool
		filters []string // of the runs, instead of windows
		damage  bool     // to the second run's segment
		want    string
		status  int
	}{
		{"one behind the other", []func(int64) bool{func(o int64) bool { return o < 12 }, func(o int64) bool { return o >= 12 }}, nil, false, "a1/0 [[0 20]]", command.OK},
		{"the later one first", []func(int64) bool{func(o int64) bool { return o >= 12 }, func(o int64) bool { return o < 12 }}, nil, false, "a1/0 [[0 20]]", command.OK},
		{"the same twice", []func(int64) bool{func(o int64) bool { return o >= 12 }, func(o int64) bool { return o >= 12 }}, nil, false, "a1/0 [[12 20]]", command.OK},
		{"among one another", []func(int64) bool{func(o int64) bool { return o < 12 && o != 9 }, func(o int64) bool { return o == 9 || o >= 12 }}, nil, false, "a1/0 [[0 9] [10 20]]", command.Loss},
		{"one is damaged", []func(int64) bool{func(o int64) bool { return o < 12 }, func(o int64) bool { return o >= 12 }}, nil, true, "a1/0 [[0 12]]", command.Loss},
		{"one that is in another is damaged", []func(int64) bool{func(o int64) bool { return o < 15 }, func(o int64) bool { return o < 12 }}, nil, true, "a1/0 [[0 15]]", command.OK},
		{"two filters", []func(int64) bool{func(o int64) bool { return o < 12 }, func(o int64) bool { return o > 3 }}, []string{"mask:1", "mask:2"}, false, "a1/0 [[0 12]]", command.Loss},
		{"behind a filter", []func(int64) bool{func(o int64) bool { return o < 12 }, func(o int64) bool { return o > 3 }}, []string{"", "mask:1"}, false, "a1/0 [[4 20]]", command.Loss},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "b")
			for i, in := range c.windows {
				since := int64(i) // they are not looked at
				h := format.Header{Window: &format.Window{Since: &since}}
				if c.filters != nil && c.filters[i] != "" {
					h = format.Header{Filters: c.filters[i : i+1]}
				}
				var before map[string][]byte
				if i > 0 {
					before = tree(t, dir)
				}
				j := newJob(t, dir, h)
				j.without = func(o int64) bool { return !in(o) }
				j.topic("a", "a1", 1)
				j.part("a", "a1", 0, 0, 20, format.MarkInfo{})
				j.store()
				for name := range tree(t, dir) {
					if _, old := before[name]; !old && i == 1 && c.damage && strings.HasPrefix(name, "topics/") {
						ok(t, os.Truncate(filepath.Join(dir, name), 20))
					}
				}
			}
			got, status := restored(t, pull.Config{Remote: dir, SkipDamaged: true}, nil)
			if fmt.Sprint(got) != "["+c.want+"]" || status != c.status {
				t.Errorf("restored %q, status %d; want %s, %d", got, status, c.want, c.status)
			}
			if c.damage {
				return
			}
			err := Cat(t.Context(), open(t, dir), CatConfig{Topic: "a", To: math.MaxInt64, Since: math.MinInt64, Until: math.MaxInt64, MaxFrame: 1 << 20}, env(), io.Discard)
			if command.StatusOf(err) != c.status {
				t.Errorf("cat: %v; want status %d", err, c.status)
			}
		})
	}
}

// TestIncarnations restores a topic that was deleted and created again.
func TestIncarnations(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	run := func(id string, next int64) {
		j := newJob(t, dir, format.Header{})
		j.topic("a", id, 1)
		j.part("a", id, 0, 0, next, format.MarkInfo{})
		j.point(next)
		j.store()
	}
	run("old", 5)
	run("new", 0)
	for _, cfg := range []pull.Config{{}, {At: at(1 << 40)}} {
		cfg.Remote, cfg.Transfers, cfg.Memory = dir, 1, 1<<20
		err := pull.Run(t.Context(), cfg, env(), io.Discard)
		if command.StatusOf(err) != command.Usage || !strings.Contains(err.Error(), "an older one, old, has 5 records, the last of 1970-01-01T00:00:00Z") {
			t.Errorf("got %v", err)
		}
		cfg.Newest = true
		if got, status := restored(t, cfg, nil); len(got) != 0 || status != command.OK {
			t.Errorf("the newest: %q, %d", got, status)
		}
		cfg.Newest, cfg.TopicIDs = false, []string{"old"}
		if got, status := restored(t, cfg, nil); !slices.Equal(got, []string{"old/0 [[0 5]]"}) || status != command.OK {
			t.Errorf("the old one: %q, %d", got, status)
		}
	}
	run("new", 3)
	if got, status := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"new/0 [[0 3]]"}) || status != command.OK {
		t.Errorf("with records: %q, %d", got, status)
	}
	// Without a log the newest record tells.
	if got, _ := restored(t, pull.Config{Remote: filepath.Join(dir, "topics")}, nil); !slices.Equal(got, []string{"old/0 [[0 5]]"}) {
		t.Errorf("of loose segments: %q", got)
	}
}

// TestBranches has a partition whose end was cut off in Kafka at 6, and then at 4.
func TestBranches(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	run := func(id string, at, from, next int64, branch bool) {
		j := newJob(t, dir, format.Header{})
		j.topic("a", "a1", 1)
		j.part("a", "a1", 0, from, next, format.MarkInfo{Begins: branch, Branch: branch})
		j.point(at)
		j.store()
	}
	run("", 1, 0, 10, false)
	run("", 2, 6, 8, true)
	run("", 3, 4, 5, true)
	run("", 4, 5, 7, false)
	check := func(dir string, points map[int64]string) {
		t.Helper()
		for ms, want := range points {
			cfg := pull.Config{Remote: dir, At: at(ms)}
			if ms == 0 {
				cfg.At = nil
			}
			if got, status := restored(t, cfg, nil); len(got) != 1 || got[0] != want || status != command.OK {
				t.Errorf("at %d: %q, %d, want %q", ms, got, status, want)
			}
		}
		if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
			t.Errorf("problems %q", p)
		}
		var cat bytes.Buffer
		ok(t, Cat(t.Context(), open(t, dir), CatConfig{Topic: "a", To: 1 << 40, Since: -1 << 63, Until: 1<<63 - 1, MaxFrame: 1 << 20, JSON: true}, env(), &cat))
		if n := strings.Count(cat.String(), "\n"); n != 7 {
			t.Errorf("cat prints %d records:\n%s", n, &cat)
		}
		state, err := open(t, dir).LoadLog(t.Context())
		ok(t, err)
		if got := state.Cursor(false)["a"].Partitions[0]; got != 7 {
			t.Errorf("cursor %d", got)
		}
	}
	all := map[int64]string{0: "a1/0 [[0 7]]", 1: "a1/0 [[0 10]]", 2: "a1/0 [[0 8]]", 3: "a1/0 [[0 5]]", 4: "a1/0 [[0 7]]"}
	check(dir, all)
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	check(dir, all)
	check(copied(t, dir, false, nil), map[int64]string{0: all[0], 3: all[3], 4: all[4]})
	check(copied(t, dir, true, nil), map[int64]string{0: all[0], 3: all[3], 4: all[4]})
	ok(t, Prune(t.Context(), open(t, dir), PruneConfig{Retention: commitlog.Retention{Policy: commitlog.Policy{Last: 2}}, Really: true}, env(), io.Discard))
	check(dir, map[int64]string{0: all[0], 3: all[3], 4: all[4]})
}
