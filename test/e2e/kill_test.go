package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// A pipeline is stages that run with pipes between them, each a process of its own
// so that one can be killed.
type pipeline struct {
	t      *testing.T
	stages []*exec.Cmd
	errs   []*bytes.Buffer
	ends   []*os.File // of the pipes, to be let go of once all stages have them
}

// start starts stages; the output of the last is thrown away. The pipes are the
// system's: a stage that dies closes its ends.
func start(t *testing.T, lines ...string) *pipeline {
	t.Helper()
	p := &pipeline{t: t}
	for i, line := range lines {
		words := strings.Fields(line)
		cmd := exec.Command(words[0], words[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if i > 0 { // one process group, as a shell makes of a pipe
			cmd.SysProcAttr.Pgid = p.stages[0].Process.Pid
			cmd.Stdin = p.ends[len(p.ends)-1]
		}
		if i < len(lines)-1 {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stdout = w
			p.ends = append(p.ends, w, r)
		}
		stderr := new(bytes.Buffer)
		cmd.Stderr = stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p.stages, p.errs = append(p.stages, cmd), append(p.errs, stderr)
	}
	for _, f := range p.ends {
		f.Close()
	}
	return p
}

// wait returns the exit status of each stage, 128 and the signal for those killed.
func (p *pipeline) wait() []int {
	p.t.Helper()
	done := make(chan []int)
	go func() {
		var out []int
		for _, cmd := range p.stages {
			_ = cmd.Wait() // the status says it
			ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if ws.Signaled() {
				out = append(out, 128+int(ws.Signal()))
			} else {
				out = append(out, ws.ExitStatus())
			}
		}
		done <- out
	}()
	select {
	case out := <-done:
		return out
	case <-time.After(patience):
		p.signal(syscall.SIGKILL)
		p.t.Fatalf("the pipe hangs:\n%s", p)
		return nil
	}
}

// signal sends a signal to the whole group, as Ctrl-C at a terminal does.
func (p *pipeline) signal(s syscall.Signal) {
	if err := syscall.Kill(-p.stages[0].Process.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("signal: %v", err)
	}
}

func (p *pipeline) String() string {
	var b strings.Builder
	for i, e := range p.errs {
		fmt.Fprintf(&b, "%s:\n%s", strings.Join(p.stages[i].Args, " "), e)
	}
	return b.String()
}

// eventually waits until something has happened in the middle of a run.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !happened(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func files(glob string) int {
	found, _ := filepath.Glob(glob) // the pattern is a constant
	return len(found)
}

const (
	slowly        = 1 // the stage of both lines that is none of ours
	bigPartitions = 4
	bigRecords    = 60_000 // in each
)

// backupLine is a backup in small steps: a checkpoint every 50 ms and segments of
// 256 KiB. It takes a few seconds, thanks to its second stage.
func backupLine(topic, dir string) []string {
	return []string{
		fmt.Sprintf("kbk-fetch -b %s -t %s", cluster.Bootstrap(), topic),
		slowStage(40<<20, ""),
		"kbk-pack --segment-size 256KiB --memory 16MiB",
		fmt.Sprintf("kbk-push --checkpoint 50ms --receipts %s.receipts %s", dir, dir),
	}
}

func restoreLine(topic, dir, target string) []string {
	return []string{
		"kbk-pull --transfers 1 " + dir,
		slowStage(500<<10, ""),
		"kbk-pack -d --memory 16MiB",
		fmt.Sprintf("kbk-produce -b %s --create-topics --memory 1MiB --rename %s=%s --map %s.map", cluster.Bootstrap(), topic, target, dir),
	}
}

func all0(status []int) bool {
	for _, s := range status {
		if s != 0 {
			return false
		}
	}
	return true
}

func seedBig(t *testing.T, topic string) {
	t.Helper()
	if err := seedRecords(t.Context(), topic, bigPartitions, bigPartitions, bigRecords, 500); err != nil {
		t.Fatal(err)
	}
}

// restore runs a restore to its end and compares.
func restore(t *testing.T, topic, dir, target string) {
	t.Helper()
	p := start(t, restoreLine(topic, dir, target)...)
	if status := p.wait(); !all0(status) {
		t.Fatalf("restore: %d\n%s", status, p)
	}
	if err := same(t.Context(), topic, target, bigPartitions*bigRecords); err != nil {
		t.Fatal(err)
	}
}

// TestKillBackup kills each stage in the middle of a backup: the last stage must know,
// what is committed must be whole, and the same line must complete it.
func TestKillBackup(t *testing.T) {
	seedBig(t, "kill-backup")
	for stage, name := range []string{"kbk-fetch", "", "kbk-pack", "kbk-push"} {
		if stage == slowly {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "backup")
			p := start(t, backupLine("kill-backup", dir)...)
			eventually(t, "a second checkpoint", func() bool { return files(dir+"/log/*.json") >= 2 })
			if err := p.stages[stage].Process.Kill(); err != nil {
				t.Fatal(err)
			}
			status := p.wait()
			if status[stage] != 128+9 {
				t.Fatalf("it was done before it was killed: %d\n%s", status, p)
			}
			if stage < 3 && (status[3] != 3 || !strings.Contains(p.errs[3].String(), "stream ended before its end frame")) {
				t.Errorf("kbk-push: status %d\n%s", status[3], p)
			}
			// What is committed is whole, if it is not all.
			part := start(t, "kbk-pull "+dir, "kbk-pack -d")
			if status := part.wait(); !all0(status) {
				t.Errorf("what was committed cannot be read: %d\n%s", status, part)
			}
			again := start(t, backupLine("kill-backup", dir)...)
			if status := again.wait(); !all0(status) {
				t.Fatalf("the same line again: %d\n%s", status, again)
			}
			if !strings.Contains(again.errs[3].String(), "there already") {
				t.Errorf("nothing was resumed:\n%s", again)
			}
			restore(t, "kill-backup", dir, "kill-backup-"+name)
		})
	}
}

