package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kbkio/kbk/pkg/command"
)

// TestDrillStops sends kbk Ctrl-C in the middle of a drill in a cluster, as a terminal does,
// to all processes. What the drill has restored is deleted.
func TestDrillStops(t *testing.T) {
	topic := "drill-stops"
	if err := seedRecords(t.Context(), topic, 1, 1, 20_000, 200); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "kbk.yaml")
	text := fmt.Sprintf("cluster: {bootstrap.servers: '%[1]s'}\nclusters: {again: {bootstrap.servers: '%[1]s'}}\nproduce: {max-rate: 1MB/s}\nprofiles: {stops: {store: %[2]s, topics: [%[3]s]}}\n",
		cluster.Bootstrap(), filepath.Join(dir, "backup"), topic)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	kbk := func(args ...string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command(filepath.Join(bin, "kbk"), args...)
		cmd.Env = append(os.Environ(), "KBK_CONFIG="+config)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &said
	}
	cmd, said := kbk("backup", "stops")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	restored := func() bool {
		all, err := kadm.NewClient(cl).ListTopics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(all.Names(), func(name string) bool { return strings.HasPrefix(name, "kbk-drill-stops-") })
	}
	cmd, said = kbk("drill", "stops", "--to", "again")
	waitFor(t, "the drill's topic", restored)
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the status says it
	if got := cmd.ProcessState.ExitCode(); got != command.Interrupted || !strings.Contains(said.String(), "kbk: warning: interrupted: the drill of stops was stopped") {
		t.Errorf("status %d\n%s", got, said)
	}
	waitFor(t, "the drill's topic to be gone", func() bool { return !restored() })
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

// TestKbkMirror has kbk mirror keep a cluster the same as another, until kbk alone is told to
// stop, as a supervisor does.
func TestKbkMirror(t *testing.T) {
	a, b := sides(t)
	const topic, group = "kbk-mirror", "kbk-mirror-group"
	a.create(topic, 2, nil)
	a.write(topic, 2, 100, "first")
	a.commit(group, topic, 40)
	dir := t.TempDir()
	config := filepath.Join(dir, "kbk.yaml")
	text := fmt.Sprintf("cluster: {bootstrap.servers: '%s'}\nclusters: {dr: {bootstrap.servers: '%s'}}\nfetch: {point-every: 1s, refresh: 500ms}\nprofiles: {nightly: {store: %s, topics: [%s], groups: [%s], mirror: dr}}\n",
		a.Bootstrap(), b.Bootstrap(), filepath.Join(dir, "backup"), topic, group)
	a.ok(os.WriteFile(config, []byte(text), 0o600))
	cmd := exec.Command(filepath.Join(bin, "kbk"), "mirror", "nightly", "--config", config)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	a.ok(cmd.Start())
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // the status says it
		if got := cmd.ProcessState.ExitCode(); t.Failed() || got != command.Interrupted {
			t.Errorf("status %d\n%s", got, &said)
		}
	}()
	alike := func() bool { return unlike(a, b, topic, topic) == nil }
	waitFor(t, "the topic to be the same", alike)
	a.write(topic, 2, 50, "later")
	waitFor(t, "the topic to be the same again", alike)
	waitFor(t, "the group's offset", func() bool { return b.committed(group, topic) == 40 })
}
