package pull

import (
	"bytes"
	"context"
	"errors"
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
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/recordbatch/batchtest"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/sign"
)

func env() *command.Env { return &command.Env{Name: "test", Log: slog.New(slog.DiscardHandler)} }

func packConfig() pack.Config {
	return pack.Config{SegmentSize: 1 << 20, Memory: 64 << 20, Level: 1, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd")}
}

// backUp packs what fill writes and stores it in dir.
func backUp(t *testing.T, dir string, fill func(w *format.Writer)) {
	t.Helper()
	backUpOf(t, format.ContentRecords, dir, fill)
}

// backUpOf does so with a stream of records or of batches.
func backUpOf(t *testing.T, content, dir string, fill func(w *format.Writer)) {
	t.Helper()
	var records, segments bytes.Buffer
	w := format.NewWriter(&records)
	ok(t, w.WriteHeader(&format.Header{Content: content}))
	fill(w)
	ok(t, w.Close(new(format.End)))
	ok(t, pack.Pack(t.Context(), packConfig(), env(), &records, &segments))
	pushed(t, dir, &segments)
}

func pushed(t *testing.T, dir string, segments io.Reader) {
	t.Helper()
	okOrLoss(t, push.Run(t.Context(), push.Config{Remote: dir, Transfers: 2, Checkpoint: time.Hour, CheckpointSegments: 1000, MaxFrame: 1 << 20}, env(), segments, io.Discard))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// okOrLoss is ok for a stage behind a source that may have lost something.
func okOrLoss(t *testing.T, err error) {
	t.Helper()
	if command.StatusOf(err) != command.Loss {
		ok(t, err)
	}
}

// pulled is what comes out of the plain pipe, one string to a frame.
func pulled(t *testing.T, cfg Config) (frames []string, status int) {
	t.Helper()
	segments, status := segmentsOf(t, cfg)
	return unpacked(t, segments), status
}

func segmentsOf(t *testing.T, cfg Config) (*bytes.Buffer, int) {
	t.Helper()
	cfg.Transfers, cfg.Memory = 3, 1<<20
	var segments bytes.Buffer
	err := Run(t.Context(), cfg, env(), &segments)
	if s := command.StatusOf(err); s != command.OK && s != command.Loss {
		t.Fatal(err)
	}
	return &segments, command.StatusOf(err)
}

func endOf(t *testing.T, stream []byte) *format.End {
	t.Helper()
	r := format.NewReader(bytes.NewReader(stream), 1<<20)
	for {
		f, err := r.Next()
		ok(t, err)
		if f.Kind == format.KindEnd {
			end, err := format.DecodeEnd(f.Raw)
			ok(t, err)
			return end
		}
	}
}

func unpacked(t *testing.T, segments io.Reader) (frames []string) {
	t.Helper()
	var records bytes.Buffer
	okOrLoss(t, pack.Unpack(t.Context(), packConfig(), env(), segments, &records))
	r := format.NewReader(&records, 1<<20)
	if _, err := r.Header(); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := r.Next()
		if err == io.EOF {
			return frames
		}
		ok(t, err)
		switch f.Kind {
		case format.KindRec:
			frames = append(frames, fmt.Sprintf("%s/%d@%d", f.Topic, f.Partition, f.Offset))
		case format.KindMark:
			m, err := format.DecodeMark(f.Raw)
			ok(t, err)
			s := fmt.Sprintf("mark %s/%d %d", m.Topic, m.Partition, m.Next)
			if m.Begins {
				s += " begins"
			}
			if len(m.Lost) > 0 {
				s += fmt.Sprint(" lost ", m.Lost)
			}
			if len(frames) == 0 || frames[len(frames)-1] != s { // segments have marks too
				frames = append(frames, s)
			}
		case format.KindGroup:
			g, err := format.DecodeGroup(f.Raw)
			ok(t, err)
			frames = append(frames, fmt.Sprint("group ", g.ID, g.Offsets["t"][0].Offset))
		case format.KindPoint:
			p, err := format.DecodePoint(f.Raw)
			ok(t, err)
			frames = append(frames, fmt.Sprint("point ", p.Time))
		}
	}
}

// records writes those of t/0 with offsets [from, next), the timestamp of each ten
// times its offset.
func records(t *testing.T, w *format.Writer, partition int32, from, next int64) {
	t.Helper()
	for o := from; o < next; o++ {
		ok(t, w.WriteRecord(&format.Record{Topic: "t", Partition: partition, Offset: o, Timestamp: o * 10, Value: []byte("v")}))
	}
}

// batch holds the same records.
func batch(t *testing.T, from, next int64) *format.Batch {
	t.Helper()
	var recs []format.Record
	for o := from; o < next; o++ {
		recs = append(recs, format.Record{Topic: "t", Offset: o, Timestamp: o * 10, Value: []byte("v")})
	}
	return batchtest.Frame(t, "lz4", recs...)
}

func mark(t *testing.T, w *format.Writer, partition int32, next int64, info format.MarkInfo) {
	t.Helper()
	info.TopicID = "id"
	ok(t, w.Write(&format.Mark{Topic: "t", Partition: partition, Next: next, MarkInfo: info}))
}

func offsets(from, next int64) (out []string) {
	for o := from; o < next; o++ {
		out = append(out, fmt.Sprintf("t/0@%d", o))
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// withHoles is a backup of t/0: [0,3) held, [3,5) a hole, [5,7) lost, [7,10) held,
// [10,12) scanned without a record.
func withHoles(t *testing.T) (dir string) {
	dir = filepath.Join(t.TempDir(), "b")
	backUp(t, dir, func(w *format.Writer) {
		mark(t, w, 0, 0, format.MarkInfo{})
		records(t, w, 0, 0, 3)
		mark(t, w, 0, 3, format.MarkInfo{})
		mark(t, w, 0, 5, format.MarkInfo{Begins: true})
		mark(t, w, 0, 7, format.MarkInfo{Lost: [][2]int64{{5, 7}}})
		records(t, w, 0, 7, 10)
		mark(t, w, 0, 12, format.MarkInfo{})
	})
	return dir
}

// TestHolesStay copies a backup with a hole and a loss, in segments and in records:
// neither becomes something that was scanned.
func TestHolesStay(t *testing.T) {
	dir := withHoles(t)
	want := slices.Concat([]string{"mark t/0 0"}, offsets(0, 3),
		[]string{"mark t/0 3", "mark t/0 5 begins", "mark t/0 7 lost [[5 7]]", "mark t/0 7"}, offsets(7, 10), []string{"mark t/0 12"})
	got, status := pulled(t, Config{Remote: dir})
	same(t, "the backup", got, want)
	if status != command.Loss {
		t.Errorf("status %d, want %d", status, command.Loss)
	}
	segments, _ := segmentsOf(t, Config{Remote: dir})
	same(t, "losses", endOf(t, segments.Bytes()).Losses, []string{
		"t/0: offsets 5 to 6 were deleted before they were backed up", "t/0: offsets 3 to 4 are not in the backup: no run has read them"})
	raw := bytes.Clone(segments.Bytes())
	copied := filepath.Join(t.TempDir(), "copy")
	pushed(t, copied, segments)
	got, _ = pulled(t, Config{Remote: copied})
	same(t, "a copy of segments", got, want)

	var plain, again bytes.Buffer
	okOrLoss(t, pack.Unpack(t.Context(), packConfig(), env(), bytes.NewReader(raw), &plain))
	okOrLoss(t, pack.Pack(t.Context(), packConfig(), env(), &plain, &again))
	repacked := filepath.Join(t.TempDir(), "repacked")
	pushed(t, repacked, &again)
	got, status = pulled(t, Config{Remote: repacked})
	same(t, "a repacked copy", got, want)
	if status != command.Loss {
		t.Errorf("the copy's holes are gone: status %d", status)
	}
}

func TestWindow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	for from := int64(0); from < 30; from += 10 {
		backUp(t, dir, func(w *format.Writer) {
			mark(t, w, 0, from, format.MarkInfo{})
			records(t, w, 0, from, from+10)
			mark(t, w, 0, from+10, format.MarkInfo{})
		})
	}
	at := func(ms int64) *time.Time { t := time.UnixMilli(ms); return &t }
	for name, c := range map[string]struct {
		cfg      Config
		want     []string
		segments int
	}{
		"from":       {Config{From: 15}, slices.Concat([]string{"mark t/0 15"}, offsets(15, 20), []string{"mark t/0 20"}, offsets(20, 30), []string{"mark t/0 30"}), 2},
		"to":         {Config{To: 15}, slices.Concat([]string{"mark t/0 0"}, offsets(0, 10), []string{"mark t/0 10"}, offsets(10, 15), []string{"mark t/0 15"}), 2},
		"both":       {Config{From: 12, To: 13}, slices.Concat([]string{"mark t/0 12"}, offsets(12, 13), []string{"mark t/0 13"}), 1},
		"beyond":     {Config{From: 40}, []string{"mark t/0 30"}, 0},
		"time":       {Config{Since: at(95), Until: at(110)}, slices.Concat([]string{"mark t/0 0", "mark t/0 10"}, offsets(10, 12), []string{"mark t/0 20", "mark t/0 30"}), 1},
		"one moment": {Config{Since: at(200), Until: at(200)}, slices.Concat([]string{"mark t/0 0", "mark t/0 20"}, offsets(20, 21), []string{"mark t/0 30"}), 1},
	} {
		c.cfg.Remote = dir
		segments, status := segmentsOf(t, c.cfg)
		if n := bytes.Count(segments.Bytes(), []byte("sha256")); n != c.segments || status != command.OK {
			t.Errorf("%s: %d segments, want %d; status %d", name, n, c.segments, status)
		}
		same(t, name, unpacked(t, segments), c.want)
	}
}

// TestPointBeforeCompaction has each run read a compacted topic from its beginning: a restore
// point has what its own run has read, though Kafka had compacted some of it away when the next
// run came.
func TestPointBeforeCompaction(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	left := [][]int64{{0, 1, 2, 3}, {0, 2, 3, 4, 5}, {3, 4, 5, 6}} // by the compaction before each run
	for run, all := range left {
		next := all[len(all)-1] + 1
		backUp(t, dir, func(w *format.Writer) {
			mark(t, w, 0, 0, format.MarkInfo{})
			for _, o := range all {
				records(t, w, 0, o, o+1)
			}
			mark(t, w, 0, next, format.MarkInfo{})
			ok(t, w.Write(&format.Point{Time: int64(run+1) * 1000}))
		})
	}
	for run, all := range left {
		at := time.UnixMilli(int64(run+1) * 1000)
		got, _ := pulled(t, Config{Remote: dir, At: &at})
		want := []string{"mark t/0 0"}
		for _, o := range all {
			want = append(want, offsets(o, o+1)...)
		}
		same(t, fmt.Sprint("point ", run+1), got, append(want, fmt.Sprint("mark t/0 ", all[len(all)-1]+1), fmt.Sprint("point ", (run+1)*1000)))
	}
}

// TestCopyOfCompacted copies a backup in which each run has read a compacted topic from its
// beginning: what the copy's points may lack is reported, and not part of them.
func TestCopyOfCompacted(t *testing.T) {
	left := [][]int64{{0, 1, 2, 3}, {0, 2, 3, 4, 5}, {3, 4, 5, 6}}
	run := func(dir string, n int, policy string) {
		backUp(t, dir, func(w *format.Writer) {
			ok(t, w.Write(&format.Topic{Name: "t", ID: "id", Partitions: 2, Configs: map[string]string{"cleanup.policy": policy}}))
			mark(t, w, 0, 0, format.MarkInfo{})
			for _, o := range left[n] {
				records(t, w, 0, o, o+1)
			}
			mark(t, w, 0, left[n][len(left[n])-1]+1, format.MarkInfo{})
			mark(t, w, 1, 0, format.MarkInfo{})
			ok(t, w.Write(&format.Point{Time: int64(n+1) * 1000}))
		})
	}
	copyOf := func(from, to string) error {
		segments, status := segmentsOf(t, Config{Remote: from})
		if status != command.OK {
			t.Errorf("the pull has status %d", status)
		}
		return push.Run(t.Context(), push.Config{Remote: to, Transfers: 2, Checkpoint: time.Hour, CheckpointSegments: 1000, MaxFrame: 1 << 20}, env(), segments, io.Discard)
	}
	points := func(dir string) (out []string) {
		for n := range left {
			at := time.UnixMilli(int64(n+1) * 1000)
			var frames bytes.Buffer
			if err := Run(t.Context(), Config{Remote: dir, At: &at, Transfers: 1, Memory: 1 << 20}, env(), &frames); frames.Len() == 0 {
				out = append(out, err.Error())
				continue
			}
			var got []string
			for _, f := range unpacked(t, &frames) {
				if strings.HasPrefix(f, "t/0@") {
					got = append(got, f)
				}
			}
			out = append(out, strings.Join(got, ", "))
		}
		return out
	}

	dir, nightly := filepath.Join(t.TempDir(), "b"), filepath.Join(t.TempDir(), "nightly")
	for n := range left {
		run(dir, n, "compact")
		ok(t, copyOf(dir, nightly))
	}
	same(t, "the points of a copy that is made after each run", points(nightly), points(dir))

	late := filepath.Join(t.TempDir(), "late")
	whole := points(dir)
	same(t, "the points", whole[:1], []string{strings.Join(offsets(0, 4), ", ")})
	want := "done, but the copy's restore points have less than those of the backup: t, partition 0: not part of 2 restore points, the newest of 1970-01-01T00:00:02Z: " + lackCompacted
	for range 2 { // the first of them may have been killed when it had not reported it yet
		if err := copyOf(dir, late); command.StatusOf(err) != command.Loss || err.Error() != want {
			t.Errorf("a copy ends with %v", err)
		}
		same(t, "the points of a late copy", points(late), []string{"", "", whole[2]})
	}
	at := time.UnixMilli(1000)
	segments, status := segmentsOf(t, Config{Remote: late, At: &at, Selection: partitions.Selection{Topics: []string{"t"}}})
	same(t, "what a restore of such a point says", endOf(t, segments.Bytes()).Losses, []string{"t/0: no restore point at 1970-01-01T00:00:01Z or before includes it"})
	if status != command.Loss {
		t.Errorf("its status is %d", status)
	}

	dir = filepath.Join(t.TempDir(), "b")
	for n := range left { // offsets that are missing are of transactions
		run(dir, n, "delete")
	}
	ok(t, copyOf(dir, filepath.Join(t.TempDir(), "copy")))
}

// TestPoint has three runs, the last of another part, and restores to each point.
func TestPoint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	group := func(offset int64) format.Encoder {
		return &format.Group{ID: "g", Offsets: map[string]map[int32]format.GroupOffset{"t": {0: {Offset: offset}}}}
	}
	for run, next := range []int64{5, 9} {
		backUp(t, dir, func(w *format.Writer) {
			from := []int64{0, 5}[run]
			mark(t, w, 0, from, format.MarkInfo{})
			records(t, w, 0, from, next)
			mark(t, w, 0, next, format.MarkInfo{})
			ok(t, w.Write(group(next-1)))
			ok(t, w.Write(&format.Point{Time: int64(run+1) * 1000}))
		})
	}
	backUp(t, dir, func(w *format.Writer) {
		mark(t, w, 1, 0, format.MarkInfo{})
		records(t, w, 1, 0, 1)
		mark(t, w, 1, 1, format.MarkInfo{})
	})
	first := slices.Concat([]string{"mark t/0 0"}, offsets(0, 5), []string{"mark t/0 5", "group g4", "point 1000"})
	second := slices.Concat([]string{"mark t/0 0"}, offsets(0, 5), []string{"mark t/0 5"}, offsets(5, 9), []string{"mark t/0 9", "group g8", "point 2000"})
	at := func(ms int64) *time.Time { t := time.UnixMilli(ms); return &t }
	for name, c := range map[string]struct {
		cfg  Config
		want []string
	}{
		"at the first":     {Config{At: at(1000)}, first},
		"before the next":  {Config{At: at(1999)}, first},
		"at the second":    {Config{At: at(5000)}, second},
		"point and bounds": {Config{At: at(2000), To: 7}, slices.Concat([]string{"mark t/0 0"}, offsets(0, 5), []string{"mark t/0 5"}, offsets(5, 7), []string{"mark t/0 7", "group g8", "point 2000"})},
	} {
		c.cfg.Remote = dir
		got, _ := pulled(t, c.cfg)
		same(t, name, got, c.want)
	}
	entries, err := filepath.Glob(filepath.Join(dir, "log", "*-000001.json"))
	ok(t, err)
	id := strings.TrimSuffix(filepath.Base(entries[0]), ".json")
	for _, name := range []string{id, id[:len(id)-3], strings.Split(id, "-")[1]} {
		got, _ := pulled(t, Config{Remote: dir, Point: name})
		same(t, name, got, first)
	}
	for name, cfg := range map[string]Config{
		"no restore point at": {At: at(999)}, `no restore point "x"`: {Point: "x"}, `"u" is not there`: {Selection: partitions.Selection{Topics: []string{"u"}}},
		"no partition 4": {Selection: partitions.Selection{Topics: []string{"t:4"}}}, "no topic of id": {TopicIDs: []string{"other"}},
	} {
		cfg.Remote, cfg.Transfers, cfg.Memory = dir, 1, 1<<20
		if err := Run(t.Context(), cfg, env(), io.Discard); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %s", err, name)
		}
	}
}

