package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/partitionlog"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// Where a transaction is open, committed records end before it, and whatever is behind is
// hidden, whoever wrote it. For a moment this is normal: what is hidden then is left to
// the next run, as what comes after the start of this one is. A transaction that stays
// open hides more with every day.

// normallyOpen is for how long a transaction may be open: the default of
// transaction.timeout.ms, after which Kafka itself ends one.
const normallyOpen = time.Minute

// leadersAtOnce is how many partitions are looked at at once.
const leadersAtOnce = 16

// describePatience is for how long a leader is asked about a transaction. What it says is
// good to know, and no more.
const describePatience = 5 * time.Second

// OnOpen is what to do about transactions that are open when a run begins.
type OnOpen uint8

// What to do about open transactions.
const (
	NoteOpen OnOpen = iota // say what they hide
	WaitOpen               // until they have ended
	FailOpen               // unless they have ended within a minute
)

func parseOnOpen(s string) (OnOpen, error) {
	i := slices.Index([]string{"note", "wait", "fail"}, s)
	if i < 0 {
		return 0, command.Usagef("--on-open-transaction %q is neither note nor wait nor fail", s)
	}
	return OnOpen(i), nil
}

// A hidden is the offsets of a partition that an open transaction hides.
type hidden struct {
	topic string
	num   int32
	// [stable, high): the transaction begins at stable.
	stable, high int64
	transaction
}

// A transaction is what is known of one. Every field may be zero.
type transaction struct {
	producer int64 // its producer id, -1 where it is not known
	id       string
	since    time.Time // by its first batch
	started  time.Time // by its coordinator, which needs the right to ask
}

func (h *hidden) at() topicPartition { return topicPartition{h.topic, h.num} }

// begin is when the transaction began, as far as is known.
func (t *transaction) begin() time.Time {
	if !t.started.IsZero() {
		return t.started
	}
	return t.since
}

// normal tells whether the transaction is younger than what is out of the ordinary.
func (h *hidden) normal(now time.Time) bool {
	begin := h.begin()
	return !begin.IsZero() && now.Sub(begin).Abs() <= normallyOpen // a time to come is no time
}

// text says what is hidden, since when, by whom, and what to do about it.
func (h *hidden) text(brokers []string, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%d: offsets %d to %d are hidden behind a transaction that is open", h.topic, h.num, h.stable, h.high-1)
	if begin := h.begin(); !begin.IsZero() {
		fmt.Fprintf(&b, " since %s (%s)", begin.UTC().Format(time.RFC3339), max(0, now.Sub(begin)).Round(time.Second))
	}
	if h.producer >= 0 {
		fmt.Fprintf(&b, ", of producer %d", h.producer)
	}
	if h.id != "" {
		fmt.Fprintf(&b, " (transactional id %q)", h.id)
	}
	fmt.Fprintf(&b, "; if its producer is gone, abort it: kafka-transactions.sh --bootstrap-server %s abort --topic %s --partition %d --start-offset %d",
		strings.Join(brokers, ","), h.topic, h.num, h.stable)
	return b.String()
}

// hiddenIn returns what open transactions hide of partitions, sorted. It says nothing of
// partitions whose leaders did not answer. The high watermarks were asked for before the
// last stable offsets: see [planner.listOffsets].
func hiddenIn(asked map[string][]int32, high, stable kafka.Offsets) []hidden {
	var out []hidden
	for topic, nums := range asked {
		for _, num := range nums {
			h, s := high.Of(topic, num), stable.Of(topic, num)
			if h.Err == nil && s.Err == nil && s.Offset < h.Offset {
				out = append(out, hidden{topic: topic, num: num, stable: s.Offset, high: h.Offset, transaction: transaction{producer: -1}})
			}
		}
	}
	slices.SortFunc(out, func(a, b hidden) int { return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.num, b.num)) })
	return out
}

// hiddenNow returns what is hidden below high watermarks that were asked for before.
func (p *planner) hiddenNow(ctx context.Context, asked map[string][]int32, high kafka.Offsets) []hidden {
	return hiddenIn(asked, high, kafka.ListOffsets(ctx, p.cl, asked, kafka.EndOffset, true))
}

// describe finds out about the transactions that hide something. What cannot be had, for
// lack of a right, say, is left out.
func (p *planner) describe(ctx context.Context, all []hidden) {
	if len(all) == 0 {
		return
	}
	p.askLeaders(ctx, all)
	known := p.askCoordinators(ctx, all)
	for i := range all {
		h := &all[i]
		t, ok := known[h.producer]
		if h.id = t.TxnID; ok && t.StartTimestamp > 0 && t.Topics[h.topic] != nil {
			if _, same := t.Topics[h.topic][h.num]; same { // and not one that follows a hanging one
				h.started = time.UnixMilli(t.StartTimestamp)
			}
		}
	}
}

// askLeaders sets what the first batches say of the transactions.
func (p *planner) askLeaders(ctx context.Context, all []hidden) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logs := partitionlog.New(ctx, p.cl, p.log, describePatience)
	var g errgroup.Group
	g.SetLimit(leadersAtOnce)
	for i := range all {
		h := &all[i]
		g.Go(func() error {
			b, err := firstBatch(ctx, logs, h)
			if err != nil {
				p.log.Debug(fmt.Sprintf("look at the open transaction at offset %d: %v", h.stable, err))
				return nil
			}
			h.producer, h.since = b.ProducerID, time.UnixMilli(b.MaxTimestamp)
			return nil
		})
	}
	_ = g.Wait() // none of them fails
}

