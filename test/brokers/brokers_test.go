// Package brokers runs the commands that talk to Kafka while a broker is dead, is killed
// and comes back, or hangs.
//
// In each case all commands run at once, against three brokers (replication factor 3,
// min.insync.replicas 2) of which each has its turn, and against a single one.
package brokers

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

const (
	patience = 2 * time.Minute // of a command, on a machine that has other things to do
	away     = 5 * time.Second // how long a broker is dead, or hangs; the others notice after 3 s

	partitions = 3
	records    = 3000 // in each partition of the topic "plain"
	// perSecond makes a command take six seconds: the fault comes in the middle.
	perSecond = partitions * records / 6
	retention = "604800000" // of all topics, suspended during a restore
)

var bin string // the folder of the commands

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "brokers:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func testAll(m *testing.M) (status int, err error) {
	if bin = os.Getenv("KBK_BIN"); bin == "" {
		if bin, err = os.MkdirTemp("", "kbk-brokers-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(bin)
		const cmd = "github.com/kbkio/kbk/cmd/kbk-"
		if out, err := exec.Command("go", "build", "-o", bin, cmd+"fetch", cmd+"produce", cmd+"offsets").CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build the commands: %w\n%s", err, out)
		}
	}
	return m.Run(), nil
}

// A fault is something that happens to a broker.
type fault struct {
	name   string
	early  bool // before the commands start, and until they are done
	gone   bool // connections are refused
	strike func(*kafkatest.Cluster, int) error
	mend   func(context.Context, *kafkatest.Cluster, int) error
}

func kill(c *kafkatest.Cluster, i int) error { return c.KillBroker(i) }

func restart(ctx context.Context, c *kafkatest.Cluster, i int) error { return c.StartBroker(ctx, i) }

var faults = []fault{
	{"dead", true, true, kill, restart},
	{"killed", false, true, kill, restart},
	{"hangs", false, false,
		func(c *kafkatest.Cluster, i int) error { return c.PauseBroker(i) },
		func(_ context.Context, c *kafkatest.Cluster, i int) error { return c.ResumeBroker(i) }},
}

var everyBroker = flag.Bool("every-broker", false, "have each fault happen to each of three brokers in turn, and not to one of them; make soak has it")

func TestThreeBrokers(t *testing.T) {
	w := newWorld(t, 3)
	t.Run("the end of a log", w.endWaits)
	first := rand.IntN(3)
	for i, f := range faults {
		for broker := range 3 {
			if !*everyBroker && broker != (first+i)%3 {
				continue
			}
			t.Run(fmt.Sprintf("%s-%d", f.name, broker), func(t *testing.T) { w.run(t, f, broker) })
		}
	}
}

func TestOneBroker(t *testing.T) {
	w := newWorld(t, 1)
	for _, f := range faults {
		if !f.early {
			t.Run(f.name, func(t *testing.T) { w.run(t, f, 0) })
		}
	}
}

// run has one fault happen to one broker while all commands are at work.
func (w *world) run(t *testing.T, f fault, broker int) {
	name := strings.ReplaceAll(t.Name(), "/", "-")
	w.createTarget(t, name)
	w.awaitInSync(t)
	strike := func() {
		w.check(t, f.strike(w.cluster, broker))
	}
	mend := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		w.check(t, f.mend(ctx, w.cluster, broker))
	})
	if f.early {
		strike()
		defer mend()
	}
	stopWriting := w.write(t, "live")
	read := w.start(t, nil, "kbk-fetch -t plain --max-records "+fmt.Sprint(perSecond))
	follow := w.start(t, nil, "kbk-fetch -t live --follow --refresh 1s --point-every 0")
	plain := w.start(t, w.open(t, w.plain), fmt.Sprintf("kbk-produce --rename plain=%s --max-records %d", name, perSecond))
	exact := w.start(t, w.open(t, w.gaps), fmt.Sprintf("kbk-produce --rename gaps=exact-%s --create-topics --offsets exact --max-records %d", name, gapRecords/6))
	if !f.early {
		w.awaitMiddle(t, name, read, follow)
		strike()
		defer mend()
	}
	struck := time.Now()
	if w.brokers == 1 && f.gone { // there is nobody to ask
		time.Sleep(away)
		mend()
	}

	list := w.start(t, nil, "kbk-fetch --list --json -t plain")
	snapshot := w.start(t, nil, "kbk-offsets snapshot --groups readers")
	applied := make(chan error, 1)
	go func() { applied <- w.carryOver(t, name) }()
	if !f.early {
		time.Sleep(away - time.Since(struck))
		mend() // once
	}

	list.want(0)
	if n := bytes.Count(list.stdout(), []byte("\n")); n != partitions {
		t.Errorf("--list has %d lines:\n%s", n, list.stdout())
	}
	snapshot.want(0)
	if err := wholeGroup(snapshot.output); err != nil {
		t.Errorf("snapshot: %v", err)
	}
	if err := <-applied; err != nil {
		t.Error(err)
	}
	read.want(0)
	plain.want(0)
	exact.want(0)
	written := stopWriting()
	follow.until("it has what was written", func() bool { n, _ := countRecords(follow.output); return n >= written })
	follow.interrupt()
	follow.want(130)
	mend()

	w.same(t, "plain", read.output)
	w.same(t, "live", follow.output)
	w.restoredAs(t, w.plain, name, false)
	w.restoredAs(t, w.gaps, "exact-"+name, true)
	w.wantConfig(t, name)
	w.wantConfig(t, "exact-"+name)
	w.wantCommitted(t, "readers-"+name)
	t.Logf("struck for %s; all done after %s", away, time.Since(struck).Round(100*time.Millisecond))
}

