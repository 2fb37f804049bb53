package e2e

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
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

// countStream counts the records of each partition in a stream. Their offsets must be
// 0, 1, 2 and so on.
func countStream(name string) (map[string]int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	got := make(map[string]int64)
	for r := format.NewReader(f, 0); ; {
		f, err := r.Next()
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return nil, err
		}
		if f.Kind != format.KindRec {
			continue
		}
		k := fmt.Sprintf("%s/%d", f.Topic, f.Partition)
		if f.Offset != got[k] {
			return nil, fmt.Errorf("%s: offset %d where %d is expected", k, f.Offset, got[k])
		}
		got[k]++
	}
}

// TestCountStream makes sure that the check can fail.
func TestCountStream(t *testing.T) {
	if _, err := countStream(os.DevNull); err == nil {
		t.Error("nothing was taken as a stream")
	}
	name := streamFile(t, func(_ func(format.Encoder), record func(*format.Record)) {
		record(&format.Record{Topic: "t", Offset: 0})
		record(&format.Record{Topic: "t", Offset: 2})
	})
	if _, err := countStream(name); err == nil || !strings.Contains(err.Error(), "offset 2 where 1 is expected") {
		t.Errorf("a gap: %v", err)
	}
}
