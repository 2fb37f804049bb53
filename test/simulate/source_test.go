package simulate

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/fetch"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/segment"
)

// fetched is the stream of a fetch, and what became of it.
type fetched struct {
	raw    []byte // records, before they are filtered
	packed []byte
	stream *stream
	status int
	groups map[string]map[string]map[int32]int64 // nil: not asked for
	holes  bool
}

// fetch reads the cluster and packs it, the stages over a pipe, and checks the stream
// against the truth.
func (w *world) fetch(v *vault) *fetched {
	cfg := fetch.Config{
		Kafka: kafka.Config{Brokers: w.fake.ListenAddrs(), ClientID: "simulate"}, Concurrency: 64, Timeout: time.Minute,
		FetchBytes: 16 << 20, FetchPartitionBytes: 256 << 10, FetchWait: 10 * time.Millisecond, Topics: []string{"^"},
	}
	f := new(fetched)
	selected := slices.Sorted(maps.Keys(w.topics))
	if w.rng.IntN(3) == 0 {
		cfg.Topics = []string{selected[w.rng.IntN(len(selected))]}
		selected = cfg.Topics
	}
	how := strings.Join(cfg.Topics, ",")
	if w.rng.IntN(2) == 0 {
		cfg.Groups, f.groups = []string{"^"}, clone(w.groups)
		how += " with groups"
	}
	from := func(p part, start, end int64) int64 { return start }
	lost := false
	switch w.rng.IntN(8) {
	case 0, 1, 2, 3:
		c := w.cursor(v)
		cfg.Cursor = c
		how += " from a cursor"
		from = func(p part, start, end int64) int64 {
			t, ok := c.Topics[p.topic]
			at, named := t.Partitions[p.n]
			if !ok || !named || t.ID != "" && t.ID != p.id {
				return start
			}
			if at < start {
				lost = true
				return start
			}
			return at
		}
	case 4:
		n := int64(1 + w.rng.IntN(10))
		var err error
		cfg.From, err = fetch.ParseBound(fmt.Sprint(-n), time.Now())
		w.must(err)
		how += fmt.Sprintf(" from -%d", n)
		from = func(p part, start, end int64) int64 { return max(start, end-n) }
		f.holes = true
	}
	filter := ""
	if w.rng.IntN(5) == 0 {
		// One filter in a history: of what two different ones have left of the same offsets a
		// restore takes one.
		filter = w.filter
		how += " only " + filter
	}

	var raw, packed bytes.Buffer
	read, write := io.Pipe()
	var fetchErr, packErr error
	var all sync.WaitGroup
	all.Go(func() {
		tee := &raw
		fetchErr = fetch.Run(w.ctx, cfg, w.env("kbk-fetch"), io.MultiWriter(tee, write))
		write.Close()
	})
	var in io.Reader = read
	if filter != "" {
		filtered, to := io.Pipe()
		all.Go(func() { to.CloseWithError(keepOnly(filter, read, to)) })
		in = filtered
	}
	all.Go(func() {
		cfg := pack.Config{SegmentSize: int64(300 + w.rng.IntN(3000)), Memory: 64 << 20, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd"), Level: 1}
		packErr = pack.Pack(w.ctx, cfg, w.env("kbk-pack"), in, &packed)
		_, _ = io.Copy(io.Discard, in)
	})
	all.Wait()
	f.status, f.packed = status(fetchErr), packed.Bytes()
	if f.status != command.OK && f.status != command.Loss {
		w.breaks("fetch %s: %v", how, fetchErr)
	}
	if status(packErr) != f.status {
		w.breaks("fetch %s: status %d (%v), pack: %v", how, f.status, fetchErr, packErr)
	}
	f.raw = raw.Bytes()
	f.stream = w.read("fetch "+how, f.raw)
	for _, topic := range selected {
		for n := range int32(partitionCount) {
			p := part{topic, w.topics[topic], n}
			info := w.fake.PartitionInfo(topic, n)
			begin := from(p, info.LogStartOffset, info.LastStableOffset)
			for offset := range w.truth[p] {
				_, got := f.stream.records[p][offset]
				if want := offset >= begin && offset < info.LastStableOffset; got != want {
					w.breaks("fetch %s: %s: record %d is read: %v, and should be: %v (log from %d, stable to %d)", how, p, offset, got, want, info.LogStartOffset, info.LastStableOffset)
				}
			}
		}
	}
	// What a transaction hides that is a few seconds old is left to the next run, without a word.
	if lost != (f.status == command.Loss) {
		w.breaks("fetch %s: %v, and loss: %v", how, fetchErr, lost)
	}
	if filter != "" {
		for _, rs := range f.stream.records {
			maps.DeleteFunc(rs, func(_ int64, c content) bool { return c.key != filter })
		}
	}
	w.say("fetched %s: status %d, %d records", how, f.status, f.stream.count())
	return f
}

func (s *stream) count() (n int) {
	for _, rs := range s.records {
		n += len(rs)
	}
	return n
}

// keepOnly is a stage that passes on the records with a key.
func keepOnly(key string, in io.Reader, out io.Writer) error {
	r, w := format.NewReader(in, 0), format.NewWriter(out)
	h, err := r.Header()
	if err != nil {
		return err
	}
	h.Filters = append(h.Filters, "simulated:"+key)
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	for {
		f, err := r.Next()
		if err != nil {
			return err
		}
		switch f.Kind {
		case format.KindRec:
			var rec format.Record
			if err := f.Record(&rec); err != nil {
				return err
			}
			if string(rec.Key) != key {
				continue
			}
		case format.KindEnd:
			end, err := format.DecodeEnd(f.Raw)
			if err != nil {
				return err
			}
			return w.Close(end)
		}
		if err := w.WriteRaw(f.Raw); err != nil {
			return err
		}
	}
}
