package produce

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/command"
)

// A filler has batches of records with nothing in them: null key, null value, no
// headers, the timestamp 0. A hundred thousand take 60 KB. Their timestamp lets the
// broker begin a new segment for the records behind them, and so drop theirs.
type filler struct {
	sum uint64 // by which such a record is known again

	once sync.Once
	full []byte // a batch of fillerRecords
	err  error
}

const (
	fillerRecords = 100_000
	fillerTimeout = 30 * time.Second
)

// Offsets of a record batch's fields (DefaultRecordBatch).
const (
	batchLength     = 8
	batchMagic      = 16
	batchCRC        = 17
	batchAttributes = 21
	batchLastDelta  = 23
	batchProducer   = 43
	batchEpoch      = 51
	batchSequence   = 53
	batchCount      = 57
	batchHeader     = 61
	codecZstd       = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var emptyRecord = &kgo.Record{Timestamp: time.UnixMilli(0)}

// batch returns a batch of n empty records that lacks a producer and a checksum.
func (f *filler) batch(n int64) ([]byte, error) {
	if n < fillerRecords {
		return emptyBatch(int(n))
	}
	f.once.Do(func() { f.full, f.err = emptyBatch(fillerRecords) })
	return append([]byte(nil), f.full...), f.err
}

func emptyBatch(n int) ([]byte, error) {
	var plain, r []byte
	for i := range n {
		r = append(r[:0], 0)                 // attributes
		r = binary.AppendVarint(r, 0)        // timestamp, from the batch's
		r = binary.AppendVarint(r, int64(i)) // offset, from the batch's
		r = append(r, 1, 1, 0)               // key and value: -1, null; no headers
		plain = binary.AppendVarint(plain, int64(len(r)))
		plain = append(plain, r...)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	b := enc.EncodeAll(plain, make([]byte, batchHeader, batchHeader+n))
	binary.BigEndian.PutUint32(b[batchLength:], uint32(len(b)-batchLength-4))
	b[batchMagic] = 2
	binary.BigEndian.PutUint16(b[batchAttributes:], codecZstd)
	binary.BigEndian.PutUint32(b[batchLastDelta:], uint32(n-1))
	binary.BigEndian.PutUint32(b[batchCount:], uint32(n))
	return b, nil
}

// seal gives a batch its producer, its place among that producer's and its checksum.
func seal(b []byte, producer int64, epoch int16, sequence int64) {
	binary.BigEndian.PutUint64(b[batchProducer:], uint64(producer))
	binary.BigEndian.PutUint16(b[batchEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(b[batchSequence:], uint32(sequence))
	binary.BigEndian.PutUint32(b[batchCRC:], crc32.Checksum(b[batchAttributes:], castagnoli))
}

// fill takes a lane from one offset to another by records that hold nothing. Each batch
// has a producer and a sequence number: it is written once or not at all.
func (p *producer) fill(ctx context.Context, l *lane, at, to int64) error {
	g := p.targets.logs
	began, moved := time.Now(), time.Now()
	from := at
	for at < to {
		err := p.fillUntilTrouble(ctx, l, &at, to)
		if err == nil {
			break
		}
		var ke *kerr.Error
		if errors.As(err, &ke) && !ke.Retriable || ctx.Err() != nil || time.Since(moved) > patience {
			return err
		}
		end, err := g.settledEnd(ctx, l.target.name, l.num)
		if err != nil {
			return err
		}
		if end > to || end < from {
			return fmt.Errorf("the log's end is %d where it was filled from %d: somebody else writes to it", end, from)
		}
		if end > at {
			moved = time.Now()
		}
		at = end
	}
	p.env.Log.Info(fmt.Sprintf("filled %s of topic %s, partition %d, to be deleted", command.Count(to-from, "offset"), l.target.name, l.num), "in", since(began))
	return nil
}

// fillUntilTrouble fills by one producer, and keeps count in at.
func (p *producer) fillUntilTrouble(ctx context.Context, l *lane, at *int64, to int64) error {
	g := p.targets.logs
	broker, id, err := g.leader(ctx, l.target.name, l.num)
	if err != nil {
		return err
	}
	producer, epoch, err := newProducerID(ctx, g.cl)
	if err != nil {
		return err
	}
	records, sequence := int64(fillerRecords), int64(0)
	for *at < to {
		n := min(to-*at, records)
		b, err := p.filler.batch(n)
		if err != nil {
			return err
		}
		if len(b) > int(l.target.maxBatch) && n > 1 {
			records = n / 2
			continue
		}
		seal(b, producer, epoch, sequence)
		base, err := g.produce(ctx, broker, l, id, b)
		if err != nil {
			return err
		}
		if base != *at {
			return fmt.Errorf("a filler went to offset %d, where %d was next: somebody else writes to it", base, *at)
		}
		*at += n
		sequence = (sequence + n) & 0x7fffffff // DefaultRecordBatch.incrementSequence
	}
	return nil
}

// produce sends one batch to a partition's leader and returns the offset of its first
// record.
func (g *logs) produce(ctx context.Context, broker int32, l *lane, id [16]byte, batch []byte) (int64, error) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(fillerTimeout.Milliseconds())
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID = l.target.name, id
	part := kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = l.num, batch
	t.Partitions = append(t.Partitions, part)
	req.Topics = append(req.Topics, t)
	answer, err := g.cl.Broker(int(broker)).Request(ctx, req)
	if err != nil {
		return 0, err
	}
	resp := answer.(*kmsg.ProduceResponse)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, errors.New("the broker did not answer for the partition")
	}
	rp := &resp.Topics[0].Partitions[0]
	return rp.BaseOffset, kerr.ErrorForCode(rp.ErrorCode)
}
