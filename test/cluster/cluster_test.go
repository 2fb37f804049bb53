// Package cluster tests kbk-cluster between two real Kafka clusters with an authorizer, SCRAM
// and quotas.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/pkg/cluster/registry/registrytest"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// What must never be printed.
const (
	aliceSecret = "alice-secret-7w"
	bobSecret   = "bob-secret-2h"
)

var version = flag.String("kafka", "", "the version of Kafka; that of test/kafka/pom.xml unless given")

var (
	bin            string
	source, target *kafkatest.Cluster
	said           bytes.Buffer // all that the commands have printed
)

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func testAll(m *testing.M) (status int, err error) {
	if bin = os.Getenv("KBK_BIN"); bin == "" {
		if bin, err = os.MkdirTemp("", "kbk-cluster-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(bin)
		args := []string{"build", "-o", bin + "/"}
		for _, name := range []string{"kbk-cluster", "kbk-fetch", "kbk-filter", "kbk-produce"} {
			args = append(args, "github.com/kbkio/kbk/cmd/"+name)
		}
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build the commands: %w\n%s", err, out)
		}
	}
	var g errgroup.Group
	for _, c := range []**kafkatest.Cluster{&source, &target} {
		g.Go(func() (err error) {
			*c, err = start(*version)
			return err
		})
	}
	err = g.Wait()
	defer func() {
		for _, c := range []*kafkatest.Cluster{source, target} {
			if c != nil {
				err = errors.Join(err, c.Close())
			}
		}
	}()
	if err != nil {
		return 0, err
	}
	if status = m.Run(); status != 0 {
		return status, nil
	}
	for _, secret := range []string{aliceSecret, bobSecret} {
		if strings.Contains(said.String(), secret) {
			return 0, fmt.Errorf("the secret %q is in what the commands print or store", secret)
		}
	}
	return 0, nil
}

// start starts one broker whose plain listener is for its super user, and whose listener SASL
// is for users of SCRAM.
func start(version string) (*kafkatest.Cluster, error) {
	return kafkatest.Start(context.Background(), kafkatest.Options{
		Version: version,
		Config: map[string]string{
			"sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
			"authorizer.class.name":   "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"super.users":             "User:ANONYMOUS",
			"listener.name.sasl.scram-sha-256.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
			"listener.name.sasl.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
		},
		Listeners: []kafkatest.Listener{{Name: "SASL", Protocol: "SASL_PLAINTEXT"}},
	})
}

// A world is a test with its folder.
type world struct {
	*testing.T
	dir        string
	registries map[*kafkatest.Cluster]string // URLs of those that belong to clusters
}

func newWorld(t *testing.T) *world {
	return &world{t, t.TempDir(), make(map[*kafkatest.Cluster]string)}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) string {
	w.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
	return w.path(name)
}

