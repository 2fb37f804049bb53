package command

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

// version and commit are set by whoever links the commands: the Makefile, or a release.
var version, commit string

func init() {
	cli.VersionPrinter = func(c *cli.Context) {
		fmt.Fprintf(c.App.Writer, "%s version %s\n", c.App.Name, FullVersion())
	}
}

// Version is the version of kbk that this program was built from.
func Version() string {
	info, _ := debug.ReadBuildInfo()
	v, _ := builtFrom(version, commit, info)
	return v
}

// FullVersion is what --version says: the version, and the commit where it is known.
func FullVersion() string {
	info, _ := debug.ReadBuildInfo()
	return fullVersion(version, commit, info)
}

func fullVersion(version, commit string, info *debug.BuildInfo) string {
	v, c := builtFrom(version, commit, info)
	if c == "" {
		return v
	}
	return fmt.Sprintf("%s (commit %s)", v, c)
}

// builtFrom is the version and the commit as they were set when the program was linked, or
// else as Go has noted them: go install notes the version alone, a build in a checkout both.
func builtFrom(version, commit string, info *debug.BuildInfo) (v, c string) {
	v, c = version, commit
	if info == nil {
		info = new(debug.BuildInfo)
	}
	if v == "" {
		v = strings.Trim(info.Main.Version, "()")
	}
	if v == "" {
		v = "devel"
	}
	if c != "" {
		return v, c
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			c = s.Value[:min(len(s.Value), 12)] + c
		case s.Key == "vcs.modified" && s.Value == "true":
			c += " and changes"
		}
	}
	return v, c
}
