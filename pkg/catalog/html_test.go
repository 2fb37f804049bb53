package catalog

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
	"github.com/kbkio/kbk/test/need"
)

// timelines is the page of a backup with a hole, a loss, restore points, and names that
// would be markup.
func timelines(t *testing.T) []byte {
	t.Helper()
	var s commitlog.State
	run := commitlog.NewRun()
	const day = 24 * 3600 * 1000
	start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	seg := func(topic string, p int32, from, next int64) commitlog.Segment {
		seg := commitlog.Segment{Topic: topic, TopicID: "id", Partition: p, Content: commitlog.Content{
			From: from, Next: next, First: from, Last: next - 1, Records: next - from, MinTimestamp: start + from*day/100, MaxTimestamp: start + next*day/100,
			Form: &commitlog.Form{Codec: "zstd"}, RawSize: 4000, Size: 1000, SHA256: commitlog.HashOf(fmt.Append(nil, topic, p, from)),
		}}
		var err error
		seg.Path, err = commitlog.SegmentPath(&seg)
		ok(t, err)
		return seg
	}
	e := &commitlog.Entry{
		Source: commitlog.Source{ClusterID: "<script>alert(1)</script>"},
		Groups: []commitlog.Group{{ID: `"><img src=x onerror=alert(1)>`, Offsets: map[string]map[int32]commitlog.GroupOffset{"orders": {0: {Offset: 1}}}}},
		Points: []commitlog.Point{{Time: start + 5*day}, {Time: start + 10*day}},
	}
	for p := range int32(6) {
		for at := int64(0); at < 1000; at += 100 {
			if p == 1 && at >= 300 && at < 500 || p == 2 && at < 200 {
				continue
			}
			e.Segments = append(e.Segments, seg("orders", p, at, at+100))
		}
	}
	e.Segments = append(e.Segments, seg("audit", 0, 400, 420))
	e.Marks = []commitlog.Mark{{Topic: "orders", TopicID: "id", Partition: 2, From: 0, Next: 200, Lost: [][2]int64{{0, 200}}}, {Topic: "empty", Partition: 0}}
	run.Stamp(e, time.UnixMilli(start+10*day))
	ok(t, s.Add(e, ""))
	dir := t.TempDir()
	r, err := report(open(t, dir), &s, everything(t))
	ok(t, err)
	r.Backup = "s3:bucket/<b>nightly</b>"
	var out bytes.Buffer
	ok(t, render(&out, &s, r))
	return out.Bytes()
}

// TestPage reads the page as a browser does: nothing in it is fetched or run, what
// came from outside is text, and what is missing can be seen.
func TestPage(t *testing.T) {
	raw := timelines(t)
	doc, err := html.Parse(bytes.NewReader(raw))
	ok(t, err)
	classes := make(map[string]int)
	var titles []string
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script", "img", "link", "iframe", "b":
			t.Errorf("the page has a %s", n.Data)
		case "title":
			titles = append(titles, n.FirstChild.Data)
		}
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || (a.Key == "src" || a.Key == "href") && !strings.HasPrefix(a.Val, "#") {
				t.Errorf("%s has %s=%q", n.Data, a.Key, a.Val)
			}
			if a.Key == "class" {
				classes[a.Val]++
			}
		}
	}
	for class, want := range map[string]int{"held": 8, "hole": 1, "lost": 1, "point": 6} {
		if classes[class] != want {
			t.Errorf("%d of class %s, want %d", classes[class], class, want)
		}
	}
	all := strings.Join(titles, "\n")
	for _, want := range []string{"hole: no word of offsets 300 to 499", "lost: offsets 0 to 199", "restore point ", "s3:bucket/<b>nightly</b> – kbk"} {
		if !strings.Contains(all, want) {
			t.Errorf("no title says %q", want)
		}
	}
}

// TestPageInBrowser has the page drawn by a real browser, and looks at the colours.
func TestPageInBrowser(t *testing.T) {
	const browser = "chromium"
	need.Tools(t, browser)
	dir := t.TempDir()
	file, shot := filepath.Join(dir, "page.html"), filepath.Join(dir, "page.png")
	if keep := os.Getenv("KBK_SCREENSHOT"); keep != "" {
		shot = keep
	}
	ok(t, os.WriteFile(file, timelines(t), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--blink-settings=preferredColorScheme=1", "--window-size=1200,1000",
		"--screenshot="+shot, (&url.URL{Scheme: "file", Path: file}).String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(shot)
	ok(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	ok(t, err)
	seen := make(map[[3]uint32]int)
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			r, g, b, _ := img.At(x, y).RGBA()
			seen[[3]uint32{r >> 8, g >> 8, b >> 8}]++
		}
	}
	for what, c := range map[string]struct {
		rgb   [3]uint32
		least int // pixels
	}{"held": {[3]uint32{0x9d, 0xbf, 0xe8}, 20_000}, "hole": {[3]uint32{0xe0, 0x8a, 0}, 1000}, "lost": {[3]uint32{0xc8, 0x32, 0x2b}, 1000}, "point": {[3]uint32{0x14, 0x71, 0x3a}, 100}} {
		if n := seen[c.rgb]; n < c.least {
			t.Errorf("%d pixels of %s, want %d", n, what, c.least)
		}
	}
}

// TestHTMLToDevice writes the page to what is no file: it must stay what it is, and a
// failed write must show.
func TestHTMLToDevice(t *testing.T) {
	dir := backup(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip(err)
	}
	got := make(chan string, 1)
	go func() {
		page, err := os.ReadFile(pipe)
		got <- fmt.Sprint(strings.Contains(string(page), "</html>"), err)
	}()
	ok(t, HTML(t.Context(), open(t, dir), store.LogOptions{}, everything(t), pipe, env()))
	if s := <-got; s != "true <nil>" {
		t.Errorf("a page came out of the pipe: %s", s)
	}
	if info, err := os.Stat(pipe); err != nil || info.Mode().IsRegular() {
		t.Errorf("the pipe is %v, %v", info.Mode(), err)
	}
}
