package commitlog

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/kbkio/kbk/format"
)

// A Moment is what a run had stored when it wrote an entry: of a restore point's entry,
// what belongs to the point. Partitions that the run did not speak of are not in it.
type Moment struct {
	Entry string `json:"entry"` // id
	// In is the id of the entry in this log, where Entry is the one of another backup.
	In     string        `json:"in,omitempty"`
	Run    string        `json:"run"`
	Seq    int           `json:"seq"`
	Points []Point       `json:"points,omitempty"` // of that entry
	Topics []MomentTopic `json:"topics"`           // by name, in the order in which the run spoke of them
	Groups []Group       `json:"groups,omitempty"` // each with the topics for which it is the newest
	// GroupLists say which groups the run asked for.
	GroupLists []GroupList `json:"group_lists,omitempty"`
	Others     [][]byte    `json:"others,omitempty"`
}

// A MomentTopic is one incarnation of a topic at a moment.
type MomentTopic struct {
	Name       string             `json:"name"`
	ID         string             `json:"id,omitempty"`
	Topic      *Topic             `json:"topic,omitempty"` // its description, where the run has one
	Partitions map[int32][2]int64 `json:"partitions"`      // [where the log began in Kafka, 0 if not known, the first offset not scanned]
}

// Add takes the moment to the run's next entry.
func (m *Moment) Add(e *Entry) {
	m.Entry, m.Run, m.Seq, m.Points = e.ID, e.Run, e.Seq, e.Points
	for i := range e.Topics {
		t := m.topic(e.Topics[i].Name, e.Topics[i].ID)
		t.Topic = &e.Topics[i]
	}
	for i := range e.Marks {
		if k := &e.Marks[i]; k.Branch { // what comes next may lie below what the run has read
			t := m.topic(k.Topic, k.TopicID)
			t.Partitions[k.Partition] = [2]int64{t.Partitions[k.Partition][0], k.From}
		}
	}
	for i := range e.Segments {
		s := &e.Segments[i]
		m.reach(s.Topic, s.TopicID, s.Partition, s.Next, nil)
	}
	for i := range e.Marks {
		k := &e.Marks[i]
		m.reach(k.Topic, k.TopicID, k.Partition, k.Next, k.LogStart)
	}
	set := groupSet{m.Groups, m.GroupLists}
	set.fold(e.GroupLists, e.Groups, m.currentID)
	m.Groups, m.GroupLists = set.groups, set.lists
	m.Others = append(m.Others, e.Others...)
}

// currentID is the id of a topic's last incarnation that the run has spoken of.
func (m *Moment) currentID(topic string) string {
	t, _ := m.Topic(topic)
	return t.ID
}

// AtPoints returns the moments of the points of the run's last entry, which the moment
// must have been taken to by [Moment.Add]. Of a topic that was deleted and created again
// while the run read it, the older incarnation is no part of what comes behind that.
func (m *Moment) AtPoints() []*Moment {
	var out []*Moment
	for i, p := range m.Points {
		if p.Moment != nil {
			at := *p.Moment
			at.In, at.Points = m.Entry, []Point{{Time: p.Time, Frame: p.Frame, Without: p.Without}}
			out = append(out, &at)
			continue
		}
		at := m.Keep(func(topic, id string, partition int32) bool {
			return id == m.currentID(topic) && !slices.Contains(p.Without[topic], partition)
		})
		at.Points = m.Points[i : i+1]
		out = append(out, at)
	}
	return out
}

// Keep returns the moment with the partitions that keep names, and no topic that is left
// without one.
func (m *Moment) Keep(keep func(topic, id string, partition int32) bool) *Moment {
	kept := *m
	kept.Topics = nil
	for _, t := range m.Topics {
		parts := make(map[int32][2]int64)
		for n, at := range t.Partitions {
			if keep(t.Name, t.ID, n) {
				parts[n] = at
			}
		}
		if len(parts) > 0 || len(t.Partitions) == 0 {
			t.Partitions = parts
			kept.Topics = append(kept.Topics, t)
		}
	}
	return &kept
}

// Forget takes topics out of the moment, and the offsets of groups in them.
func (m *Moment) Forget(forgotten func(topic, id string) bool) {
	m.Topics = slices.DeleteFunc(slices.Clone(m.Topics), func(t MomentTopic) bool { return forgotten(t.Name, t.ID) })
	set := groupSet{m.Groups, m.GroupLists}
	set.forgetTopics(forgotten)
	m.Groups = set.groups
}

// MergeMoments returns what several moments say of consumer groups, those of the newest
// last, and all frames of unknown kinds.
func MergeMoments(moments []*Moment, id func(topic string) string) (groups []Group, lists []GroupList, others [][]byte) {
	var set groupSet
	for _, m := range moments {
		set.fold(m.GroupLists, m.Groups, id)
		others = append(others, m.Others...)
	}
	return set.merged(id), set.lists, others
}

