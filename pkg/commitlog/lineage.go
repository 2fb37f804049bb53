package commitlog

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A Ref names an entry.
type Ref struct {
	ID     string `json:"id"`
	SHA256 string `json:"sha256"`
}

// backupDigits is how many hexadecimal digits a backup's id has.
const backupDigits = 32

// NewBackup returns an id for a backup that has none yet.
func NewBackup() string {
	var b [backupDigits / 2]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// A lineage is what entries say of the log around them: which backup they belong to, and
// what was there when their run began. With it a log shows that a whole run, the end of
// one, or a snapshot was taken away, and that a run of another backup was put in.
type lineage struct {
	backups map[string]int    // how many entries say that they belong to it
	joined  map[string]string // a backup's id, and another one of the same backup
	own     string            // as a snapshot says
	first   string            // the id in the first entry that has one
	tips    map[string]string // ids and hashes of entries behind which there is nothing: no entry of the run, no run that saw it
	until   time.Time         // up to here there are snapshots that stand for entries
}

func (l *lineage) init() {
	l.backups, l.joined = make(map[string]int), make(map[string]string)
	l.tips = make(map[string]string)
}

// root is the one id that stands for all ids of a backup.
func (l *lineage) root(id string) string {
	for l.joined[id] != "" {
		id = l.joined[id]
	}
	return id
}

func (l *lineage) join(a, b string) {
	if a, b = l.root(a), l.root(b); a != b {
		l.joined[max(a, b)] = min(a, b)
	}
}

// checkSeen tells whether what e saw is in the log, as it was.
func (s *State) checkSeen(e *Entry) error {
	for _, ref := range e.Seen {
		run, seq, isEntry := splitID(ref.ID)
		sha, isTip := s.lineage.tips[ref.ID]
		last := s.runs[run]
		switch {
		case isTip && sha != ref.SHA256:
			return &ChangedError{ref.ID, e.ID}
		case isTip, isEntry && seq <= last.seq: // in the last case the run's chain vouches for it
		case !TimeOf(ref.ID).After(s.lineage.until): // a snapshot stands for it, and has forgotten its run
		default:
			return fmt.Errorf("%w: %q is missing, which was there when %q was written", ErrCorrupt, ref.ID, e.ID)
		}
	}
	return nil
}

func (l *lineage) fold(e *Entry, sha, before string) {
	if e.Backup != "" {
		l.backups[e.Backup]++
		if l.first == "" {
			l.first = e.Backup
		}
		for _, id := range e.Joins {
			l.join(e.Backup, id)
		}
	}
	for _, ref := range e.Seen {
		delete(l.tips, ref.ID)
	}
	delete(l.tips, before)
	l.tips[e.ID] = sha
}

func (l *lineage) addSnapshot(n *Snapshot) {
	if n.Backup != "" {
		l.backups[n.Backup] += max(n.Entries, 1)
		l.own = cmp.Or(l.own, n.Backup)
	}
	for _, id := range n.Joined {
		l.join(n.Backup, id)
	}
	for _, ref := range n.Tips {
		l.tips[ref.ID] = ref.SHA256
	}
	for _, t := range []time.Time{n.Time, n.Updated} {
		if t.After(l.until) {
			l.until = t
		}
	}
}

// BackupOf returns the id of the backup that a file of the log says it belongs to, "" where
// it does not or cannot be read.
func BackupOf(name string, data []byte) string {
	if IsEntry(name) {
		if e, _, err := Decode(name, data); err == nil {
			return e.Backup
		}
		return ""
	}
	if n, err := DecodeSnapshot(name, data); err == nil {
		return n.Backup
	}
	return ""
}

// Backup returns the id of the backup, "" where it has none yet.
func (s *State) Backup() string {
	l := &s.lineage
	if l.own != "" {
		return l.own
	}
	entries := make(map[string]int) // by root
	for id, n := range l.backups {
		entries[l.root(id)] += n
	}
	best := l.root(l.first)
	for _, id := range slices.Sorted(maps.Keys(entries)) {
		if entries[id] > entries[best] {
			best = id
		}
	}
	return best
}

// owns tells whether id is one of the backup's; where it has none yet any may be.
func (s *State) owns(id string) bool {
	own := s.Backup()
	return own == "" || s.lineage.root(id) == s.lineage.root(own)
}

// Foreign returns the ids of other backups that entries say they belong to, sorted.
func (s *State) Foreign() []string {
	var foreign []string
	own := s.lineage.root(s.Backup())
	for id := range s.lineage.backups {
		if s.lineage.root(id) != own {
			foreign = append(foreign, id)
		}
	}
	slices.Sort(foreign)
	return foreign
}

// Seen returns what the first entry of a run that begins now has to say that it saw. Of a
// snapshot it is what that stands for: there may be another one in its place before long.
func (s *State) Seen() []Ref {
	var refs []Ref
	for _, id := range slices.Sorted(maps.Keys(s.lineage.tips)) {
		refs = append(refs, Ref{id, s.lineage.tips[id]})
	}
	return refs
}

// describeLineage says in n what the state knows of the log around it.
func (s *State) describeLineage(n *Snapshot) {
	l, own := &s.lineage, s.Backup()
	n.Backup, n.Tips = own, s.Seen()
	for id := range l.joined {
		for _, id := range []string{id, l.root(id)} {
			if id != own && l.root(id) == l.root(own) && !slices.Contains(n.Joined, id) {
				n.Joined = append(n.Joined, id)
			}
		}
	}
	slices.Sort(n.Joined)
}
