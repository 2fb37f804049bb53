package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/kbkio/kbk/format"
	connectors "github.com/kbkio/kbk/pkg/cluster/connect"
	"github.com/kbkio/kbk/pkg/cluster/rest"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// doraSecret is the password of the only user of the recovery.
const doraSecret = "dora-secret-9k"

// recovery runs examples/disaster-recovery.sh, and returns what it says, and its status.
func (w *world) recovery(what string, env ...string) (said string, status int) {
	w.Helper()
	script, err := filepath.Abs("../../examples/disaster-recovery.sh")
	must(w.T, err)
	ctx, cancel := context.WithTimeout(w.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", script, what)
	cmd.Dir = w.dir
	cmd.Env = append(append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "BACKUP="+w.path("backup"), `TOPICS=^dr\.`, "CONSUMERS=dr-readers"), env...)
	out, _ := cmd.CombinedOutput()
	if bytes.Contains(out, []byte(doraSecret)) {
		w.Errorf("%s prints a password", what)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// done wants a run to be done. Other tests leave users without a password and configs that are secret:
// these are named, with status 4.
func (w *world) done(said string, status int) string {
	w.Helper()
	if status != 0 && status != 4 {
		w.Fatalf("status %d:\n%s", status, said)
	}
	return said
}

// inWireFormat is a value as a serializer of a schema registry writes it: a zero byte, the id, the content.
func inWireFormat(id int, n int) []byte {
	return fmt.Appendf(binary.BigEndian.AppendUint32([]byte{0}, uint32(id)), "order %d", n)
}

// TestRecovery loses a cluster with its users, their rights and quotas, its schemas and its connectors, and has
// examples/disaster-recovery.sh bring all of it back as another one. A consumer, a producer and a connector go
// on there as if nothing had been.
func TestRecovery(t *testing.T) {
	t.Parallel() // it mostly waits
	w, ctx := newWorld(t), t.Context()
	registries := both(t, func(ctx context.Context, _ int) (*kafkatest.Server, error) { return kafkatest.Apicurio(ctx) })
	workers := both(t, func(ctx context.Context, i int) (*kafkatest.Server, error) {
		return []*kafkatest.Cluster{source, target}[i].ConnectWorker(ctx)
	})
	id := w.disasterAhead(registries, workers[0])
	w.done(w.recovery("backup", "SOURCE="+source.Bootstrap(), "REGISTRY="+registries[0].URL, "CONNECT="+workers[0].URL))
	must(t, workers[0].Close())

	there := []string{"TARGET=" + target.Bootstrap(), "REGISTRY=" + registries[1].URL, "CONNECT=" + workers[1].URL,
		"PASSWORDS=" + w.write("passwords", "dora="+doraSecret+"\n")}
	said := w.done(w.recovery("recover", there...))
	w.wants(said, "1 group are committed as planned")

	// The schema has another id there, and the records have that.
	b, err := sr.NewClient(sr.URLs(registries[1].URL))
	must(t, err)
	schema, err := b.SchemaByVersion(ctx, "dr.orders-value", 1)
	must(t, err)
	if schema.ID == id {
		t.Fatalf("the schema has the same id %d in both registries, so that nothing is tried", id)
	}
	consumer := login(t, target, "dora", doraSecret, kgo.ConsumerGroup("dr-readers"), kgo.ConsumeTopics("dr.orders"))
	var rest [][]byte
	end, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for len(rest) < 5 {
		f := consumer.PollFetches(end)
		must(t, f.Err())
		f.EachRecord(func(r *kgo.Record) { rest = append(rest, r.Value) })
	}
	for i, got := range rest {
		if want := inWireFormat(schema.ID, 5+i); !bytes.Equal(got, want) {
			t.Errorf("record %d behind the committed offset is %q, want %q", i, got, want)
		}
	}
	producer := login(t, target, "dora", doraSecret)
	must(t, producer.ProduceSync(ctx, &kgo.Record{Topic: "dr.orders", Value: inWireFormat(schema.ID, 10)}).FirstErr())
	if err := producer.ProduceSync(ctx, &kgo.Record{Topic: "dr.lines", Value: []byte("x")}).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("dora may write to a topic that is not hers: %v", err)
	}
	quotas, err := connect(t, target).DescribeClientQuotas(ctx, true, []kadm.DescribeClientQuotaComponent{{Type: "user", MatchName: kadm.StringPtr("dora")}})
	must(t, err)
	if len(quotas) != 1 || len(quotas[0].Values) != 1 || quotas[0].Values[0].Value != 1<<20 {
		t.Errorf("quotas %v", quotas)
	}

	// The connector reads on where it was.
	f, err := os.OpenFile(w.path("dr.txt"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(lines(50, 100))
	must(t, err, f.Close())
	if got := string(bytes.Join(values(t, target, "dr.lines", 100), []byte("\n"))) + "\n"; got != lines(0, 100) {
		t.Errorf("dr.lines has not each line once:\n%s", got)
	}
	// Who recovers once more, when the cluster is in use, is stopped before anything is doubled.
	if said, status := w.recovery("recover", append(there, "UNDO=again.kbk")...); status == 0 || status == 4 || !strings.Contains(said, "is not empty") {
		t.Errorf("a second recovery has status %d:\n%s", status, said)
	}
	if got := values(t, target, "dr.lines", 100); len(got) != 100 {
		t.Errorf("a second recovery has put %d lines into dr.lines", len(got)-100)
	}
}

// disasterAhead fills the source. It returns the id of the schema that is in the records.
func (w *world) disasterAhead(registries [2]*kafkatest.Server, worker *kafkatest.Server) (id int) {
	t, ctx, adm := w.T, w.Context(), connect(w.T, source)
	_, err := adm.CreateTopic(ctx, 1, 1, nil, "dr.orders")
	must(t, err)
	_, err = adm.CreateTopic(ctx, 1, 1, nil, "dr.lines")
	must(t, err)
	scram := kadm.UpsertSCRAM{User: "dora", Mechanism: kadm.ScramSha512, Iterations: 4096, Password: doraSecret}
	_, err = adm.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{scram})
	must(t, err)
	dora := func() *kadm.ACLBuilder {
		return kadm.NewACLs().Allow("User:dora").AllowHosts("*").Topics("dr.orders").ResourcePatternType(kadm.ACLPatternLiteral)
	}
	for _, b := range []*kadm.ACLBuilder{dora().Groups("dr-readers").Operations(kadm.OpRead, kadm.OpDescribe), dora().Operations(kadm.OpWrite)} {
		made, err := adm.CreateACLs(ctx, b)
		must(t, err)
		for _, m := range made {
			must(t, m.Err)
		}
	}
	_, err = adm.AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{{
		Entity: kadm.ClientQuotaEntity{{Type: "user", Name: kadm.StringPtr("dora")}}, Ops: []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: 1 << 20}},
	}})
	must(t, err)

	// Ids that differ: each registry has another schema first, the second one two.
	for i, others := range []int{1, 3} {
		cl, err := sr.NewClient(sr.URLs(registries[i].URL))
		must(t, err)
		for n := range others {
			_, err := cl.CreateSchema(ctx, fmt.Sprint("other-", i, "-", n), sr.Schema{Schema: fmt.Sprintf(`{"type":"enum","name":"E%d%d","symbols":["A"]}`, i, n)})
			must(t, err)
		}
		if i == 0 {
			made, err := cl.CreateSchema(ctx, "dr.orders-value", sr.Schema{Schema: `{"type":"string"}`})
			must(t, err)
			id = made.ID
		}
	}
	cl := client(t, source)
	for n := range 10 {
		must(t, cl.ProduceSync(ctx, &kgo.Record{Topic: "dr.orders", Value: inWireFormat(id, n)}).FirstErr())
	}
	set := make(kadm.Offsets)
	set.Add(kadm.Offset{Topic: "dr.orders", Partition: 0, At: 5, LeaderEpoch: -1})
	must(t, adm.CommitAllOffsets(ctx, "dr-readers", set))

	from := connectors.New(&rest.Server{URL: worker.URL})
	config := map[string]string{"name": "dr-reader", "connector.class": "FileStreamSource", "file": w.write("dr.txt", lines(0, 50)), "topic": "dr.lines"}
	must(t, from.Do(ctx, http.MethodPut, rest.Path("connectors", "dr-reader", "config"), nil, config, nil))
	until(t, "the connector is at the end", func() bool {
		all := readConnect(t, from).Connectors
		return slices.ContainsFunc(all, func(c *format.Connector) bool {
			return c.Name == "dr-reader" && strings.Contains(c.Offsets, fmt.Sprintf(`"position":%d`, len(lines(0, 50))))
		})
	})
	return id
}