// run runs kbk-cluster in the folder, with a file as its input, and wants a status.
func (w *world) run(in string, status int, args ...string) (out, log string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	var words []string
	for _, a := range args {
		words = append(words, strings.Split(a, "\n")...)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "kbk-cluster"), words...)
	cmd.Dir = w.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // one that hangs says where
	if in != "" {
		f, err := os.Open(w.path(in))
		if err != nil {
			w.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	var o, l bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &l
	_ = cmd.Run() // the status says it
	said.Write(o.Bytes())
	said.Write(l.Bytes())
	if got := cmd.ProcessState.ExitCode(); got != status {
		w.Fatalf("kbk-cluster %q: status %d, not %d\n%s%s", args, got, status, l.String(), o.String())
	}
	return o.String(), l.String()
}

// at are the flags that lead to a cluster, a line each.
func (w *world) at(c *kafkatest.Cluster) string {
	at := "-b\n" + c.Bootstrap()
	if url := w.registries[c]; url != "" {
		at += "\n--schema-registry\n" + url
	}
	return at
}

func (w *world) wants(text string, all ...string) {
	w.Helper()
	for _, want := range all {
		if !strings.Contains(text, want) {
			w.Errorf("it does not say %q:\n%s", want, text)
		}
	}
}

// snapshot writes one of a cluster into a file.
func (w *world) snapshot(c *kafkatest.Cluster, file string, args ...string) (log string) {
	w.Helper()
	out, log := w.run("", 0, append([]string{"snapshot", w.at(c)}, args...)...)
	w.write(file, out)
	return log
}

// equal wants a cluster to be as a snapshot is.
func (w *world) equal(c *kafkatest.Cluster, file string) {
	w.Helper()
	w.run(file, 0, "verify", w.at(c))
}

// must fails on an error of a request or of one of its answers.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func ptr(s string) *string { return &s }

// fill gives a cluster something of each kind.
func fill(t *testing.T, adm *kadm.Client) {
	t.Helper()
	ctx := t.Context()
	_, err := adm.CreateTopic(ctx, 2, 1, map[string]*string{"retention.ms": ptr("86400000")}, "orders")
	must(t, err)
	for _, a := range []*kadm.ACLBuilder{
		kadm.NewACLs().Topics("orders").ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:alice").AllowHosts("*").Operations(kadm.OpWrite, kadm.OpDescribe),
		kadm.NewACLs().Topics("ord").ResourcePatternType(kadm.ACLPatternPrefixed).Allow("User:bob").AllowHosts("*").Operations(kadm.OpRead, kadm.OpDescribe),
		kadm.NewACLs().Groups("it's bob", "bob").ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:bob").AllowHosts("*").Operations(kadm.OpRead),
		kadm.NewACLs().Topics("*").ResourcePatternType(kadm.ACLPatternLiteral).Deny("User:mallory").DenyHosts("10.0.0.1").Operations(kadm.OpAll),
		kadm.NewACLs().Clusters().ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:alice").AllowHosts("*").Operations(kadm.OpIdempotentWrite, kadm.OpDescribeConfigs),
		kadm.NewACLs().TransactionalIDs("tx").ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:CN=Alice A,O=Home $HOME").AllowHosts("*").Operations(kadm.OpWrite),
	} {
		made, err := adm.CreateACLs(ctx, a)
		must(t, err)
		for _, m := range made {
			must(t, m.Err)
		}
	}
	for user, secret := range map[string]string{"alice": aliceSecret, "bob": bobSecret} {
		for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
			altered, err := adm.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: user, Mechanism: m, Iterations: 4096 + int32(m), Password: secret}})
			must(t, err, altered.Error())
		}
	}
	entity := func(parts ...*string) (out kadm.ClientQuotaEntity) {
		for i, name := range parts {
			out = append(out, kadm.ClientQuotaEntityComponent{Type: []string{"user", "client-id"}[i], Name: name})
		}
		return out
	}
	quotas, err := adm.AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{
		{Entity: entity(ptr("alice")), Ops: []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: 1 << 20}, {Key: "request_percentage", Value: 12.5}}},
		{Entity: entity(nil), Ops: []kadm.AlterClientQuotaOp{{Key: "consumer_byte_rate", Value: 1e9}}},
		{Entity: entity(ptr("alice"), nil), Ops: []kadm.AlterClientQuotaOp{{Key: "consumer_byte_rate", Value: 1e8}}},
		{Entity: entity(ptr("bob"), ptr("it's an id")), Ops: []kadm.AlterClientQuotaOp{{Key: "consumer_byte_rate", Value: 1e8}}},
		{Entity: kadm.ClientQuotaEntity{{Type: "ip", Name: ptr("10.1.2.3")}}, Ops: []kadm.AlterClientQuotaOp{{Key: "connection_creation_rate", Value: 100}}},
	})
	must(t, err)
	for _, q := range quotas {
		must(t, q.Err)
	}
	configs(t, adm, kmsg.ConfigResourceTypeBroker, "", "log.cleaner.threads", "2")
	configs(t, adm, kmsg.ConfigResourceTypeBroker, "0", "log.cleaner.io.buffer.size", "600000")
	configs(t, adm, kmsg.ConfigResourceTypeTopic, "orders", "leader.replication.throttled.replicas", "0:0,1:0")
	if *version == "" { // Kafka 3.9 has no configs of groups
		configs(t, adm, kmsg.ConfigResourceTypeGroupConfig, "bob", "consumer.session.timeout.ms", "50000")
	}
	configs(t, adm, kmsg.ConfigResourceTypeClientMetrics, "all", "metrics", "org.apache.kafka.producer.,org.apache.kafka.consumer.", "interval.ms", "60000")
}

