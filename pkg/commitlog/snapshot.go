package commitlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A Snapshot stands for the entries of a log up to some: what they add up to, but for
// the segments, which are in a file for each topic. It lies beside the entries and is
// written once, like them; a later one supersedes it.
//
// It says itself, run by run, which entries it stands for: clocks of writers may
// disagree, and a run may go on while a snapshot is made.
type Snapshot struct {
	Version    int             `json:"version"`
	KBK        string          `json:"kbk"` // says what this file is
	ID         string          `json:"id"`  // <time>-<8 hexadecimal digits>
	Time       time.Time       `json:"time"`
	Tool       string          `json:"tool,omitempty"`
	Supersedes []string        `json:"supersedes,omitempty"` // ids of snapshots
	Entries    int             `json:"entries"`
	LastID     string          `json:"last_entry"`
	Updated    time.Time       `json:"updated"` // the time of the last entry
	Source     Source          `json:"source,omitzero"`
	Runs       map[string]Head `json:"runs"` // whose entries may still lie in the log, or come
	Topics     []SnapshotTopic `json:"topics"`
	Groups     []Group         `json:"groups,omitempty"`
	Points     []SnapshotPoint `json:"points,omitempty"`
	Moments    []File          `json:"moments,omitempty"` // files of [WriteMoments]: those of the points
	Open       *File           `json:"open,omitempty"`    // and those of runs that may go on
	Others     [][]byte        `json:"others,omitempty"`
}

// A Head is the last entry of a run that a snapshot stands for.
type Head struct {
	Seq    int    `json:"seq"`
	ID     string `json:"id"`
	SHA256 string `json:"sha256,omitempty"` // not known where it was damaged
	Final  bool   `json:"final,omitempty"`
}

// A File is one that a snapshot needs, below [IndexDir].
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// An IndexFile has the segments of some partitions of a topic, by partition and
// offset: zstd around one JSON object to a line.
type IndexFile struct {
	File
	First int32 `json:"first"` // partition
	Last  int32 `json:"last"`
}

// A SnapshotTopic is one incarnation of a topic; those of one name come oldest first.
type SnapshotTopic struct {
	Name       string              `json:"name"`
	ID         string              `json:"id,omitempty"`
	Topic      *Topic              `json:"topic,omitempty"`
	Index      []IndexFile         `json:"index,omitempty"` // its segments
	Partitions []SnapshotPartition `json:"partitions"`
}

// A SnapshotPartition sums up a partition, and says what is covered of it.
type SnapshotPartition struct {
	ManifestPartition
	Covered [][2]int64 `json:"covered,omitempty"`
}

// A SnapshotPoint is a restore point.
type SnapshotPoint struct {
	Time  int64  `json:"time"`
	Entry string `json:"entry"`
	Run   string `json:"run"`
	Seq   int    `json:"seq"`
	Frame []byte `json:"frame,omitempty"`
	File  int    `json:"file"` // which of the snapshot's Moments has it
}

// IndexDir is where the files are that snapshots need.
const IndexDir = "index"

const snapshotSuffix = ".snapshot.json"

// Encode returns the snapshot as it is stored.
func (n *Snapshot) Encode() ([]byte, error) {
	data, err := encode(n)
	if err != nil {
		return nil, fmt.Errorf("encode log snapshot: %w", err)
	}
	return data, nil
}

// DecodeSnapshot reads the snapshot that was stored under name. It fails as [Decode] does.
func DecodeSnapshot(name string, data []byte) (*Snapshot, error) {
	id, _ := SnapshotID(name)
	var v struct{ Version int }
	if err := json.Unmarshal(data, &v); err == nil && v.Version > Version {
		return nil, fmt.Errorf("log snapshot %q: version %d: %w", id, v.Version, ErrVersion)
	}
	n := new(Snapshot)
	err := json.Unmarshal(data, n)
	switch {
	case err != nil:
		err = fmt.Errorf("not a snapshot: %w", err)
	case n.ID != id:
		err = fmt.Errorf("its id is %q", n.ID)
	default:
		err = n.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("log snapshot %q: %w: %w", id, ErrCorrupt, err)
	}
	return n, nil
}

