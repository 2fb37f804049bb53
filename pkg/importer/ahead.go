package importer

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/foreign"
)

const (
	pieceSize = 1 << 20 // of encoded records that are handed over at once
	pieces    = 4       // of them that wait for each file
)

// ahead reads files before it is their turn, several at once: each in a goroutine of its
// own that decodes it and hands over encoded records.
type ahead struct {
	ctx     context.Context
	cancel  context.CancelFunc
	m       *importing
	files   []*foreign.File
	open    map[*foreign.File]*reading
	skipped map[*foreign.File]bool
	started int // of files
}

// newAhead returns one for files in the order in which they are wanted.
func newAhead(ctx context.Context, m *importing, files []*foreign.File) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	return &ahead{ctx: ctx, cancel: cancel, m: m, files: files, open: make(map[*foreign.File]*reading), skipped: make(map[*foreign.File]bool)}
}

// take returns the reading of a file, and begins those of the files behind it.
func (a *ahead) take(f *foreign.File) *reading {
	for a.started < len(a.files) && (a.open[f] == nil || len(a.open) < a.m.cfg.Transfers) {
		next := a.files[a.started]
		a.started++
		if !a.skipped[next] {
			a.open[next] = a.m.start(a.ctx, next)
		}
	}
	r := a.open[f]
	delete(a.open, f)
	return r
}

// skip says that a file is not wanted after all.
func (a *ahead) skip(f *foreign.File) {
	a.skipped[f] = true
	if r := a.open[f]; r != nil {
		delete(a.open, f)
		r.drop()
	}
}

// close ends what is still being read.
func (a *ahead) close() {
	a.cancel()
	for _, r := range a.open {
		r.drain()
	}
}

// A reading is a file on its way.
type reading struct {
	file   *foreign.File
	cancel context.CancelFunc
	pieces chan *piece
	err    error // once pieces is closed

	now *piece
	at  int // index of the next record in now
	// scanned is the offset up to which the file has been consumed, -1 before its first.
	scanned int64
}

// A piece is encoded records.
type piece struct {
	frames  []byte
	records []encoded
}

// encoded is a record of a piece, or a marker, which takes no bytes and does not count.
type encoded struct {
	offset  int64
	end     int // of its frame in the piece
	marker  bool
	caveats uint32 // bits of the backup's caveats that apply
}

