package produce

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/command/commandtest"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/partitionlog"
)

// TestMain is also the command, for tests that kill it.
func TestMain(m *testing.M) {
	if os.Getenv("KBK_PRODUCE_RUN") != "" {
		command.Main(App())
	}
	os.Exit(m.Run())
}

// A rig is a cluster to restore to.
type rig struct {
	*testing.T
	fake *kfake.Cluster
	adm  *kadm.Client
	cl   *kgo.Client

	mu   sync.Mutex
	hook func(kmsg.Request) (kmsg.Response, error, bool)
}

func newRig(t *testing.T, opts ...kfake.Opt) *rig {
	t.Helper()
	fake, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &rig{T: t, fake: fake, adm: kadm.NewClient(cl), cl: cl}
}

func (r *rig) brokers() string { return strings.Join(r.fake.ListenAddrs(), ",") }

// create creates a topic with configs: KEY=VALUE.
func (r *rig) create(topic string, partitions int32, configs ...string) {
	r.Helper()
	all := make(map[string]*string)
	for _, c := range configs {
		k, v, _ := strings.Cut(c, "=")
		all[k] = &v
	}
	if _, err := r.adm.CreateTopic(r.Context(), partitions, 1, all, topic); err != nil {
		r.Fatal(err)
	}
}

