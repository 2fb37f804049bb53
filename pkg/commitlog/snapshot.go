package commitlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
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
	Backup     string          `json:"backup,omitempty"`
	Joined     []string        `json:"joined,omitempty"`     // other ids of the same backup
	Supersedes []string        `json:"supersedes,omitempty"` // ids of snapshots
	Tips       []Ref           `json:"tips,omitempty"`       // entries that it stands for, and that no other one of them comes behind or saw
	Entries    int             `json:"entries"`
	LastID     string          `json:"last_entry"`
	Updated    time.Time       `json:"updated"` // the time of the last entry
	Source     Source          `json:"source,omitzero"`
	Runs       map[string]Head `json:"runs"` // whose entries may still lie in the log, or come, or that read a partition last
	// TellsFilters says that Covered is what was kept whole. Earlier versions count what
	// filters have left, too: only their indexes tell.
	TellsFilters bool            `json:"tells_filters"`
	Topics       []SnapshotTopic `json:"topics"`
	Groups       []Group         `json:"groups,omitempty"` // each with the topics for which it is the newest
	GroupLists   []GroupList     `json:"group_lists,omitempty"`
	Points       []SnapshotPoint `json:"points,omitempty"`
	Moments      []File          `json:"moments,omitempty"` // files of [WriteMoments]: those of the points
	Open         *File           `json:"open,omitempty"`    // and those of runs that may go on
	Others       [][]byte        `json:"others,omitempty"`

	ClusterSnapshots []ClusterSnapshot `json:"cluster_snapshots,omitempty"`

	Origin `json:"-"`
}

// A storedSnapshot is a snapshot as it is stored.
type storedSnapshot struct {
	*Snapshot
	Checksum string `json:"checksum,omitempty"` // see seal
}

// A Head is the last entry of a run that a snapshot stands for.
type Head struct {
	Seq    int    `json:"seq"`
	ID     string `json:"id"`
	SHA256 string `json:"sha256,omitempty"` // not known where it was damaged
	// Filters are those of the segments of a run of an earlier version.
	Filters []string `json:"filters,omitempty"`
	Final   bool     `json:"final,omitempty"`
	// Interrupted and Lossy are what the end of a run says that is final: see [RunEnd].
	Interrupted bool `json:"interrupted,omitempty"`
	Lossy       bool `json:"lossy,omitempty"`
	// Group is the consumer group of which the run was a worker.
	Group string `json:"group,omitempty"`
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
	Covered [][2]int64 `json:"covered,omitempty"` // scanned and kept whole
	Scanned []partial  `json:"scanned,omitempty"` // scanned through filters
	// Reach is how far it was scanned whole, or lost; absent: as far as Next.
	Reach       *int64        `json:"reach,omitempty"`
	LeaderEpoch *int32        `json:"leader_epoch,omitempty"` // of the last batch below Reach
	Partial     *SnapshotSums `json:"partial,omitempty"`      // what the manifest's sums leave out
	// Branches, where there are several, say instead what each of them covers. What is
	// beside them is what is there now.
	Branches []SnapshotBranch `json:"branches,omitempty"`
	Run      string           `json:"run,omitempty"`    // that read it last; earlier versions leave out one that has ended
	Losses   []string         `json:"losses,omitempty"` // see [State.Losses]
}

// SnapshotSums are sums over segments.
type SnapshotSums struct {
	Records      int64 `json:"records"`
	Bytes        int64 `json:"bytes"`
	RawBytes     int64 `json:"raw_bytes"`
	Segments     int64 `json:"segments"`
	BatchBytes   int64 `json:"batch_bytes,omitempty"`
	MinTimestamp int64 `json:"min_timestamp"`
	MaxTimestamp int64 `json:"max_timestamp"`
}

