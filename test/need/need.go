// Package need says what a test needs on the machine beyond Go, Java, Maven, make and a
// shell. Where that is missing the test is skipped, and test/run.sh names it in the end;
// with CI set it fails.
package need

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Mark begins the message of a test that is skipped for want of something.
const Mark = "NOT TESTED: "

// Missing skips the test for want of what is named.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	what := fmt.Sprintf(format, args...)
	if os.Getenv("CI") != "" {
		t.Fatalf("missing: %s", what)
		return
	}
	t.Skip(Mark + what)
}

// Tools skips the test unless all the programs are on the PATH.
func Tools(t testing.TB, names ...string) {
	t.Helper()
	if missing := absent(names); len(missing) > 0 {
		Missing(t, "%s", strings.Join(missing, ", "))
	}
}

func absent(names []string) (missing []string) {
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// Have says whether all are there, for scripts: programs, and python3/MODULE for a module.
// With CI set it says so in any case, and what needs them fails.
func Have(names ...string) bool {
	if os.Getenv("CI") != "" {
		return true
	}
	for _, name := range names {
		if module, ok := strings.CutPrefix(name, "python3/"); ok {
			if exec.Command("python3", "-c", "import "+module).Run() != nil {
				return false
			}
		} else if len(absent([]string{name})) > 0 {
			return false
		}
	}
	return true
}

// packages are the Python packages that tests use, by module.
var packages = map[string]string{"cbor2": "cbor2==6.3.0", "snappy": "python-snappy==0.7.3"}

// Python puts a python3 that has a module first on the PATH of the process, and skips the
// test where there is none. A module that is not installed is, in a venv in the build folder.
func Python(t testing.TB, module string) {
	t.Helper()
	Tools(t, "python3")
	if err := UsePython(t, module); err != nil {
		Missing(t, "python3 with %s: %v", module, err)
	}
}

// UsePython does the same where the test can do without.
func UsePython(t testing.TB, module string) error {
	dir, err := python(module)
	if err == nil && dir != "" {
		t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
	return err
}

// python returns the folder of a python3 with a module, "" for the one on the PATH.
func python(module string) (string, error) {
	has := func(python string) bool { return exec.Command(python, "-c", "import "+module).Run() == nil }
	if has("python3") {
		return "", nil
	}
	root, err := repository()
	if err != nil {
		return "", err
	}
	venv := filepath.Join(root, "bin", "test", "python")
	bin := filepath.Join(venv, "bin")
	if has(filepath.Join(bin, "python3")) {
		return bin, nil
	}
	if err := os.MkdirAll(filepath.Dir(venv), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(venv+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // which unlocks it
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"python3", "-m", "venv", venv},
		{filepath.Join(bin, "python3"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1", packages[module]},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(args[1:], " "), err, firstLine(out))
		}
	}
	return bin, nil
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// repository is the folder of go.mod, that of the running test or above it.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("there is no go.mod in this folder or above it")
		}
		dir = filepath.Dir(dir)
	}
}
