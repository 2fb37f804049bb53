package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// TestMain runs a command of the tests' own instead of the tests where the environment
// asks for one: signals end processes.
func TestMain(m *testing.M) {
	if os.Getenv("KBK_TEST_COMMAND") == "" {
		os.Exit(m.Run())
	}
	if os.Getenv("KBK_TEST_COMMAND") == "linger" {
		Main(App(lingering()))
	}
	Main(App(Spec{Name: "kbk-test", Action: func(ctx context.Context, _ *cli.Context, env *Env) error {
		out, err := Stdout()
		if err != nil {
			return err
		}
		block := make([]byte, 64<<10)
		if os.Getenv("KBK_TEST_COMMAND") == "slow" { // it stops only when it must
			if _, err := out.Write(block); err != nil {
				return err
			}
			select {
			case <-env.Stop:
			case <-time.After(time.Minute):
			}
			if _, err := out.Write(block); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return WithStatus(9, ctx.Err())
			case <-time.After(time.Minute): // nothing outlives a test that has failed
				return errors.New("nobody stops it")
			}
		}
		for {
			if _, err := out.Write(block); err != nil {
				return err
			}
			select {
			case <-env.Stop:
				return Stopped("as the test wants it")
			default:
			}
		}
	}}))
}

func testCommand(t *testing.T) (cmd *exec.Cmd, out io.ReadCloser, said *bytes.Buffer) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KBK_TEST_COMMAND=1")
	said = new(bytes.Buffer)
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1<<10)); err != nil { // it is under way
		t.Fatal(err)
	}
	return cmd, out, said
}

// status waits for a command to end, and wants it to have done so by itself.
func status(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if !cmd.ProcessState.Exited() {
		t.Fatalf("it was killed: %s", cmd.ProcessState)
	}
	return cmd.ProcessState.ExitCode()
}

// TestBrokenPipe closes a command's output while it writes. That is a failed write like any
// other, but for its status, by which it is told from a cause.
func TestBrokenPipe(t *testing.T) {
	cmd, out, said := testCommand(t)
	out.Close()
	if got := status(t, cmd); got != NoReader {
		t.Errorf("status %d", got)
	}
	want := "kbk-test: error: write /dev/stdout: broken pipe\nkbk-test: hint: the command downstream ended before it had read everything: its own message says why\n"
	if said.String() != want {
		t.Errorf("it said %q", said)
	}
}

// TestStopSignals sends each signal that asks a command to end its stream properly.
func TestStopSignals(t *testing.T) {
	// Under nohup a command ignores SIGHUP, and so it would here: what a program takes for
	// itself, its children do not inherit as ignored.
	hups := make(chan os.Signal, 1)
	signal.Notify(hups, syscall.SIGHUP)
	defer signal.Stop(hups)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		cmd, out, said := testCommand(t)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, out); err != nil {
			t.Fatal(err)
		}
		// The stage behind it says so.
		if got := status(t, cmd); got != Interrupted || said.Len() > 0 {
			t.Errorf("%s: status %d, %q", sig, got, said)
		}
	}
}

// TestOrders gives a command orders beside signals: the two are one.
func TestOrders(t *testing.T) {
	for name, steps := range map[string][]string{
		"orders alone":           {"order 1", "stops", "order 1", "order 2"},
		"a signal and its order": {"signal", "stops", "order 1", "signal"},
		"an order after signals": {"signal", "stops", "order 2"},
		"nobody is left":         {"close", "stops", "signal", "another signal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "KBK_TEST_COMMAND=slow", OrdersVariable+"=3")
			cmd.ExtraFiles = []*os.File{r}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r.Close()
			block := make([]byte, 64<<10)
			if _, err := io.ReadFull(out, block); err != nil { // it is under way
				t.Fatal(err)
			}
			for i, step := range steps {
				switch step {
				case "order 1":
					_, err = w.Write([]byte{StopProperly})
				case "order 2":
					_, err = w.Write([]byte{StopAtOnce})
				case "close":
					err = w.Close()
				case "signal":
					err = cmd.Process.Signal(syscall.SIGINT)
				case "another signal": // two of one kind may become one
					err = cmd.Process.Signal(syscall.SIGTERM)
				case "stops":
					_, err = io.ReadFull(out, block) // once it is told to stop
				}
				if err != nil {
					t.Fatalf("step %d, %s: %v", i, step, err)
				}
			}
			if got := status(t, cmd); got != 9 {
				t.Errorf("status %d", got)
			}
		})
	}
}

// TestPrintable gives messages what might do something to a terminal.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain \"text\" of orders/3: größer, 日本": "plain \"text\" of orders/3: größer, 日本",
		"two\nlines\r\n":              "two lines",
		"\x1b]0;title\a":              `\x1b]0;title\a`,
		"a\tb":                        `a\tb`,
		"C1 \u009b31m":                `C1 \u009b31m`,
		"not UTF-8 \xff\x9b":          `not UTF-8 \xff\x9b`,
		"right to left \u202egpj.exe": `right to left \u202egpj.exe`,
		"really \ufffd":               "really \ufffd",
	} {
		if got := Printable(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
	var b bytes.Buffer
	logger("kbk-test", &b, slog.LevelInfo, false).Warn("topic \x1b[2J", "at", "x\x1b[2J", "by", "y\u009b z")
	if want := "kbk-test: warning: topic \\x1b[2J (at=x\\x1b[2J by=\"y\\u009b z\")\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
}