// configs sets configs of one resource.
func configs(t *testing.T, adm *kadm.Client, of kmsg.ConfigResourceType, name string, pairs ...string) {
	t.Helper()
	must(t, setConfigs(t.Context(), adm, of, name, pairs...))
}

func setConfigs(ctx context.Context, adm *kadm.Client, of kmsg.ConfigResourceType, name string, pairs ...string) error {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = of, name
	for i := 0; i < len(pairs); i += 2 {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = pairs[i], &pairs[i+1]
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	cl := clients[adm]
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	for _, r := range resp.Resources {
		if r.ErrorCode != 0 {
			return fmt.Errorf("configs of %s: %s", name, *r.ErrorMessage)
		}
	}
	return nil
}

var clients = make(map[*kadm.Client]*kgo.Client)

func connect(t *testing.T, c *kafkatest.Cluster) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Bootstrap()))
	must(t, err)
	t.Cleanup(cl.Close)
	adm := kadm.NewClient(cl)
	clients[adm] = cl
	return adm
}

// login connects as a user of SCRAM.
func login(t *testing.T, c *kafkatest.Cluster, user, secret string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.Listener("SASL", 0)), kgo.SASL(scram.Auth{User: user, Pass: secret}.AsSha512Mechanism()))...)
	must(t, err)
	t.Cleanup(cl.Close)
	return cl
}

