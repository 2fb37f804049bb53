package catalog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/store"
)

// storeBatches stores offsets [from, next) of t/0 by a run of its own, as [store1] does, but
// in batches of ten records. The times of each go down.
func storeBatches(t *testing.T, cfg push.Config, from, next int64) {
	t.Helper()
	var in, segments bytes.Buffer
	w := format.NewWriter(&in)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentBatches, Source: &format.Source{Cluster: "c"}}))
	ok(t, w.Write(&format.Topic{Name: "t", ID: "id", Partitions: 1}))
	ok(t, w.Write(&format.Mark{Topic: "t", Next: from}))
	compressor, err := recordbatch.NewCompressor("lz4", 0)
	ok(t, err)
	var b recordbatch.Builder
	for first := from; first < next; first += 10 {
		b.Reset()
		for o := first; o < first+10; o++ {
			b.Append(&format.Record{Topic: "t", Timestamp: (2*first + 9 - o) * 10, Value: fmt.Append(nil, "value ", o)})
		}
		raw, err := b.Build(nil, compressor)
		ok(t, err)
		binary.BigEndian.PutUint64(raw, uint64(first))
		recordbatch.Stamp(raw, 1, 0, 0)
		opened, _, err := recordbatch.Cut(raw)
		ok(t, err)
		frame := opened.Frame("t", 0)
		ok(t, w.Write(&frame))
	}
	ok(t, w.Write(&format.Mark{Topic: "t", Next: next}))
	ok(t, w.Write(&format.Point{Time: next * 10}))
	ok(t, w.Close(new(format.End)))
	ok(t, pack.Pack(t.Context(), pack.Config{SegmentSize: 1 << 20, Memory: 64 << 20, Level: 1, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd")}, env(), &in, &segments))
	cfg.Transfers, cfg.Checkpoint, cfg.CheckpointSegments, cfg.MaxFrame = 2, time.Hour, 1000, 1<<20
	ok(t, push.Run(t.Context(), cfg, env(), &segments, io.Discard))
}

// TestBatches has a backup of records and batches of one partition, and does with it what is
// done with backups.
func TestBatches(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	cfg := push.Config{Remote: dir}
	ok(t, store1(t, cfg, 0, 100))
	storeBatches(t, cfg, 100, 200)
	storeBatches(t, cfg, 0, 100) // which records cover
	ok(t, store1(t, cfg, 100, 200))
	ok(t, store1(t, cfg, 200, 250))
	objects, err := filepath.Glob(filepath.Join(dir, "topics/t/partition=0/*"))
	if ok(t, err); len(objects) != 3 {
		t.Errorf("%d objects: what was covered is stored again", len(objects))
	}
	check := func(t *testing.T, dir string) {
		t.Helper()
		if p := problems(t, dir, VerifyConfig{Deep: true}); p != nil {
			t.Errorf("problems: %q", p)
		}
		if got, _ := restored(t, pull.Config{Selection: partitions.Selection{Topics: []string{"t"}}, Remote: dir}, nil); !slices.Equal(got, []string{"id/0 [[0 250]]"}) {
			t.Errorf("restored %q", got)
		}
		var out bytes.Buffer
		ok(t, Show(t.Context(), open(t, dir), store.LogOptions{}, everything(t), false, true, env(), &out))
		var r Report
		ok(t, json.Unmarshal(out.Bytes(), &r))
		if topic := r.Topics[0]; topic.BatchBytes == 0 || topic.BatchBytes >= topic.Bytes || *topic.MinTimestamp != 0 || *topic.MaxTimestamp != 2490 {
			t.Errorf("shown as %+v", topic)
		}
		out.Reset()
		ok(t, Show(t.Context(), open(t, dir), store.LogOptions{}, everything(t), false, false, env(), &out))
		if fields := strings.Fields(out.String()); !strings.Contains(out.String(), "BATCHES") || !slices.ContainsFunc(fields, func(f string) bool { return strings.HasSuffix(f, "%") }) {
			t.Errorf("shown as\n%s", out.String())
		}
		out.Reset()
		ok(t, Cat(t.Context(), open(t, dir), CatConfig{Topic: "t", From: 95, To: 215, Since: math.MinInt64, Until: math.MaxInt64, MaxFrame: 1 << 20, JSON: true}, env(), &out))
		for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
			if !strings.Contains(line, fmt.Sprintf(`"value %d"`, 95+i)) && !strings.Contains(line, fmt.Sprintf("value %d", 95+i)) {
				t.Fatalf("line %d: %s", i, line)
			}
		}
		if lines := strings.Count(out.String(), "\n"); lines != 120 {
			t.Errorf("cat printed %d records", lines)
		}
		out.Reset()
		ok(t, Cat(t.Context(), open(t, dir), CatConfig{Topic: "t", From: 0, To: math.MaxInt64, Since: 1500, Until: 1520, MaxFrame: 1 << 20, JSON: true}, env(), &out))
		if lines := strings.Count(out.String(), "\n"); lines != 3 {
			t.Errorf("cat printed %d records of these times", lines)
		}
	}
	t.Run("as it is", func(t *testing.T) { check(t, dir) })
	t.Run("compacted", func(t *testing.T) {
		copied := filepath.Join(t.TempDir(), "b")
		ok(t, os.CopyFS(copied, os.DirFS(dir)))
		ok(t, Compact(t.Context(), open(t, copied), Signing{}, env()))
		check(t, copied)
		ok(t, store1(t, push.Config{Remote: copied}, 250, 260))
		ok(t, Compact(t.Context(), open(t, copied), Signing{}, env()))
		if p := problems(t, copied, VerifyConfig{Deep: true}); p != nil {
			t.Errorf("problems: %q", p)
		}
	})
	t.Run("repaired", func(t *testing.T) {
		copied := filepath.Join(t.TempDir(), "b")
		ok(t, os.CopyFS(copied, os.DirFS(dir)))
		entries := entriesOf(t, copied)
		ok(t, os.WriteFile(entries[1], []byte("garbage"), 0o600)) // that of the batches
		said, _ := fix(t, copied, RepairConfig{})
		if !strings.Contains(said, "100 records, offsets 100 to 199") {
			t.Error(said)
		}
		check(t, copied)
	})
	t.Run("without a log", func(t *testing.T) {
		got, _ := restored(t, pull.Config{Selection: partitions.Selection{Topics: []string{"t"}}, Remote: filepath.Join(dir, "topics")}, nil)
		if !slices.Equal(got, []string{"id/0 [[0 250]]"}) {
			t.Errorf("restored %q", got)
		}
	})
	t.Run("times that are not so", func(t *testing.T) {
		alone := filepath.Join(t.TempDir(), "b")
		storeBatches(t, push.Config{Remote: alone}, 100, 200)
		entries := entriesOf(t, alone)
		data, err := os.ReadFile(entries[0])
		ok(t, err)
		e, _, err := commitlog.Decode(filepath.Base(entries[0]), data)
		ok(t, err)
		e.Segments[0].MinTimestamp += 10
		data, _, err = commitlog.Encode(e)
		ok(t, err)
		ok(t, os.WriteFile(entries[0], data, 0o600))
		if p := problems(t, alone, VerifyConfig{Deep: true}); len(p) == 0 || !strings.Contains(fmt.Sprint(p), "timestamps 1000 to 1990, not 1010 to 1990") {
			t.Errorf("problems: %q", p)
		}
	})
}
