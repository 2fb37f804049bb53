//go:build unix

package cluster

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
)

var acls = flag.Int("acls", 500, "how many ACLs TestMany makes")

// TestMany makes many ACLs, and prints how long each command takes, and how much memory.
func TestMany(t *testing.T) {
	w := newWorld(t)
	w.snapshot(target, "before.kbk")
	var stream bytes.Buffer
	out := format.NewWriter(&stream)
	must(t, out.WriteHeader(&format.Header{Content: format.ContentRecords}))
	must(t, out.Write(&format.Cluster{ID: "many", Time: 1, ClusterInfo: format.ClusterInfo{Kinds: []string{format.ClusterACLs}}}))
	for i := range *acls {
		must(t, out.Write(&format.ACL{ResourceType: "TOPIC", ResourceName: fmt.Sprint("topic-", i/2), PatternType: "LITERAL", Principal: fmt.Sprint("User:app-", i%100),
			Host: "*", Operation: []string{"READ", "WRITE"}[i%2], Permission: "ALLOW"}))
	}
	must(t, out.Close(new(format.End)))
	w.write("many.kbk", stream.String())
	timed := func(in string, status int, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "kbk-cluster"), append(args, "-b", target.Bootstrap())...)
		cmd.Dir = w.dir
		if in != "" {
			f, err := os.Open(w.path(in))
			must(t, err)
			defer f.Close()
			cmd.Stdin = f
		}
		var printed, log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &printed, &log
		began := time.Now()
		_ = cmd.Run()
		if cmd.ProcessState.ExitCode() != status {
			t.Fatalf("%q: %v\n%s", args, cmd.ProcessState, &log)
		}
		usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		memory := usage.Maxrss
		if runtime.GOOS == "linux" {
			memory /= 1024
		}
		t.Logf("%-10s %6.2f s, %5.2f CPU s, %d MiB", args[0], time.Since(began).Seconds(), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), memory)
		return printed.String() + log.String()
	}
	w.wants(timed("many.kbk", 0, "plan", "--only", "acls"), fmt.Sprintf("%d to add", *acls))
	timed("many.kbk", 0, "apply", "--only", "acls", "--save", "saved.kbk", "-q")
	all := timed("", 0, "snapshot", "--only", "acls")
	if n := strings.Count(all, "User:app-"); n != *acls {
		t.Errorf("%d ACLs in the snapshot", n)
	}
	if text := timed("many.kbk", 0, "plan", "--only", "acls"); !strings.Contains(text, "0 to add") && !strings.Contains(text, "no differences") {
		t.Errorf("after apply: %s", text)
	}
	timed("many.kbk", 0, "script", "--only", "acls")
	timed("", 0, "rollback", "saved.kbk")
	w.equal(target, "before.kbk")
}