func TestCluster(t *testing.T) {
	w := newWorld(t)
	from, to := connect(t, source), connect(t, target)
	sourceRegistry, end := new(registrytest.Registry).Serve()
	t.Cleanup(end)
	targetRegistry, end := new(registrytest.Registry).Serve()
	t.Cleanup(end)
	fill(t, from)
	// The target has the topic, as after a restore, and some things of its own.
	_, err := to.CreateTopic(t.Context(), 2, 1, map[string]*string{"retention.ms": ptr("86400000"), "max.message.bytes": ptr("2000000")}, "orders")
	must(t, err)
	own := kadm.NewACLs().Topics("own").ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:carol").AllowHosts("*").Operations(kadm.OpRead)
	_, err = to.CreateACLs(t.Context(), own)
	must(t, err)
	altered, err := to.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: "carol", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "c"}})
	must(t, err, altered.Error())

	schemas(t, sourceRegistry)
	w.registries[source], w.registries[target] = sourceRegistry, targetRegistry
	log := w.snapshot(source, "source.kbk")
	w.wants(log, "users: the passwords of 2", "10 ACLs, 5 quotas, 2 users")
	w.snapshot(source, "again.kbk")
	w.same("source.kbk", "again.kbk")
	w.snapshot(target, "before.kbk")
	w.run("", 4, "snapshot", w.at(source), "--strict")

	plan, _ := w.run("source.kbk", 0, "plan", w.at(target))
	w.wants(plan, "  + User:bob READ on TOPIC prefixed ord\n", "  + User:mallory DENY ALL on TOPIC * from 10.0.0.1\n", "  - User:carol READ on TOPIC own\n",
		"  + user alice, client-id <default>: consumer_byte_rate  100000000\n", "  + schema orders-value version 1", "  + all brokers: log.cleaner.threads  2\n",
		"  + topic orders: leader.replication.throttled.replicas  0:0,1:0\n", "  - topic orders: max.message.bytes  2000000\n",
		"alice: SCRAM-SHA-256  4097 iterations  (cannot be applied: the password is missing")
	_, log = w.run("source.kbk", 4, "apply", w.at(target), "--only", "users", "--save", "users.kbk")
	w.wants(log, "alice: SCRAM-SHA-512", "bob: SCRAM-SHA-256", "carol: SCRAM-SHA-256", "nothing to change")
	if _, err := os.Stat(w.path("users.kbk")); err == nil {
		t.Error("nothing was changed, and something saved")
	}
	w.write("passwords", "# ours\nalice="+aliceSecret+"\nbob="+bobSecret+"\n")
	_, log = w.run("source.kbk", 0, "apply", w.at(target), "--passwords-file", "passwords", "--save", "saved.kbk")
	w.wants(log, "what will be changed is saved in saved.kbk", "acls: User:carol READ on TOPIC own")
	w.run("source.kbk", 1, "verify", w.at(target)) // what is left is a difference
	_, log = w.run("source.kbk", 0, "apply", w.at(target), "--save", "twice.kbk")
	w.wants(log, "nothing to change")

	// Somebody who did not mean it deletes nothing.
	_, log = w.run("source.kbk", 2, "apply", w.at(target), "--prune", "--save", "pruned.kbk")
	w.wants(log, "--prune would delete 3 things", "--yes")
	out, _ := w.run("source.kbk", 0, "apply", w.at(target), "--prune", "--yes", "--save", "pruned.kbk")
	w.wants(out, "- User:carol READ on TOPIC own\n", "- carol: SCRAM-SHA-256", "- topic orders: max.message.bytes")
	w.equal(target, "source.kbk")

	users(t, target)

	_, log = w.run("", 4, "rollback", w.at(target), "pruned.kbk")
	w.wants(log, "carol: SCRAM-SHA-256  4096 iterations  (cannot be applied: the password is missing")
	w.write("carol", "{\"carol\": \"c\"}")
	w.run("", 0, "rollback", w.at(target), "--passwords-file", "carol", "pruned.kbk")
	// What has changed since is left, unless it is forced.
	configs(t, to, kmsg.ConfigResourceTypeBroker, "", "log.cleaner.threads", "3")
	_, log = w.run("", 4, "rollback", w.at(target), "saved.kbk")
	w.wants(log, "left unchanged, because it has changed since then: configs: all brokers: log.cleaner.threads")
	w.run("", 0, "rollback", w.at(target), "--force", "saved.kbk")
	w.equal(target, "before.kbk")
	_, log = w.run("", 1, "rollback", w.at(source), "saved.kbk")
	w.wants(log, "belongs to the cluster "+target.ID)

	w.run("source.kbk", 0, "apply", w.at(target), "--passwords-file", "passwords", "--prune", "--yes", "--save", "again.saved")
	if *version == "" { // the tools' classes have other names in Kafka 3.9
		spoil(t, to)
		w.script(target)
	}
}

// spoil changes some of each kind: every command of a script takes a second.
func spoil(t *testing.T, adm *kadm.Client) {
	t.Helper()
	ctx := t.Context()
	for _, a := range []*kadm.ACLBuilder{
		kadm.NewACLs().Topics("ord").ResourcePatternType(kadm.ACLPatternPrefixed).Allow("User:bob").AllowHosts("*").Operations(kadm.OpRead, kadm.OpDescribe),
		kadm.NewACLs().Topics("*").ResourcePatternType(kadm.ACLPatternLiteral).Deny("User:mallory").DenyHosts("10.0.0.1").Operations(kadm.OpAll),
		kadm.NewACLs().TransactionalIDs("tx").ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:CN=Alice A,O=Home $HOME").AllowHosts("*").Operations(kadm.OpWrite),
	} {
		deleted, err := adm.DeleteACLs(ctx, a)
		must(t, err)
		for _, d := range deleted {
			if must(t, d.Err); len(d.Deleted) != 1 {
				t.Fatalf("%d ACLs deleted", len(d.Deleted))
			}
		}
	}
	altered, err := adm.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: "alice", Mechanism: kadm.ScramSha512}}, nil)
	must(t, err, altered.Error())
	quotas, err := adm.AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{
		{Entity: kadm.ClientQuotaEntity{{Type: "user", Name: ptr("bob")}, {Type: "client-id", Name: ptr("it's an id")}}, Ops: []kadm.AlterClientQuotaOp{{Key: "consumer_byte_rate", Remove: true}}},
		{Entity: kadm.ClientQuotaEntity{{Type: "user"}}, Ops: []kadm.AlterClientQuotaOp{{Key: "consumer_byte_rate", Value: 5}}},
	})
	must(t, err)
	for _, q := range quotas {
		must(t, q.Err)
	}
	configs(t, adm, kmsg.ConfigResourceTypeBroker, "", "log.cleaner.threads", "3")
	configs(t, adm, kmsg.ConfigResourceTypeTopic, "orders", "leader.replication.throttled.replicas", "0:0", "max.message.bytes", "2000000")
	configs(t, adm, kmsg.ConfigResourceTypeGroupConfig, "bob", "consumer.session.timeout.ms", "51000")
	configs(t, adm, kmsg.ConfigResourceTypeClientMetrics, "all", "metrics", "org.apache.kafka.producer.")
}

