package commitlog

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// resealed gives a file of the log that a fuzzer has made a right checksum: else none that
// was changed would get any further.
func resealed(data []byte) []byte {
	if n := len(data) - sealSize; n >= 0 && strings.HasPrefix(string(data[n:]), sealBegin) {
		data = data[:n]
	}
	return append(bytes.Clone(data), sealOf(data)...)
}

// fuzzed is a log of three entries with all that entries may have, and its encoded entries.
func fuzzed(f *testing.F) (s *State, entries [][]byte) {
	s, run := new(State), &Run{name: "00000000"}
	for i, e := range []*Entry{
		{
			Backup: strings.Repeat("a", 32), Joins: []string{strings.Repeat("b", 32)}, Source: Source{ClusterID: "c"},
			Topics:   []Topic{{Name: "orders", ID: "t1", Partitions: 3}},
			Segments: []Segment{segment(f, "t1", 0, 0, 10)},
			Marks: []Mark{
				{Topic: "orders", TopicID: "t1", Partition: 0, From: 10, Next: 13, Lost: [][2]int64{{11, 12}}, LeaderEpoch: new(int32(4))},
				{Topic: "orders", TopicID: "t1", Partition: 1, From: 5, Next: 5}, {Topic: "orders", TopicID: "t1", Partition: 2, From: 5, Next: 5},
			},
			Groups: []Group{{ID: "g"}}, GroupLists: []GroupList{{}},
			Points: []Point{{Time: 5, Without: map[string][]int32{"orders": {2}}}},
		},
		{
			Filters:  []string{"kbk-filter"},
			Segments: []Segment{segment(f, "t1", 0, 13, 20)},
			Marks:    []Mark{{Topic: "orders", TopicID: "t1", Partition: 1, From: 3, Next: 9, Branch: true, LogStart: new(int64(2))}},
			Others:   [][]byte{{0x81, 1}}, Losses: []string{"orders/0: gone"},
		},
		{
			Final: true, Marks: []Mark{{Topic: "orders", TopicID: "t2", Partition: 0, From: 0, Next: 4}},
			Points: []Point{{Time: 9, Moment: &Moment{Entry: "x", Run: "11111111", Seq: 1, Topics: []MomentTopic{{Name: "orders", Partitions: map[int32][2]int64{0: {0, 3}}}}}}},
		},
	} {
		run.Stamp(e, start.Add(time.Duration(i)*time.Second))
		data, sha, err := Encode(e)
		if err != nil {
			f.Fatal(err)
		}
		run.Advance(sha)
		if e, sha, err = Decode(EntryPath(e.ID), data); err == nil {
			err = s.Add(e, sha)
		}
		if err != nil {
			f.Fatal(err)
		}
		entries = append(entries, data)
	}
	return s, entries
}

// ask asks a state all that it can be asked: none of that may panic, whatever was folded.
func ask(s *State) {
	s.Manifest()
	s.Cursor(false)
	s.OnlyFiltered("orders", "t1", 0)
	for _, p := range s.Points() {
		s.Moment(p)
	}
	for _, name := range s.Topics() {
		for _, id := range s.Incarnations(name) {
			s.Description(name, id)
			for _, n := range s.Partitions(name, id) {
				s.Losses(name, id, n)
				s.UpToHole(name, id, n, false)
				if plan, ok := s.Plan(name, id, n); ok {
					plan.Cut(0, 1<<62, -1<<63, 1<<63-1)
				}
			}
		}
	}
}

// idOf is the id that a file says it has.
func idOf(data []byte) string {
	var head struct{ ID string }
	_ = json.Unmarshal(data, &head)
	return head.ID
}

// FuzzEntry folds any entry with a right checksum. A snapshot of the log says what the log
// does.
func FuzzEntry(f *testing.F) {
	_, entries := fuzzed(f)
	for _, data := range entries {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = resealed(data)
		e, sha, err := Decode(idOf(data)+entrySuffix, data)
		if err != nil {
			return
		}
		e.Doubts()
		if again, _, err := Encode(e); err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		} else if _, _, err := Decode(e.ID+entrySuffix, again); err != nil {
			t.Fatalf("what was encoded does not decode: %v\n%s", err, again)
		}
		s := new(State)
		s.Fold(e, sha)
		ask(s)
		checkSnapshot(t, s)
	})
}

// checkSnapshot wants what is read of a snapshot to say what s says.
func checkSnapshot(t *testing.T, s *State) {
	t.Helper()
	n := s.Snapshot(start, func(string, string) []IndexFile { return nil }, func(string, Head) bool { return true })
	if slices.ContainsFunc(n.Points, func(p SnapshotPoint) bool { return p.File < 0 || p.File >= len(n.Moments) }) {
		return // compaction writes the moments first
	}
	data, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeSnapshot(SnapshotPath(n.ID), data)
	if err != nil {
		t.Fatalf("the snapshot does not decode: %v\n%s", err, data)
	}
	again := new(State)
	again.AddSnapshot(back)
	for name, pair := range map[string][2]any{
		"manifest": {s.Manifest().Topics, again.Manifest().Topics},
		"cursor":   {s.Cursor(false), again.Cursor(false)},
	} {
		want, err := json.Marshal(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(pair[1]); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s was\n%s\nand with the snapshot is\n%s, %v", name, want, got, err)
		}
	}
}

