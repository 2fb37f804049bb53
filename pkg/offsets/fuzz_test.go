package offsets

import (
	"bytes"
	"testing"

	"github.com/kbkio/kbk/format"
)

// FuzzInput reads any stream as what a translation starts from. The runs and records that
// come out are as many as went in.
func FuzzInput(f *testing.F) {
	var b bytes.Buffer
	w := format.NewWriter(&b)
	for _, err := range []error{
		w.WriteHeader(&format.Header{Content: format.ContentRecords}),
		w.Write(&format.Topic{Name: "t", ID: "id", Partitions: 1}),
		w.Write(&format.Groups{}),
		w.Write(&format.Group{ID: "g", Offsets: map[string]map[int32]format.GroupOffset{"t": {0: {Offset: 7}}}}),
		w.Write(&format.Mark{Topic: "t", Next: 1, MarkInfo: format.MarkInfo{TopicID: "id"}}),
		w.Write(&format.Map{Topic: "t", SourceFirst: 1, TargetTopic: "u", TargetFirst: 5, Count: 3}),
		w.Write(&format.Target{Topic: "t", TargetTopic: "u", TargetPartition: 0}),
		w.WriteRecord(&format.Record{Topic: "t", Offset: 1, Value: []byte("v")}),
		w.WriteRecord(&format.Record{Topic: "t", Offset: 2, Key: []byte("k")}),
		w.Close(&format.End{Records: 2, Lost: true, Losses: []string{"t/0: gone"}}),
	} {
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, _ = readTranslated(t.Context(), bytes.NewReader(data), 1<<20)
		in := newInput()
		defer in.close()
		if err := in.read(t.Context(), bytes.NewReader(data), "f", 1<<20, true); err != nil {
			return
		}
		r := format.NewReader(bytes.NewReader(data), 1<<20)
		var maps, records int
		for {
			frame, err := r.Next()
			if err != nil {
				break
			}
			switch frame.Kind {
			case format.KindMap:
				maps++
			case format.KindRec:
				records++
			}
		}
		rule := newRule()
		rule.ready()
		if err := in.eachMap(func(m *format.Map) { rule.add(m); maps-- }); err != nil {
			t.Fatal(err)
		}
		rule.finish()
		if err := in.eachRecord(func(place, format.NextRecord) { records-- }); err != nil {
			t.Fatal(err)
		}
		if maps != 0 || records != 0 {
			t.Fatalf("%d runs and %d records more went in than came out", maps, records)
		}
		in.groups.sorted()
	})
}
