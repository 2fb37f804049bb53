// Package sample fills a cluster with topics that look real, for the demo and for a
// Kafka to play with.
package sample

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Topic is one of those that Fill makes.
type Topic struct {
	Name       string
	Partitions int32
	Records    int
	record     func(r *rand.Rand, i int) *kgo.Record
}

// Topics are what a cluster is filled with.
var Topics = []Topic{
	{"orders", 4, 50_000, order},
	{"payments", 3, 20_000, payment},
	{"customers", 2, 5_000, customer},
}

// Group is a consumer group that has read the first records of each partition of orders.
const Group = "billing"

// Fill creates the topics and writes their records, always the same ones, and commits the offsets
// of Group.
func Fill(ctx context.Context, brokers ...string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		return err
	}
	defer cl.Close()
	r := rand.New(rand.NewPCG(2026, 11))
	for _, t := range Topics {
		// The records are of a day in the past: no retention is to take them away.
		configs := map[string]*string{"retention.ms": kadm.StringPtr("-1")}
		if _, err := kadm.NewClient(cl).CreateTopic(ctx, t.Partitions, 1, configs, t.Name); err != nil {
			return fmt.Errorf("create %s: %w", t.Name, err)
		}
		var failed error
		for i := range t.Records {
			rec := t.record(r, i)
			rec.Topic = t.Name
			cl.Produce(ctx, rec, func(_ *kgo.Record, err error) { failed = errors.Join(failed, err) })
		}
		if err := errors.Join(cl.Flush(ctx), failed); err != nil {
			return fmt.Errorf("produce to %s: %w", t.Name, err)
		}
	}
	read := make(kadm.Offsets)
	for p := range Topics[0].Partitions {
		read.AddOffset(Topics[0].Name, p, 1000, -1)
	}
	if err := kadm.NewClient(cl).CommitAllOffsets(ctx, Group, read); err != nil {
		return fmt.Errorf("commit the offsets of %s: %w", Group, err)
	}
	return nil
}

// began is when the first event happened: the records' own times go on from it.
var began = time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)

func order(r *rand.Rand, i int) *kgo.Record {
	id := fmt.Sprintf("o-%07d", i)
	return &kgo.Record{
		Key: []byte(id),
		Value: fmt.Appendf(nil, `{"order":%q,"customer":"c-%05d","country":%q,"lines":[{"sku":"%08x","quantity":%d,"price":%d.%02d}]}`,
			id, r.IntN(5000), []string{"DE", "FR", "PL", "US"}[r.IntN(4)], r.Uint32(), 1+r.IntN(5), r.IntN(300), r.IntN(100)),
		Headers:   []kgo.RecordHeader{{Key: "trace", Value: fmt.Appendf(nil, "%016x", r.Uint64())}, {Key: "source", Value: []byte("shop")}},
		Timestamp: began.Add(time.Duration(i) * 700 * time.Millisecond),
	}
}

// payment has no key, a header twice, and comes late now and then.
func payment(r *rand.Rand, i int) *kgo.Record {
	at := began.Add(time.Duration(i) * 1900 * time.Millisecond)
	if r.IntN(50) == 0 {
		at = at.Add(-time.Hour)
	}
	return &kgo.Record{
		Value:     fmt.Appendf(nil, `{"payment":"p-%06d","order":"o-%07d","amount":%d.%02d,"method":"card"}`, i, r.IntN(50_000), r.IntN(900), r.IntN(100)),
		Headers:   []kgo.RecordHeader{{Key: "hop", Value: []byte("gateway")}, {Key: "hop", Value: []byte("ledger")}},
		Timestamp: at,
	}
}

// customer is deleted, with a tombstone, one time in twenty.
func customer(r *rand.Rand, i int) *kgo.Record {
	rec := &kgo.Record{Key: fmt.Appendf(nil, "c-%05d", r.IntN(5000)), Timestamp: began.Add(time.Duration(i) * time.Minute)}
	if r.IntN(20) > 0 {
		rec.Value = fmt.Appendf(nil, `{"name":"Customer %d","mail":"c%d@example.org","since":%d}`, i, i, 1990+r.IntN(36))
	}
	return rec
}
