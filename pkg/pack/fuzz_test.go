package pack

import (
	"bytes"
	"testing"

	"github.com/kbkio/kbk/format"
)

// recordsOf are the records of a stream, one behind the other.
func recordsOf(t *testing.T, stream []byte) (records []byte) {
	for _, f := range frames(t, stream) {
		if f.Kind == format.KindRec {
			records = append(records, f.Raw...)
		}
	}
	return records
}

// FuzzPack packs any stream. What is packed is, unpacked, the same records, for each
// partition.
func FuzzPack(f *testing.F) {
	f.Add(stream(f, random(1, 1, 5)))
	f.Add(stream(f, func(w *format.Writer) {
		ok(f, w.Write(&format.Topic{Name: "t", ID: "id", Partitions: 1}))
		ok(f, w.Write(&format.Mark{Topic: "t", Next: 3, MarkInfo: format.MarkInfo{TopicID: "id", Begins: true}}))
		ok(f, w.WriteRecord(&format.Record{Topic: "t", Offset: 3, Value: []byte("v")}))
		ok(f, w.Write(&format.Mark{Topic: "t", Next: 9, MarkInfo: format.MarkInfo{TopicID: "id", Lost: [][2]int64{{4, 6}}}}))
		ok(f, w.Write(&format.Group{ID: "g", Offsets: map[string]map[int32]format.GroupOffset{"t": {0: {Offset: 7}}}}))
		ok(f, w.Write(&format.Point{Time: 5}))
	}))
	cfg := testConfig()
	cfg.SegmentSize, cfg.Memory, cfg.MaxFrame = 20_000, minMemory, 1<<20
	f.Fuzz(func(t *testing.T, in []byte) {
		var segments, records bytes.Buffer
		err := Pack(t.Context(), cfg, testEnv(), bytes.NewReader(in), &segments)
		if segments.Len() == 0 || err != nil && !bytes.Contains(segments.Bytes(), []byte("\x63end")) {
			return
		}
		whole := format.NewReader(bytes.NewReader(segments.Bytes()), 1<<20)
		for {
			if f, err := whole.Next(); err != nil {
				return // it was refused half-way
			} else if f.Kind == format.KindEnd {
				break
			}
		}
		_ = Unpack(t.Context(), cfg, testEnv(), bytes.NewReader(segments.Bytes()), &records) // a loss has a status of its own
		if got, want := recordsOf(t, records.Bytes()), recordsOf(t, in); len(got) != len(want) {
			t.Fatalf("%d bytes of records became %d", len(want), len(got))
		}
	})
}

// FuzzUnpack unpacks any stream of segments. What comes out is a whole stream where nothing
// is said to be wrong.
func FuzzUnpack(f *testing.F) {
	cfg := testConfig()
	cfg.SegmentSize, cfg.Memory, cfg.MaxFrame = 20_000, minMemory, 1<<20
	f.Add(packed(f, cfg, stream(f, random(1, 2, 5))))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		if Unpack(t.Context(), cfg, testEnv(), bytes.NewReader(in), &out) == nil {
			frames(t, out.Bytes())
		}
	})
}