func (n *Snapshot) validate() error {
	files := n.Moments
	if n.Open != nil {
		files = append(files[:len(files):len(files)], *n.Open)
	}
	for _, t := range n.Topics {
		if err := ValidTopic(t.Name); err != nil {
			return err
		}
		for _, f := range t.Index {
			files = append(files[:len(files):len(files)], f.File)
		}
		for _, p := range t.Partitions {
			for _, r := range append([][2]int64{{p.From, p.Next}}, append(p.Covered, p.Lost...)...) {
				if p.Partition < 0 || r[0] < 0 || r[0] > r[1] {
					return fmt.Errorf("%s/%d: [%d, %d) is not a range of offsets", t.Name, p.Partition, r[0], r[1])
				}
			}
		}
	}
	for _, f := range files {
		if f.Path != path.Clean(f.Path) || !strings.HasPrefix(f.Path, IndexDir+"/") || f.Size < 0 || !isHex(f.SHA256, 64) {
			return fmt.Errorf("file %q is not one of a snapshot", f.Path)
		}
	}
	for _, p := range n.Points {
		if p.File < 0 || p.File >= len(n.Moments) {
			return fmt.Errorf("the moment of point %q is in no file", p.Entry)
		}
	}
	return nil
}

// AddSnapshot folds a snapshot into the state, before any entry.
func (s *State) AddSnapshot(n *Snapshot) {
	s.init()
	s.snapshots = append(s.snapshots, n.ID)
	s.entries += n.Entries
	if n.LastID > s.lastID {
		s.lastID, s.updated, s.source = n.LastID, n.Updated, n.Source
	}
	for run, h := range n.Runs {
		if h.Seq > s.runs[run].seq {
			s.runs[run] = link{seq: h.Seq, id: h.ID, sha: h.SHA256, final: h.Final, skipped: h.SHA256 == ""}
		}
	}
	for i := range n.Topics {
		t := &n.Topics[i]
		if in := s.incarnation(t.Name, t.ID); t.Topic != nil {
			in.topic = t.Topic
		}
		for _, sp := range t.Partitions {
			p := s.partition(t.Name, t.ID, sp.Partition, sp.From)
			p.from, p.next = min(p.from, sp.From), max(p.next, sp.Next)
			for _, r := range sp.Covered {
				p.covered.add(r[0], r[1])
			}
			for _, r := range sp.Lost {
				p.lost.add(r[0], r[1])
			}
			p.pruned = max(p.pruned, sp.Pruned)
			if sp.Segments > p.sums.segments { // a second snapshot is of the same segments, or nearly
				p.sums = sums{sp.Records, sp.Bytes, sp.RawBytes, sp.Segments, sp.MinTimestamp, sp.MaxTimestamp}
			}
		}
	}
	for _, g := range n.Groups {
		s.groups[g.ID] = g
	}
	for _, p := range n.Points {
		s.points = append(s.points, RestorePoint{Point{p.Time, p.Frame}, p.Entry, p.Run, p.Seq, len(s.moments) + p.File})
	}
	s.moments = append(s.moments, n.Moments...)
	if n.Open != nil {
		s.open = n.Open
	}
	s.others = append(s.others, n.Others...)
}

// Folded tells whether a snapshot stands for the entry with this id already.
func (s *State) Folded(id string) bool {
	run, seq, ok := splitID(id)
	return ok && seq <= s.runs[run].seq
}

// Snapshots returns the ids of the snapshots that the state was made from.
func (s *State) Snapshots() []string { return s.snapshots }

// Moment returns the file that has the moment of a point, and false when only the
// entries of its run have it.
func (s *State) Moment(p RestorePoint) (File, bool) {
	if p.file < 0 || p.file >= len(s.moments) {
		return File{}, false
	}
	return s.moments[p.file], true
}

// Moments returns the files of all moments that are in snapshots, and the one of the
// runs that go on, or nil.
func (s *State) Moments() (files []File, open *File) { return s.moments, s.open }

// An indexLine is a segment in an index: what the topic and the path say is left out.
type indexLine struct {
	Partition int32 `json:"partition"` // first: a reader may go by it
	Content
}

// indexSize is how many segments an index file gets before the next partition goes into
// another: to read one partition a few megabytes are enough, whatever the topic's size.
var indexSize = 50_000 // a test has less