// carryOver carries a group over to another with snapshot, translate and apply.
func (w *world) carryOver(t *testing.T, name string) error {
	snapshot := w.start(t, nil, "kbk-offsets snapshot --groups readers")
	if err := snapshot.ended(0); err != nil {
		return err
	}
	translate := w.start(t, w.open(t, snapshot.output), "kbk-offsets translate --map "+w.restored+" --rename-group readers=readers-"+name)
	if err := translate.ended(0); err != nil {
		return err
	}
	apply := w.start(t, w.open(t, translate.output), "kbk-offsets apply --undo "+filepath.Join(t.TempDir(), "undo.kbk"))
	return apply.ended(0)
}

// A process is a command that runs. Its standard output goes to a file.
type process struct {
	*exec.Cmd
	t      *testing.T
	line   string
	output string
	stderr string
	done   chan struct{}
	took   time.Duration
}

// start starts a command with the brokers in its environment, as -b is for one.
func (w *world) start(t *testing.T, in *os.File, line string) *process {
	words := strings.Fields(line)
	dir := t.TempDir()
	p := &process{t: t, line: line, output: filepath.Join(dir, "stdout"), stderr: filepath.Join(dir, "stderr"), done: make(chan struct{})}
	p.Cmd = exec.Command(filepath.Join(bin, words[0]), words[1:]...)
	p.Env = append(os.Environ(), "KBK_BROKERS="+w.cluster.Bootstrap())
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if in != nil {
		p.Stdin = in
		defer in.Close()
	}
	stdout, err := os.Create(p.output)
	if err == nil {
		defer stdout.Close()
		p.Stdout = stdout
		var stderr *os.File
		if stderr, err = os.Create(p.stderr); err == nil {
			defer stderr.Close()
			p.Stderr = stderr
			err = p.Start()
		}
	}
	if err != nil {
		t.Errorf("%s: %v", line, err)
		close(p.done)
		return p
	}
	began := time.Now()
	go func() {
		_ = p.Wait() // the status says it
		p.took = time.Since(began)
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.done
	})
	return p
}

// ended waits for the command's end, and wants it to have a status.
func (p *process) ended(status int) error {
	select {
	case <-p.done:
	case <-time.After(patience):
		return fmt.Errorf("%s: it hangs\n%s", p.line, p.said())
	}
	if got := p.ProcessState.ExitCode(); got != status {
		return fmt.Errorf("%s: exit status %d after %s, not %d\n%s", p.line, got, p.took, status, p.said())
	}
	for line := range strings.Lines(p.said()) {
		if !said.MatchString(line) {
			return fmt.Errorf("%s: it says %q", p.line, line)
		}
	}
	return nil
}

// said is what a command may say on standard error.
var said = regexp.MustCompile(`^kbk-[a-z]+: ([^\n]+)\n$`)

func (p *process) want(status int) {
	p.t.Helper()
	if err := p.ended(status); err != nil {
		p.t.Error(err)
	}
}

func (p *process) stdout() []byte {
	b, err := os.ReadFile(p.output)
	if err != nil {
		p.t.Error(err)
	}
	return b
}

func (p *process) said() string {
	b, err := os.ReadFile(p.stderr)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// until waits for a condition while the command runs.
func (p *process) until(what string, is func() bool) {
	p.t.Helper()
	deadline := time.After(patience)
	for !is() {
		select {
		case <-p.done:
			p.t.Fatalf("%s: it ended before %s\n%s", p.line, what, p.said())
		case <-deadline:
			p.t.Fatalf("%s: waited in vain until %s\n%s", p.line, what, p.said())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *process) interrupt() {
	if err := p.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
}

// awaitMiddle waits until every command is in the middle of its work.
func (w *world) awaitMiddle(t *testing.T, name string, read, follow *process) {
	t.Helper()
	read.until("a part is read", func() bool { n, _ := countRecords(read.output); return n > 0 })
	follow.until("a part is read", func() bool { n, _ := countRecords(follow.output); return n > 0 })
	for _, topic := range []string{name, "exact-" + name} {
		w.until(t, topic+" has records", func() (bool, error) {
			ends, err := w.adm.ListEndOffsets(t.Context(), topic)
			n := int64(0)
			ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
			return n > 100, err
		})
	}
}