func TestSkipDamaged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	for from := int64(0); from < 40; from += 10 {
		backUp(t, dir, func(w *format.Writer) {
			mark(t, w, 0, from, format.MarkInfo{})
			records(t, w, 0, from, from+10)
			mark(t, w, 0, from+10, format.MarkInfo{})
		})
	}
	files, err := filepath.Glob(filepath.Join(dir, "topics/t/partition=0/*"))
	if err != nil || len(files) != 4 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	ok(t, os.Truncate(files[1], 7))
	ok(t, os.Remove(files[2]))
	var out bytes.Buffer
	err = Run(t.Context(), Config{Remote: dir, Transfers: 2, Memory: 1 << 20}, env(), &out)
	if command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), filepath.Base(files[1])) {
		t.Errorf("got %v", err)
	}
	got, status := pulled(t, Config{Remote: dir, SkipDamaged: true})
	same(t, "middle", got, slices.Concat([]string{"mark t/0 0"}, offsets(0, 10), []string{"mark t/0 10", "mark t/0 30 begins", "mark t/0 30"}, offsets(30, 40), []string{"mark t/0 40"}))
	if status != command.Loss {
		t.Errorf("status %d", status)
	}
	segments, _ := segmentsOf(t, Config{Remote: dir, SkipDamaged: true})
	same(t, "losses", endOf(t, segments.Bytes()).Losses, []string{"t/0: offsets 10 to 29 are in objects of the backup that could not be read"})
	ok(t, os.Remove(files[3]))
	got, _ = pulled(t, Config{Remote: dir, SkipDamaged: true})
	same(t, "end", got, slices.Concat([]string{"mark t/0 0"}, offsets(0, 10), []string{"mark t/0 10"}))
}

