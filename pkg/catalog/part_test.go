package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/push"
)

func TestParsePart(t *testing.T) {
	for text, want := range map[string]Part{
		"2/7": {group: 2, groups: 7}, "1/1": {group: 1, groups: 1}, "5%@3": {share: 5, seed: 3}, "0.5%@18446744073709551615": {share: 0.5, seed: 1<<64 - 1},
		"100%@0": {share: 100}, "10GiB@7": {size: 10 << 30, seed: 7}, "1000@7": {size: 1000, seed: 7},
	} {
		got, err := ParsePart(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if again, err := ParsePart(got.String()); err != nil || again != got {
			t.Errorf("%s is %s, and that is %+v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "0/7", "8/7", "1/0", "/", "1/2/3", "-1/2", "0%", "101%", "NaN%", "%", "5%@", "5%@x", "-5%", "0B", "10QiB", "2/7@1", "all"} {
		if got, err := ParsePart(text); err == nil || command.StatusOf(err) != command.Usage {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	a, _ := ParsePart("5%")
	if b, _ := ParsePart("5%"); a == b {
		t.Errorf("two samples with the same seed, %d", a.seed)
	}
}

// many are segments of some sizes.
func many(n int) (all []commitlog.Segment) {
	for i := range n {
		all = append(all, commitlog.Segment{Path: fmt.Sprintf("topics/t/partition=0/segment-%d", i), Content: commitlog.Content{Size: int64(1 + i%100)}})
	}
	return all
}

// TestPartCoverage wants the groups to hold every segment once, about as many each, and
// those that are there to stay in their groups when others come.
func TestPartCoverage(t *testing.T) {
	all := many(7000)
	first := make(map[string]uint64)
	for _, n := range []int{3000, 7000} {
		held := make(map[string]uint64)
		for group := uint64(1); group <= 7; group++ {
			in, before := (Part{group: group, groups: 7}).choose(slices.Values(all[:n])), len(held)
			for _, seg := range all[:n] {
				if !in(seg.Path) {
					continue
				}
				if held[seg.Path] != 0 {
					t.Fatalf("%s is in groups %d and %d", seg.Path, held[seg.Path], group)
				}
				if was := first[seg.Path]; was != 0 && was != group {
					t.Fatalf("%s was in group %d and is in %d", seg.Path, was, group)
				}
				held[seg.Path] = group
			}
			if got := len(held) - before; got < n/7*8/10 || got > n/7*12/10 {
				t.Errorf("%d of %d segments are in group %d of 7", got, n, group)
			}
		}
		if len(held) != n {
			t.Errorf("%d of %d segments are in a group", len(held), n)
		}
		first = held
	}
}

func TestPartSamples(t *testing.T) {
	all := many(1000)
	of := func(p Part, segments []commitlog.Segment) (names []string, size int64) {
		in := p.choose(slices.Values(segments))
		for _, seg := range segments {
			if in(seg.Path) {
				names, size = append(names, seg.Path), size+seg.Size
			}
		}
		return names, size
	}
	for share, want := range map[float64]int{5: 50, 100: 1000, 0.01: 1, 0.11: 2} {
		a, _ := of(Part{share: share, seed: 1}, all)
		b, _ := of(Part{share: share, seed: 1}, all)
		c, _ := of(Part{share: share, seed: 2}, all)
		if len(a) != want || !slices.Equal(a, b) || len(c) != want || share < 100 && slices.Equal(a, c) {
			t.Errorf("%v%%: %d, again %d, with another seed %d", share, len(a), len(b), len(c))
		}
	}
	for size, most := range map[int64]int64{1: 100, 5000: 5099, 1 << 40: 50_500} { // 50,500 is all
		if _, got := of(Part{size: size, seed: 3}, all); got < min(size, 50_500) || got > most {
			t.Errorf("a sample of %d bytes has %d", size, got)
		}
	}
	if names, _ := of(Part{share: 5}, nil); names != nil {
		t.Errorf("of nothing: %q", names)
	}
}

// TestVerifyParts alters a segment and looks for it part by part.
func TestVerifyParts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	for from := int64(0); from < 100; from += 10 {
		ok(t, store1(t, push.Config{Remote: dir}, from, from+10))
	}
	verify := func(part string) (v Verdict, said string) {
		t.Helper()
		p, err := ParsePart(part)
		ok(t, err)
		var out strings.Builder
		var lines strings.Builder
		e := &command.Env{Name: "test", Log: slog.New(slog.NewTextHandler(&lines, nil))}
		err = Verify(t.Context(), open(t, dir), VerifyConfig{Deep: true, Part: p, Transfers: 2, Memory: 1 << 20, JSON: true}, e, &out)
		all := strings.Split(strings.TrimSpace(out.String()), "\n")
		ok(t, json.Unmarshal([]byte(all[len(all)-1]), &v))
		if v.Part != p.String() || v.Segments != 10 || (v.Problems == 0) != (err == nil) {
			t.Errorf("%s: %+v, %v", part, v, err)
		}
		return v, lines.String()
	}
	read := int64(0)
	for i := range 3 {
		v, said := verify(fmt.Sprintf("%d/3", i+1))
		read += v.Read
		if want := fmt.Sprintf("read part %d of 3: %d of 10 segments", i+1, v.Read); !strings.Contains(said, want) || v.Read > 0 && v.ReadSize == 0 {
			t.Errorf("said %q without %q", said, want)
		}
	}
	if read != 10 {
		t.Errorf("3 parts of 3: %d of 10 segments read", read)
	}
	if v, said := verify("20%@5"); v.Read != 2 || !strings.Contains(said, "read a random sample (--deep=20%@5 reads the same again): 2 of 10 segments") {
		t.Errorf("%+v, %q", v, said)
	}
	flip(t, found(t, dir, "topics/t/*/*")[4])
	bad := 0
	for i := range 3 {
		v, _ := verify(fmt.Sprintf("%d/3", i+1))
		bad += v.Problems
	}
	if bad != 1 {
		t.Errorf("3 parts of 3: %d problems for one altered segment", bad)
	}
	if v, _ := verify("1PiB"); v.Problems != 1 || v.Read != 10 {
		t.Errorf("a sample larger than the backup: %+v", v)
	}
}

// TestDeepFlag gives --deep on the command line, alone and with a part, and by a
// configuration file.
func TestDeepFlag(t *testing.T) {
	config := filepath.Join(t.TempDir(), "kbk.yaml")
	for _, c := range []struct {
		args   []string
		config string
		want   string // on, the part, and the remote
		status int
	}{
		{[]string{"b"}, "", " b", command.OK},
		{[]string{"--deep", "b"}, "", "on  b", command.OK},
		{[]string{"--deep=true", "b"}, "", "on  b", command.OK},
		{[]string{"--deep=false", "b"}, "deep: true", " b", command.OK},
		{[]string{"--deep=2/7", "b"}, "", "on 2/7 b", command.OK},
		{[]string{"--deep=5%@9", "--json", "b"}, "", "on 5%@9 b", command.OK},
		{[]string{"--deep=10GiB@9", "b"}, "deep: true", "on 10737418240@9 b", command.OK},
		{[]string{"b"}, "deep: true", "on  b", command.OK},
		{[]string{"b"}, "deep: 3/4", "on 3/4 b", command.OK},
		{[]string{"--deep=9/7", "b"}, "", "", command.Usage},
		{[]string{"--deep", "2/7", "b"}, "", "", command.Usage}, // 2/7 is the remote then
		{[]string{"b"}, "deep: all", "", command.Usage},
	} {
		ok(t, os.WriteFile(config, []byte("catalog:\n  "+c.config+"\n"), 0o600))
		got := ""
		app := command.App(command.Spec{Name: "kbk-catalog", Args: "REMOTE", MaxArgs: 1, Flags: []cli.Flag{newDeepFlag(), jsonFlag()},
			Action: func(_ context.Context, c *cli.Context, _ *command.Env) error {
				on, part, err := deepFrom(c)
				if on {
					got = "on "
				}
				got += part.String() + " " + c.Args().First()
				return err
			}})
		app.Writer = io.Discard
		args := []string{"kbk-catalog"}
		if c.config != "" {
			args = append(args, "--config", config)
		}
		if err := app.RunContext(t.Context(), append(args, c.args...)); command.StatusOf(err) != c.status || err == nil && got != c.want {
			t.Errorf("%q, %q: %q, %v; want %q", c.args, c.config, got, err, c.want)
		}
	}
	app := App()
	if err := app.RunContext(t.Context(), []string{"kbk-catalog", "verify", "--deep=9/7", "b"}); err == nil || err.Error() != `--deep: "9/7" is not a part such as 2/7, 5% or 10GiB` {
		t.Errorf("got %v", err)
	}
	var help strings.Builder
	app = App()
	app.Writer = &help
	ok(t, app.RunContext(t.Context(), []string{"kbk-catalog", "verify", "--help"}))
	if !strings.Contains(help.String(), "--deep[=PART]  ") {
		t.Errorf("the help is\n%s", &help)
	}
}
