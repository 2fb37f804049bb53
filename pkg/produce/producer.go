package produce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// A producer hands records to the client, which keeps them until they are
// acknowledged, and turns acknowledgements into map frames.
type producer struct {
	cl      *kgo.Client
	large   *kgo.Client // see produceLarge; nil until it is needed
	connect func(...kgo.Opt) (*kgo.Client, error)
	targets *targets
	arena   arena
	fail    context.CancelCauseFunc

	mu    sync.Mutex // what promises and follow share
	maps  *format.Writer
	acked int64
	sent  []*partition // all that have had a record
}

// A partition is a source partition on its way to its target.
type partition struct {
	source *source
	num    int32
	sent   []run      // offsets handed to the client and not acknowledged, in order
	done   format.Map // the run of acknowledged records that grows

	promise func(*kgo.Record, error) // one for all records
}

// A run is count offsets from first.
type run struct{ first, count int64 }

// follow produces records until the end of the stream.
func (p *producer) follow(ctx context.Context, r *format.Reader) (*format.End, error) {
	var rec format.Record
	var last *partition
	for {
		f, err := r.Next()
		if err != nil {
			return nil, command.Input(err)
		}
		switch f.Kind {
		case format.KindTopic:
			t, err := format.DecodeTopic(f.Raw)
			if err != nil {
				return nil, command.Input(err)
			}
			p.targets.describe(t)
		case format.KindRec:
			if err := f.Record(&rec); err != nil {
				return nil, command.Input(err)
			}
			if last == nil || last.num != rec.Partition || last.source.name != rec.Topic {
				if last, err = p.partition(ctx, rec.Topic, rec.Partition); err != nil {
					return nil, err
				}
			}
			if err := p.produce(ctx, last, &rec); err != nil {
				return nil, err
			}
		case format.KindSeg:
			return nil, command.WithStatus(command.Corrupt, errors.New("standard input: a segment in a stream of records"))
		case format.KindBatch:
			return nil, command.WithStatus(command.Corrupt, errors.New("standard input: a raw batch, which this version cannot produce"))
		case format.KindEnd:
			return format.DecodeEnd(f.Raw)
		}
	}
}

func (p *producer) partition(ctx context.Context, topic string, num int32) (*partition, error) {
	s, err := p.targets.source(ctx, topic)
	if err != nil {
		return nil, err
	}
	part := s.parts[num]
	if part == nil {
		if int(num) >= s.target.partitions {
			return nil, fmt.Errorf("produce %s/%d: topic %s has only %d partitions", topic, num, s.target.name, s.target.partitions)
		}
		part = &partition{source: s, num: num}
		part.promise = func(r *kgo.Record, err error) { p.acknowledged(part, r, err) }
		s.parts[num] = part
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sent = append(p.sent, part)
	}
	return part, nil
}

// produce hands a copy of rec to the client; it waits while the client's buffer is
// full.
func (p *producer) produce(ctx context.Context, part *partition, rec *format.Record) error {
	out := p.arena.record(rec)
	out.Topic, out.Partition = part.source.target.name, part.num
	p.mu.Lock()
	if n := len(part.sent); n > 0 && part.sent[n-1].first+part.sent[n-1].count == rec.Offset {
		part.sent[n-1].count++
	} else {
		part.sent = append(part.sent, run{rec.Offset, 1})
	}
	p.mu.Unlock()
	if size(out) > int(part.source.target.maxBatch) {
		return p.produceLarge(ctx, part, out)
	}
	p.cl.Produce(ctx, out, part.promise)
	return context.Cause(ctx)
}

// maxRequest is the largest batch the client can be made to send.
const maxRequest = 1 << 30

// produceLarge produces a record that is larger than the topic's largest batch. It
// may fit all the same: the broker looks at the batch as it is compressed, which is
// how it got into the source, and the client at the record as it is. So it goes,
// alone, through a client that does not look.
func (p *producer) produceLarge(ctx context.Context, part *partition, r *kgo.Record) error {
	if p.large == nil {
		cl, err := p.connect(kgo.ProducerBatchMaxBytes(maxRequest), kgo.BrokerMaxWriteBytes(maxRequest))
		if err != nil {
			return err
		}
		p.large = cl
	}
	if err := p.cl.Flush(ctx); err != nil { // what is before it in the partition goes first
		return err
	}
	err := p.large.ProduceSync(ctx, r).FirstErr()
	p.acknowledged(part, r, err)
	return context.Cause(ctx)
}

