package push

import (
	"bytes"
	"crypto/sha256"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

func testEnv(log io.Writer) *command.Env {
	return &command.Env{Name: "test", Log: slog.New(slog.NewTextHandler(log, nil))}
}

func testConfig(remote string) Config {
	return Config{Remote: remote, Transfers: 2, Checkpoint: time.Hour, CheckpointSegments: 1000, RetryFor: 5 * time.Second, MaxFrame: 1 << 20}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stream is a stream of segments that fill writes.
func stream(t *testing.T, end *format.End, fill func(w *format.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{ID: "run", Content: format.ContentSegments}))
	fill(w)
	ok(t, w.Close(end))
	return b.Bytes()
}

// segmentOf is one of partition 0 of t, with offsets [from, next). push does not look into it.
func segmentOf(from, next int64, data []byte) *format.Segment {
	sum := sha256.Sum256(data)
	return &format.Segment{
		Topic: "t", TopicID: "id", From: from, Next: next, First: from, Last: next - 1, Records: next - from,
		Codec: "none", RawSize: int64(len(data)), Size: int64(len(data)), SHA256: sum[:],
	}
}

func mark(t *testing.T, w *format.Writer, next int64, info format.MarkInfo) {
	t.Helper()
	info.TopicID = "id"
	ok(t, w.Write(&format.Mark{Topic: "t", Next: next, MarkInfo: info}))
}

// logged is how many log entries are in the backup.
func logged(t *testing.T, remote string) int {
	t.Helper()
	st, err := store.Open(t.Context(), remote)
	ok(t, err)
	defer st.Close()
	n := 0
	ok(t, st.List(t.Context(), "log", func(string, int64) error { n++; return nil }))
	return n
}

// TestDamagedSegment stores a segment that is not what its checksum says. It must be
// refused, whatever the remote can verify, and also where the backup has its offsets
// already.
func TestDamagedSegment(t *testing.T) {
	for name, remote := range map[string]string{
		"local":          t.TempDir(),
		"memory, by MD5": ":memory:bucket/damaged",
	} {
		t.Run(name, func(t *testing.T) {
			first, second := []byte("the first segment"), []byte("the second segment")
			damaged := bytes.Clone(second)
			damaged[5] ^= 1
			input := func(content []byte) []byte {
				return stream(t, &format.End{Records: 20, Segments: 2}, func(w *format.Writer) {
					mark(t, w, 0, format.MarkInfo{})
					ok(t, w.WriteSegment(segmentOf(0, 10, first), first))
					ok(t, w.WriteSegment(segmentOf(10, 20, second), content))
					mark(t, w, 20, format.MarkInfo{})
				})
			}
			refused := func() {
				t.Helper()
				began := time.Now()
				err := Run(t.Context(), testConfig(remote), testEnv(io.Discard), bytes.NewReader(input(damaged)), io.Discard)
				if command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), "standard input: segment of t/0, offsets 10 to 19: its sha256 is ") {
					t.Errorf("status %d, %v", command.StatusOf(err), err)
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("it was tried for %s", took)
				}
			}
			refused()
			if n := logged(t, remote); n != 0 {
				t.Fatalf("%d log entries were written", n)
			}
			ok(t, Run(t.Context(), testConfig(remote), testEnv(io.Discard), bytes.NewReader(input(second)), io.Discard))
			refused()
			if n := logged(t, remote); n != 1 {
				t.Errorf("%d log entries, not 1", n)
			}
		})
	}
}

// TestLosses stores a stream whose source has lost something: the status says so, and
// the log says what.
func TestLosses(t *testing.T) {
	for name, test := range map[string]struct {
		end    format.End
		status int
		want   []string
	}{
		"nothing":       {format.End{}, command.OK, nil},
		"named":         {format.End{Lost: true, Losses: []string{"t/0: gone", "u: deleted"}}, command.Loss, []string{"t/0: gone", "u: deleted"}},
		"without names": {format.End{Lost: true}, command.Loss, []string{"records were lost before they could be read; the marks say which"}},
		"interrupted":   {format.End{Lost: true, Interrupted: true, Losses: []string{"t/0: gone"}}, command.Interrupted, []string{"t/0: gone"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			input := stream(t, &test.end, func(w *format.Writer) {
				mark(t, w, 0, format.MarkInfo{})
				mark(t, w, 5, format.MarkInfo{})
			})
			if err := Run(t.Context(), testConfig(dir), testEnv(io.Discard), bytes.NewReader(input), io.Discard); command.StatusOf(err) != test.status {
				t.Errorf("status %d, %v", command.StatusOf(err), err)
			}
			if got := lastEntry(t, dir); !slices.Equal(got.Losses, test.want) || !got.Final {
				t.Errorf("the last entry is %+v", got)
			}
		})
	}
}

func lastEntry(t *testing.T, dir string) *commitlog.Entry {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "log", "*.json"))
	ok(t, err)
	name := files[len(files)-1]
	data, err := os.ReadFile(name)
	ok(t, err)
	e, _, err := commitlog.Decode(name, data)
	ok(t, err)
	return e
}

