package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/pkg/command"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// A side is one of the two clusters of a mirror.
type side struct {
	*kafkatest.Cluster
	t   *testing.T
	cl  *kgo.Client
	adm *kadm.Client
}

// mirrored are the two clusters, started by the first test that needs them.
var mirrored struct {
	once sync.Once
	err  error
	c    [2]*kafkatest.Cluster
}

func sides(t *testing.T) (a, b *side) {
	t.Helper()
	m := &mirrored
	m.once.Do(func() {
		var g errgroup.Group
		for i := range m.c {
			g.Go(func() (err error) {
				m.c[i], err = kafkatest.Start(context.Background(), kafkatest.Options{})
				return err
			})
		}
		m.err = g.Wait()
	})
	if m.err != nil {
		t.Fatal(m.err)
	}
	return newSide(t, m.c[0]), newSide(t, m.c[1])
}

func closeSides() (err error) {
	for _, c := range mirrored.c {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

func newSide(t *testing.T, c *kafkatest.Cluster) *side {
	t.Helper()
	cl, err := connect(c.Bootstrap(), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.RecordDeliveryTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &side{c, t, cl, kadm.NewClient(cl)}
}

func (s *side) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *side) create(topic string, partitions int32, configs map[string]string) {
	s.t.Helper()
	s.ok(create(s.t.Context(), s.cl, topic, partitions, configs))
}

// write produces n records to each of a topic's partitions.
func (s *side) write(topic string, partitions int32, n int, what string) {
	s.t.Helper()
	var recs []*kgo.Record
	for i := range n {
		for p := range partitions {
			recs = append(recs, &kgo.Record{Topic: topic, Partition: p, Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "%s %d", what, i), Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, i)}, {Key: "n"}}})
		}
	}
	for ends := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // a client does not know at once of partitions that were added
		all, err := s.adm.Metadata(s.t.Context(), topic)
		s.ok(err)
		if len(all.Topics[topic].Partitions) >= int(partitions) {
			break
		}
		if time.Now().After(ends) {
			s.t.Fatalf("topic %s has no %d partitions", topic, partitions)
		}
	}
	cl, err := connect(s.Bootstrap(), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	s.ok(err)
	defer cl.Close()
	s.ok(cl.ProduceSync(s.t.Context(), recs...).FirstErr())
}

// transact writes transactions, every third of them aborted, to a topic's partition 0.
func (s *side) transact(topic string, n int) {
	s.t.Helper()
	cl, err := connect(s.Bootstrap(), kgo.TransactionalID("tx"))
	s.ok(err)
	defer cl.Close()
	for i := range n {
		s.ok(cl.BeginTransaction())
		for range 3 {
			s.ok(cl.ProduceSync(s.t.Context(), &kgo.Record{Topic: topic, Value: fmt.Append(nil, i)}).FirstErr())
		}
		s.ok(cl.EndTransaction(s.t.Context(), i%3 != 2))
	}
}

func (s *side) commit(group, topic string, offset int64) {
	s.t.Helper()
	var o kadm.Offsets
	o.Add(kadm.Offset{Topic: topic, At: offset, LeaderEpoch: -1, Metadata: "why"})
	s.ok(s.adm.CommitAllOffsets(s.t.Context(), group, o))
}

// committed is the offset of a group in partition 0 of a topic, -1 for none.
func (s *side) committed(group, topic string) int64 {
	all, err := s.adm.FetchOffsets(s.t.Context(), group)
	o, ok := all.Lookup(topic, 0)
	if err != nil || !ok {
		return -1
	}
	return o.At
}

func (s *side) restart() {
	s.t.Helper()
	s.ok(s.StopBroker(0))
	s.ok(s.StartBroker(s.t.Context(), 0))
}

