package offsets

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/partitionlog"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

const (
	readers     = 8                // partitions that are read at once
	scanBytes   = 1 << 20          // of one partition in one response, to read all of it
	peekBytes   = 16 << 10         // or one record; a broker sends a whole batch in any case
	readTimeout = 30 * time.Second // without progress
)

// existing are topics as they are in a cluster, those that do not exist left out.
type existing struct {
	cl     *kgo.Client
	adm    *kadm.Client
	topics kadm.TopicDetails
}

func lookAtTopics(ctx context.Context, cl *kgo.Client, topics []string) (*existing, error) {
	e := &existing{cl: cl, adm: kadm.NewClient(cl), topics: make(kadm.TopicDetails)}
	if len(topics) == 0 { // none would mean all
		return e, nil
	}
	meta, err := e.adm.Metadata(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("look at the topics: %w", err)
	}
	for name, t := range meta.Topics {
		if t.Err == nil {
			e.topics[name] = t
		}
	}
	return e, nil
}

// id returns the topic id of a topic, "" where there is none.
func (e *existing) id(topic string) string { return kafka.FormatTopicID(e.topics[topic].ID) }

// committed returns where the partitions that exist begin, and where what is committed
// in them ends.
func (e *existing) committed(ctx context.Context) (map[place][2]int64, error) {
	return e.every(ctx, true)
}

// whole is committed with open transactions.
func (e *existing) whole(ctx context.Context) (map[place][2]int64, error) {
	return e.every(ctx, false)
}

// every is for those who can do nothing with bounds of some partitions alone.
func (e *existing) every(ctx context.Context, committed bool) (all map[place][2]int64, err error) {
	err = kafka.Retry(ctx, e.adm, kafka.Patience, func() error {
		bounds, unknown := e.bounds(ctx, committed)
		for p, err := range unknown {
			return fmt.Errorf("list offsets of %s: %w", p, err)
		}
		all = bounds
		return nil
	})
	return all, err
}

// leaderMoves is how long a partition may be without a leader because another broker takes it
// over.
const leaderMoves = 3 * time.Second

// bounds returns where the partitions that exist begin and end, and why that cannot be
// had of some. Of those whose leader moves, it asks again for a moment.
func (e *existing) bounds(ctx context.Context, committed bool) (bounds map[place][2]int64, unknown map[place]error) {
	_ = kafka.Retry(ctx, e.adm, leaderMoves, func() error {
		bounds, unknown = e.listBounds(ctx, committed)
		for _, err := range unknown {
			if kafka.Transient(err) {
				return err
			}
		}
		return nil
	})
	return bounds, unknown
}

func (e *existing) listBounds(ctx context.Context, committed bool) (bounds map[place][2]int64, unknown map[place]error) {
	asked := make(map[string][]int32)
	for name, t := range e.topics {
		asked[name] = slices.Collect(maps.Keys(t.Partitions))
	}
	starts := kafka.ListOffsets(ctx, e.cl, asked, kafka.StartOffset, false)
	ends := kafka.ListOffsets(ctx, e.cl, asked, kafka.EndOffset, committed)
	bounds, unknown = make(map[place][2]int64), make(map[place]error)
	for topic, nums := range asked {
		for _, num := range nums {
			start, end := starts.Of(topic, num), ends.Of(topic, num)
			if err := cmp.Or(end.Err, start.Err); err != nil {
				unknown[place{topic, num}] = err
				continue
			}
			bounds[place{topic, num}] = [2]int64{start.Offset, end.Offset}
		}
	}
	return bounds, unknown
}

// A reader reads committed records from known offsets on.
type reader struct {
	*existing
	logs *partitionlog.Logs
}

// newReader returns a reader of topics. What keeps it waiting is said in log. It ends
// with ctx.
func newReader(ctx context.Context, cl *kgo.Client, log *slog.Logger, topics []string) (*reader, error) {
	e, err := lookAtTopics(ctx, cl, topics)
	if err != nil {
		return nil, err
	}
	return &reader{e, partitionlog.New(ctx, cl, log, readTimeout)}, nil
}

