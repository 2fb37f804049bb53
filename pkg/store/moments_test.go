package store

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/commitlog"
)

// TestMomentsBehindJoins has a run whose only entry made a restore point and ended it, and
// which then found that another run had begun the backup at the same time: it wrote one more.
func TestMomentsBehindJoins(t *testing.T) {
	ctx := context.Background()
	s := open(t, filepath.Join(t.TempDir(), "backup"))
	frame, err := (&format.Point{Time: 1}).AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	run, now := commitlog.NewRun(), time.Now()
	for _, e := range []*commitlog.Entry{
		{Backup: commitlog.NewBackup(), Points: []commitlog.Point{{Time: 1, Frame: frame}}, Final: true},
		{Joins: []string{commitlog.NewBackup()}, Final: true},
	} {
		run.Stamp(e, now)
		sha, err := s.AppendEntry(ctx, e)
		if err != nil {
			t.Fatal(err)
		}
		run.Advance(sha)
		now = now.Add(time.Second)
	}
	log, err := s.ReadLog(ctx, LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	points := 0
	err = s.EachMoment(ctx, log.State, func(err error) error { return err }, func(*commitlog.Moment) error { points++; return nil })
	if err != nil || points != 1 {
		t.Errorf("%d points: %v", points, err)
	}
}