// TestSkipDamagedCompacted reads the segment of another run instead of one that is damaged: of a
// compacted topic, that one may have other records.
func TestSkipDamagedCompacted(t *testing.T) {
	for policy, want := range map[string][]string{
		"compact": {"t/0: offsets 0 to 5 could not be read as the backup has them, and are here as another run has read them: Kafka may have compacted records away between the two runs"},
		"delete":  nil,
	} {
		dir := filepath.Join(t.TempDir(), "b")
		for _, left := range [][]int64{{0, 1, 5}, {0, 5, 7}} {
			backUp(t, dir, func(w *format.Writer) {
				ok(t, w.Write(&format.Topic{Name: "t", ID: "id", Partitions: 1, Configs: map[string]string{"cleanup.policy": policy}}))
				mark(t, w, 0, 0, format.MarkInfo{})
				for _, o := range left {
					records(t, w, 0, o, o+1)
				}
				mark(t, w, 0, left[len(left)-1]+1, format.MarkInfo{})
				ok(t, w.Write(&format.Point{Time: left[len(left)-1]}))
			})
		}
		files, err := filepath.Glob(filepath.Join(dir, "topics/t/partition=0/segment-*-00000000000000000005-*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%d files, %v", len(files), err)
		}
		ok(t, os.Remove(files[0]))
		at := time.UnixMilli(5)
		segments, status := segmentsOf(t, Config{Remote: dir, At: &at, SkipDamaged: true})
		same(t, policy, endOf(t, segments.Bytes()).Losses, want)
		if (status == command.Loss) != (want != nil) {
			t.Errorf("%s: status %d", policy, status)
		}
	}
}

