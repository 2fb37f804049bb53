package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	connectors "github.com/kbkio/kbk/pkg/cluster/connect"
	"github.com/kbkio/kbk/pkg/cluster/registry"
	"github.com/kbkio/kbk/pkg/cluster/rest"
	kafkatest "github.com/kbkio/kbk/test/kafka"
	"github.com/kbkio/kbk/test/need"
)

// both starts two servers at once, and ends them with the test.
func both(t *testing.T, start func(ctx context.Context, i int) (*kafkatest.Server, error)) [2]*kafkatest.Server {
	t.Helper()
	var out [2]*kafkatest.Server
	var g errgroup.Group
	for i := range out {
		g.Go(func() (err error) {
			out[i], err = start(t.Context(), i)
			return err
		})
	}
	err := g.Wait()
	for _, s := range out {
		if s != nil {
			t.Cleanup(func() { s.Close() })
		}
	}
	must(t, err)
	return out
}

// pipe runs a pipe of commands.
func (w *world) pipe(line string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", line)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("%s: %v\n%s", line, err, out)
	}
}

func client(t *testing.T, c *kafkatest.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(strings.Split(c.Bootstrap(), ",")...), kgo.AlwaysRetryEOF())...)
	must(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// values reads n values of a topic.
func values(t *testing.T, c *kafkatest.Cluster, topic string, n int) [][]byte {
	t.Helper()
	cl := client(t, c, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out [][]byte
	for len(out) < n {
		f := cl.PollFetches(ctx)
		must(t, f.Err())
		f.EachRecord(func(r *kgo.Record) { out = append(out, r.Value) })
	}
	return out
}

func readRegistry(t *testing.T, c *rest.Client) registry.Content {
	t.Helper()
	got, err := registry.Read(t.Context(), c)
	must(t, err)
	return got
}

const (
	person = `{"type":"record","name":"Person","fields":[{"name":"name","type":"string"}]}`
	order  = `{"type":"record","name":"Order","fields":[{"name":"n","type":"long"},{"name":"by","type":"Person"}]}`
	older  = `{"type":"record","name":"Order","fields":[{"name":"by","type":"string"}]}`
	plain  = `{"type":"string"}`
)

// TestRegistry carries schemas from one Apicurio to another, which gives ids of its own, and records with
// the old ids to where the new ones are.
func TestRegistry(t *testing.T) {
	t.Parallel() // it mostly waits
	w := newWorld(t)
	servers := both(t, func(ctx context.Context, _ int) (*kafkatest.Server, error) { return kafkatest.Apicurio(ctx) })
	patient := sr.HTTPClient(&http.Client{Timeout: time.Minute}) // its default is 5 s
	a, err := sr.NewClient(sr.URLs(servers[0].URL), patient)
	must(t, err)
	b, err := sr.NewClient(sr.URLs(servers[1].URL), patient)
	must(t, err)
	ctx := t.Context()

	// The last version of orders-value is compatible with none before.
	personRef := []sr.SchemaReference{{Name: "Person", Subject: "person", Version: 1}}
	ids := make(map[string]int)
	for _, s := range []struct {
		subject string
		schema  sr.Schema
	}{
		{"person", sr.Schema{Schema: person}},
		{"orders-value", sr.Schema{Schema: older}},
		{"orders-value", sr.Schema{Schema: plain}},
		{"orders-value", sr.Schema{Schema: order, References: personRef}},
		{"orders-key", sr.Schema{Schema: plain}},
		{"proto-value", sr.Schema{Type: sr.TypeProtobuf, Schema: "syntax = \"proto3\"; message A { string b = 1; }"}},
		{"json-value", sr.Schema{Type: sr.TypeJSON, Schema: `{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}`}},
	} {
		id, err := a.RegisterSchema(ctx, s.subject, s.schema, -1, -1)
		must(t, err)
		ids[s.schema.Schema] = id
	}
	must(t, a.DeleteSchema(ctx, "orders-value", 2, sr.SoftDelete), a.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFull}, "orders-value")[0].Err,
		a.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatBackward})[0].Err)
	for i := range 10 { // so that its ids are others
		_, err := b.RegisterSchema(ctx, "mine-value", sr.Schema{Schema: fmt.Sprintf(`{"type":"fixed","name":"f","size":%d}`, i+1)}, -1, -1)
		must(t, err)
	}
	// All that is registered from now on is to be compatible.
	must(t, b.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFull})[0].Err)

	from, to := registry.New(&rest.Server{URL: servers[0].URL}), registry.New(&rest.Server{URL: servers[1].URL})
	want, have := readRegistry(t, from), readRegistry(t, to)
	if len(want.Schemas) != 7 || len(want.LeftOut) != 1 || !strings.Contains(want.LeftOut[0], "modes") {
		t.Fatalf("%d schemas, left out %q", len(want.Schemas), want.LeftOut)
	}
	changes, _ := registry.Plan(want, have)
	changes = slices.DeleteFunc(changes, func(c change.Change) bool { return c.Action == change.Remove })
	must(t, registry.Apply(ctx, to, want, have, changes, func(c change.Change, err error) {
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}))
	have = readRegistry(t, to)
	changes, notes := registry.Plan(want, have)
	for _, c := range changes {
		if c.Action != change.Remove || !strings.Contains(c.Name, "mine-value") {
			t.Errorf("still to do: %c %s %+v", c.Action, c.Name, c.Details)
		}
	}
	if !strings.Contains(strings.Join(notes, "\n"), "6 schemas: another id here") {
		t.Errorf("notes %q", notes)
	}
	newIDs, missing := registry.IDs(want, have)
	if len(missing) > 0 || len(newIDs["."]) != len(ids) {
		t.Fatalf("ids %v for %v, missing %q", newIDs, ids, missing)
	}
	w.write("ids", registry.FormatIDs(newIDs["."]))

	// Records with the ids of a, which are other schemas in b or none.
	cl := client(t, source)
	_, err = kadm.NewClient(cl).CreateTopic(ctx, 1, 1, nil, "registered")
	must(t, err)
	type by struct {
		Name string `avro:"name"`
	}
	type entry struct {
		N  int64 `avro:"n"`
		By by    `avro:"by"`
	}
	cache := &avro.SchemaCache{}
	_, err = avro.ParseWithCache(person, "", cache)
	must(t, err)
	schema, err := avro.ParseWithCache(order, "", cache)
	must(t, err)
	for i := range 20 {
		text, err := avro.Marshal(schema, entry{int64(i), by{"Ada"}})
		must(t, err)
		value, err := new(sr.ConfluentHeader).AppendEncode(nil, ids[order], nil)
		must(t, err)
		must(t, cl.ProduceSync(ctx, &kgo.Record{Topic: "registered", Value: append(value, text...)}).FirstErr())
	}
	w.pipe("kbk-fetch -b " + source.Bootstrap() + " -t registered | kbk-filter --schema-id-map ids | kbk-produce --create-topics -b " + target.Bootstrap() + " > map")
	restored := values(t, target, "registered", 20)
	for i, v := range restored {
		id, data, err := new(sr.ConfluentHeader).DecodeID(v)
		must(t, err)
		got, err := decode(ctx, b, id, data)
		must(t, err)
		if want := map[string]any{"n": int64(i), "by": map[string]any{"name": "Ada"}}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("value %d with id %d: %v", i, id, got)
		}
	}
	t.Run("in Python", func(t *testing.T) { readInPython(t, servers[1].URL, restored) })
}

