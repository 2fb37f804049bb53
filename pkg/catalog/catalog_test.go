package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/store"
)

func env() *command.Env { return &command.Env{Name: "test", Log: slog.New(slog.DiscardHandler)} }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run backs up offsets [from, next) of t/0 and t/1, whose timestamps are ten times their
// offsets, with a group and a point at the end. The partitions began at start then.
func run(t *testing.T, dir string, start, from, next int64) {
	t.Helper()
	var records, segments bytes.Buffer
	w := format.NewWriter(&records)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentRecords, Source: &format.Source{Cluster: "c"}}))
	ok(t, w.Write(&format.Topic{Name: "t", ID: "id", Partitions: 2}))
	for p := range int32(2) {
		info := format.MarkInfo{LogStart: &start}
		ok(t, w.Write(&format.Mark{Topic: "t", Partition: p, Next: from, MarkInfo: info}))
		for o := from; o < next; o++ {
			ok(t, w.WriteRecord(&format.Record{Topic: "t", Partition: p, Offset: o, Timestamp: o * 10, Key: []byte{0xff}, Value: fmt.Append(nil, "value ", o)}))
		}
		ok(t, w.Write(&format.Mark{Topic: "t", Partition: p, Next: next, MarkInfo: info}))
	}
	ok(t, w.Write(&format.Group{ID: "g", Offsets: map[string]map[int32]format.GroupOffset{"t": {0: {Offset: next}}}}))
	ok(t, w.Write(&format.Point{Time: next * 10}))
	ok(t, w.Close(new(format.End)))
	ok(t, pack.Pack(t.Context(), pack.Config{SegmentSize: 1 << 20, Memory: 64 << 20, Level: 1, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd")}, env(), &records, &segments))
	ok(t, push.Run(t.Context(), push.Config{Remote: dir, Transfers: 2, Checkpoint: time.Hour, CheckpointSegments: 1, MaxFrame: 1 << 20}, env(), &segments, io.Discard))
}

// backup has three runs of ten offsets; the log in Kafka began at 0, at 0, and at 15.
func backup(t *testing.T) (dir string) {
	dir = filepath.Join(t.TempDir(), "b")
	run(t, dir, 0, 0, 10)
	run(t, dir, 0, 10, 20)
	run(t, dir, 15, 20, 30)
	return dir
}

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), dir)
	ok(t, err)
	t.Cleanup(func() { ok(t, st.Close()) })
	return st
}

// pulled is the stream of a pull, but for when it was made.
func pulled(t *testing.T, cfg pull.Config) []byte {
	t.Helper()
	cfg.Transfers, cfg.Memory = 1, 1<<20
	var out bytes.Buffer
	ok(t, pull.Run(t.Context(), cfg, env(), &out))
	r := format.NewReader(&out, 1<<20)
	if _, err := r.Header(); err != nil {
		t.Fatal(err)
	}
	var frames []byte
	for {
		f, err := r.Next()
		if err == io.EOF {
			return frames
		}
		ok(t, err)
		frames = append(frames, f.Raw...)
	}
}

func problems(t *testing.T, dir string, cfg VerifyConfig) []string {
	t.Helper()
	cfg.Transfers, cfg.Memory = 2, 1<<20
	var out bytes.Buffer
	err := Verify(t.Context(), open(t, dir), cfg, env(), &out)
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	verdict := lines[len(lines)-1]
	lines = lines[:len(lines)-1]
	want := command.OK
	lines = slices.DeleteFunc(lines, func(line string) bool { // which is no problem, but a loss
		lost := strings.HasPrefix(line, "lost: ")
		if lost {
			want = command.Loss
		}
		return lost
	})
	if len(lines) > 0 {
		want = command.Corrupt
	} else {
		lines = nil
	}
	if command.StatusOf(err) != want {
		t.Errorf("status %d with %d problems: %v", command.StatusOf(err), len(lines), err)
	}
	if word := map[int]string{command.OK: "good", command.Loss: "loss", command.Corrupt: "damaged"}[want]; !strings.HasPrefix(verdict, word+": ") {
		t.Errorf("%d problems, and the verdict is %q", len(lines), verdict)
	}
	return lines
}

