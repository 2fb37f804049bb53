// Package commitlog is what a backup says of itself: entries of its commit log,
// how they chain, and what they add up to.
//
// An entry is a small JSON file, written once, one per checkpoint. It lists the
// segments that are safely stored since the entry before it in the same run, and
// the offsets that were scanned without finding a record to store. Several runs may
// write to one backup; a reader merges them into a [State].
//
// The package does no input or output.
package commitlog

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Version is the version of the files that this package writes, and the newest that it
// reads. Version 1 had no checksum, no id of the backup, and a line for every mark.
const Version = 2

// ErrVersion is the error for an entry of a later version.
var ErrVersion = errors.New("written by a newer kbk")

// ErrCorrupt is the error for a log that holds something else than an entry, from
// which an entry is missing, or in which one was changed after it was written.
var ErrCorrupt = errors.New("the commit log is damaged")

// An Entry is one checkpoint of one run.
type Entry struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`   // <time>-<run>-<seq>, sorts by time
	Run     string    `json:"run"`  // 8 hexadecimal digits, random
	Seq     int       `json:"seq"`  // counts the run's entries from 1
	Time    time.Time `json:"time"` // UTC, whole milliseconds
	// Backup is the id of the backup that the entry belongs to. Seen, in a run's first
	// entry, is what the log ended with when the run began: the entries behind which there
	// was nothing. Joins are ids that others gave the same backup, when several began it
	// at once.
	Backup string   `json:"backup,omitempty"`
	Joins  []string `json:"joins,omitempty"`
	Seen   []Ref    `json:"seen,omitempty"`
	// Prev is the SHA-256 of the exact bytes of the entry before this one in the
	// run, in hexadecimal; the first entry has none.
	Prev   string `json:"prev,omitempty"`
	Tool   string `json:"tool,omitempty"` // name and version of the writer
	Source Source `json:"source,omitzero"`
	// Filters are the stages that may have dropped or changed records of all that the entry
	// has: see format.Header. Nil in entries of earlier versions, which do not tell.
	Filters []string `json:"filters"`

	Topics   []Topic   `json:"topics,omitempty"`
	Segments []Segment `json:"segments,omitempty"`
	Marks    []Mark    `json:"marks,omitempty"`
	Groups   []Group   `json:"groups,omitempty"`
	// GroupLists say which groups were asked for, and come before Groups.
	GroupLists []GroupList `json:"group_lists,omitempty"`
	Points     []Point     `json:"points,omitempty"`
	Others     [][]byte    `json:"others,omitempty"` // raw frames of kinds the writer did not know
	// ClusterSnapshots are what clusters have beside records.
	ClusterSnapshots []ClusterSnapshot `json:"cluster_snapshots,omitempty"`

	Final       bool `json:"final,omitempty"`       // the stream ended properly here
	Interrupted bool `json:"interrupted,omitempty"` // its source was told to stop before it was done
	// Losses says, in a line for people each, what the stream was to have and did not: see
	// [format.End]. They are in the run's last entry.
	Losses []string `json:"losses,omitempty"`

	Origin `json:"-"`
}

// An Origin says how a file was read that was decoded.
type Origin struct {
	Sealed  bool   // it has a checksum of its own
	Mended  bool   // one bit was wrong, and was put back
	Unknown string // a key in it that this version does not know, or ""
}

// A storedEntry is an entry as it is stored.
type storedEntry struct {
	*Entry
	Stands   []standing `json:"stands,omitempty"`
	Checksum string     `json:"checksum,omitempty"` // see seal
}

// A Source says where the records come from, as the stream's header did.
type Source struct {
	ClusterID string `json:"cluster_id,omitempty"`
	Tool      string `json:"tool,omitempty"`
	Isolation string `json:"isolation,omitempty"`
	Group     string `json:"group,omitempty"` // of which the run was a worker
}

// A Topic is what is needed to create a topic again. Frame is the CBOR frame it was
// read from, here as in [Group] and [Point]: a restore gives it back bit for bit,
// with whatever the fields beside it do not show.
type Topic struct {
	Name              string            `json:"name"`
	ID                string            `json:"id,omitempty"`
	Partitions        int               `json:"partitions"`
	ReplicationFactor int               `json:"replication_factor"`
	Configs           map[string]string `json:"configs,omitempty"`
	Frame             []byte            `json:"frame,omitempty"`
}

// Compacted tells whether Kafka compacts the topic. A topic without a policy of its own has that of
// its brokers, which is taken to be Kafka's default, delete.
func (t Topic) Compacted() bool { return strings.Contains(t.Configs["cleanup.policy"], "compact") }

// deletionsKept is Kafka's default of delete.retention.ms.
const deletionsKept = 24 * time.Hour

// KeepsDeletions is the topic's delete.retention.ms: how long Kafka keeps a tombstone after it has
// compacted it. A topic without one of its own is taken to have Kafka's default. Java's largest
// number is more than a Duration can hold, and becomes the longest one.
func (t Topic) KeepsDeletions() time.Duration {
	if ms, err := strconv.ParseInt(t.Configs["delete.retention.ms"], 10, 64); err == nil {
		return time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
	}
	return deletionsKept
}

// A Mark says that [From, Next) of a partition was scanned, or is lost, whether or
// not a segment holds records of it. It may be empty: a partition without records
// has been seen all the same.
type Mark struct {
	Topic       string     `json:"topic"`
	TopicID     string     `json:"topic_id,omitempty"`
	Partition   int32      `json:"partition"`
	From        int64      `json:"from"`
	Next        int64      `json:"next"`
	LeaderEpoch *int32     `json:"leader_epoch,omitempty"`
	LogStart    *int64     `json:"log_start,omitempty"`
	End         *int64     `json:"end,omitempty"`
	Lost        [][2]int64 `json:"lost,omitempty"` // [from, next) ranges that could not be read
	// Filters are those of this mark alone, before those of the entry.
	Filters []string  `json:"filters,omitempty"`
	Open    *[2]int64 `json:"open,omitempty"` // [from, next) was hidden behind an open transaction
	// Branch says that what earlier entries have at From and above was cut off in Kafka. It
	// counts before all else that the entry has of the partition.
	Branch  bool `json:"branch,omitempty"`
	Deleted bool `json:"deleted,omitempty"` // the topic was deleted while it was read
}

// CompareMarks orders marks by topic, incarnation and partition.
func CompareMarks(a, b Mark) int {
	return cmp.Or(strings.Compare(a.Topic, b.Topic), strings.Compare(a.TopicID, b.TopicID), cmp.Compare(a.Partition, b.Partition))
}

// A Point is a restore point: the marks and groups before it are one moment of the
// cluster.
type Point struct {
	Time  int64  `json:"time"` // milliseconds since the epoch
	Frame []byte `json:"frame,omitempty"`
	// Without are the partitions that the run speaks of and that are not part of it.
	Without map[string][]int32 `json:"without,omitempty"`
	// Moment is what belongs to a point of another backup, from which this one was copied:
	// the run that copied it has spoken of more. ID and run are those that it had there.
	Moment *Moment `json:"moment,omitempty"`
}

// Encode returns the bytes of e as they are stored and their SHA-256 in
// hexadecimal. It refuses what [Decode] would refuse.
func Encode(e *Entry) (data []byte, sha string, err error) {
	if err := e.validate(); err != nil {
		return nil, "", fmt.Errorf("log entry %q: %w", e.ID, err)
	}
	stored, plain := storedEntry{Entry: e}, *e
	if e.Version > 1 {
		stored.Stands, plain.Marks = stand(e.Marks)
		stored.Entry = &plain
	}
	if data, err = encode(stored); err != nil {
		return nil, "", fmt.Errorf("encode log entry %q: %w", e.ID, err)
	}
	if e.Version > 1 {
		data = seal(data)
	}
	return data, Sum(data), nil
}

// Decode reads the entry that was stored under name, with or without its folder,
// and returns it with the SHA-256 of what was written in hexadecimal. It fails with [ErrVersion]
// for a later version, and with [ErrCorrupt] when data is not an entry, is not the
// one that its name says, or says what cannot be.
func Decode(name string, data []byte) (e *Entry, sha string, err error) {
	id := strings.TrimSuffix(path.Base(name), entrySuffix)
	if e, sha, err = decode(id, data); err != nil {
		if !errors.Is(err, ErrVersion) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil, "", fmt.Errorf("log entry %q: %w", id, err)
	}
	return e, sha, nil
}

func decode(id string, data []byte) (e *Entry, sha string, err error) {
	stored := storedEntry{Entry: new(Entry)}
	end, unknown, err := open(data, &stored)
	if err != nil {
		return nil, "", err
	}
	e = stored.Entry
	e.Origin = Origin{end.sealed, end.mended, unknown}
	for i := range stored.Stands {
		marks, err := stored.Stands[i].marks()
		if err != nil {
			return nil, "", fmt.Errorf("topic %q: %w", stored.Stands[i].Topic, err)
		}
		e.Marks = append(e.Marks, marks...)
	}
	if len(stored.Stands) > 0 {
		slices.SortStableFunc(e.Marks, CompareMarks)
	}
	if e.ID != id {
		return nil, "", fmt.Errorf("its id is %q", e.ID)
	}
	return e, Sum(end.original), e.validate()
}

// Doubts returns what in an entry without a checksum does not fit together: no run has
// written it like this.
func (e *Entry) Doubts() (doubts []string) {
	ids := make(map[string][]string) // by topic
	for i := range e.Topics {
		ids[e.Topics[i].Name] = append(ids[e.Topics[i].Name], e.Topics[i].ID)
	}
	known := func(topic, id string) bool {
		return len(ids[topic]) == 0 || id == "" || slices.Contains(ids[topic], id)
	}
	for i := range e.Segments {
		if s := &e.Segments[i]; !known(s.Topic, s.TopicID) {
			doubts = append(doubts, fmt.Sprintf("a segment of %s/%d has topic id %q, which is none of the topic's", s.Topic, s.Partition, s.TopicID))
		}
	}
	for i := range e.Marks {
		m := &e.Marks[i]
		if !known(m.Topic, m.TopicID) {
			doubts = append(doubts, fmt.Sprintf("a mark of %s/%d has topic id %q, which is none of the topic's", m.Topic, m.Partition, m.TopicID))
		}
		if m.End != nil && m.Next > *m.End {
			doubts = append(doubts, fmt.Sprintf("%s/%d was scanned to %d, and ended at %d", m.Topic, m.Partition, m.Next, *m.End))
		}
	}
	return doubts
}

// Sum is the SHA-256 of data in hexadecimal.
func Sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// validate checks what the fields of e say one by one and of each other.
func (e *Entry) validate() error {
	if e.Version < 1 || e.Version > Version {
		return fmt.Errorf("version %d is not known", e.Version)
	}
	for _, id := range append([]string{e.Backup}, e.Joins...) {
		if id != "" && !isHex(id, backupDigits) {
			return fmt.Errorf("%q is not the id of a backup", id)
		}
	}
	if len(e.Seen) > 0 && e.Seq > 1 {
		return errors.New("it is not the first of its run, and says what the run saw")
	}
	if !isHex(e.Run, runDigits) || e.Seq < 1 || !e.Time.Equal(e.Time.Truncate(time.Millisecond)) {
		return fmt.Errorf("run %q, number %d at %v is not an entry's", e.Run, e.Seq, e.Time)
	}
	if want := entryID(e); e.ID != want {
		return fmt.Errorf("id %q should be %q", e.ID, want)
	}
	if first := e.Seq == 1; first && e.Prev != "" || !first && !isHex(e.Prev, 64) {
		return fmt.Errorf("prev %q cannot be that of entry %d of a run", e.Prev, e.Seq)
	}
	for i := range e.Topics {
		if err := ValidTopic(e.Topics[i].Name); err != nil {
			return fmt.Errorf("topic %d: %w", i, err)
		}
	}
	for i := range e.Segments {
		if err := e.Segments[i].validate(); err != nil {
			return fmt.Errorf("segment %d: %w", i, err)
		}
	}
	for i := range e.Marks {
		if err := e.Marks[i].validate(); err != nil {
			return fmt.Errorf("mark %d: %w", i, err)
		}
	}
	for i := range e.Points {
		if err := e.Points[i].validate(); err != nil {
			return fmt.Errorf("point %d: %w", i, err)
		}
	}
	for i := range e.ClusterSnapshots {
		if err := e.ClusterSnapshots[i].validate(); err != nil {
			return fmt.Errorf("cluster snapshot %d: %w", i, err)
		}
	}
	return nil
}

func (p *Point) validate() error {
	if p.Moment == nil {
		return nil
	}
	for _, t := range p.Moment.Topics {
		if err := ValidTopic(t.Name); err != nil {
			return err
		}
		for n, at := range t.Partitions {
			if n < 0 || at[0] < 0 || at[1] < 0 {
				return fmt.Errorf("partition %d at offsets %d to %d", n, at[0], at[1])
			}
		}
	}
	return nil
}

func (m *Mark) validate() error {
	if err := ValidTopic(m.Topic); err != nil {
		return err
	}
	if m.Partition < 0 {
		return fmt.Errorf("partition %d is negative", m.Partition)
	}
	for _, r := range append([][2]int64{{m.From, m.Next}}, m.Lost...) {
		if r[0] < 0 || r[0] > r[1] {
			return fmt.Errorf("[%d, %d) is not a range of offsets", r[0], r[1])
		}
	}
	return nil
}

// encode returns v as JSON for people: one field of the top object to a line, one
// element of a list to a line. It is still plain JSON.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return append(layout(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), '\n'), nil
}

// layout breaks compact JSON into lines: inside the top object, inside its lists, and
// inside any list of objects.
func layout(compact []byte) []byte {
	out := make([]byte, 0, len(compact)+len(compact)/8)
	var (
		open            []bool // for each bracket around c: does it break lines?
		indent          int    // how many of them do
		quoted, escaped bool
	)
	newline := func() {
		out = append(out, '\n')
		for range indent {
			out = append(out, "  "...)
		}
	}
	for i, c := range compact {
		if quoted {
			out = append(out, c)
			quoted = c != '"' || escaped
			escaped = c == '\\' && !escaped
			continue
		}
		switch c {
		case '"':
			quoted = true
			out = append(out, c)
		case '{', '[':
			out = append(out, c)
			next := compact[i+1]
			breaks := next != '}' && next != ']' && (len(open) == 0 || c == '[' && (len(open) == 1 || next == '{'))
			open = append(open, breaks)
			if breaks {
				indent++
				newline()
			}
		case '}', ']':
			breaks := open[len(open)-1]
			open = open[:len(open)-1]
			if breaks {
				indent--
				newline()
			}
			out = append(out, c)
		case ',':
			out = append(out, c)
			if open[len(open)-1] {
				newline()
			}
		case ':':
			out = append(out, c)
			if len(open) == 1 {
				out = append(out, ' ')
			}
		default:
			out = append(out, c)
		}
	}
	return out
}