// WriteIndex writes the index files of an incarnation through put, which stores a
// file's content under a name of its choice.
func (s *State) WriteIndex(topic, id string, put func(data []byte) (File, error)) ([]IndexFile, error) {
	var files []IndexFile
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	enc := json.NewEncoder(z)
	enc.SetEscapeHTML(false)
	numbers := s.Partitions(topic, id)
	for i, n, first := 0, 0, 0; i < len(numbers); i++ {
		key := partitionKey{topic, id, numbers[i]}
		for j := range s.parts[key].segments {
			if err := enc.Encode(indexLine{numbers[i], s.parts[key].segments[j]}); err != nil {
				return nil, err
			}
			n++
		}
		if n == 0 || n < indexSize && i+1 < len(numbers) {
			continue
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		f, err := put(bytes.Clone(buf.Bytes()))
		if err != nil {
			return nil, err
		}
		files = append(files, IndexFile{f, numbers[first], numbers[i]})
		buf.Reset()
		z.Reset(&buf)
		n, first = 0, i+1
	}
	return files, nil
}

// ReadIndex adds the segments of an incarnation that the state keeps, from a file of
// [State.WriteIndex]. They are in the snapshot's sums and coverage already.
func (s *State) ReadIndex(r io.Reader, topic, id string) error {
	kept := make(map[string]bool) // by a line's beginning, up to its second field
	return lines(r, func(line []byte) error {
		head, _, _ := bytes.Cut(line, []byte(","))
		if keep, known := kept[string(head)]; known && !keep {
			return nil
		}
		var l indexLine
		if err := json.Unmarshal(line, &l); err != nil {
			return fmt.Errorf("%w: not a segment: %w", ErrCorrupt, err)
		}
		if kept[string(head)] = s.keeps(topic, l.Partition); !kept[string(head)] {
			return nil
		}
		seg := Segment{Topic: topic, TopicID: id, Partition: l.Partition, Content: l.Content}
		if seg.Form == nil { // earlier versions leave out a codec that is none
			seg.Form = new(Form)
		}
		var err error
		if seg.Path, err = SegmentPath(&seg); err == nil {
			err = seg.validate()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		s.partition(topic, id, l.Partition, l.From).insert(s.forms.share(seg.Content))
		return nil
	})
}

// LoseIndex says that an index could not be read: of what a snapshot covers in its
// partitions nothing is known any more. It must be called before entries are added.
func (s *State) LoseIndex(topic, id string, f IndexFile) {
	for _, number := range s.Partitions(topic, id) {
		if f.First <= number && number <= f.Last {
			p := s.parts[partitionKey{topic, id, number}]
			p.covered, p.segments, p.sums = nil, nil, sums{}
		}
	}
}

// IndexPath returns where a file of a snapshot lives, by its name, a topic's or
// "points", and its content's SHA-256: what did not change since the last snapshot is
// there already.
func IndexPath(name, sha256 string) string {
	return path.Join(IndexDir, name, sha256[:16]+".jsonl.zst")
}

// Snapshot sums the state up under a new id. index says where the segments of an
// incarnation are. Runs for which keepRun is false are left
// out: no entry of theirs is in the log or will come.
func (s *State) Snapshot(now time.Time, index func(topic, id string) []IndexFile, keepRun func(run string, h Head) bool) *Snapshot {
	now = now.UTC().Truncate(time.Millisecond)
	n := &Snapshot{
		Version: Version, KBK: "log snapshot", ID: now.Format(idTime) + "-" + NewRun().Name(), Time: now,
		Supersedes: s.snapshots, Entries: s.entries, LastID: s.lastID, Updated: s.updated, Source: s.source,
		Runs: make(map[string]Head), Topics: []SnapshotTopic{}, Groups: s.Groups(), Moments: s.moments, Open: s.open, Others: s.others,
	}
	for run, l := range s.runs {
		if h := (Head{l.seq, l.id, l.sha, l.final}); keepRun(run, h) {
			n.Runs[run] = h
		}
	}
	for _, name := range s.Topics() {
		for _, in := range s.topics[name] {
			t := SnapshotTopic{Name: name, ID: in.id, Topic: in.topic, Index: index(name, in.id), Partitions: []SnapshotPartition{}}
			for _, number := range s.Partitions(name, in.id) {
				p := s.parts[partitionKey{name, in.id, number}]
				sum := p.summary(number)
				sum.Holes = nil // what is not covered
				t.Partitions = append(t.Partitions, SnapshotPartition{sum, p.covered})
			}
			n.Topics = append(n.Topics, t)
		}
	}
	for _, p := range s.points {
		n.Points = append(n.Points, SnapshotPoint{p.Time, p.Entry, p.Run, p.Seq, p.Frame, p.file})
	}
	return n
}