// TestReachBack leaves out a segment whose records the next one has in part.
func TestReachBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	for _, r := range [][2]int64{{0, 10}, {6, 16}} {
		backUp(t, dir, func(w *format.Writer) {
			mark(t, w, 0, r[0], format.MarkInfo{})
			records(t, w, 0, r[0], r[1])
			mark(t, w, 0, r[1], format.MarkInfo{})
		})
	}
	got, _ := pulled(t, Config{Remote: dir})
	same(t, "whole", got, slices.Concat([]string{"mark t/0 0"}, offsets(0, 10), []string{"mark t/0 10"}, offsets(10, 16), []string{"mark t/0 16"}))
	files, _ := filepath.Glob(filepath.Join(dir, "topics/t/partition=0/segment-00000000000000000000-*"))
	ok(t, os.Remove(files[0]))
	got, _ = pulled(t, Config{Remote: dir, SkipDamaged: true})
	same(t, "damaged", got, slices.Concat([]string{"mark t/0 0", "mark t/0 6 begins", "mark t/0 6"}, offsets(6, 16), []string{"mark t/0 16"}))
}

// TestOtherRunsSegments damages each of the segments of two runs that stored the same
// records, cut elsewhere: whatever is damaged, all records are read, once and in order. One
// of the runs, or both, have stored batches, which reach over the segments of the other.
func TestOtherRunsSegments(t *testing.T) {
	for _, contents := range [][2]string{
		{format.ContentRecords, format.ContentRecords},
		{format.ContentRecords, format.ContentBatches},
		{format.ContentBatches, format.ContentRecords},
		{format.ContentBatches, format.ContentBatches},
	} {
		t.Run(strings.Join(contents[:], " and "), func(t *testing.T) { otherRunsSegments(t, contents) })
	}
}

