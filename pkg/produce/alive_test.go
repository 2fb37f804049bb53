package produce

import (
	"os"
	"os/exec"
	"testing"
)

func TestAlive(t *testing.T) {
	if !alive(os.Getpid()) || !alive(os.Getppid()) {
		t.Error("this process, or the one that has started it, is not alive")
	}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command(own, "-test.run", "^$")
	if err := other.Run(); err != nil {
		t.Fatal(err)
	}
	if alive(other.Process.Pid) {
		t.Error("a process that has ended is alive")
	}
}
