package offsets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// frames is a stream of frames.
func frames(t *testing.T, all ...format.Encoder) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	err := w.WriteHeader(&format.Header{Content: format.ContentRecords})
	end := new(format.End)
	for _, f := range all {
		if e, ok := f.(*format.End); ok {
			end = e
		} else if err == nil {
			err = w.Write(f)
		}
	}
	if err = errors.Join(err, w.Close(end)); err != nil {
		t.Fatal(err)
	}
	return &b
}

func at(topic string, offset int64) map[string]map[int32]format.GroupOffset {
	return map[string]map[int32]format.GroupOffset{topic: {0: {Offset: offset}}}
}

func newTranslateConfig(t *testing.T, by string, rename ...string) TranslateConfig {
	t.Helper()
	topics, err := pattern.CompileRenames(rename)
	if err != nil {
		t.Fatal(err)
	}
	none, err := pattern.CompileRenames(nil)
	if err != nil {
		t.Fatal(err)
	}
	return TranslateConfig{By: by, Topics: topics, RenameGroups: none, Groups: func(string) bool { return true }}
}

func quiet() *command.Env { return &command.Env{Name: "test", Log: slog.New(slog.DiscardHandler)} }

// TestWhereOffsetsGo translates one group, and says for each offset where it goes, or why not.
func TestWhereOffsetsGo(t *testing.T) {
	marks := []format.Encoder{
		&format.Mark{Topic: "t", MarkInfo: format.MarkInfo{TopicID: "new"}},
		&format.Mark{Topic: "t", Next: 10, MarkInfo: format.MarkInfo{TopicID: "new"}},
	}
	target := func(to string, num int32, offsets ...int64) *format.Target {
		return &format.Target{Topic: "t", TargetTopic: to, TargetPartition: num, TargetInfo: format.TargetInfo{TargetID: "id of " + to, Offsets: offsets}}
	}
	group := func(id string, offset int64) *format.Group {
		return &format.Group{ID: "g", Offsets: at("t", offset), GroupInfo: format.GroupInfo{Topics: map[string]string{"t": id}}}
	}
	run := &format.Map{Topic: "t", SourceFirst: 2, TargetTopic: "copy.t", TargetFirst: 100, Count: 3}
	for _, c := range []struct {
		name   string
		by     string
		rename []string
		frames []format.Encoder
		want   string
		status int
	}{
		{"a record", byMap, nil, []format.Encoder{run, target("copy.t", 0), group("new", 3)}, "copy.t/0:101", command.OK},
		{"behind the last one", byMap, nil, []format.Encoder{run, target("copy.t", 0), group("new", 7)}, "copy.t/0:103", command.OK},
		{"no records, and the map says where", byMap, nil, []format.Encoder{target("copy.t", 4), group("new", 10)}, "copy.t/4:end", command.OK},
		{"no records, and the user says where", byMap, []string{"t=there"}, []format.Encoder{group("new", 10)}, "there/0:end", command.OK},
		{"no records, and nobody says where", byMap, []string{"x=y"}, []format.Encoder{group("new", 10)}, "the map does not say what became of it", command.Loss},
		{"no records, and partitioned anew", byMap, nil, []format.Encoder{target("copy.t", -1), group("new", 10)}, "", command.OK},
		{"past the backup", byMap, nil, []format.Encoder{run, target("copy.t", 0), group("new", 11)}, "the backup ends at offset 10", command.Loss},
		{"another topic of that name", byMap, nil, []format.Encoder{run, target("copy.t", 0), group("old", 3)}, "another topic of this name", command.Loss},
		{"a topic id that is not known", byMap, nil, []format.Encoder{run, target("copy.t", 0), group("", 3)}, "copy.t/0:101", command.OK},
		{"a map made for it", byMap, nil, []format.Encoder{run, target("copy.t", 0, 3, 4), group("new", 3)}, "copy.t/0:101", command.OK},
		{"a map made for others", byMap, nil, []format.Encoder{run, target("copy.t", 0, 4), group("new", 3)}, "made for other offsets", command.Loss},
		{"the source lost something", byMap, nil, []format.Encoder{run, target("copy.t", 0), group("new", 3), &format.End{Lost: true}}, "copy.t/0:101", command.Loss},
		{"identity", byIdentity, nil, []format.Encoder{group("new", 3)}, "t/0:3", command.OK},
		{"identity, renamed", byIdentity, []string{"t=u"}, []format.Encoder{group("new", 3)}, "u/0:3", command.OK},
		{"identity, as the map says", byIdentity, []string{"t=u"}, []format.Encoder{target("copy.t", 1), group("new", 3)}, "copy.t/1:3", command.OK},
		{"identity of another topic", byIdentity, nil, []format.Encoder{group("old", 3)}, "another topic of this name", command.Loss},
	} {
		var out bytes.Buffer
		err := Translate(t.Context(), newTranslateConfig(t, c.by, c.rename...), quiet(), frames(t, append(marks, c.frames...)...), &out)
		if got := command.StatusOf(err); got != c.status {
			t.Errorf("%s: status %d, %v", c.name, got, err)
			continue
		}
		groups, _, err := readTranslated(t.Context(), &out, 0)
		if err != nil || len(groups) != 1 {
			t.Errorf("%s: %d groups, %v", c.name, len(groups), err)
			continue
		}
		got := ""
		for p, o := range each(groups[0]) {
			if got = fmt.Sprintf("%s:%d", p, o.Offset); o.AtEnd {
				got = p.String() + ":end"
			}
		}
		for _, u := range groups[0].Unplaced {
			got = u.Why
		}
		if !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if id := groups[0].Topics["copy.t"]; strings.HasPrefix(c.want, "copy.t/0") && id != "id of copy.t" {
			t.Errorf("%s: topic id %q", c.name, id)
		}
	}
}

