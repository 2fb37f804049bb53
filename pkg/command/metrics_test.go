package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// lingering is a command with a page, which fails.
func lingering() Spec {
	return Spec{
		Name: "kbk-test",
		Metrics: func(ctx context.Context, env *Env, addr string) (*Page, error) {
			if addr == "taken" {
				return nil, errors.New("--metrics taken: address already in use")
			}
			return &Page{Context: ctx, Ended: func(status int) { env.Log.Info("ended", "status", status) }, Close: func() { env.Log.Info("closed") }}, nil
		},
		Action: func(context.Context, *cli.Context, *Env) error { return errors.New("as the test wants it") },
	}
}

func linger(t *testing.T, args ...string) (cmd *exec.Cmd, out io.ReadCloser, in io.WriteCloser, said *bytes.Buffer) {
	t.Helper()
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "KBK_TEST_COMMAND=linger")
	said = new(bytes.Buffer)
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err == nil {
		in, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, out, in, said
}

// TestKeepAlive has a command that stays after its end. The stages beside it see that it has
// ended, and its status stays.
func TestKeepAlive(t *testing.T) {
	cmd, out, in, said := linger(t, "--metrics", "x", "--keep-alive", "1h")
	if _, err := io.ReadAll(out); err != nil { // comes to its end
		t.Error(err)
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, err := in.Write([]byte("x")); errors.Is(err, syscall.EPIPE) {
			break
		} else if err != nil || time.Since(began) > 20*time.Second {
			t.Fatalf("the input is still open: %v", err)
		}
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("it has not stayed: %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if n := status(t, cmd); n != Failed {
		t.Errorf("status %d", n)
	}
	if want := "kbk-test: ended (status=1)\nkbk-test: error: as the test wants it\nkbk-test: closed\n"; said.String() != want {
		t.Errorf("said %q", said)
	}
}

func TestMetricsFlags(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"--metrics taken", Usage, "error: --metrics taken: address already in use"},
		{"--keep-alive 1s", Usage, "error: --keep-alive is only for --metrics"},
		{"--metrics x --keep-alive -1s", Usage, "below 0"},
		{"--metrics x", Failed, "ended (status=1)"},
		{"--metrics x --keep-alive 10ms", Failed, "closed"},
		{"", Failed, "as the test wants it"},
	} {
		cmd, _, _, said := linger(t, strings.Fields(c.args)...)
		if n := status(t, cmd); n != c.status || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: status %d, said %s", c.args, n, said)
		}
	}
}
