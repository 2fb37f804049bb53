package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

const (
	bigPartitions = 4
	bigRecords    = 60_000 // in each
	bigTotal      = bigPartitions * bigRecords
)

// The stages of both lines. One is none of ours: it makes the line take seconds.
const (
	source = iota
	slowly
	packing
	last
)

// backupLine is a backup in small steps: a checkpoint every so often and segments of
// 256 KiB.
func backupLine(topic, dir, checkpoint string) []string {
	return []string{
		fmt.Sprintf("kbk-fetch -b %s -t %s", cluster.Bootstrap(), topic),
		slowStage(25<<20, ""),
		"kbk-pack --segment-size 256KiB --memory 16MiB",
		fmt.Sprintf("kbk-push --checkpoint %s %s", checkpoint, dir),
	}
}

// restoreLine is a restore of a backup in small steps.
func restoreLine(topic, dir, target string) []string {
	return []string{
		"kbk-pull --transfers 1 " + dir,
		slowStage(30<<20, ""),
		"kbk-pack -d --memory 16MiB",
		fmt.Sprintf("kbk-produce -b %s --create-topics --memory 1MiB --rename %s=%s", cluster.Bootstrap(), topic, target),
	}
}

func seedBig(t *testing.T, topic string) {
	t.Helper()
	if err := seedRecords(t.Context(), topic, bigPartitions, bigPartitions, bigRecords, 500); err != nil {
		t.Fatal(err)
	}
}

// kill kills one stage and wants the last one, if it is another, to say that its input
// was cut.
func (p *pipeline) kill(victim int) {
	p.t.Helper()
	if err := p.stages[victim].Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	status := p.wait()
	if status[victim] != 128+9 {
		p.t.Fatalf("it was done before it was killed: %d\n%s", status, p)
	}
	if victim == last {
		for i, s := range status {
			if s == 0 {
				p.t.Errorf("stage %d ended well, and nobody had read what it wrote\n%s", i, p)
			}
		}
		return
	}
	// The stage behind the one that was killed sees the stream break off; the others hear of it.
	want := "error: kbk-pack failed, and this is not finished"
	if victim == packing {
		want = "stream ended before its end frame"
	}
	if said := p.said(last); status[last] != 3 || !strings.Contains(said, want) {
		p.t.Errorf("the last stage ended with %d\n%s", status[last], p)
	}
}

// readable reads what a backup holds, and returns the number of records. Every
// partition's must be there from its first.
func readable(t *testing.T, dir string) (records int64) {
	t.Helper()
	got, err := countStream(run(t, "kbk-pull "+dir, "kbk-pack -d").output)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range got {
		records += n
	}
	return records
}

// TestKillBackup kills each stage in the middle of a backup: the last stage must know,
// what is committed must be whole, and the same line must complete it.
func TestKillBackup(t *testing.T) {
	const topic = "kill-backup"
	seedBig(t, topic)
	for victim, name := range []string{source: "kbk-fetch", packing: "kbk-pack", last: "kbk-push"} {
		if victim == slowly {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "backup")
			p := start(t, backupLine(topic, dir, "200ms")...)
			p.until("a checkpoint with records", func() bool { return files(dir+"/log/*.json") >= 2 && verify(t, dir).records > 0 })
			p.kill(victim)
			part := verify(t, dir)
			if part.final || part.records == 0 || part.records >= bigTotal {
				t.Errorf("it was not in the middle: %+v", part)
			}
			if n := readable(t, dir); n != part.records {
				t.Errorf("%d records can be read, and %d are committed", n, part.records)
			}
			again := run(t, backupLine(topic, dir, "200ms")...)
			if !strings.Contains(again.said(last), "already stored") {
				t.Errorf("nothing was resumed:\n%s", again)
			}
			verify(t, dir)
			run(t, restoreLine(topic, dir, topic+"-"+name)...)
			if err := same(t.Context(), topic, topic+"-"+name, bigTotal); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKillBeforeCheckpoint kills each stage of a first backup when objects are stored
// and none is committed: there is no backup then.
func TestKillBeforeCheckpoint(t *testing.T) {
	const topic = "kill-early"
	seedBig(t, topic)
	for victim, name := range []string{source: "kbk-fetch", packing: "kbk-pack", last: "kbk-push"} {
		if victim == slowly {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "backup")
			p := start(t, backupLine(topic, dir, "1h")...)
			p.until("stored segments", func() bool { return files(dir+"/topics/"+topic+"/*/segment-*.zst") >= 8 })
			p.kill(victim)
			if n := files(dir + "/log/*.json"); n > 0 {
				t.Errorf("%d log entries", n)
			}
			none := start(t, "kbk-pull "+dir)
			if status := none.wait(); status[0] != 1 || !strings.Contains(none.said(0), "error: no backup in ") {
				t.Errorf("status %d\n%s", status, none)
			}
			if info, err := os.Stat(none.output); err != nil || info.Size() > 0 {
				t.Errorf("kbk-pull wrote %d bytes, %v", info.Size(), err)
			}
			run(t, backupLine(topic, dir, "1h")...)
			if sum := verify(t, dir); !sum.final || sum.records != bigTotal {
				t.Errorf("the same line again: %+v", sum)
			}
			if n := readable(t, dir); n != bigTotal {
				t.Errorf("%d records can be read", n)
			}
		})
	}
}

