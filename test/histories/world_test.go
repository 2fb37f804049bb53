package histories

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// A world is brokers with proxies in front of them. The commands reach the brokers
// through the proxies, and so do the brokers each other; writers and checks do not.
type world struct {
	cluster *kafkatest.Cluster
	net     *network
	cl      *kgo.Client
	adm     *kadm.Client

	brokers sync.Mutex // held by what happens to brokers: a start may take longer than planned
}

// startWorld starts a world that ends with a test.
func startWorld(t *testing.T, brokers, heapMB int) *world {
	t.Helper()
	w, err := newWorld(t.Context(), brokers, heapMB)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func newWorld(ctx context.Context, brokers, heapMB int) (w *world, err error) {
	w = &world{net: newNetwork()}
	defer func() {
		if err != nil {
			_ = w.close()
		}
	}()
	w.cluster, err = kafkatest.Start(ctx, kafkatest.Options{
		Brokers: brokers, HeapMB: heapMB,
		Listeners: []kafkatest.Listener{
			{Name: "CLIENTS", Protocol: "PLAINTEXT", Advertised: w.net.client},
			{Name: "BROKERS", Protocol: "PLAINTEXT", Advertised: w.net.broker},
		},
		Controller: w.net.controller,
		Config: map[string]string{
			"inter.broker.listener.name":            "BROKERS",
			"transaction.state.log.min.isr":         fmt.Sprint(min(2, brokers)),
			"replica.lag.time.max.ms":               "3000",
			"replica.socket.timeout.ms":             "3000",
			"request.timeout.ms":                    "3000",
			"controller.quorum.election.timeout.ms": "500",
			"controller.quorum.fetch.timeout.ms":    "1000",
		},
	})
	if err != nil {
		return w, err
	}
	if w.cl, err = w.connect(); err != nil {
		return w, err
	}
	w.adm = kadm.NewClient(w.cl)
	return w, nil
}

func (w *world) close() (err error) {
	if w.cl != nil {
		w.cl.Close()
	}
	if w.cluster != nil {
		err = w.cluster.Close()
	}
	w.net.close()
	return err
}

// connect connects to the brokers without a proxy in between.
func (w *world) connect(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(strings.Split(w.cluster.Bootstrap(), ",")...), kgo.AlwaysRetryEOF()}, opts...)...)
}

// env is what the commands find the brokers by.
func (w *world) env() []string {
	var addrs []string
	for i := range w.net.clients {
		addrs = append(addrs, w.cluster.Listener("CLIENTS", i))
	}
	return []string{"KBK_BROKERS=" + strings.Join(addrs, ",")}
}

// until waits until it is so. Errors of a moment are none.
func until(ctx context.Context, what string, is func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; {
		ok, err := is()
		if err == nil && ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited in vain until %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// awaitInSync waits until no partition lacks a replica, Kafka's own topics among them.
func (w *world) awaitInSync(ctx context.Context) error {
	return until(ctx, "all replicas are in sync", func() (bool, error) {
		meta, err := w.adm.Metadata(ctx)
		if err != nil || len(meta.Brokers) < len(w.net.clients) {
			return false, err
		}
		for _, topic := range meta.Topics {
			for _, p := range topic.Partitions {
				if len(p.ISR) < len(p.Replicas) || p.Leader < 0 {
					return false, fmt.Errorf("%s/%d: in sync are %d of %d", topic.Topic, p.Partition, p.ISR, p.Replicas)
				}
			}
		}
		return true, nil
	})
}

// mayEnd waits for a while until each partition has an in-sync replica besides those on a broker, and
// tells whether that is so. If the last in-sync replica is killed, Kafka loses what was acknowledged, or
// the partition has no leader any more: it does not trust a log that was not closed (KIP-966).
func (w *world) mayEnd(ctx context.Context, broker int) bool {
	for deadline := time.Now().Add(mayEndWithin); time.Now().Before(deadline); {
		may := true
		for other := range len(w.net.clients) {
			may = may && (other == broker || w.othersInSync(ctx, other, int32(broker)))
		}
		if may {
			return true
		}
		if !pause(ctx, 100*time.Millisecond) {
			return false
		}
	}
	return false
}

const mayEndWithin = 5 * time.Second

// othersInSync asks one broker whether each partition has an in-sync replica besides that of another.
func (w *world) othersInSync(ctx context.Context, asked int, broker int32) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	resp, err := w.cl.Broker(asked).Request(ctx, kmsg.NewPtrMetadataRequest())
	if err != nil {
		return false
	}
	for _, t := range resp.(*kmsg.MetadataResponse).Topics {
		for _, p := range t.Partitions {
			if !slices.ContainsFunc(p.ISR, func(b int32) bool { return b != broker }) {
				return false
			}
		}
	}
	return true
}

func (w *world) create(ctx context.Context, topics []topicPlan, more ...string) error {
	// A replica that is away holds up writers, and nothing that was acknowledged is lost.
	configs := map[string]*string{"min.insync.replicas": kadm.StringPtr(fmt.Sprint(min(2, len(w.net.clients)))), "unclean.leader.election.enable": kadm.StringPtr("false"), "max.message.bytes": kadm.StringPtr("2000000")}
	for _, c := range more {
		k, v, _ := strings.Cut(c, "=")
		configs[k] = &v
	}
	for _, t := range topics {
		// The client repeats a request whose answer comes late.
		if _, err := w.adm.CreateTopic(ctx, t.partitions, t.replicas, configs, t.name); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return err
		}
	}
	return w.awaitInSync(ctx)
}

