package commitlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 20, 21, 37, 0, 123_000_000, time.UTC)

func ptr[T any](v T) *T { return &v }

// segment makes a valid one of topic "orders" that holds every offset it scanned.
func segment(t testing.TB, id string, partition int32, from, next int64) Segment {
	t.Helper()
	s := Segment{Topic: "orders", TopicID: id, Partition: partition, Content: Content{
		From: from, Next: next, First: from, Last: next - 1, Records: next - from,
		MinTimestamp: 1000 + from, MaxTimestamp: 1000 + next, Form: &Form{Codec: "zstd"}, RawSize: 10, Size: 5,
		SHA256: HashOf(fmt.Append(nil, id, partition, from, next)),
	}}
	var err error
	if s.Path, err = SegmentPath(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// store encodes e as the next entry of run and decodes it again.
func store(t testing.TB, run *Run, e *Entry) (*Entry, string) {
	t.Helper()
	run.Stamp(e, start)
	data, sha, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	run.Advance(sha)
	got, gotSHA, err := Decode(EntryPath(e.ID), data)
	if err != nil {
		t.Fatal(err)
	}
	if gotSHA != sha {
		t.Fatalf("decode found sha %s, encode %s", gotSHA, sha)
	}
	return got, sha
}

func add(t testing.TB, s *State, run *Run, e *Entry) {
	t.Helper()
	if err := s.Add(store(t, run, e)); err != nil {
		t.Fatal(err)
	}
}

func TestEntryRoundTrip(t *testing.T) {
	e := &Entry{
		Tool:   "kbk-push 1",
		Source: Source{ClusterID: "c", Tool: "kbk-fetch", Isolation: "read_committed"},
		Topics: []Topic{{Name: "orders", ID: "t1", Partitions: 2, ReplicationFactor: 3,
			Configs: map[string]string{"cleanup.policy": "compact", "odd": `a"\,[]{}: <&>` + "\\"}, Frame: []byte{0x83, 0xff}}},
		Segments: []Segment{segment(t, "t1", 0, 0, 10), segment(t, "t1", 1, 5, 7)},
		Marks: []Mark{
			{Topic: "orders", TopicID: "t1", From: 0, Next: 12, LeaderEpoch: ptr(int32(4)), LogStart: ptr(int64(0)), End: ptr(int64(12)), Lost: [][2]int64{{10, 11}}},
			{Topic: "orders", TopicID: "t1", Partition: 3},
		},
		Groups: []Group{{ID: "g", Offsets: map[string]map[int32]GroupOffset{"orders": {0: {Offset: 3, LeaderEpoch: ptr(int32(1)), Metadata: ptr("")}}}, Frame: []byte{1}}},
		Points: []Point{{Time: 99, Frame: []byte{2}}},
		Others: [][]byte{{3, 4}, {5}},
		Final:  true, Interrupted: true,
	}
	got, _ := store(t, NewRun(), e)
	e.Origin = Origin{Sealed: true}
	if !reflect.DeepEqual(got, e) {
		t.Errorf("got %+v\nwant %+v", got, e)
	}
}

func TestEncodeIsForPeople(t *testing.T) {
	run := NewRun()
	e := &Entry{
		Topics:   []Topic{{Name: "orders", Configs: map[string]string{"x": `},{"[`}}},
		Segments: []Segment{segment(t, "", 0, 0, 10), segment(t, "", 0, 10, 20)},
		Marks:    []Mark{{Topic: "orders", Lost: [][2]int64{{1, 2}, {3, 4}}}},
	}
	run.Stamp(e, start)
	data, _, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(storedEntry{Entry: e, Checksum: strings.Split(string(data[len(data)-sealSize:]), `"`)[3]})
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(compact.Bytes(), plain) {
		t.Errorf("layout changed the content:\n%s\n%s", compact.Bytes(), plain)
	}
	lines := strings.Split(string(data), "\n")
	for _, want := range []string{
		"{",
		`  "seq": 1,`,
		`    {"name":"orders","partitions":0,"replication_factor":0,"configs":{"x":"},{\"["}}`,
		`    {"topic":"orders","partition":0,"from":0,"next":0,"lost":[[1,2],[3,4]]}`,
		"  ],",
		"}",
		"",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, data)
		}
	}
	if n := strings.Count(string(data), `    {"path":`); n != 2 {
		t.Errorf("%d lines begin with a segment, want 2", n)
	}
}

