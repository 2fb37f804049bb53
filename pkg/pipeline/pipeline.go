// Package pipeline starts the commands of a pipe as a shell does, and makes one outcome of
// how they ended.
//
// The commands stay in the process group of their caller, so that a terminal is theirs as
// it is in a shell: Ctrl-C, Ctrl-Z and a question for a passphrase reach them. What reaches
// the caller alone is passed on as an order (see [command.OrdersVariable]), which counts
// once, however often it comes.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/kbkio/kbk/pkg/command"
)

// A Stage is a command of a pipe.
type Stage struct {
	Name string
	Args []string
}

// A Step is a pipe. Of several steps each is run when those before it have ended with 0.
type Step struct {
	What   string // what it does, in messages: "the backup"
	Stages []Stage
	Out    string // the file to which the output goes; empty: where the caller's goes
	Apart  bool   // the next step is run even if this one fails, and those behind it are not
}

// Nowhere is the Out of a [Step] whose output nobody wants.
const Nowhere = os.DevNull

// A Runner starts pipes. Standard input and standard error are the process's own.
type Runner struct {
	Find func(name string) (string, error) // the file of a command
	Stop <-chan struct{}                   // is closed when the stages are to end properly
}

// patience is how long a stage that is told to stop at once may take. The caller itself
// ends after 2 seconds.
const patience = 1800 * time.Millisecond

// Run runs the stages of a step, and returns when all have ended. When ctx ends they are to
// stop at once. The output goes to out, or, where that is nil, to where the step says.
func (r *Runner) Run(ctx context.Context, step Step, out io.Writer) (Outcome, error) {
	paths := make([]string, len(step.Stages))
	for i, s := range step.Stages {
		var err error
		if paths[i], err = r.Find(s.Name); err != nil {
			return Outcome{}, err
		}
	}
	if out == nil {
		file, err := open(step.Out)
		if err != nil {
			return Outcome{}, err
		}
		if file != os.Stdout {
			defer file.Close()
		}
		out = file
	}
	p := &pipe{ended: make(chan int, len(step.Stages))}
	err := p.start(step.Stages, paths, out)
	if err != nil { // those that run have no one to write to
		p.order(command.StopAtOnce)
	}
	p.wait(ctx, r.Stop, err != nil)
	if err != nil {
		return Outcome{}, err
	}
	return outcome(p.exits(), ctx.Err() != nil), nil
}

func open(name string) (*os.File, error) {
	switch name {
	case "":
		return os.Stdout, nil
	case Nowhere:
		return os.OpenFile(name, os.O_WRONLY, 0)
	}
	return os.Create(name)
}

// A pipe is the stages that run. It belongs to one goroutine; others wait for a process
// each, and say that it has ended.
type pipe struct {
	stages []*running
	ended  chan int // of a stage, by its place
}

type running struct {
	cmd    *exec.Cmd
	name   string
	orders *os.File // nil where there is no way to give orders
	err    error    // of Wait
}

// start starts the stages one by one, joined by pipes.
func (p *pipe) start(stages []Stage, paths []string, out io.Writer) error {
	var in *os.File // what the stage before writes
	defer func() { closeAll(in) }()
	for i, s := range stages {
		cmd := exec.Command(paths[i], s.Args...)
		cmd.Args[0] = s.Name
		cmd.Stderr = os.Stderr
		if cmd.Stdin = os.Stdin; in != nil {
			cmd.Stdin = in
		}
		var next, end *os.File
		if cmd.Stdout = out; i < len(stages)-1 {
			var err error
			if next, end, err = os.Pipe(); err != nil {
				return err
			}
			cmd.Stdout = end
		}
		stage, err := launch(cmd, s.Name)
		closeAll(in, end)
		in = next
		if err != nil {
			return err
		}
		p.stages = append(p.stages, stage)
		go func() {
			stage.err = cmd.Wait()
			p.ended <- i
		}()
	}
	return nil
}

// launch starts a process with a pipe for orders.
func launch(cmd *exec.Cmd, name string) (*running, error) {
	stage := &running{cmd: cmd, name: name}
	if canOrder {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		cmd.ExtraFiles = []*os.File{r} // file descriptor 3
		cmd.Env = append(os.Environ(), command.OrdersVariable+"=3")
		stage.orders = w
	}
	if err := cmd.Start(); err != nil {
		closeAll(stage.orders)
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return stage, nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// order tells the stages how far to go. One that has ended reads nothing any more.
func (p *pipe) order(level byte) {
	for _, s := range p.stages {
		if s.orders != nil {
			_, _ = s.orders.Write([]byte{level})
		}
	}
}

// wait returns when all stages have ended. atOnce says that they have been told to stop at
// once already.
func (p *pipe) wait(ctx context.Context, stop <-chan struct{}, atOnce bool) {
	var kill <-chan time.Time
	done := ctx.Done()
	if atOnce {
		kill, done, stop = time.After(patience), nil, nil
	}
	for left := len(p.stages); left > 0; {
		select {
		case i := <-p.ended:
			closeAll(p.stages[i].orders)
			p.stages[i].orders = nil
			left--
		case <-stop:
			stop = nil
			p.order(command.StopProperly)
		case <-done:
			done, kill = nil, time.After(patience)
			p.order(command.StopAtOnce)
		case <-kill:
			kill = nil
			for _, s := range p.stages {
				_ = s.cmd.Process.Kill() // of one that has ended this does nothing
			}
		}
	}
}

// exits are how the stages ended.
func (p *pipe) exits() []Exit {
	out := make([]Exit, len(p.stages))
	for i, s := range p.stages {
		out[i] = Exit{Stage: s.name, Status: shellStatus(s.cmd.ProcessState)}
		if _, exited := errors.AsType[*exec.ExitError](s.err); s.err != nil && !exited && out[i].Status == command.OK {
			out[i].Status = command.Failed // its output could not be copied
		}
	}
	return out
}
