package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kbkio/kbk/examples/sample"
	"github.com/kbkio/kbk/test/docs/markdown"
	"github.com/kbkio/kbk/test/need"
)

// TestDocuments runs the blocks of shell in the documents: those of a page one after the
// other, as somebody would who types them, and wants them to print what the page says. A block
// that cannot be run here says why ("norun"); test/docs checks its flags.
//
// What a page calls localhost:9092 is an embedded broker with the topics and the group of make kafka, and
// test:9092 is an empty one: the pages are about the commands, and the other tests of this
// package about Kafka. Folders of the machine are below the test's own, and so is s3:, which
// is a remote that leads to a folder.
func TestDocuments(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../../README.md", "../../docs/*.md", "../../docs/how-to/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, files...)
	}
	ran := 0
	for _, page := range pages {
		all, err := markdown.Blocks(page)
		if err != nil {
			t.Fatal(err)
		}
		var blocks []markdown.Block // those that are run, and what they print
		for _, b := range all {
			if b.Lang == "sh" && b.NoRun == "" || b.Lang == "output" {
				blocks = append(blocks, b)
			}
		}
		if len(blocks) == 0 {
			continue
		}
		ran += len(blocks)
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			runPage(t, blocks)
		})
	}
	if ran < 40 {
		t.Errorf("only %d blocks are run: have they lost their language?", ran)
	}
}

func runPage(t *testing.T, blocks []markdown.Block) {
	need.Tools(t, "jq", "age", "ssh-keygen")
	source, target := startBroker(t), startBroker(t)
	if err := sample.Fill(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, sub := range []string{"s3", "nas", "etc", "backups", "home"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	here := strings.NewReplacer("localhost:9092", source, "test:9092", target, "/etc/kbk", dir+"/etc", "/var/backups", dir+"/backups")
	script := "set -euo pipefail\n"
	last := -1
	for i, b := range blocks {
		if b.Lang == "output" {
			continue
		}
		last = i
		script += fmt.Sprintf("echo %d > %s/block\n{ status=0\n", i, dir)
		if b.Status == 0 {
			script += here.Replace(b.Text)
		} else {
			script += fmt.Sprintf("(set -e\n%s) || status=$?\n[ $status = %d ]\n", here.Replace(b.Text), b.Status)
		}
		script += fmt.Sprintf("} > %s/printed.%d 2>&1\n", dir, i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = filepath.Join(dir, "home")
	cmd.Env = append(os.Environ(), "HOME="+cmd.Dir, "TMPDIR="+dir, "RCLONE_CONFIG="+dir+"/rclone.conf",
		"RCLONE_CONFIG_S3_TYPE=alias", "RCLONE_CONFIG_S3_REMOTE="+dir+"/s3", "RCLONE_CONFIG_NAS_TYPE=alias", "RCLONE_CONFIG_NAS_REMOTE="+dir+"/nas")
	cmd.WaitDelay = 5 * time.Second
	started := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("%.1f s", time.Since(started).Seconds())
	printed := func(i int) string {
		raw, _ := os.ReadFile(fmt.Sprintf("%s/printed.%d", dir, i))
		return string(raw)
	}
	if err != nil {
		raw, _ := os.ReadFile(dir + "/block")
		i := last
		_, _ = fmt.Sscan(string(raw), &i)
		t.Fatalf("%s: %v\n%s\nprinted:\n%s%s", blocks[i].Where(), err, blocks[i].Text, printed(i), out)
	}
	for i, b := range blocks {
		if b.Lang == "sh" {
			last = i
			continue
		}
		if missing := unprinted(here.Replace(b.Text), printed(last)); missing != "" {
			t.Errorf("%s: the block before prints no line such as\n%s\nit prints:\n%s", b.Where(), missing, printed(last))
		}
	}
}

// unprinted is the first line of what a page says is printed that is not. Numbers may be
// others, … stands for anything, and a line may be left out. The stages of a pipe write at the
// same time, so their lines may come in another order.
func unprinted(said, printed string) string {
	rest := strings.Split(printed, "\n")
next:
	for _, line := range strings.Split(strings.TrimSpace(said), "\n") {
		if strings.TrimSpace(line) == "…" {
			continue
		}
		pattern := regexp.QuoteMeta(strings.TrimSpace(line))
		pattern = regexp.MustCompile(`\bin=[^)]*\)`).ReplaceAllLiteralString(pattern, `in=[^)]*\)`) // 229ms on one machine is 2.035s on another
		pattern = regexp.MustCompile(`[0-9]+`).ReplaceAllLiteralString(pattern, "[0-9]+")
		pattern = regexp.MustCompile(`\s+`).ReplaceAllLiteralString(pattern, `\s+`)
		like := regexp.MustCompile(`^\s*` + strings.ReplaceAll(pattern, "…", ".*") + `\s*$`)
		for i, l := range rest {
			if like.MatchString(l) {
				rest = slices.Delete(rest, i, i+1)
				continue next
			}
		}
		return line
	}
	return ""
}

func startBroker(t *testing.T) string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}