func everything(t *testing.T) *partitions.Matcher {
	m, err := partitions.Selection{}.Compile()
	ok(t, err)
	return m
}

// noOne is a list of signers that nobody here is on.
var noOne = func() sign.Signers {
	s, err := sign.ReadSigners(strings.NewReader("x ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5mbWcbHxwNDRUZ1yQwBLhzLyYM0dDYvHSYWMBs4iVr\n"))
	if err != nil {
		panic(err)
	}
	return s
}()

func at(ms int64) *time.Time { t := time.UnixMilli(ms); return &t }

// TestCompact wants every answer to be the same before and after, and between two runs.
func TestCompact(t *testing.T) {
	dir := backup(t)
	ask := func() []string {
		st := open(t, dir)
		var cur, show bytes.Buffer
		ok(t, Cursor(t.Context(), st, store.LogOptions{}, false, env(), &cur))
		ok(t, Show(t.Context(), st, store.LogOptions{}, everything(t), true, true, env(), &show))
		out := []string{cur.String(), show.String(), string(pulled(t, pull.Config{Remote: dir}))}
		for _, ms := range []int64{100, 200, 300} {
			out = append(out, string(pulled(t, pull.Config{Remote: dir, At: at(ms)})))
		}
		return out
	}
	compact := func() {
		t.Helper()
		ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	}
	want := ask()
	for i := range 2 { // the second has nothing to do
		compact()
		if got := ask(); !slices.Equal(got, want) {
			t.Fatalf("after %d: got\n%q\nwant\n%q", i+1, got, want)
		}
		files, err := filepath.Glob(filepath.Join(dir, "log", "*"))
		if ok(t, err); len(files) != 1 || !strings.HasSuffix(files[0], ".snapshot.json") {
			t.Errorf("in the log: %q", files)
		}
		if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
			t.Error(p)
		}
	}
	run(t, dir, 15, 30, 40)
	want = ask()
	if got := string(pulled(t, pull.Config{Remote: dir, At: at(400)})); got == want[3] {
		t.Error("the new point is an old one")
	}
	compact()
	if got := ask(); !slices.Equal(got, want) {
		t.Error("what came after a snapshot is lost in the next one")
	}
}

// TestCompactInTheMiddle compacts while a run has not come to its point yet.
func TestCompactInTheMiddle(t *testing.T) {
	dir := backup(t)
	want := pulled(t, pull.Config{Remote: dir, At: at(300)})
	entries, err := filepath.Glob(filepath.Join(dir, "log", "*.json"))
	ok(t, err)
	// The last run's final entry is hidden for the time being, so that the run goes on, and so is
	// the manifest that was written behind it.
	last := entries[len(entries)-1]
	data, err := os.ReadFile(last)
	ok(t, err)
	ok(t, os.Remove(last))
	ok(t, os.Remove(filepath.Join(dir, "manifest.json")))
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	if got := pulled(t, pull.Config{Remote: dir, At: at(300)}); bytes.Equal(got, want) {
		t.Error("a point was read that had not been written")
	}
	ok(t, os.WriteFile(last, data, 0o600))
	if got := pulled(t, pull.Config{Remote: dir, At: at(300)}); !bytes.Equal(got, want) {
		t.Error("the point forgets what its run had stored before the snapshot")
	}
	if p := problems(t, dir, VerifyConfig{}); p != nil {
		t.Error(p)
	}
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	if left, _ := filepath.Glob(filepath.Join(dir, "log", "*")); len(left) != 1 {
		t.Errorf("in the log: %q", left)
	}
	if got := pulled(t, pull.Config{Remote: dir, At: at(300)}); !bytes.Equal(got, want) {
		t.Error("the point is another after the second snapshot")
	}
}

