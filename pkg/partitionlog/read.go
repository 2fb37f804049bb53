package partitionlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// Isolation levels of Read.
const (
	Uncommitted = 0
	Committed   = 1
)

const (
	// fetchWait is how long a broker may wait for records.
	fetchWait = 500 * time.Millisecond
	// confirmEmpty is how many empty answers in a row are taken for more than chance.
	confirmEmpty = 3
)

// Read returns what one answer of the leader holds, from an offset on: size bytes, or
// one batch if that is larger.
func (g *Logs) Read(ctx context.Context, p Partition, from int64, size int32, isolation int8) (*kmsg.FetchResponseTopicPartition, error) {
	var out *kmsg.FetchResponseTopicPartition
	err := g.Retry(ctx, p, func(ctx context.Context, since time.Time) (err error) {
		out, err = g.fetch(ctx, p, since, from, size, isolation)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s from offset %d: %w", p, from, err)
	}
	return out, nil
}

// ReadBelow is Read at level Committed where the last stable offset is known to be to or
// above. It waits for an answer with a batch. An answer without one says that the log
// holds nothing more from that offset up to to: compaction took the rest.
func (g *Logs) ReadBelow(ctx context.Context, p Partition, from, to int64, size int32) (*kmsg.FetchResponseTopicPartition, error) {
	var out *kmsg.FetchResponseTopicPartition
	err := g.Retry(ctx, p, func(ctx context.Context, since time.Time) error {
		for range confirmEmpty {
			var err error
			if out, err = g.fetch(ctx, p, since, from, size, Committed); err != nil {
				return err
			}
			if reaches(out.RecordBatches, from) {
				return nil
			}
			if out.LastStableOffset < to {
				return errors.New("the broker sends nothing")
			}
		}
		out.RecordBatches = nil
		return g.notRemote(ctx, p, from)
	})
	if err != nil {
		return nil, fmt.Errorf("read %s from offset %d: %w", p, from, err)
	}
	return out, nil
}

// A foundBatch is where a batch that was sent is in the log.
type foundBatch struct {
	sent             int // which of them
	base, appendTime int64
}

// findSize is how much find reads at once.
const findSize = 1 << 20

// find looks from an offset on for batches that were sent, in their order. They are known
// by producer, epoch, sequence and length. What it has found counts where it fails, too.
func (g *Logs) find(ctx context.Context, p Partition, from int64, sent []recordbatch.Batch) (found []foundBatch, err error) {
	ends, err := g.ends(ctx, []Partition{p}, debugging)
	if err != nil {
		return nil, err
	}
	end, left := ends[p], sent
	for at := from; at < end && len(left) > 0; {
		answer, err := g.fetch(ctx, p, time.Time{}, at, findSize, Uncommitted)
		if errors.Is(err, kerr.OffsetOutOfRange) { // what was there may be deleted
			var start int64
			if start, err = g.start(ctx, p); err == nil && start > at {
				at = start
				continue
			}
			err = cmp.Or(err, error(kerr.OffsetOutOfRange))
		}
		if err != nil {
			return found, err
		}
		next := at
		for records := answer.RecordBatches; len(records) > 0; {
			b, rest, err := recordbatch.CutChecked(records)
			if errors.Is(err, recordbatch.ErrPartial) {
				break
			}
			if err != nil {
				return found, fmt.Errorf("read %s: %w", p, err)
			}
			if len(left) > 0 && b.First >= from && sameBatch(&b, &left[0]) {
				f := foundBatch{sent: len(sent) - len(left), base: b.First, appendTime: -1}
				if b.LogAppendTime() {
					f.appendTime = b.MaxTimestamp
				}
				found, left = append(found, f), left[1:]
			}
			records, next = rest, max(next, b.Last+1)
		}
		if next == at {
			return found, &behind{p, at, end}
		}
		at = next
	}
	return found, nil
}

// start is where a partition's log starts.
func (g *Logs) start(ctx context.Context, p Partition) (int64, error) {
	listed, err := g.adm.ListStartOffsets(ctx, p.Topic)
	if err != nil {
		return 0, err
	}
	o, ok := listed.Lookup(p.Topic, p.Num)
	if !ok {
		return 0, errNoAnswer
	}
	return o.Offset, o.Err
}

func sameBatch(a, b *recordbatch.Batch) bool {
	return a.ProducerID == b.ProducerID && a.ProducerEpoch == b.ProducerEpoch && a.Sequence == b.Sequence && a.Last-a.First == b.Last-b.First
}

// reaches tells whether there is a whole batch in b that ends at an offset or behind it,
// or something that is no batch: that is for the caller to find.
func reaches(b []byte, offset int64) bool {
	for {
		t, rest, err := recordbatch.CutChecked(b)
		if err != nil {
			return !errors.Is(err, recordbatch.ErrPartial)
		}
		if t.Last >= offset {
			return true
		}
		b = rest
	}
}

// notRemote returns an error where a partition may have an offset in remote storage: a
// broker answers without records while it waits for that.
func (g *Logs) notRemote(ctx context.Context, p Partition, offset int64) error {
	local, err := kafka.LocalStart(ctx, g.cl, p.Topic, p.Num, offset)
	switch {
	case err != nil:
		return err
	case local < 0:
		return errors.New("the broker's answer has no records, and does not say whether they are in remote storage")
	case local > offset:
		return errors.New("the broker's answer lacks the records, which are in remote storage")
	}
	return nil
}

// fetch asks the leader once.
func (g *Logs) fetch(ctx context.Context, p Partition, since time.Time, from int64, size int32, isolation int8) (*kmsg.FetchResponseTopicPartition, error) {
	answer, err := g.request(ctx, p, since, func(id [16]byte) kmsg.Request {
		req := kmsg.NewPtrFetchRequest()
		req.ReplicaID, req.SessionEpoch, req.IsolationLevel = -1, -1, isolation
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(fetchWait.Milliseconds()), 1, size
		t := kmsg.NewFetchRequestTopic()
		t.Topic, t.TopicID = p.Topic, id
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.FetchOffset, part.CurrentLeaderEpoch, part.PartitionMaxBytes = p.Num, from, -1, size
		t.Partitions = append(t.Partitions, part)
		req.Topics = append(req.Topics, t)
		return req
	})
	if err != nil {
		return nil, err
	}
	resp := answer.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, errNoAnswer
	}
	out := &resp.Topics[0].Partitions[0]
	return out, kerr.ErrorForCode(out.ErrorCode)
}
