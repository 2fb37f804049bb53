package commitlog

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Manifest is a summary of a log, for people and tools: one element per
// partition, however long the log is. The log is the truth. But a listing may not show all
// of the log, and the manifest is read by its name: Backup and LastID tell what must be there.
type Manifest struct {
	Version int       `json:"version"`
	KBK     string    `json:"kbk"`              // says what this file is
	Backup  string    `json:"backup,omitempty"` // the backup's id; earlier versions left it out
	Updated time.Time `json:"updated"`          // the time of the last entry
	LastID  string    `json:"last_entry"`       // "" before the first entry
	Entries int       `json:"entries"`
	Points  int       `json:"points"`
	// NewestPoint is the last one in the log. Topics is 0 where it is not known of how many
	// it speaks.
	NewestPoint *ManifestPoint `json:"newest_point,omitempty"`
	Groups      int            `json:"groups"`
	// ClusterSnapshots is how many snapshots of clusters there are, NewestCluster when the last
	// of them was begun.
	ClusterSnapshots int             `json:"cluster_snapshots,omitempty"`
	NewestCluster    int64           `json:"newest_cluster_snapshot,omitempty"` // milliseconds since the epoch
	Topics           []ManifestTopic `json:"topics"`
}

// A ManifestPoint is a restore point.
type ManifestPoint struct {
	ID     string `json:"id"`
	Time   int64  `json:"time"` // milliseconds since the epoch
	Topics int    `json:"topics,omitempty"`
}

// A ManifestTopic is one incarnation of a topic.
type ManifestTopic struct {
	Name       string              `json:"name"`
	ID         string              `json:"id,omitempty"`
	Partitions []ManifestPartition `json:"partitions"`
}

// A ManifestPartition sums up a partition.
type ManifestPartition struct {
	Partition    int32      `json:"partition"`
	From         int64      `json:"from"`
	Next         int64      `json:"next"`
	Records      int64      `json:"records"`
	Bytes        int64      `json:"bytes"`     // as stored
	RawBytes     int64      `json:"raw_bytes"` // of the streams inside
	Segments     int64      `json:"segments"`
	BatchBytes   int64      `json:"batch_bytes,omitempty"`   // of Bytes those of segments that hold batches
	MinTimestamp int64      `json:"min_timestamp,omitempty"` // milliseconds since the epoch
	MaxTimestamp int64      `json:"max_timestamp,omitempty"`
	Lost         [][2]int64 `json:"lost,omitempty"`  // [from, next) ranges that could not be read
	Holes        [][2]int64 `json:"holes,omitempty"` // ranges that are not backed up
	Gone         [][2]int64 `json:"gone,omitempty"`  // ranges that were pruned
	// Filtered are ranges that the backup has only as filters have left them.
	Filtered []partial `json:"filtered,omitempty"`
	Pruned   int64     `json:"pruned,omitempty"` // of earlier versions: what is below was pruned
}

// NewManifest returns the manifest of a backup that has no entry yet.
func NewManifest(backup string, now time.Time) *Manifest {
	return &Manifest{Version: Version, KBK: manifestKind, Backup: backup, Updated: now.UTC(), Topics: []ManifestTopic{}}
}

// Missing tells whether the log that state was read from lacks an entry that the manifest
// names. listed are the files that the log was read from. A manifest of another backup, or
// of an earlier version, tells nothing.
func (m *Manifest) Missing(s *State, listed Files) bool {
	run, seq, ok := splitID(m.LastID)
	switch {
	case !ok || m.Backup == "" || !s.owns(m.Backup):
		return false
	case seq <= s.runs[run].seq, slices.Contains(listed.Entries, EntryPath(m.LastID)):
		return false
	}
	return TimeOf(m.LastID).After(s.lineage.until) // else a snapshot stands for it, and has forgotten its run
}

const manifestKind = "backup manifest"

// Manifest sums up the state.
func (s *State) Manifest() *Manifest {
	m := &Manifest{
		Version: Version,
		KBK:     manifestKind,
		Backup:  s.Backup(),
		Updated: s.updated,
		LastID:  s.lastID,
		Entries: s.entries,
		Points:  len(s.points),
		Groups:  s.groups.count(),
		Topics:  []ManifestTopic{},
	}
	if n := len(s.clusters); n > 0 {
		m.ClusterSnapshots, m.NewestCluster = n, s.clusters[n-1].Time
	}
	if n := len(s.points); n > 0 {
		m.NewestPoint = &ManifestPoint{s.points[n-1].Entry, s.points[n-1].Time, s.points[n-1].Topics}
	}
	for key, p := range s.partitions() {
		if n := len(m.Topics); n == 0 || m.Topics[n-1].Name != key.topic || m.Topics[n-1].ID != key.id {
			m.Topics = append(m.Topics, ManifestTopic{Name: key.topic, ID: key.id})
		}
		t := &m.Topics[len(m.Topics)-1]
		t.Partitions = append(t.Partitions, p.summary(key.partition))
	}
	return m
}

// Summary sums up a partition.
func (s *State) Summary(topic, id string, number int32) ManifestPartition {
	if p := s.parts[partitionKey{topic, id, number}]; p != nil {
		return p.summary(number)
	}
	return ManifestPartition{Partition: number}
}

func (p *partition) summary(number int32) ManifestPartition {
	v, t := p.now(), p.total()
	return ManifestPartition{
		Partition: number, From: v.from, Next: v.next, Records: t.records, Bytes: t.bytes, RawBytes: t.rawBytes,
		Segments: t.segments, BatchBytes: t.batchBytes, MinTimestamp: t.minTimestamp, MaxTimestamp: t.maxTimestamp,
		Lost: v.missing(), Holes: v.holes(), Gone: v.gone(), Filtered: v.onlyPartial(),
	}
}

// Encode returns the manifest as it is stored.
func (m *Manifest) Encode() ([]byte, error) {
	data, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return seal(data), nil
}

// DecodeManifest reads a manifest. It fails as [Decode] does.
func DecodeManifest(data []byte) (*Manifest, error) {
	var stored struct {
		Manifest
		Checksum string `json:"checksum,omitempty"` // see seal
	}
	if _, _, err := open(data, &stored); err != nil {
		if !errors.Is(err, ErrVersion) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return &stored.Manifest, nil
}