// askCoordinators returns what is known of the producers' transactions, by producer id.
func (p *planner) askCoordinators(ctx context.Context, all []hidden) map[int64]kadm.DescribedTransaction {
	var producers []int64
	for i := range all {
		if all[i].producer >= 0 {
			producers = append(producers, all[i].producer)
		}
	}
	if len(producers) == 0 { // none would mean all
		return nil
	}
	listed, err := p.adm.ListTransactions(ctx, producers, nil)
	if err != nil {
		p.log.Debug(fmt.Sprintf("list transactions: %v", err))
	}
	ids := listed.TransactionalIDs()
	if len(ids) == 0 { // likewise
		return nil
	}
	described, err := p.adm.DescribeTransactions(ctx, ids...)
	if err != nil {
		p.log.Debug(fmt.Sprintf("describe transactions: %v", err))
	}
	out := make(map[int64]kadm.DescribedTransaction)
	for _, t := range described {
		if t.Err == nil {
			out[t.ProducerID] = t
		}
	}
	return out
}

// firstBatch reads the batch with which a transaction begins.
func firstBatch(ctx context.Context, logs *partitionlog.Logs, h *hidden) (recordbatch.Batch, error) {
	at := partitionlog.Partition{Topic: h.topic, Num: h.num}
	got, err := logs.Read(ctx, at, h.stable, 1, partitionlog.Uncommitted) // one batch comes, whatever its size
	if err != nil {
		return recordbatch.Batch{}, err
	}
	b, _, err := recordbatch.Cut(got.RecordBatches)
	if err == nil && !b.Transactional() {
		err = errors.New("no transaction begins there")
	}
	if err != nil {
		return recordbatch.Batch{}, fmt.Errorf("read %s from offset %d: %w", at, h.stable, err)
	}
	return b, nil
}

// awaitTransactions does what cfg wants of the transactions that are open when a run
// begins: it waits until those of the selected partitions have ended, or fails where there
// is one that has been open for too long.
func (p *planner) awaitTransactions(ctx context.Context, selected selection, stop <-chan struct{}) error {
	if p.cfg.OnOpen == NoteOpen {
		return nil
	}
	asked := selected.lists()
	high := kafka.ListOffsets(ctx, p.cl, asked, kafka.EndOffset, false)
	over := time.After(p.patience())
	for first := true; ; first = false {
		open := p.wanted(p.hiddenNow(ctx, asked, high))
		if len(open) == 0 {
			return context.Cause(ctx)
		}
		if err := p.sayOpen(ctx, open, first); err != nil {
			return err
		}
		select {
		case <-time.After(lookEvery):
		case <-over:
			p.inVain = make(map[topicPartition]int64)
			for i := range open {
				p.inVain[open[i].at()] = open[i].stable
			}
			return nil
		case <-stop:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// sayOpen says what is waited for, the first time, and fails if that is wanted and one of
// the transactions is older than is normal.
func (p *planner) sayOpen(ctx context.Context, open []hidden, first bool) error {
	if !first && p.cfg.OnOpen != FailOpen {
		return nil
	}
	p.describe(ctx, open)
	for i := range open {
		text := open[i].text(p.cfg.Kafka.Brokers, time.Now())
		if p.cfg.OnOpen == FailOpen && !open[i].normal(time.Now()) {
			return command.WithStatus(command.Loss, errors.New(text))
		}
		if first {
			p.log.Warn(fmt.Sprintf("waiting up to %s: %s", p.patience(), text))
		}
	}
	return nil
}

// patience is for how long to wait for a transaction.
func (p *planner) patience() time.Duration {
	if p.cfg.OnOpen == FailOpen {
		return 2 * normallyOpen // it fails before that
	}
	return p.cfg.Timeout
}

// wanted leaves out what is hidden behind where the run ends in any case.
func (p *planner) wanted(all []hidden) []hidden {
	return slices.DeleteFunc(all, func(h hidden) bool {
		to := p.cfg.To
		return to.kind == atBeginning || to.kind == atOffset && to.n <= h.stable
	})
}

// hiddenLong returns what is hidden of partitions now, for longer than is normal.
func (p *planner) hiddenLong(ctx context.Context, asked map[string][]int32) []hidden {
	if p.cfg.Uncommitted {
		return nil
	}
	return p.long(ctx, p.hiddenNow(ctx, asked, kafka.ListOffsets(ctx, p.cl, asked, kafka.EndOffset, false)))
}

// long returns those of the hidden that have been for longer than is normal.
func (p *planner) long(ctx context.Context, open []hidden) []hidden {
	p.describe(ctx, open)
	return slices.DeleteFunc(open, func(h hidden) bool { return h.normal(time.Now()) })
}

// stillHidden returns what is hidden of partitions that were read up to their last stable
// offsets, and has been for longer than is normal, or was waited for in vain. What was
// hidden at the start is looked at again, up to where it was: what a transaction has let
// go of since, the next run has.
func (p *planner) stillHidden(ctx context.Context, plan *plan) []hidden {
	asked, high := make(map[string][]int32), make(kafka.Offsets)
	for _, part := range plan.parts {
		if part.left == whole && part.high > part.stable {
			asked[part.topic] = append(asked[part.topic], part.num)
			high.Set(part.topic, part.num, kafka.Offset{Offset: part.high})
		}
	}
	if len(asked) == 0 {
		return nil
	}
	open := p.wanted(p.hiddenNow(ctx, asked, high))
	p.describe(ctx, open)
	now := time.Now()
	return slices.DeleteFunc(open, func(h hidden) bool {
		stable, inVain := p.inVain[h.at()]
		return h.normal(now) && !(inVain && stable == h.stable)
	})
}
