package produce

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A tooLargeCount counts the records that a topic would not take.
type tooLargeCount struct {
	builder recordbatch.Builder
	count   int64
}

// weigh is what a dry run does with a record.
func (p *producer) weigh(ctx context.Context, r *route, rec *format.Record, size int, codec *recordbatch.Compressor) error {
	t := r.to.target
	if size+largestHeader > t.maxBatch {
		p.check.builder.Reset()
		p.check.builder.Append(rec)
		raw, err := p.build(t, &p.check.builder, codec)
		if err != nil {
			return err
		}
		if len(raw) > t.maxBatch {
			p.check.count++
			p.env.Log.Warn(fmt.Sprintf("%s/%d: the record of offset %d takes %s, and topic %s takes batches of %s", r.from.source.name, r.from.num, rec.Offset,
				humanize.IBytes(uint64(len(raw))), t.name, humanize.IBytes(uint64(t.maxBatch))))
		}
	}
	return p.count(ctx, r.to, rec.Offset, rec.Offset, size)
}

// count is what a dry run does with a record or a batch that the topic would take.
func (p *producer) count(ctx context.Context, l *lane, first, last int64, size int) error {
	l.target.records += last - first + 1
	l.target.size += int64(size)
	l.written += int64(size)
	if p.cfg.Exact {
		return p.align(ctx, l, first, last)
	}
	return nil
}

// largestHeader is more than a batch takes besides its records.
const largestHeader = 64

// report says what a run would do.
func (p *producer) report(now time.Time) error {
	for _, line := range p.targets.done.lines() {
		p.env.Log.Info(line)
	}
	for _, name := range slices.Sorted(maps.Keys(p.targets.topics)) {
		t := p.targets.topics[name]
		p.env.Log.Info(fmt.Sprintf("would produce %s to topic %s", command.Count(t.records, "record"), name), "bytes", t.size)
		for _, eaten := range t.eaten(nil, now) {
			p.env.Log.Warn(eaten.line(name))
		}
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
		p.env.Log.Info(fmt.Sprintf("%s already there", command.Count(p.there, "record")))
	}
	if p.check.count > 0 {
		return command.WithHint(fmt.Errorf("%s too large for the target", command.Count(p.check.count, "record")), "raise max.message.bytes of the topics")
	}
	return nil
}