// TestBadOrder gives push segments and marks that do not join, and what is no part of a
// stream of segments: nothing may be committed.
func TestBadOrder(t *testing.T) {
	data := []byte("a segment")
	for name, c := range map[string]struct {
		fill func(w *format.Writer) error
		want string
	}{
		"a mark that goes back": {func(w *format.Writer) error {
			mark(t, w, 12, format.MarkInfo{})
			return w.Write(&format.Mark{Topic: "t", Next: 5, MarkInfo: format.MarkInfo{TopicID: "id"}})
		}, "t/0: a mark at offset 5 behind 12"},
		"a segment twice": {func(w *format.Writer) error {
			ok(t, w.WriteSegment(segmentOf(0, 10, data), data))
			return w.WriteSegment(segmentOf(0, 10, data), data)
		}, "segment of t/0, offsets 0 to 9: it begins at offset 0, and what is below 10 has come before"},
		"a segment is missing": {func(w *format.Writer) error {
			mark(t, w, 0, format.MarkInfo{})
			return w.WriteSegment(segmentOf(10, 20, data), data)
		}, "it begins at offset 10 where 0 is expected"},
		"a record": {func(w *format.Writer) error { return w.WriteRecord(&format.Record{Topic: "t"}) }, "a record outside of the segments"},
		"a batch":  {func(w *format.Writer) error { return w.Write(&format.Batch{Topic: "t"}) }, "a record outside of the segments"},
	} {
		dir := t.TempDir()
		input := stream(t, new(format.End), func(w *format.Writer) { ok(t, c.fill(w)) })
		err := Run(t.Context(), testConfig(dir), testEnv(io.Discard), bytes.NewReader(input), io.Discard)
		if command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: status %d, %v", name, command.StatusOf(err), err)
		}
		if n := logged(t, dir); n != 0 {
			t.Errorf("%s: %d log entries were written", name, n)
		}
	}
}

// TestGroupsTellByThemselves cuts entries between a list of groups and the frames of
// these: each entry with groups has the lists that they belong to, and no others.
func TestGroupsTellByThemselves(t *testing.T) {
	dir := t.TempDir()
	list := func(w *format.Writer, topic string, ids ...string) {
		ok(t, w.Write(&format.Groups{IDs: ids, GroupsInfo: format.GroupsInfo{Include: []string{"^"}, Topics: map[string]string{topic: "id"}}}))
	}
	group := func(w *format.Writer, id string) {
		ok(t, w.Write(&format.Group{ID: id, Offsets: map[string]map[int32]format.GroupOffset{"t": {0: {Offset: 1}}}}))
	}
	data := []byte("a segment")
	input := stream(t, &format.End{Records: 10, Segments: 1}, func(w *format.Writer) {
		mark(t, w, 0, format.MarkInfo{})
		list(w, "t", "g", "h")
		list(w, "u", "g")
		ok(t, w.WriteSegment(segmentOf(0, 10, data), data)) // the entry is full
		mark(t, w, 10, format.MarkInfo{})
		group(w, "g")
		group(w, "h")
		list(w, "v", "x")
		group(w, "x")
	})
	cfg := testConfig(dir)
	cfg.CheckpointSegments = 1
	ok(t, Run(t.Context(), cfg, testEnv(io.Discard), bytes.NewReader(input), io.Discard))
	files, err := filepath.Glob(filepath.Join(dir, "log", "*.json"))
	ok(t, err)
	var got []string
	for _, name := range files {
		data, err := os.ReadFile(name)
		ok(t, err)
		e, _, err := commitlog.Decode(name, data)
		ok(t, err)
		var has []string
		for _, l := range e.GroupLists {
			has = slices.AppendSeq(has, maps.Keys(l.Topics))
		}
		for _, g := range e.Groups {
			has = append(has, g.ID)
		}
		got = append(got, strings.Join(has, " "))
	}
	if want := []string{"t u", "t u g h", "v x"}; !slices.Equal(got, want) {
		t.Errorf("entries have %q, want %q", got, want)
	}
}

// TestCopyEndsBelowPoint copies a point of which the stream does not have the last offsets: it is
// reported, each time.
func TestCopyEndsBelowPoint(t *testing.T) {
	dir := t.TempDir()
	var point bytes.Buffer
	w := format.NewWriter(&point)
	ok(t, w.WriteHeader(new(format.Header)))
	ok(t, w.Flush())
	point.Reset()
	ok(t, w.Write(&format.Point{Time: 1000}))
	ok(t, w.Flush())
	input := stream(t, new(format.End), func(w *format.Writer) {
		mark(t, w, 0, format.MarkInfo{})
		mark(t, w, 2, format.MarkInfo{})
		ok(t, w.Write(&format.Moment{Point: point.Bytes(), MomentInfo: format.MomentInfo{ID: "20261126T000627.026Z-c7ca9421-000007", Topics: []format.MomentTopic{
			{Name: "t", ID: "id", Partitions: map[int32][2]int64{0: {3, 3}}}, {Name: "not copied", Partitions: map[int32][2]int64{0: {0, 9}}},
		}}}))
		ok(t, w.Write(&format.Moment{Point: point.Bytes(), MomentInfo: format.MomentInfo{ID: "20261126T000627.026Z-c7ca9421-000006", Topics: []format.MomentTopic{
			{Name: "t", ID: "id", Partitions: map[int32][2]int64{0: {0, 2}}},
		}}}))
	})
	for range 2 {
		err := Run(t.Context(), testConfig(dir), testEnv(io.Discard), bytes.NewReader(input), io.Discard)
		if want := "t, partition 0: not part of 1 restore point, the newest of 1970-01-01T00:00:01Z: the last offsets below the point were pruned, or are missing"; command.StatusOf(err) != command.Loss || !strings.Contains(err.Error(), want) {
			t.Errorf("it ends with %v", err)
		}
	}
}