// TestKillRestore kills each stage in the middle of a restore.
func TestKillRestore(t *testing.T) {
	seedBig(t, "kill-restore")
	dir := filepath.Join(t.TempDir(), "backup")
	p := start(t, backupLine("kill-restore", dir)...)
	if status := p.wait(); !all0(status) {
		t.Fatalf("backup: %d\n%s", status, p)
	}
	for stage, name := range []string{"kbk-pull", "", "kbk-pack", "kbk-produce"} {
		if stage == slowly {
			continue
		}
		t.Run(name, func(t *testing.T) {
			target := "kill-restore-" + name
			p := start(t, restoreLine("kill-restore", dir, target)...)
			eventually(t, "a record in the target", func() bool {
				n, err := produced(t.Context(), target)
				return err == nil && n > 100
			})
			if err := p.stages[stage].Process.Kill(); err != nil {
				t.Fatal(err)
			}
			status := p.wait()
			if status[stage] != 128+9 {
				t.Fatalf("it was done before it was killed: %d\n%s", status, p)
			}
			if stage < 3 && (status[3] != 3 || !strings.Contains(p.errs[3].String(), "stream ended before its end frame")) {
				t.Errorf("kbk-produce: status %d\n%s", status[3], p)
			}
			// The target is not empty now, and the same line says so instead of doubling.
			again := start(t, restoreLine("kill-restore", dir, target)...)
			if status := again.wait(); status[3] != 1 || !strings.Contains(again.errs[3].String(), "is not empty") {
				t.Errorf("the same line again: %d\n%s", status, again)
			}
		})
	}
	restore(t, "kill-restore", dir, "kill-restore-whole")
}

// produced is how many offsets a topic has.
func produced(ctx context.Context, topic string) (int64, error) {
	cl, err := client()
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	n := int64(0)
	ends.Each(func(o kadm.ListedOffset) { n += max(o.Offset, 0) })
	return n, ends.Error()
}

