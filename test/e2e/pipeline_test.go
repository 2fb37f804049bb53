package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A pipeline is stages that run with pipes between them, each a process of its own
// so that one can be killed.
type pipeline struct {
	t      *testing.T
	stages []*stage
	output string // the file that the last stage's standard output goes to
}

// A stage is a process and the file that its standard error goes to. Once done is
// closed, its status may be read.
type stage struct {
	*exec.Cmd
	stderr string
	done   chan struct{}
}

// start starts stages. The pipes are the system's: a stage that dies closes its ends.
// What still runs when the test is over is killed.
func start(t *testing.T, lines ...string) *pipeline {
	t.Helper()
	dir := t.TempDir()
	p := &pipeline{t: t, output: filepath.Join(dir, "stdout")}
	// Not before all have started: the first leads the group that the others join, and when it
	// has ended and was waited for, there is no such group.
	defer func() {
		for _, s := range p.stages {
			go func() {
				_ = s.Wait() // the status says it
				close(s.done)
			}()
		}
	}()
	var in *os.File
	for i, line := range lines {
		words := strings.Fields(line)
		s := &stage{Cmd: exec.Command(words[0], words[1:]...), stderr: filepath.Join(dir, fmt.Sprint("stderr-", i)), done: make(chan struct{})}
		s.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if i > 0 { // one process group, as a shell makes of a pipe
			s.SysProcAttr.Pgid = p.stages[0].Process.Pid
		}
		stderr, err := os.Create(s.stderr)
		if err != nil {
			t.Fatal(err)
		}
		var next, out *os.File
		if i < len(lines)-1 {
			next, out, err = os.Pipe()
		} else {
			out, err = os.Create(p.output)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.Stdout, s.Stderr = out, stderr
		if in != nil { // a nil *os.File would be one
			s.Stdin = in
		}
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = s.Process.Kill()
			<-s.done
		})
		for _, f := range []*os.File{in, out, stderr} {
			_ = f.Close() // the stage has them now; there is no in of the first
		}
		in = next
		p.stages = append(p.stages, s)
	}
	return p
}

// run runs stages to their end, which must be a good one.
func run(t *testing.T, lines ...string) *pipeline {
	t.Helper()
	p := start(t, lines...)
	for i, status := range p.wait() {
		if status != 0 {
			t.Fatalf("stage %d ended with %d\n%s", i, status, p)
		}
	}
	return p
}

// wait returns the exit status of each stage, 128 and the signal for those killed. It
// holds what they said against the rule: see [tidy].
func (p *pipeline) wait() []int {
	p.t.Helper()
	deadline := time.After(patience)
	var out []int
	for i, s := range p.stages {
		select {
		case <-s.done:
		case <-deadline:
			p.t.Fatalf("the pipe hangs:\n%s", p)
		}
		ws := s.ProcessState.Sys().(syscall.WaitStatus)
		if ws.Signaled() {
			out = append(out, 128+int(ws.Signal()))
		} else {
			out = append(out, ws.ExitStatus())
		}
		if p.ours(i) {
			if err := tidy(filepath.Base(s.Path), p.said(i)); err != nil {
				p.t.Errorf("%v\n%s", err, p)
			}
		}
	}
	return out
}

// tidy holds what a command printed on standard error against the rule: lines under
// its name, at most one error, and only a hint behind it.
func tidy(name, said string) error {
	failed := false
	for line := range strings.Lines(said) {
		what, ok := strings.CutPrefix(line, name+": ")
		switch {
		case !ok:
			return fmt.Errorf("%s printed a line that is not under its name: %q", name, line)
		case failed && !strings.HasPrefix(what, "hint: "):
			return fmt.Errorf("%s went on after its error: %q", name, line)
		}
		failed = failed || strings.HasPrefix(what, "error: ")
	}
	return nil
}

// signal sends a signal to the whole group, as Ctrl-C at a terminal does.
func (p *pipeline) signal(s syscall.Signal) {
	if err := syscall.Kill(-p.stages[0].Process.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("signal: %v", err)
	}
}

// until waits until something has happened in the middle of the run.
func (p *pipeline) until(what string, happened func() bool) {
	p.t.Helper()
	last := p.stages[len(p.stages)-1]
	for deadline := time.Now().Add(patience); !happened(); time.Sleep(2 * time.Millisecond) {
		select {
		case <-last.done:
			p.t.Fatalf("the pipe ended before %s\n%s", what, p)
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("waited in vain for %s\n%s", what, p)
		}
	}
}

// ours tells whether a stage is one of kbk's commands.
func (p *pipeline) ours(i int) bool {
	return strings.HasPrefix(filepath.Base(p.stages[i].Path), "kbk-")
}

// said is what a stage has printed on standard error.
func (p *pipeline) said(i int) string {
	b, err := os.ReadFile(p.stages[i].stderr)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

func (p *pipeline) String() string {
	var b strings.Builder
	for i, s := range p.stages {
		fmt.Fprintf(&b, "%s:\n%s", strings.Join(s.Args, " "), p.said(i))
	}
	return b.String()
}

func files(glob string) int {
	found, _ := filepath.Glob(glob) // the pattern is a constant
	return len(found)
}

// A stored is what a backup's log lists.
type stored struct {
	segments int
	records  int64
	final    bool // a run came to its end
}

// verify reads a backup's log, in its own way, and holds every object that it lists
// against it.
func verify(t *testing.T, dir string) stored {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(dir, "log", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var sum stored
	seen := make(map[string]bool)
	for _, name := range entries {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Segments []struct {
				Path    string
				Size    int
				Records int64
				SHA256  string
			}
			Final bool
		}
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sum.final = sum.final || e.Final
		for _, s := range e.Segments {
			b, err := os.ReadFile(filepath.Join(dir, s.Path))
			if err != nil {
				t.Fatalf("listed and not there: %v", err)
			}
			if h := sha256.Sum256(b); len(b) != s.Size || hex.EncodeToString(h[:]) != s.SHA256 {
				t.Errorf("%s is not what the log says", s.Path)
			}
			if !seen[s.Path] {
				seen[s.Path] = true
				sum.segments++
				sum.records += s.Records
			}
		}
	}
	return sum
}

// TestTidy makes sure that the check can fail.
func TestTidy(t *testing.T) {
	for said, ok := range map[string]bool{
		"":              true,
		"kbk-x: read\n": true,
		"kbk-x: warning: odd\nkbk-x: error: bad\nkbk-x: hint: do\n": true,
		"kbk-x: error: a\nkbk-x: error: b\n":                        false,
		"kbk-x: error: a\nkbk-x: warning: b\n":                      false,
		"goroutine 1 [running]:\n":                                  false,
	} {
		if err := tidy("kbk-x", said); (err == nil) != ok {
			t.Errorf("%q: %v", said, err)
		}
	}
}