// TestKillRestore kills each stage in the middle of a restore: the last stage must
// know, what is in the target is as it was, and the map tells no more than that.
func TestKillRestore(t *testing.T) {
	const topic = "kill-restore"
	seedBig(t, topic)
	dir := filepath.Join(t.TempDir(), "backup")
	run(t, backupLine(topic, dir, "200ms")...)
	for victim, name := range []string{source: "kbk-pull", packing: "kbk-pack", last: "kbk-produce"} {
		if victim == slowly {
			continue
		}
		t.Run(name, func(t *testing.T) {
			target := topic + "-" + name
			p := start(t, restoreLine(topic, dir, target)...)
			p.untilProduced(target, 100)
			p.kill(victim)
			n, err := begins(t.Context(), topic, target, bigTotal)
			if err != nil || n == 0 || n == bigTotal {
				t.Errorf("the target holds %d records: %v", n, err)
			}
			mapped, err := countMap(p.output)
			if !errors.Is(err, format.ErrTruncated) {
				t.Errorf("the map ends with %v", err)
			}
			if mapped > int64(n) || victim != last && mapped != int64(n) {
				t.Errorf("the map has %d records, and the target %d", mapped, n)
			}
			// The same line goes on from there.
			whole := run(t, restoreLine(topic, dir, target)...)
			if !strings.Contains(whole.said(last), " were already") {
				t.Errorf("nothing was resumed:\n%s", whole)
			}
			if err := same(t.Context(), topic, target, bigTotal); err != nil {
				t.Error(err)
			}
			if mapped, err := countMap(whole.output); mapped != bigTotal || err != nil {
				t.Errorf("the map has %d records, %v", mapped, err)
			}
		})
	}
}

// countMap counts the records that a map tells of. Unless the map is whole, there is
// an error too.
func countMap(name string) (records int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for r := format.NewReader(f, 0); ; {
		f, err := r.Next()
		if err == io.EOF {
			return records, nil
		}
		if err != nil {
			return records, err
		}
		if f.Kind == format.KindMap {
			m, err := format.DecodeMap(f.Raw)
			if err != nil {
				return records, err
			}
			records += m.Count
		}
	}
}

func deleteTopic(t *testing.T, topic string) {
	t.Helper()
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if _, err := adm.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		meta, err := adm.Metadata(ctx, topic)
		if err != nil {
			t.Fatalf("waiting for topic %s to go: %v", topic, err)
		}
		if errors.Is(meta.Topics[topic].Err, kerr.UnknownTopicOrPartition) {
			return
		}
	}
}

