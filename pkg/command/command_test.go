package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
)

func TestStatusOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, OK},
		{errors.New("x"), Failed},
		{Usagef("x"), Usage},
		{fmt.Errorf("y: %w", WithHint(Usagef("x"), "hint")), Usage},
		{Input(&format.PositionError{Err: format.ErrTruncated}), Corrupt},
		{Input(&format.PositionError{Err: format.ErrEmpty}), Corrupt},
		{Input(format.ErrNotStream), Corrupt},
		{WithStatus(Loss, errors.New("x")), Loss},
		{Stopped("x"), Interrupted},
		{fmt.Errorf("x: %w", context.Canceled), Interrupted},
	} {
		if got := StatusOf(c.err); got != c.want {
			t.Errorf("StatusOf(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestEndStatus(t *testing.T) {
	for name, c := range map[string]struct {
		end  format.End
		want int
		says string
	}{
		"whole":                {format.End{Records: 3}, OK, ""},
		"lost":                 {format.End{Lost: true}, Loss, "the source"},
		"lost, with reasons":   {format.End{Lost: true, Losses: []string{"a/0: gone", "b/1: hidden"}}, Loss, "a/0: gone; b/1: hidden"},
		"interrupted":          {format.End{Interrupted: true}, Interrupted, "half of it"},
		"interrupted and lost": {format.End{Interrupted: true, Lost: true, Losses: []string{"a/0: gone"}}, Interrupted, "half of it is there; lost: a/0: gone"},
	} {
		err := EndStatus(&c.end, "half of it is there")
		if got := StatusOf(err); got != c.want || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: status %d, %v", name, got, err)
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[string]int64{"64MiB": 64 << 20, "10MB": 10e6, "4096": 4096, "1GiB": 1 << 30, "1.5KiB": 1536} {
		var s Size
		if err := s.Set(in); err != nil || int64(s) != want {
			t.Errorf("%q: %d, %v", in, s, err)
		}
	}
	for in, want := range map[Size]string{64 << 20: "64MiB", 10e6: "10MB", 1 << 30: "1GiB", 1536: "1.5kB"} {
		if got := in.String(); got != want {
			t.Errorf("%d: %q, not %q", int64(in), got, want)
		}
	}
	for _, in := range []string{"", "x", "-1", "10QB", "99999999999GiB"} {
		var s Size
		if err := s.Set(in); err == nil {
			t.Errorf("%q was taken as %d", in, s)
		}
	}
}

// TestRun runs an app with arguments and looks at its status.
func TestRun(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{nil, OK},
		{[]string{"--help"}, OK},
		{[]string{"--version"}, OK},
		{[]string{"--nonsense"}, Usage},
		{[]string{"a", "b"}, Usage},
		{[]string{"a", "--quiet"}, OK}, // a flag behind the argument
		{[]string{"a", "--fail"}, Failed},
		{[]string{"a", "--", "--fail"}, Usage},
		{[]string{"--log-format", "xml"}, Usage},
		{[]string{"help"}, OK}, // an argument like any other
		{[]string{"--fail"}, Failed},
	} {
		app := App(Spec{
			Name: "kbk-test", Usage: "test", MaxArgs: 1,
			Flags: []cli.Flag{&cli.BoolFlag{Name: "fail"}},
			Action: func(_ context.Context, c *cli.Context, _ *Env) error {
				if c.Bool("fail") {
					return errors.New("failed")
				}
				return nil
			},
		})
		app.Writer, app.ErrWriter = io.Discard, io.Discard
		if got := run(app, append([]string{"kbk-test"}, c.args...)); got != c.want {
			t.Errorf("%q: status %d, want %d", c.args, got, c.want)
		}
	}
}

// TestCommands runs an app of several commands.
func TestCommands(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{nil, Usage},
		{[]string{"--help"}, OK},
		{[]string{"other"}, Usage},
		{[]string{"help"}, Usage},
		{[]string{"one"}, OK},
		{[]string{"one", "--help"}, OK},
		{[]string{"one", "--fail", "--quiet"}, Failed},
		{[]string{"one", "--nonsense"}, Usage},
		{[]string{"one", "stray"}, Usage},
		{[]string{"one", "help"}, Usage},
	} {
		app := App(Spec{Name: "kbk-test", Usage: "test", Commands: []Spec{{
			Name: "one", Flags: []cli.Flag{&cli.BoolFlag{Name: "fail"}},
			Action: func(_ context.Context, c *cli.Context, env *Env) error {
				if env.Name != "kbk-test" {
					t.Errorf("messages are under the name %s", env.Name)
				}
				if c.Bool("fail") {
					return errors.New("failed")
				}
				return nil
			},
		}}})
		app.Writer, app.ErrWriter = io.Discard, io.Discard
		if got := run(app, append([]string{"kbk-test"}, c.args...)); got != c.want {
			t.Errorf("%q: status %d, want %d", c.args, got, c.want)
		}
	}
}

func TestHelpHasStatuses(t *testing.T) {
	var out bytes.Buffer
	app := App(Spec{Name: "kbk-test", Action: func(context.Context, *cli.Context, *Env) error { return nil }})
	app.Writer = &out
	if run(app, []string{"kbk-test", "--help"}) != OK || !strings.Contains(out.String(), "Exit status:\n  0    done\n") {
		t.Errorf("help is %q", out.String())
	}
}

func TestTextLog(t *testing.T) {
	var b bytes.Buffer
	log := logger("kbk-test", &b, slog.LevelInfo, false)
	log.Debug("not seen")
	log.Info("one")
	log.With("a", 1).Warn("two\nlines", "b", "x y")
	log.Error("three")
	want := "kbk-test: one\nkbk-test: warning: two lines (a=1 b=\"x y\")\nkbk-test: error: three\n"
	if b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

func TestInterruptible(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	in := Interruptible(ctx, r)
	go func() { _, _ = w.Write([]byte("abc")) }()
	b := make([]byte, 10)
	if n, err := in.Read(b); n != 3 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	why := errors.New("enough")
	cancel(why)
	if _, err := in.Read(b); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// TestEndStatusThrough writes to a pipe, whose reader will say what was lost, and to a file.
func TestEndStatusThrough(t *testing.T) {
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer pipe.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lost := format.End{Lost: true, Losses: []string{"a/0: gone"}}
	for _, test := range []struct {
		out  io.Writer
		end  format.End
		want int
		says string
	}{
		{pipe, lost, Loss, "done, but with loss, which the end of the stream names"},
		{file, lost, Loss, "done, but with loss: a/0: gone"},
		{new(bytes.Buffer), lost, Loss, "done, but with loss: a/0: gone"},
		{pipe, format.End{Lost: true}, Loss, "the messages of the source say which"},
		{pipe, format.End{Lost: true, Interrupted: true, Losses: lost.Losses}, Interrupted, "interrupted: half"},
		{pipe, format.End{}, OK, ""},
	} {
		err := EndStatusThrough(test.out, &test.end, "half")
		if StatusOf(err) != test.want || err != nil && !strings.HasSuffix(err.Error(), test.says) {
			t.Errorf("%T, %+v: %v", test.out, test.end, err)
		}
	}
}
