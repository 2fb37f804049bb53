package commitlog

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	idTime    = "20060102T150405.000Z"
	runDigits = 8
	seqDigits = 6 // at least
)

// A Run gives the entries of one writer their identity: they count from 1, each
// names the one before by its hash, and their ids sort in the order of writing.
//
// When it is not known whether an entry was stored, the run must end: to go on
// could store two entries with one number.
type Run struct {
	name string
	seq  int
	prev string
	last time.Time
}

// NewRun starts a run under a name of its own.
func NewRun() *Run {
	var b [runDigits / 2]byte
	rand.Read(b[:])
	return &Run{name: hex.EncodeToString(b[:])}
}

// Name returns the run's name, 8 hexadecimal digits.
func (r *Run) Name() string { return r.name }

// Stamp makes e the run's next entry, written now: it sets Version, ID, Run, Seq,
// Time and Prev. Whatever the clock does, Time is later than that of the run's
// entry before, so that ids sort.
func (r *Run) Stamp(e *Entry, now time.Time) {
	now = now.UTC().Truncate(time.Millisecond)
	if !now.After(r.last) {
		now = r.last.Add(time.Millisecond)
	}
	r.last = now
	e.Version = Version
	e.Run = r.name
	e.Seq = r.seq + 1
	e.Time = now
	e.Prev = r.prev
	e.ID = entryID(e)
}

// Advance records that the entry stamped last is stored, and the hash of its bytes.
func (r *Run) Advance(sha string) {
	r.seq++
	r.prev = sha
}

// entryID is the id that the other fields of e make.
func entryID(e *Entry) string {
	return fmt.Sprintf("%s-%s-%06d", e.Time.UTC().Format(idTime), e.Run, e.Seq)
}

// A RunEnd is what the log tells of the end of a run.
type RunEnd struct {
	Run   string
	Entry string // id of the run's last entry
	// Final says that the run came to its end. One that did not is under way, or was killed.
	Final       bool
	Interrupted bool // its source was told to stop before it was done
	Lossy       bool // its source could not have all that it was to read
	Damaged     bool // the last entry cannot be read, so that the rest is not known
	// Group is the consumer group of which the run was a worker; such a run makes no restore
	// points.
	Group string
}

// LastRuns returns the runs that have read partitions of an incarnation last, in the order of
// the log. Those that ended before a snapshot of an earlier version was made are not known.
func (s *State) LastRuns(topic, id string) (runs []RunEnd) {
	seen := make(map[string]bool)
	for _, number := range s.Partitions(topic, id) {
		run, known := s.LastRun(topic, id, number)
		if !known || seen[run.Run] {
			continue
		}
		seen[run.Run] = true
		runs = append(runs, run)
	}
	slices.SortFunc(runs, func(a, b RunEnd) int { return strings.Compare(a.Entry, b.Entry) })
	return runs
}

// LastRun returns the run that has read a partition last, if it is known: see
// [State.LastRuns].
func (s *State) LastRun(topic, id string, partition int32) (run RunEnd, known bool) {
	p := s.parts[partitionKey{topic, id, partition}]
	if p == nil {
		return RunEnd{}, false
	}
	l, known := s.runs[p.run]
	return RunEnd{Run: p.run, Entry: l.id, Final: l.final, Interrupted: l.interrupted, Lossy: l.lossy, Damaged: l.skipped, Group: l.group}, known
}