// A SnapshotBranch is what was scanned of a partition before others took the place of
// records of it, or since then.
type SnapshotBranch struct {
	Since       string     `json:"since,omitempty"` // id of the entry that began it
	At          int64      `json:"at,omitempty"`    // the offset where it begins
	From        int64      `json:"from"`
	Next        int64      `json:"next"`
	Reach       int64      `json:"reach"`
	LeaderEpoch *int32     `json:"leader_epoch,omitempty"`
	Covered     [][2]int64 `json:"covered,omitempty"`
	Scanned     []partial  `json:"scanned,omitempty"`
	Lost        [][2]int64 `json:"lost,omitempty"`
	Gone        [][2]int64 `json:"gone,omitempty"`
}

// A SnapshotPoint is a restore point.
type SnapshotPoint struct {
	Time  int64  `json:"time"`
	Entry string `json:"entry"`
	Run   string `json:"run"`
	Seq   int    `json:"seq"`
	Frame []byte `json:"frame,omitempty"`
	File  int    `json:"file"` // which of the snapshot's Moments has it

	Without map[string][]int32 `json:"without,omitempty"`
	Topics  int                `json:"topics,omitempty"` // that it includes
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
	return seal(data), nil
}

// DecodeSnapshot reads the snapshot that was stored under name. It fails as [Decode] does.
func DecodeSnapshot(name string, data []byte) (*Snapshot, error) {
	id, _ := SnapshotID(name)
	stored := storedSnapshot{Snapshot: new(Snapshot)}
	end, unknown, err := open(data, &stored)
	n := stored.Snapshot
	switch {
	case err != nil:
	case n.ID != id:
		err = fmt.Errorf("its id is %q", n.ID)
	default:
		err = n.validate()
	}
	if err != nil && !errors.Is(err, ErrVersion) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("log snapshot %q: %w", id, err)
	}
	n.Origin = Origin{end.sealed, end.mended, unknown}
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
			if err := p.validate(); err != nil {
				return fmt.Errorf("%s/%d: %w", t.Name, p.Partition, err)
			}
		}
	}
	for _, f := range files {
		if f.Path != path.Clean(f.Path) || !strings.HasPrefix(f.Path, IndexDir+"/") || f.Size < 0 || !isHex(f.SHA256, 64) {
			return fmt.Errorf("file %q is not one of a snapshot", f.Path)
		}
	}
	for i := range n.ClusterSnapshots {
		if err := n.ClusterSnapshots[i].validate(); err != nil {
			return fmt.Errorf("cluster snapshot %d: %w", i, err)
		}
	}
	for _, p := range n.Points {
		if p.File < 0 || p.File >= len(n.Moments) {
			return fmt.Errorf("the moment of point %q is in no file", p.Entry)
		}
	}
	return nil
}

func (p *SnapshotPartition) validate() error {
	if p.Partition < 0 {
		return fmt.Errorf("the partition is negative")
	}
	all := slices.Concat([][2]int64{{p.From, p.Next}}, p.Covered, p.Lost, p.Gone)
	scanned := p.Scanned
	for _, b := range p.Branches {
		all = slices.Concat(all, [][2]int64{{b.From, b.Next}}, b.Covered, b.Lost, b.Gone)
		scanned = slices.Concat(scanned, b.Scanned)
	}
	for _, s := range scanned {
		if len(s.Filters) == 0 || len(s.Ranges) == 0 {
			return errors.New("it was scanned through filters that are not named")
		}
		all = slices.Concat(all, s.Ranges)
	}
	for _, r := range all {
		if r[0] < 0 || r[0] > r[1] {
			return fmt.Errorf("[%d, %d) is not a range of offsets", r[0], r[1])
		}
	}
	return nil
}