// each calls do with each committed record of offsets [from, to), until it says that
// this is enough. A record holds until do returns. to is at most the last stable offset.
func (r *reader) each(ctx context.Context, p place, from, to int64, bytes int32, do func(*format.Record) (enough bool)) error {
	d := recordbatch.NewDecoder()
	for from < to {
		rp, err := r.logs.ReadBelow(ctx, partitionlog.Partition{Topic: p.topic, Num: p.num}, from, to, bytes)
		if err != nil {
			return err
		}
		if len(rp.RecordBatches) == 0 {
			return nil
		}
		next, enough, err := decode(d, rp, from, to, do)
		if err != nil {
			return fmt.Errorf("read %s: %w", p, err)
		}
		if enough {
			return nil
		}
		from = next
	}
	return nil
}

// decode calls do with the committed records of a response, and returns what offset it
// has come to.
func decode(d *recordbatch.Decoder, rp *kmsg.FetchResponseTopicPartition, from, to int64, do func(*format.Record) bool) (next int64, enough bool, err error) {
	aborted := recordbatch.NewAborted(rp.AbortedTransactions)
	next = from
	var rec format.Record
	for b := rp.RecordBatches; len(b) > 0 && next < to; {
		t, rest, err := recordbatch.Cut(b)
		if errors.Is(err, recordbatch.ErrPartial) {
			break
		}
		if err != nil {
			return 0, false, err
		}
		b, next = rest, max(next, t.Last+1)
		data, err := aborted.Data(t, d)
		if err != nil {
			return 0, false, err
		}
		if !data {
			continue
		}
		if err := d.Open(t); err != nil {
			return 0, false, err
		}
		for {
			ok, err := d.Next(&rec)
			if err != nil {
				return 0, false, err
			}
			if !ok {
				break
			}
			if rec.Offset >= from && rec.Offset < to && do(&rec) {
				return next, true, nil
			}
		}
	}
	return next, false, nil
}

// peek returns, for each offset of each partition, the first committed record that is
// not below it; where there is none, nothing. The offsets are ascending. Of partitions
// that cannot be read it returns why.
func (r *reader) peek(ctx context.Context, wanted map[place][]int64) (map[place]map[int64]format.NextRecord, map[place]error) {
	bounds, unknown := r.bounds(ctx, true)
	out := make(map[place]map[int64]format.NextRecord, len(wanted))
	unread := make(map[place]error)
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(readers)
	for p, offsets := range wanted {
		b, ok := bounds[p]
		if !ok {
			if err := unknown[p]; err != nil {
				unread[p] = err
			}
			continue
		}
		found := make(map[int64]format.NextRecord)
		out[p] = found
		g.Go(func() error {
			if err := r.peekOne(ctx, p, b, offsets, found); err != nil {
				mu.Lock()
				defer mu.Unlock()
				unread[p] = err
			}
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	return out, unread
}

// peekOne is peek in one partition, which holds [b[0], b[1]).
func (r *reader) peekOne(ctx context.Context, p place, b [2]int64, offsets []int64, found map[int64]format.NextRecord) error {
	for len(offsets) > 0 {
		before := len(offsets)
		err := r.each(ctx, p, max(offsets[0], b[0]), b[1], peekBytes, func(rec *format.Record) bool {
			if offsets[0] <= rec.Offset {
				next := nextRecord(rec)
				for len(offsets) > 0 && offsets[0] <= rec.Offset {
					found[offsets[0]] = next
					offsets = offsets[1:]
				}
			}
			// What is far away is asked for anew.
			return len(offsets) == 0 || offsets[0] > rec.Offset+1000
		})
		if err != nil {
			return err
		}
		if len(offsets) == before {
			return nil // nothing more up to the end
		}
	}
	return nil
}

// originHeader begins the names of the headers that kbk-produce adds, with
// --offset-headers, to say where a record was.
const originHeader = "kbk.source."

// nextRecord tells a record by its content.
func nextRecord(r *format.Record) format.NextRecord {
	bare := format.Record{Timestamp: r.Timestamp, Key: r.Key, Value: r.Value, Headers: r.Headers}
	foreign := func(h format.RecordHeader) bool { return strings.HasPrefix(string(h.Name), originHeader) }
	if slices.ContainsFunc(r.Headers, foreign) {
		bare.Headers = slices.DeleteFunc(slices.Clone(r.Headers), foreign)
	}
	sum := sha256.Sum256(format.AppendRecord(nil, &bare))
	return format.NextRecord{Offset: r.Offset, Timestamp: r.Timestamp, Digest: sum[:]}
}