// TestCrash cuts a compaction and a prune short after each file that it deletes, and
// before: whatever is left gives the same.
func TestCrash(t *testing.T) {
	dir := backup(t)
	want := pulled(t, pull.Config{Remote: dir, At: at(300)})
	before := tree(t, dir)
	ok(t, Compact(t.Context(), open(t, dir), Signing{}, env()))
	after := tree(t, dir)
	var deleted []string
	for name := range before {
		if _, left := after[name]; !left {
			deleted = append(deleted, name)
		}
	}
	slices.Sort(deleted)
	if len(deleted) < 3 {
		t.Fatalf("only %d files were deleted", len(deleted))
	}
	for n := range deleted {
		half := filepath.Join(t.TempDir(), "half")
		for name, data := range before {
			after[name] = data
		}
		for _, name := range deleted[:n] {
			delete(after, name)
		}
		for name, data := range after {
			ok(t, os.MkdirAll(filepath.Dir(filepath.Join(half, name)), 0o700))
			ok(t, os.WriteFile(filepath.Join(half, name), data, 0o600))
		}
		if got := pulled(t, pull.Config{Remote: half, At: at(300)}); !bytes.Equal(got, want) {
			t.Errorf("after %d of %d: another stream", n, len(deleted))
		}
		if p := problems(t, half, VerifyConfig{}); p != nil {
			t.Errorf("after %d: %q", n, p)
		}
	}
}

func tree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	ok(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[name] = data
		return err
	}))
	return files
}

func TestPrune(t *testing.T) {
	dir := backup(t)
	third := pulled(t, pull.Config{Remote: dir, At: at(300), From: 15})
	prune := func(keep commitlog.Policy, really bool) string {
		t.Helper()
		var out bytes.Buffer
		ok(t, Prune(t.Context(), open(t, dir), PruneConfig{Retention: commitlog.Retention{Policy: keep}, Really: really}, env(), &out))
		return out.String()
	}
	objects := func() int {
		files, err := filepath.Glob(filepath.Join(dir, "topics/t/*/*"))
		ok(t, err)
		return len(files)
	}
	if out := prune(commitlog.Policy{Last: 3}, true); !strings.Contains(out, "t      6         6 ") || objects() != 6 {
		t.Errorf("pruned, and there was nothing to: %s", out)
	}
	before := tree(t, dir)
	if out := prune(commitlog.Policy{Last: 1}, false); !strings.Contains(out, "t      6         4 ") || !strings.Contains(out, "1970-01-01T00:00:00Z") || !strings.Contains(out, "RESTORE POINT THAT GOES") {
		t.Errorf("got\n%s", out)
	}
	if after := tree(t, dir); len(after) != len(before) {
		t.Error("a dry run changed the backup")
	}
	prune(commitlog.Policy{Last: 1}, true)
	if n := objects(); n != 4 { // offsets 10 to 14 of the point's own segments are older than its log began
		t.Errorf("%d objects are left, want 4", n)
	}
	if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
		t.Error(p)
	}
	if got := pulled(t, pull.Config{Remote: dir, At: at(300), From: 15}); !bytes.Equal(got, third) {
		t.Error("the restore point that was kept is another")
	}
	var out bytes.Buffer
	err := pull.Run(t.Context(), pull.Config{Remote: dir, At: at(100), Transfers: 1, Memory: 1 << 20}, env(), &out)
	if err == nil || !strings.Contains(err.Error(), "no restore point") {
		t.Errorf("got %v", err)
	}
	// What was pruned is not covered: the first line again stores it once more.
	run(t, dir, 15, 0, 30)
	if n := objects(); n <= 4 {
		t.Errorf("%d objects after another run: what was pruned counts as covered", n)
	}
}

