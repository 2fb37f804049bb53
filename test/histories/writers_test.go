package histories

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
)

// A fate is what a writer knows of a record that it has sent.
type fate int

const (
	unknown   fate = iota // nobody has told
	confirmed             // it is acknowledged and, where it is part of a transaction, committed
	aborted               // nobody has ever tried to commit its transaction
)

// A written is a record that a writer has sent.
type written struct {
	topic     string
	partition int32
	offset    int64 // −1 where that was not told
	digest    digest
	committed bool // in a transaction
	fate      fate
}

// A digest stands for all of a record but its offset.
type digest [16]byte

// A ledger is what the writers of a history have sent.
type ledger struct {
	mu  sync.Mutex
	all map[string]*written // by the key, which no two records have
}

func (l *ledger) add(id string, w *written) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[id] = w
}

// set notes the fate of records.
func (l *ledger) set(f fate, all ...*written) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range all {
		w.fate = f
	}
}

// place notes where a record is.
func (l *ledger) place(w *written, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.offset = offset
}

// A writer writes records to the topics of a history until it is told to stop. Every now
// and then it crashes, and another one takes its place.
type writer struct {
	name      string
	rng       *rand.Rand
	topics    []topicPlan
	ledger    *ledger
	connect   func(...kgo.Opt) (*kgo.Client, error)
	committed bool          // in transactions
	idle      time.Duration // between two bursts, or transactions, beside a moment of chance
	lives, n  int
}

var codecs = []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}

// write writes until the context ends. What it has begun it then ends well.
func (w *writer) write(ctx context.Context) error {
	for ctx.Err() == nil {
		opts := []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codecs[w.rng.IntN(len(codecs))]), kgo.MetadataMinAge(100 * time.Millisecond)}
		if w.committed {
			// A crash leaves a transaction open for so long, or until there is a successor.
			opts = append(opts, kgo.TransactionalID(w.name), kgo.TransactionTimeout(8*time.Second))
		}
		cl, err := w.connect(opts...)
		if err != nil {
			return err
		}
		w.lives++
		life := 30 + w.rng.IntN(150) // bursts, or transactions
		for ctx.Err() == nil && life > 0 && err == nil {
			life--
			if w.committed {
				err = w.transaction(cl)
			} else {
				w.burst(cl)
			}
			time.Sleep(w.idle)
		}
		if ctx.Err() != nil && !w.committed {
			err = cl.Flush(context.WithoutCancel(ctx))
		}
		cl.Close() // what is not acknowledged now may be written, or not
		if err != nil && !w.committed {
			return err
		}
	}
	return nil
}

// burst sends some records, and does not wait for their acknowledgement.
func (w *writer) burst(cl *kgo.Client) {
	for range 1 + w.rng.IntN(8) {
		r, sent := w.record()
		cl.Produce(context.Background(), r, func(r *kgo.Record, err error) {
			if err == nil && placed(r) {
				w.ledger.place(sent, r.Offset)
				w.ledger.set(confirmed, sent)
			}
		})
	}
	time.Sleep(time.Duration(5+w.rng.IntN(50)) * time.Millisecond)
}

// placed tells whether Kafka has said where a record is. If a broker takes a batch for one that
// it has had, but does not know any more where (DUPLICATE_SEQUENCE_NUMBER), franz-go says that
// it is written, at offset −1. That proves nothing: such a record was missing once, in seed 4.
func placed(r *kgo.Record) bool { return r.Offset >= 0 }

// errCrash says that a writer ends in the midst of a transaction.
var errCrash = errors.New("the writer crashes")

// transaction writes records as one, and commits them or not. After an error the producer
// cannot go on.
func (w *writer) transaction(cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := cl.BeginTransaction(); err != nil {
		return err
	}
	var all []*written
	for range 1 + w.rng.IntN(20) {
		r, sent := w.record()
		all = append(all, sent)
		cl.Produce(ctx, r, func(r *kgo.Record, err error) {
			if err == nil && placed(r) {
				w.ledger.place(sent, r.Offset)
			}
		})
	}
	if w.rng.IntN(3) == 0 {
		time.Sleep(time.Duration(w.rng.IntN(1500)) * time.Millisecond)
	}
	err := cl.Flush(ctx)
	switch roll := w.rng.IntN(20); {
	case err != nil || roll == 0: // no commit was ever asked for
		w.ledger.set(aborted, all...)
		return errors.Join(err, errCrash)
	case roll < 7:
		w.ledger.set(aborted, all...)
		return cl.EndTransaction(ctx, kgo.TryAbort)
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return err // the fate stays unknown
	}
	for _, sent := range all {
		if sent.offset >= 0 {
			w.ledger.set(confirmed, sent)
		}
	}
	time.Sleep(time.Duration(w.rng.IntN(100)) * time.Millisecond)
	return nil
}

// record makes a record that no other is like.
func (w *writer) record() (*kgo.Record, *written) {
	t := w.topics[w.rng.IntN(len(w.topics))]
	w.n++
	// What a writer that has crashed had on its way may come behind its successor's first.
	id := fmt.Sprintf("%s.%d-%06d", w.name, w.lives, w.n)
	r := &kgo.Record{
		Topic: t.name, Partition: w.rng.Int32N(t.partitions), Key: []byte(id), Timestamp: time.UnixMilli(time.Now().UnixMilli()),
		Headers: []kgo.RecordHeader{{Key: "writer", Value: []byte(w.name)}},
	}
	switch w.rng.IntN(30) {
	case 0: // a tombstone
	case 1:
		r.Value = []byte{}
	case 2:
		r.Value = w.noise(50_000)
	default:
		r.Value = w.noise(w.rng.IntN(1000))
	}
	sent := &written{topic: r.Topic, partition: r.Partition, offset: -1, digest: digestOf(r), committed: w.committed}
	w.ledger.add(id, sent)
	return r, sent
}

// noise makes bytes that compress to half their size or so.
func (w *writer) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(w.rng.IntN(16))
	}
	return b
}

func digestOf(r *kgo.Record) digest {
	h := sha256.New()
	field(h.Write, r.Key)
	field(h.Write, r.Value)
	for _, x := range r.Headers {
		field(h.Write, []byte(x.Key))
		field(h.Write, x.Value)
	}
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(r.Timestamp.UnixMilli())))
	return digest(h.Sum(nil)[:16])
}

func digestOfFrame(r *format.Record) digest {
	h := sha256.New()
	field(h.Write, r.Key)
	field(h.Write, r.Value)
	for _, x := range r.Headers {
		field(h.Write, x.Name)
		field(h.Write, x.Value)
	}
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(r.Timestamp)))
	return digest(h.Sum(nil)[:16])
}

// field writes bytes with their length, −1 for null.
func field(write func([]byte) (int, error), b []byte) {
	n := int64(len(b))
	if b == nil {
		n = -1
	}
	_, _ = write(binary.BigEndian.AppendUint64(nil, uint64(n))) // a hash takes everything
	_, _ = write(b)
}