// AddSnapshot folds a snapshot into the state, before any entry.
func (s *State) AddSnapshot(n *Snapshot) {
	s.init()
	s.snapshots = append(s.snapshots, n.ID)
	s.lineage.addSnapshot(n)
	s.entries += n.Entries
	if n.LastID > s.lastID {
		s.lastID, s.updated, s.source = n.LastID, n.Updated, n.Source
	}
	for run, h := range n.Runs {
		s.heads[run] = max(s.heads[run], h.Seq)
		if h.Seq > s.runs[run].seq {
			s.runs[run] = link{seq: h.Seq, id: h.ID, sha: h.SHA256, final: h.Final, skipped: h.SHA256 == "", filters: h.Filters, partial: true,
				interrupted: h.Interrupted, lossy: h.Lossy, group: h.Group}
		}
	}
	for i := range n.Topics {
		t := &n.Topics[i]
		if in := s.incarnation(t.Name, t.ID); t.Topic != nil {
			in.topic = t.Topic
		}
		for _, sp := range t.Partitions {
			s.partition(t.Name, t.ID, sp.Partition, sp.From).addSnapshot(&sp, n.TellsFilters)
			s.lossy = s.lossy || len(sp.Losses) > 0
		}
	}
	s.untold = s.untold || !n.TellsFilters
	s.groups.lists = append(s.groups.lists, n.GroupLists...)
	for _, g := range n.Groups {
		s.groups.add(g, s.currentID)
	}
	for _, p := range n.Points {
		if slices.ContainsFunc(s.points, func(had RestorePoint) bool { return had.Entry == p.Entry }) {
			continue // of two snapshots that were made at the same time
		}
		s.points = append(s.points, RestorePoint{
			Point: Point{Time: p.Time, Frame: p.Frame, Without: p.Without}, Entry: p.Entry, Run: p.Run, Seq: p.Seq, file: len(s.moments) + p.File, Topics: p.Topics,
		})
	}
	s.moments = append(s.moments, n.Moments...)
	if n.Open != nil {
		s.open = n.Open
	}
	s.others = append(s.others, n.Others...)
	s.foldClusters(n.ClusterSnapshots)
}

// addSnapshot adds what a snapshot says of a partition. Where two snapshots were made at
// the same time, what one of them says is said.
func (p *partition) addSnapshot(sp *SnapshotPartition, tellsFilters bool) {
	p.run, p.losses = sp.Run, sp.Losses
	if sp.Segments > p.sums.segments { // a second snapshot is of the same segments, or nearly
		p.sums = sums{sp.Records, sp.Bytes, sp.RawBytes, sp.Segments, sp.BatchBytes, sp.MinTimestamp, sp.MaxTimestamp}
		p.partial = sums{}
		if x := sp.Partial; x != nil {
			p.partial = sums{x.Records, x.Bytes, x.RawBytes, x.Segments, x.BatchBytes, x.MinTimestamp, x.MaxTimestamp}
		}
	}
	branches := sp.Branches
	if len(branches) == 0 {
		b := SnapshotBranch{From: sp.From, Next: sp.Next, Reach: sp.Next, LeaderEpoch: sp.LeaderEpoch,
			Covered: sp.Covered, Scanned: sp.Scanned, Lost: sp.Lost, Gone: sp.Gone}
		if sp.Reach != nil {
			b.Reach = *sp.Reach
		}
		if sp.Pruned > 0 {
			b.Gone = append(b.Gone, [2]int64{0, sp.Pruned})
		}
		branches = []SnapshotBranch{b}
	}
	for i, sb := range branches {
		if i == len(p.branches) {
			p.branches = append(p.branches, branch{since: sb.Since, at: sb.At, coverage: newCoverage(sb.From)})
		}
		b := &p.branches[i]
		for _, r := range sb.Covered {
			b.whole.add(r[0], r[1])
		}
		for _, s := range sb.Scanned {
			for _, r := range s.Ranges {
				b.scan(r[0], r[1], s.Filters)
			}
		}
		if !tellsFilters { // there, what was lost is covered
			b.whole = b.whole.without(sb.Lost)
		}
		b.lost.addAll(sb.Lost)
		b.pruned.addAll(sb.Gone)
		b.from, b.next = min(b.from, sb.From), max(b.next, sb.Next)
		if sb.Reach >= b.reach {
			b.reach, b.epoch = sb.Reach, sb.LeaderEpoch
		}
	}
}

