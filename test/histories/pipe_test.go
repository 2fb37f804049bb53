package histories

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// killed is the status of a command that was killed.
const killed = 128 + int(syscall.SIGKILL)

// A pipe is commands that run with pipes between them.
type pipe struct {
	stages []*stage
	output string        // the file that the last one's standard output goes to
	ended  chan struct{} // closed when one of them has ended
	once   sync.Once
}

// A stage is a command. Once done is closed, its status may be read.
type stage struct {
	*exec.Cmd
	stderr string
	done   chan struct{}
}

// startPipe starts commands, those of kbk from the folder bin, with files in dir.
func startPipe(dir string, env []string, lines ...string) (_ *pipe, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	p := &pipe{output: filepath.Join(dir, "stdout"), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			p.kill()
		}
	}()
	var in *os.File
	for i, line := range lines {
		var next, out *os.File
		if i < len(lines)-1 {
			next, out, err = os.Pipe()
		} else {
			out, err = os.Create(p.output)
		}
		if err != nil {
			return nil, err
		}
		s, err := startStage(filepath.Join(dir, fmt.Sprint("stderr-", i)), env, line, in, out)
		for _, f := range []*os.File{in, out} {
			_ = f.Close() // the stage has them now; there is no in of the first
		}
		if err != nil {
			return nil, err
		}
		p.stages = append(p.stages, s)
		go func() {
			<-s.done
			p.once.Do(func() { close(p.ended) })
		}()
		in = next
	}
	return p, nil
}

func startStage(stderr string, env []string, line string, in, out *os.File) (*stage, error) {
	words := strings.Fields(line)
	if strings.HasPrefix(words[0], "kbk-") {
		words[0] = filepath.Join(bin, words[0])
	}
	s := &stage{Cmd: exec.Command(words[0], words[1:]...), stderr: stderr, done: make(chan struct{})}
	s.Env = append(os.Environ(), env...)
	s.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said, err := os.Create(stderr)
	if err != nil {
		return nil, err
	}
	defer said.Close()
	s.Stdout, s.Stderr = out, said
	if in != nil { // a nil *os.File would be one
		s.Stdin = in
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.Wait() // the status says it
		close(s.done)
	}()
	return s, nil
}

// status is the exit status, 128 and the signal of a stage that was killed.
func (s *stage) status() int {
	ws := s.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// signal sends a signal, if the stage still runs.
func (s *stage) signal(sig syscall.Signal) error {
	if err := s.Process.Signal(sig); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (s *stage) said() string {
	b, err := os.ReadFile(s.stderr)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (p *pipe) kill() {
	for _, s := range p.stages {
		_ = s.signal(syscall.SIGKILL)
		<-s.done
	}
}

// wait waits for the end of all stages, and returns their statuses.
func (p *pipe) wait() (status []int, err error) { return p.waitFor(patience) }

func (p *pipe) waitFor(patience time.Duration) (status []int, err error) {
	deadline := time.After(patience)
	for i, s := range p.stages {
		select {
		case <-s.done:
			status = append(status, s.status())
		case <-deadline:
			return nil, fmt.Errorf("stage %d does not end within %s\n%s", i, patience, p)
		}
	}
	for _, s := range p.stages {
		if err := tidy(filepath.Base(s.Path), s.said()); err != nil {
			return status, fmt.Errorf("%w\n%s", err, p)
		}
	}
	return status, nil
}

// isToRunAgain tells whether a pipe, of which no stage was killed, has ended as it may while
// brokers fail, and says so: the same line is run again then, as the message asks for or the next
// run does anyway.
func (p *pipe) isToRunAgain() bool {
	return slices.ContainsFunc(p.stages, func(s *stage) bool {
		said := s.said()
		switch s.status() {
		case 1: // all brokers hang twice in a row, or what a broker says of a batch that it may have proves nothing
			return strings.Contains(said, "error: connect to ") && strings.Contains(said, "no answer within ") ||
				strings.Contains(said, "the broker has another batch of this producer last")
		case 4: // the coordinator is late to abort the transaction of a writer that has crashed
			return strings.Contains(said, openThen)
		default:
			return false
		}
	})
}

// tidy wants all that a command says to be under its name: a crash of Go is not.
func tidy(name, said string) error {
	for line := range strings.Lines(said) {
		if !strings.HasPrefix(line, name+": ") {
			return fmt.Errorf("%s says %q", name, line)
		}
	}
	return nil
}

func (p *pipe) String() string {
	var b strings.Builder
	for _, s := range p.stages {
		how := "runs"
		select {
		case <-s.done:
			how = fmt.Sprint("status ", s.status())
		default:
		}
		fmt.Fprintf(&b, "\t%s (%s)\n", strings.Join(append([]string{filepath.Base(s.Path)}, s.Args[1:]...), " "), how)
		for line := range strings.Lines(s.said()) {
			fmt.Fprintf(&b, "\t\t%s", line)
		}
	}
	return b.String()
}

// A job is a line of commands that is run again and again, and that faults happen to.
type job struct {
	name string
	dir  string
	env  []string

	mu   sync.Mutex
	now  *pipe // nil while none runs
	runs int
	over bool // none is to be started any more
}

// start starts the line once more.
func (j *job) start(lines ...string) (*pipe, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return nil, errOver
	}
	j.runs++
	p, err := startPipe(filepath.Join(j.dir, fmt.Sprintf("%s-%d", j.name, j.runs)), j.env, lines...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", j.name, err)
	}
	j.now = p
	return p, nil
}

var errOver = errors.New("the history is over")

// stop kills what runs, and lets nothing be started any more.
func (j *job) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.over = true
	if j.now != nil {
		j.now.kill()
	}
}

// stage is a stage of what runs, nil for none.
func (j *job) stage(i int) *stage {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.now == nil || i >= len(j.now.stages) {
		return nil
	}
	return j.now.stages[i]
}

// once runs a single command without faults of its own, and wants status 0.
func (j *job) once(line string) (output string, err error) {
	p, err := startPipe(filepath.Join(j.dir, fmt.Sprintf("%s-%d-%s", j.name, j.runs, strings.ReplaceAll(line[:min(len(line), 24)], " ", "-"))), j.env, line)
	if err != nil {
		return "", err
	}
	status, err := p.wait()
	if err == nil && status[0] != 0 {
		err = fmt.Errorf("status %d\n%s", status[0], p)
	}
	return p.output, err
}