func otherRunsSegments(t *testing.T, contents [2]string) {
	dir, twin := filepath.Join(t.TempDir(), "b"), filepath.Join(t.TempDir(), "twin")
	// Each of the runs saw an empty backup: their logs are merged.
	for i, ends := range [][]int64{{7, 14, 21, 30}, {10, 20, 30}} {
		from := int64(0)
		for _, next := range ends {
			backUpOf(t, contents[i], []string{dir, twin}[i], func(w *format.Writer) {
				mark(t, w, 0, from, format.MarkInfo{})
				if contents[i] == format.ContentRecords {
					records(t, w, 0, from, next)
				} else {
					for at := from; at < next; at += 4 {
						ok(t, w.Write(batch(t, at, min(at+4, next))))
					}
				}
				mark(t, w, 0, next, format.MarkInfo{})
			})
			from = next
		}
	}
	merge(t, twin, dir)
	files, err := filepath.Glob(filepath.Join(dir, "topics/t/partition=0/*"))
	if err != nil || len(files) != 7 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for i, name := range files {
		whole, err := os.ReadFile(name)
		ok(t, err)
		ok(t, os.Truncate(name, 3))
		got, status := pulled(t, Config{Remote: dir, SkipDamaged: true})
		got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "mark") })
		if same(t, fmt.Sprintf("without segment %d", i), got, offsets(0, 30)); status != command.OK {
			t.Errorf("without segment %d: status %d", i, status)
		}
		ok(t, os.WriteFile(name, whole, 0o600))
	}
	// Both that have offsets 14 to 19: the rest of what they had is in others.
	for _, name := range files {
		if base := filepath.Base(name); strings.Contains(base, "-00000000000000000014-") || strings.Contains(base, "-00000000000000000010-") || strings.HasPrefix(base, "segment-00000000000000000014") {
			ok(t, os.Truncate(name, 3))
		}
	}
	got, status := pulled(t, Config{Remote: dir, SkipDamaged: true})
	got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "mark") })
	if same(t, "without two", got, slices.Concat(offsets(0, 14), offsets(20, 30))); status != command.Loss {
		t.Errorf("without two: status %d", status)
	}
}

