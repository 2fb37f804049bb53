package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/store"
	"github.com/kbkio/kbk/test/need"
)

// store1 stores offsets [from, next) of t/0 by a run of its own, with cfg's remote and keys.
func store1(t *testing.T, cfg push.Config, from, next int64) error {
	t.Helper()
	var records, segments bytes.Buffer
	w := format.NewWriter(&records)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentRecords, Source: &format.Source{Cluster: "c"}}))
	ok(t, w.Write(&format.Topic{Name: "t", ID: "id", Partitions: 1}))
	ok(t, w.Write(&format.Mark{Topic: "t", Next: from}))
	for o := from; o < next; o++ {
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Offset: o, Timestamp: o * 10, Value: fmt.Append(nil, "value ", o)}))
	}
	ok(t, w.Write(&format.Mark{Topic: "t", Next: next}))
	ok(t, w.Write(&format.Point{Time: next * 10}))
	ok(t, w.Close(new(format.End)))
	ok(t, pack.Pack(t.Context(), pack.Config{SegmentSize: 1 << 20, Memory: 64 << 20, Level: 1, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd")}, env(), &records, &segments))
	cfg.Transfers, cfg.Checkpoint, cfg.CheckpointSegments, cfg.MaxFrame = 2, time.Hour, 1000, 1<<20
	return push.Run(t.Context(), cfg, env(), &segments, io.Discard)
}

// threeRuns is a backup of offsets 0 to 299 of t/0, a hundred to a run, and the entries of
// its log, one for each run.
func threeRuns(t *testing.T) (dir string, entries []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "b")
	for from := int64(0); from < 300; from += 100 {
		ok(t, store1(t, push.Config{Remote: dir}, from, from+100))
	}
	return dir, entriesOf(t, dir)
}

func entriesOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(dir, "log/*.json"))
	ok(t, err)
	return entries
}

// skipped is what pull and cursor give of a backup with --skip-damaged.
func skipped(t *testing.T, dir string) (restore []string, pullStatus int, next int64, cursorStatus int) {
	t.Helper()
	restore, pullStatus = restored(t, pull.Config{Remote: dir, SkipDamaged: true}, nil)
	var out bytes.Buffer
	err := Cursor(t.Context(), open(t, dir), store.LogOptions{SkipDamaged: true}, false, env(), &out)
	cursorStatus = command.StatusOf(err)
	c, err := cursor.Read(&out)
	ok(t, err)
	return restore, pullStatus, c.Topics["t"].Partitions[0], cursorStatus
}

