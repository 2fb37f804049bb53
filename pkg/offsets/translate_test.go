package offsets

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
	"github.com/kbkio/kbk/pkg/recordbatch/batchtest"
)

// stream is a backup of partition 0 of topic t whose records, one a letter, begin at
// offset 0, with a group at each offset.
func stream(t *testing.T, letters string) *bytes.Buffer {
	t.Helper()
	return streamOf(t, letters, format.ContentRecords)
}

// streamOf is [stream] with a content: where that is batches, all records are in one.
func streamOf(t *testing.T, letters, content string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	err := w.WriteHeader(&format.Header{Content: content})
	write := func(f format.Encoder) {
		if err == nil {
			err = w.Write(f)
		}
	}
	write(&format.Mark{Topic: "t"})
	var records []format.Record
	for i, l := range letters {
		records = append(records, format.Record{Topic: "t", Offset: int64(i), Timestamp: 1000, Value: []byte(string(l))})
	}
	if content == format.ContentBatches {
		write(batchtest.Frame(t, "lz4", records...))
		records = nil
	}
	for i := range records {
		if err == nil {
			err = w.WriteRecord(&records[i])
		}
	}
	write(&format.Mark{Topic: "t", Next: int64(len(letters))})
	for c := range len(letters) + 2 {
		write(&format.Group{ID: fmt.Sprintf("g%03d", c), Offsets: map[string]map[int32]format.GroupOffset{"t": {0: {Offset: int64(c)}}}})
	}
	if err == nil {
		err = w.Close(new(format.End))
	}
	if err != nil {
		t.Fatal(err)
	}
	return &b
}

// byLetters translates the groups of a [stream] to a cluster where topic t has other
// records, and returns the offset of each group; -1: no place.
func byLetters(t *testing.T, source *bytes.Buffer, target string) []int64 {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, l := range target {
		cl.Produce(t.Context(), &kgo.Record{Value: []byte(string(l)), Timestamp: time.UnixMilli(1000)}, nil)
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	rename, err := pattern.CompileRenames(nil)
	if err != nil {
		t.Fatal(err)
	}
	var found, out bytes.Buffer
	env, all := &command.Env{Name: "test", Log: slog.New(slog.DiscardHandler)}, func(string) bool { return true }
	if err := Map(t.Context(), MapConfig{Kafka: kafka.Config{Brokers: c.ListenAddrs()}, By: byContent, Topics: rename, Groups: all}, env, source, &found); err != nil {
		t.Fatal(err)
	}
	err = Translate(t.Context(), TranslateConfig{By: byMap, Topics: rename, RenameGroups: rename, Groups: all}, env, &found, &out)
	if s := command.StatusOf(err); s != command.Loss { // the last group is past the backup
		t.Fatalf("status %d: %v", s, err)
	}
	groups, _, err := readTranslated(t.Context(), &out, 0)
	if err != nil {
		t.Fatal(err)
	}
	var offsets []int64
	for _, g := range groups {
		at := int64(-1)
		for _, o := range each(g) {
			at = o.Offset
			if o.AtEnd {
				at = int64(len(target))
			}
		}
		offsets = append(offsets, at)
	}
	return offsets
}

func TestContent(t *testing.T) {
	for _, c := range []struct {
		name, source, target string
		want                 []int64
	}{
		{"the same", "abc", "abc", []int64{0, 1, 2, 3, -1}},
		{"behind others", "abc", "yzabcz", []int64{2, 3, 4, 5, -1}},
		{"one left out", "abc", "ac", []int64{0, 1, 1, 2, -1}},
		{"alike, told apart by their order", "axbxcx", "axbxcx", []int64{0, 1, 2, 3, 4, 5, 6, -1}},
		{"alike, one left out: the first", "axbxc", "abxc", []int64{0, 1, 1, 2, 3, 4, -1}},
		{"restored twice: the first", "abc", "abcabc", []int64{0, 1, 2, 3, -1}},
		{"nothing of it", "abc", "xyz", []int64{-1, -1, -1, -1, -1}},
		{"nothing within sight", strings.Repeat("m", candidates) + "z", "z", append(append([]int64{-1}, make([]int64, candidates)...), 1, -1)},
	} {
		for _, content := range []string{format.ContentRecords, format.ContentBatches} {
			if got := byLetters(t, streamOf(t, c.source, content), c.target); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%s, %s: %v, not %v", c.name, content, got, c.want)
			}
		}
	}
}

// TestContentSkipsNothing restores parts of random records, alike or not, and wants no
// group to go on behind a record that it had not read.
func TestContentSkipsNothing(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		source, target := make([]byte, 20), []byte(nil)
		place := make(map[int]int64) // target offset by source offset
		for i := range source {
			source[i] = "abcdefgh"[rnd.IntN(8)]
			if rnd.IntN(4) > 0 {
				place[i] = int64(len(target))
				target = append(target, source[i])
			}
		}
		for c, got := range byLetters(t, stream(t, string(source)), string(target)) {
			want := int64(len(target))
			for i := len(source) - 1; i >= c; i-- {
				if at, ok := place[i]; ok {
					want = at
				}
			}
			if got > want {
				t.Errorf("seed %d: %s restored as %s: offset %d is at %d, behind %d", seed, source, target, c, got, want)
			}
		}
	}
}

// BenchmarkMaps reads the map of a topic whose records were spread over partitions, so
// that hardly two of them make a run.
func BenchmarkMaps(b *testing.B) {
	var s bytes.Buffer
	w := format.NewWriter(&s)
	err := w.WriteHeader(&format.Header{Content: format.ContentRecords})
	for i := range int64(b.N) {
		if err == nil {
			err = w.Write(&format.Map{Topic: "orders", SourceFirst: i, TargetTopic: "orders", TargetPartition: int32(i % 7), TargetFirst: i / 7, Count: 1})
		}
	}
	if err == nil {
		err = w.Close(new(format.End))
	}
	if err != nil {
		b.Fatal(err)
	}
	in, r := newInput(), newRule()
	defer in.close()
	b.ReportAllocs()
	b.ResetTimer()
	if err := in.read(context.Background(), &s, "it", 0, true); err != nil {
		b.Fatal(err)
	}
	if err := in.eachMap(r.add); err != nil {
		b.Fatal(err)
	}
}