// unlike says what is not the same in the logs of two topics: records, their offsets,
// times and headers, where the logs end.
func unlike(a, b *side, topic, mirror string) error {
	ctx, cancel := context.WithTimeout(a.t.Context(), 30*time.Second)
	defer cancel()
	was, err := boundsOf(ctx, a.Bootstrap(), topic)
	if err != nil {
		return err
	}
	is, err := boundsOf(ctx, b.Bootstrap(), mirror)
	if err != nil {
		return err
	}
	if len(was) == 0 || len(was) != len(is) {
		return fmt.Errorf("%d and %d partitions", len(was), len(is))
	}
	for p := range was {
		if was[p] != is[p] {
			return fmt.Errorf("partition %d: the logs go from %d to %d, and from %d to %d", p, was[p][0], was[p][1], is[p][0], is[p][1])
		}
	}
	x, err := consumeFrom(ctx, a.Bootstrap(), topic)
	if err != nil {
		return err
	}
	y, err := consumeFrom(ctx, b.Bootstrap(), mirror)
	if err != nil {
		return err
	}
	for p := range x {
		if len(x[p]) != len(y[p]) {
			return fmt.Errorf("partition %d has %d and %d records", p, len(x[p]), len(y[p]))
		}
		for i, r := range x[p] {
			if m := y[p][i]; !equal(r, m) || r.Offset != m.Offset {
				return fmt.Errorf("partition %d: record %d is at offsets %d and %d, or not the same", p, i, r.Offset, m.Offset)
			}
		}
	}
	return nil
}

// mirrorLine is the line that is run again and again, of batches or of records.
func mirrorLine(a, b *side, topics, batches string) []string {
	return []string{
		fmt.Sprintf("kbk-offsets cursor -b %s -t %s", b.Bootstrap(), topics),
		fmt.Sprintf("kbk-fetch -b %s -t %s --groups ^ --from - --follow --refresh 500ms --point-every 1s %s", a.Bootstrap(), topics, batches),
		fmt.Sprintf("kbk-produce -b %s --offsets exact --create-topics --add-partitions", b.Bootstrap()),
	}
}

const (
	fetching  = 1
	producing = 2
)

func (p *pipeline) untilAlike(a, b *side, topics ...string) {
	p.t.Helper()
	for _, topic := range topics {
		var why error
		defer func() {
			if p.t.Failed() && why != nil {
				p.t.Log(why)
			}
		}()
		p.until("topic "+topic+" being the same", func() bool {
			time.Sleep(100 * time.Millisecond)
			why = unlike(a, b, topic, topic)
			return why == nil
		})
	}
}

// killed kills one stage of a mirror, and wants the others to notice.
func (p *pipeline) killed(victim int) {
	p.t.Helper()
	if err := p.stages[victim].Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	status := p.wait()
	if status[victim] != 137 || victim == fetching && status[producing] != 3 || victim == producing && status[fetching] != command.NoReader {
		p.t.Fatalf("statuses %v\n%s", status, p)
	}
}

// stopped presses Ctrl-C.
func (p *pipeline) stopped() {
	p.t.Helper()
	p.signal(syscall.SIGINT)
	if status := p.wait(); status[fetching] != 130 || status[producing] != 130 {
		p.t.Fatalf("statuses %v\n%s", status, p)
	}
}

// refused wants kbk-produce to end a mirror by itself.
func (p *pipeline) refused(says string) {
	p.t.Helper()
	if status := p.wait(); status[producing] != 1 || !strings.Contains(p.said(producing), says) {
		p.t.Fatalf("statuses %v, and it does not say %q\n%s", status, says, p)
	}
}

// A flow is records that come all the time.
type flow struct {
	stop chan struct{}
	wg   sync.WaitGroup
}

// flowing writes to a topic's partitions 0 and 1 until it is stopped.
func (s *side) flowing(topic string) *flow {
	f := &flow{stop: make(chan struct{})}
	f.wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-f.stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			r := &kgo.Record{Topic: topic, Partition: int32(i % 2), Key: fmt.Append(nil, i), Value: fmt.Append(nil, "flow ", i)}
			if err := s.cl.ProduceSync(s.t.Context(), r).FirstErr(); err != nil {
				s.t.Error(err)
				return
			}
		}
	})
	return f
}

func (f *flow) end() {
	close(f.stop)
	f.wg.Wait()
}