func TestVerify(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string, files []string)
		cfg    VerifyConfig
		want   []string // in each problem
	}{
		"sound":      {func(*testing.T, string, []string) {}, VerifyConfig{Deep: true}, nil},
		"missing":    {func(t *testing.T, _ string, f []string) { ok(t, os.Remove(f[0])); ok(t, os.Remove(f[3])) }, VerifyConfig{}, []string{"missing: topics/t/partition=0/", "missing: topics/t/partition=1/"}},
		"short":      {func(t *testing.T, _ string, f []string) { ok(t, os.Truncate(f[1], 9)) }, VerifyConfig{}, []string{"size: topics/t/partition=0/"}},
		"short deep": {func(t *testing.T, _ string, f []string) { ok(t, os.Truncate(f[1], 9)) }, VerifyConfig{Deep: true}, []string{"size: topics/t/partition=0/"}},
		"altered":    {func(t *testing.T, _ string, f []string) { flip(t, f[2]) }, VerifyConfig{}, nil},
		"altered deep": {func(t *testing.T, _ string, f []string) { flip(t, f[2]); flip(t, f[5]) }, VerifyConfig{Deep: true},
			[]string{"content: topics/t/partition=0/", "content: topics/t/partition=1/"}},
		"entry missing": {func(t *testing.T, dir string, _ []string) {
			entries, _ := filepath.Glob(filepath.Join(dir, "log/*-000001.json"))
			ok(t, os.Remove(entries[1]))
		}, VerifyConfig{}, []string{"log: log/2", "hole: t/0: offsets 10 to 19 are not backed up"}},
		"entry altered": {func(t *testing.T, dir string, _ []string) {
			entries, _ := filepath.Glob(filepath.Join(dir, "log/*-000001.json"))
			data, err := os.ReadFile(entries[0])
			ok(t, err)
			ok(t, os.WriteFile(entries[0], bytes.Replace(data, []byte(`"c"`), []byte(`"d"`), 1), 0o600))
		}, VerifyConfig{}, []string{"log: log/2"}},
		"not signed": {func(*testing.T, string, []string) {}, VerifyConfig{Signers: noOne}, slices.Repeat([]string{"signature: log/"}, 9)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := backup(t)
			files, err := filepath.Glob(filepath.Join(dir, "topics/t/*/*"))
			ok(t, err)
			c.damage(t, dir, files)
			got := problems(t, dir, c.cfg)
			slices.Sort(got)
			slices.Sort(c.want)
			if len(got) != len(c.want) {
				t.Fatalf("got\n%s\nwant %d", strings.Join(got, "\n"), len(c.want))
			}
			for i := range got {
				if !strings.HasPrefix(got[i], c.want[i]) {
					t.Errorf("got %q, want %q", got[i], c.want[i])
				}
			}
		})
	}
}

func flip(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	ok(t, err)
	data[len(data)/2] ^= 1
	ok(t, os.WriteFile(file, data, 0o600))
}

