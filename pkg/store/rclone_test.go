package store

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/pkg/commitlog"
)

const childVar = "KBK_STORE_TEST_REMOTE"

// TestChild is the program that TestStartUp runs. What package initialisers do can
// only be seen in a process of its own.
func TestChild(t *testing.T) {
	remote := os.Getenv(childVar)
	if remote == "" {
		return // not as a test: TestStartUp runs it
	}
	fmt.Printf("arguments: %q\n", flag.Args())
	s, err := Open(context.Background(), remote)
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	defer s.Close()
	if _, err := checkpoint(s, commitlog.NewRun()); err != nil {
		fmt.Println("error:", err)
	}
}

// TestStartUp checks that rclone is a library: no folder in HOME, nothing on standard
// error, no exit, and the user's settings hold.
func TestStartUp(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "rclone.conf")
	if err := os.WriteFile(conf, []byte("[nas]\ntype = alias\nremote = "+filepath.Join(dir, "nas")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	locked := filepath.Join(dir, "locked.conf")
	if err := os.WriteFile(locked, []byte("RCLONE_ENCRYPT_V0:\n"+strings.Repeat("QUJD", 60)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		remote string
		args   []string
		env    []string
		want   string // in what Open says; nothing when it succeeds
		file   string // where the log must be then
	}{
		{name: "plain", remote: filepath.Join(dir, "plain"), file: "plain"},
		// Flags that kbk's commands and rclone both have.
		{name: "flags", remote: filepath.Join(dir, "flags"), file: "flags", args: []string{"-vv", "--config=/nonexistent", "--log-level", "DEBUG"}},
		{name: "config", remote: "nas:b", env: []string{"RCLONE_CONFIG=" + conf}, file: "nas/b"},
		{name: "config of none", remote: "nas:b", want: "no remote of this name"},
		{name: "remote from the environment", remote: "env:c", file: "env/c",
			env: []string{"RCLONE_CONFIG_ENV_TYPE=alias", "RCLONE_CONFIG_ENV_REMOTE=" + filepath.Join(dir, "env")}},
		{name: "locked config", remote: "nas:b", env: []string{"RCLONE_CONFIG=" + locked}, want: "locked.conf"},
		{name: "bad variable", remote: filepath.Join(dir, "bad"), env: []string{"RCLONE_TRANSFERS=many"}, want: "many"},
		{name: "debug", remote: filepath.Join(dir, "debug"), env: []string{"RCLONE_LOG_LEVEL=DEBUG"}, file: "debug"},
	} {
		t.Run(test.name, func(t *testing.T) {
			home := t.TempDir()
			cmd := exec.Command(os.Args[0], append([]string{"-test.run=^TestChild$", "--"}, test.args...)...)
			cmd.Env = append(os.Environ(), childVar+"="+test.remote, "HOME="+home, "XDG_CONFIG_HOME=", "RCLONE_CONFIG=")
			if !slices.ContainsFunc(test.env, func(v string) bool { return strings.HasPrefix(v, "RCLONE_CONFIG=") }) {
				cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "RCLONE_CONFIG=") })
			}
			cmd.Env = append(cmd.Env, test.env...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err != nil {
				t.Errorf("%v\n%s%s", err, stdout.String(), stderr.String())
			}
			if stderr.Len() > 0 {
				t.Errorf("rclone wrote: %s", stderr.String())
			}
			out := stdout.String()
			if want := fmt.Sprintf("arguments: %q\n", test.args); !strings.HasPrefix(out, want) {
				t.Errorf("got %q, want %q", out, want)
			}
			if failed := strings.Contains(out, "error:"); failed != (test.want != "") || !strings.Contains(out, test.want) {
				t.Errorf("got %q, want an error with %q", out, test.want)
			}
			if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
				t.Errorf("%v left in HOME, %v", left, err)
			}
			if test.file != "" {
				if entries, err := filepath.Glob(filepath.Join(dir, test.file, "log", "*.json")); len(entries) != 1 {
					t.Errorf("%d log entries in %s, %v", len(entries), test.file, err)
				}
			}
		})
	}
}