// TestInterruptBackup presses Ctrl-C in the middle: what was read is kept, and the
// same line goes on.
func TestInterruptBackup(t *testing.T) {
	seedBig(t, "interrupt")
	dir := filepath.Join(t.TempDir(), "backup")
	p := start(t, backupLine("interrupt", dir)...)
	eventually(t, "a checkpoint", func() bool { return files(dir+"/log/*.json") >= 1 })
	p.signal(syscall.SIGINT)
	for i, status := range p.wait() {
		if i == slowly {
			continue
		}
		if status != 130 || !strings.Contains(p.errs[i].String(), "interrupted: ") {
			t.Errorf("stage %d: status %d\n%s", i, status, p)
		}
	}
	part := start(t, "kbk-pull "+dir, "kbk-pack -d")
	if status := part.wait(); !all0(status) {
		t.Errorf("what was kept cannot be read: %d\n%s", status, part)
	}
	again := start(t, backupLine("interrupt", dir)...)
	if status := again.wait(); !all0(status) {
		t.Fatalf("the same line again: %d\n%s", status, again)
	}
	restore(t, "interrupt", dir, "interrupt-restored")

	// A restore that is interrupted says that it is not all.
	p = start(t, restoreLine("interrupt", dir, "interrupt-half")...)
	eventually(t, "a record in the target", func() bool {
		n, err := produced(t.Context(), "interrupt-half")
		return err == nil && n > 100
	})
	p.signal(syscall.SIGINT)
	for i, status := range p.wait() {
		if i != slowly && status != 130 {
			t.Errorf("stage %d: status %d\n%s", i, status, p)
		}
	}
	if !strings.Contains(p.errs[3].String(), "which is not all") {
		t.Errorf("it says:\n%s", p)
	}
}

// TestSecondInterrupt presses Ctrl-C twice: everything ends at once, without an end.
func TestSecondInterrupt(t *testing.T) {
	// A source that never comes to its end, so that the stages have nothing to finish.
	p := start(t, "sleep 60", "kbk-pack", "kbk-push "+filepath.Join(t.TempDir(), "backup"))
	time.Sleep(300 * time.Millisecond) // until the signal handlers are there
	for _, cmd := range p.stages[1:] {
		_ = cmd.Process.Signal(syscall.SIGINT)
	}
	time.Sleep(300 * time.Millisecond)
	for _, cmd := range p.stages[1:] {
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("%s ended on the first signal, with its input still open", cmd.Path)
		}
		_ = cmd.Process.Signal(syscall.SIGINT)
	}
	began := time.Now()
	for i, cmd := range p.stages[1:] {
		_ = cmd.Wait()
		if status := cmd.ProcessState.ExitCode(); status != 130 {
			t.Errorf("%s: status %d\n%s", cmd.Path, status, p.errs[i+1])
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	_ = p.stages[0].Process.Kill()
	_ = p.stages[0].Wait()
}

// TestLeaderMoves kills the broker that leads while its partitions are read, and
// starts it again.
func TestLeaderMoves(t *testing.T) {
	three, err := kafkatest.Start(t.Context(), kafkatest.Options{Brokers: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := three.Close(); err != nil {
			t.Error(err)
		}
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(three.Bootstrap(), ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(1<<17))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 6, 3, nil, "moves"); err != nil {
		t.Fatal(err)
	}
	const each = 50_000
	var failed error
	for i := range each {
		for p := range int32(6) {
			cl.Produce(t.Context(), &kgo.Record{Topic: "moves", Partition: p, Value: fmt.Appendf(nil, "%0500d", i)}, func(_ *kgo.Record, err error) { failed = errors.Join(failed, err) })
		}
	}
	if err := errors.Join(cl.Flush(t.Context()), failed); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "moves.kbk")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// A slow reader, so that there is a middle.
	p := start(t, "kbk-fetch --concurrency 6 -b "+three.Bootstrap()+" -t moves", slowStage(20<<20, out))
	eventually(t, "some records", func() bool { s, err := f.Stat(); return err == nil && s.Size() > 1<<20 })
	if err := three.KillBroker(1); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := three.StartBroker(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(); !all0(status) {
		t.Fatalf("%d\n%s", status, p)
	}
	if !strings.Contains(p.errs[0].String(), "read 300,000 records") {
		t.Errorf("it says:\n%s", p)
	}
	want := make(map[string]int64)
	for part := range 6 {
		want[fmt.Sprintf("moves/%d", part)] = each
	}
	if err := countStream(out, want); err != nil {
		t.Error(err)
	}
}
