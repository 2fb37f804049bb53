// Package e2e drives the built commands through real pipes, against a real Kafka.
//
// The scripts in testdata are short pipelines with what they must come to; tests
// that kill and interrupt stages in the middle are in Go. One broker, started once,
// serves them all.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	kafkatest "github.com/kbkio/kbk/test/kafka"
	"github.com/kbkio/kbk/test/need"
)

var (
	cluster *kafkatest.Cluster
	bin     string // the folder of the commands
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *slow > 0 {
		if err := slowCopy(); err != nil {
			fmt.Fprintln(os.Stderr, "slow:", err)
			os.Exit(1)
		}
		return
	}
	status, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func testAll(m *testing.M) (status int, err error) {
	if bin = os.Getenv("KBK_BIN"); bin == "" {
		if bin, err = os.MkdirTemp("", "kbk-e2e-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(bin)
		if out, err := exec.Command("make", "-C", "../..", "commands", "BIN="+bin).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build the commands: %w\n%s", err, out)
		}
	}
	if err := os.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH")); err != nil {
		return 0, err
	}
	cluster, err = kafkatest.Start(context.Background(), kafkatest.Options{HeapMB: 512})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cluster.Close(), closeSides()) }()
	return m.Run(), nil
}

func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) < 7 {
		t.Fatalf("only %d scripts: %v", len(scripts), err)
	}
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	samples, err := filepath.Abs("../../pkg/importer/testdata/samples")
	if err != nil {
		t.Fatal(err)
	}
	_ = need.UsePython(t, "cbor2") // a script that needs it looks
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("KAFKA", cluster.Bootstrap())
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("EXAMPLES", examples)
			env.Setenv("SAMPLES", samples)
			for _, name := range []string{"GOCACHE", "GOMODCACHE"} { // a script builds an example
				value, err := exec.Command("go", "env", name).Output()
				if err != nil {
					return fmt.Errorf("go env: %w", err)
				}
				env.Setenv(name, strings.TrimSpace(string(value)))
			}
			env.Setenv("GORACE", os.Getenv("GORACE")) // make test-race says there where races are reported
			env.Setenv("PATH", env.WorkDir+string(os.PathListSeparator)+env.Getenv("PATH"))
			return consumerGroups(env.WorkDir)
		},
		Condition: func(cond string) (bool, error) {
			tools, ok := strings.CutPrefix(cond, "need:")
			if !ok {
				return false, fmt.Errorf("condition %s?", cond)
			}
			return need.Have(strings.Split(tools, ",")...), nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"seed":   cmdSeed,
			"equal":  cmdEqual,
			"same":   cmdSame,
			"frames": cmdFrames,
			"config": cmdConfig,
			"cursor": cmdCursor,
			"delete": cmdDelete,
			"status": cmdStatus,
			"fails":  cmdFails,
			"unzstd": cmdUnzstd,
			"damage": cmdDamage,
			"topic":  cmdTopic,
			"exact":  cmdExact,
			"bounds": cmdBounds,
			"header": cmdHeader,
			"json":   cmdJSON,

			"commit":    cmdCommit,
			"committed": cmdCommitted,
			"active":    cmdActive,
			"stamp":     cmdStamp,
			"unread":    cmdUnread,
		},
	})
}

// cmdStatus runs a shell line and wants an exit status: status N 'line'. Its output
// is left for stdout and stderr.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 2, "status N 'shell line'")
	err := ts.Exec("bash", "-c", args[1])
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	want, err := strconv.Atoi(args[0])
	check(ts, err)
	if got != want {
		ts.Fatalf("exit status %d, not %d", got, want)
	}
}

// failure is all that a command may print when it fails before it has done anything.
var failure = regexp.MustCompile(`^(kbk-[a-z]+): error: [^\n]+\n(kbk-[a-z]+: hint: [^\n]+\n)?$`)

// cmdFails is status for a command that fails at once: nothing on standard output,
// one line of error on standard error, and perhaps one with a hint.
func cmdFails(ts *testscript.TestScript, neg bool, args []string) {
	cmdStatus(ts, neg, args)
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("%d bytes on standard output", len(out))
	}
	if said := ts.ReadFile("stderr"); !failure.MatchString(said) {
		ts.Fatalf("standard error is not one line and perhaps a hint")
	}
}

// check ends a script on an error.
func check(ts *testscript.TestScript, err error) {
	if err != nil {
		ts.Fatalf("%v", err)
	}
}

// only wants n arguments, and no !.
func only(ts *testscript.TestScript, neg bool, args []string, n int, usage string) {
	if neg || len(args) != n {
		ts.Fatalf("usage: %s", usage)
	}
}

func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 2, "damage flip|cut|remove GLOB")
	files, err := filepath.Glob(ts.MkAbs(args[1]))
	check(ts, err)
	if len(files) == 0 {
		ts.Fatalf("no file is like %s", args[1])
	}
	b, err := os.ReadFile(files[0])
	check(ts, err)
	switch args[0] {
	case "flip":
		b[len(b)/2] ^= 1
		check(ts, os.WriteFile(files[0], b, 0o644))
	case "cut":
		check(ts, os.WriteFile(files[0], b[:len(b)-1], 0o644))
	case "remove":
		check(ts, os.Remove(files[0]))
	default:
		ts.Fatalf("damage %s?", strings.Join(args, " "))
	}
}
