package commitlog

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/format"
)

// ClusterDir is the folder of snapshots of clusters in a backup's folder.
const ClusterDir = "cluster"

// A ClusterSnapshot is a stored object that holds what a cluster had besides its records: a
// [format.Snapshot]. (A [Snapshot] is one of the log.)
type ClusterSnapshot struct {
	Path    string           `json:"path"` // see [ClusterPath]
	ID      string           `json:"id"`
	Time    int64            `json:"time"` // when it was begun, in milliseconds since the epoch
	Cluster string           `json:"cluster,omitempty"`
	Kinds   []string         `json:"kinds"`  // what was read: see [format.ClusterInfo]
	Frames  map[string]int64 `json:"frames"` // how many of each kind of frame
	LeftOut int64            `json:"left_out,omitempty"`
	Codec   string           `json:"codec"`
	Cipher  string           `json:"cipher,omitempty"`
	Run     string           `json:"run"` // that stored it
	RawSize int64            `json:"raw_size"`
	Size    int64            `json:"size"`
	SHA256  Hash             `json:"sha256"`
}

// ClusterSnapshotOf is what the log says of a snapshot in a stream that a run stores.
func ClusterSnapshotOf(m *format.Snapshot, run string) (ClusterSnapshot, error) {
	s := ClusterSnapshot{
		ID: m.ID, Time: m.Time, Cluster: m.Cluster, Kinds: m.Kinds, Frames: m.Frames, LeftOut: m.LeftOut,
		Codec: m.Codec, Cipher: m.Cipher, Run: run, RawSize: m.RawSize, Size: m.Size,
	}
	if len(m.SHA256) != len(s.SHA256) {
		return s, fmt.Errorf("sha256 of %d bytes", len(m.SHA256))
	}
	copy(s.SHA256[:], m.SHA256)
	var err error
	if s.Path, err = ClusterPath(&s); err != nil {
		return s, err
	}
	return s, s.validate()
}

// Frame is what a stream says of the snapshot.
func (s *ClusterSnapshot) Frame() *format.Snapshot {
	return &format.Snapshot{
		ID: s.ID, Time: s.Time, Cluster: s.Cluster, Kinds: s.Kinds, Frames: s.Frames, LeftOut: s.LeftOut,
		Codec: cmp.Or(s.Codec, "none"), Cipher: s.Cipher, RawSize: s.RawSize, Size: s.Size, SHA256: bytes.Clone(s.SHA256[:]),
	}
}

// Object is the snapshot as a segment without records: what is needed to read it from a store.
func (s *ClusterSnapshot) Object() Segment {
	return Segment{Path: s.Path, Content: Content{Form: &Form{Codec: s.Codec, Cipher: s.Cipher, Run: s.Run}, RawSize: s.RawSize, Size: s.Size, SHA256: s.SHA256}}
}

// ClusterPath returns where the object of s lives, relative to the backup's folder:
//
//	cluster/<time>-<sha8>-<run>.cbor[.<codec>][.<cipher>]
func ClusterPath(s *ClusterSnapshot) (string, error) {
	ext, err := extension(s.Codec, s.Cipher)
	if err != nil {
		return "", err
	}
	at := time.UnixMilli(s.Time).UTC()
	if !isHex(s.Run, runDigits) {
		return "", fmt.Errorf("%q is not the name of a run", s.Run)
	}
	if at.Year() < 0 || at.Year() > 9999 {
		return "", fmt.Errorf("time %d is not one of a cluster", s.Time)
	}
	return path.Join(ClusterDir, fmt.Sprintf("%s-%x-%s%s", at.Format(idTime), s.SHA256[:4], s.Run, ext)), nil
}

func (s *ClusterSnapshot) validate() error {
	want, err := ClusterPath(s)
	if err != nil {
		return err
	}
	switch {
	case s.Path != want:
		return fmt.Errorf("path %q should be %q", s.Path, want)
	case s.ID == "":
		return errors.New("it has no id")
	case s.Size < 0 || s.RawSize < 0 || s.LeftOut < 0:
		return fmt.Errorf("size %d or raw size %d is negative", s.Size, s.RawSize)
	}
	return nil
}

// foldClusters adds snapshots of clusters, in the order of their times. One that is there
// already, in another copy, is the one that was there first.
func (s *State) foldClusters(snapshots []ClusterSnapshot) {
	for i := range snapshots {
		if !s.HasClusterSnapshot(snapshots[i].ID) {
			s.clusters = append(s.clusters, snapshots[i])
		}
	}
	slices.SortStableFunc(s.clusters, func(a, b ClusterSnapshot) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), strings.Compare(a.ID, b.ID))
	})
}

// ClusterSnapshots returns the snapshots of clusters by their times, the newest last.
func (s *State) ClusterSnapshots() []ClusterSnapshot { return s.clusters }

// HasClusterSnapshot tells whether there is a snapshot of a cluster of this id.
func (s *State) HasClusterSnapshot(id string) bool {
	return slices.ContainsFunc(s.clusters, func(c ClusterSnapshot) bool { return c.ID == id })
}

// ClusterSnapshotAt returns the snapshot of a cluster that belongs to a moment: the newest that
// is not later.
func (s *State) ClusterSnapshotAt(ms int64) (c ClusterSnapshot, ok bool) {
	for _, at := range s.clusters {
		if at.Time <= ms {
			c, ok = at, true
		}
	}
	return c, ok
}

// PruneClusters lets go, in memory, of the snapshots of clusters that nothing keeps, and returns
// them. Those are kept that the policy keeps by their own times, those that belong to a restore
// point that is kept, and those that are newer than all these points: a point may come to which
// they belong.
func (s *State) PruneClusters(policy Policy, points []RestorePoint, now time.Time) (gone []ClusterSnapshot) {
	times := make([]int64, len(s.clusters))
	for i := range s.clusters {
		times[i] = s.clusters[i].Time
	}
	keep := make(map[string]bool)
	for i, why := range policy.Apply(times, now) {
		keep[s.clusters[i].ID] = len(why) > 0
	}
	newest := int64(0)
	for _, p := range points {
		if at, ok := s.ClusterSnapshotAt(p.Time); ok {
			keep[at.ID] = true
		}
		newest = max(newest, p.Time)
	}
	kept := s.clusters[:0:0]
	for _, c := range s.clusters {
		if keep[c.ID] || len(points) > 0 && c.Time > newest {
			kept = append(kept, c)
		} else {
			gone = append(gone, c)
		}
	}
	s.clusters = kept
	return gone
}

// LoseClusters takes snapshots of clusters out that are not in the store any more.
func (s *State) LoseClusters(lost func(*ClusterSnapshot) bool) {
	s.clusters = slices.DeleteFunc(slices.Clone(s.clusters), func(c ClusterSnapshot) bool { return lost(&c) })
}

// ClusterWriterOf returns the run that is in the name of the object of a snapshot of a cluster,
// and false where the name is none.
func ClusterWriterOf(name string) (run string, ok bool) {
	base, _, _ := strings.Cut(path.Base(name), cborSuffix)
	parts := strings.Split(base, "-")
	if len(parts) != 3 || !isIDTime(parts[0]) || !isHex(parts[2], runDigits) {
		return "", false
	}
	return parts[2], true
}