// readInPython has a client that is not ours read the values.
func readInPython(t *testing.T, url string, values [][]byte) {
	need.Tools(t, "python3")
	cmd := exec.CommandContext(t.Context(), "python3", "testdata/reader.py", url)
	var in, want bytes.Buffer
	for i, v := range values {
		fmt.Fprintf(&in, "%x\n", v)
		fmt.Fprintf(&want, "{\"n\": %d, \"by\": {\"name\": \"Ada\"}}\n", i)
	}
	cmd.Stdin = &in
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != want.String() {
		t.Errorf("%v\n%s", err, out)
	}
}

// decode decodes a value as a consumer does: by the schema that the registry has under its id, and those
// that it refers to.
func decode(ctx context.Context, c *sr.Client, id int, data []byte) (out any, err error) {
	s, err := c.SchemaByID(ctx, id)
	if err != nil {
		return nil, err
	}
	cache := &avro.SchemaCache{}
	for _, r := range s.References {
		referred, err := c.SchemaByVersion(ctx, r.Subject, r.Version)
		if err != nil {
			return nil, err
		}
		if _, err := avro.ParseWithCache(referred.Schema.Schema, "", cache); err != nil {
			return nil, err
		}
	}
	schema, err := avro.ParseWithCache(s.Schema, "", cache)
	if err != nil {
		return nil, err
	}
	return out, avro.Unmarshal(schema, data, &out)
}

