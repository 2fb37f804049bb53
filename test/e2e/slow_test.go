package e2e

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
)

// The test binary is also a stage of a pipe that makes sure there is a middle to do
// something in.
var (
	slow = flag.Int("slow", 0, "be a stage that passes on so many `BYTES` a second")
	to   = flag.String("to", "", "with -slow: write to this `FILE` and not to standard output")
)

// slowStage returns the line of such a stage.
func slowStage(rate int, to string) string {
	line := fmt.Sprintf("%s -slow=%d", os.Args[0], rate)
	if to != "" {
		line += " -to=" + to
	}
	return line
}

// slowCopy is the stage. Like the real ones it goes on to the end of its input on a
// Ctrl-C.
func slowCopy() error {
	signal.Ignore(os.Interrupt)
	out := os.Stdout
	if *to != "" {
		var err error
		if out, err = os.Create(*to); err != nil {
			return err
		}
	}
	for buf := make([]byte, max(*slow/100, 1)); ; time.Sleep(10 * time.Millisecond) {
		n, err := os.Stdin.Read(buf)
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// countStream wants the offsets from 0 up to and without want, each once and in
// order, in every partition.
func countStream(name string, want map[string]int64) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	got := make(map[string]int64)
	for r := format.NewReader(f, 0); ; {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if f.Kind != format.KindRec {
			continue
		}
		k := fmt.Sprintf("%s/%d", f.Topic, f.Partition)
		if f.Offset != got[k] {
			return fmt.Errorf("%s: offset %d where %d is due", k, f.Offset, got[k])
		}
		got[k]++
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("records %v, not %v", got, want)
	}
	return nil
}

// TestCountStream makes sure that the check can fail.
func TestCountStream(t *testing.T) {
	if err := countStream(os.DevNull, nil); err == nil {
		t.Error("nothing was taken as a stream")
	}
}