// MomentOf is what the log says of a moment frame, but for the partitions that keep does
// not name: of these the backup does not have what the moment has. It is nil where none is
// left, though the moment has some.
func MomentOf(f *format.Moment, keep func(topic, id string, partition int32, next int64) bool) (*Moment, error) {
	m := &Moment{Entry: f.ID, Run: f.Run}
	had := 0
	for _, t := range f.Topics {
		topic := MomentTopic{Name: t.Name, ID: t.ID, Partitions: make(map[int32][2]int64)}
		for n, at := range t.Partitions {
			if had++; keep(t.Name, t.ID, n, at[1]) {
				topic.Partitions[n] = at
			}
		}
		if len(topic.Partitions) == 0 {
			continue
		}
		if len(t.Frame) > 0 {
			frame, err := format.DecodeTopic(t.Frame)
			if err != nil {
				return nil, err
			}
			topic.Topic = TopicOf(frame, t.Frame)
		}
		m.Topics = append(m.Topics, topic)
	}
	if len(m.Topics) == 0 && had > 0 {
		return nil, nil
	}
	var set groupSet
	for _, raw := range f.Frames {
		// The kind is told by trying: there is no header before it.
		if l, err := GroupListOf(raw); err == nil {
			set.list(l, m.currentID)
		} else if g, err := GroupOf(raw); err == nil {
			set.add(g, m.currentID)
		} else {
			m.Others = append(m.Others, raw)
		}
	}
	m.Groups, m.GroupLists = set.groups, set.lists
	return m, nil
}

// TopicOf is what the log says of a topic frame.
func TopicOf(t *format.Topic, raw []byte) *Topic {
	return &Topic{Name: t.Name, ID: t.ID, Partitions: t.Partitions, ReplicationFactor: t.ReplicationFactor, Configs: t.Configs, Frame: raw}
}

// entry is the id of the entry in this log that has the moment.
func (m *Moment) entry() string { return cmp.Or(m.In, m.Entry) }

func (m *Moment) topic(name, id string) *MomentTopic {
	i, found := slices.BinarySearchFunc(m.Topics, name, func(a MomentTopic, name string) int { return strings.Compare(a.Name, name) })
	for ; found && i < len(m.Topics) && m.Topics[i].Name == name; i++ {
		if m.Topics[i].ID == id {
			return &m.Topics[i]
		}
	}
	m.Topics = slices.Insert(m.Topics, i, MomentTopic{Name: name, ID: id, Partitions: make(map[int32][2]int64)})
	return &m.Topics[i]
}

func (m *Moment) reach(topic, id string, partition int32, next int64, start *int64) {
	t := m.topic(topic, id)
	at := t.Partitions[partition]
	at[1] = max(at[1], next)
	if start != nil {
		at[0] = max(at[0], *start)
	}
	t.Partitions[partition] = at
}

// Topic returns a topic of the moment: where the run saw it deleted and created again,
// the last incarnation.
func (m *Moment) Topic(name string) (MomentTopic, bool) {
	for i := len(m.Topics) - 1; i >= 0; i-- {
		if m.Topics[i].Name == name {
			return m.Topics[i], true
		}
	}
	return MomentTopic{}, false
}

// Find returns the restore point that name means: the id of its entry, or as much of
// the beginning as tells it from others; the name of its run, for the last of the run.
func (s *State) Find(name string) (RestorePoint, error) {
	var found []RestorePoint
	for _, p := range s.points {
		switch {
		case p.Entry == name:
			return p, nil
		case p.Run == name:
			found = []RestorePoint{p}
		case strings.HasPrefix(p.Entry, name) && name != "":
			if len(found) == 0 || found[0].Run != name {
				found = append(found, p)
			}
		}
	}
	switch len(found) {
	case 0:
		return RestorePoint{}, fmt.Errorf("the backup has no restore point %q", name)
	case 1:
		return found[0], nil
	}
	return RestorePoint{}, fmt.Errorf("%d restore points begin with %q", len(found), name)
}

// BranchAt is the number of the branch that a partition was on at a moment.
func (s *State) BranchAt(topic, id string, partition int32, m *Moment) int {
	p := s.parts[partitionKey{topic, id, partition}]
	if p == nil {
		return 0
	}
	return p.branchAt(m.entry())
}

// WriteMoments returns a function that appends moments to a file of them, zstd around
// one JSON object to a line, and one that ends the file.
func WriteMoments(w io.Writer) (add func(*Moment) error, end func() error, err error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20)) // lines are much alike
	if err != nil {
		return nil, nil, err
	}
	enc := json.NewEncoder(z)
	return func(m *Moment) error { return enc.Encode(m) }, z.Close, nil
}

// ReadMoments calls each for the moments in a file of [WriteMoments].
func ReadMoments(r io.Reader, each func(*Moment) error) error {
	return lines(r, maxMomentLine, func(line []byte) error {
		m := new(Moment)
		if err := json.Unmarshal(line, m); err != nil {
			return fmt.Errorf("%w: not a restore point: %w", ErrCorrupt, err)
		}
		for i := range m.Groups { // those of earlier versions do not tell
			g := &m.Groups[i]
			g.Topics = topicIDs(g.Topics, g.Offsets, m.currentID)
		}
		return each(m)
	})
}

// What a line may have, in bytes: a few kilobytes of a file can decompress to one without
// an end. A moment names every partition that its run speaks of, and its groups.
const (
	maxSegmentLine = 1 << 20
	maxMomentLine  = 256 << 20
)

// lines calls each for the lines of a zstd file, and refuses one of more than limit bytes.
func lines(r io.Reader, limit int, each func([]byte) error) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20),
		zstd.WithDecodeBuffersBelow(0)) // else a buffer is decompressed at once, whatever comes out of it
	if err != nil {
		return err
	}
	defer z.Close()
	in := bufio.NewReaderSize(z, 1<<16)
	var long []byte
	for {
		line, err := in.ReadSlice('\n')
		if len(long)+len(line) > limit {
			return fmt.Errorf("%w: a line of more than %d bytes", ErrCorrupt, limit)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, line...)
			continue
		}
		if len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		switch {
		case err == io.EOF && len(bytes.TrimSpace(line)) == 0:
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if err := each(line); err != nil {
			return err
		}
		long = long[:0]
	}
}
