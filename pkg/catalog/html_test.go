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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
	"github.com/kbkio/kbk/test/need"
)

// A fakeBackup makes the log of a backup without its objects.
type fakeBackup struct {
	t      *testing.T
	state  commitlog.State
	run    *commitlog.Run
	moment *commitlog.Moment
	points []*commitlog.Moment
	start  int64 // milliseconds since the epoch
}

const day = 24 * 3600 * 1000

func newFakeBackup(t *testing.T) *fakeBackup {
	return &fakeBackup{t: t, run: commitlog.NewRun(), moment: new(commitlog.Moment), start: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).UnixMilli()}
}

// at is a time, in days since the start.
func (b *fakeBackup) at(days float64) int64 { return b.start + int64(days*day) }

// segment has offsets [from, next) of a partition, a hundred a day.
func (b *fakeBackup) segment(topic string, p int32, from, next int64) commitlog.Segment {
	seg := commitlog.Segment{Topic: topic, TopicID: "id", Partition: p, Content: commitlog.Content{
		From: from, Next: next, First: from, Last: next - 1, Records: next - from, MinTimestamp: b.start + from*day/100, MaxTimestamp: b.start + next*day/100,
		Form: &commitlog.Form{Codec: "zstd"}, RawSize: 4000, Size: 1000, SHA256: commitlog.HashOf(fmt.Append(nil, topic, p, from)),
	}}
	var err error
	seg.Path, err = commitlog.SegmentPath(&seg)
	ok(b.t, err)
	return seg
}

// add folds an entry that was written on a day.
func (b *fakeBackup) add(days float64, e commitlog.Entry) {
	b.t.Helper()
	b.run.Stamp(&e, time.UnixMilli(b.at(days)))
	ok(b.t, b.state.Add(&e, "0000000000000000000000000000000000000000000000000000000000000000"))
	b.run.Advance("0000000000000000000000000000000000000000000000000000000000000000")
	b.moment.Add(&e)
	b.points = append(b.points, b.moment.AtPoints()...)
}

// page is the page of the backup, as it is on a day.
func (b *fakeBackup) page(name string, days float64) []byte {
	b.t.Helper()
	m := everything(b.t)
	r, err := report(open(b.t, b.t.TempDir()), &b.state, m)
	ok(b.t, err)
	r.Backup = name
	now := time.UnixMilli(b.at(days))
	points := newPoints(now)
	for i, at := range b.points {
		r.at(at, i, m, points)
	}
	r.newestPoints(points)
	var out bytes.Buffer
	ok(b.t, newPage(&b.state, r, points, m, now).write(&out))
	return out.Bytes()
}

// timelines is the page of a backup with a hole, a loss, restore points, a topic without new
// records, and names that would be markup.
func timelines(t *testing.T) []byte {
	t.Helper()
	b := newFakeBackup(t)
	b.add(0.1, commitlog.Entry{Marks: []commitlog.Mark{
		{Topic: "empty", TopicID: "id", Partition: 0},
		{Topic: "quiet", TopicID: "id", Partition: 0, Next: 0},
	}, Segments: []commitlog.Segment{b.segment("quiet", 0, 0, 100)}})
	for from := int64(0); from < 1000; from += 500 {
		e := commitlog.Entry{
			Source: commitlog.Source{ClusterID: "<script>alert(1)</script>"},
			Groups: []commitlog.Group{{ID: `"><img src=x onerror=alert(1)>`, Offsets: map[string]map[int32]commitlog.GroupOffset{"orders": {0: {Offset: 1}}}}},
			Points: []commitlog.Point{{Time: b.at(float64(from+500) / 100)}},
			Marks:  []commitlog.Mark{{Topic: "quiet", TopicID: "id", Partition: 0, From: 100, Next: 100}},
		}
		for p := range int32(6) {
			for at := from; at < from+500; at += 100 {
				if p == 1 && at >= 300 && at < 500 || p == 2 && at < 200 {
					continue
				}
				e.Segments = append(e.Segments, b.segment("orders", p, at, at+100))
			}
		}
		if from == 0 {
			e.Marks = append(e.Marks, commitlog.Mark{Topic: "orders", TopicID: "id", Partition: 2, From: 0, Next: 200, Lost: [][2]int64{{0, 200}}})
		}
		b.add(float64(from+500)/100+0.02, e)
	}
	return b.page("s3:bucket/<b>nightly</b>", 10.3)
}

// A drawn page is its elements as a browser has them.
type drawn struct {
	titles []string
	boxes  map[string][]box // of rectangles and lines, by class, in the order of the page
	text   string
}

type box struct{ x, width, y float64 }

