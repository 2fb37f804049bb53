package produce

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/pkg/command"
)

// tooLarge counts the records that a topic would not take.
type tooLarge struct {
	compressor kgo.Compressor // nil before it is needed
	count      int64
}

// record names a record whose batch is too large, compressed as it would be.
func (t *tooLarge) record(log *slog.Logger, codec string, r *route, offset int64, out *kgo.Record, size int) {
	if t.compressor == nil {
		var err error
		if t.compressor, err = kgo.DefaultCompressor(codecs[codec]); err != nil {
			panic(err) // the codecs are constants
		}
	}
	plain := bytes.NewBuffer(make([]byte, 0, size))
	plain.Write(out.Key)
	plain.Write(out.Value)
	for _, h := range out.Headers {
		plain.WriteString(h.Key)
		plain.Write(h.Value)
	}
	b, _ := t.compressor.Compress(new(bytes.Buffer), plain.Bytes())
	packed := min(len(b)+batchOverhead, size)
	if packed <= int(r.to.target.maxBatch) {
		return
	}
	t.count++
	log.Warn(fmt.Sprintf("%s/%d: the record of offset %d takes %s, and topic %s takes batches of %s", r.from.source.name, r.from.num, offset,
		humanize.IBytes(uint64(packed)), r.to.target.name, humanize.IBytes(uint64(r.to.target.maxBatch))))
}

// report says what a run would do.
func (p *producer) report() error {
	var large error
	for _, name := range slices.Sorted(maps.Keys(p.targets.topics)) {
		t := p.targets.topics[name]
		p.env.Log.Info(fmt.Sprintf("would produce %s to topic %s", command.Count(t.records, "record"), name), "bytes", t.size)
		if !p.cfg.Exact {
			continue
		}
		var filled, gaps, written int64
		for _, l := range t.lanes {
			if l.exact != nil {
				filled, gaps, written = filled+l.exact.filled, gaps+l.exact.gaps, written+l.exact.written
			}
		}
		p.env.Log.Info(fmt.Sprintf("would fill %s below the first records of topic %s, and write %s into %s between",
			command.Count(filled, "offset"), name, command.Count(written, "marker"), command.Count(gaps, "gap")))
	}
	if p.there > 0 {
		p.env.Log.Info(fmt.Sprintf("%s there already", command.Count(p.there, "record")))
	}
	if p.check.count > 0 {
		large = command.WithHint(fmt.Errorf("%s too large for the target", command.Count(p.check.count, "record")), "raise max.message.bytes of the topics")
	}
	return large
}
