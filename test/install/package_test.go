package install

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile("../../" + name)
	if err == nil {
		err = yaml.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// TestEveryCommand wants each command where a release lists them by name.
func TestEveryCommand(t *testing.T) {
	var release struct {
		HomebrewCasks []struct{ Binaries, Manpages []string } `yaml:"homebrew_casks"`
	}
	readYAML(t, ".goreleaser.yaml", &release)
	if len(release.HomebrewCasks) != 1 {
		t.Fatalf("%d casks", len(release.HomebrewCasks))
	}
	cask := release.HomebrewCasks[0]
	windows, err := os.ReadFile("../../packaging/windows/links.cmd")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range commands {
		if !regexp.MustCompile(`[( ]` + name + `[ ).]`).Match(windows) {
			t.Errorf("Windows gets no %s", name)
		}
		if !slices.Contains(cask.Binaries, name) || !slices.Contains(cask.Manpages, "man/man1/"+name+".1") {
			t.Errorf("Homebrew gets no %s, or no page of it", name)
		}
	}
}

// TestReleaseEnvironment wants a release to need nothing of the environment but what every
// shell has: GoReleaser ends at a variable that is not set, after half an hour.
func TestReleaseEnvironment(t *testing.T) {
	text, err := os.ReadFile("../../.goreleaser.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`\.Env\.(\w+)`).FindAllSubmatch(text, -1) {
		if name := string(m[1]); name != "HOME" {
			t.Errorf(".goreleaser.yaml needs %s in the environment: use envOrDefault", name)
		}
	}
}

// TestReleaseFlags wants the programs of a release to be built as make builds them: what is
// tested is what is released, and as small.
func TestReleaseFlags(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var release struct {
		Builds []struct{ Flags, Tags, Ldflags []string }
	}
	readYAML(t, ".goreleaser.yaml", &release)
	if len(release.Builds) != 2 {
		t.Fatalf("%d programs", len(release.Builds))
	}
	for _, b := range release.Builds {
		flags := strings.Join(b.Flags, " ") + " -tags=$(TAGS)"
		linker, _, _ := strings.Cut(strings.Join(b.Ldflags, " "), " -X ")
		for _, line := range []string{
			"export TAGS := " + strings.Join(b.Tags, ","),
			"export GOFLAGS := $(strip $(GOFLAGS) " + flags + ")",
			"LDFLAGS := " + linker + " -X ",
		} {
			if !strings.Contains(string(makefile), "\n"+line) {
				t.Errorf("a release is built with other flags than make uses: the Makefile has no %q", line)
			}
		}
	}
}
