package install

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestPackageContents wants the packages of a release to have what make deb puts into one,
// which CI installs.
func TestPackageContents(t *testing.T) {
	read := func(name string, into any) {
		t.Helper()
		text, err := os.ReadFile("../../" + name)
		if err == nil {
			err = yaml.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	type content struct{ Src, Dst, Type, Packager string }
	var own struct{ Contents []content }
	read("packaging/nfpm.yaml", &own)
	own.Contents = slices.DeleteFunc(own.Contents, func(c content) bool { // which GoReleaser adds by itself
		return c.Dst == "/usr/bin/kbk" || c.Dst == "/usr/bin/kbk-catalog"
	})
	var release struct {
		Nfpms []struct {
			Contents []content
			Bindir   string
		}
		HomebrewCasks []struct{ Binaries, Manpages []string } `yaml:"homebrew_casks"`
	}
	read(".goreleaser.yaml", &release)
	if len(release.Nfpms) != 1 || release.Nfpms[0].Bindir != "/usr/bin" || len(own.Contents) < 3 || !reflect.DeepEqual(release.Nfpms[0].Contents, own.Contents) {
		t.Errorf("the packages of a release have %+v, and make deb puts in %+v", release.Nfpms, own.Contents)
	}
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
