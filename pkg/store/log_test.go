package store

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/commitlog"
)

// TestListMany lists more objects than a remote hands over at once.
func TestListMany(t *testing.T) {
	for _, name := range []string{"memory", "s3", "local"} {
		t.Run(name, func(t *testing.T) {
			s := open(t, remotes[name](t))
			want := make(map[string]int)
			for i := range 450 {
				path := fmt.Sprintf("%s/orders/partition=%d/object-%d", commitlog.TopicsDir, i%7, i)
				if err := s.PutSegment(t.Context(), path, []byte(path), commitlog.HashOf([]byte(path)).String()); err != nil {
					t.Fatal(err)
				}
				want[path] = 1
			}
			got := make(map[string]int)
			err := s.List(t.Context(), commitlog.TopicsDir, func(path string, size int64) error {
				got[path]++
				if size != int64(len(path)) {
					t.Errorf("%s has %d bytes", path, size)
				}
				time.Sleep(time.Millisecond) // those who use it do something
				return nil
			})
			if err != nil || !maps.Equal(got, want) {
				t.Errorf("%d different objects of %d, %v", len(got), len(want), err)
			}
		})
	}
}

// TestSnapshots does on every remote what a catalog does: it lists, writes a snapshot
// with an index, reads it again, and deletes what it stands for.
func TestSnapshots(t *testing.T) {
	for name, remote := range remotes {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			s := open(t, remote(t))
			if err := s.List(ctx, commitlog.TopicsDir, func(string, int64) error { return errors.New("there is nothing") }); err != nil {
				t.Fatalf("an empty store: %v", err)
			}
			run := commitlog.NewRun()
			sizes := make(map[string]int64)
			for p := range int32(3) {
				seg, data := segment(t, p, 0)
				if err := s.PutSegment(ctx, seg.Path, data, seg.SHA256.String()); err != nil {
					t.Fatal(err)
				}
				sizes[seg.Path] = int64(len(data))
				if _, err := checkpoint(s, run, seg); err != nil {
					t.Fatal(err)
				}
			}
			listed := make(map[string]int64)
			err := s.List(ctx, commitlog.TopicsDir, func(path string, size int64) error {
				listed[path] = size
				return nil
			})
			if err != nil || len(listed) != len(sizes) {
				t.Fatalf("listed %v, %v", listed, err)
			}
			for path, size := range sizes {
				if got, ok := listed[path]; !ok || got != size {
					t.Errorf("%s has %d bytes in the listing, want %d", path, got, size)
				}
			}
			var found []string
			if err := s.Backups(ctx, "", 2, func(dir string) error { found = append(found, dir); return nil }); err != nil || !slices.Equal(found, []string{""}) {
				t.Errorf("backups %q, %v", found, err)
			}

			state, err := s.LoadLog(ctx)
			if err != nil {
				t.Fatal(err)
			}
			index, err := state.WriteIndex("orders", "t1", func(data []byte) (commitlog.File, error) {
				return s.WriteFile(ctx, commitlog.IndexPath("orders", commitlog.Sum(data)), data)
			})
			if err != nil || len(index) != 1 {
				t.Fatalf("%v, %v", index, err)
			}
			n := state.Snapshot(time.Now(), func(string, string) []commitlog.IndexFile { return index }, func(string, commitlog.Head) bool { return true })
			if err := s.WriteSnapshot(ctx, n); err != nil {
				t.Fatal(err)
			}
			files, err := s.ListLog(ctx)
			if err != nil || len(files.Entries) != 3 || len(files.Snapshots) != 1 {
				t.Fatalf("in the log: %q, %v", files, err)
			}
			for i := range 2 { // what is gone is none to delete
				if err := s.Remove(ctx, files.Entries); err != nil {
					t.Errorf("delete, %d: %v", i, err)
				}
				again, err := s.LoadLog(ctx)
				if err != nil || again.Entries() != 3 || len(slices.Collect(again.Segments())) != 3 {
					t.Fatalf("%d: %+v, %v", i, again, err)
				}
			}
			if _, err := checkpoint(s, run); err != nil { // the run goes on
				t.Fatal(err)
			}
			if again, err := s.LoadLog(ctx); err != nil || again.Entries() != 4 {
				t.Errorf("the chain does not go on behind a snapshot: %v", err)
			}

			// The index is damaged, and then gone.
			overwrite(t, s, index[0].Path, []byte("else"))
			if _, err := s.LoadLog(ctx); !IsDamage(err) || !strings.Contains(err.Error(), index[0].Path) {
				t.Errorf("damaged index: got %v", err)
			}
			none := func(string, int32) bool { return false }
			if _, err := s.ReadLog(ctx, LogOptions{Keep: none}); err != nil {
				t.Errorf("an index that nobody asked for: %v", err)
			}
			remove(t, s, index[0].Path)
			if err := s.ReadFile(ctx, index[0].File, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); !errors.Is(err, ErrNotFound) {
				t.Errorf("missing index: got %v", err)
			}
			if _, err := s.LoadLog(ctx); !IsDamage(err) || !strings.Contains(err.Error(), index[0].Path) {
				t.Errorf("a log without its index: got %v", err)
			}
		})
	}
}

// TestLogIsWhole wants every entry to be seen once, with its bytes, in order.
func TestLogIsWhole(t *testing.T) {
	s := open(t, t.TempDir())
	run := commitlog.NewRun()
	var want []string
	for i := range int64(40) {
		seg, _ := segment(t, 0, i*10)
		e, err := checkpoint(s, run, seg)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, commitlog.EntryPath(e.ID))
	}
	var got []string
	_, err := s.ReadLog(t.Context(), LogOptions{
		Begin: func() { got = nil },
		Entry: func(e *commitlog.Entry, sha string) error {
			name := commitlog.EntryPath(e.ID)
			if stored := readObject(t, s, name); digest(stored) != sha {
				t.Errorf("%s is something else", name)
			}
			got = append(got, name)
			return nil
		},
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestReadWhileRunsEnd reads a log while one run after the other ends, each of them between the
// reader's list and its reading of the manifest. Nothing is missing then: it was not there yet.
func TestReadWhileRunsEnd(t *testing.T) {
	for _, name := range []string{"local", "memory"} {
		t.Run(name, func(t *testing.T) {
			ctx, s, ended := t.Context(), open(t, remotes[name](t)), 0
			backup := commitlog.NewBackup()
			end := func() {
				t.Helper()
				e := &commitlog.Entry{Backup: backup, Filters: []string{}, Final: true}
				commitlog.NewRun().Stamp(e, time.Now())
				if _, err := s.AppendEntry(ctx, e); err != nil {
					t.Fatal(err)
				}
				ended++
				state := new(commitlog.State)
				state.Fold(e, "")
				if err := s.WriteManifest(ctx, state.Manifest()); err != nil {
					t.Fatal(err)
				}
			}
			end()
			known, due := 0, false // when the reader began last
			log, err := s.ReadLog(ctx, LogOptions{
				Begin: func() { known, due = ended, true },
				Entry: func(*commitlog.Entry, string) error {
					if due {
						end()
					}
					due = false
					return nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if log.Entries() != known || ended < 3 {
				t.Errorf("%d entries of %d that were there when reading began; %d runs ended", log.Entries(), known, ended)
			}
		})
	}
}
