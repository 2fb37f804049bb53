package security

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestRights reads as a user that has the right to READ one topic, and to DESCRIBE another,
// and no other right.
func TestRights(t *testing.T) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(cluster.Bootstrap(), ",")...), kgo.TransactionalID("tx"), kgo.TransactionTimeout(10*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	compact := "compact"
	for topic, configs := range map[string]map[string]*string{"readable": {"cleanup.policy": &compact}, "seen": nil, "unseen": nil} {
		if _, err := adm.CreateTopic(t.Context(), 1, 1, configs, topic); err != nil {
			t.Fatal(err)
		}
	}
	for topic, op := range map[string]kadm.ACLOperation{"readable": kadm.OpRead, "seen": kadm.OpDescribe} {
		acl := kadm.NewACLs().Topics(topic).ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:reader").AllowHosts().Operations(op)
		if created, err := adm.CreateACLs(t.Context(), acl); err != nil || created[0].Err != nil {
			t.Fatal(err, created)
		}
	}
	// One record is committed, and one is in a transaction that stays open.
	for range 2 {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for _, topic := range []string{"readable", "seen"} {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("v"), Timestamp: time.Now().Add(-time.Hour)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if list, err := adm.ListCommittedOffsets(t.Context(), "readable"); err != nil || list["readable"][0].Offset > 0 {
			break
		}
		if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	fetch := func(args ...string) (said string, status int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "kbk-fetch"), append([]string{"-b", cluster.Listener("SASL", 0),
			"-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanism=PLAIN", "-X", "sasl.username=reader"}, args...)...)
		cmd.Env = append(os.Environ(), "KBK_SASL_PASSWORD="+userSecret)
		var out, log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &log
		_ = cmd.Run() // the status says it
		if slices.Contains(args, "--list") {
			return log.String() + out.String(), cmd.ProcessState.ExitCode()
		}
		return log.String(), cmd.ProcessState.ExitCode()
	}
	wants := func(said string, all ...string) {
		t.Helper()
		for _, want := range all {
			if !strings.Contains(said, want) {
				t.Errorf("it does not say %q:\n%s", want, said)
			}
		}
	}
	// An access control list reaches the broker a moment later.
	var said string
	var status int
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if said, status = fetch("-t", "^", "-t", "^unseen"); strings.Contains(said, "readable") && strings.Contains(said, "seen is left out") || time.Now().After(end) {
			break
		}
	}
	// The transaction's coordinator tells this user nothing, and by its records the
	// transaction is old.
	wants(said, "the topic configs of readable", "DESCRIBE_CONFIGS", `no topic matches "^unseen"`, "read 1 record of 1 topic",
		"topic seen is left out: the user has no right to READ it", "readable/0: offsets 2 to 2 are hidden behind a transaction that is open since", "of producer ", "--start-offset 2")
	if status != 4 || strings.Contains(said, `"tx"`) || strings.Contains(said, "seen/0") {
		t.Errorf("status %d\n%s", status, said)
	}
	if said, status = fetch("-t", "unseen"); status != 1 {
		t.Errorf("status %d\n%s", status, said)
	}
	wants(said, `topic "unseen": not authorized`, "READ and DESCRIBE")
	if said, status = fetch("-t", "^", "-t", "seen"); status != 1 {
		t.Errorf("status %d\n%s", status, said)
	}
	wants(said, `topic "seen": not authorized`, "READ and DESCRIBE")
	if said, status = fetch("-t", "^", "--on-loss", "fail"); status != 4 {
		t.Errorf("status %d\n%s", status, said)
	}
	wants(said, "error: topic seen is left out")
	if said, status = fetch("--list"); status != 0 {
		t.Errorf("status %d\n%s", status, said)
	}
	wants(said, "readable", "seen")
	// kbk doctor says what is missing before a run does.
	config := filepath.Join(t.TempDir(), "kbk.yaml")
	text := "cluster: {bootstrap.servers: '" + cluster.Listener("SASL", 0) + "', security.protocol: SASL_PLAINTEXT, sasl.mechanism: PLAIN, sasl.username: reader}\n" +
		"profiles: {nightly: {store: '" + t.TempDir() + "', topics: [^, unseen], targets: {here: {offsets: exact}}}}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	doctor := exec.CommandContext(t.Context(), filepath.Join(bin, "kbk"), "doctor", "--config", config)
	doctor.Env = append(os.Environ(), "KBK_SASL_PASSWORD="+userSecret)
	raw, err := doctor.CombinedOutput()
	if doctor.ProcessState.ExitCode() != 1 || strings.Contains(string(raw), userSecret) {
		t.Errorf("kbk doctor: %v\n%s", err, raw)
	}
	wants(string(raw), "nightly: rights to back up: the user has no right to READ seen; grant READ",
		"rights to back up: topic unseen is not there, or the user has no right to DESCRIBE it", "no right to read the configs of readable, seen",
		"target here: rights to restore: the user has no right to CREATE topic readable", "no right to DESCRIBE the group kbk-produce", "no right to ALTER the cluster")
	// The command that the message names ends it.
	abort := cluster.Tool(t.Context(), "org.apache.kafka.tools.TransactionsCommand", "--bootstrap-server", cluster.Bootstrap(),
		"abort", "--topic", "readable", "--partition", "0", "--start-offset", "2")
	if out, err := abort.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if said, status = fetch("-t", "readable", "--no-configs"); status != 0 || strings.Contains(said, "warning") {
		t.Errorf("after the abort: status %d\n%s", status, said)
	}
	_ = cl.EndTransaction(t.Context(), kgo.TryAbort) // whatever becomes of it now
}
