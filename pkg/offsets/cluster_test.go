package offsets

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// A world is an embedded cluster with topics of two partitions, and what people are told.
type world struct {
	t    *testing.T
	c    *kfake.Cluster
	cl   *kgo.Client
	adm  *kadm.Client
	said bytes.Buffer
	env  *command.Env
}

func newWorld(t *testing.T, topics ...string) *world {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topics...))
	ok(t, err)
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	ok(t, err)
	t.Cleanup(cl.Close)
	w := &world{t: t, c: c, cl: cl, adm: kadm.NewClient(cl)}
	w.env = &command.Env{Name: "test", Log: slog.New(slog.NewTextHandler(&w.said, nil))}
	return w
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) kafka() kafka.Config { return kafka.Config{Brokers: w.c.ListenAddrs()} }

// produce writes a record of each letter.
func (w *world) produce(topic string, partition int32, letters string) {
	w.t.Helper()
	for i, l := range letters {
		r := &kgo.Record{Topic: topic, Partition: partition, Value: []byte(string(l)), Timestamp: time.UnixMilli(int64(1000 + i))}
		ok(w.t, w.cl.ProduceSync(w.t.Context(), r).FirstErr())
	}
}

// commit commits an offset as a group does, with an epoch and a note.
func (w *world) commit(group, topic string, partition int32, at int64) {
	w.t.Helper()
	set := make(kadm.Offsets)
	set.Add(kadm.Offset{Topic: topic, Partition: partition, At: at, LeaderEpoch: 0, Metadata: "note"})
	ok(w.t, w.adm.CommitAllOffsets(w.t.Context(), group, set))
}

// committed are all groups and what they have committed.
func (w *world) committed() string {
	w.t.Helper()
	listed, err := w.adm.ListGroups(w.t.Context())
	ok(w.t, err)
	var out []string
	for _, id := range slices.Sorted(maps.Keys(listed)) {
		all, err := w.adm.FetchOffsets(w.t.Context(), id)
		ok(w.t, err)
		for _, o := range all.Sorted() {
			out = append(out, fmt.Sprintf("%s %s/%d %d%s", id, o.Topic, o.Partition, o.At, o.Metadata))
		}
	}
	return strings.Join(out, ", ")
}

// join makes a member of a group, which stays.
func (w *world) join(group, topic string) {
	w.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.c.ListenAddrs()...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit())
	ok(w.t, err)
	w.t.Cleanup(cl.Close)
	for {
		listed, err := w.adm.ListGroups(w.t.Context())
		ok(w.t, err)
		if listed[group].State == "Stable" {
			return
		}
		time.Sleep(10 * time.Millisecond) // the context of the test ends it
	}
}

// tells wants each of these in what was said, and clears it.
func (w *world) tells(want ...string) {
	w.t.Helper()
	for _, text := range want {
		if !strings.Contains(w.said.String(), text) {
			w.t.Errorf("%q is not in what was said:\n%s", text, w.said.String())
		}
	}
	w.said.Reset()
}

// fails wants an error of a status with a text in it.
func fails(t *testing.T, err error, status int, want string) {
	t.Helper()
	if err == nil || command.StatusOf(err) != status || !strings.Contains(err.Error(), want) {
		t.Errorf("status %d, %v; want %d, %s", command.StatusOf(err), err, status, want)
	}
}

func nobody(string) bool    { return false }
func everybody(string) bool { return true }

// numbers are offsets of a topic, by partition.
type numbers map[int32]int64

// planned is a plan of groups.
func planned(t testing.TB, end format.End, groups ...*format.Group) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentRecords}))
	for _, g := range groups {
		ok(t, w.Write(g))
	}
	ok(t, w.Close(&end))
	return &b
}

// group is one of a plan, from the same offsets in topic "old".
func group(id, topic string, offsets numbers) *format.Group {
	g := &format.Group{ID: id, Offsets: map[string]map[int32]format.GroupOffset{topic: {}}, GroupInfo: format.GroupInfo{By: byMap}}
	for n, o := range offsets {
		next := o
		note := "old note"
		g.Offsets[topic][n] = format.GroupOffset{Offset: o, Metadata: &note, From: []format.GroupSource{{Topic: "old", Partition: n, Offset: o, Next: &next}}}
	}
	return g
}

// withRecord says which record comes next at an offset of a group.
func withRecord(g *format.Group, topic string, partition int32, letter string, timestamp int64) *format.Group {
	o := g.Offsets[topic][partition]
	rec := nextRecord(&format.Record{Offset: o.Offset, Timestamp: timestamp, Value: []byte(letter)})
	o.From[0].Record = &rec
	return g
}

func read(t *testing.T, b io.Reader) ([]*format.Group, *format.End) {
	t.Helper()
	groups, end, err := readGroups(t.Context(), b, 0)
	ok(t, err)
	return groups, end
}
