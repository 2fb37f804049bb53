package kafkatest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// process is a child process that ends with this one.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; valid after done
}

// startProcess starts a program whose output is appended to the file log.
//
// The child has a process group of its own, so that Ctrl-C in a terminal reaches
// only this process, which then ends its children in its own order. Should this
// process die before that, even by SIGKILL, a shell that waits for the end of a
// pipe from here kills the child. (Linux has PDEATHSIG for it, but that follows
// the thread that forked, and no other system has it.) The program does not begin
// before that shell is there: until then the child waits for a word from here, and
// ends if there is none.
func startProcess(log, name string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	begin, word, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer begin.Close()
	defer word.Close()

	own := &syscall.SysProcAttr{Setpgid: true}
	waiting := []string{"-c", `read -r _ <&3 && exec "$@" 3<&-`, "sh", name}
	p := &process{cmd: exec.Command("sh", append(waiting, args...)...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = out, out, own
	p.cmd.ExtraFiles = []*os.File{begin} // its descriptor 3
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}

	guard := exec.Command("sh", "-c", `read -r _; kill -9 "$1"`, "guard", strconv.Itoa(p.cmd.Process.Pid))
	guard.SysProcAttr = own
	if _, err = guard.StdinPipe(); err == nil { // closed by guard.Wait
		err = guard.Start()
	}
	if err == nil {
		_, err = word.WriteString("begin\n")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting its guard: %w", err), p.cmd.Process.Kill(), p.cmd.Wait())
	}

	go func() {
		p.err = p.cmd.Wait()
		if p.err == nil {
			p.err = errors.New("exit status 0")
		}
		// The guard goes before its pipe does: the child's pid may soon be another's.
		guard.Process.Kill()
		guard.Wait()
		close(p.done)
	}()
	return p, nil
}

// terminate ends the process with SIGTERM, or with SIGKILL if it has not ended
// after stopGrace, which is an error, as is a process that had ended before.
func (p *process) terminate() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopGrace):
		return errors.Join(fmt.Errorf("%w %v after SIGTERM", errRunning, stopGrace), p.kill())
	}
}

var errRunning = errors.New("still running")

// kill ends the process with SIGKILL.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

func (p *process) signal(s os.Signal) error {
	err := p.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		<-p.done
		return fmt.Errorf("it had ended before: %w", p.err)
	}
	return err
}