// close lets go of what the producer has connected itself.
func (p *producer) close() {
	if p.large != nil {
		p.large.Close()
	}
}

// batchOverhead is more than a batch of one record takes besides its key, value and
// headers, and each header besides its name and value (DefaultRecordBatch, DefaultRecord).
const (
	batchOverhead  = 61 + 40
	headerOverhead = 10
)

// size is about how many bytes a batch of r alone takes, uncompressed.
func size(r *kgo.Record) int {
	n := batchOverhead + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += headerOverhead + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// acknowledged takes the fate of the partition's oldest record on its way: a client
// keeps promises of one partition in order.
func (p *producer) acknowledged(part *partition, r *kgo.Record, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := &part.sent[0]
	offset := oldest.first
	oldest.first++
	if oldest.count--; oldest.count == 0 {
		part.sent = part.sent[1:]
	}
	if err != nil {
		p.fail(explain(part, offset, r, err))
		return
	}
	p.acked++
	m := &part.done
	if m.Count > 0 && offset == m.SourceFirst+m.Count && r.Offset == m.TargetFirst+m.Count {
		m.Count++
		return
	}
	if err := p.writeRun(part); err != nil {
		p.fail(err)
		return
	}
	*m = format.Map{
		Topic: part.source.name, Partition: part.num, SourceFirst: offset,
		TargetTopic: r.Topic, TargetPartition: r.Partition, TargetFirst: r.Offset, Count: 1,
	}
}

func explain(part *partition, offset int64, r *kgo.Record, err error) error {
	err = fmt.Errorf("produce %s/%d: record of offset %d: %w", part.source.name, part.num, offset, err)
	if errors.Is(err, kerr.MessageTooLarge) {
		return command.WithHint(err, fmt.Sprintf("it takes %s before compression: raise max.message.bytes of topic %s", humanize.IBytes(uint64(size(r))), r.Topic))
	}
	return err
}

// writeRun writes what part.done has grown to. The lock is held.
func (p *producer) writeRun(part *partition) error {
	if part.done.Count == 0 {
		return nil
	}
	err := p.maps.Write(&part.done)
	part.done.Count = 0
	if err != nil {
		return fmt.Errorf("write the map: %w", err)
	}
	return nil
}

func (p *producer) writeRuns() error {
	for _, part := range p.sent {
		if err := p.writeRun(part); err != nil {
			return err
		}
	}
	return nil
}

// An arena holds copies of records, many to an allocation.
type arena struct {
	bytes   []byte
	records []kgo.Record
	headers []kgo.RecordHeader
	names   map[string]string
}

const (
	arenaBytes   = 1 << 20
	arenaRecords = 512
	arenaNames   = 1 << 12
)

// record copies all of rec but its topic and partition.
func (a *arena) record(rec *format.Record) *kgo.Record {
	if len(a.records) == 0 {
		a.records = make([]kgo.Record, arenaRecords)
	}
	out := &a.records[0]
	a.records = a.records[1:]
	out.Key, out.Value = a.copy(rec.Key), a.copy(rec.Value)
	out.Timestamp = time.UnixMilli(rec.Timestamp)
	if n := len(rec.Headers); n > 0 {
		if len(a.headers) < n {
			a.headers = make([]kgo.RecordHeader, max(n, arenaRecords))
		}
		out.Headers, a.headers = a.headers[:n:n], a.headers[n:]
		for i, h := range rec.Headers {
			out.Headers[i] = kgo.RecordHeader{Key: a.name(h.Name), Value: a.copy(h.Value)}
		}
	}
	return out
}

func (a *arena) copy(b []byte) []byte {
	if b == nil || len(b) > arenaBytes/4 {
		return bytes.Clone(b)
	}
	if len(a.bytes) < len(b) || a.bytes == nil {
		a.bytes = make([]byte, arenaBytes)
	}
	out := a.bytes[:len(b):len(b)]
	a.bytes = a.bytes[len(b):]
	copy(out, b)
	return out
}

// name returns a header's name as a string; there are few, many times over.
func (a *arena) name(b []byte) string {
	if s, ok := a.names[string(b)]; ok {
		return s
	}
	if a.names == nil || len(a.names) >= arenaNames {
		a.names = make(map[string]string)
	}
	s := string(b)
	a.names[s] = s
	return s
}
