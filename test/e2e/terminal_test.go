//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A terminal is a shell's line in a terminal of its own, and all that was written there.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	done   chan struct{} // closed when the line has ended, and all was read

	mu  sync.Mutex
	all []byte
}

// inTerminal starts a line in a terminal.
func inTerminal(t *testing.T, columns int, line string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	w := &terminal{t: t, master: master, done: make(chan struct{})}
	w.resize(columns)
	w.cmd = exec.Command("bash", "-c", line)
	w.cmd.Env = append(os.Environ(), "TERM=xterm", "LC_ALL=C.UTF-8")
	w.cmd.Stdin, w.cmd.Stdout, w.cmd.Stderr = slave, slave, slave
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL) })
	go func() {
		defer close(w.done)
		for buf := make([]byte, 4096); ; {
			n, err := master.Read(buf)
			w.mu.Lock()
			w.all = append(w.all, buf[:n]...)
			w.mu.Unlock()
			if err != nil { // EIO: the last one that had the terminal has ended
				return
			}
		}
	}()
	return w
}

func (w *terminal) resize(columns int) {
	w.t.Helper()
	if err := unix.IoctlSetWinsize(int(w.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)}); err != nil {
		w.t.Fatal(err)
	}
}

// has returns what has been written, from a place on. A line that was drawn over is erased, too.
func (w *terminal) has(from int) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.ReplaceAll(string(w.all[min(from, len(w.all)):]), "\r\x1b[K", erase)
}

// until waits until what is written from a place on matches, and returns where it ends.
func (w *terminal) until(from int, pattern string) int {
	w.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if at := re.FindStringIndex(w.has(from)); at != nil {
			return from + at[1]
		}
		select {
		case <-w.done:
		default:
			if time.Now().Before(deadline) {
				continue
			}
		}
		text := w.has(from)
		w.t.Fatalf("no %s in what ends in\n%q", pattern, text[max(0, len(text)-2000):])
	}
}

// status waits for the end of the line.
func (w *terminal) status() int {
	w.t.Helper()
	err := w.cmd.Wait()
	<-w.done
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	} else if err != nil {
		w.t.Fatal(err)
	}
	return 0
}

// erase is what takes a line off a terminal.
const erase = "\r\x1b[J"

// drawn are the lines that were drawn, and said those that stay. Each of these must be whole.
func (w *terminal) lines() (drawn, said []string) {
	w.t.Helper()
	for _, part := range strings.Split(w.has(0), erase) {
		for len(part) > 0 {
			line, rest, stays := strings.Cut(part, "\r\n")
			switch line = strings.TrimSuffix(line, "\r"); {
			case stays:
				said = append(said, line)
			case line != "":
				drawn = append(drawn, line)
			}
			part = rest
		}
	}
	return drawn, said
}

