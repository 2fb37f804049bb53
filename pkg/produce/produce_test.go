package produce

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/partitionlog"
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
		if got := n.Target(topic); got != want {
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
	e := newEditor(true, []string{"drop"})
	for range 2 { // the second in the memory of the first
		rec := &format.Record{Topic: "t", Partition: 3, Offset: 7, Timestamp: -1, Headers: []format.RecordHeader{
			{Name: []byte("drop"), Value: []byte("x")}, {Name: []byte("keep")}, {Name: []byte("drop")},
		}}
		e.edit(rec)
		var got string
		for _, h := range rec.Headers {
			got += fmt.Sprintf("%s=%q ", h.Name, h.Value)
		}
		if want := `keep="" kbk.source.topic="t" kbk.source.partition="3" kbk.source.offset="7" kbk.source.timestamp="-1" `; got != want {
			t.Errorf("got %s", got)
		}
	}
}

// TestPrints wants records that differ to have different prints.
func TestPrints(t *testing.T) {
	h := newHasher()
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
	for i := range records {
		sum := h.sum(&records[i])
		if other, ok := seen[sum]; ok {
			t.Errorf("records %d and %d have the same print", other, i)
		}
		seen[sum] = i
		if h.twin().sum(&records[i]) != sum {
			t.Errorf("record %d has another print elsewhere", i)
		}
	}
}

// TestFillers decodes a batch of fillers as a consumer would.
func TestFillers(t *testing.T) {
	c, err := recordbatch.NewCompressor(fillerCodec, fillerLevel)
	if err != nil {
		t.Fatal(err)
	}
	var f filler
	for _, n := range []int64{1, 77, fillerRecords} {
		b, err := f.batch(c, n)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 70_000 {
			t.Errorf("%d fillers take %d bytes", n, len(b))
		}
		recordbatch.Stamp(b, 5, 1, 9)
		batch, rest, err := recordbatch.Cut(b)
		if err != nil || len(rest) > 0 || batch.ProducerID != 5 || int64(batch.Records) != n || batch.Last != n-1 {
			t.Fatalf("%d: %+v, %v", n, batch, err)
		}
		s := newScan(nil, partitionlog.Partition{}, 0, newHasher())
		spans, err := s.decode(nil, batch, 0, n)
		if want := (span{print{0, s.hasher.sum(new(format.Record))}, n}); err != nil || len(spans) != 1 || spans[0] != want {
			t.Fatalf("%d: %v, %v", n, spans, err)
		}
	}
}

// TestExisting takes spans apart again, up to the end, and knows who has written last.
func TestExisting(t *testing.T) {
	none := sequence{id: -1}
	e := &existing{chunks: make(chan chunk, 3), came: adopted{none, none}}
	e.chunks <- chunk{spans: []span{{print{5, 1}, 3}, {print{9, 2}, 1}}, came: adopted{sequence{7, 0, 4}, sequence{id: 3, epoch: 9}}, size: 100}
	e.chunks <- chunk{spans: []span{{print{10, 2}, 1}}, came: adopted{sequence{7, 0, 5}, none}, size: 50}
	e.chunks <- chunk{came: adopted{none, sequence{id: 3, epoch: 10}}, size: 1}
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
	if e.came != (adopted{sequence{7, 0, 5}, sequence{id: 3, epoch: 10}}) || e.size != 151 {
		t.Errorf("%+v, %d bytes", e.came, e.size)
	}
}

func TestMarkerEpochs(t *testing.T) {
	fresh := func() (int64, error) { return 8, nil }
	for _, c := range []struct {
		name         string
		last, first  sequence
		id           int64
		epoch, again int16
	}{
		{"new", sequence{id: -1}, sequence{id: 5}, 5, 1, 101},
		{"of the note", sequence{id: -1}, sequence{id: 5, epoch: 2000}, 5, 2001, 2101},
		{"of the log", sequence{id: 6, epoch: 40}, sequence{id: 5}, 6, 2041, 2141},
		{"used up", sequence{id: 6, epoch: 32700}, sequence{id: 5}, 8, 1, 101},
		{"nobody's", sequence{id: -1}, sequence{id: -1}, 8, 1, 101},
	} {
		m := markers{last: c.last}
		id, epoch, err := m.take(100, c.first, fresh)
		_, again, err2 := m.take(1, c.first, fresh)
		if err != nil || err2 != nil || id != c.id || epoch != c.epoch || again != c.again {
			t.Errorf("%s: %d, %d, %d", c.name, id, epoch, again)
		}
	}
	m := markers{last: sequence{id: 7}, begun: true}
	for last := int32(0); ; {
		id, epoch, err := m.take(partitionlog.MaxMarkers, sequence{}, fresh)
		if err != nil {
			t.Fatal(err)
		}
		if id != 7 {
			break
		}
		if int32(epoch) != last+1 || epoch > partitionlog.MaxMarkerEpoch-partitionlog.MaxMarkers+1 {
			t.Fatalf("epoch %d after %d", epoch, last)
		}
		last = int32(epoch) + partitionlog.MaxMarkers - 1
	}
}

// BenchmarkPrint is what it costs to compare a record with one that is there.
func BenchmarkPrint(b *testing.B) {
	h := newHasher()
	rec := &format.Record{Key: make([]byte, 11), Value: make([]byte, 500)}
	b.ReportAllocs()
	for b.Loop() {
		h.sum(rec)
	}
}