// same wants two snapshots to be equal but for their ids and times.
func (w *world) same(a, b string) {
	w.Helper()
	one, other := w.frames(a), w.frames(b)
	if !slices.Equal(one, other) {
		w.Errorf("two snapshots of one cluster differ: %d and %d frames", len(one), len(other))
	}
}

// schemas registers a version of a subject.
func schemas(t *testing.T, url string) {
	t.Helper()
	resp, err := http.Post(url+"/subjects/orders-value/versions", "application/json", strings.NewReader(`{"schema": "\"int\""}`))
	must(t, err)
	if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
}

// users has a producer and a consumer do their work, and one that nobody knows not.
func users(t *testing.T, c *kafkatest.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice := login(t, c, "alice", aliceSecret)
	must(t, alice.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("v")}).FirstErr())
	bob := login(t, c, "bob", bobSecret, kgo.ConsumeTopics("orders"), kgo.ConsumerGroup("bob"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	got := bob.PollFetches(ctx)
	if must(t, got.Err()); got.NumRecords() != 1 {
		t.Errorf("bob has read %d records", got.NumRecords())
	}
	must(t, bob.CommitUncommittedOffsets(ctx))
	bob.Close()
	if err := login(t, c, "bob", bobSecret).ProduceSync(ctx, &kgo.Record{Topic: "orders"}).FirstErr(); err == nil {
		t.Error("bob may write")
	}
}

// script applies the plan with Kafka's own tools.
func (w *world) script(c *kafkatest.Cluster) {
	w.Helper()
	for name, class := range map[string]string{"kafka-acls.sh": "org.apache.kafka.tools.AclCommand", "kafka-configs.sh": "kafka.admin.ConfigCommand"} {
		var line strings.Builder
		for _, a := range c.Tool(context.Background(), class).Args {
			line.WriteString("'" + strings.ReplaceAll(a, "'", `'\''`) + "' ")
		}
		if err := os.WriteFile(w.path(name), []byte("#!/bin/sh\nexec "+line.String()+"\"$@\"\n"), 0o700); err != nil {
			w.Fatal(err)
		}
	}
	var text string
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // what was spoilt shows a moment later
		if text, _ = w.run("source.kbk", 0, "script", w.at(c), "--prune"); strings.Contains(text, "\nexit") && strings.Count(text, "\nacls -")+strings.Count(text, "\nconfigs -") >= 11 || time.Now().After(end) {
			break
		}
	}
	w.wants(text, "--delete-config max.message.bytes", "--add-config-file", "PASSWORD_1")
	w.write("change.sh", text)
	cmd := exec.CommandContext(w.Context(), "bash", "change.sh")
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "PATH="+w.dir+":"+os.Getenv("PATH"), "PASSWORD_1="+aliceSecret)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("%v\n%s\n%s", err, out, text)
	}
	_, log := w.run("source.kbk", 0, "apply", w.at(c), "--prune", "--save", "script.kbk")
	w.wants(log, "nothing to change")
}
