package command

import (
	"runtime/debug"
	"testing"
)

func TestFullVersion(t *testing.T) {
	info := func(version string, settings ...string) *debug.BuildInfo {
		i := &debug.BuildInfo{Main: debug.Module{Version: version}}
		for k := 0; k < len(settings); k += 2 {
			i.Settings = append(i.Settings, debug.BuildSetting{Key: settings[k], Value: settings[k+1]})
		}
		return i
	}
	const revision = "0123456789abcdef0123456789abcdef01234567"
	for _, test := range []struct {
		version, commit string
		info            *debug.BuildInfo
		want            string
	}{
		{"v0.2.0", "0123456789ab", info("v0.1.0", "vcs.revision", "fedcba"), "v0.2.0 (commit 0123456789ab)"}, // a release
		{"", "", info("v0.2.0"), "v0.2.0"}, // go install …@v0.2.0
		{"", "", info("v0.2.0", "vcs.revision", revision, "vcs.modified", "false"), "v0.2.0 (commit 0123456789ab)"}, // go build in a checkout
		{"", "", info("(devel)", "vcs.revision", revision, "vcs.modified", "true"), "devel (commit 0123456789ab and changes)"},
		{"v0.2.0", "", info("(devel)"), "v0.2.0"}, // from a tarball
		{"", "", info(""), "devel"},
		{"", "", nil, "devel"},
	} {
		if got := fullVersion(test.version, test.commit, test.info); got != test.want {
			t.Errorf("%q %q: %q, want %q", test.version, test.commit, got, test.want)
		}
	}
}
