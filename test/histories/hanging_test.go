package histories

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// endedBy is when each transaction should have ended after its writer has: its timeout is over
// then, and its coordinator, which looks every ten seconds, has had the time to abort it.
const endedBy = 45 * time.Second

// A hanging is a transaction that Kafka leaves open in a partition (KIP-664).
type hanging struct {
	at          place
	producer    kadm.DescribedProducer
	coordinator string // what the coordinators say of its producer
	ends        bool   // they are about to end it
}

func (h hanging) String() string {
	return fmt.Sprintf("%s: a transaction of producer %d, epoch %d, coordinator epoch %d, is open since offset %d; its coordinator says %s",
		h.at, h.producer.ProducerID, h.producer.ProducerEpoch, h.producer.CoordinatorEpoch, h.producer.CurrentTxnStartOffset, h.coordinator)
}

// openIn describes the transactions that are open in a partition.
func (w *world) openIn(ctx context.Context, at place) (all []hanging, err error) {
	described, err := w.adm.DescribeProducers(ctx, partitionSet(at))
	if err != nil {
		return nil, err
	}
	described.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset >= 0 {
			all = append(all, hanging{at: at, producer: p})
		}
	})
	for i := range all {
		if err := w.askCoordinators(ctx, &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (w *world) askCoordinators(ctx context.Context, h *hanging) error {
	listed, err := w.adm.ListTransactions(ctx, []int64{h.producer.ProducerID}, nil)
	if err != nil {
		return err
	}
	h.coordinator = "nothing"
	ids := listed.TransactionalIDs()
	if len(ids) == 0 { // none would mean all
		return nil
	}
	described, err := w.adm.DescribeTransactions(ctx, ids...)
	if err != nil {
		return err
	}
	var said []string
	for _, t := range described.Sorted() {
		said = append(said, fmt.Sprintf("%s: %s, epoch %d, partitions %v", t.TxnID, t.State, t.ProducerEpoch, t.Topics.Sorted()))
		h.ends = h.ends || strings.HasPrefix(t.State, "Prepare") && t.Topics[h.at.topic] != nil
	}
	h.coordinator = strings.Join(said, "; ")
	return nil
}

// abort ends a transaction in its partition, as kafka-transactions.sh abort does.
func (w *world) abort(ctx context.Context, h hanging) error {
	p := h.producer
	resps, err := w.adm.WriteTxnMarkers(ctx, kadm.TxnMarkers{ProducerID: p.ProducerID, ProducerEpoch: p.ProducerEpoch, CoordinatorEpoch: p.CoordinatorEpoch, Topics: partitionSet(h.at)})
	resps.EachPartition(func(r kadm.TxnMarkersPartitionResponse) {
		if err == nil {
			err = r.Err
		}
	})
	return err
}

func partitionSet(at place) (s kadm.TopicsSet) {
	s.Add(at.topic, at.partition)
	return s
}

// leftOpen aborts what Kafka has left open in a partition, unless it is about to end it.
func (h *history) leftOpen(ctx context.Context, at place) error {
	all, err := h.openIn(ctx, at)
	if err != nil {
		return err
	}
	for _, open := range all {
		if open.ends {
			return fmt.Errorf("%s", open)
		}
		if err := h.abort(ctx, open); err != nil {
			return fmt.Errorf("%s: abort it: %w", open, err)
		}
		h.t.Logf("Kafka has left it open, and it is aborted: %s", open)
		h.sum.run("transaction that Kafka left open, aborted as kafka-transactions.sh does")
		h.ledger.doubt(at, open.producer.CurrentTxnStartOffset)
	}
	return nil
}

// doubt takes back what writers have been told of records in transactions that Kafka did not
// end, from an offset on.
func (l *ledger) doubt(at place, from int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.all {
		if w.committed && w.topic == at.topic && w.partition == at.partition && w.offset >= from && w.fate == confirmed {
			w.fate = unknown
		}
	}
}

// TestAbort aborts a transaction whose writer is gone.
func TestAbort(t *testing.T) {
	w := startWorld(t, 3, 256)
	topics := []topicPlan{{"left-open", 1, 3}}
	if err := w.create(t.Context(), topics); err != nil {
		t.Fatal(err)
	}
	cl, err := w.connect(kgo.TransactionalID("gone"), kgo.TransactionTimeout(10*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "left-open", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	at := place{"left-open", 0}
	open, err := w.openIn(t.Context(), at)
	if err != nil || len(open) != 1 || open[0].ends || !strings.Contains(open[0].coordinator, "gone: Ongoing") {
		t.Fatalf("%v, %v", open, err)
	}
	if err := w.abort(t.Context(), open[0]); err != nil {
		t.Fatal(err)
	}
	if err := w.awaitStable(t.Context(), topics, nil); err != nil {
		t.Fatal(err)
	}
}

// TestOfKafka tells an error of kbk from one that Kafka may have led to.
func TestOfKafka(t *testing.T) {
	w := startWorld(t, 3, 256)
	h := &history{world: w, plan: plan{topics: []topicPlan{{"held", 1, 3}}}, t: t,
		sum: &total{events: make(map[kind]int), runs: make(map[string]int)}, ledger: &ledger{all: make(map[string]*written)}}
	if err := w.create(t.Context(), h.plan.topics); err != nil {
		t.Fatal(err)
	}
	r := &kgo.Record{Topic: "held", Key: []byte("w-1"), Value: []byte("v")}
	if err := w.cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	h.ledger.all["w-1"] = &written{topic: "held", digest: digestOf(r), fate: confirmed}
	failed := errors.New("status 1 of a backup")
	if err := h.ofKafka(t.Context(), failed); err != failed {
		t.Errorf("Kafka holds all that it has acknowledged: %v", err)
	}
	h.ledger.all["w-2"] = &written{topic: "held", offset: 1, fate: confirmed}
	var is *kafkaError
	if err := h.ofKafka(t.Context(), failed); !errors.As(err, &is) || !errors.Is(err, failed) {
		t.Errorf("Kafka lacks a record: %v", err)
	}
}
