package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twmb/franz-go/pkg/kadm"
)

// TestGroupOfWorkers backs a topic up with two workers of one consumer group, into one
// backup, while records come. One is killed, all of its stages at once; the other takes
// its partitions over from what is stored. A third comes and goes. In the end nothing is
// missing and a restore has nothing twice.
func TestGroupOfWorkers(t *testing.T) {
	const topic, partitions, few, each = "workers", 6, 20, 3000
	if err := seedRecords(t.Context(), topic, partitions, partitions, few, 300); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "backup")
	worker := func(name string, rate int) *pipeline {
		fifo := filepath.Join(t.TempDir(), name)
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		return start(t,
			fmt.Sprintf("kbk-fetch -b %s -t %s --follow --refresh 500ms --group kbk-workers --session-timeout 6s --receipts %s", cluster.Bootstrap(), topic, fifo),
			slowStage(rate, ""),
			"kbk-pack --segment-age 100ms --segment-size 256KiB",
			fmt.Sprintf("kbk-push --checkpoint 100ms --receipts %s %s", fifo, dir),
		)
	}
	a := worker("a", 150<<10) // for its share of 2.7 MB it takes 18 s
	b := worker("b", 4<<20)
	a.until("its share", func() bool { return strings.Contains(a.said(0), "gives") && strings.Contains(b.said(0), "gives") })
	if err := seedRecords(t.Context(), topic, partitions, partitions, each-few, 300); err != nil {
		t.Fatal(err)
	}
	done := func() (n int) {
		for _, at := range groupOffsets(t, "kbk-workers") {
			if at == each {
				n++
			}
		}
		return n
	}
	a.until("the fast one is done", func() bool { return done() >= partitions/2 })

	// In the middle: the slow one has read what is not stored.
	for _, s := range a.stages {
		if err := s.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	a.wait()
	if done() == partitions {
		t.Error("it was done before it was killed")
	}
	var producing sync.WaitGroup
	producing.Go(func() {
		if err := seedRecords(t.Context(), topic, partitions, partitions, each, 300); err != nil {
			t.Error(err)
		}
	})
	c := worker("c", 4<<20)
	c.until("its share", func() bool { return strings.Contains(c.said(0), "gives") })
	producing.Wait()
	caughtUp := func() bool {
		at := groupOffsets(t, "kbk-workers")
		for p := range int32(partitions) {
			if at[p] != 2*each {
				return false
			}
		}
		return true
	}
	b.until("all is committed", caughtUp)
	for _, p := range []*pipeline{c, b} {
		p.signal(syscall.SIGINT)
		for i, status := range p.wait() {
			if i != slowly && status != 130 {
				t.Errorf("stage %d ended with %d\n%s", i, status, p)
			}
		}
		if said := p.said(0); strings.Contains(said, "given up at offset") {
			t.Errorf("it did not wait for what it had read:\n%s", p)
		}
	}
	if !caughtUp() {
		t.Errorf("at the end the group is at %v", groupOffsets(t, "kbk-workers"))
	}
	sum := verify(t, dir)
	if sum.records < 2*each*partitions {
		t.Errorf("the backup holds %d records", sum.records)
	}
	t.Logf("%d records are stored twice", sum.records-2*each*partitions)
	run(t, "kbk-pull "+dir, "kbk-pack -d", fmt.Sprintf("kbk-produce -b %s --create-topics --rename %s=%[2]s-back", cluster.Bootstrap(), topic))
	if err := same(t.Context(), topic, topic+"-back", 2*each*partitions); err != nil {
		t.Error(err)
	}
}

// groupOffsets is where a group is in the partitions of the one topic that it reads.
func groupOffsets(t *testing.T, group string) map[int32]int64 {
	t.Helper()
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	offsets, err := kadm.NewClient(cl).FetchOffsets(t.Context(), group)
	if err != nil {
		return nil // its coordinator is not there yet
	}
	out := make(map[int32]int64)
	offsets.Each(func(o kadm.OffsetResponse) { out[o.Partition] = o.At })
	return out
}

// TestWorkersExample runs the example as it is.
func TestWorkersExample(t *testing.T) {
	if err := seedRecords(t.Context(), "workers-example", 2, 2, 10, 10); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "backup")
	p := start(t, fmt.Sprintf("bash ../../examples/workers.sh %s ^workers-example$ %s", cluster.Bootstrap(), dir))
	p.until("its share", func() bool { return strings.Contains(p.said(0), "gives 2 partitions") })
	time.Sleep(2 * time.Second) // nothing outside tells what it has read: segments are for later
	p.signal(syscall.SIGINT)
	p.wait()
	if sum := verify(t, dir); !sum.final || sum.records == 0 {
		t.Errorf("the backup holds %+v\n%s", sum, p)
	}
	// It has no restore point, and is good by what the workers have stored.
	out, err := os.ReadFile(run(t, "kbk-catalog status -b "+cluster.Bootstrap()+" "+dir).output)
	if err != nil || !strings.HasPrefix(string(out), "good: workers stored something ") || !strings.Contains(string(out), "workers of group kbk-backup store it and make no restore points") {
		t.Errorf("%v, status:\n%s", err, out)
	}
	if at := groupOffsets(t, "kbk-backup"); at[0]+at[1] == 0 {
		t.Errorf("the group is at %v\n%s", at, p)
	}
}
