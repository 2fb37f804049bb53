//go:build linux

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sys/unix"
)

// TestAsked answers the questions of --prune on a terminal: wrong ones, and the right ones.
func TestAsked(t *testing.T) {
	w := newWorld(t)
	w.snapshot(target, "before.kbk")
	adm := connect(t, target)
	made, err := adm.CreateACLs(t.Context(), kadm.NewACLs().Topics("asked").ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:killed").AllowHosts("*").Operations(kadm.OpRead))
	must(t, err, made[0].Err)
	w.seen(target, "with.kbk", "User:killed READ on TOPIC asked")
	for _, answers := range [][]string{{"no"}, {"yes", "2"}} {
		if text, status := w.answer(answers...); status != 2 || !strings.Contains(text, "nothing was changed") {
			t.Errorf("%q: status %d\n%s", answers, status, text)
		}
		w.equal(target, "with.kbk")
	}
	text, status := w.answer("yes", "1")
	if status != 0 || !strings.Contains(text, "- User:killed READ on TOPIC asked") || !strings.Contains(text, "Delete these 1?") {
		t.Errorf("status %d\n%s", status, text)
	}
	w.equal(target, "before.kbk")
}

// answer runs apply --prune in a terminal of its own, and gives an answer to each question.
func (w *world) answer(answers ...string) (text string, status int) {
	w.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		w.Skipf("no terminal: %v", err)
	}
	defer master.Close()
	must(w.T, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(w.T, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(w.T, err)
	in, err := os.Open(w.path("before.kbk"))
	must(w.T, err)
	defer in.Close()
	cmd := exec.Command(filepath.Join(bin, "kbk-cluster"), "apply", "-b", target.Bootstrap(), "--prune", "--save", fmt.Sprintf("asked-%d.kbk", time.Now().UnixNano()))
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = w.dir, in, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	must(w.T, cmd.Start())
	must(w.T, slave.Close())
	stop := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	questions := []string{"yes or no: ", "how many they are: "}
	for buf, asked := make([]byte, 4096), 0; ; {
		n, err := master.Read(buf)
		text += string(buf[:n])
		if asked < len(answers) && strings.HasSuffix(text, questions[asked]) {
			fmt.Fprintln(master, answers[asked])
			asked++
		}
		if err != nil { // EIO: the command has ended
			break
		}
	}
	_ = cmd.Wait() // the status says it
	return text, cmd.ProcessState.ExitCode()
}