// refused wants those that read the log to refuse it.
func refused(t *testing.T, dir string) {
	t.Helper()
	err := pull.Run(t.Context(), pull.Config{Remote: dir, Transfers: 1, Memory: 1 << 20}, env(), io.Discard)
	if command.StatusOf(err) != command.Corrupt {
		t.Errorf("pull: %v", err)
	}
	for name, err := range map[string]error{
		"cursor":  Cursor(t.Context(), open(t, dir), store.LogOptions{}, false, env(), io.Discard),
		"show":    Show(t.Context(), open(t, dir), store.LogOptions{}, everything(t), false, true, env(), io.Discard),
		"compact": Compact(t.Context(), open(t, dir), Signing{}, env()),
		"prune":   Prune(t.Context(), open(t, dir), PruneConfig{Really: true}, env(), io.Discard),
	} {
		if !store.IsDamage(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnreadableEntry has an entry of the middle run damaged, in ways that no one can mend.
func TestUnreadableEntry(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, name string){
		"garbage": func(t *testing.T, name string) { ok(t, os.WriteFile(name, []byte("garbage\n"), 0o600)) },
		"empty":   func(t *testing.T, name string) { ok(t, os.Truncate(name, 0)) },
		"cut":     func(t *testing.T, name string) { ok(t, os.Truncate(name, 300)) },
		"gone":    func(t *testing.T, name string) { ok(t, os.Remove(name)) },
		"changed": func(t *testing.T, name string) {
			data, err := os.ReadFile(name)
			ok(t, err)
			ok(t, os.WriteFile(name, bytes.ReplaceAll(data, []byte(`"next":200`), []byte(`"next":290`)), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, entries := threeRuns(t)
			damage(t, entries[1])
			if p := problems(t, dir, VerifyConfig{Deep: true}); len(p) != 2 || !strings.HasPrefix(p[0], "log: log/") || p[1] != "hole: t/0: offsets 100 to 199 are not backed up" {
				t.Errorf("verify says %q", p)
			}
			refused(t, dir)
			got, status, next, cursorStatus := skipped(t, dir)
			if !slices.Equal(got, []string{"id/0 [[0 100] [200 300]]"}) || status != command.Loss || next != 100 || cursorStatus != command.Loss {
				t.Errorf("restored %q with status %d, cursor %d with status %d", got, status, next, cursorStatus)
			}
			// A run from there stores what is missing, though the damaged entry says it is there.
			if err := store1(t, push.Config{Remote: dir}, 100, 300); command.StatusOf(err) != command.Loss {
				t.Errorf("push: %v", err)
			}
			if got, status, next, _ := skipped(t, dir); !slices.Equal(got, []string{"id/0 [[0 300]]"}) || status != command.Loss || next != 300 {
				t.Errorf("then restored %q with status %d, cursor %d", got, status, next)
			}
		})
	}
}

// TestUnreadableBeginning has the entry of the first run damaged, and a snapshot that stands
// for it: a cursor that goes by the rest says nothing of where it begins.
func TestUnreadableBeginning(t *testing.T) {
	for name, damage := range map[string]func(dir string, entries []string){
		"an entry": func(_ string, entries []string) { ok(t, os.Remove(entries[0])) },
		"a snapshot": func(dir string, _ []string) {
			compacted(t, dir)
			ok(t, store1(t, push.Config{Remote: dir}, 300, 400))
			spoil(t, dir, "log/*.snapshot.json", 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, entries := threeRuns(t)
			damage(dir, entries)
			got, status, next, cursorStatus := skipped(t, dir)
			if len(got) != 1 || strings.Contains(got[0], "[0 ") || status != command.Loss || next != 0 || cursorStatus != command.Loss {
				t.Errorf("restored %q with status %d, cursor %d with status %d", got, status, next, cursorStatus)
			}
			if err := store1(t, push.Config{Remote: dir}, 0, 400); command.StatusOf(err) != command.Loss {
				t.Errorf("push: %v", err)
			}
			if got, _, next, _ := skipped(t, dir); !slices.Equal(got, []string{"id/0 [[0 400]]"}) || next != 400 {
				t.Errorf("then restored %q, cursor %d", got, next)
			}
		})
	}
}

func TestOneWrongBit(t *testing.T) {
	dir, entries := threeRuns(t)
	flip(t, entries[1])
	if p := problems(t, dir, VerifyConfig{}); len(p) != 1 || !strings.Contains(p[0], "one bit") {
		t.Errorf("verify says %q", p)
	}
	if got, status, next, _ := skipped(t, dir); !slices.Equal(got, []string{"id/0 [[0 300]]"}) || status != command.OK || next != 300 {
		t.Errorf("restored %q with status %d, cursor %d", got, status, next)
	}
}

func TestStrayFiles(t *testing.T) {
	dir, entries := threeRuns(t)
	data, err := os.ReadFile(entries[0])
	ok(t, err)
	log := filepath.Join(dir, "log")
	for _, name := range []string{"._" + filepath.Base(entries[0]), "copy.json", strings.TrimSuffix(filepath.Base(entries[0]), ".json") + " (1).json", ".DS_Store", "x.snapshot.json"} {
		ok(t, os.WriteFile(filepath.Join(log, name), data, 0o600))
	}
	if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
		t.Errorf("verify says %q", p)
	}
	ok(t, store1(t, push.Config{Remote: dir}, 300, 400))
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	if got, status := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"id/0 [[0 400]]"}) || status != command.OK {
		t.Errorf("restored %q with status %d", got, status)
	}
}

func TestListWithBadManifest(t *testing.T) {
	root := t.TempDir()
	run(t, filepath.Join(root, "a"), 0, 0, 5)
	run(t, filepath.Join(root, "b"), 0, 0, 7)
	ok(t, os.WriteFile(filepath.Join(root, "a/manifest.json"), []byte("{"), 0o600))
	var out bytes.Buffer
	ok(t, List(t.Context(), open(t, root), 3, true, env(), &out))
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, `{"path":"a"}`) || !strings.Contains(got, `"records":14`) {
		t.Errorf("got %s", got)
	}
}

