package offsets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/partitionlog"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// CursorConfig says of what a cursor is made.
type CursorConfig struct {
	Kafka   kafka.Config
	Topics  func(name string) bool
	Overlap int64 // how many offsets of what is there are to be read again
}

// Cursor writes where the logs of a cluster's topics end, as a cursor for kbk-fetch: a
// mirror goes on there. Topics that are known to be mirrors have the name and the id that
// they have in the source.
func Cursor(ctx context.Context, cfg CursorConfig, log *slog.Logger, out io.Writer) error {
	cl, err := kafka.NewClient(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ids, err := topicIDs(ctx, adm, cfg.Topics)
	if err != nil {
		return err
	}
	at, err := lookAtTopics(ctx, cl, slices.Collect(maps.Keys(ids)))
	if err != nil {
		return err
	}
	maps.DeleteFunc(at.topics, func(_ string, t kadm.TopicDetail) bool { return t.IsInternal })
	bounds, err := at.whole(ctx)
	if err != nil {
		return err
	}
	origins, err := groups.ReadOrigins(ctx, adm, ids)
	if err != nil {
		return err
	}
	logs := partitionlog.New(ctx, cl, log, kafka.Patience)
	unfinished, err := fillersLast(ctx, logs, bounds)
	if err != nil {
		return err
	}
	maps.DeleteFunc(bounds, func(p place, _ [2]int64) bool { return unfinished[p] })
	c, err := cursorOf(bounds, origins, cfg.Overlap)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(c)
}

// cursorOf makes a cursor of where logs begin and end. A log that nothing was ever written
// to is not in it.
func cursorOf(bounds map[place][2]int64, origins map[string]groups.Origin, overlap int64) (*cursor.Cursor, error) {
	c := &cursor.Cursor{Version: cursor.Version, Overlap: overlap, Topics: make(map[string]cursor.Topic)}
	from := make(map[string]string) // which topic a topic of the cursor is made of
	for _, p := range slices.SortedFunc(maps.Keys(bounds), place.compare) {
		if bounds[p][1] == 0 {
			continue
		}
		name, id := p.topic, ""
		if o, ok := origins[p.topic]; ok {
			name, id = o.Topic, o.TopicID
		}
		if other, ok := from[name]; ok && other != p.topic {
			return nil, command.WithHint(fmt.Errorf("topics %s and %s are both mirrors of %s", other, p.topic, name), "choose with -t which of them to go on with")
		}
		from[name] = p.topic
		if c.Topics[name].Partitions == nil {
			c.Topics[name] = cursor.Topic{ID: id, Partitions: make(map[int32]int64)}
		}
		c.Topics[name].Partitions[p.num] = bounds[p][1]
	}
	return c, nil
}

// fillersLast returns the partitions whose logs end with one of the empty records by which
// an exact restore takes a log to where it is to begin: a run was killed before it had
// deleted them, and nothing of the source is there yet.
func fillersLast(ctx context.Context, logs *partitionlog.Logs, bounds map[place][2]int64) (map[place]bool, error) {
	var mu sync.Mutex
	out := make(map[place]bool)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for p, b := range bounds {
		if b[0] > 0 || b[1] == 0 { // they were deleted, or there are none
			continue
		}
		g.Go(func() error {
			filler, err := endsEmpty(ctx, logs, partitionlog.Partition{Topic: p.topic, Num: p.num}, b[1]-1)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			out[p] = filler
			return nil
		})
	}
	return out, g.Wait()
}

// endsEmpty tells whether the record of a log's last offset holds nothing.
func endsEmpty(ctx context.Context, logs *partitionlog.Logs, at partitionlog.Partition, last int64) (bool, error) {
	answer, err := logs.Read(ctx, at, last, 1, partitionlog.Uncommitted)
	if err != nil {
		return false, err
	}
	b, _, err := recordbatch.Cut(answer.RecordBatches)
	switch {
	case errors.Is(err, recordbatch.ErrPartial): // compaction has taken it
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read %s: %w", at, err)
	case b.Control():
		return false, nil
	}
	d := recordbatch.NewDecoder()
	if err := d.Open(b); err != nil {
		return false, fmt.Errorf("read %s: %w", at, err)
	}
	var r format.Record
	for {
		switch ok, err := d.Next(&r); {
		case err != nil:
			return false, fmt.Errorf("read %s: %w", at, err)
		case !ok:
			return false, nil
		case r.Offset == last:
			return recordbatch.Filler(&r), nil
		}
	}
}
