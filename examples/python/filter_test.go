// Package python holds the example filter to the format's golden streams.
package python

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
)

const python = "python3"

// needCBOR2 skips a test where the filter cannot run.
func needCBOR2(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(python); err != nil {
		t.Skipf("%s is not on the PATH: install it, and then cbor2 with: pip install cbor2", python)
	}
	if err := exec.Command(python, "-c", "import cbor2").Run(); err != nil {
		t.Skip("the Python module cbor2 is missing: pip install cbor2")
	}
}

func golden(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "format", "testdata", filepath.FromSlash(name)+".kbk"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// filter runs filter.py and returns its output, its messages and its exit status.
func filter(t *testing.T, in []byte, args ...string) (out []byte, messages string, status int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(python, append([]string{"filter.py"}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
	}
	return stdout.Bytes(), stderr.String(), cmd.ProcessState.ExitCode()
}

// read returns a stream's frames, and the error it ends with, or nil.
func read(b []byte) (frames [][]byte, err error) {
	r := format.NewReader(bytes.NewReader(b), 0)
	for {
		if _, err = r.Next(); err != nil {
			break
		}
		frames = append(frames, r.Own())
	}
	if err == io.EOF {
		err = nil
	}
	return frames, err
}

func TestFilterPasses(t *testing.T) {
	needCBOR2(t)
	// What is in deterministic encoding stays as it is, bit for bit: records with
	// headers of all sorts, every other kind of frame, the header and its tag.
	for _, name := range []string{"good/records", "good/kinds", "good/small", "good/empty"} {
		in := golden(t, name)
		out, messages, status := filter(t, in, "orders", "")
		if status != 0 || messages != "" || !bytes.Equal(out, in) {
			t.Errorf("%s: status %d, %q, and\n%x became\n%x", name, status, messages, in, out)
		}
	}
	// What is not, and what is not known, stays readable.
	for _, name := range []string{"good/later", "good/tolerant"} {
		in := golden(t, name)
		want, err := read(in)
		if err != nil {
			t.Fatal(err)
		}
		out, messages, status := filter(t, in, "orders", "")
		got, err := read(out)
		if status != 0 || err != nil || len(got) != len(want) {
			t.Errorf("%s: status %d, %q, %d frames of %d, %v", name, status, messages, len(got), len(want), err)
		}
	}
}

func TestFilterDrops(t *testing.T) {
	needCBOR2(t)
	in := golden(t, "good/records")
	for _, c := range []struct {
		topic, text string
		keep        func(*format.Record) bool
	}{
		{"orders", `"n":1`, func(r *format.Record) bool { return bytes.Contains(r.Value, []byte(`"n":1`)) }},
		{"orders", "none has this", func(*format.Record) bool { return false }},
		{"payments", "", func(*format.Record) bool { return false }},
	} {
		var want [][]byte
		dropped := 0
		r := format.NewReader(bytes.NewReader(in), 0)
		var rec format.Record
		for {
			f, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if f.Kind == format.KindRec {
				if err := f.Record(&rec); err != nil {
					t.Fatal(err)
				}
				if !c.keep(&rec) {
					dropped++
					continue
				}
			}
			want = append(want, r.Own())
		}
		out, messages, status := filter(t, in, c.topic, c.text)
		got, err := read(out)
		if status != 0 || err != nil || dropped == 0 || !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
			t.Errorf("%q %q: status %d, %q, %v: got\n%x, want\n%x", c.topic, c.text, status, messages, err, got, want)
		}
	}
}

// TestFilterTruncation: however its input ends early, its output does too.
func TestFilterTruncation(t *testing.T) {
	needCBOR2(t)
	in := golden(t, "good/small")
	cuts := []int{0, 1, 5}
	frames, err := read(in)
	if err != nil {
		t.Fatal(err)
	}
	at := len(in)
	for i := len(frames) - 1; i >= 0; i-- {
		cuts = append(cuts, at-1)
		at -= len(frames[i])
		cuts = append(cuts, at)
	}
	for _, n := range cuts {
		out, messages, status := filter(t, in[:n], "orders", "")
		if status != 3 || !strings.Contains(messages, "did the command upstream fail?") || strings.Contains(messages, "Traceback") {
			t.Errorf("cut to %d bytes: status %d, %q", n, status, messages)
		}
		if _, err := read(out); !errors.Is(err, format.ErrTruncated) {
			t.Errorf("cut to %d bytes: its output ends with %v", n, err)
		}
	}
}

func TestFilterRefuses(t *testing.T) {
	needCBOR2(t)
	for name, want := range map[string]int{
		"bad/trailing-record": 3,
		"bad/trailing-stream": 3,
		"bad/frame-break":     3,
		"bad/not-kbk":         1,
		"bad/version-2":       1,
		"good/segments":       1,
	} {
		out, messages, status := filter(t, golden(t, name), "orders", "")
		if status != want || strings.Contains(messages, "Traceback") {
			t.Errorf("%s: status %d, want %d: %s", name, status, want, messages)
		}
		if _, err := read(out); !errors.Is(err, format.ErrTruncated) {
			t.Errorf("%s: its output ends with %v", name, err)
		}
	}
}

func TestFilterIsShort(t *testing.T) {
	b, err := os.ReadFile("filter.py")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte("\n")); n > 20 {
		t.Errorf("filter.py has %d lines; the promise is 20", n)
	}
}