func TestCursorIsFetchs(t *testing.T) {
	dir := backup(t)
	var out bytes.Buffer
	ok(t, Cursor(t.Context(), open(t, dir), store.LogOptions{}, false, env(), &out))
	c, err := cursor.Read(&out)
	ok(t, err)
	if got := c.Topics["t"]; got.ID != "id" || got.Partitions[0] != 30 || got.Partitions[1] != 30 {
		t.Errorf("got %+v", c)
	}
	ok(t, Cursor(t.Context(), open(t, t.TempDir()), store.LogOptions{}, false, env(), &out)) // a first run has one too
	if c, err = cursor.Read(&out); err != nil || len(c.Topics) != 0 {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestList(t *testing.T) {
	root := t.TempDir()
	run(t, filepath.Join(root, "a/nightly"), 0, 0, 5)
	run(t, filepath.Join(root, "hourly"), 0, 0, 7)
	ok(t, os.Mkdir(filepath.Join(root, "other"), 0o700))
	var out bytes.Buffer
	ok(t, List(t.Context(), open(t, root), 3, true, env(), &out))
	var got []string
	for d := json.NewDecoder(&out); d.More(); {
		var b Listed
		ok(t, d.Decode(&b))
		got = append(got, fmt.Sprint(b.Path, " ", b.Topics, " ", b.Partitions, " ", b.Records, " ", b.Points))
	}
	if want := []string{"a/nightly 1 2 10 1", "hourly 1 2 14 1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := List(t.Context(), open(t, filepath.Join(root, "other")), 3, false, env(), &out); err == nil {
		t.Error("a folder without backups has some")
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{"orders": "orders", "a b": "a b", "\x1b[2J": `"\x1b[2J"`, "a\tb": `"a\tb"`} {
		if got := printable(in); got != want {
			t.Errorf("%q is printed as %s", in, got)
		}
	}
}

func TestCat(t *testing.T) {
	dir := backup(t)
	cfg := CatConfig{Topic: "t", Partition: 1, From: 8, To: 25, Since: 90, Until: 230, MaxFrame: 1 << 20, Limit: 3, JSON: true}
	var out bytes.Buffer
	ok(t, Cat(t.Context(), open(t, dir), cfg, env(), &out))
	want := ""
	for _, o := range []int{9, 10, 11} {
		want += fmt.Sprintf(`{"topic":"t","partition":1,"offset":%d,"tstype":"create","ts":%d,"headers":[],"key":{"base64":"/w=="},"payload":"value %d"}`+"\n", o, o*10, o)
	}
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	cfg.JSON, cfg.Limit = false, 0
	out.Reset()
	ok(t, Cat(t.Context(), open(t, dir), cfg, env(), &out))
	r := format.NewReader(&out, 1<<20)
	_, err := r.Header()
	ok(t, err)
	n := 0
	for {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		ok(t, err)
		if f.Kind == format.KindRec {
			n++
		}
	}
	if n != 15 {
		t.Errorf("%d records, want 15", n)
	}
}

// TestVerifyLosses verifies a backup of which the source has lost something, and wants a
// verdict as JSON in any case.
func TestVerifyLosses(t *testing.T) {
	for name, c := range map[string]struct {
		end    format.End
		lost   [][2]int64
		want   []string
		status int
	}{
		"nothing": {format.End{}, nil, []string{`{"verdict":"good","problems":0,"losses":0,"pruned":0,"segments":0,`}, command.OK},
		"a range": {format.End{Lost: true, Losses: []string{"t/0: offsets 3 to 4 were deleted before they were read"}}, [][2]int64{{3, 5}},
			[]string{`{"kind":"lost","what":"t/0","why":"offsets 3 to 4 were deleted before they were read"}`, `{"verdict":"loss","problems":0,"losses":1,`}, command.Loss},
		"a range without a line": {format.End{Lost: true, Losses: []string{"u: without a leader"}}, [][2]int64{{3, 5}},
			[]string{`{"kind":"lost","what":"u","why":"without a leader"}`, `{"kind":"lost","what":"t/0","why":"offsets 3 to 4 were deleted before they were backed up"}`, `{"verdict":"loss","problems":0,"losses":2,`}, command.Loss},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var segments bytes.Buffer
			w := format.NewWriter(&segments)
			ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments}))
			ok(t, w.Write(&format.Mark{Topic: "t", Next: 0, MarkInfo: format.MarkInfo{TopicID: "id"}}))
			ok(t, w.Write(&format.Mark{Topic: "t", Next: 9, MarkInfo: format.MarkInfo{TopicID: "id", Lost: c.lost}}))
			ok(t, w.Close(&c.end))
			err := push.Run(t.Context(), push.Config{Remote: dir, Transfers: 1, Checkpoint: time.Hour, CheckpointSegments: 1, MaxFrame: 1 << 20}, env(), &segments, io.Discard)
			if command.StatusOf(err) != c.status {
				t.Errorf("push: %v", err)
			}
			var out bytes.Buffer
			err = Verify(t.Context(), open(t, dir), VerifyConfig{Transfers: 1, Memory: 1 << 20, JSON: true}, env(), &out)
			if command.StatusOf(err) != c.status {
				t.Errorf("verify: %v", err)
			}
			got := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(got) != len(c.want) {
				t.Fatalf("%q, want %q", got, c.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], c.want[i]) {
					t.Errorf("%q, want %q", got[i], c.want[i])
				}
			}
			out.Reset()
			ok(t, Show(t.Context(), open(t, dir), store.LogOptions{}, everything(t), false, false, env(), &out))
			for _, l := range c.end.Losses {
				if !strings.Contains(out.String(), l) {
					t.Errorf("show does not name %q:\n%s", l, out.String())
				}
			}
		})
	}
}
