package store

import (
	"context"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
)

// Values are what a backup has for a shell that completes a line. The backup is the first
// argument that is typed. It is only read, but a remote that signs in by OAuth may note a new
// token in rclone's file, as rclone does.
func Values() map[string]command.Completer {
	return map[string]command.Completer{
		"TOPIC": ask(topics),
		"point": ask(func(ctx context.Context, s *Store) ([]string, error) {
			return points(ctx, s, func(p commitlog.RestorePoint) string { return p.Entry })
		}),
		"at": ask(func(ctx context.Context, s *Store) ([]string, error) {
			return points(ctx, s, func(p commitlog.RestorePoint) string {
				return time.UnixMilli(p.Time).UTC().Format(time.RFC3339Nano) // nothing is cut off: it is the point's own time
			})
		}),
	}
}

func ask(list func(context.Context, *Store) ([]string, error)) command.Completer {
	return func(ctx context.Context, c *cli.Context) []string {
		if c.Args().First() == "" {
			return nil
		}
		s, err := Open(ctx, c.Args().First())
		if err != nil {
			return nil
		}
		defer s.Close()
		names, err := list(ctx, s)
		if err != nil {
			return nil
		}
		return names
	}
}

// topics are those that the manifest names, which is one file to read, or else the log.
func topics(ctx context.Context, s *Store) ([]string, error) {
	m, err := s.manifest(ctx)
	if err != nil {
		return nil, err
	}
	if m == nil {
		log, err := s.sums(ctx)
		if err != nil {
			return nil, err
		}
		m = log.Manifest()
	}
	var names []string
	for _, t := range m.Topics {
		names = append(names, t.Name)
	}
	return slices.Compact(names), nil
}

// points are the restore points, the newest first.
func points(ctx context.Context, s *Store, name func(commitlog.RestorePoint) string) ([]string, error) {
	log, err := s.sums(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range slices.Backward(log.Points()) {
		names = append(names, name(p))
	}
	return slices.Compact(names), nil
}

// sums reads what the log says beside single segments, as far as it can be read.
func (s *Store) sums(ctx context.Context) (*Log, error) {
	return s.ReadLog(ctx, LogOptions{Keep: func(string, int32) bool { return false }, SkipDamaged: true})
}
