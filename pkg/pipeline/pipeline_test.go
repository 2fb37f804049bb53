//go:build unix

package pipeline

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

// TestMain is a stage, or one that starts stages, instead of the tests where it is called
// by such a name.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "stage":
		command.Main(command.App(command.Spec{Name: "stage", MaxArgs: 3, Action: stage}))
	case "starter":
		command.Main(command.App(command.Spec{Name: "starter", Action: starter}))
	}
	os.Exit(m.Run())
}

// stage does what its arguments say:
//
//	exit N          ends with status N
//	copy N          copies its input and ends with N
//	read B N        reads B bytes and ends with N
//	write N         writes until nobody reads any more, or ends with N when it is to stop
//	source          says that it runs, and how it is stopped
//	kill            kills itself
func stage(ctx context.Context, c *cli.Context, env *command.Env) error {
	number := func(i int) int {
		n, err := strconv.Atoi(c.Args().Get(i))
		if err != nil {
			panic(err)
		}
		return n
	}
	end := func(n int) error {
		if n == 0 {
			return nil
		}
		return command.WithStatus(n, fmt.Errorf("as the test wants it"))
	}
	switch what := c.Args().First(); what {
	case "exit":
		return end(number(1))
	case "copy":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			return err
		}
		return end(number(1))
	case "read":
		if _, err := io.ReadFull(os.Stdin, make([]byte, number(1))); err != nil {
			return command.WithStatus(command.Corrupt, err)
		}
		return end(number(2))
	case "write":
		for b := make([]byte, 32<<10); ; {
			if _, err := os.Stdout.Write(b); err != nil {
				return err
			}
			select {
			case <-env.Stop:
				return end(number(1))
			default:
			}
		}
	case "source":
		fmt.Println("runs")
		select {
		case <-env.Stop:
		case <-time.After(time.Minute): // nothing outlives a test that has failed
			return errors.New("nobody stops it")
		}
		fmt.Println("is to end properly")
		select {
		case <-ctx.Done():
			fmt.Println("is to stop at once")
		case <-time.After(time.Second): // a signal that came twice would be there long before
		}
		return command.Stopped("as it was told to")
	case "kill":
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	default:
		panic(what)
	}
}

func self(string) (string, error) { return os.Executable() }

func stages(lines ...string) []Stage {
	var out []Stage
	for _, line := range lines {
		out = append(out, Stage{"stage", strings.Fields(line)})
	}
	return out
}

// TestRun runs pipes whose stages end in several ways.
func TestRun(t *testing.T) {
	for _, test := range []struct {
		what   string
		stages []Stage
		want   Outcome
	}{
		{"all is well", stages("exit 0", "copy 0", "copy 0"), Outcome{}},
		{"the source fails", stages("exit 1", "read 1 0", "read 1 0"), Outcome{1, "stage", 1}},
		{"the last one fails", stages("write 0", "copy 0", "exit 2"), Outcome{2, "stage", 2}},
		{"one in the middle fails", stages("write 0", "read 100000 3", "read 1 0"), Outcome{3, "stage", 3}},
		{"the source is killed", stages("kill", "read 1 0"), Outcome{1, "stage", 137}},
		{"loss", stages("exit 4", "copy 4"), Outcome{4, "stage", 4}},
	} {
		r := &Runner{Find: self}
		got, err := r.Run(t.Context(), Step{Stages: test.stages, Out: Nowhere}, nil)
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v, not %+v", test.what, got, err, test.want)
		}
	}
}

// TestOutput has the output of the last stage in a file, or given to the caller.
func TestOutput(t *testing.T) {
	r := &Runner{Find: exec.LookPath}
	file := filepath.Join(t.TempDir(), "out")
	steps := Step{Stages: []Stage{{"sh", []string{"-c", "echo b a"}}, {"tr", []string{" ", "\n"}}, {"sort", nil}}, Out: file}
	var out bytes.Buffer
	for _, w := range []io.Writer{nil, &out} {
		if got, err := r.Run(t.Context(), steps, w); err != nil || got != (Outcome{}) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "a\nb\n" || out.String() != "a\nb\n" {
		t.Errorf("%q, %q, %v", text, &out, err)
	}
	r.Find = func(string) (string, error) { return filepath.Join(t.TempDir(), "missing"), nil }
	if _, err := r.Run(t.Context(), steps, nil); err == nil || !strings.Contains(err.Error(), "start sh: ") {
		t.Errorf("a command that cannot be started: %v", err)
	}
	r.Find = func(name string) (string, error) { // the second one cannot be started, the first one would run for ever
		if name == "stage" {
			return os.Executable()
		}
		return "/nonexistent", nil
	}
	steps.Stages = []Stage{{"stage", []string{"write", "0"}}, {"sort", nil}}
	if _, err := r.Run(t.Context(), steps, nil); err == nil || !strings.Contains(err.Error(), "start sort: ") {
		t.Errorf("a command that cannot be started: %v", err)
	}
}

// TestDeaf stops a stage at once that does not listen.
func TestDeaf(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &Runner{Find: exec.LookPath}
	time.AfterFunc(50*time.Millisecond, cancel)
	got, err := r.Run(ctx, Step{Stages: []Stage{{"sleep", []string{"1000"}}}}, nil)
	if err != nil || got.Status != command.Interrupted {
		t.Errorf("%+v, %v", got, err)
	}
}

// starter runs a pipe as kbk does, and ends with its status.
func starter(ctx context.Context, _ *cli.Context, env *command.Env) error {
	r := &Runner{Find: self, Stop: env.Stop}
	got, err := r.Run(ctx, Step{Stages: stages("source", "copy 0", "copy 0")}, nil)
	if err == nil && got.Status != 0 {
		err = command.WithStatus(got.Status, errors.New("the pipe has this status"))
	}
	return err
}

// TestSignals sends signals to a process that runs a pipe, as whoever kills it does, and to
// its whole process group, as a terminal and a service manager do. Each counts once.
func TestSignals(t *testing.T) {
	for _, test := range []struct {
		what string
		sig  syscall.Signal
		all  bool
	}{
		{"kill -INT", syscall.SIGINT, false},
		{"kill", syscall.SIGTERM, false},
		{"Ctrl-C", syscall.SIGINT, true},
		{"a service manager", syscall.SIGTERM, true},
	} {
		for _, times := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s %d", test.what, times), func(t *testing.T) {
				t.Parallel()
				cmd := exec.Command(os.Args[0])
				cmd.Args[0] = "starter"
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				pid := cmd.Process.Pid
				if test.all {
					pid = -pid
				}
				var said []string
				for lines := bufio.NewScanner(out); lines.Scan(); {
					said = append(said, lines.Text())
					if len(said) <= times {
						if err := syscall.Kill(pid, test.sig); err != nil {
							t.Error(err)
						}
					}
				}
				want := []string{"runs", "is to end properly", "is to stop at once"}[:times+1]
				if got := strings.Join(said, ", "); got != strings.Join(want, ", ") {
					t.Errorf("the stage said %q", got)
				}
				var exit *exec.ExitError
				if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != command.Interrupted {
					t.Errorf("it ended with %v", err)
				}
			})
		}
	}
}

// TestStarterDies kills the process that has started a pipe: its stages end properly.
func TestStarterDies(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Args[0] = "starter"
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "runs" {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if lines.Text() == "is to end properly" {
			return
		}
	}
	t.Error("the stages did not learn of it")
}
