package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/kbkio/kbk/format"
)

func testPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// TestHungUp: a stage knows that the one before it has ended before it has read all that it wrote.
func TestHungUp(t *testing.T) {
	r, w := testPipe(t)
	if _, err := w.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if hungUp(r.Fd()) {
		t.Error("somebody may write yet")
	}
	w.Close()
	if !hungUp(r.Fd()) {
		t.Error("nobody can write any more")
	}
}

// TestSpeaks has every reason to fail at every place in a pipe.
func TestSpeaks(t *testing.T) {
	first, middle, last, only := place{behind: true}, place{piped: true, before: true, behind: true}, place{piped: true, before: true}, place{}
	upstream := Input(&format.PositionError{Err: &format.FailError{By: "kbk-fetch", Why: "no broker"}})
	for _, test := range []struct {
		what                        string
		err                         error
		first, middle, last, single bool
	}{
		{"its own failure", errors.New("no broker"), true, true, true, true},
		{"nobody reads", &fs.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.EPIPE}, true, false, true, true},
		{"upstream has said so", upstream, false, false, true, true},
		{"upstream has said so, and nothing was done", WithNothingDone(upstream), false, false, false, true},
		{"upstream was killed, and nothing was done", WithNothingDone(Input(&format.PositionError{Err: format.ErrTruncated})), true, true, true, true},
		{"upstream wrote nothing, and nothing was done", WithNothingDone(Input(&format.PositionError{Err: format.ErrEmpty})), false, false, true, true},
		{"upstream wrote nothing", Input(&format.PositionError{Err: format.ErrEmpty}), false, false, true, true},
		{"upstream was killed", Input(&format.PositionError{Err: format.ErrTruncated}), true, true, true, true},
		{"corrupt", Input(&format.PositionError{Err: format.ErrCorrupt}), true, true, true, true},
		{"interrupted", Stopped("it is not all"), false, false, true, true},
	} {
		for _, p := range []struct {
			name string
			at   place
			want bool
		}{{"first", first, test.first}, {"middle", middle, test.middle}, {"last", last, test.last}, {"only", only, test.single}} {
			if got := speaks(test.err, p.at); got != p.want {
				t.Errorf("%s, at the %s stage: %v", test.what, p.name, got)
			}
		}
	}
}

func TestSaid(t *testing.T) {
	upstream := Input(&format.PositionError{Err: &format.FailError{By: "kbk-fetch", Why: "no broker"}})
	file := "the input is incomplete: kbk-fetch, which wrote it, failed: no broker; nothing was committed"
	if got := said(WithKept(upstream, "nothing was committed")); got != file {
		t.Errorf("%q, not %q", got, file)
	}
	piped.Store(true)
	defer piped.Store(false)
	for _, test := range []struct {
		err  error
		want string
	}{
		{upstream, "kbk-fetch failed, and this is not finished"},
		{WithKept(upstream, "nothing was committed"), "kbk-fetch failed, and this is not finished: nothing was committed"},
		{WithKept(errors.New("store: full"), "nothing was committed"), "store: full; nothing was committed"},
		{errors.New("x"), "x"},
	} {
		if got := said(test.err); got != test.want {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
	if StatusOf(WithKept(upstream, "x")) != Corrupt {
		t.Error("the status is another")
	}
}

// TestFail: who fails writes so where the end of the stream would be, and passes on who it was.
func TestFail(t *testing.T) {
	defer output.Store(nil)
	upstream := &format.PositionError{Err: &format.FailError{By: "kbk-fetch", Why: "no broker"}}
	for _, test := range []struct {
		err     error
		by, why string
	}{
		{errors.New("disk full"), "kbk-test", "disk full"},
		{fmt.Errorf("standard input: %w", upstream), "kbk-fetch", "no broker"},
		{errors.New(strings.Repeat("é", maxWhy)), "kbk-test", strings.Repeat("é", maxWhy/2)},
		{errors.New("x" + strings.Repeat("é", maxWhy)), "kbk-test", "x" + strings.Repeat("é", maxWhy/2-1) + "\ufffd"},
		{Stopped("not all"), "", ""},
		{context.Canceled, "", ""},
	} {
		var b bytes.Buffer
		w := format.NewWriter(&b)
		if err := w.WriteHeader(&format.Header{Content: format.ContentRecords}); err != nil {
			t.Fatal(err)
		}
		output.Store(w)
		fail("kbk-test", test.err)
		if test.by == "" {
			if b.Len() > 0 {
				t.Errorf("%v: something was written", test.err)
			}
			continue
		}
		_, err := format.NewReader(&b, 0).Next()
		f, ok := errors.AsType[*format.FailError](err)
		if !ok || f.By != test.by || f.Why != test.why || !errors.Is(err, format.ErrTruncated) {
			t.Errorf("%v: read %v", test.err, err)
		}
	}
}

// TestAtOnce: what a second signal leads to is not what is said.
func TestAtOnce(t *testing.T) {
	defer stoppedNow.Store(false)
	defer displayed.Store(nil)
	disk := errors.New("disk full")
	if err := atOnce(context.Canceled); err != context.Canceled {
		t.Errorf("without a signal: %v", err)
	}
	stoppedNow.Store(true)
	displayed.Store(&Display{kept: func() string { return "12 records are kept" }})
	for _, err := range []error{fmt.Errorf("store: %w", context.Canceled), Input(format.ErrTruncated)} {
		got := atOnce(err)
		if got.Error() != "stopped at once: 12 records are kept" || StatusOf(got) != Interrupted {
			t.Errorf("%v: %v", err, got)
		}
	}
	if err := atOnce(disk); err != disk {
		t.Errorf("a failure of its own: %v", err)
	}
	if err := atOnce(nil); err != nil {
		t.Errorf("done: %v", err)
	}
}
