package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestConfig checks where the values of flags come from, and in which order.
func TestConfig(t *testing.T) {
	name := filepath.Join(t.TempDir(), "kbk.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := ""
	do := func(args ...string) error {
		got = ""
		app := App(Spec{
			Name: "kbk-fetch",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "size"}, &cli.IntFlag{Name: "n", Value: 1}, &cli.StringSliceFlag{Name: "topic"}, &cli.BoolFlag{Name: "follow"},
			},
			Action: func(_ context.Context, c *cli.Context, _ *Env) error {
				cluster, err := Section(c, ClusterSection)
				got = fmt.Sprintf("%s%d %v %v %s", c.String("size"), c.Int("n"), c.StringSlice("topic"), c.Bool("follow"), cluster["sasl.password"])
				return err
			},
		})
		return app.RunContext(t.Context(), append([]string{"kbk-fetch"}, args...))
	}
	want := func(want string, args ...string) {
		t.Helper()
		if err := do(args...); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", args, got, err, want)
		}
	}
	write("cluster:\n  sasl.password: 0123\nfetch:\n  size: 1MB\n  n: 7\n  topic: [a, 'b,c']\n  follow: true\npack: {}\n")
	want("1 [] false ")
	want("1MB7 [a b,c] true 0123", "--config", name)
	want("2MB7 [d] true 0123", "--config", name, "--size", "2MB", "--topic", "d")
	t.Setenv("KBK_CONFIG", name)
	t.Setenv("KBK_FETCH_N", "8")
	want("1MB8 [a b,c] true 0123")
	want("1MB9 [a b,c] false 0123", "--n", "9", "--follow=false")
	t.Setenv("KBK_FETCH_N", "many")
	if err := do(); StatusOf(err) != Usage || !strings.HasPrefix(err.Error(), "KBK_FETCH_N: ") {
		t.Errorf("a bad value of the environment: %v", err)
	}
	os.Unsetenv("KBK_FETCH_N")
	for text, wants := range map[string]string{
		"fetch:\n  sise: 1\n":      `fetch: "sise" is not known; did you mean "size"?`,
		"fetsch:\n  size: 1\n":     `section "fetsch" is not known; did you mean "fetch"?`,
		"fetch:\n  size: {a: 1}\n": "line 2: neither a value nor a list of values",
		"fetch: [":                 "line 1: did not find expected node content",
		"fetch:\n  n: x\n":         "fetch: n: ",
		"fetch:\n  zzzzzzzzz: 1\n": `fetch: "zzzzzzzzz" is not known`,
		"clusters:\n  dr: x\n":     "line 2: neither a section nor a name with a value",
		"profile: {}\n":            `section "profile" is not known; did you mean "profiles"?`,
		"fetch:\n  n: 1\n  n: 2\n": "already defined",
	} {
		write(text)
		if err := do(); StatusOf(err) != Usage || !strings.Contains(fmt.Sprint(err), wants) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
	// What only the command kbk reads is nothing to the others.
	write("profiles:\n  nightly: {topics: [a], keep: {daily: 7}}\nclusters:\n  dr: {bootstrap.servers: 'dr:9092'}\n")
	want("1 [] false ")
	// No word of a mistake is printed that may be a password.
	for _, text := range []string{
		"cluster: sasl.password hunter2\n", "cluster:\n  sasl.password: *hunter2\n", "cluster:\n  sasl.password: \"hunter2\n", "hunter2\n", "- hunter2\n",
		"cluster:\n  sasl.password: !hunter2 x: y\n", "cluster:\n  - sasl.password: hunter2\n", "cluster:\n  sasl.password: 'hunter2' x\n", "cluster:\n\tsasl.password: hunter2\n",
		"cluster:\n  sasl.password: {hunter2: 1}\n", "cluster:\n  sasl.password: [[hunter2]]\n", "cluster:\n  sasl.password: &hunter2\n  sasl.username: *hunter3\n",
	} {
		write(text)
		if err := do(); StatusOf(err) != Usage || strings.Contains(fmt.Sprint(err), "hunter") {
			t.Errorf("%q: %v", text, err)
		}
	}
	t.Setenv("KBK_CONFIG", name+".missing")
	if err := do(); StatusOf(err) != Usage || !strings.Contains(fmt.Sprint(err), "kbk.yaml.missing: no such file") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestConfigOfSeveral checks that the commands of one program share a section.
// TestConfigOfCluster wants the command kbk-cluster to leave the section of the cluster alone,
// whose name would be its own.
func TestConfigOfCluster(t *testing.T) {
	name := filepath.Join(t.TempDir(), "kbk.yaml")
	if err := os.WriteFile(name, []byte("cluster:\n  bootstrap.servers: b:9092\nkbk-cluster:\n  save: there\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := ""
	spec := Spec{Name: "kbk-cluster", Flags: []cli.Flag{&cli.StringFlag{Name: "save"}}, Action: func(_ context.Context, c *cli.Context, _ *Env) error {
		section, err := Section(c, ClusterSection)
		got = c.String("save") + " " + section["bootstrap.servers"]
		return err
	}}
	if err := App(spec).RunContext(t.Context(), []string{"kbk-cluster", "--config", name}); err != nil || got != "there b:9092" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestConfigOfSeveral(t *testing.T) {
	name := filepath.Join(t.TempDir(), "kbk.yaml")
	got := ""
	do := func(text string) error {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		one := Spec{Name: "one", Flags: []cli.Flag{&cli.StringFlag{Name: "size"}}, Action: func(_ context.Context, c *cli.Context, _ *Env) error {
			got = c.String("size")
			return nil
		}}
		two := Spec{Name: "two", Flags: []cli.Flag{&cli.IntFlag{Name: "n"}}, Action: one.Action}
		return App(Spec{Name: "kbk-offsets", Commands: []Spec{one, two}}).RunContext(t.Context(), []string{"kbk-offsets", "one", "--config", name})
	}
	if err := do("offsets:\n  size: 1MB\n  n: 7\n"); err != nil || got != "1MB" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := do("offsets:\n  sise: 1MB\n"); StatusOf(err) != Usage || !strings.Contains(err.Error(), `did you mean "size"?`) {
		t.Errorf("a flag of no command: %v", err)
	}
}
