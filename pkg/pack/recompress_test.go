package pack

import (
	"bytes"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/segment"
)

// TestRecompress packs mixed streams of every codec with --recompress: the records are the
// same, the batches are uncompressed and say what they were, and all else of them is as it was.
func TestRecompress(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := mixed(t, seed, producers...)
	for name, cfg := range ways(t) {
		if cfg.Codec.Name == segment.None {
			continue
		}
		cfg.SegmentSize, cfg.Recompress = 30_000, true
		segs := packed(t, cfg, m.batches)
		all, data := segmentsOf(t, segs)
		opener := segment.NewOpener(cfg.Identities, 1<<30)
		for i := range all {
			ok(t, opener.Verify(all[i], bytes.Clone(data[i])))
		}
		if got, want := content(t, frames(t, unpacked(t, cfg, segs))), content(t, frames(t, m.records)); !bytes.Equal(got[0], want[0]) || !bytes.Equal(got[1], want[1]) {
			t.Errorf("%s: other records", name)
		}
		cfg.Batches = true
		got, want := framesOf(t, unpacked(t, cfg, segs)), framesOf(t, m.batches)
		d := recordbatch.NewDecoder()
		for part, batches := range want {
			if len(got[part]) != len(batches) {
				t.Fatalf("%s: %d batches of %d", name, len(got[part]), len(batches))
			}
			for i, was := range batches {
				is := got[part][i]
				old, err := recordbatch.Open(was)
				ok(t, err)
				now, err := recordbatch.Open(is)
				ok(t, err)
				plain, err := d.Uncompressed(nil, old)
				ok(t, err)
				if now.Codec() != kgo.CodecNone || is.Codec != recordbatch.CodecName(old.Codec()) || !bytes.Equal(is.Data, plain) {
					t.Errorf("%s: batch at %d: codec %v, %q", name, was.First, now.Codec(), is.Codec)
				}
			}
		}
	}
}

// framesOf are the batches of each partition.
func framesOf(t testing.TB, stream []byte) map[int32][]*format.Batch {
	t.Helper()
	out := make(map[int32][]*format.Batch)
	for _, f := range frames(t, stream) {
		if f.Kind == format.KindBatch {
			b, err := format.DecodeBatch(f.Raw)
			ok(t, err)
			out[b.Partition] = append(out[b.Partition], b)
		}
	}
	return out
}

// TestRecompressRatio wants what is recompressed to take no more than the same as records.
func TestRecompressRatio(t *testing.T) {
	size := func(cfg Config, in []byte) int64 {
		all, _ := segmentsOf(t, packed(t, cfg, in))
		return all[0].Size
	}
	records := events(12_000)
	in := stream(t, func(w *format.Writer) {
		for i := range records {
			ok(t, w.WriteRecord(&records[i]))
		}
	})
	asRecords := size(testConfig(), in)
	for _, codec := range producers {
		in := batchStream(t, newProducer(t), codec, 60, 200)
		cfg := testConfig()
		cfg.Recompress = true
		got, plain := size(cfg, in), size(testConfig(), in)
		t.Logf("%s: %d bytes recompressed, %d as they come, %d as records", codec, got, plain, asRecords)
		if got > asRecords+asRecords/100 || codec != "none" && got > plain {
			t.Errorf("%s: recompressed they take %d bytes, as they come %d, as records %d", codec, got, plain, asRecords)
		}
	}
}

// TestRecompressLarge has batches that come to more than there is memory for: they are
// stored as they are.
func TestRecompressLarge(t *testing.T) {
	p := newProducer(t)
	batch := func(first int64, mebibytes int) *format.Batch {
		zeros := make([]byte, 1<<20)
		var recs []format.Record
		for i := range int64(mebibytes) {
			recs = append(recs, format.Record{Topic: "t", Offset: first + i, Timestamp: 1000 + i, Value: zeros})
		}
		b := p.batch(t, "lz4", recs)
		p.builder = recordbatch.Builder{}
		return b
	}
	small, large, larger, bomb := batch(0, 2), batch(10, 10), batch(100, 40), batch(200, 257)
	var in, said bytes.Buffer
	w := format.NewWriter(&in)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentBatches}))
	for _, b := range []*format.Batch{small, large, larger, bomb} {
		ok(t, w.Write(b))
	}
	ok(t, w.Close(&format.End{}))
	cfg, env := testConfig(), testEnv()
	cfg.Recompress = true
	env.Log = slog.New(slog.NewTextHandler(&said, nil))
	var out bytes.Buffer
	ok(t, Pack(t.Context(), cfg, env, &in, &out))
	all, data := segmentsOf(t, out.Bytes())
	ok(t, segment.NewOpener(nil, 1<<30).Verify(all[0], data[0]))
	if all[0].MinTimestamp != math.MinInt64 || strings.Count(said.String(), "level=WARN") != 1 {
		t.Errorf("%+v\n%s", all[0], said.String())
	}
	cfg.Batches = true
	got := framesOf(t, unpacked(t, cfg, out.Bytes()))[0]
	for i, want := range []string{"lz4", "lz4", "", ""} {
		if got[i].Codec != want {
			t.Errorf("batch %d says %q", i, got[i].Codec)
		}
	}
	if !bytes.Equal(got[2].Data, larger.Data) || !bytes.Equal(got[3].Data, bomb.Data) {
		t.Error("what is too large is not as it was")
	}
}
