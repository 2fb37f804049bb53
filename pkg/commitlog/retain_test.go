package commitlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"
	"time"
)

// files is where a test keeps what a snapshot needs.
type files map[string][]byte

func (f files) put(name string) func(data []byte) (File, error) {
	return func(data []byte) (File, error) {
		file := File{Path: IndexPath(name, Sum(data)), Size: int64(len(data)), SHA256: Sum(data)}
		f[file.Path] = data
		return file, nil
	}
}

// folded encodes a snapshot of s and makes a state of it.
func folded(t *testing.T, s *State, keep func(string, int32) bool) *State {
	t.Helper()
	disk := files{}
	n := s.Snapshot(start, func(topic, id string) []IndexFile {
		index, err := s.WriteIndex(topic, id, disk.put(topic))
		if err != nil {
			t.Fatal(err)
		}
		return index
	}, func(string, Head) bool { return true })
	data, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeSnapshot(SnapshotPath(n.ID), data)
	if err != nil {
		t.Fatal(err)
	}
	got := &State{Keep: keep}
	got.AddSnapshot(back)
	for _, topic := range back.Topics {
		for _, f := range topic.Index {
			if err := got.ReadIndex(bytes.NewReader(disk[f.Path]), topic.Name, topic.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	return got
}

// TestSnapshotIsTheLog folds a log and goes on from there: every answer is the same.
func TestSnapshotIsTheLog(t *testing.T) {
	var s State
	run, other := NewRun(), NewRun()
	add(t, &s, run, &Entry{Topics: []Topic{{Name: "orders", ID: "t1", Partitions: 2, Frame: []byte{1}}}, Source: Source{ClusterID: "c"},
		Segments: []Segment{segment(t, "t1", 0, 0, 10), segment(t, "t1", 1, 5, 9)}})
	add(t, &s, other, &Entry{Segments: []Segment{segment(t, "t0", 0, 0, 7), segment(t, "t1", 0, 0, 10)}, Final: true})
	add(t, &s, run, &Entry{Marks: []Mark{{Topic: "orders", TopicID: "t1", From: 10, Next: 15, Lost: [][2]int64{{20, 22}}}},
		Groups: []Group{{ID: "g", Frame: []byte{1}}}, Others: [][]byte{{9}}})
	got := folded(t, &s, nil)
	next, sha := store(t, run, &Entry{Segments: []Segment{segment(t, "t1", 0, 15, 20)}})
	for name, s := range map[string]*State{"log": &s, "snapshot": got} {
		if name == "snapshot" && (!s.Folded(entryIDs(run, 2)) || s.Folded(next.ID)) {
			t.Error("does not know what it stands for")
		}
		if err := s.Add(next, sha); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for what, f := range map[string]func(s *State) any{
		"plans":    func(s *State) any { return fmt.Sprint(planText(s)) },
		"cursor":   func(s *State) any { return s.Cursor(false) },
		"manifest": func(s *State) any { return s.Manifest() },
		"groups":   func(s *State) any { return s.Groups(nil) },
		"others":   func(s *State) any { return s.Others() },
		"source":   func(s *State) any { return s.Source() },
		"topic":    func(s *State) any { return s.Description("orders", "t1") },
		"old":      func(s *State) any { return s.Incarnations("orders") },
	} {
		if a, b := f(&s), f(got); !reflect.DeepEqual(a, b) {
			t.Errorf("%s: the log gives\n%v\nthe snapshot\n%v", what, a, b)
		}
	}
	one := folded(t, &s, func(_ string, p int32) bool { return p == 1 })
	n := 0
	for seg := range one.Segments() {
		if n++; seg.Partition != 1 {
			t.Errorf("kept %s", seg.Path)
		}
	}
	if n != 1 || !reflect.DeepEqual(one.Cursor(false), s.Cursor(false)) {
		t.Errorf("%d segments kept, cursor %v", n, one.Cursor(false))
	}
}

func entryIDs(r *Run, seq int) string {
	return fmt.Sprintf("20261120T213700.123Z-%s-%06d", r.Name(), seq)
}

func planText(s *State) (out []string) {
	for _, p := range s.Select() {
		out = append(out, fmt.Sprint(p.Topic, p.TopicID, p.Partition, p.From, p.Next, p.Holes, p.Lost))
		for i := range p.Len() {
			seg := p.Segment(i)
			form := *seg.Form
			seg.Form = nil
			out = append(out, fmt.Sprint(seg, form))
		}
	}
	return out
}

// TestIndexIsSplit wants an index of many segments in several files, each partition in
// one.
func TestIndexIsSplit(t *testing.T) {
	indexSize = 100
	defer func() { indexSize = 50_000 }()
	var s State
	run := NewRun()
	for p := range int32(3) {
		e := &Entry{}
		for i := range int64(indexSize/2 + 1) {
			e.Segments = append(e.Segments, segment(t, "t1", p, i*10, i*10+10))
		}
		add(t, &s, run, e)
	}
	index, err := s.WriteIndex("orders", "t1", files{}.put("orders"))
	if err != nil || len(index) != 2 || index[0].First != 0 || index[0].Last != 1 || index[1].First != 2 || index[1].Last != 2 {
		t.Errorf("%+v, %v", index, err)
	}
}

func TestDecodeSnapshotRefuses(t *testing.T) {
	var s State
	add(t, &s, NewRun(), &Entry{Segments: []Segment{segment(t, "t1", 0, 0, 10)}, Points: []Point{{Time: 1}}})
	f := File{Path: "index/points/0.jsonl.zst", SHA256: Sum(nil)}
	s.PlaceMoments(f)
	n := s.Snapshot(start, func(string, string) []IndexFile { return []IndexFile{{File: f}} }, func(string, Head) bool { return true })
	data, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeSnapshot(SnapshotPath(n.ID), data); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]string{
		{`"version": 2`, `"version": 3`}, {`index/points`, `../points`}, {`"file":0`, `"file":1`}, {`"orders"`, `".."`},
		{`"covered":[[0,10]]`, `"covered":[[9,1]]`}, {n.ID, "x"}, {"}\n", ""},
	} {
		bad := bytes.Replace(data, []byte(r[0]), []byte(r[1]), 1)
		if bytes.Equal(bad, data) {
			t.Fatalf("nothing to replace: %s in %s", r[0], data)
		}
		if _, err := DecodeSnapshot(SnapshotPath(n.ID), []byte(reseal(string(bad)))); err == nil {
			t.Errorf("%s was taken", r[1])
		}
	}
}

// A backupOf is a state with the moments of its points.
type backupOf struct {
	State
	moments []*Moment
	open    map[string]*Moment
}

// add adds the run's next entry.
func (b *backupOf) add(t testing.TB, run *Run, e *Entry) {
	t.Helper()
	e, sha := store(t, run, e)
	if err := b.State.Add(e, sha); err != nil {
		t.Fatal(err)
	}
	if b.open == nil {
		b.open = make(map[string]*Moment)
	}
	m := b.open[e.Run]
	if m == nil {
		m = new(Moment)
		b.open[e.Run] = m
	}
	m.Add(e)
	for _, at := range m.AtPoints() {
		var buf bytes.Buffer
		put, end, err := WriteMoments(&buf)
		if err == nil {
			err = errors.Join(put(at), end())
		}
		if err == nil {
			err = ReadMoments(&buf, func(m *Moment) error { b.moments = append(b.moments, m); return nil })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// prune lets go of what r does not keep.
func (b *backupOf) prune(t testing.TB, r Retention, now time.Time) (gone []Segment, topics []PrunedTopic) {
	t.Helper()
	retainer := NewRetainer(r, b.Points(), now)
	for _, m := range b.moments {
		retainer.Note(m)
	}
	var moments []*Moment
	for _, m := range b.moments {
		if kept := retainer.Keep(m); kept != nil {
			moments = append(moments, kept)
		}
	}
	b.moments = moments
	kept, _, err := retainer.Points()
	if err != nil {
		t.Fatal(err)
	}
	gone, topics = b.Prune(retainer)
	b.RetainPoints(kept)
	return gone, topics
}

// TestPrune has a partition whose log began at 0, 10 and 20 at three points.
func TestPrune(t *testing.T) {
	for _, test := range []struct {
		name string
		r    Retention
		kept int   // points
		low  int64 // the first offset that is left
	}{
		{"newest", Retention{}, 1, 20},
		{"last", Retention{Policy: Policy{Last: 1}}, 1, 20},
		{"last two", Retention{Policy: Policy{Last: 2}}, 2, 10},
		{"all points", Retention{Policy: Policy{All: true}}, 3, 0},
		{"age", Retention{Policy: Policy{Since: time.UnixMilli(1025)}, Records: time.UnixMilli(1025)}, 1, 20},
		{"age and last", Retention{Policy: Policy{Since: time.UnixMilli(1025), Last: 2}, Records: time.UnixMilli(1025)}, 2, 10},
		{"age of nothing", Retention{Policy: Policy{Since: time.UnixMilli(5)}}, 3, 0},
		{"records", Retention{Records: time.UnixMilli(1015)}, 1, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b backupOf
			run := NewRun()
			for i := range int64(3) {
				b.add(t, run, &Entry{
					Segments: []Segment{segment(t, "t1", 0, i*10, i*10+10)}, // timestamps 1000 + offset
					Marks:    []Mark{{Topic: "orders", TopicID: "t1", From: i * 10, Next: i*10 + 10, LogStart: ptr(i * 10)}},
					Points:   []Point{{Time: 1010 + i*10}},
				})
			}
			gone, topics := b.prune(t, test.r, start)
			plan := b.Select()[0]
			if int64(len(gone)) != test.low/10 || plan.From != test.low || plan.Next != 30 || plan.Holes != nil || int64(plan.Len()) != 3-test.low/10 {
				t.Errorf("%d gone, left %+v", len(gone), plan)
			}
			if len(topics) != 1 || topics[0].Before.Segments != 3 || topics[0].After.Segments != 3-test.low/10 || topics[0].Point == nil || topics[0].Point.Time != 1030 {
				t.Errorf("topics %+v", topics)
			}
			if b.Covered("orders", "t1", 0, 0, 30, nil) != (test.low == 0) || !b.Covered("orders", "t1", 0, test.low, 30, nil) {
				t.Error("what was pruned is covered, or what is left is not")
			}
			if len(b.Points()) != test.kept || len(b.moments) != test.kept {
				t.Errorf("%d points and %d moments kept, want %d", len(b.Points()), len(b.moments), test.kept)
			}
			b.PlaceMoments(File{Path: "index/points/0.jsonl.zst", SHA256: Sum(nil)})
			back := folded(t, &b.State, nil)
			if len(back.Points()) != test.kept {
				t.Errorf("%d points are left", len(back.Points()))
			}
			if back.Covered("orders", "t1", 0, 0, 30, nil) != (test.low == 0) || back.Select()[0].From != test.low || back.Cursor(false)["orders"].Partitions[0] != 30 {
				t.Error("a snapshot forgets what was pruned")
			}
		})
	}
}

func TestFindPoint(t *testing.T) {
	var s State
	a, b := NewRun(), NewRun()
	add(t, &s, a, &Entry{Points: []Point{{Time: 5}}})
	add(t, &s, b, &Entry{Points: []Point{{Time: 7}}})
	for name, want := range map[string]int64{a.Name(): 5, b.Name(): 7, entryIDs(b, 1): 7, entryIDs(a, 1)[:28]: 5} {
		if p, err := s.Find(name); err != nil || p.Time != want {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	for _, name := range []string{"", "x", "2026"} {
		if p, err := s.Find(name); err == nil {
			t.Errorf("%q is %+v", name, p)
		}
	}
}

func TestMomentsAreChecked(t *testing.T) {
	if err := ReadMoments(bytes.NewReader([]byte("no zstd")), func(*Moment) error { return nil }); err == nil || err == io.EOF {
		t.Errorf("got %v", err)
	}
}

func TestLayers(t *testing.T) {
	for name, want := range map[string][2]string{
		"a.cbor": {"none", ""}, "a.cbor.zst": {"zstd", ""}, "a.cbor.gz.age": {"gzip", "age"}, "a.cbor.sz": {"snappy", ""}, "a.cbor.lz4": {"lz4", ""}, "x.cbor.age": {"none", "age"},
	} {
		if codec, cipher, ok := Layers(name); !ok || codec != want[0] || cipher != want[1] {
			t.Errorf("%s: %q, %q, %v", name, codec, cipher, ok)
		}
	}
	for _, name := range []string{"a", "a.zst", "a.cborx", "a.cbor.zst.age.x", "nightly"} {
		if _, _, ok := Layers(name); ok {
			t.Errorf("%s is named like a segment", name)
		}
	}
}