// TestRunsTakenAway takes away whole runs and snapshots: all shows that a later run saw.
func TestRunsTakenAway(t *testing.T) {
	for i := range 3 {
		dir, entries := threeRuns(t)
		ok(t, os.Remove(entries[i])) // the last is named by the manifest alone
		if p := problems(t, dir, VerifyConfig{}); len(p) == 0 || !strings.Contains(p[0], "is missing, which was there when") {
			t.Errorf("without run %d verify says %q", i+1, p)
		}
		refused(t, dir)
	}
	dir, _ := threeRuns(t)
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	ok(t, store1(t, push.Config{Remote: dir}, 300, 400))
	snapshots, err := filepath.Glob(filepath.Join(dir, "log/*.snapshot.json"))
	ok(t, err)
	ok(t, os.Remove(snapshots[0]))
	if p := problems(t, dir, VerifyConfig{}); len(p) == 0 || !strings.Contains(p[0], "is missing, which was there when") {
		t.Errorf("without the snapshot verify says %q", p)
	}
	refused(t, dir)
	ok(t, os.RemoveAll(filepath.Join(dir, "log")))
	if p := problems(t, dir, VerifyConfig{}); len(p) != 1 || p[0] != "log: manifest.json: the commit log is damaged: it tells of 4 log entries, and there is none: the log was lost, or the store does not list it yet" {
		t.Errorf("without a log verify says %q", p)
	}
	ok(t, os.Remove(filepath.Join(dir, "manifest.json")))
	if p := problems(t, dir, VerifyConfig{}); len(p) != 1 || p[0] != "log: log: it is empty, and there are 4 objects" {
		t.Errorf("without a log and a manifest verify says %q", p)
	}
}

// TestUnlistedLog has a store show nothing of a log while the next run begins: that run must
// not begin another backup in the same place.
func TestUnlistedLog(t *testing.T) {
	dir, _ := threeRuns(t)
	log, away := filepath.Join(dir, "log"), filepath.Join(t.TempDir(), "log")
	ok(t, os.Rename(log, away))
	if err := store1(t, push.Config{Remote: dir}, 300, 400); command.StatusOf(err) != command.Loss {
		t.Errorf("the run ended with %v", err)
	}
	ok(t, os.CopyFS(log, os.DirFS(away)))
	if p := problems(t, dir, VerifyConfig{}); p != nil {
		t.Errorf("verify says %q", p)
	}
	if got, status := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"id/0 [[0 400]]"}) || status != command.OK {
		t.Errorf("restored %q with status %d", got, status)
	}
}

// TestRunOfAnotherBackup puts a run of one backup into another.
func TestRunOfAnotherBackup(t *testing.T) {
	dir, _ := threeRuns(t)
	other, entries := threeRuns(t)
	data, err := os.ReadFile(entries[0])
	ok(t, err)
	put := filepath.Join(dir, "log", filepath.Base(entries[0]))
	ok(t, os.WriteFile(put, data, 0o600))
	refused(t, dir)
	if p := problems(t, dir, VerifyConfig{}); len(p) != 1 || !strings.Contains(p[0], "it belongs to another backup") || !strings.Contains(p[0], filepath.Base(put)) {
		t.Errorf("verify says %q", p)
	}
	if got, status, _, _ := skipped(t, dir); !slices.Equal(got, []string{"id/0 [[0 300]]"}) || status != command.Loss {
		t.Errorf("restored %q with status %d", got, status)
	}
	if p := problems(t, other, VerifyConfig{}); p != nil {
		t.Errorf("the other: %q", p)
	}
}

// TestBegunAtOnce has several runs that begin a backup at the same time: it is one backup.
func TestBegunAtOnce(t *testing.T) {
	for range 10 {
		dir := filepath.Join(t.TempDir(), "b")
		var runs sync.WaitGroup
		for i := range int64(4) {
			runs.Go(func() {
				if err := store1(t, push.Config{Remote: dir}, i*10, i*10+10); err != nil {
					t.Error(err)
				}
			})
		}
		runs.Wait()
		if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
			t.Fatal(p)
		}
		ok(t, store1(t, push.Config{Remote: dir}, 40, 50))
		ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
		ok(t, store1(t, push.Config{Remote: dir}, 50, 60))
		if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
			t.Fatal(p)
		}
	}
}

// TestOldBackupGetsAnID wants the next run of a backup of an earlier version to name it.
func TestOldBackupGetsAnID(t *testing.T) {
	dir, _ := oldBackup(t)
	ok(t, store1(t, push.Config{Remote: dir}, 0, 10))
	log, err := open(t, dir).ReadLog(t.Context(), store.LogOptions{})
	if ok(t, err); log.Backup() == "" || log.Unsealed == 0 {
		t.Errorf("backup %q, %d files without a checksum", log.Backup(), log.Unsealed)
	}
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	again, err := open(t, dir).ReadLog(t.Context(), store.LogOptions{})
	if ok(t, err); again.Backup() != log.Backup() || again.Unsealed != 0 {
		t.Errorf("backup %q became %q, %d files without a checksum", log.Backup(), again.Backup(), again.Unsealed)
	}
}

// signingKey makes a key for tests.
func signingKey(t *testing.T) *sign.Key {
	t.Helper()
	need.Tools(t, "ssh-keygen")
	file := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	key, err := sign.LoadKey(file, nil)
	ok(t, err)
	t.Cleanup(func() { ok(t, key.Close()) })
	return key
}