// TestMirror follows a cluster with another: topics and partitions that come, a topic that
// goes, brokers that restart, stages that are killed, and groups. Then it is turned round.
func TestMirror(t *testing.T) {
	a, b := sides(t)
	a.create("orders", 2, map[string]string{"retention.ms": "3600000", "cleanup.policy": "compact,delete", "min.compaction.lag.ms": "3600000"})
	a.create("tx", 1, nil)
	a.create("gone", 1, nil)
	a.create("empty", 3, nil)
	a.ok(seedMixedIn(t.Context(), a.Bootstrap(), "mixed"))
	a.write("orders", 2, 500, "first")
	a.transact("tx", 5)
	a.write("gone", 1, 5, "gone")
	a.commit("billing", "orders", 300)
	line := mirrorLine(a, b, "^[a-z]+$", "--batches")
	p := start(t, line...)
	p.untilAlike(a, b, "orders", "tx", "gone", "empty", "mixed")
	p.until("the group's offset", func() bool { return b.committed("billing", "orders") == 300 })
	p.until("retention and compaction to be the topic's own", func() bool {
		c := configsOf(t, b.adm, "orders")
		return c["retention.ms"] == "3600000" && c["cleanup.policy"] == "compact,delete"
	})

	// Topics and partitions come and go, and brokers restart, while records come.
	f := a.flowing("orders")
	a.create("later", 2, nil)
	a.write("later", 2, 20, "later")
	_, err := a.adm.UpdatePartitions(t.Context(), 3, "orders")
	a.ok(err)
	a.write("orders", 3, 5, "grown")
	_, err = a.adm.DeleteTopics(t.Context(), "gone")
	a.ok(err)
	p.until("the word of the topic that is gone", func() bool {
		return strings.Contains(p.said(producing), "topic gone was deleted in the source: gone stays as it is in the target")
	})
	b.restart()
	a.restart()
	a.transact("tx", 3)
	f.end()
	a.commit("billing", "orders", 400)
	p.untilAlike(a, b, "orders", "tx", "later")
	p.until("the group's offset", func() bool { return b.committed("billing", "orders") == 400 })

	// Stages are killed, and the same line goes on.
	for _, victim := range []int{producing, fetching} {
		f := a.flowing("orders")
		time.Sleep(300 * time.Millisecond) // of records that are on their way
		p.killed(victim)
		time.Sleep(100 * time.Millisecond)
		f.end()
		p = start(t, mirrorLine(a, b, "^[a-z]+$", []string{producing: "", fetching: "--batches"}[victim])...) // what came as batches is compared with records, and so on
		p.untilAlike(a, b, "orders", "tx", "later")
	}
	p.stopped()
	if n := p.counted(fetching, "read"); n > 3000 {
		t.Errorf("the last run has read %d records: it is to begin where the target ends", n)
	}
	if c := configsOf(t, b.adm, "orders"); c["retention.ms"] != "3600000" || c["message.timestamp.after.max.ms"] != "" {
		t.Errorf("after the mirror was stopped the topic has %v", c)
	}

	// It is turned round: producers and consumers are on the other side now.
	back := mirrorLine(b, a, "^(orders|tx|later|mixed)$", "--batches")
	b.write("orders", 3, 50, "of the other side")
	b.commit("billing", "orders", 500)
	p = start(t, back...)
	p.untilAlike(b, a, "orders", "tx", "later", "mixed")
	p.until("the group's offset", func() bool { return a.committed("billing", "orders") == 500 })

	// Somebody writes to the mirror: it is refused, now and later.
	a.write("later", 1, 1, "of nobody")
	b.write("later", 2, 3, "of the source")
	p.refused("somebody else writes to it")
	p = start(t, back...)
	p.refused("topic later, partition 0, is not a mirror of the source: ")
	p = start(t, mirrorLine(b, a, "^(orders|tx)$", "")...)
	b.write("orders", 3, 5, "again")
	p.untilAlike(b, a, "orders", "tx")
	p.stopped()
}