// Folded tells whether a snapshot stands for the entry with this id already.
func (s *State) Folded(id string) bool {
	run, seq, ok := splitID(id)
	return ok && seq <= s.runs[run].seq
}

// InLog tells whether the state has the entry with this id from the log itself, and not
// from a snapshot, and has not skipped it.
func (s *State) InLog(id string) bool {
	run, seq, ok := splitID(id)
	return ok && seq > s.heads[run] && seq <= s.runs[run].seq && !s.skipped[id]
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
	Branch int32 `json:"branch,omitempty"`
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
			if err := enc.Encode(indexLine{numbers[i], s.parts[key].segments[j].Content, s.parts[key].segments[j].branch}); err != nil {
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
	old := make(map[int32]*told)
	err := lines(r, maxSegmentLine, func(line []byte) error {
		head, _, _ := bytes.Cut(line, []byte(","))
		if keep, known := kept[string(head)]; known && !keep && !s.untold {
			return nil
		}
		var l indexLine
		if err := json.Unmarshal(line, &l); err != nil {
			return fmt.Errorf("%w: not a segment: %w", ErrCorrupt, err)
		}
		if kept[string(head)] = s.keeps(topic, l.Partition); !kept[string(head)] && !s.untold {
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
		p := s.partition(topic, id, l.Partition, l.From)
		if err == nil && (l.Branch < 0 || int(l.Branch) >= len(p.branches)) {
			err = fmt.Errorf("branch %d is not known", l.Branch)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if s.untold {
			if old[l.Partition] == nil {
				old[l.Partition] = new(told)
			}
			old[l.Partition].add(&seg.Content)
		}
		if kept[string(head)] {
			p.insert(held{s.forms.share(seg.Content), l.Branch})
		}
		return nil
	})
	for number, t := range old {
		t.correct(s.parts[partitionKey{topic, id, number}])
	}
	return err
}

// told is what an index of an earlier version tells of a partition, whose snapshot counts
// what filters have left as covered.
type told struct {
	whole    spans
	filtered []partial
	sums     sums // of the filtered segments
}

func (t *told) add(seg *Content) {
	if len(seg.Filters) == 0 {
		t.whole.add(seg.From, seg.Next)
		return
	}
	t.filtered = append(t.filtered, partial{seg.Filters, [][2]int64{{seg.From, seg.Next}}})
	t.sums.add(seg)
}

func (t *told) correct(p *partition) {
	if len(t.filtered) == 0 {
		return
	}
	b := &p.branches[0]
	for _, f := range t.filtered {
		b.whole = b.whole.without(spans(f.Ranges).without(t.whole))
		b.scan(f.Ranges[0][0], f.Ranges[0][1], f.Filters)
	}
	b.reach = -1
	if n := len(b.whole); n > 0 {
		b.reach = b.whole[n-1][1]
	}
	if n := len(b.lost); n > 0 {
		b.reach = max(b.reach, b.lost[n-1][1])
	}
	p.sums = sums{p.sums.records - t.sums.records, p.sums.bytes - t.sums.bytes, p.sums.rawBytes - t.sums.rawBytes,
		p.sums.segments - t.sums.segments, p.sums.batchBytes - t.sums.batchBytes, p.sums.minTimestamp, p.sums.maxTimestamp}
	p.partial = t.sums
}

// LoseIndex says that an index could not be read: of what a snapshot covers in its
// partitions nothing is known any more. It must be called before entries are added.
func (s *State) LoseIndex(topic, id string, f IndexFile) {
	for _, number := range s.Partitions(topic, id) {
		if number < f.First || number > f.Last {
			continue
		}
		p := s.parts[partitionKey{topic, id, number}]
		p.segments, p.sums, p.partial = nil, sums{}, sums{}
		for i := range p.branches {
			b := &p.branches[i]
			b.whole, b.coverage.partial = nil, nil
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
// out, unless they read a partition last: no entry of theirs is in the log or will come.
func (s *State) Snapshot(now time.Time, index func(topic, id string) []IndexFile, keepRun func(run string, h Head) bool) *Snapshot {
	for _, id := range s.snapshots { // the newest has the highest id, whatever the clocks
		if old := TimeOf(id); !now.Truncate(time.Millisecond).After(old) {
			now = old.Add(time.Millisecond)
		}
	}
	now = now.UTC().Truncate(time.Millisecond)
	n := &Snapshot{
		Version: Version, KBK: "log snapshot", ID: now.Format(idTime) + "-" + NewRun().Name(), Time: now,
		Supersedes: s.snapshots, Entries: s.entries, LastID: s.lastID, Updated: s.updated, Source: s.source, TellsFilters: true,
		Runs: make(map[string]Head), Topics: []SnapshotTopic{}, Groups: s.groups.groups, GroupLists: s.groups.lists,
		Moments: s.moments, Open: s.open, Others: s.others, ClusterSnapshots: s.clusters,
	}
	s.describeLineage(n)
	last := make(map[string]bool)
	for _, p := range s.parts {
		last[p.run] = true
	}
	for run, l := range s.runs {
		h := Head{Seq: l.seq, ID: l.id, SHA256: l.sha, Final: l.final, Filters: l.filters, Interrupted: l.interrupted, Lossy: l.lossy, Group: l.group}
		if keepRun(run, h) || last[run] {
			n.Runs[run] = h
		}
	}
	for _, name := range s.Topics() {
		for _, in := range s.topics[name] {
			t := SnapshotTopic{Name: name, ID: in.id, Topic: in.topic, Index: index(name, in.id), Partitions: []SnapshotPartition{}}
			for _, number := range s.Partitions(name, in.id) {
				p := s.parts[partitionKey{name, in.id, number}]
				sp := p.snapshot(number)
				if _, known := s.runs[p.run]; known {
					sp.Run = p.run
				}
				t.Partitions = append(t.Partitions, sp)
			}
			n.Topics = append(n.Topics, t)
		}
	}
	for _, p := range s.points {
		n.Points = append(n.Points, SnapshotPoint{p.Time, p.Entry, p.Run, p.Seq, p.Frame, p.file, p.Without, p.Topics})
	}
	return n
}

func (p *partition) snapshot(number int32) SnapshotPartition {
	v := p.now()
	sp := SnapshotPartition{ManifestPartition: p.summary(number), Covered: v.whole, Scanned: v.partial, LeaderEpoch: v.epoch, Losses: p.losses}
	sp.Holes, sp.Filtered = nil, nil // the rest says it
	sp.Records, sp.Bytes, sp.RawBytes, sp.Segments = p.sums.records, p.sums.bytes, p.sums.rawBytes, p.sums.segments
	sp.BatchBytes = p.sums.batchBytes
	sp.MinTimestamp, sp.MaxTimestamp = p.sums.minTimestamp, p.sums.maxTimestamp
	if x := p.partial; x.segments > 0 {
		sp.Partial = &SnapshotSums{x.records, x.bytes, x.rawBytes, x.segments, x.batchBytes, x.minTimestamp, x.maxTimestamp}
	}
	if v.reach != v.next {
		sp.Reach = &v.reach
	}
	if len(p.branches) == 1 {
		return sp
	}
	for i := range p.branches {
		b := &p.branches[i]
		sp.Branches = append(sp.Branches, SnapshotBranch{
			Since: b.since, At: b.at, From: b.from, Next: b.next, Reach: b.reach, LeaderEpoch: b.epoch,
			Covered: b.whole, Scanned: b.partial, Lost: b.lost, Gone: b.pruned,
		})
	}
	return sp
}