// untilProduced waits until a topic has n offsets, and returns how many it has.
func (p *pipeline) untilProduced(topic string, n int64) (got int64) {
	p.t.Helper()
	cl, err := client()
	if err != nil {
		p.t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	p.until(fmt.Sprintf("%d records in %s", n, topic), func() bool {
		ends, err := adm.ListEndOffsets(p.t.Context(), topic)
		if err != nil || ends.Error() != nil {
			return false // it is not there yet
		}
		got = 0
		ends.Each(func(o kadm.ListedOffset) { got += o.Offset })
		return got >= n
	})
	return got
}

// TestInterruptBackup presses Ctrl-C in the middle: what was read is kept, and the
// same line goes on.
func TestInterruptBackup(t *testing.T) {
	const topic = "interrupt"
	seedBig(t, topic)
	dir := filepath.Join(t.TempDir(), "backup")
	p := start(t, backupLine(topic, dir, "200ms")...)
	p.until("a checkpoint", func() bool { return files(dir+"/log/*.json") >= 1 })
	p.interrupted()
	part := verify(t, dir)
	if !part.final || part.records >= bigTotal {
		t.Errorf("it is not the end of a part: %+v", part)
	}
	if n := p.counted(source, "read"); n != part.records {
		t.Errorf("%d records were read, and %d are committed", n, part.records)
	}
	if n := readable(t, dir); n != part.records {
		t.Errorf("%d records can be read, and %d are committed", n, part.records)
	}
	again := run(t, backupLine(topic, dir, "200ms")...)
	if !strings.Contains(again.said(last), "already stored") {
		t.Errorf("nothing was resumed:\n%s", again)
	}
	run(t, restoreLine(topic, dir, "interrupt-restored")...)
	if err := same(t.Context(), topic, "interrupt-restored", bigTotal); err != nil {
		t.Error(err)
	}

	// A restore that is interrupted says that it is not everything.
	p = start(t, restoreLine(topic, dir, "interrupt-half")...)
	p.untilProduced("interrupt-half", 100)
	p.interrupted()
	if !strings.Contains(p.said(last), "which is not everything") {
		t.Errorf("it says:\n%s", p)
	}
	n, err := begins(t.Context(), topic, "interrupt-half", bigTotal)
	if err != nil || n == bigTotal {
		t.Errorf("the target holds %d records: %v", n, err)
	}
	if produced := p.counted(last, "produced"); produced != int64(n) {
		t.Errorf("the target holds %d records, and %d were produced", n, produced)
	}
	if mapped, err := countMap(p.output); mapped != int64(n) || err != nil {
		t.Errorf("the map has %d records, and the target %d: %v", mapped, n, err)
	}
}

// interrupted presses Ctrl-C. Every stage of ours ends with 130, and the last one says so.
func (p *pipeline) interrupted() {
	p.t.Helper()
	p.signal(syscall.SIGINT)
	for i, status := range p.wait() {
		if i != slowly && (status != 130 || strings.Contains(p.said(i), "interrupted: ") != (i == last)) {
			p.t.Errorf("stage %d ended with %d\n%s", i, status, p)
		}
	}
}

// counted is the number of records that a stage says it has done something with.
func (p *pipeline) counted(i int, verb string) int64 {
	p.t.Helper()
	m := regexp.MustCompile(`: ` + verb + ` ([0-9,]+) records?`).FindStringSubmatch(p.said(i))
	if m == nil {
		p.t.Fatalf("stage %d does not say how many records it %s\n%s", i, verb, p)
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(m[1], ",", ""), 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// A stage of so many bytes a second has work for minutes when the memory of the stage
// before it is full. Nothing that ends within atOnce has waited for it.
const (
	trickle = 100 << 10
	atOnce  = 30 * time.Second
)

// TestSecondInterrupt presses Ctrl-C twice, in the middle of a backup and of a restore.
// The first lets the stages go on with what is on its way; the second ends them at
// once, without an end of the stream.
func TestSecondInterrupt(t *testing.T) {
	const topic = "interrupt-twice"
	seedBig(t, topic)
	dir := filepath.Join(t.TempDir(), "backup")
	entries := func() int { return files(dir + "/log/*.json") }
	p := start(t,
		fmt.Sprintf("kbk-fetch -b %s -t %s", cluster.Bootstrap(), topic),
		"kbk-pack --segment-size 256KiB --memory 16MiB",
		slowStage(trickle, ""),
		fmt.Sprintf("kbk-push --checkpoint 50ms %s", dir),
	)
	p.until("a checkpoint", func() bool { return entries() > 0 })
	p.signal(syscall.SIGINT)
	had := entries()
	p.until("more checkpoints after the first Ctrl-C", func() bool { return entries() > had+1 })
	p.interruptedAgain()
	if part := verify(t, dir); part.final || part.records == 0 {
		t.Errorf("it was not stopped in the middle: %+v", part)
	}
	run(t, backupLine(topic, dir, "200ms")...)
	if n := readable(t, dir); n != bigTotal {
		t.Errorf("%d records after the same line again", n)
	}

	p = start(t,
		"kbk-pull --transfers 1 "+dir,
		slowStage(trickle, ""),
		"kbk-pack -d --memory 16MiB",
		fmt.Sprintf("kbk-produce -b %[1]s --create-topics --memory 1MiB --rename %[2]s=%[2]s-restored", cluster.Bootstrap(), topic),
	)
	p.untilProduced(topic+"-restored", 100)
	p.signal(syscall.SIGINT)
	then := p.untilProduced(topic+"-restored", 0)
	p.untilProduced(topic+"-restored", then+1)
	p.interruptedAgain()
	n, err := begins(t.Context(), topic, topic+"-restored", bigTotal)
	if err != nil || n == bigTotal {
		t.Errorf("the target holds %d records: %v", n, err)
	}
	if mapped, err := countMap(p.output); mapped > int64(n) || !errors.Is(err, format.ErrTruncated) {
		t.Errorf("the map has %d records, and the target %d: %v", mapped, n, err)
	}
}

// interruptedAgain presses Ctrl-C once more. A stage may find the pipe downstream closed
// before the signal gets to it.
func (p *pipeline) interruptedAgain() {
	p.t.Helper()
	began := time.Now()
	p.signal(syscall.SIGINT)
	for i, status := range p.wait() {
		if closed := i < last && status == command.NoReader; p.ours(i) && status != 130 && !closed {
			p.t.Errorf("stage %d ended with %d\n%s", i, status, p)
		}
	}
	if took := time.Since(began); took > atOnce {
		p.t.Errorf("it took %s\n%s", took, p)
	}
}

// TestLeaderMoves takes brokers from under a run: one is killed and stays dead until
// others lead its partitions, then another is stopped as an operator does it.
func TestLeaderMoves(t *testing.T) {
	t.Parallel()
	three, err := kafkatest.Start(t.Context(), kafkatest.Options{Brokers: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := three.Close(); err != nil {
			t.Error(err)
		}
	})
	cl, err := connect(three.Bootstrap())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	const each, partitions = 80_000, 6
	if _, err := adm.CreateTopic(t.Context(), partitions, 3, nil, "moves"); err != nil {
		t.Fatal(err)
	}
	if err := fill(t.Context(), three.Bootstrap(), "moves", partitions, each, 500); err != nil {
		t.Fatal(err)
	}
	// How many partitions a broker leads, and how many replicas of all are not in sync.
	state := func(broker int32) (led, behind int) {
		meta, err := adm.Metadata(t.Context(), "moves")
		if err != nil {
			return -1, -1
		}
		for _, d := range meta.Topics["moves"].Partitions {
			if d.Leader == broker {
				led++
			}
			behind += len(d.Replicas) - len(d.ISR)
		}
		return led, behind
	}
	out := filepath.Join(t.TempDir(), "moves.kbk")
	// A slow reader, so that there is a middle.
	p := start(t, "kbk-fetch --verbose --concurrency 6 -b "+three.Bootstrap()+" -t moves", slowStage(10<<20, out))
	p.until("some records", func() bool { s, err := os.Stat(out); return err == nil && s.Size() > 1<<20 })
	if led, _ := state(1); led < 1 {
		t.Fatalf("broker 1 leads %d partitions", led)
	}
	if err := three.KillBroker(1); err != nil {
		t.Fatal(err)
	}
	p.until("other leaders", func() bool { led, _ := state(1); return led == 0 })
	if err := three.StartBroker(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	p.until("all replicas", func() bool { _, behind := state(1); return behind == 0 })
	if led, _ := state(2); led < 1 {
		t.Fatalf("broker 2 leads %d partitions", led)
	}
	if err := three.StopBroker(2); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(); status[0] != 0 || status[1] != 0 {
		t.Fatalf("%d\n%s", status, p)
	}
	if !strings.Contains(p.said(0), "asking broker") {
		t.Errorf("it met with no trouble:\n%s", p)
	}
	got, err := countStream(out)
	if err != nil {
		t.Fatal(err)
	}
	for part := range partitions {
		if n := got[fmt.Sprintf("moves/%d", part)]; n != each {
			t.Errorf("partition %d: %d records", part, n)
		}
	}
}