// TestMirrorFailover has the source's cluster out of reach before all of it was mirrored:
// docs/mirror.md says what to do then.
func TestMirrorFailover(t *testing.T) {
	a, b := sides(t)
	a.create("fo.orders", 2, nil)
	a.create("fo.quiet", 1, nil)
	a.write("fo.orders", 2, 100, "before")
	a.write("fo.quiet", 1, 10, "before")
	a.commit("shipping", "fo.orders", 60)
	line := mirrorLine(a, b, `^fo\.`, "")
	p := start(t, line...)
	p.untilAlike(a, b, "fo.orders", "fo.quiet")
	p.until("the group's offset", func() bool { return b.committed("shipping", "fo.orders") == 60 })
	p.killed(fetching)
	a.write("fo.orders", 1, 7, "that nobody has got")

	// Failover: what the target has is kept, and the configs are put back.
	ends := filepath.Join(t.TempDir(), "failover.cursor")
	keep(t, ends, "kbk-offsets", "cursor", "-b", b.Bootstrap(), "--overlap", "0")
	run(t, "kbk-produce --release -b "+b.Bootstrap())
	if c := configsOf(t, b.adm, "fo.orders"); len(c) > 0 {
		t.Errorf("configs are still suspended: %v", c)
	}
	b.write("fo.orders", 2, 20, "after")
	b.commit("shipping", "fo.orders", 110)

	// Failback: what only the old source has is named, record by record.
	tail := run(t, fmt.Sprintf("kbk-fetch -b %s -t ^fo --from %s", a.Bootstrap(), ends), "kbk-filter --to json").output
	got := grep(t, tail, `"topic":"fo.orders"`)
	if len(got) != 7 || !strings.Contains(got[0], `"offset":100`) || !strings.Contains(got[6], "that nobody has got 6") {
		t.Errorf("the tail is %q", got)
	}
	back := mirrorLine(b, a, `^fo\.`, "")
	start(t, back...).refused("topic fo.orders, partition 0, is not a mirror of the source: ")
	_, err := a.adm.DeleteTopics(t.Context(), "fo.orders")
	a.ok(err)
	p = start(t, back...)
	b.write("fo.quiet", 1, 3, "after")
	p.untilAlike(b, a, "fo.orders", "fo.quiet")
	p.until("the group's offset", func() bool { return a.committed("shipping", "fo.orders") == 110 })
	p.stopped()
	if n := p.counted(fetching, "read"); n != 240+13 {
		t.Errorf("%d records were read", n)
	}

	// And back again, by the script of the examples.
	a.write("fo.orders", 2, 5, "home")
	p = start(t, fmt.Sprintf("env A=%s B=%s TOPICS=^fo POINT_EVERY=1s bash ../../examples/mirror/mirror.sh", a.Bootstrap(), b.Bootstrap()))
	p.untilAlike(a, b, "fo.orders", "fo.quiet")
	p.signal(syscall.SIGINT)
	if status := p.wait(); status[0] != 130 {
		t.Errorf("the script ended with %d\n%s", status, p)
	}

	// A topic of the source is deleted and created again.
	_, err = a.adm.DeleteTopics(t.Context(), "fo.quiet")
	a.ok(err)
	for a.recreate("fo.quiet") != nil {
		time.Sleep(50 * time.Millisecond)
	}
	a.write("fo.quiet", 1, 20, "of another topic")
	start(t, line...).refused("topic fo.quiet, partition 0, is not a mirror of the source: it has another record at offset 0")
}

func (s *side) recreate(topic string) error {
	err := create(s.t.Context(), s.cl, topic, 1, nil)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		s.t.Fatal(err)
	}
	return err
}

// configsOf are the configs that are set on a topic.
func configsOf(t *testing.T, adm *kadm.Client, topic string) map[string]string {
	t.Helper()
	all, err := adm.DescribeTopicConfigs(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, r := range all {
		for _, c := range r.Configs {
			if c.Value != nil && strings.HasPrefix(c.Source.String(), "DYNAMIC_TOPIC") {
				out[c.Key] = *c.Value
			}
		}
	}
	return out
}

// keep runs a command and keeps what it prints in a file.
func keep(t *testing.T, file string, words ...string) {
	t.Helper()
	out, err := exec.Command(words[0], words[1:]...).Output()
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(words, " "), err)
	}
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// grep returns the lines of a file that hold some text.
func grep(t *testing.T, file, text string) (out []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, text) && strings.Contains(line, `"offset":`) {
			out = append(out, line)
		}
	}
	return out
}
