package commitlog

import (
	"cmp"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// write is an entry of run that says what the backup was, and its hash. Entries of tests
// come a second apart.
func write(t *testing.T, run *Run, s *State, e *Entry) (*Entry, string) {
	t.Helper()
	e.Backup = s.Backup()
	if run.seq == 0 {
		e.Seen = s.Seen()
	}
	run.Stamp(e, s.After(start))
	data, sha, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	run.Advance(sha)
	got, _, err := Decode(EntryPath(e.ID), data)
	if err != nil {
		t.Fatal(err)
	}
	return got, sha
}

type written struct {
	e   *Entry
	sha string
}

// threeRuns is a log of three runs: two entries, one, and one that saw both.
func threeRuns(t *testing.T) []written {
	t.Helper()
	var all []written
	var s State
	add := func(run *Run, e *Entry) {
		got, sha := write(t, run, &s, e)
		if err := s.Add(got, sha); err != nil {
			t.Fatal(err)
		}
		all = append(all, written{got, sha})
	}
	s.init()
	s.lineage.first = strings.Repeat("a", backupDigits)
	a, b, c := NewRun(), NewRun(), NewRun()
	add(a, &Entry{})
	add(a, &Entry{Final: true})
	add(b, &Entry{Final: true})
	add(c, &Entry{Final: true})
	return all
}

func fold(entries []written) (s *State, err error) {
	s = new(State)
	for _, w := range entries {
		if err := s.Add(w.e, w.sha); err != nil {
			return s, err
		}
	}
	return s, nil
}

// TestSeenShows takes each entry away and changes each: all but what happens to the very
// last one shows.
func TestSeenShows(t *testing.T) {
	all := threeRuns(t)
	if s, err := fold(all); err != nil || len(s.Seen()) != 1 || s.Backup() == "" {
		t.Fatalf("%v, seen %v", err, s.Seen())
	}
	for i := range all {
		_, err := fold(slices.Delete(slices.Clone(all), i, i+1))
		if shows := errors.Is(err, ErrCorrupt); shows != (i < len(all)-1) {
			t.Errorf("without entry %d: %v", i+1, err)
		}
		changed := slices.Clone(all)
		changed[i].sha = strings.Repeat("0", 64)
		_, err = fold(changed)
		if shows := errors.Is(err, ErrCorrupt); shows != (i < len(all)-1) {
			t.Errorf("entry %d changed: %v", i+1, err)
		}
	}
	if _, err := fold(all[3:]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("without the first two runs: %v", err)
	}
}

// TestSeenBehindSnapshot has runs that saw entries which a snapshot stands for now, and a
// snapshot that is gone.
func TestSeenBehindSnapshot(t *testing.T) {
	all := threeRuns(t)
	s, err := fold(all[:3])
	if err != nil {
		t.Fatal(err)
	}
	snapshot := func(s *State) *Snapshot {
		n := s.Snapshot(start, func(string, string) []IndexFile { return nil }, func(string, Head) bool { return false })
		data, err := n.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if n, err = DecodeSnapshot(SnapshotPath(n.ID), data); err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := snapshot(s)
	later := new(State)
	later.AddSnapshot(n)
	if err := later.Add(all[3].e, all[3].sha); err != nil {
		t.Errorf("behind a snapshot of what it saw: %v", err)
	}
	if later.Backup() != s.Backup() || s.Backup() == "" {
		t.Errorf("backup %q became %q", s.Backup(), later.Backup())
	}
	// A run that saw all of them, and then they are taken away with the snapshot that stands
	// for them, or an older one is put in its place.
	e, _ := write(t, NewRun(), later, new(Entry))
	if len(e.Seen) != 1 || e.Seen[0].ID != all[3].e.ID {
		t.Errorf("saw %v", e.Seen)
	}
	for name, before := range map[string][]*Snapshot{"gone": nil, "an older one": {n}, "there": {snapshot(later)}} {
		s := new(State)
		for _, n := range before {
			s.AddSnapshot(n)
		}
		if err := s.Check(e); errors.Is(err, ErrCorrupt) != (name != "there") {
			t.Errorf("the snapshot is %s: %v", name, err)
		}
	}
}

func TestForeignBackups(t *testing.T) {
	ids := func(c string) string { return strings.Repeat(c, backupDigits) }
	entry := func(backup string, joins ...string) written {
		run, e := NewRun(), &Entry{Backup: backup, Joins: joins}
		run.Stamp(e, start)
		return written{e, Sum([]byte(e.ID))}
	}
	for _, test := range []struct {
		name    string
		entries []written
		own     string
		foreign []string
	}{
		{"none", []written{entry("")}, "", nil},
		{"one", []written{entry(""), entry(ids("b"))}, ids("b"), nil},
		{"a run of another", []written{entry(ids("a")), entry(ids("b")), entry(ids("b"))}, ids("b"), []string{ids("a")}},
		{"begun at once", []written{entry(ids("a")), entry(ids("b")), entry(ids("b"), ids("a"))}, ids("a"), nil},
		{"three at once", []written{entry(ids("c"), ids("b")), entry(ids("b"), ids("a")), entry(ids("d"))}, ids("a"), []string{ids("d")}},
	} {
		s, err := fold(test.entries)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.lineage.root(s.Backup()); got != test.own || !slices.Equal(s.Foreign(), test.foreign) {
			t.Errorf("%s: own %q, foreign %q", test.name, got, s.Foreign())
		}
	}
}

// TestStandings wants any marks back as they were.
func TestStandings(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	some := func(p *int64) *int64 {
		if r.IntN(4) == 0 {
			return nil
		}
		return p
	}
	for range 300 {
		var marks []Mark
		for _, topic := range []string{"a", "b"} {
			p, full := int32(0), r.IntN(2) == 0
			for range r.IntN(20) {
				p += int32(r.IntN(3))
				next := int64(r.IntN(3))
				m := Mark{Topic: topic, TopicID: "id", Partition: p, From: next, Next: next, LogStart: ptr(int64(r.IntN(2))), End: ptr(next), LeaderEpoch: ptr(int32(1))}
				if !full {
					m.LogStart, m.End, m.From = some(m.LogStart), some(ptr(next+int64(r.IntN(2)))), next-int64(r.IntN(2))*min(next, 1)
					if r.IntN(5) == 0 {
						m.Lost = [][2]int64{{0, 1}}
					}
				}
				marks = append(marks, m)
			}
		}
		slices.SortStableFunc(marks, CompareMarks)
		e := &Entry{Marks: marks}
		got, _ := store(t, NewRun(), e)
		// Marks of one partition may change places: all of them are of one moment.
		byAll := func(a, b Mark) int {
			return cmp.Or(CompareMarks(a, b), strings.Compare(text(a), text(b)))
		}
		slices.SortFunc(got.Marks, byAll)
		slices.SortFunc(marks, byAll)
		if !reflect.DeepEqual(got.Marks, marks) && len(marks) > 0 {
			t.Fatalf("got  %s\nwant %s", text(got.Marks), text(marks))
		}
	}
}

// TestQuietRunIsSmall has the entry of a run that found nothing new in 2,000 partitions.
func TestQuietRunIsSmall(t *testing.T) {
	e := new(Entry)
	for i := range int32(2000) {
		next := int64(i)*7919 + 1_000_000
		e.Marks = append(e.Marks, Mark{Topic: "orders-" + string(rune('a'+i/100)), TopicID: "AAAAAAAAAAAAAAAAAAAAAA", Partition: i % 100, From: next, Next: next,
			LeaderEpoch: ptr(int32(3)), LogStart: ptr(int64(0)), End: ptr(next)})
	}
	NewRun().Stamp(e, start)
	data, _, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	e.Version = 1
	old, _, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, and %d in version 1", len(data), len(old))
	if len(data)*10 > len(old) {
		t.Errorf("%d bytes, and %d in version 1: want a tenth of it", len(data), len(old))
	}
}

// TestEveryBitIsPutBack flips every bit of an entry, of a snapshot and of a manifest, and
// pairs of bits, which nobody can put back.
func TestEveryBitIsPutBack(t *testing.T) {
	all := threeRuns(t)
	s, err := fold(all)
	if err != nil {
		t.Fatal(err)
	}
	entry, sha, err := Encode(all[3].e)
	if err != nil {
		t.Fatal(err)
	}
	n := s.Snapshot(start, func(string, string) []IndexFile { return nil }, func(string, Head) bool { return true })
	snapshot, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := s.Manifest().Encode()
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for name, f := range map[string]struct {
		data   []byte
		decode func([]byte) (mended bool, sha string, err error)
	}{
		"entry": {entry, func(b []byte) (bool, string, error) {
			e, got, err := Decode(EntryPath(all[3].e.ID), b)
			return err == nil && e.Mended && text(e) == text(all[3].e), got, err
		}},
		"snapshot": {snapshot, func(b []byte) (bool, string, error) {
			got, err := DecodeSnapshot(SnapshotPath(n.ID), b)
			return err == nil && got.Mended && text(got) == text(n), sha, err
		}},
		"manifest": {manifest, func(b []byte) (bool, string, error) {
			_, err := DecodeManifest(b)
			return true, sha, err
		}},
	} {
		if _, _, err := f.decode(f.data); err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(f.data) {
			f.data[bit/8] ^= 1 << (bit % 8)
			if mended, got, err := f.decode(f.data); err != nil || !mended || got != sha {
				t.Errorf("%s, bit %d: %v, put back: %v, sha256 %s", name, bit, err, mended, got)
			}
			if original, mended := Mended(f.data); !mended || checkSeal(original).mended || !checkSeal(original).intact {
				t.Errorf("%s, bit %d is not put back", name, bit)
			}
			other := r.IntN(8 * len(f.data))
			if other != bit {
				f.data[other/8] ^= 1 << (other % 8)
				if _, _, err := f.decode(f.data); !errors.Is(err, ErrCorrupt) {
					t.Errorf("%s, bits %d and %d: %v", name, bit, other, err)
				}
				f.data[other/8] ^= 1 << (other % 8)
			}
			f.data[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// TestUnknownKeys are damage where there is no checksum, and else of a later version.
func TestUnknownKeys(t *testing.T) {
	e := &Entry{Segments: []Segment{segment(t, "t1", 0, 0, 10)}}
	run := NewRun()
	run.Stamp(e, start)
	data, _, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	later := reseal(strings.Replace(string(data), `"seq": 1`, `"colour": 7, "seq": 1`, 1))
	got, _, err := Decode(EntryPath(e.ID), []byte(later))
	if err != nil || got.Unknown != "colour" || len(got.Segments) != 1 {
		t.Errorf("of a later version: %v, unknown key %q", err, got.Unknown)
	}
	e.Version = 1
	if data, _, err = Encode(e); err != nil {
		t.Fatal(err)
	}
	if got, _, err := Decode(EntryPath(e.ID), data); err != nil || got.Sealed {
		t.Errorf("an old entry: %v", err)
	}
	bad := strings.Replace(string(data), `"segments"`, `"segmentq"`, 1)
	if _, _, err := Decode(EntryPath(e.ID), []byte(bad)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "segmentq") {
		t.Errorf("an old entry with a flipped bit: %v", err)
	}
}

func TestDoubts(t *testing.T) {
	for _, test := range []struct {
		name string
		e    Entry
		want int
	}{
		{"sound", Entry{Topics: []Topic{{Name: "orders", ID: "t1"}}, Segments: []Segment{segment(t, "t1", 0, 0, 10)}, Marks: []Mark{{Topic: "orders", TopicID: "t1", Next: 10, End: ptr(int64(10))}}}, 0},
		{"two incarnations", Entry{Topics: []Topic{{Name: "orders", ID: "t1"}, {Name: "orders", ID: "t2"}}, Marks: []Mark{{Topic: "orders", TopicID: "t1"}, {Topic: "orders", TopicID: "t2"}}}, 0},
		{"not described here", Entry{Marks: []Mark{{Topic: "orders", TopicID: "t1"}}}, 0},
		{"beyond the end", Entry{Marks: []Mark{{Topic: "orders", Next: 1600, End: ptr(int64(1400))}}}, 1},
		{"topic id of a mark", Entry{Topics: []Topic{{Name: "orders", ID: "t1"}}, Marks: []Mark{{Topic: "orders", TopicID: "t9"}}}, 1},
		{"topic id of a segment", Entry{Topics: []Topic{{Name: "orders", ID: "t1"}}, Segments: []Segment{segment(t, "t9", 0, 0, 10)}}, 1},
	} {
		if got := test.e.Doubts(); len(got) != test.want {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func TestSortFiles(t *testing.T) {
	const id, snap = "20261120T213700.123Z-1ccff5b4-000001", "20261120T213700.123Z-1ccff5b4"
	f := SortFiles([]string{
		"log/" + id + ".json", "log/" + id + ".json.sig", "log/" + snap + ".snapshot.json", "log/" + snap + ".snapshot.json.sig",
		"log/" + id + ".json.0badcafe.tmp", "log/" + id + ".json.sig.0badcafe.tmp",
		"log/._" + id + ".json", "log/" + id + " (1).json", "log/" + id + ".sync-conflict.json", "log/x.json", "log/x.snapshot.json", "log/.DS_Store",
		"log/20261120T213700.123Z-1ccff5b4-1.json", "log/20261120T213700.123Z-1CCFF5B4-000001.json", "log/" + id + ".json.bak",
	})
	if len(f.Entries) != 1 || len(f.Snapshots) != 1 || len(f.Signatures) != 2 || len(f.Leftovers) != 2 || len(f.Strays) != 9 {
		t.Errorf("%+v", f)
	}
}

// text is v for messages, and to compare.
func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