// TestEmptyStandardInput: an empty pipe, as cron and ssh leave one, is no truncated
// stream where a file has the groups.
func TestEmptyStandardInput(t *testing.T) {
	file := filepath.Join(t.TempDir(), "map.kbk")
	both := frames(t, &format.Mark{Topic: "t"}, &format.Mark{Topic: "t", Next: 10}, &format.Map{Topic: "t", TargetTopic: "t", Count: 10},
		&format.Group{ID: "g", Offsets: at("t", 3)})
	if err := os.WriteFile(file, both.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := newTranslateConfig(t, byMap)
	var out bytes.Buffer
	if err := Translate(t.Context(), cfg, quiet(), new(bytes.Buffer), &out); !errors.Is(err, format.ErrEmpty) {
		t.Errorf("nothing to read: %v", err)
	}
	cfg.Maps, out = []string{file}, bytes.Buffer{}
	if err := Translate(t.Context(), cfg, quiet(), new(bytes.Buffer), &out); err != nil {
		t.Fatal(err)
	}
	if groups, _, err := readTranslated(t.Context(), &out, 0); err != nil || len(groups) != 1 || groups[0].Offsets["t"][0].Offset != 3 {
		t.Errorf("%+v, %v", groups, err)
	}
	if err := Translate(t.Context(), cfg, quiet(), strings.NewReader(both.String()[:20]), &out); !errors.Is(err, format.ErrTruncated) {
		t.Errorf("a truncated standard input: %v", err)
	}
}

// restored is a cluster with the values in partition 0 of topic t, each with its time
// and perhaps headers.
func restored(t *testing.T, records []*kgo.Record) kafka.Config {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return kafka.Config{Brokers: c.ListenAddrs()}
}

// TestTimestampSkipsNothing restores parts of records whose times are in no order, and
// wants no group to go on behind a record that it had not read.
func TestTimestampSkipsNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 30 {
		const n = 20
		source := []format.Encoder{&format.Mark{Topic: "t"}}
		var target []*kgo.Record
		place := make(map[int]int64) // target offset by source offset
		for i := range n {
			time := time.UnixMilli(1000 + rnd.Int64N(10))
			source = append(source, aRecord{format.Record{Topic: "t", Offset: int64(i), Timestamp: time.UnixMilli()}})
			if rnd.IntN(3) > 0 {
				place[i] = int64(len(target))
				target = append(target, &kgo.Record{Timestamp: time})
			}
		}
		source = append(source, &format.Mark{Topic: "t", Next: n})
		for c := range n + 1 {
			source = append(source, &format.Group{ID: fmt.Sprintf("g%02d", c), Offsets: at("t", int64(c))})
		}
		cfg := newTranslateConfig(t, byTimestamp)
		cfg.Kafka = restored(t, target)
		var out bytes.Buffer
		if err := Translate(t.Context(), cfg, quiet(), frames(t, source...), &out); err != nil && command.StatusOf(err) != command.Loss {
			t.Fatal(err)
		}
		groups, _, err := readTranslated(t.Context(), &out, 0)
		if err != nil || len(groups) != n+1 {
			t.Fatal(len(groups), err)
		}
		for c, g := range groups {
			want := int64(len(target))
			for i := n - 1; i >= c; i-- {
				if at, ok := place[i]; ok {
					want = at
				}
			}
			if o, ok := g.Offsets["t"][0]; ok && !o.AtEnd && o.Offset > want || ok && o.AtEnd && want < int64(len(target)) || !ok && want < int64(len(target)) {
				t.Errorf("offset %d is at %+v, and the next record at %d", c, o, want)
			}
		}
	}
}