// TestTerminal looks at a backup as a person does, in a terminal that is resized, and presses Ctrl-C.
func TestTerminal(t *testing.T) {
	const topic = "terminal"
	seedBig(t, topic)
	line := func(dir string) string {
		return fmt.Sprintf("kbk-fetch -b %s -t %s | %s | kbk-pack --segment-size 256KiB --memory 16MiB | kbk-push --checkpoint 500ms %s > /dev/null; exit ${PIPESTATUS[3]}",
			cluster.Bootstrap(), topic, slowStage(8<<20, ""), dir)
	}
	t.Run("interrupted", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "backup")
		w := inTerminal(t, 80, line(dir))
		began := time.Now()
		w.until(0, `kbk-push: `)
		if took := time.Since(began); took > 5*time.Second { // a second, and what a busy machine takes to start them
			t.Errorf("the first line took %s", took)
		}
		at := w.until(0, `\d+% · [\d,]+ records · [\d,]+/s`)
		narrow := len(w.has(0))
		w.resize(200)
		at = w.until(at, `iB read → .* packed.* · .* records/s, .*committed \d+s ago`)
		w.resize(60)
		at = w.until(at, regexp.QuoteMeta(erase))
		resized := w.until(at, regexp.QuoteMeta(erase))
		w.until(resized, regexp.QuoteMeta(erase))
		for i, l := range strings.Split(w.has(0)[:narrow], erase) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(l, "\r")); n > 79 {
				t.Errorf("line %d has %d characters at 80 columns: %q", i, n, l)
			}
		}
		for _, l := range strings.Split(w.has(resized), erase) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(l, "\r")); n > 59 {
				t.Errorf("%d characters at 60 columns: %q", n, l)
			}
		}
		w.resize(200)
		if _, err := w.master.WriteString("\x03"); err != nil {
			t.Fatal(err)
		}
		w.until(resized, `stopping`)
		if got := w.status(); got != 130 {
			t.Errorf("status %d", got)
		}
		drawn, said := w.lines()
		if len(drawn) == 0 || strings.Contains(strings.Join(drawn, " "), "kbk-fetch") || strings.Contains(strings.Join(drawn, " "), "kbk-pack:") {
			t.Errorf("drawn: %q", drawn)
		}
		counts := map[string]int{}
		for _, l := range said {
			if !strings.HasPrefix(l, "kbk-") {
				t.Errorf("torn: %q", l)
			}
			for _, what := range []string{"again to stop now", "interrupted: ", "until it was interrupted"} {
				if strings.Contains(l, what) {
					counts[what]++
				}
			}
		}
		if counts["again to stop now"] != 1 || counts["interrupted: "] != 1 || counts["until it was interrupted"] != 1 {
			t.Errorf("said %q", said)
		}
		verify(t, dir)
	})
	t.Run("following", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "backup")
		w := inTerminal(t, 200, fmt.Sprintf("kbk-fetch -b %s -t %s --follow --refresh 300ms --point-every 1s | kbk-pack --segment-age 200ms | kbk-push --checkpoint 200ms %s > /dev/null; exit ${PIPESTATUS[2]}",
			cluster.Bootstrap(), topic, dir))
		at := w.until(0, `[\d,]+ records .* · \d+s behind · `) // once there is a restore point
		w.until(at, `· [0-9]s behind · `)                      // and others come, every second
		if strings.Contains(w.has(at), " left") {
			t.Errorf("a time that is left: %q", w.has(at))
		}
		if _, err := w.master.WriteString("\x03"); err != nil {
			t.Fatal(err)
		}
		if got := w.status(); got != 130 {
			t.Errorf("status %d", got)
		}
	})
	t.Run("at once", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "backup")
		w := inTerminal(t, 200, line(dir))
		at := w.until(0, `committed \d+s ago`)
		if _, err := w.master.WriteString("\x03"); err != nil {
			t.Fatal(err)
		}
		w.until(at, `again to stop now`)
		if _, err := w.master.WriteString("\x03"); err != nil {
			t.Fatal(err)
		}
		if got := w.status(); got != 130 {
			t.Errorf("status %d", got)
		}
		_, said := w.lines()
		text := strings.Join(said, "\n")
		if strings.Count(text, "stopped at once") != 1 || !regexp.MustCompile(`kbk-push: warning: stopped at once: what was committed until now, [\d,]+ records in \d+ log entr(y|ies), stays valid; `).MatchString(text) ||
			strings.Contains(text, "canceled") {
			t.Errorf("said %q", said)
		}
	})
	t.Run("killed", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "backup")
		w := inTerminal(t, 200, strings.Replace(line(dir), "kbk-pack ", "sh -c 'echo $$ > "+dir+".pid; exec kbk-pack \"$@\"' sh ", 1))
		w.until(0, `committed \d+s ago`)
		pid, err := os.ReadFile(dir + ".pid")
		if err != nil {
			t.Fatal(err)
		}
		var victim int
		if _, err := fmt.Sscan(string(pid), &victim); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if got := w.status(); got != 3 {
			t.Errorf("status %d", got)
		}
		_, said := w.lines()
		var errs []string
		for _, l := range said {
			if strings.Contains(l, ": error: ") {
				errs = append(errs, l)
			}
		}
		if len(errs) != 2 || !strings.Contains(strings.Join(errs, "\n"), "kbk-fetch: error: write /dev/stdout: broken pipe") ||
			!regexp.MustCompile(`kbk-push: error: standard input: .*stream ended before its end frame; what was committed until now, [\d,]+ records in \d+ log entr`).MatchString(strings.Join(errs, "\n")) {
			t.Errorf("said %q", said)
		}
	})
}
