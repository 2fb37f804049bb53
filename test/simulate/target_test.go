package simulate

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/offsets"
	"github.com/kbkio/kbk/pkg/pattern"
	"github.com/kbkio/kbk/pkg/produce"
)

// A place is a partition of the target.
type place struct {
	topic string
	n     int32
}

// recover writes a stream of records to a cluster of its own, in two runs at times of which
// the first one is cut short, and looks what is there then, and what groups read next.
func (w *world) recover(what string, records []byte, want int) {
	s := w.read(what, records)
	target, err := kfake.NewCluster(kfake.Ports(9192), kfake.ListenFn(w.net.Listen))
	w.must(err)
	defer target.Close()
	wantNoMetrics(target)
	cfg := produce.Config{
		Kafka:        w.kafka(target),
		CreateTopics: true, ReplicationFactor: 1, IfNotEmpty: "fail", Memory: 16 << 20, MaxFrame: 1 << 20, Timeout: time.Minute,
	}
	if cfg.Exact = w.rng.IntN(3) == 0; cfg.Exact {
		cfg.MaxGap = 1 << 20
		what += ", exact"
	}
	if w.rng.IntN(2) == 0 {
		cut := records[:w.rng.IntN(len(records))]
		err := produce.Run(w.ctx, cfg, w.env("kbk-produce"), bytes.NewReader(cut), new(bytes.Buffer))
		if got := status(err); got == command.OK || got == command.Loss {
			w.breaks("%s: produce: status %d of a stream that is cut short", what, got)
		}
		what += ", in two runs"
	}
	var produced bytes.Buffer
	if err := produce.Run(w.ctx, cfg, w.env("kbk-produce"), bytes.NewReader(records), &produced); status(err) != want {
		w.breaks("%s: produce: %v, and the status should be %d", what, err, want)
	}
	got := w.consume(target, s)
	for p, rs := range s.records {
		at := place{p.topic, p.n}
		if len(got[at]) != len(rs) {
			w.breaks("%s: %s has %d records in the target, and %d in the stream", what, p, len(got[at]), len(rs))
		}
		for i, offset := range slices.Sorted(maps.Keys(rs)) {
			if got[at][i].content != rs[offset] {
				w.breaks("%s: %s: record %d is %v in the target instead of %v", what, p, offset, got[at][i].content, rs[offset])
			}
			if cfg.Exact && got[at][i].offset != offset {
				w.breaks("%s: %s: record %d has offset %d in the target", what, p, offset, got[at][i].offset)
			}
			w.compared++
		}
	}
	if len(s.groups) > 0 {
		w.carryOver(what, s, target, got, produced.Bytes())
	}
	w.say("%s into a cluster", what)
}

type consumed struct {
	offset int64
	content
}

// consume reads all committed records in the topics of s, with another client than kbk's.
func (w *world) consume(cluster *kfake.Cluster, s *stream) map[place][]consumed {
	all := make(map[place][]consumed)
	for topic := range s.ids {
		for _, info := range cluster.PartitionInfos(topic) {
			all[place{topic, info.Partition}] = w.consumed(cluster, topic, info)
		}
	}
	return all
}

func (w *world) consumed(cluster *kfake.Cluster, topic string, info *kfake.PartitionInfo) (all []consumed) {
	if info.HighWatermark == info.LogStartOffset {
		return nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.Dialer(w.dial), kgo.WithDecompressor(decompressor{}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), // these are the end of a log at times
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {info.Partition: kgo.NewOffset().AtStart()}}))
	w.must(err)
	defer cl.Close()
	for at := int64(-1); at < info.LastStableOffset-1; {
		fetches := cl.PollFetches(w.ctx)
		w.must(fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			if at = r.Offset; !r.Attrs.IsControl() {
				all = append(all, consumed{r.Offset, content{string(r.Key), string(r.Value), r.Timestamp.UnixMilli()}})
			}
		})
	}
	return all
}

// A decompressor is one without channels: those of a bubble cannot be closed outside of it, and
// kgo's decoders are closed when the garbage collector finds them.
type decompressor struct{}

var zstdDecoder, _ = zstd.NewReader(nil)

// Decompress implements kgo.Decompressor.
func (decompressor) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	if codec == kgo.CodecZstd {
		return zstdDecoder.DecodeAll(src, nil)
	}
	return kgo.DefaultDecompressor().Decompress(src, codec)
}

// carryOver translates and commits the groups that are in a map, and looks which record each
// of them reads next.
func (w *world) carryOver(what string, s *stream, target *kfake.Cluster, got map[place][]consumed, produced []byte) {
	var translated bytes.Buffer
	all := func(string) bool { return true }
	none, err := pattern.CompileRenames(nil)
	w.must(err)
	err = offsets.Translate(w.ctx, offsets.TranslateConfig{By: "map", Groups: all, Topics: none, RenameGroups: none, MaxFrame: 1 << 20}, w.env("kbk-offsets"), bytes.NewReader(produced), &translated)
	if err != nil && status(err) != command.Loss {
		w.breaks("%s: translate: %v", what, err)
	}
	undo := filepath.Join(w.t.TempDir(), fmt.Sprintf("undo%d", w.compared))
	applyErr := offsets.Apply(w.ctx, offsets.ApplyConfig{Kafka: w.kafka(target), Skip: func(string) bool { return false }, Undo: undo, MaxFrame: 1 << 20},
		w.env("kbk-offsets"), bytes.NewReader(translated.Bytes()), new(bytes.Buffer))
	if applyErr != nil && status(applyErr) != command.Loss {
		w.breaks("%s: apply: %v", what, applyErr)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(target.ListenAddrs()...), kgo.Dialer(w.dial))
	w.must(err)
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for id, g := range s.groups {
		committed, err := adm.FetchOffsets(w.ctx, id)
		if errors.Is(err, kerr.GroupIDNotFound) {
			err = nil
		}
		w.must(err)
		for topic, ps := range g.Offsets {
			for n, at := range ps {
				if _, ok := s.next[part{topic, s.ids[topic], n}]; !ok {
					continue
				}
				c, ok := committed.Lookup(topic, n)
				if !ok || c.At < 0 {
					if applyErr == nil {
						w.breaks("%s: group %s has no offset in %s/%d, and nobody says so", what, id, topic, n)
					}
					continue
				}
				source, next := s.records[part{topic, s.ids[topic], n}], "none"
				for _, offset := range slices.Sorted(maps.Keys(source)) {
					if offset >= at.Offset {
						next = source[offset].value
						break
					}
				}
				reads := "none"
				for _, r := range got[place{topic, n}] {
					if r.offset >= c.At {
						reads = r.value
						break
					}
				}
				if reads != next {
					w.breaks("%s: group %s at %d of %s/%d reads %q next, and should read %q", what, id, at.Offset, topic, n, reads, next)
				}
			}
		}
	}
}