func TestRunStamps(t *testing.T) {
	run := NewRun()
	var ids []string
	for _, now := range []time.Time{start, start, start.Add(-time.Hour), start.Add(time.Hour)} {
		e := &Entry{}
		run.Stamp(e, now)
		if _, sha, err := Encode(e); err != nil {
			t.Fatal(err)
		} else {
			run.Advance(sha)
		}
		ids = append(ids, e.ID)
	}
	if want := "20261120T213700.123Z-" + run.Name() + "-000001"; ids[0] != want {
		t.Errorf("first id is %q, want %q", ids[0], want)
	}
	if !slices.IsSorted(ids) {
		t.Errorf("ids do not sort: %q", ids)
	}
}

func TestDecodeRefuses(t *testing.T) {
	run := NewRun()
	e := &Entry{Tool: "a tool", Segments: []Segment{segment(t, "t1", 0, 0, 10)}, Marks: []Mark{{Topic: "orders", Next: 3}, {Topic: "orders", Partition: 3, From: 5, Next: 5}}}
	run.Stamp(e, start)
	data, _, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, old, new, want string }{
		{"newer", `"version": 2`, `"version": 3, "segments": 7`, "written by a newer kbk"},
		{"no version", `"version": 2`, `"version": 0`, "version 0 is not known"},
		{"not json", "{", "", "not JSON"},
		{"more than one", "\n}\n", "}\n{}", "not JSON"},
		{"cut", "}\n", "", "not JSON"},
		{"checksum", `"checksum": "`, `"checksum": "00`, "it has no checksum"},
		{"other checksum", `"tool"`, `"tool" `, "its checksum is wrong"},
		{"backup", `"seq": 1`, `"seq": 1, "backup": "x"`, "not the id of a backup"},
		{"standing", `"partitions":[[3,3]]`, `"partitions":[[9,3]]`, "do not follow"},
		{"other id", `"id": "2026`, `"id": "2027`, "its id is"},
		{"seq", `"seq": 1`, `"seq": 2`, "should be"},
		{"run", `"run": "`, `"run": "x`, "is not an entry's"},
		{"time", `37:00.123Z"`, `37:00.1234Z"`, "is not an entry's"},
		{"prev", `"seq": 1`, `"seq": 1, "prev": "` + strings.Repeat("a", 64) + `"`, "prev"},
		{"escape", `"topic":"orders"`, `"topic":".."`, "not legal"},
		{"path", `"path":"topics/orders/`, `"path":"topics/../`, "should be"},
		{"partition", `"partition":0,"from":0,"next":10`, `"partition":-1,"from":0,"next":10`, "negative"},
		{"range", `"from":0,"next":10`, `"from":1,"next":10`, "do not fit into [1, 10)"},
		{"next", `"from":0,"next":10`, `"from":0,"next":9`, "do not fit"},
		{"records", `"records":10`, `"records":11`, "11 records"},
		{"no records", `"records":10`, `"records":0`, "0 records"},
		{"timestamps", `"min_timestamp":1000`, `"min_timestamp":9999`, "timestamps"},
		{"size", `"size":5`, `"size":-5`, "negative"},
		{"sha", `"sha256":"`, `"sha256":"A`, "hexadecimal"},
		{"codec", `"codec":"zstd"`, `"codec":"../x"`, "not a plain name"},
		{"mark", `"next":3`, `"next":-3`, "not a range"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := strings.Replace(string(data), test.old, test.new, 1)
			if bad == string(data) {
				t.Fatalf("nothing to replace in %s", data)
			}
			if !strings.Contains(test.name, "checksum") {
				bad = reseal(bad)
			}
			_, _, err := Decode(e.ID+".json", []byte(bad))
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), e.ID) {
				t.Errorf("got %v, want an error with %q that names the entry", err, test.want)
			}
			newer, corrupt := errors.Is(err, ErrVersion), errors.Is(err, ErrCorrupt)
			if newer != (test.name == "newer") || corrupt == newer {
				t.Errorf("is ErrVersion: %v, is ErrCorrupt: %v", newer, corrupt)
			}
		})
	}
	if _, _, err := Decode("log/else.json", data); err == nil {
		t.Error("an entry under another name was taken")
	}
}

// reseal gives a file that was changed a checksum that is right, where it had one.
func reseal(file string) string {
	if n := len(file) - sealSize; n > 0 && strings.HasPrefix(file[n:], sealBegin) {
		return string(seal([]byte(strings.TrimSuffix(file[:n], ",\n") + "\n}\n")))
	}
	return file
}