// merge puts what is in one backup into another, as if its runs had begun at the same time
// and written to that one.
func merge(t *testing.T, from, to string) {
	t.Helper()
	ids := make(map[string]string) // old hash of an entry, new one
	var backup string
	for i, dir := range []string{to, from} {
		entries, err := filepath.Glob(filepath.Join(dir, "log/*.json"))
		ok(t, err)
		for _, name := range entries {
			data, err := os.ReadFile(name)
			ok(t, err)
			e, sha, err := commitlog.Decode(name, data)
			ok(t, err)
			if i == 0 {
				backup = e.Backup
				continue
			}
			e.Backup = backup
			for j := range e.Seen {
				e.Seen[j].SHA256 = ids[e.Seen[j].SHA256]
			}
			data, ids[sha], err = commitlog.Encode(e)
			ok(t, err)
			ok(t, os.WriteFile(filepath.Join(to, "log", filepath.Base(name)), data, 0o600))
		}
	}
	ok(t, os.CopyFS(filepath.Join(to, "x"), os.DirFS(filepath.Join(from, "topics"))))
	objects, err := filepath.Glob(filepath.Join(to, "x/t/*/*"))
	ok(t, err)
	for _, name := range objects {
		ok(t, os.Rename(name, strings.Replace(name, "/x/", "/topics/", 1)))
	}
	ok(t, os.RemoveAll(filepath.Join(to, "x")))
}

