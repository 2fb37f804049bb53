package cluster

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// TestRights takes a snapshot as a user who may not see everything, and one who may see nothing.
func TestRights(t *testing.T) {
	w := newWorld(t)
	adm := connect(t, source)
	for _, user := range []string{"reader", "nobody"} {
		altered, err := adm.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: user, Mechanism: kadm.ScramSha256, Iterations: 4096, Password: aliceSecret}})
		must(t, err, altered.Error())
	}
	made, err := adm.CreateACLs(t.Context(), kadm.NewACLs().Clusters().ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:reader").AllowHosts("*").Operations(kadm.OpDescribeConfigs))
	must(t, err, made[0].Err)
	t.Cleanup(func() {
		_, _ = adm.DeleteACLs(context.Background(), kadm.NewACLs().Clusters().ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:reader").AllowHosts("*").Operations(kadm.OpDescribeConfigs))
		_, _ = adm.AlterUserSCRAMs(context.Background(), []kadm.DeleteSCRAM{{User: "reader", Mechanism: kadm.ScramSha256}, {User: "nobody", Mechanism: kadm.ScramSha256}}, nil)
	})
	as := func(user string) string {
		return strings.Join([]string{"-b", source.Listener("SASL", 0), "-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanism=SCRAM-SHA-256", "-X", "sasl.username=" + user, "-X", "sasl.password=" + aliceSecret}, "\n")
	}
	// Both users and the right reach the broker a moment later.
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "kbk-cluster"), append([]string{"snapshot", "--only", "quotas"}, strings.Split(as("reader"), "\n")...)...)
		if cmd.Run() == nil || time.Now().After(end) {
			break
		}
	}
	out, log := w.run("", 4, "snapshot", as("reader"))
	w.wants(log, "acls cannot be read: CLUSTER_AUTHORIZATION_FAILED", "users cannot be read: CLUSTER_AUTHORIZATION_FAILED")
	w.write("some.kbk", out)
	// What is not in the snapshot, apply does nothing about, with --prune neither.
	_, log = w.run("some.kbk", 4, "plan", w.at(source))
	w.wants(log, "has no acls, so they stay as they are", "has no users, so they stay as they are", "lost: acls cannot be read", "done, but with loss")
	_, log = w.run("some.kbk", 1, "plan", w.at(source), "--only", "acls")
	w.wants(log, "has no acls")
	_, log = w.run("", 1, "snapshot", as("nobody"), "--only", "acls,users")
	w.wants(log, "nothing was read", "acls cannot be read", "users cannot be read")
	// Nor can what is not seen be compared.
	w.snapshot(source, "all.kbk")
	_, log = w.run("all.kbk", 1, "plan", as("reader"))
	w.wants(log, "in the target, acls cannot be read", "--exclude acls")
}

// TestKilled kills apply at its first change, and takes back what it has done.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	adm := connect(t, target)
	w.snapshot(target, "before.kbk")
	for _, topic := range []string{"a", "b"} {
		for _, op := range []kadm.ACLOperation{kadm.OpRead, kadm.OpWrite} {
			made, err := adm.CreateACLs(t.Context(), kadm.NewACLs().Topics(topic).ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:killed").AllowHosts("*").Operations(op))
			must(t, err, made[0].Err)
		}
	}
	configs(t, adm, kmsg.ConfigResourceTypeBroker, "", "log.cleaner.threads", "2")
	w.seen(target, "killed.kbk", "User:killed WRITE on TOPIC b")
	w.run("before.kbk", 0, "apply", w.at(target), "--prune", "--yes", "--save", "back.kbk")
	w.equal(target, "before.kbk")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "kbk-cluster"), append([]string{"apply", "--save", "saved.kbk"}, strings.Split(w.at(target), "\n")...)...)
	cmd.Dir = w.dir
	in, err := os.Open(w.path("killed.kbk"))
	must(t, err)
	defer in.Close()
	cmd.Stdin = in
	printed, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	buf := make([]byte, 1)
	if _, err := printed.Read(buf); err != nil {
		t.Fatalf("it has printed no change: %v", err)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	w.run("", 0, "rollback", w.at(target), "saved.kbk")
	w.equal(target, "before.kbk")
	// And the same file once more does no harm.
	_, log := w.run("", 0, "rollback", w.at(target), "saved.kbk")
	w.wants(log, "already as before: ", "nothing to change")
}

// TestStream refuses streams without a snapshot, and one that is cut short, before anything is changed.
func TestStream(t *testing.T) {
	w := newWorld(t)
	w.snapshot(target, "all.kbk")
	whole, err := os.ReadFile(w.path("all.kbk"))
	must(t, err)
	w.write("cut.kbk", string(whole[:len(whole)-3]))
	for _, command := range []string{"plan", "apply", "verify", "script"} {
		_, log := w.run("cut.kbk", 3, command, w.at(target))
		w.wants(log, "standard input")
	}
	w.run("all.kbk", 0, "verify", w.at(target))
	files, err := filepath.Glob(w.path("kbk-cluster-before-*"))
	if must(t, err); len(files) > 0 {
		t.Errorf("something was saved: %q", files)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	for _, args := range [][]string{{"snapshot"}, {"plan"}, {"script"}} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "kbk-cluster"), append(args, strings.Split(w.at(target), "\n")...)...)
		cmd.Stdin, cmd.Stdout = bytes.NewReader(whole), full
		if err := cmd.Run(); err == nil {
			t.Errorf("%q to a full disk: no error", args)
		}
	}
}

// seen takes snapshots until one has what was just made.
func (w *world) seen(from *kafkatest.Cluster, file, name string) {
	w.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		w.snapshot(from, file)
		out, _ := w.run(file, 0, "plan", w.at(from), "--map-principal", "User:killed=User:another")
		if strings.Contains(out, name) || time.Now().After(end) {
			return
		}
	}
}
