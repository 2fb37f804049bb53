package commitlog

import (
	"path"
	"slices"
	"strings"
	"time"
)

// SignatureSuffix is what the name of a signature has behind the name of what is signed.
const SignatureSuffix = ".sig"

// TemporarySuffix ends the names under which objects are written before they are renamed.
const TemporarySuffix = ".tmp"

// Files are the files of a log's folder, by what they are, each list sorted by name.
type Files struct {
	Entries    []string
	Snapshots  []string
	Signatures []string // of entries and snapshots
	Leftovers  []string // of writes that did not finish
	// Strays have no business in the folder: what a file system, a sync tool or a person
	// has put there. Nobody reads them.
	Strays []string
}

// SortFiles tells what the files in a log's folder are, by their names alone. It is told
// their paths below the backup.
func SortFiles(paths []string) Files {
	var f Files
	for _, p := range slices.Sorted(slices.Values(paths)) {
		plain, signature := strings.CutSuffix(p, SignatureSuffix)
		_, snapshot := SnapshotID(plain)
		switch known := snapshot || IsEntry(plain); {
		case known && signature:
			f.Signatures = append(f.Signatures, p)
		case snapshot:
			f.Snapshots = append(f.Snapshots, p)
		case known:
			f.Entries = append(f.Entries, p)
		case isTemporary(p):
			f.Leftovers = append(f.Leftovers, p)
		default:
			f.Strays = append(f.Strays, p)
		}
	}
	return f
}

// isTemporary tells whether name is <file of the log>.<8 hexadecimal digits>.tmp.
func isTemporary(name string) bool {
	name, ok := strings.CutSuffix(name, TemporarySuffix)
	i := strings.LastIndexByte(name, '.')
	if !ok || i < 0 || !isHex(name[i+1:], runDigits) {
		return false
	}
	name = strings.TrimSuffix(name[:i], SignatureSuffix)
	_, snapshot := SnapshotID(name)
	return snapshot || IsEntry(name)
}

// EntryPath returns where the entry with this id lives, relative to the backup's folder.
func EntryPath(id string) string { return path.Join(LogDir, id+entrySuffix) }

// EntryID returns the id of the entry that is stored under name, with or without its
// folder, and false where name is not that of an entry.
func EntryID(name string) (id string, ok bool) {
	id, ok = strings.CutSuffix(path.Base(name), entrySuffix)
	if !ok {
		return "", false
	}
	_, _, ok = splitID(id)
	return id, ok
}

// IsEntry tells whether name, a file in [LogDir] with or without the folder, is that of an
// entry.
func IsEntry(name string) bool {
	_, ok := EntryID(name)
	return ok
}

// SnapshotPath returns where the snapshot with this id lives.
func SnapshotPath(id string) string { return path.Join(LogDir, id+snapshotSuffix) }

// SnapshotID returns the id of the snapshot in the file name, and false for any other
// file.
func SnapshotID(name string) (id string, ok bool) {
	id, ok = strings.CutSuffix(path.Base(name), snapshotSuffix)
	if !ok {
		return "", false
	}
	at, random, ok := strings.Cut(id, "-")
	return id, ok && isHex(random, runDigits) && isIDTime(at)
}

// PathOf returns where the entry or the snapshot with this id lives.
func PathOf(id string) string {
	if _, _, ok := splitID(id); ok {
		return EntryPath(id)
	}
	return SnapshotPath(id)
}

// RunOf takes an entry's id apart.
func RunOf(id string) (run string, seq int, ok bool) { return splitID(id) }

func splitID(id string) (run string, seq int, ok bool) {
	parts := strings.Split(id, "-")
	if len(parts) != 3 || !isIDTime(parts[0]) || !isHex(parts[1], runDigits) || len(parts[2]) < seqDigits {
		return "", 0, false
	}
	for _, c := range []byte(parts[2]) {
		if c < '0' || c > '9' || seq > 1<<40 {
			return "", 0, false
		}
		seq = seq*10 + int(c-'0')
	}
	return parts[1], seq, seq > 0
}

// TimeOf returns when the entry or snapshot with this id was written, by its writer's
// clock; the zero time where id is not one.
func TimeOf(id string) time.Time {
	at, _, _ := strings.Cut(id, "-")
	t, _ := time.Parse(idTime, at)
	return t
}

func isIDTime(s string) bool {
	_, err := time.Parse(idTime, s)
	return err == nil && len(s) == len(idTime)
}