// happen lets events happen, each at its time, and returns when all are over and mended.
func (w *world) happen(ctx context.Context, events []event, topics []topicPlan, jobs map[string]*job, count func(kind)) error {
	var all sync.WaitGroup
	errs := make([]error, len(events))
	for i, e := range events {
		all.Go(func() {
			if pause(ctx, e.at) {
				if errs[i] = w.one(ctx, e, topics, jobs[e.job], count); errs[i] != nil {
					errs[i] = fmt.Errorf("%s: %w", e, errs[i])
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// pause waits, and tells whether it came to the end of that.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// one lets one event happen. What it does it undoes, whatever comes in between.
func (w *world) one(ctx context.Context, e event, topics []topicPlan, j *job, count func(kind)) error {
	done := context.WithoutCancel(ctx)
	lasts := func(links []*link, s linkState) {
		for _, l := range links {
			l.set(s)
		}
		pause(ctx, e.lasts)
		for _, l := range links {
			l.set(linkUp)
		}
	}
	client := w.net.clients[e.broker : e.broker+1]
	switch e.kind {
	case brokerHangs, brokerKilled, brokerStopped, brokerIsolated, allHang:
		w.brokers.Lock()
		defer w.brokers.Unlock()
	}
	if (e.kind == brokerKilled || e.kind == brokerStopped) && !w.mayEnd(ctx, e.broker) {
		return nil
	}
	count(e.kind)
	switch e.kind {
	case brokerHangs:
		return w.hang(ctx, e.lasts, e.broker)
	case allHang:
		return w.hang(ctx, e.lasts, 0, 1, 2)
	case brokerKilled, brokerStopped:
		end := w.cluster.KillBroker
		if e.kind == brokerStopped {
			end = w.cluster.StopBroker
		}
		if err := end(e.broker); err != nil {
			return err
		}
		pause(ctx, e.lasts)
		return w.cluster.StartBroker(done, e.broker)
	case brokerIsolated:
		lasts(w.net.around(e.broker), linkDown)
	case clientCut:
		lasts(client, linkDown)
	case clientSilent:
		lasts(client, linkSilent)
	case clientUnheard:
		lasts(client, linkUnheard)
	case clientSlow:
		lasts(client, linkSlow)
	case stageKilled, stagePaused:
		return strike(ctx, j.stage(e.stage), e)
	case leadersMove, reassigned:
		// Not always possible: a broker may be away.
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_ = w.shuffle(ctx, rand.New(rand.NewPCG(e.seed, 1)), topics, e.kind == reassigned)
	}
	return nil
}

func (w *world) hang(ctx context.Context, d time.Duration, brokers ...int) error {
	var errs []error
	for _, b := range brokers {
		errs = append(errs, w.cluster.PauseBroker(b))
	}
	pause(ctx, d)
	for _, b := range brokers {
		errs = append(errs, w.cluster.ResumeBroker(b))
	}
	return errors.Join(errs...)
}

// strike kills a stage, or lets it hang for a while.
func strike(ctx context.Context, s *stage, e event) error {
	if s == nil { // it has not begun
		return nil
	}
	if e.kind == stageKilled {
		return s.signal(syscall.SIGKILL)
	}
	err := s.signal(syscall.SIGSTOP)
	pause(ctx, e.lasts)
	return errors.Join(err, s.signal(syscall.SIGCONT))
}

// shuffle gives the partitions of a topic other preferred leaders and has these elected; or
// it has replicas moved to other brokers, where a topic is not on all of them.
func (w *world) shuffle(ctx context.Context, rng *rand.Rand, topics []topicPlan, move bool) error {
	t := topics[rng.IntN(len(topics))]
	var req kadm.AlterPartitionAssignmentsReq
	elect := make(kadm.TopicsSet)
	for p := range t.partitions {
		brokers := rng.Perm(3)
		if !move {
			meta, err := w.adm.Metadata(ctx, t.name)
			if err != nil {
				return err
			}
			brokers = brokers[:0]
			for _, b := range meta.Topics[t.name].Partitions[p].Replicas {
				brokers = append(brokers, int(b))
			}
			rng.Shuffle(len(brokers), func(i, j int) { brokers[i], brokers[j] = brokers[j], brokers[i] })
		}
		var replicas []int32
		for _, b := range brokers[:min(len(brokers), int(t.replicas))] {
			replicas = append(replicas, int32(b))
		}
		req.Assign(t.name, p, replicas)
		elect.Add(t.name, p)
	}
	if _, err := w.adm.AlterPartitionAssignments(ctx, req); err != nil {
		return err
	}
	if move {
		return nil
	}
	_, err := w.adm.ElectLeaders(ctx, kadm.ElectPreferredReplica, elect)
	return err
}

// ends is the last stable offset of each partition, of those that can be asked.
func (w *world) ends(ctx context.Context, topics []topicPlan) map[place]int64 {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	out := make(map[place]int64)
	for _, t := range topics {
		listed, err := w.adm.ListCommittedOffsets(ctx, t.name)
		if err != nil {
			continue
		}
		for p, o := range listed[t.name] {
			if o.Err == nil {
				out[place{t.name, p}] = o.Offset
			}
		}
	}
	return out
}

// awaitStable waits until no transaction is open any more. What is open for longer than it
// should be is left to leftOpen.
func (w *world) awaitStable(ctx context.Context, topics []topicPlan, leftOpen func(context.Context, place) error) error {
	began := time.Now()
	for _, t := range topics {
		err := until(ctx, "no transaction is open in "+t.name, func() (bool, error) {
			stable, err := w.listed(ctx, t.name, w.adm.ListCommittedOffsets)
			if err != nil {
				return false, err
			}
			ends, err := w.listed(ctx, t.name, w.adm.ListEndOffsets)
			if err != nil {
				return false, err
			}
			for at, end := range ends {
				if stable[at] == end {
					continue
				}
				if leftOpen != nil && time.Since(began) > endedBy {
					if err := leftOpen(ctx, at); err != nil {
						return false, err
					}
				}
				return false, fmt.Errorf("%s is stable up to %d of %d", at, stable[at], end)
			}
			return len(ends) == int(t.partitions), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// consume reads the committed records of topics with franz-go's consumer.
func (w *world) consume(ctx context.Context, names ...string) (*content, error) {
	out := newContent()
	for _, name := range names {
		if err := w.consumeTopic(ctx, name, out); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return out, nil
}

// listed lists the offsets of a topic, when all its partitions can be asked.
func (w *world) listed(ctx context.Context, topic string, list func(context.Context, ...string) (kadm.ListedOffsets, error)) (map[place]int64, error) {
	out := make(map[place]int64)
	err := until(ctx, "offsets are listed", func() (bool, error) {
		all, err := list(ctx, topic)
		if err := errors.Join(err, all.Error()); err != nil {
			return false, err
		}
		for p, o := range all[topic] {
			out[place{topic, p}] = o.Offset
		}
		return true, nil
	})
	return out, err
}

func (w *world) consumeTopic(ctx context.Context, name string, out *content) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	starts, err := w.listed(ctx, name, w.adm.ListStartOffsets)
	if err != nil {
		return err
	}
	ends, err := w.listed(ctx, name, w.adm.ListCommittedOffsets)
	if err != nil {
		return err
	}
	cl, err := w.connect(kgo.ConsumeTopics(name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	open := make(map[int32]bool)
	for at, end := range ends {
		out.ends[at] = end
		if starts[at] < end {
			open[at.partition] = true
		}
	}
	for len(open) > 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%w: these partitions do not end: %v", ctx.Err(), open)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at := place{r.Topic, r.Partition}
			if !r.Attrs.IsControl() {
				e := entry{offset: r.Offset, id: string(r.Key), digest: digestOf(r), producer: -1}
				if r.Attrs.IsTransactional() {
					e.producer = r.ProducerID
				}
				out.add(at, e)
			} else if len(r.Key) >= 4 { // a version, and what it is: 0 an abort, 1 a commit
				out.markers[at] = append(out.markers[at], marker{r.Offset, r.ProducerID, r.Key[3] == 1})
			}
			if r.Offset+1 >= out.ends[at] {
				delete(open, r.Partition)
			}
		})
	}
	for at := range ends {
		out.dropAborted(at)
	}
	return nil
}

// commit commits an offset for a group, as consumers do.
func (w *world) commit(ctx context.Context, group string, at place, offset int64) error {
	set := make(kadm.Offsets)
	set.Add(kadm.Offset{Topic: at.topic, Partition: at.partition, At: offset, LeaderEpoch: -1})
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return w.adm.CommitAllOffsets(ctx, group, set)
}