func TestEncodeRefuses(t *testing.T) {
	e := &Entry{Segments: []Segment{segment(t, "", 0, 0, 10)}}
	NewRun().Stamp(e, start)
	e.Segments[0].Next = 3
	if _, _, err := Encode(e); err == nil {
		t.Error("a segment that nobody could read back was encoded")
	}
}

func TestSegmentPath(t *testing.T) {
	s := segment(t, "", 7, 3, 9)
	s.Cipher = "age"
	got, err := SegmentPath(&s)
	want := "topics/orders/partition=7/segment-00000000000000000003-00000000000000000008-" + s.SHA256.String()[:8] + ".cbor.zst.age"
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	s.Cipher = ""
	for codec, ext := range map[string]string{"": ".cbor", "none": ".cbor", "zstd": ".cbor.zst", "lz4": ".cbor.lz4", "gzip": ".cbor.gz", "snappy": ".cbor.sz"} {
		s.Codec = codec
		if got, err := SegmentPath(&s); err != nil || !strings.HasSuffix(got, s.SHA256.String()[:8]+ext) {
			t.Errorf("got %q, %v for codec %q", got, err, codec)
		}
	}
}

func TestValidTopic(t *testing.T) {
	for _, name := range []string{"a", "...", "__consumer_offsets", "A.b-C_9", strings.Repeat("x", 249)} {
		if err := ValidTopic(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "../a", `a\b`, "a b", "ä", "a\x00", "a:b", strings.Repeat("x", 250)} {
		if err := ValidTopic(name); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
}

// chain makes n entries of one run and their hashes.
func chain(t *testing.T, n int) (entries []*Entry, shas []string) {
	run := NewRun()
	for i := range n {
		e, sha := store(t, run, &Entry{Segments: []Segment{segment(t, "t1", 0, int64(i*10), int64(i*10+10))}})
		entries, shas = append(entries, e), append(shas, sha)
	}
	return entries, shas
}

func TestStateVerifiesTheChain(t *testing.T) {
	entries, shas := chain(t, 5)
	for _, test := range []struct {
		name  string
		order []int
		names string // what the error names
		ok    bool
	}{
		{"whole", []int{0, 1, 2, 3, 4}, "", true},
		{"first missing", []int{1, 2}, entries[1].ID, false},
		{"one missing", []int{0, 1, 3}, entries[3].ID, false},
		{"two missing", []int{0, 1, 4}, "entries 3 to 4", false},
		{"last missing", []int{0, 1, 2}, "", true},
		{"wrong order", []int{1, 0}, entries[1].ID, false},
		{"twice", []int{0, 0}, entries[0].ID, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s State
			var err error
			for _, i := range test.order {
				if err = s.Add(entries[i], shas[i]); err != nil {
					break
				}
			}
			if (err == nil) != test.ok || err != nil && !strings.Contains(err.Error(), test.names) {
				t.Errorf("got %v", err)
			}
		})
	}

	t.Run("changed", func(t *testing.T) {
		var s State
		if err := s.Add(entries[0], Sum([]byte("else"))); err != nil {
			t.Fatal(err)
		}
		err := s.Add(entries[1], shas[1])
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), entries[0].ID) {
			t.Errorf("got %v, want ErrCorrupt that names %s", err, entries[0].ID)
		}
	})
}