// aRecord lets records stand among frames.
type aRecord struct{ format.Record }

func (r aRecord) AppendFrame(b []byte) ([]byte, error) { return format.AppendRecord(b, &r.Record), nil }

func TestTimestampNeedsRecords(t *testing.T) {
	cfg := newTranslateConfig(t, byTimestamp)
	cfg.Kafka = restored(t, []*kgo.Record{{Timestamp: time.UnixMilli(5)}, {Timestamp: time.UnixMilli(7)}})
	in := func() *bytes.Buffer {
		return frames(t, &format.Group{ID: "g", Offsets: map[string]map[int32]format.GroupOffset{"t": {
			0: {Offset: 40, Record: &format.NextRecord{Offset: 40, Timestamp: 6, Digest: []byte{1}}},
		}}})
	}
	if err := Translate(t.Context(), cfg, quiet(), in(), new(bytes.Buffer)); command.StatusOf(err) != command.Usage {
		t.Errorf("without records: %v", err)
	}
	cfg.MaySkip = true
	var out bytes.Buffer
	if err := Translate(t.Context(), cfg, quiet(), in(), &out); err != nil {
		t.Fatal(err)
	}
	if groups, _, err := readTranslated(t.Context(), &out, 0); err != nil || groups[0].Offsets["t"][0].Offset != 1 {
		t.Errorf("%+v, %v", groups, err)
	}
}

// TestMapByHeaders makes the map of the headers of a restore.
func TestMapByHeaders(t *testing.T) {
	var target []*kgo.Record
	for _, offset := range []string{"5", "6", "9"} {
		target = append(target, &kgo.Record{Headers: []kgo.RecordHeader{
			{Key: originHeader + "topic", Value: []byte("old")}, {Key: originHeader + "partition", Value: []byte("0")}, {Key: originHeader + "offset", Value: []byte(offset)},
		}}, &kgo.Record{Value: []byte("another's")})
	}
	to := restored(t, target)
	rename := newTranslateConfig(t, byMap, "old=t").Topics
	var found bytes.Buffer
	source := []format.Encoder{&format.Mark{Topic: "old", Next: 5}, &format.Mark{Topic: "old", Next: 12}, &format.Group{ID: "g", Offsets: at("old", 7)}}
	cfg := MapConfig{Kafka: to, By: byHeaders, Topics: rename, Groups: func(string) bool { return true }}
	if err := Map(t.Context(), cfg, quiet(), frames(t, source...), &found); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Translate(t.Context(), newTranslateConfig(t, byMap), quiet(), &found, &out); err != nil {
		t.Fatal(err)
	}
	groups, _, err := readTranslated(t.Context(), &out, 0)
	if err != nil || groups[0].Offsets["t"][0].Offset != 4 {
		t.Errorf("%+v, %v", groups, err)
	}
	cfg.Kafka = restored(t, []*kgo.Record{{Value: []byte("no headers")}})
	if err := Map(context.Background(), cfg, quiet(), frames(t, source...), new(bytes.Buffer)); command.StatusOf(err) != command.Failed {
		t.Errorf("no headers: %v", err)
	}
}