// start begins to read a file.
func (m *importing) start(ctx context.Context, f *foreign.File) *reading {
	ctx, cancel := context.WithCancel(ctx)
	r := &reading{file: f, cancel: cancel, pieces: make(chan *piece, pieces), scanned: -1}
	go func() {
		defer cancel()
		defer close(r.pieces)
		p := new(piece)
		last := int64(-1)
		send := func() error {
			select {
			case r.pieces <- p:
				p = new(piece)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		add := func(e encoded) error {
			if e.offset <= last {
				return foreign.Damaged(f.Path, "offset %d comes after offset %d", e.offset, last)
			}
			last = e.offset
			e.end = len(p.frames)
			if p.records = append(p.records, e); len(p.frames) < pieceSize && len(p.records) < pieceSize/16 {
				return nil
			}
			return send()
		}
		err := m.cfg.Format.Read(ctx, m.cfg.Tree, f, foreign.Out{
			Record: func(rec *format.Record) error {
				if !m.cfg.holds(rec) {
					return add(encoded{offset: rec.Offset, marker: true})
				}
				p.frames = format.AppendRecord(p.frames, rec)
				return add(encoded{offset: rec.Offset, caveats: m.caveats(rec)})
			},
			Marker: func(_ string, _ int32, offset int64) error {
				m.told.marker()
				return add(encoded{offset: offset, marker: true})
			},
		})
		if len(p.records) > 0 {
			if sendErr := send(); err == nil {
				err = sendErr
			}
		}
		r.err = err
	}()
	return r
}

// caveats returns which of the backup's caveats apply to a record.
func (m *importing) caveats(r *format.Record) (bits uint32) {
	for i := range m.backup.Caveats {
		if m.backup.Caveats[i].Applies(r) {
			bits |= 1 << i
		}
	}
	return bits
}

func (r *reading) drain() {
	for range r.pieces {
	}
}

// drop gives a file up: nothing more is wanted of it.
func (r *reading) drop() {
	r.cancel()
	r.drain()
}

// head returns the next record, or false behind the last one.
func (r *reading) head() (encoded, bool) {
	for r.now == nil || r.at == len(r.now.records) {
		next, ok := <-r.pieces
		if !ok {
			r.now, r.at = new(piece), 0
			return encoded{}, false
		}
		r.now, r.at = next, 0
	}
	return r.now.records[r.at], true
}

// frame is the bytes of the record that head has returned.
func (r *reading) frame() []byte {
	from := 0
	if r.at > 0 {
		from = r.now.records[r.at-1].end
	}
	return r.now.frames[from:r.now.records[r.at].end]
}

// pass goes to the next record.
func (r *reading) pass() {
	r.scanned = r.now.records[r.at].offset
	r.at++
}

// readPartition merges a partition's files, which may overlap: each offset is taken from
// the first file that has it.
func (m *importing) readPartition(p *foreign.Partition, ahead *ahead) error {
	at := newProgress(partition{p.Topic, p.Number})
	m.parts[at.partition] = at
	var active []*reading
	files, lost := p.Files, m.cfg.clip(p.Lost)
	for !m.stopped() {
		first, err := m.lowest(&active)
		if err != nil {
			return err
		}
		// A file whose turn it is by its name, before or at the lowest record.
		if len(files) > 0 && (first == nil || files[0].First <= first.now.records[first.at].offset) {
			active = append(active, ahead.take(&files[0]))
			files = files[1:]
			continue
		}
		if first == nil {
			break
		}
		if m.cfg.To != 0 && first.now.records[first.at].offset >= m.cfg.To {
			at.bounded = true
			break
		}
		if err := m.takeRecord(at, first, lost); err != nil {
			return err
		}
	}
	for _, r := range active {
		r.drop()
	}
	for i := range files {
		ahead.skip(&files[i])
	}
	return m.endPartition(p, at, lost)
}

// clip returns what of ranges is within the bounds that were asked for, in order.
func (c *Config) clip(ranges [][2]int64) (out [][2]int64) {
	for _, r := range ranges {
		if c.To != 0 {
			r[1] = min(r[1], c.To)
		}
		if r[0] = max(r[0], c.From); r[0] < r[1] {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	return out
}

// lowest returns the reading with the lowest next offset, the first of several, or nil; it
// drops those that have come to their end.
func (m *importing) lowest(active *[]*reading) (*reading, error) {
	var first *reading
	kept := (*active)[:0]
	for _, r := range *active {
		e, ok := r.head()
		if !ok {
			if r.err != nil {
				if err := m.damaged(r.err); err != nil {
					return nil, err
				}
			}
			continue
		}
		kept = append(kept, r)
		if first == nil || e.offset < first.now.records[first.at].offset {
			first = r
		}
	}
	*active = kept
	return first, nil
}

// takeRecord writes the next record of a file, unless another file had it.
func (m *importing) takeRecord(at *progress, r *reading, lost [][2]int64) error {
	e := r.now.records[r.at]
	if at.begun && e.offset < at.next {
		m.told.doubled++
		r.pass()
		return nil
	}
	if e.offset < m.cfg.From {
		r.pass()
		return nil
	}
	holes := len(at.holes)
	if err := at.advance(m.w, e.offset, at.begun && r.scanned >= 0 && r.scanned < at.next, lost); err != nil {
		return err
	}
	m.told.holes += int64(len(at.holes) - holes)
	at.next = e.offset + 1
	if !e.marker {
		m.told.records++
		m.tellNowAndThen()
		for i := range m.told.caveats {
			m.told.caveats[i] += int64(e.caveats >> i & 1)
		}
		if err := m.w.WriteRaw(r.frame()); err != nil {
			return err
		}
	}
	r.pass()
	return nil
}

// endPartition writes the last mark, and says what is missing before the end that the
// backup itself promises.
func (m *importing) endPartition(p *foreign.Partition, at *progress, lost [][2]int64) error {
	if m.end.Interrupted {
		if at.begun {
			return at.mark(m.w)
		}
		return nil
	}
	for _, l := range lost {
		m.lose(fmt.Sprintf("%s/%d: offsets %d to %d were deleted before the tool had read them", p.Topic, p.Number, l[0], l[1]-1))
	}
	if n := len(lost); n > 0 {
		if err := at.advance(m.w, max(at.next, lost[n-1][1]), false, lost); err != nil {
			return err
		}
	}
	end := p.End
	if m.cfg.To != 0 {
		end = min(end, m.cfg.To)
	}
	switch missing := end - max(at.next, m.cfg.From); {
	case missing <= 0 || at.bounded:
	case !at.begun:
		m.lose(fmt.Sprintf("%s/%d: none of its records is there", p.Topic, p.Number))
	case missing <= p.Slack:
		m.told.tails = append(m.told.tails, fmt.Sprintf("%s/%d: offset %d is not there; it may be of a transaction marker, which is no record", p.Topic, p.Number, at.next))
	default:
		m.lose(fmt.Sprintf("%s/%d: offsets %d to %d were to be in the backup, and are not", p.Topic, p.Number, at.next, end-1))
	}
	if !at.begun {
		return nil
	}
	return at.mark(m.w)
}