// read reads a page: nothing in it may be fetched or run.
func read(t *testing.T, raw []byte) (d drawn) {
	t.Helper()
	doc, err := html.Parse(bytes.NewReader(raw))
	ok(t, err)
	d.boxes = make(map[string][]box)
	var text strings.Builder
	for n := range doc.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "style" && n.Parent.Data != "title" {
			text.WriteString(n.Data + " ")
		}
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script", "img", "link", "iframe":
			t.Errorf("the page has a %s", n.Data)
		case "title":
			d.titles = append(d.titles, n.FirstChild.Data)
		}
		attrs := make(map[string]string)
		for _, a := range n.Attr {
			attrs[a.Key] = a.Val
			if strings.HasPrefix(a.Key, "on") || (a.Key == "src" || a.Key == "href") && !strings.HasPrefix(a.Val, "#") {
				t.Errorf("%s has %s=%q", n.Data, a.Key, a.Val)
			}
		}
		number := func(key string) float64 { f, _ := strconv.ParseFloat(attrs[key], 64); return f }
		switch n.Data {
		case "rect":
			d.boxes[attrs["class"]] = append(d.boxes[attrs["class"]], box{number("x"), number("width"), number("y")})
		case "line":
			d.boxes[attrs["class"]] = append(d.boxes[attrs["class"]], box{x: number("x1")})
		}
	}
	d.text = strings.Join(strings.Fields(text.String()), " ")
	return d
}

// TestPage reads the page: what came from outside is text, what is missing can be seen, and so
// can what is covered although nothing came in.
func TestPage(t *testing.T) {
	d := read(t, timelines(t))
	for class, want := range map[string]int{"held": 1 + 7, "covered": 1 + 1 + 6, "hole": 1, "lost": 1, "point": 3 * 2, "now": 3, "track": 1 + 1 + 6} {
		if got := len(d.boxes[class]); got != want {
			t.Errorf("%d of class %s, want %d", got, class, want)
		}
	}
	all := strings.Join(d.titles, "\n")
	for _, want := range []string{"hole, not backed up: offsets 300 to 499", "lost: offsets 0 to 199", "restore point ", "s3:bucket/<b>nightly</b> – kbk"} {
		if !strings.Contains(all, want) {
			t.Errorf("no title says %q", want)
		}
	}
	for _, want := range []string{
		"damaged 2 problems; newest restore point is 7 h old damaged orders: 200 offsets not backed up loss orders: 200 offsets are lost",
		"newest restore point 7 h old", "topics 3", "partitions 8", "<script>alert(1)</script>",
		"The newest restore point, 2026-11-11T00:00:00Z, covers 3 of 3 topics and 8 of their partitions",
		"2026-11-11T00:00:00Z now: 7 h later",
	} {
		if !strings.Contains(d.text, want) {
			t.Errorf("the page does not say %q:\n%s", want, d.text)
		}
	}
	// The topics are in order: quiet is the last. Its records are of the first day of ten.
	held, covered := d.boxes["held"], d.boxes["covered"]
	if len(held) == 0 || len(covered) == 0 {
		t.FailNow()
	}
	records, quiet := held[len(held)-1], covered[len(covered)-1]
	if records.width < 80 || records.width > 82 || quiet.x != plotLeft || quiet.width != plotWidth {
		t.Errorf("quiet has records from %v on, %v wide, and is covered from %v on, %v wide", records.x, records.width, quiet.x, quiet.width)
	}
}

// TestPageNotCovered has a partition of which the newest restore point does not speak, by
// itself and among others in one line.
func TestPageNotCovered(t *testing.T) {
	for _, n := range []int32{2, 3 * maxRows} {
		b := newFakeBackup(t)
		for d := range 2 {
			e := commitlog.Entry{Points: []commitlog.Point{{Time: b.at(float64(5 + 5*d))}}}
			if d == 1 {
				e.Points[0].Without = map[string][]int32{"orders": {1}}
			}
			for p := range n {
				e.Segments = append(e.Segments, b.segment("orders", p, int64(500*d), int64(500*d+500)))
			}
			b.add(float64(5+5*d)+0.1, e)
		}
		page := read(t, b.page("b", 10.3))
		covered := page.boxes["covered"]
		first := min(int(n)/maxRows, 1) // the line that partition 1 is in: alone, the second
		late := covered[1-first]
		if late.width > plotWidth*0.51 || covered[first].width != plotWidth && first == 0 || covered[len(covered)-1].width != plotWidth && n > 2 {
			t.Errorf("%d partitions: covered %v", n, covered)
		}
		if want := "stale orders: newest restore point that includes all of it is 5 d old"; !strings.Contains(page.text, want) {
			t.Errorf("the page does not say %q: %s", want, page.text)
		}
	}
}