// TestNothingIsSigned has signatures asked for of segments that no log lists.
func TestNothingIsSigned(t *testing.T) {
	dir := withHoles(t)
	ok(t, os.Rename(filepath.Join(dir, "topics"), dir+"-loose"))
	files, err := filepath.Glob(dir + "-loose/t/partition=0/*")
	if ok(t, err); len(files) == 0 {
		t.Fatal("no segment")
	}
	for _, remote := range []string{dir + "-loose", files[0]} {
		err := Run(t.Context(), Config{Remote: remote, Transfers: 1, Memory: 1 << 20, Signers: sign.Signers{}}, env(), io.Discard)
		if command.StatusOf(err) != command.Corrupt {
			t.Errorf("%s: %v", remote, err)
		}
	}
}

func TestLoose(t *testing.T) {
	dir := withHoles(t)
	want, _ := pulled(t, Config{Remote: dir})
	ok(t, os.RemoveAll(filepath.Join(dir, "log")))
	if err := Run(context.Background(), Config{Remote: dir, Transfers: 1, Memory: 1 << 20}, env(), io.Discard); command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), "manifest.json: the commit log is damaged: it tells of ") {
		t.Errorf("a backup without its log: %v", err)
	}
	ok(t, os.Remove(filepath.Join(dir, "manifest.json")))
	// What no log lists is not a backup, but may be read by name.
	if err := Run(context.Background(), Config{Remote: dir, Transfers: 1, Memory: 1 << 20}, env(), io.Discard); err == nil || !strings.Contains(err.Error(), "there are segments, and no log") {
		t.Errorf("a backup without its log and its manifest: %v", err)
	}
	got, status := pulled(t, Config{Remote: filepath.Join(dir, "topics")})
	// Of what no segment scanned there is no word now.
	want = slices.DeleteFunc(want, func(s string) bool { return strings.Contains(s, "lost") || s == "mark t/0 5 begins" })
	i := slices.Index(want, "mark t/0 3")
	want = slices.Insert(want, i+1, "mark t/0 7 begins")
	same(t, "folder", got, want)
	if status != command.Loss {
		t.Errorf("status %d", status)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "topics/t/partition=0/*"))
	odd := filepath.Join(t.TempDir(), "some name.cbor.zst")
	ok(t, os.Rename(files[0], odd))
	got, _ = pulled(t, Config{Remote: odd})
	same(t, "file", got, slices.Concat([]string{"mark t/0 0"}, offsets(0, 3), []string{"mark t/0 3"}))
	ok(t, os.WriteFile(odd+".age", nil, 0o600))
	if err := Run(context.Background(), Config{Remote: odd + ".age", Transfers: 1, Memory: 1 << 20}, env(), io.Discard); err == nil || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("got %v", err)
	}
	if err := Run(context.Background(), Config{Remote: t.TempDir(), Transfers: 1, Memory: 1 << 20}, env(), io.Discard); err == nil || !strings.Contains(err.Error(), "no backup") || errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// TestShards wants every record in exactly one part.
func TestShards(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	backUp(t, dir, func(w *format.Writer) {
		for p := range int32(5) {
			mark(t, w, p, 0, format.MarkInfo{})
			records(t, w, p, 0, 4)
			mark(t, w, p, 4, format.MarkInfo{})
		}
	})
	var all []string
	for _, name := range []string{"1/2", "2/2"} {
		shard, err := partitions.ParseShard(name)
		ok(t, err)
		got, _ := pulled(t, Config{Remote: dir, Selection: partitions.Selection{Shard: shard}})
		all = append(all, got...)
	}
	whole, _ := pulled(t, Config{Remote: dir})
	slices.Sort(all)
	slices.Sort(whole)
	same(t, "both shards", all, whole)
}