func TestStateMergesRuns(t *testing.T) {
	var s State
	a, b := NewRun(), NewRun()
	entry := func(run *Run, at time.Duration, e *Entry) {
		t.Helper()
		run.Stamp(e, start.Add(at))
		data, sha, err := Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		run.Advance(sha)
		if err := s.Add(e, Sum(data)); err != nil {
			t.Fatal(err)
		}
	}
	entry(a, 1*time.Second, &Entry{Topics: []Topic{{Name: "orders", ID: "t1", Partitions: 1}}, Segments: []Segment{segment(t, "t1", 0, 0, 10)}})
	entry(b, 2*time.Second, &Entry{Segments: []Segment{segment(t, "t1", 1, 5, 9), segment(t, "t1", 0, 0, 10)}})
	entry(a, 3*time.Second, &Entry{
		Topics: []Topic{{Name: "orders", ID: "t1", Partitions: 2}},
		Marks:  []Mark{{Topic: "orders", TopicID: "t1", From: 10, Next: 15, Lost: [][2]int64{{20, 22}}}},
		Groups: []Group{{ID: "g", Frame: []byte{1}}},
	})
	entry(b, 4*time.Second, &Entry{
		Marks:  []Mark{{Topic: "orders", TopicID: "t1", Partition: 2, From: 7, Next: 7}},
		Groups: []Group{{ID: "g", Frame: []byte{2}}, {ID: "a"}}, Points: []Point{{Time: 4}}, Others: [][]byte{{9}},
	})

	for _, test := range []struct {
		partition  int32
		from, next int64
		want       bool
	}{
		{0, 0, 15, true}, {0, 3, 4, true}, {0, 14, 16, false}, {0, 15, 15, true}, {0, 20, 22, false}, {0, 19, 22, false},
		{1, 5, 9, true}, {1, 4, 9, false}, {3, 0, 1, false},
	} {
		if got := s.Covered("orders", "t1", test.partition, test.from, test.next, nil); got != test.want {
			t.Errorf("Covered(%d, [%d, %d)) is %v", test.partition, test.from, test.next, got)
		}
	}
	if s.Covered("orders", "t2", 0, 0, 1, nil) || s.Covered("else", "t1", 0, 0, 1, nil) {
		t.Error("a topic that is not in the log is covered")
	}
	wantCursor := map[string]Position{"orders": {ID: "t1", Partitions: map[int32]int64{0: 22, 1: 9, 2: 7}}}
	if got := s.Cursor(false); !reflect.DeepEqual(got, wantCursor) {
		t.Errorf("cursor %v, want %v", got, wantCursor)
	}
	if next, ok := s.Next("orders", "t1", 2); next != 7 || !ok {
		t.Errorf("Next is %d, %v", next, ok)
	}
	if _, ok := s.Next("orders", "t1", 9); ok {
		t.Error("Next knows a partition that the log does not")
	}
	if got := s.Description("orders", "t1"); len(s.Topics()) != 1 || got.Partitions != 2 {
		t.Errorf("topics %q, %+v", s.Topics(), got)
	}
	if got := s.Groups(nil); len(got) != 2 || got[0].ID != "a" || !bytes.Equal(got[1].Frame, []byte{2}) {
		t.Errorf("groups %+v", got)
	}
	if len(s.Points()) != 1 || len(s.Others()) != 1 || s.Entries() != 4 {
		t.Errorf("%d points, %d others, %d entries", len(s.Points()), len(s.Others()), s.Entries())
	}
	var paths []string
	for seg := range s.Segments() {
		paths = append(paths, path.Base(path.Dir(seg.Path)))
	}
	if want := []string{"partition=0", "partition=1"}; !slices.Equal(paths, want) {
		t.Errorf("segments in %q, want %q: one that two runs list counts once", paths, want)
	}

	plans := s.Select()
	if len(plans) != 3 {
		t.Fatalf("%d plans, want 3", len(plans))
	}
	if p := plans[0]; !reflect.DeepEqual(p.Holes, [][2]int64{{15, 20}}) || p.From != 0 || p.Next != 22 || p.Len() != 1 {
		t.Errorf("plan %+v", p)
	}
	if p := plans[2]; p.From != 7 || p.Next != 7 || p.Len() != 0 || p.Holes != nil {
		t.Errorf("plan of an empty partition: %+v", p)
	}

	m := s.Manifest()
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var back Manifest
	if err := json.Unmarshal(data, &back); err != nil || !reflect.DeepEqual(&back, m) {
		t.Errorf("manifest came back as %+v, %v", back, err)
	}
	want := ManifestPartition{From: 0, Next: 22, Records: 10, Bytes: 5, RawBytes: 10, Segments: 1, MinTimestamp: 1000, MaxTimestamp: 1010, Lost: [][2]int64{{20, 22}}, Holes: [][2]int64{{15, 20}}}
	if got := m.Topics[0].Partitions[0]; !reflect.DeepEqual(got, want) {
		t.Errorf("manifest says %+v, want %+v", got, want)
	}
}

func TestNewestIncarnation(t *testing.T) {
	var s State
	run := NewRun()
	add(t, &s, run, &Entry{Segments: []Segment{segment(t, "old", 0, 0, 100)}})
	add(t, &s, run, &Entry{Topics: []Topic{{Name: "orders", ID: "new", Partitions: 1}}, Segments: []Segment{segment(t, "new", 0, 0, 5)}})
	// A slow writer still finishes the topic that is gone.
	add(t, &s, run, &Entry{Segments: []Segment{segment(t, "old", 0, 100, 110)}})

	if got := s.Cursor(false)["orders"]; got.ID != "new" || got.Partitions[0] != 5 {
		t.Errorf("cursor %+v", got)
	}
	plans := s.Select()
	if len(plans) != 1 || plans[0].TopicID != "new" || plans[0].Next != 5 {
		t.Errorf("plans %+v", plans)
	}
	if next, _ := s.Next("orders", "old", 0); next != 110 {
		t.Errorf("the old incarnation ends at %d, want 110", next)
	}
	if m := s.Manifest(); len(m.Topics) != 2 {
		t.Errorf("manifest has %d topics, want both incarnations", len(m.Topics))
	}
}