// TestPageSize bounds the page of a large backup, also where everything is missing in many
// places.
func TestPageSize(t *testing.T) {
	for _, c := range []struct {
		topics     int
		partitions int32
		gaps       int64
	}{{1, 2000, 0}, {2000, 1, 0}, {20, 100, 0}, {100, 20, 20}, {2, 10, 2000}} {
		b := newFakeBackup(t)
		for d := range 30 {
			e := commitlog.Entry{Points: []commitlog.Point{{Time: b.at(float64(d + 1))}}}
			for i := range c.topics {
				for p := range c.partitions {
					topic := fmt.Sprintf("a-topic-with-a-name-of-some-length-%04d", i)
					switch {
					case d == 0:
						e.Segments = append(e.Segments, b.segment(topic, p, 0, 100))
					case d == 29:
						for g := range c.gaps {
							e.Segments = append(e.Segments, b.segment(topic, p, 110+20*g, 120+20*g))
						}
					}
				}
			}
			b.add(float64(d+1)+0.1, e)
		}
		raw := b.page("b", 31)
		page := read(t, raw)
		bars := len(page.boxes["held"]) + len(page.boxes["covered"]) + len(page.boxes["hole"])
		if rows := len(page.boxes["track"]); len(raw) > 600_000 || rows > maxRows*maxTimelines || bars > maxBars+5*rows {
			t.Errorf("%d topics, %d partitions: %d bytes, %d lines, %d bars", c.topics, c.partitions, len(raw), rows, bars)
		}
		if c.topics > maxTimelines && !strings.Contains(page.text, "topics have no timeline here") {
			t.Errorf("%d topics: the page does not say that some are left out", c.topics)
		}
		if c.topics > maxListed && !strings.Contains(page.text, "and 1,500 more topics") {
			t.Errorf("%d topics: the page does not say that some are not listed", c.topics)
		}
		if c.partitions > maxRows && !strings.Contains(page.text, "in a line") {
			t.Errorf("%d partitions: the page does not say that they share lines", c.partitions)
		}
	}
}

// shot is a picture of a page, as a real browser draws it in a colour scheme.
func shot(t *testing.T, page []byte, scheme string, height int) map[[3]uint32]int {
	t.Helper()
	const browser = "chromium"
	need.Tools(t, browser)
	dir := t.TempDir()
	file, picture := filepath.Join(dir, "page.html"), filepath.Join(dir, "page.png")
	if keep := os.Getenv("KBK_SCREENSHOT"); keep != "" { // a folder
		picture = filepath.Join(keep, strings.ReplaceAll(t.Name(), "/", "-")+".png")
	}
	ok(t, os.WriteFile(file, page, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--blink-settings=preferredColorScheme="+map[string]string{"dark": "0", "light": "1"}[scheme],
		fmt.Sprintf("--window-size=1200,%d", height), "--screenshot="+picture, (&url.URL{Scheme: "file", Path: file}).String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(picture)
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
	return seen
}

// TestPageInBrowser has the page drawn by a real browser in both schemes, and looks at the
// colours.
func TestPageInBrowser(t *testing.T) {
	page := timelines(t)
	for scheme, colours := range map[string]map[string]struct {
		rgb   [3]uint32
		least int // pixels
	}{
		"light": {"paper": {[3]uint32{0xff, 0xff, 0xff}, 500_000}, "covered": {[3]uint32{0xc9, 0xdc, 0xf5}, 8000}, "held": {[3]uint32{0x7a, 0xa7, 0xdf}, 20_000},
			"hole": {[3]uint32{0xe0, 0x8a, 0}, 1000}, "lost": {[3]uint32{0xc8, 0x32, 0x2b}, 1000}, "point": {[3]uint32{0x14, 0x71, 0x3a}, 100}},
		"dark": {"paper": {[3]uint32{0x14, 0x17, 0x1d}, 500_000}, "covered": {[3]uint32{0x2a, 0x41, 0x63}, 8000}, "held": {[3]uint32{0x4a, 0x7f, 0xc0}, 20_000},
			"hole": {[3]uint32{0xf0, 0xa9, 0x3a}, 1000}, "lost": {[3]uint32{0xef, 0x6a, 0x62}, 1000}, "point": {[3]uint32{0x7f, 0xe3, 0xa0}, 100}},
	} {
		t.Run(scheme, func(t *testing.T) {
			seen := shot(t, page, scheme, 1100)
			for what, c := range colours {
				if n := seen[c.rgb]; n < c.least {
					t.Errorf("%d pixels of %s, want %d", n, what, c.least)
				}
			}
		})
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
