package produce

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

func TestNaming(t *testing.T) {
	n, err := parseNaming([]string{"a=b", "^(x.*)$=restored.$1", "^(y)(.)=$2_$1", "^q=r=s"}, "pre.")
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]string{
		"a": "b", "aa": "pre.aa", "x1": "restored.x1", "y2": "2_y", "q=r": "s", "z": "pre.z",
	} {
		if got := n.target(topic); got != want {
			t.Errorf("%s goes to %s, not %s", topic, got, want)
		}
	}
	for _, bad := range []string{"x", "=x", "x=", "^(=y"} {
		if _, err := parseNaming([]string{bad}, ""); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := parseNaming([]string{"a=b", "a=c"}, ""); err == nil {
		t.Error("one topic may go to two")
	}
}

func TestBecame(t *testing.T) {
	n, err := parseNaming(nil, "copy.")
	if err != nil {
		t.Fatal(err)
	}
	all := make(spoken)
	all.add("b", 1)
	all.add("b", 0)
	all.add("a", 7)
	ids := map[string]string{"copy.b": "id-b"}
	for _, c := range []struct {
		name string
		cfg  Config
		want []format.Target
	}{
		{"kept", Config{Naming: n}, []format.Target{
			{Topic: "a", Partition: 7, TargetTopic: "copy.a", TargetPartition: 7},
			{Topic: "b", Partition: 0, TargetTopic: "copy.b", TargetPartition: 0, TargetInfo: format.TargetInfo{TargetID: "id-b"}},
			{Topic: "b", Partition: 1, TargetTopic: "copy.b", TargetPartition: 1, TargetInfo: format.TargetInfo{TargetID: "id-b"}},
		}},
		{"mapped", Config{Naming: n, PartitionMap: map[int32]int32{0: 3}}, []format.Target{
			{Topic: "a", Partition: 7, TargetTopic: "copy.a", TargetPartition: 7},
			{Topic: "b", Partition: 0, TargetTopic: "copy.b", TargetPartition: 3, TargetInfo: format.TargetInfo{TargetID: "id-b"}},
			{Topic: "b", Partition: 1, TargetTopic: "copy.b", TargetPartition: 1, TargetInfo: format.TargetInfo{TargetID: "id-b"}},
		}},
		{"spread", Config{Naming: n, Partitioner: murmur2}, []format.Target{
			{Topic: "a", Partition: 7, TargetTopic: "copy.a", TargetPartition: -1},
			{Topic: "b", Partition: 0, TargetTopic: "copy.b", TargetPartition: -1, TargetInfo: format.TargetInfo{TargetID: "id-b"}},
			{Topic: "b", Partition: 1, TargetTopic: "copy.b", TargetPartition: -1, TargetInfo: format.TargetInfo{TargetID: "id-b"}},
		}},
	} {
		if got := becameFrames(&c.cfg, all, ids); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestPartitionMap(t *testing.T) {
	m, err := parsePartitionMap("0=2, 1=0")
	if err != nil || len(m) != 2 || m[0] != 2 || m[1] != 0 {
		t.Errorf("%v, %v", m, err)
	}
	for _, bad := range []string{"0", "0=", "=1", "a=1", "0=1,0=2", "-1=0", "0=4294967296", ","} {
		if _, err := parsePartitionMap(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestMurmur2 holds the partitioner against Java's: the partitions of 10 that
// org.apache.kafka.common.utils.Utils.toPositive(murmur2(key)) % 10 gives, with the
// hashes from Kafka's own UtilsTest.
func TestMurmur2(t *testing.T) {
	p := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		want := int(hash&0x7fffffff) % 10
		if got := p.Partition(&kgo.Record{Key: []byte(key)}, 10); got != want {
			t.Errorf("%q goes to partition %d, not %d", key, got, want)
		}
	}
}

func TestOriginAndStrippedHeaders(t *testing.T) {
	a := arena{origin: true, strip: map[string]bool{"drop": true}}
	out := a.record(&format.Record{Topic: "t", Partition: 3, Offset: 7, Timestamp: -1, Headers: []format.RecordHeader{
		{Name: []byte("drop"), Value: []byte("x")}, {Name: []byte("keep")}, {Name: []byte("drop")},
	}})
	var got string
	for _, h := range out.Headers {
		got += fmt.Sprintf("%s=%q ", h.Key, h.Value)
	}
	if want := `keep="" kbk.source.topic="t" kbk.source.partition="3" kbk.source.offset="7" kbk.source.timestamp="-1" `; got != want {
		t.Errorf("got %s", got)
	}
}

// TestPrints wants that what is read back has the print of what was produced, and that
// nothing else has.
func TestPrints(t *testing.T) {
	g := newLogs(nil)
	h := g.newHasher()
	records := []format.Record{
		{Timestamp: 1},
		{Timestamp: 2},
		{Timestamp: 1, Key: []byte{}},
		{Timestamp: 1, Value: []byte{}},
		{Timestamp: 1, Key: []byte("ab")},
		{Timestamp: 1, Key: []byte("a"), Value: []byte("b")},
		{Timestamp: 1, Headers: []format.RecordHeader{{Name: []byte("a"), Value: []byte("b")}}},
		{Timestamp: 1, Headers: []format.RecordHeader{{Name: []byte("ab"), Value: []byte{}}}},
		{Timestamp: 1, Headers: []format.RecordHeader{{Name: []byte("ab")}}},
		{Timestamp: 1, Headers: []format.RecordHeader{{Name: []byte("ab")}, {Name: []byte("ab")}}},
	}
	seen := make(map[uint64]int)
	var a arena
	for i := range records {
		sum := h.fetched(&records[i])
		if other, ok := seen[sum]; ok {
			t.Errorf("records %d and %d have the same print", other, i)
		}
		seen[sum] = i
		if h.produced(a.record(&records[i])) != sum {
			t.Errorf("record %d has another print when it is produced", i)
		}
	}
}

// TestFillers decodes a batch of fillers as a consumer would.
func TestFillers(t *testing.T) {
	var f filler
	for _, n := range []int64{1, 77, fillerRecords} {
		b, err := f.batch(n)
		if err != nil {
			t.Fatal(err)
		}
		seal(b, 5, 1, 9)
		batch, rest, err := recordbatch.Cut(b)
		if err != nil || len(rest) > 0 || batch.ProducerID != 5 || int64(batch.Records) != n || batch.Last != n-1 {
			t.Fatalf("%d: %+v, %v", n, batch, err)
		}
		g := newLogs(nil)
		s := g.scan("t", 0, 0)
		spans, err := s.decode(nil, batch, 0)
		if want := (span{print{0, s.hasher.produced(emptyRecord)}, n}); err != nil || len(spans) != 1 || spans[0] != want {
			t.Fatalf("%d: %v, %v", n, spans, err)
		}
	}
}

// TestExisting takes spans apart again, up to the end.
func TestExisting(t *testing.T) {
	e := &existing{chunks: make(chan chunk, 2)}
	e.chunks <- chunk{spans: []span{{print{5, 1}, 3}, {print{9, 2}, 1}}}
	e.chunks <- chunk{spans: []span{{print{10, 2}, 1}}}
	close(e.chunks)
	var got []print
	for {
		p, ok, err := e.peek(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		got = append(got, p)
		e.pop()
	}
	if want := []print{{5, 1}, {6, 1}, {7, 1}, {9, 2}, {10, 2}}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestMarkerEpochs(t *testing.T) {
	m := markers{begun: true, producer: 7}
	last := int32(0)
	for m.epoch+markersAtOnce <= maxEpoch {
		id, epoch, err := m.take(context.Background(), nil, markersAtOnce)
		if err != nil || id != 7 || int32(epoch) != last+1 {
			t.Fatalf("%d, %d after %d, %v", id, epoch, last, err)
		}
		last = int32(epoch) + markersAtOnce - 1
	}
	if last > maxEpoch {
		t.Errorf("epoch %d", last)
	}
}

// BenchmarkRecord is what a record costs between the stream and the client.
func BenchmarkRecord(b *testing.B) {
	rec := &format.Record{Topic: "orders", Key: make([]byte, 11), Value: make([]byte, 500), Timestamp: 1, Headers: []format.RecordHeader{
		{Name: []byte("trace"), Value: make([]byte, 16)},
	}}
	for name, a := range map[string]arena{"plain": {}, "offset-headers": {origin: true}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.record(rec)
			}
		})
	}
}

// BenchmarkPrint is what it costs to compare a record with one that is there.
func BenchmarkPrint(b *testing.B) {
	h := newLogs(nil).newHasher()
	rec := new(arena).record(&format.Record{Key: make([]byte, 11), Value: make([]byte, 500)})
	b.ReportAllocs()
	for b.Loop() {
		h.produced(rec)
	}
}