func TestEmptyState(t *testing.T) {
	var s State
	if s.Entries() != 0 || len(s.Cursor(false)) != 0 || s.Select() != nil || s.Covered("a", "", 0, 0, 1, nil) {
		t.Error("the zero state is not empty")
	}
	if _, err := s.Manifest().Encode(); err != nil {
		t.Error(err)
	}
}

// TestAgainstModel compares coverage and plans with a table of single offsets.
func TestAgainstModel(t *testing.T) {
	const size = 24
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var s State
		var scanned, held [size]bool
		run := NewRun()
		var segments []Segment
		for range rng.IntN(9) {
			from := rng.Int64N(size - 1)
			next := from + 1 + rng.Int64N(min(8, size-from))
			e := &Entry{}
			if rng.IntN(3) == 0 {
				e.Marks = []Mark{{Topic: "orders", From: from, Next: next}}
			} else {
				seg := segment(t, "", 0, from, next)
				e.Segments = []Segment{seg}
				segments = append(segments, seg)
				for o := from; o < next; o++ {
					held[o] = true
				}
			}
			for o := from; o < next; o++ {
				scanned[o] = true
			}
			add(t, &s, run, e)
		}
		for from := range int64(size) {
			for next := from + 1; next <= size; next++ {
				if got, want := s.Covered("orders", "", 0, from, next, nil), !slices.Contains(scanned[from:next], false); got != want {
					t.Fatalf("seed %d: Covered([%d, %d)) is %v", seed, from, next, got)
				}
			}
		}
		plans := s.Select()
		if len(plans) == 0 {
			continue
		}
		plan := plans[0]

		var delivered [size]int
		at := int64(0)
		for i := range plan.Len() {
			c := plan.Segment(i)
			if c.DropBelow < c.From || c.DropBelow >= c.Next || c.DropBelow < at {
				t.Fatalf("seed %d: %+v after %d", seed, c, at)
			}
			for o := c.DropBelow; o < c.Next; o++ {
				delivered[o]++
			}
			at = c.Next
		}
		for o := range held {
			if want := map[bool]int{true: 1}[held[o]]; delivered[o] != want {
				t.Fatalf("seed %d: offset %d is delivered %d times, want %d", seed, o, delivered[o], want)
			}
		}
		for o := plan.From; o < plan.Next; o++ {
			hole := slices.ContainsFunc(plan.Holes, func(h [2]int64) bool { return h[0] <= o && o < h[1] })
			if hole == scanned[o] {
				t.Fatalf("seed %d: offset %d: scanned %v, hole %v", seed, o, scanned[o], hole)
			}
		}
		if fewest := fewestToCover(segments, held[:]); plan.Len() != fewest {
			t.Fatalf("seed %d: %d segments chosen, %d would do", seed, plan.Len(), fewest)
		}
	}
}

// fewestToCover tries every subset of segments.
func fewestToCover(segments []Segment, held []bool) int {
	best := len(segments)
	for set := range 1 << len(segments) {
		n := 0
		got := make([]bool, len(held))
		for i, seg := range segments {
			if set&(1<<i) != 0 {
				n++
				for o := seg.From; o < seg.Next; o++ {
					got[o] = true
				}
			}
		}
		if n < best && slices.Equal(got, held) {
			best = n
		}
	}
	return best
}

func FuzzDecode(f *testing.F) {
	e := &Entry{
		Topics:   []Topic{{Name: "orders"}},
		Segments: []Segment{segment(f, "t1", 0, 0, 10)},
		Marks:    []Mark{{Topic: "orders", Next: 3, Lost: [][2]int64{{1, 2}}}},
		Groups:   []Group{{ID: "g"}},
	}
	(&Run{name: "00000000"}).Stamp(e, start)
	data, _, err := Encode(e)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, _, err := Decode("20261120T213700.123Z-00000000-000001.json", data)
		if err != nil {
			return
		}
		again, sha, err := Encode(e)
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		back, backSHA, err := Decode(e.ID, again)
		if err != nil || backSHA != sha {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		// Bytes, not values: JSON does not tell an empty list from none.
		if third, _, _ := Encode(back); !bytes.Equal(third, again) {
			t.Fatalf("encodes as\n%s\nthen as\n%s", again, third)
		}
	})
}
