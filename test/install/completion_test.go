package install

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kbkio/kbk/test/need"
)

// completing is a cluster, its backup, a remote and a profile whose names the shells are to
// complete. It returns the environment of a shell that has the commands, the folder to be in,
// in which the backup is called backup, and the lines to type there.
func completing(t *testing.T) (env []string, dir string, lines []line) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders", "payments"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	dir = t.TempDir()
	config := "cluster:\n  bootstrap.servers: " + cluster.ListenAddrs()[0] + "\n" +
		"profiles:\n  nightly:\n    store: " + dir + "/backup\n    topics: [orders, payments]\n    targets:\n      test: {prefix: test.}\n"
	if err := os.WriteFile(filepath.Join(dir, "kbk.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	own, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	env = append(os.Environ(), "PATH="+own+":"+os.Getenv("PATH"), "KBK_BROKERS="+cluster.ListenAddrs()[0], "HOME="+dir,
		"RCLONE_CONFIG="+os.DevNull, "RCLONE_CONFIG_ARCHIVE_TYPE=local", "TERM=dumb", "INPUTRC="+os.DevNull, "HISTFILE=")
	backup := exec.Command("sh", "-c", "kbk-fetch -t orders -t payments | kbk-pack | kbk-push backup")
	backup.Env, backup.Dir = env, dir
	if out, err := backup.CombinedOutput(); err != nil {
		t.Fatalf("a backup: %v\n%s", err, out)
	}
	show := exec.Command(filepath.Join(own, "kbk-catalog"), "show", "--json", "backup")
	show.Env, show.Dir = env, dir
	out, err := show.Output()
	var has struct {
		Points []struct {
			ID   string
			Time int64
		}
	}
	if err == nil {
		err = json.Unmarshal(out, &has)
	}
	if err != nil || len(has.Points) != 1 {
		t.Fatalf("the backup's points: %+v, %v", has, err)
	}
	names := strings.NewReplacer("POINT", has.Points[0].ID, "TIME", time.UnixMilli(has.Points[0].Time).UTC().Format(time.RFC3339Nano))
	for _, l := range typed {
		lines = append(lines, line{l.before, names.Replace(l.after)})
	}
	return env, dir, lines
}

type line struct{ before, after string }

// typed are lines as they are typed, up to the tab, and what a shell makes of them. What is
// behind the tab shows whether a space follows. POINT and TIME are those of the backup.
var typed = []line{
	{"kbk-fetch --isol", "kbk-fetch --isolation +"},
	{"kbk-fetch --isolation=read_u", "kbk-fetch --isolation=read_uncommitted +"},
	{"kbk-fetch -t ord", "kbk-fetch -t orders +"},
	{"kbk-fetch -t orders -t pay", "kbk-fetch -t orders -t payments +"},
	{"kbk-push arch", "kbk-push archive:+"},
	{"kbk-fetch | kbk-push arch", "kbk-fetch | kbk-push archive:+"},
	{"kbk-catalog ver", "kbk-catalog verify +"},
	{"kbk backup night", "kbk backup nightly +"},
	{"kbk-pull backup -t ord", "kbk-pull backup -t orders +"},
	{"kbk-pull --exclude orders backup --topic=pay", "kbk-pull --exclude orders backup --topic=payments +"},
	{"kbk-pull backup --point 2", "kbk-pull backup --point POINT +"},
	{"kbk-pull backup --at 2", "kbk-pull backup --at TIME +"},
	{"kbk-catalog show backup -t ord", "kbk-catalog show backup -t orders +"},
	{"kbk restore nightly -t ord", "kbk restore nightly -t orders +"},
	{"kbk restore nightly --at 2", "kbk restore nightly --at TIME +"},
	{"kbk restore nightly --to te", "kbk restore nightly --to test +"},
	{"kbk-fetch --command-config kbk.y", "kbk-fetch --command-config kbk.yaml +"},
}

// TestCompletionScripts has bash and zsh complete what is typed at a terminal.
func TestCompletionScripts(t *testing.T) {
	env, dir, lines := completing(t)
	for name, args := range map[string]string{
		"bash": "bash --norc --noprofile -i",
		"zsh":  "zsh -f -i",
	} {
		t.Run(name, func(t *testing.T) {
			need.Tools(t, "script", name)
			term := start(t, dir, env, args)
			term.write("PS1='rea''dy> '\n")
			term.wait("ready> ")
			if name == "zsh" {
				term.write("bindkey -e; unsetopt prompt_sp prompt_cr zle_bracketed_paste; autoload -Uz compinit && compinit -u -D; print rea''dy\n")
				term.wait("ready\r\n")
				term.wait("ready> ")
			}
			term.write("source <(kbk completion " + name + ")\n")
			term.wait("ready> ")
			for _, line := range lines {
				// Ctrl-A, Ctrl-E: what has become of the line is a word to print.
				term.write(line.before + "\t+\x01echo '\x05'; echo do''ne\n")
				if got := term.wait("done\r\n"); !strings.Contains(got, "\n"+line.after+"\r\n") {
					t.Errorf("%q: %q, want %q", line.before, got, line.after)
				}
			}
		})
	}
}

// TestCompletionFish asks fish for what it would show.
func TestCompletionFish(t *testing.T) {
	need.Tools(t, "fish")
	env, dir, lines := completing(t)
	for _, line := range lines {
		cmd := exec.Command("fish", "--no-config", "-c", "kbk completion fish | source; complete -C '"+line.before+"'")
		cmd.Env, cmd.Dir = env, dir
		out, err := cmd.CombinedOutput()
		words := strings.Fields(line.after)
		want := strings.Trim(words[len(words)-1], "+")
		if want == "" {
			want = words[len(words)-2]
		}
		got, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\t")
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", line.before, out, err, want)
		}
	}
}

// A terminal is a shell at one.
type terminal struct {
	t    *testing.T
	in   io.Writer
	out  chan string
	seen string
}

func start(t *testing.T, dir string, env []string, command string) *terminal {
	t.Helper()
	cmd := exec.Command("script", "-qec", command, os.DevNull)
	cmd.Dir, cmd.Env = dir, env
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, in: in, out: make(chan string, 1000)}
	go func() {
		defer close(term.out)
		for buf := make([]byte, 4096); ; {
			n, err := out.Read(buf)
			if n > 0 {
				term.out <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_, _ = io.WriteString(in, "\x03exit\n")
		in.Close()
		// Ctrl-C may take along what comes behind it. Without its terminal the shell ends, too.
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		_ = cmd.Wait()
	})
	return term
}

func (term *terminal) write(s string) {
	if _, err := io.WriteString(term.in, s); err != nil {
		term.t.Fatal(err)
	}
}

// wait returns what came until text, which is to come.
func (term *terminal) wait(text string) string {
	term.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		if before, after, ok := strings.Cut(term.seen, text); ok {
			term.seen = after
			return before
		}
		select {
		case s, ok := <-term.out:
			if !ok {
				term.t.Fatalf("the shell has ended: %q", term.seen)
			}
			term.seen += s
		case <-deadline:
			term.t.Fatalf("no %q in %q", text, term.seen)
		}
	}
}
