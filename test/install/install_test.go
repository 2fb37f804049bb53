// Package install looks at what make build makes and make install installs.
package install

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// maxSize is how many bytes all commands together may take. It is 120 MB on every system. Those
// of macOS on amd64 are the largest, 3.4 MB larger than those of Linux on amd64, which tests see.
func maxSize() int64 {
	if runtime.GOOS == "linux" && runtime.GOARCH == "amd64" {
		return 116e6
	}
	return 120e6
}

var (
	bin      string   // what make build has made
	commands []string // their names
	storage  = map[string]bool{"kbk-catalog": true, "kbk-import": true, "kbk-pull": true, "kbk-push": true}
)

func TestMain(m *testing.M) {
	status, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(status)
}

func testAll(m *testing.M) (status int, err error) {
	dirs, err := filepath.Glob("../../cmd/*")
	if err != nil || len(dirs) < 10 {
		return 0, fmt.Errorf("commands: %q, %w", dirs, err)
	}
	for _, dir := range dirs {
		commands = append(commands, filepath.Base(dir))
	}
	if bin = os.Getenv("KBK_BIN"); bin == "" {
		if bin, err = os.MkdirTemp("", "kbk-install-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(bin)
		if out, err := makeIn("build", "BIN="+bin).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("make build: %w\n%s", err, out)
		}
	}
	return m.Run(), nil
}

func makeIn(args ...string) *exec.Cmd {
	return exec.Command("make", append([]string{"-s", "-C", "../.."}, args...)...)
}

// size adds up files; what is linked counts once.
func size(t *testing.T, dir string) (total int64) {
	t.Helper()
	var seen []os.FileInfo
	for _, name := range commands {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		known := false
		for _, s := range seen {
			known = known || os.SameFile(s, info)
		}
		if !known {
			seen = append(seen, info)
			total += info.Size()
		}
	}
	return total
}

// TestInstall installs where there is no compiler.
func TestInstall(t *testing.T) {
	tools := t.TempDir()
	for _, tool := range []string{"make", "sh", "install", "ln"} {
		path, err := exec.LookPath(tool)
		if err == nil {
			err = os.Symlink(path, filepath.Join(tools, tool))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	cmd := makeIn("install", "BIN="+bin, "DESTDIR="+root, "PREFIX=/opt/kbk")
	cmd.Env = append(os.Environ(), "PATH="+tools)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	installed := filepath.Join(root, "opt/kbk")
	if n := size(t, filepath.Join(installed, "bin")); n > maxSize() {
		t.Errorf("the commands are %d bytes, over %d", n, maxSize())
	} else {
		t.Logf("the commands are %.1f MB", float64(n)/1e6)
	}
	for _, name := range commands {
		out, err := exec.Command(filepath.Join(installed, "bin", name), "--version").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), name+" version ") || !strings.Contains(string(out), " (commit ") {
			t.Errorf("%s --version: %q, %v", name, out, err)
		}
		page, err := os.ReadFile(filepath.Join(installed, "share/man/man1", name+".1"))
		if err != nil || len(page) < 1000 {
			t.Errorf("the page of %s: %d bytes, %v", name, len(page), err)
		}
		for file, want := range map[string]string{
			"bash-completion/completions/" + name:         "complete -F _kbk kbk",
			"fish/vendor_completions.d/" + name + ".fish": "complete -c $command",
			"zsh/site-functions/_kbk":                     "#compdef kbk",
		} {
			// Each script names the commands that it is for.
			text, err := os.ReadFile(filepath.Join(installed, "share", file))
			if err != nil || !strings.Contains(string(text), want) || !strings.Contains(string(text), " "+name) {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	// kbk finds the others beside itself, also where PATH has none of them.
	config := filepath.Join(t.TempDir(), "kbk.yaml")
	for _, args := range [][]string{{"init", "-b", "localhost:9092", "--store", "/backup", "-t", "^"}, {"backup", "nightly", "--print"}} {
		cmd = exec.Command(filepath.Join(installed, "bin/kbk"), append(args, "--config", config)...)
		cmd.Env = append(os.Environ(), "PATH="+tools)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		for _, name := range []string{"kbk-fetch", "kbk-pack", "kbk-push"} {
			if args[0] == "backup" && !strings.Contains(string(out), filepath.Join(installed, "bin", name)) {
				t.Errorf("kbk does not find %s beside itself:\n%s", name, out)
			}
		}
	}
}

// TestInstallUnbuilt wants nothing to be built, or installed by halves, as root.
func TestInstallUnbuilt(t *testing.T) {
	root := t.TempDir()
	out, err := makeIn("install", "BIN="+t.TempDir(), "DESTDIR="+root).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "run make build first, without sudo") {
		t.Errorf("make install without a build: %v\n%s", err, out)
	}
	if files, err := os.ReadDir(root); err != nil || len(files) > 0 {
		t.Errorf("make install without a build left %v, %v", files, err)
	}
}

func TestUnknownName(t *testing.T) {
	for _, program := range []string{"kbk", "kbk-catalog"} {
		link := filepath.Join(t.TempDir(), "kbk-nonsense")
		if err := os.Symlink(filepath.Join(bin, program), link); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(link, "--version").CombinedOutput()
		if err == nil || err.(*exec.ExitError).ExitCode() != 2 || !strings.HasPrefix(string(out), `kbk-nonsense: error: this program was started as "kbk-nonsense"`) {
			t.Errorf("%s: %v\n%s", program, err, out)
		}
	}
}

// TestStatic wants programs that run wherever the kernel does.
func TestStatic(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has static programs")
	}
	for _, name := range commands {
		f, err := elf.Open(filepath.Join(bin, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s needs a dynamic linker", name)
			}
		}
	}
}

// TestStart measures how long a command without storage takes to start. On a busy machine
// one start of many shows it.
func TestStart(t *testing.T) {
	const want = 20 * time.Millisecond
	for _, name := range commands {
		if storage[name] {
			continue
		}
		best := time.Hour
		for i := 0; i < 100 && best > want; i++ {
			began := time.Now()
			if err := exec.Command(filepath.Join(bin, name), "--version").Run(); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(began))
		}
		if best > want {
			t.Errorf("%s takes %v to start, over %v", name, best, want)
		}
	}
}