// FuzzSnapshot folds any snapshot with a right checksum.
func FuzzSnapshot(f *testing.F) {
	s, _ := fuzzed(f)
	n := s.Snapshot(start, func(topic, id string) []IndexFile {
		return []IndexFile{{File{IndexPath(topic, strings.Repeat("c", 64)), 9, strings.Repeat("c", 64)}, 0, 2}}
	}, func(string, Head) bool { return true })
	n.Moments = []File{{IndexPath("points", strings.Repeat("d", 64)), 9, strings.Repeat("d", 64)}}
	for i := range n.Points {
		n.Points[i].File = 0
	}
	data, err := n.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		data = resealed(data)
		n, err := DecodeSnapshot(idOf(data)+snapshotSuffix, data)
		if err != nil {
			return
		}
		s := new(State)
		s.AddSnapshot(n)
		ask(s)
		for _, topic := range n.Topics {
			for _, f := range topic.Index {
				s.LoseIndex(topic.Name, topic.ID, f)
			}
		}
		ask(s)
	})
}

// FuzzManifest reads any manifest with a right checksum.
func FuzzManifest(f *testing.F) {
	s, _ := fuzzed(f)
	data, err := s.Manifest().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := DecodeManifest(resealed(data)); err == nil {
			if _, err := m.Encode(); err != nil {
				t.Fatalf("what was decoded does not encode: %v", err)
			}
		}
	})
}

// FuzzSeal flips a bit of any file that is sealed, and wants it put back.
func FuzzSeal(f *testing.F) {
	f.Add([]byte("{\n  \"version\": 2,\n"), uint32(5))
	f.Fuzz(func(t *testing.T, body []byte, bit uint32) {
		data := append(bytes.Clone(body), sealOf(body)...)
		whole := bytes.Clone(data)
		bit %= uint32(len(data)) * 8
		data[bit/8] ^= 1 << (bit % 8)
		if got, mended := Mended(data); !mended || !bytes.Equal(got, whole) {
			t.Fatalf("%q, bit %d: %q, %v", body, bit, got, mended)
		}
	})
}

// compressed is data in zstd.
func compressed(t testing.TB, data []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(data, nil)
}

// FuzzIndex reads any lines of an index. The segments that come out are some that a log
// could have.
func FuzzIndex(f *testing.F) {
	s, _ := fuzzed(f)
	_, err := s.WriteIndex("orders", "t1", func(data []byte) (File, error) {
		z, err := zstd.NewReader(nil)
		if err != nil {
			return File{}, err
		}
		defer z.Close()
		plain, err := z.DecodeAll(data, nil)
		f.Add(plain, false)
		return File{}, err
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte, old bool) {
		s := &State{untold: old}
		s.init()
		err := s.ReadIndex(bytes.NewReader(compressed(t, text)), "orders", "t1")
		for seg := range s.Segments() {
			if invalid := seg.validate(); invalid != nil {
				t.Fatalf("%+v: %v, read with %v", seg, invalid, err)
			}
		}
		if err == nil {
			ask(s)
		}
	})
}

// FuzzMoments reads any lines of a file of restore points. What is accepted is the same
// when it was written and read again.
func FuzzMoments(f *testing.F) {
	f.Add([]byte(`{"entry":"e","run":"00000000","seq":1,"topics":[{"name":"orders","id":"t1","partitions":{"0":[1,9]}}],"groups":[{"id":"g","topics":{"orders":"t1"}}]}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		read := func(file []byte) (all []string, out []byte, err error) {
			var b bytes.Buffer
			add, end, err := WriteMoments(&b)
			if err != nil {
				t.Fatal(err)
			}
			err = ReadMoments(bytes.NewReader(file), func(m *Moment) error {
				line, err := json.Marshal(m)
				all = append(all, string(line))
				if err != nil {
					return err
				}
				return add(m)
			})
			if err2 := end(); err2 != nil {
				t.Fatal(err2)
			}
			return all, b.Bytes(), err
		}
		once, file, err := read(compressed(t, text))
		if err != nil {
			return
		}
		if twice, _, err := read(file); err != nil || !slices.Equal(once, twice) {
			t.Fatalf("%q\nbecame\n%q, %v", once, twice, err)
		}
	})
}

// FuzzNames reads names of objects and ids of entries.
func FuzzNames(f *testing.F) {
	for _, s := range []string{
		"log/20261120T213700.123Z-00000000-000001.json", "20261120T213700.123Z-00000000.snapshot.json",
		"topics/orders/partition=0/segment-00000000000000000000-00000000000000000009-01234567-0a1b2c3d.cbor.zst.age",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if id, ok := EntryID(name); ok {
			if run, seq, ok := RunOf(id); !ok || seq < 1 || len(run) != runDigits || PathOf(id) != EntryPath(id) {
				t.Fatalf("%q: %q, %d", name, run, seq)
			}
		}
		if id, ok := SnapshotID(name); ok && (PathOf(id) != SnapshotPath(id) || TimeOf(id).IsZero() && !strings.HasPrefix(id, "0001")) {
			t.Fatalf("%q is %q, of %v", name, id, TimeOf(id))
		}
		if codec, cipher, ok := Layers(name); ok && (codec == "" || strings.Contains(codec, ".") || cipher != "" && cipher != "age") {
			t.Fatalf("%q: %q, %q", name, codec, cipher)
		}
		WriterOf(name)
	})
}