func signingStore(t *testing.T, dir string, key *sign.Key) *store.Store {
	t.Helper()
	st, err := store.OpenWith(t.Context(), dir, store.Options{Sign: key.Sign})
	ok(t, err)
	t.Cleanup(func() { ok(t, st.Close()) })
	return st
}

// TestSigningWhatNobodySigned puts an entry that nobody signed into a signed log.
func TestSigningWhatNobodySigned(t *testing.T) {
	key, dir := signingKey(t), filepath.Join(t.TempDir(), "b")
	signing := Signing{Signs: true, Signers: key.Signers()}
	ok(t, store1(t, push.Config{Remote: dir, Key: key}, 0, 10))
	ok(t, Compact(t.Context(), signingStore(t, dir, key), signing, env()))
	ok(t, store1(t, push.Config{Remote: dir, Key: key, Signers: key.Signers()}, 10, 20))
	if p := problems(t, dir, VerifyConfig{Deep: true, Signers: key.Signers()}); p != nil {
		t.Fatal(p)
	}
	ok(t, store1(t, push.Config{Remote: dir}, 20, 30)) // by nobody
	if p := problems(t, dir, VerifyConfig{Signers: key.Signers()}); len(p) != 1 || !strings.HasPrefix(p[0], "signature: log/") {
		t.Errorf("verify says %q", p)
	}
	if err := Compact(t.Context(), signingStore(t, dir, key), signing, env()); !errors.Is(err, store.ErrUnsigned) {
		t.Errorf("compact: %v", err)
	}
	if err := Prune(t.Context(), signingStore(t, dir, key), PruneConfig{Really: true, Signing: signing}, env(), io.Discard); !errors.Is(err, store.ErrUnsigned) {
		t.Errorf("prune: %v", err)
	}
	for name, err := range map[string]error{
		"pull":   pull.Run(t.Context(), pull.Config{Remote: dir, Transfers: 1, Memory: 1 << 20, Signers: key.Signers()}, env(), io.Discard),
		"cursor": Cursor(t.Context(), open(t, dir), store.LogOptions{Signed: key.Signers().Check()}, false, env(), io.Discard),
	} {
		if !errors.Is(err, store.ErrUnsigned) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, status := restored(t, pull.Config{Remote: dir, SkipDamaged: true, Signers: key.Signers()}, nil); !slices.Equal(got, []string{"id/0 [[0 20]]"}) || status != command.Loss {
		t.Errorf("restored %q with status %d", got, status)
	}
	// A run that goes by signatures does not believe it either.
	if err := store1(t, push.Config{Remote: dir, Key: key, Signers: key.Signers()}, 20, 30); command.StatusOf(err) != command.Loss {
		t.Errorf("push: %v", err)
	}
	signing.Unsigned = true
	ok(t, Compact(t.Context(), signingStore(t, dir, key), signing, env()))
	if p := problems(t, dir, VerifyConfig{Deep: true, Signers: key.Signers()}); p != nil {
		t.Error(p)
	}
}

// TestCompactByItself has runs that compact the log when it has five entries.
func TestCompactByItself(t *testing.T) {
	for name, key := range map[string]*sign.Key{"plain": nil, "signed": signingKey(t)} {
		dir := filepath.Join(t.TempDir(), "b")
		cfg := push.Config{Remote: dir, CompactAfter: 5, Key: key}
		verify := VerifyConfig{Deep: true}
		if key != nil {
			verify.Signers = key.Signers()
		}
		for from := int64(0); from < 120; from += 10 {
			ok(t, store1(t, cfg, from, from+10))
			if n := len(entriesOf(t, dir)); n > 5 {
				t.Fatalf("%s: %d files in the log", name, n)
			}
		}
		if p := problems(t, dir, verify); p != nil {
			t.Error(name, p)
		}
		if got, status := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"id/0 [[0 120]]"}) || status != command.OK {
			t.Errorf("%s: restored %q with status %d", name, got, status)
		}
	}
}

// TestCompactByItselfAtOnce has several writers that all compact by themselves.
func TestCompactByItselfAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	ok(t, store1(t, push.Config{Remote: dir}, 0, 10))
	var runs sync.WaitGroup
	for i := range int64(3) {
		runs.Go(func() {
			for n := range int64(8) {
				from := 10 + (n*3+i)*10
				if err := store1(t, push.Config{Remote: dir, CompactAfter: 2}, from, from+10); err != nil {
					t.Error(err)
				}
			}
		})
	}
	runs.Wait()
	if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
		t.Error(p)
	}
	if got, status := restored(t, pull.Config{Remote: dir}, nil); !slices.Equal(got, []string{"id/0 [[0 250]]"}) || status != command.OK {
		t.Errorf("restored %q with status %d", got, status)
	}
}