// own are the configs set on a topic, as text.
func (r *rig) own(topic string) string {
	r.Helper()
	settings, err := newKeeper(r.cl, slog.New(slog.DiscardHandler), time.Second).settings(r.Context(), []string{topic})
	if err != nil {
		r.Fatal(err)
	}
	var out []string
	for key, s := range settings[topic] {
		if s.own {
			out = append(out, key+"="+s.value)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// noted are the notes that are left, by topic.
func (r *rig) noted() map[string]string {
	r.Helper()
	k := newKeeper(r.cl, slog.New(slog.DiscardHandler), time.Second)
	notes, err := k.notes(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return notes
}

// A frameList is a stream in the making.
type frameList []any

// stream encodes frames: encoders, and records by value.
func stream(t testing.TB, end *format.End, frames ...any) []byte {
	t.Helper()
	return streamOf(t, format.ContentRecords, end, frames...)
}

func streamOf(t testing.TB, content string, end *format.End, frames ...any) []byte {
	t.Helper()
	var out bytes.Buffer
	w := format.NewWriter(&out)
	err := w.WriteHeader(&format.Header{Content: content})
	for _, f := range frames {
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case format.Record:
			err = w.WriteRaw(format.AppendRecord(nil, &f))
		case format.Encoder:
			err = w.Write(f)
		default:
			t.Fatalf("%T is no frame", f)
		}
	}
	if err == nil && end != nil {
		err = w.Close(end)
	} else if err == nil {
		err = w.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// records are n records of a partition from an offset on.
func records(topic string, num int32, first int64, n int) (out frameList) {
	for i := range int64(n) {
		out = append(out, format.Record{Topic: topic, Partition: num, Offset: first + i, Timestamp: time.Now().UnixMilli(), Key: fmt.Append(nil, "k", i%7), Value: fmt.Appendf(nil, "%s/%d %d", topic, num, first+i)})
	}
	return out
}

func join(lists ...frameList) (out frameList) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// An outcome is what came of a run.
type outcome struct {
	err    error
	said   string
	maps   []format.Map
	frames []format.Kind
	whole  bool // the map has its end

	counted metrics.Snapshot
}

// produce restores a stream.
func (r *rig) produce(in []byte, change func(*Config)) *outcome {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	return r.produceFrom(ctx, bytes.NewReader(in), change)
}

func (r *rig) config(change func(*Config)) Config {
	r.Helper()
	n, err := parseNaming(nil, "")
	if err != nil {
		r.Fatal(err)
	}
	cfg := Config{
		Kafka: kafka.Config{Brokers: r.fake.ListenAddrs()}, Naming: n, CreateTopics: true, IfNotEmpty: resume,
		MaxGap: 1_000_000, Timeout: 20 * time.Second, Memory: 16 << 20, MaxFrame: 1 << 30, Configs: make(map[string]string),
	}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

func (r *rig) produceFrom(ctx context.Context, in io.Reader, change func(*Config)) *outcome {
	r.Helper()
	return r.produceSaying(ctx, new(commandtest.Messages), in, change)
}

// produceSaying is for a test that waits for a message of a run.
func (r *rig) produceSaying(ctx context.Context, said *commandtest.Messages, in io.Reader, change func(*Config)) *outcome {
	r.Helper()
	var out commandtest.Messages
	env := &command.Env{Name: "kbk-produce", Log: slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	o := &outcome{err: Run(ctx, r.config(change), env, in, &out)}
	o.said, o.counted = said.String(), env.Counters.Snapshot()
	rd := format.NewReader(strings.NewReader(out.String()), 0)
	for {
		f, err := rd.Next()
		if err != nil {
			o.whole = errors.Is(err, io.EOF)
			break
		}
		o.frames = append(o.frames, f.Kind)
		if f.Kind == format.KindMap {
			m, err := format.DecodeMap(f.Raw)
			if err != nil {
				r.Fatal(err)
			}
			o.maps = append(o.maps, *m)
		}
	}
	return o
}

// mapped is how many records a map tells of.
func (o *outcome) mapped() (n int64) {
	for _, m := range o.maps {
		n += m.Count
	}
	return n
}

func (o *outcome) want(t *testing.T, status int, says ...string) {
	t.Helper()
	text := o.said
	if o.err != nil {
		text += o.err.Error()
	}
	if got := command.StatusOf(o.err); got != status {
		t.Fatalf("status %d, not %d: %v\n%s", got, status, o.err, o.said)
	}
	for _, s := range says {
		if !strings.Contains(text, s) {
			t.Fatalf("it does not say %q:\n%s", s, text)
		}
	}
}

// values returns the values in each partition of a topic, in order, with their offsets.
func (r *rig) values(topic string, partitions int) (out []string) {
	r.Helper()
	for num := range int32(partitions) {
		ends, err := r.adm.ListEndOffsets(r.Context(), topic)
		if err != nil {
			r.Fatal(err)
		}
		starts, err := r.adm.ListStartOffsets(r.Context(), topic)
		if err != nil {
			r.Fatal(err)
		}
		end, _ := ends.Lookup(topic, num)
		start, _ := starts.Lookup(topic, num)
		// franz-go 1.22.2 has a data race between the end of a fetch session and Close.
		cl, err := kgo.NewClient(kgo.SeedBrokers(r.fake.ListenAddrs()...), kgo.FetchMaxWait(50*time.Millisecond), kgo.KeepControlRecords(), kgo.DisableFetchSessions(),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {num: kgo.NewOffset().At(start.Offset)}}))
		if err != nil {
			r.Fatal(err)
		}
		for at := start.Offset; at < end.Offset; {
			fetches := cl.PollFetches(r.Context())
			if err := fetches.Err(); err != nil {
				r.Fatal(err)
			}
			for _, rec := range fetches.Records() {
				at = rec.Offset + 1
				if !rec.Attrs.IsControl() {
					out = append(out, fmt.Sprintf("%d %d %d %s=%s", num, rec.Offset, rec.Timestamp.UnixMilli(), rec.Key, rec.Value))
				}
			}
		}
		cl.Close()
	}
	return out
}

// wanted are the values that a stream's records have, by partition.
func wanted(exact bool, frames frameList, partitions int) (out []string) {
	for num := range int32(partitions) {
		next := int64(0)
		for _, f := range frames {
			rec, ok := f.(format.Record)
			if !ok || rec.Partition != num {
				continue
			}
			if exact {
				next = rec.Offset
			}
			out = append(out, fmt.Sprintf("%d %d %d %s=%s", num, next, rec.Timestamp, rec.Key, rec.Value))
			next++
		}
	}
	return out
}

func (r *rig) same(topic string, partitions int, want []string) {
	r.Helper()
	got := r.values(topic, partitions)
	if slices.Equal(got, want) {
		return
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			r.Fatalf("topic %s has %d records and not %d; record %d is %s and not %s", topic, len(got), len(want), i, at(got, i), at(want, i))
		}
	}
}

func at(s []string, i int) string {
	if i < len(s) {
		return s[i]
	}
	return "missing"
}

func TestRun(t *testing.T) {
	r := newRig(t)
	frames := join(frameList{&format.Topic{Name: "t", Partitions: 3}, &format.Topic{Name: "empty", Partitions: 2, Configs: map[string]string{"retention.ms": "-1"}}},
		records("t", 0, 0, 500), records("t", 2, 40, 300), frameList{&format.Point{Time: 1}})
	in := stream(t, &format.End{Records: 800}, frames...)
	o := r.produce(in, nil)
	o.want(t, 0, "produced 800 records to 2 topics", "created topic t", "created topic empty")
	r.same("t", 3, wanted(false, frames, 3))
	if !o.whole || o.mapped() != 800 || len(o.maps) != 2 || o.maps[1].SourceFirst != 40 || o.maps[1].TargetFirst != 0 {
		t.Errorf("the map: %+v", o.maps)
	}
	if c := o.counted; c.Records != 800 || c.Committed != 800 || c.There != 0 || c.Pending != 0 || c.BytesIn != int64(len(in)) || c.BytesStored == 0 || c.Commits < 2 ||
		c.LastCommit.IsZero() || !c.Ready || c.OutputWait == 0 || c.WaitsForOutput {
		t.Errorf("counted %+v", c)
	}
	if got := r.own("empty"); got != "retention.ms=-1" {
		t.Errorf("empty has %s", got)
	}
	o = r.produce(in, nil)
	o.want(t, 0, "produced 0 records to 2 topics, where 800 records were already")
	if o.mapped() != 800 {
		t.Errorf("the map of the second run: %+v", o.maps)
	}
	if c := o.counted; c.Records != 0 || c.There != 800 || c.Commits != 0 || c.Pending != 0 {
		t.Errorf("counted %+v", c)
	}
	if n := r.noted(); len(n) > 0 {
		t.Errorf("notes are left: %v", n)
	}
	// A backup that has grown.
	more := join(frames[:2], records("t", 0, 0, 500), records("t", 2, 40, 350), frameList{})
	for i := range more { // the records of both streams must be equal
		if rec, ok := more[i].(format.Record); ok {
			for _, f := range frames {
				if old, ok := f.(format.Record); ok && old.Partition == rec.Partition && old.Offset == rec.Offset {
					more[i] = old
				}
			}
		}
	}
	o = r.produce(stream(t, &format.End{}, more...), nil)
	o.want(t, 0, "produced 50 records to 2 topics, where 800 records were already")
	r.same("t", 3, wanted(false, more, 3))
	// And one that is not what is there.
	o = r.produce(stream(t, &format.End{}, records("t", 0, 1, 10)...), nil)
	o.want(t, 1, "topic t is not empty: partition 0, offset 0: it is not the record of offset 1")
	o = r.produce(stream(t, &format.End{}, frames[2:12]...), nil)
	o.want(t, 1, "topic t is not empty: partition 0, offset 10: this restore ends before it")
}

// command starts the command itself, with the stream as its input.
func (r *rig) command(in []byte, flags ...string) (*exec.Cmd, *commandtest.Messages) {
	r.Helper()
	exe, err := os.Executable()
	if err != nil {
		r.Fatal(err)
	}
	cmd := exec.Command(exe, append([]string{"-b", r.brokers(), "--create-topics", "--timeout", "10s"}, flags...)...)
	cmd.Env = append(os.Environ(), "KBK_PRODUCE_RUN=1")
	said := new(commandtest.Messages)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), io.Discard, said
	return cmd, said
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func partition0(topic string) partitionlog.Partition { return partitionOf(topic, 0) }

func partitionOf(topic string, num int32) partitionlog.Partition {
	return partitionlog.Partition{Topic: topic, Num: num}
}

// logs are the cluster's logs, without a run.
func (r *rig) logs() *partitionlog.Logs {
	return partitionlog.New(r.Context(), r.cl, discard(), 10*time.Second)
}

// control has f see every request to the cluster, in place of who saw them before.
func (r *rig) control(f func(kmsg.Request) (kmsg.Response, error, bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hook == nil {
		r.fake.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
			r.fake.KeepControl()
			r.mu.Lock()
			hook := r.hook
			r.mu.Unlock()
			return hook(req)
		})
	}
	r.hook = f
}

// free takes the control away.
func (r *rig) free() {
	r.control(func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, false })
}

// killAt runs the command and kills it when its nth request comes, which then is handled
// all the same, or not. It says whether there was such a request.
func (r *rig) killAt(n int, handled bool, in []byte, flags ...string) bool {
	r.Helper()
	cmd, said := r.command(in, flags...)
	var mu sync.Mutex
	count, killed := 0, false
	r.control(func(kmsg.Request) (kmsg.Response, error, bool) {
		mu.Lock()
		defer mu.Unlock()
		if count++; count < n {
			return nil, nil, false
		}
		if !killed {
			killed = true
			if err := cmd.Process.Kill(); err != nil {
				r.Error(err)
			}
			return nil, errors.New("killed"), !handled
		}
		return nil, errors.New("killed"), true
	})
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	err := cmd.Wait()
	r.free()
	mu.Lock()
	defer mu.Unlock()
	if !killed && err != nil {
		r.Fatalf("it was not killed, and failed: %v\n%s", err, said)
	}
	return killed
}

var killStep = flag.Int("kill-step", 6, "kill restores at every `N`-th of their requests; make soak has 1")

// TestKillEverywhere kills a restore with SIGKILL at its requests, before and
// behind each, and runs the same line again: what is there must be what an undisturbed run
// makes, and the configs what they were.
func TestKillEverywhere(t *testing.T) {
	t.Parallel()
	frames := join(frameList{&format.Topic{Name: "t", Partitions: 2}, &format.Mark{Topic: "t", Next: 5}},
		records("t", 0, 5, 40), records("t", 1, 0, 30), records("t", 0, 47, 10), records("t", 1, 30, 5),
		frameList{&format.Mark{Topic: "t", Next: 60}, &format.Mark{Topic: "t", Partition: 1, Next: 35}})
	for _, c := range []struct {
		name  string
		in    []byte
		exact bool
	}{
		{"records", stream(t, &format.End{}, frames...), false},
		{"records", stream(t, &format.End{}, frames...), true},
		{"batches", batches(t, batched(t, "lz4", 8, frames)...), true},
	} {
		in, exact := c.in, c.exact
		var flags []string
		if exact {
			flags = []string{"--offsets", "exact"}
		}
		more := true
		for n := 1 + rand.IntN(*killStep); more; n += *killStep {
			more = false
			for _, handled := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/exact=%v/request %d/handled=%v", c.name, exact, n, handled), func(t *testing.T) {
					r := newRig(t)
					r.create("t", 2, "retention.ms=86400000", "cleanup.policy=compact,delete")
					was := r.own("t")
					if r.killAt(n, handled, in, flags...) {
						more = true
						o := r.produce(in, func(c *Config) { c.Exact = exact })
						o.want(t, 0)
						if o.mapped() != 85 {
							t.Errorf("the map has %d records", o.mapped())
						}
					}
					r.same("t", 2, wanted(exact, frames, 2))
					if now := r.own("t"); now != was {
						t.Errorf("the topic has %s, and not %s", now, was)
					}
					if n := r.noted(); len(n) > 0 {
						t.Errorf("notes are left: %v", n)
					}
				})
			}
		}
	}
}
