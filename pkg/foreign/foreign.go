// Package foreign says what a backup of another tool holds, in terms that are the same
// for all tools. Each tool's format is a package of its own below this one; kbk-import
// turns what they read into a stream.
package foreign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/kbkio/kbk/format"
)

// ErrDamaged is the error for a file that is cut short, or is not what it should be.
var ErrDamaged = errors.New("damaged")

// Damaged is an error of [ErrDamaged] that says in which file, and what.
func Damaged(path, f string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", path, ErrDamaged, fmt.Sprintf(f, args...))
}

// MaxRecord bounds a record, and each part of one: a length in a file is a claim, and
// Kafka's own limit is far lower.
const MaxRecord = 1 << 30

// A Tree is the files below the folder that the user names.
type Tree struct {
	Objects []Object // by path
	// Open opens a file. Its reader fails where the storage fails, and not in silence.
	Open func(ctx context.Context, path string) (io.ReadCloser, error)
}

// An Object is a file of a [Tree].
type Object struct {
	Path string // below the folder, with slashes
	Size int64
}

// Sort puts the objects into the order of their paths.
func (t *Tree) Sort() {
	slices.SortFunc(t.Objects, func(a, b Object) int { return strings.Compare(a.Path, b.Path) })
}

// Has tells whether there is a file of this path.
func (t *Tree) Has(path string) bool {
	_, found := slices.BinarySearchFunc(t.Objects, path, func(o Object, path string) int { return strings.Compare(o.Path, path) })
	return found
}

// ReadFile reads a small file. It fails for one of more than limit bytes.
func (t *Tree) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	f, err := t.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = Damaged(path, "it is larger than %d bytes", limit)
	}
	return data, err
}

// Head reads up to n bytes from the beginning of a file.
func (t *Tree) Head(ctx context.Context, path string, n int) ([]byte, error) {
	f, err := t.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	n, err = io.ReadFull(f, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return b[:n], err
}

// A Format reads the backups of one tool.
type Format interface {
	// List says what a tree holds, as far as that is known without reading records.
	List(ctx context.Context, t *Tree) (*Backup, error)
	// Read gives out the records of one file, in the order of the file. It fails with
	// [ErrDamaged] where the file is; what it has given out before is good.
	Read(ctx context.Context, t *Tree, f *File, out Out) error
}

// Out takes what a file holds.
type Out struct {
	// Record takes a record. Its memory may be used again when it returns.
	Record func(*format.Record) error
	// Marker takes the offset of a transaction marker that was stored as a record.
	Marker func(topic string, partition int32, offset int64) error
}

// A Backup is what a tree holds.
type Backup struct {
	Tool       string // which wrote it
	Topics     []format.Topic
	Partitions []Partition // by topic and number
	Groups     []format.Group

	// Mixed are files that hold records of several partitions, to be read in this
	// order; Partitions is empty then.
	Mixed []File

	// Missing is what the backup itself shows to be missing: a line for each.
	Missing []string
	// Notes are what else is worth a line.
	Notes []string
	// Caveats are what the tool may have changed in any record.
	Caveats []Caveat
}

// A Partition is one that a backup has files of.
type Partition struct {
	Topic  string
	Number int32
	Files  []File     // by first offset
	Lost   [][2]int64 // [from, next) ranges that were gone before the tool could read them
	End    int64      // offsets up to here, itself excluded, were to be in the backup; 0: not known
	Slack  int64      // so many below End may not be of records
}

// A File holds records, in ascending order of offsets within each partition.
type File struct {
	Path      string
	Topic     string // of its records, "" where it is mixed
	Partition int32
	First     int64 // no record has a lower offset
}

// A Caveat is something that a tool may have changed in records.
type Caveat struct {
	Text    string // for people, behind "1,204 records": "with headers: …"
	Applies func(*format.Record) bool
}

// WithHeaders applies to records with headers.
func WithHeaders(r *format.Record) bool { return len(r.Headers) > 0 }

// All applies to every record.
func All(*format.Record) bool { return true }

// Partition returns the partition of a backup that is being listed, a new one at need.
func (b *Backup) Partition(topic string, number int32) *Partition {
	i, found := slices.BinarySearchFunc(b.Partitions, Partition{Topic: topic, Number: number}, comparePartitions)
	if !found {
		b.Partitions = slices.Insert(b.Partitions, i, Partition{Topic: topic, Number: number})
	}
	return &b.Partitions[i]
}

func comparePartitions(a, b Partition) int {
	if c := strings.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return int(a.Number) - int(b.Number)
}

// Sort puts each partition's files into the order of their offsets, and adds topics that
// no list names, with as many partitions as are known.
func (b *Backup) Sort() {
	known := make(map[string]bool)
	for i := range b.Topics {
		known[b.Topics[i].Name] = true
	}
	for i := range b.Partitions {
		p := &b.Partitions[i]
		slices.SortStableFunc(p.Files, func(a, b File) int {
			switch {
			case a.First < b.First:
				return -1
			case a.First > b.First:
				return 1
			}
			return strings.Compare(a.Path, b.Path)
		})
		if !known[p.Topic] {
			known[p.Topic] = true
			b.Topics = append(b.Topics, format.Topic{Name: p.Topic, Partitions: b.partitions(p.Topic)})
		}
	}
	slices.SortFunc(b.Topics, func(a, c format.Topic) int { return strings.Compare(a.Name, c.Name) })
}

// partitions is one more than a topic's highest partition with files.
func (b *Backup) partitions(topic string) int {
	most := 0
	for i := range b.Partitions {
		if b.Partitions[i].Topic == topic {
			most = max(most, int(b.Partitions[i].Number)+1)
		}
	}
	return most
}

// Parents returns the last n folders that a path lies in, the nearest last, and false
// where there are fewer.
func Parents(p string, n int) ([]string, bool) {
	dir := path.Dir(p)
	if dir == "." {
		return nil, n == 0
	}
	parts := strings.Split(dir, "/")
	if len(parts) < n {
		return nil, false
	}
	return parts[len(parts)-n:], true
}
