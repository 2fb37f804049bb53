package pipeline

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var words = []string{
	"", "plain", "a b", "it's", `"double"`, "$HOME", "`date`", "^orders.*", "*", "~", "~/x", "a\nb", "\\", "\\'", "a;b", "a|b", "#", "a&b", "größer", "-", "=x", "!", "{a,b}", "\t",
}

// TestQuote lets sh read the words again.
func TestQuote(t *testing.T) {
	line := "printf '%s\\000'"
	for _, w := range words {
		line += " " + Quote(w)
	}
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSuffix(string(out), "\x00"); got != strings.Join(words, "\x00") {
		t.Errorf("sh reads %q of %s", got, line)
	}
}

// TestScript runs what is printed.
func TestScript(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "it's here")
	steps := []Step{
		{Stages: []Stage{{"printf", []string{"%s\\n", "b", "a $x"}}, {"sort", nil}}, Out: file},
		{Stages: []Stage{{"cat", []string{file}}}},
		{Stages: []Stage{{"echo", []string{"gone"}}}, Out: Nowhere},
	}
	text := Script(steps, func(name string) string { return name })
	want := "printf '%s\\n' b 'a $x' |\n    sort > '" + strings.ReplaceAll(file, "'", `'\''`) + "' &&\ncat '" + strings.ReplaceAll(file, "'", `'\''`) + "' &&\necho gone > /dev/null\n"
	if text != want {
		t.Errorf("got %s", text)
	}
	out, err := exec.Command("sh", "-c", text).CombinedOutput()
	if err != nil || string(out) != "a $x\nb\n" {
		t.Errorf("%v, %q", err, out)
	}
}

// TestCalled has a command by its name only where PATH leads to the same one.
func TestCalled(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kbk-x"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Find("kbk-x"); err == nil || !strings.Contains(err.Error(), "kbk-x is neither beside this command nor in PATH") {
		t.Errorf("what is nowhere: %v", err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	if got := Called("kbk-x"); got != "kbk-x" {
		t.Errorf("called %q", got)
	}
}
