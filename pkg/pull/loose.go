package pull

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/segment"
)

// maxLooseFrame bounds the frames in segments that lie by themselves.
const maxLooseFrame = 1 << 30

// looseFile takes a remote that names a stored segment apart, by its name.
func looseFile(remote string) (file, dir string, ok bool) {
	i := strings.LastIndexAny(remote, "/:") + 1
	file, dir = remote[i:], remote[:i]
	if _, _, ok := commitlog.Layers(file); !ok {
		return "", "", false
	}
	if dir == "" {
		dir = "."
	}
	return file, dir, true
}

// looseFolder takes the segments in a folder without a log for a backup.
func (b *backup) looseFolder(ctx context.Context) error {
	var files []string
	err := b.store.List(ctx, "", func(name string, _ int64) error {
		if _, _, ok := commitlog.Layers(path.Base(name)); ok {
			files = append(files, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return command.WithHint(fmt.Errorf("no backup in %s: it has no log", b.store.Name()), "is the path right, and has a kbk-push there finished?")
	}
	if slices.ContainsFunc(files, func(name string) bool { return strings.HasPrefix(name, commitlog.TopicsDir+"/") }) {
		// What a run has stored, and not committed, is no backup.
		return command.WithHint(fmt.Errorf("no backup in %s: there are segments, and no log that lists them", b.store.Name()),
			"the kbk-push that stored them did not come to its first checkpoint: run its line again; to read them all the same, name the folder "+commitlog.TopicsDir+" in it")
	}
	slices.Sort(files)
	return b.loose(ctx, files)
}

// loose makes a state of segments that no log lists, from what is in them. They are read
// twice: now, and when they are written.
func (b *backup) loose(ctx context.Context, files []string) error {
	entry := new(commitlog.Entry)
	b.paths = make(map[string]string)
	for _, file := range files {
		seg, err := b.describe(ctx, file)
		if err != nil {
			return err
		}
		entry.Segments = append(entry.Segments, *seg)
		b.paths[seg.Path] = file
	}
	b.byAge(entry.Segments)
	entry.Filters = []string{}
	run := commitlog.NewRun()
	run.Stamp(entry, time.Now())
	if _, _, err := commitlog.Encode(entry); err != nil { // what cannot be in a log cannot be in a stream
		return command.WithStatus(command.Corrupt, err)
	}
	b.state = &commitlog.State{Keep: b.matcher.Matches}
	return b.state.Add(entry, "")
}

// byAge puts the incarnations of each topic into an order, the one with the newest record
// last: there is no log to tell which one was first.
func (b *backup) byAge(segments []commitlog.Segment) {
	newest := make(map[[2]string]int64)
	ids := make(map[string]map[string]bool)
	for i := range segments {
		s := &segments[i]
		key := [2]string{s.Topic, s.TopicID}
		if at, known := newest[key]; !known || at < s.MaxTimestamp {
			newest[key] = s.MaxTimestamp
		}
		if ids[s.Topic] == nil {
			ids[s.Topic] = make(map[string]bool)
		}
		ids[s.Topic][s.TopicID] = true
	}
	slices.SortStableFunc(segments, func(x, y commitlog.Segment) int {
		return cmp.Or(cmp.Compare(newest[[2]string{x.Topic, x.TopicID}], newest[[2]string{y.Topic, y.TopicID}]), strings.Compare(x.TopicID, y.TopicID))
	})
	for _, topic := range slices.Sorted(maps.Keys(ids)) {
		if n := len(ids[topic]); n > 1 {
			b.notes = append(b.notes, fmt.Sprintf("topic %s: there are segments of %d incarnations and no log that tells their order; the one with the newest record is taken for the newest", topic, n))
		}
	}
}

func (b *backup) describe(ctx context.Context, file string) (*commitlog.Segment, error) {
	codec, cipher, _ := commitlog.Layers(path.Base(file))
	if cipher != "" {
		return nil, command.WithHint(fmt.Errorf("%s: it is encrypted, and without a log only its inside tells what it holds", file),
			"open it: age -d -i KEY "+path.Base(file)+" | zstd -d is a stream of records for kbk-produce")
	}
	data, err := b.store.ReadLoose(ctx, file)
	if err != nil {
		return nil, err
	}
	m, err := segment.Describe(codec, data, maxLooseFrame)
	if err != nil {
		return nil, command.WithStatus(command.Corrupt, fmt.Errorf("%s: %w", file, err))
	}
	seg, err := commitlog.SegmentOf(m, "")
	if err != nil {
		err = command.WithStatus(command.Corrupt, fmt.Errorf("%s: %w", file, err))
	}
	return &seg, err
}
