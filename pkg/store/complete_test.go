package store

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/commitlog"
)

// offered is what is completed for a backup.
func offered(t *testing.T, remote, what string) string {
	t.Helper()
	set := flag.NewFlagSet("kbk-x", flag.ContinueOnError)
	if err := set.Parse([]string{"--", remote}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(Values()[what](context.Background(), cli.NewContext(nil, set, nil)), " ")
}

// files are those below a folder, with their sizes and times.
func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			out = append(out, fmt.Sprint(path, info.Size(), info.ModTime()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestComplete wants topics and restore points of a backup, and nothing to be written.
func TestComplete(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "nightly")
	for _, what := range []string{"TOPIC", "point", "at"} {
		if got := offered(t, "", what); got != "" {
			t.Errorf("%s without a remote: %q", what, got)
		}
		if got := offered(t, dir, what); got != "" {
			t.Errorf("%s of no backup: %q", what, got)
		}
	}
	if made := files(t, home); len(made) != 1 {
		t.Fatalf("%q", made)
	}

	s := open(t, dir)
	id, run := commitlog.NewBackup(), commitlog.NewRun()
	var points []string
	for i, ms := range []int64{1795849188000, 1795849188125} {
		seg, data := segment(t, 0, int64(i)*10)
		if err := s.PutSegment(t.Context(), seg.Path, data, seg.SHA256.String()); err != nil {
			t.Fatal(err)
		}
		frame, err := (&format.Point{Time: ms}).AppendFrame(nil)
		if err != nil {
			t.Fatal(err)
		}
		e := &commitlog.Entry{Tool: "test", Backup: id, Segments: []commitlog.Segment{seg}, Points: []commitlog.Point{{Time: ms, Frame: frame}}}
		run.Stamp(e, time.Now())
		sha, err := s.AppendEntry(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		run.Advance(sha)
		points = append(points, e.ID)
	}
	slices.Reverse(points)
	want := map[string]string{
		"TOPIC": "orders",
		"point": strings.Join(points, " "),
		"at":    "2026-11-28T06:59:48.125Z 2026-11-28T06:59:48Z",
	}
	check := func() {
		t.Helper()
		before := files(t, home)
		for what, want := range want {
			if got := offered(t, dir, what); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		if after := files(t, home); !slices.Equal(before, after) {
			t.Errorf("completing has written:\n%q\n%q", before, after)
		}
	}
	check()

	// Where there is a manifest, topics need no more than that.
	m := commitlog.NewManifest(id, time.Now())
	m.Topics = []commitlog.ManifestTopic{{Name: "orders", ID: "1"}, {Name: "orders", ID: "2"}, {Name: "payments"}}
	if err := s.WriteManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	want["TOPIC"] = "orders payments"
	check()
}