func readConnect(t *testing.T, c *rest.Client) connectors.Content {
	t.Helper()
	got, err := connectors.Read(t.Context(), c)
	must(t, err)
	return got
}

// applyConnect makes connectors what want is, and returns what failed.
func applyConnect(t *testing.T, c *rest.Client, want connectors.Content) (failed, notes []string) {
	t.Helper()
	changes, notes := connectors.Plan(want, readConnect(t, c))
	must(t, connectors.Apply(t.Context(), c, changes, func(c change.Change, err error) {
		if err != nil {
			failed = append(failed, err.Error())
		}
	}))
	return failed, notes
}

// until waits until it is so.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// lines are the lines from one number to another.
func lines(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintln(&b, "line", i)
	}
	return b.String()
}

// TestConnectors carries a source that has read half of a file, and a sink that has written that, to a
// worker of another cluster, where the records have other offsets. Both go on there without a line doubled
// or missing.
func TestConnectors(t *testing.T) {
	t.Parallel() // it mostly waits
	w := newWorld(t)
	workers := both(t, func(ctx context.Context, i int) (*kafkatest.Server, error) {
		return []*kafkatest.Cluster{source, target}[i].ConnectWorker(ctx)
	})
	from, to := connectors.New(&rest.Server{URL: workers[0].URL}), connectors.New(&rest.Server{URL: workers[1].URL})
	ctx := t.Context()
	const half, all = 500, 1000

	in, out := w.write("in.txt", lines(0, half)), w.path("out.txt")
	_, err := kadm.NewClient(client(t, source)).CreateTopic(ctx, 1, 1, nil, "lines")
	must(t, err)
	for _, config := range []map[string]string{
		{"name": "reader", "connector.class": "FileStreamSource", "file": in, "topic": "lines"},
		{"name": "writer", "connector.class": "FileStreamSink", "file": out, "topics": "lines", "consumer.override.auto.offset.reset": "earliest", "consumer.override.metadata.max.age.ms": "500"},
	} {
		must(t, from.Do(ctx, http.MethodPut, rest.Path("connectors", config["name"], "config"), nil, config, nil))
	}
	var snapshot connectors.Content
	until(t, "both are at the end", func() bool {
		snapshot = readConnect(t, from)
		return len(snapshot.Connectors) == 2 && snapshot.Connectors[0].State == "RUNNING" && snapshot.Connectors[1].State == "RUNNING" &&
			strings.Contains(snapshot.Connectors[0].Offsets, fmt.Sprintf(`"position":%d`, len(lines(0, half)))) &&
			strings.Contains(snapshot.Connectors[1].Offsets, fmt.Sprintf(`"kafka_offset":%d`, half))
	})
	if len(snapshot.LeftOut) > 0 {
		t.Errorf("left out: %q", snapshot.LeftOut)
	}
	must(t, workers[0].Close())

	// The topic begins with something else there, so offsets are other ones. It has a new name, too.
	other := client(t, target)
	_, err = kadm.NewClient(other).CreateTopic(ctx, 1, 1, nil, "new.lines")
	must(t, err)
	must(t, other.ProduceSync(ctx, &kgo.Record{Topic: "new.lines", Value: []byte("something else")}).FirstErr())
	w.pipe("kbk-fetch -b " + source.Bootstrap() + " -t lines | kbk-produce --rename lines=new.lines --if-not-empty append -b " + target.Bootstrap() + " > map")
	want, notes := connectors.Rename(snapshot, func(topic string) string { return "new." + topic })
	if len(notes) > 0 {
		t.Errorf("notes of the names: %q", notes)
	}
	failed, notes := applyConnect(t, to, want)
	if len(failed) != 1 || !strings.Contains(failed[0], "connect-writer has no offsets here") || len(notes) != 1 {
		t.Fatalf("failed %q, notes %q", failed, notes)
	}
	set := make(kadm.Offsets)
	set.Add(kadm.Offset{Topic: "new.lines", Partition: 0, At: half + 1, LeaderEpoch: -1})
	must(t, kadm.NewClient(other).CommitAllOffsets(ctx, "connect-writer", set)) // as kbk-offsets does
	if failed, _ := applyConnect(t, to, want); len(failed) > 0 {
		t.Fatalf("failed %q", failed)
	}

	f, err := os.OpenFile(in, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(lines(half, all))
	must(t, err, f.Close())
	values := valuesOf(t, all+1)
	if got := string(bytes.Join(values, []byte("\n"))) + "\n"; got != "something else\n"+lines(0, all) {
		t.Errorf("the topic has %d records, and not each line once", len(values))
	}
	var written []byte
	until(t, "the sink has written the rest", func() bool {
		written, err = os.ReadFile(out)
		return err == nil && len(written) >= len(lines(0, all))
	})
	if string(written) != lines(0, all) {
		t.Errorf("the file of the sink has %d lines, and not each once", bytes.Count(written, []byte("\n")))
	}
	// It has read on, and is not set back.
	until(t, "its offsets are those of the end", func() bool {
		return strings.Contains(readConnect(t, to).Connectors[0].Offsets, fmt.Sprintf(`"position":%d`, len(lines(0, all))))
	})
	failed, notes = applyConnect(t, to, want)
	if len(failed) > 0 || len(notes) != 1 || !strings.Contains(notes[0], "has read further") {
		t.Errorf("failed %q, notes %q", failed, notes)
	}
	// Stopped, it is: and then it reads half of the file again.
	must(t, to.Do(ctx, http.MethodPut, rest.Path("connectors", "reader", "stop"), nil, nil, nil))
	until(t, "it is stopped", func() bool { return state(t, to, "reader") == "STOPPED" })
	if failed, _ := applyConnect(t, to, want); len(failed) > 0 {
		t.Errorf("failed %q", failed)
	}
	if values := valuesOf(t, all+1+half); string(values[all+1]) != fmt.Sprint("line ", half) {
		t.Errorf("it goes on with %q", values[all+1])
	}

	changes, _ := connectors.Plan(connectors.Content{}, readConnect(t, to))
	must(t, connectors.Apply(ctx, to, changes, func(_ change.Change, err error) { must(t, err) }))
	if left := readConnect(t, to).Connectors; len(left) > 0 {
		t.Errorf("%d connectors are left", len(left))
	}
}

func valuesOf(t *testing.T, n int) [][]byte {
	t.Helper()
	return values(t, target, "new.lines", n)
}

func state(t *testing.T, c *rest.Client, name string) string {
	t.Helper()
	all := readConnect(t, c).Connectors
	i := slices.IndexFunc(all, func(f *format.Connector) bool { return f.Name == name })
	return all[i].State
}

// TestSchemasTopic copies the topic of Confluent's registry: each record has to be at its offset.
func TestSchemasTopic(t *testing.T) {
	t.Parallel() // it mostly waits
	w := newWorld(t)
	cl := client(t, source)
	_, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, map[string]*string{"cleanup.policy": ptr("compact")}, "_schemas")
	must(t, err)
	for i, r := range []struct{ key, value string }{
		{`{"keytype":"NOOP","magic":0}`, ""},
		{`{"keytype":"SCHEMA","subject":"a-value","version":1,"magic":1}`, `{"subject":"a-value","version":1,"id":1,"schema":"\"string\"","deleted":false}`},
		{`{"keytype":"SCHEMA","subject":"a-value","version":2,"magic":1}`, `{"subject":"a-value","version":2,"id":2,"schema":"\"bytes\"","deleted":false}`},
		{`{"keytype":"CONFIG","subject":"a-value","magic":0}`, `{"compatibilityLevel":"FULL"}`},
		{`{"keytype":"SCHEMA","subject":"a-value","version":2,"magic":1}`, ""},
	} {
		var value []byte
		if r.value != "" {
			value = []byte(r.value)
		}
		must(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: "_schemas", Key: []byte(r.key), Value: value, Timestamp: time.UnixMilli(int64(i))}).FirstErr())
	}
	w.pipe("kbk-fetch -b " + source.Bootstrap() + " -t _schemas | kbk-produce --create-topics --offsets exact -b " + target.Bootstrap() + " > map")
	var got [2][]byte
	for i, c := range []*kafkatest.Cluster{source, target} {
		got[i], err = c.Console(t.Context(), "_schemas", 0, kafkatest.PrintOffset)
		must(t, err)
	}
	if !bytes.Equal(got[0], got[1]) || bytes.Count(got[0], []byte("\n")) != 5 {
		t.Errorf("source\n%s\ntarget\n%s", got[0], got[1])
	}
	configs, err := kadm.NewClient(client(t, target)).DescribeTopicConfigs(t.Context(), "_schemas")
	must(t, err)
	for _, c := range configs[0].Configs {
		if c.Key == "cleanup.policy" && *c.Value != "compact" {
			t.Errorf("cleanup.policy is %s", *c.Value)
		}
	}
}
