package pull

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// A reader downloads segments ahead and writes them in the order of their partitions.
type reader struct {
	*backup
	cfg   Config
	env   *command.Env
	w     *format.Writer
	parts []*part
	freed chan []byte // the memory of a segment that was written, for the next

	// What was written. To be read when run has returned.
	segments, records, size int64
	stopped                 bool
}

// queued bounds the segments that are on their way; it is above what --memory lets
// through of any but tiny ones.
const queued = 1024

// A step is one thing to write: a partition's beginning, a segment, a partition's end.
type step struct {
	part *part
	kind stepKind
	seg  commitlog.Chosen
	// A segment on its way; data may be read after a receive from done.
	data   []byte
	weight int64 // of the memory that it takes
	done   chan error
}

type stepKind uint8

const (
	stepBegin stepKind = iota
	stepSegment
	stepFinish
)

func (r *reader) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	loading := new(errgroup.Group)
	loading.SetLimit(r.cfg.Transfers)
	// Room is taken in the order of writing, so that what is to be written next has it.
	room := semaphore.NewWeighted(r.cfg.Memory)
	queue := make(chan *step, queued)
	halted := false // the writer's
	g.Go(func() error {
		defer close(queue)
		for s := range r.steps() {
			select {
			case <-r.env.Stop:
				r.stopped = true
				return nil
			default:
			}
			if s.kind == stepSegment {
				s.weight = min(s.seg.Size, r.cfg.Memory)
				if err := room.Acquire(ctx, s.weight); err != nil {
					return err
				}
				loading.Go(func() (err error) {
					s.data, err = r.store.ReadSegmentInto(ctx, r.located(s.seg.Segment), r.buffer(s.seg.Size))
					r.env.Counters.BytesIn.Add(int64(len(s.data)))
					s.done <- err
					return nil
				})
			}
			select {
			case queue <- s:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	g.Go(func() error {
		for s := range queue {
			select {
			case <-r.env.Stop: // what was downloaded ahead is not written any more
				halted = true
			default:
			}
			switch {
			case !halted:
				if err := r.write(ctx, s); err != nil {
					return err
				}
			case s.done != nil: // the download uses the memory yet
				select {
				case <-s.done:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if s.data != nil {
				select {
				case r.freed <- s.data:
				default: // one that waits is enough: it is not in --memory
				}
				s.data = nil
			}
			room.Release(s.weight)
		}
		return nil
	})
	err := g.Wait()
	r.stopped = r.stopped || halted
	_ = loading.Wait() // each download's error went to whoever waited for it
	return err
}

// buffer returns memory for a segment of this size, or nil where there is none that was
// used before and is not far too large.
func (r *reader) buffer(size int64) []byte {
	select {
	case b := <-r.freed:
		if int64(cap(b)) > size && int64(cap(b)) <= 2*size+1<<20 {
			return b
		}
	default:
	}
	return nil
}

// located is seg with the path where it really is.
func (b *backup) located(seg commitlog.Segment) commitlog.Segment {
	if path, ok := b.paths[seg.Path]; ok {
		seg.Path = path
	}
	return seg
}

// steps yields what to write, the partitions taking turns so that a producer has work
// for all of them.
func (r *reader) steps() iter.Seq[*step] {
	return func(yield func(*step) bool) {
		for _, p := range r.parts {
			if !yield(&step{part: p, kind: stepBegin}) {
				return
			}
		}
		left := append([]*part(nil), r.parts...)
		for turn := 0; len(left) > 0; turn++ {
			more := left[:0]
			for _, p := range left {
				if turn < p.plan.Len() && !yield(&step{part: p, kind: stepSegment, seg: p.plan.Segment(turn), done: make(chan error, 1)}) {
					return
				}
				if turn+1 < p.plan.Len() {
					more = append(more, p)
				} else if !yield(&step{part: p, kind: stepFinish}) {
					return
				}
			}
			left = more
		}
	}
}

func (r *reader) write(ctx context.Context, s *step) error {
	p := s.part
	switch s.kind {
	case stepBegin:
		m := p.mark(p.at)
		m.Filters = p.filters
		return r.w.Write(m)
	case stepFinish:
		return r.advance(p, p.plan.Next, true)
	}
	if s.seg.DropFrom <= p.at { // segments that were read instead of another one had it all
		return nil
	}
	r.env.Counters.Input.Begin()
	defer r.env.Counters.Input.End()
	select {
	case err := <-s.done:
		r.env.Counters.Input.End()
		if r.cfg.SkipDamaged && store.IsDamage(err) {
			return r.instead(ctx, p, s.seg, err)
		}
		if store.IsDamage(err) {
			return command.WithHint(err, "--skip-damaged continues without it")
		}
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return r.segment(p, s.seg, s.data)
}

// segment writes a segment, and before it what there is to say of offsets before it.
func (r *reader) segment(p *part, seg commitlog.Chosen, data []byte) error {
	seg.DropBelow = max(seg.DropBelow, p.at)
	if err := r.advance(p, seg.DropBelow, false); err != nil {
		return err
	}
	if err := r.announce(p, seg.Filters); err != nil {
		return err
	}
	if err := writeSegment(r.w, seg, data); err != nil {
		return err
	}
	p.at = max(p.at, min(seg.DropFrom, p.plan.Next))
	if seg.DropFrom < seg.Next { // its own last mark is dropped with what lies behind
		m := p.mark(p.at)
		m.Filters = seg.Filters
		if err := r.w.Write(m); err != nil {
			return err
		}
	}
	r.segments++
	r.records += seg.Records
	r.size += seg.Size
	r.env.Counters.Segments.Add(1)
	r.env.Counters.Records.Add(seg.Records)
	r.env.Counters.BytesRaw.Add(seg.RawSize)
	r.env.Counters.BytesPacked.Add(seg.Size)
	return nil
}

// instead writes what other segments have of one that cannot be read. Of what none has the
// stream says nothing.
func (r *reader) instead(ctx context.Context, p *part, seg commitlog.Chosen, why error) error {
	type object struct { // two runs may have stored the same
		sha commitlog.Hash
		run string
	}
	bad := map[object]bool{{seg.SHA256, seg.Run}: true}
	at, next := max(seg.DropBelow, p.at, p.plan.From), min(seg.DropFrom, p.plan.Next)
	missing := false
	for at < next {
		other, ok := p.plan.Instead(at, next, func(c *commitlog.Content) bool { return bad[object{c.SHA256, c.Run}] })
		if ok {
			data, err := r.store.ReadSegment(ctx, r.located(other.Segment))
			if store.IsDamage(err) {
				bad[object{other.SHA256, other.Run}] = true
				continue
			}
			if err != nil {
				return err
			}
			if at < other.DropBelow {
				p.leaveOut(at, other.DropBelow)
				missing = true
			}
			if err := r.segment(p, other, data); err != nil {
				return err
			}
			if from, until := max(at, other.DropBelow), min(p.at, next); from < until && !p.plan.Replaces(&other.Content, &seg.Content, from, until) {
				p.reduced = append(p.reduced, reduced{from, until, other.Filters})
			}
			at = p.at
			continue
		}
		p.leaveOut(at, next)
		at, missing = next, true
	}
	if missing {
		r.env.Log.Warn(fmt.Sprintf("left out: %v", why))
	} else {
		r.env.Log.Warn(fmt.Sprintf("read from segments of other runs: %v", why))
	}
	return nil
}

// advance writes what the stream has to say of the offsets up to next, and of no
// segment: that they were scanned, that they are lost, or, by a mark that begins anew,
// nothing. At the end it writes a mark in any case.
func (r *reader) advance(p *part, next int64, end bool) error {
	for len(p.branches) > 0 && p.branches[0] <= next {
		at := p.branches[0]
		p.branches = p.branches[1:]
		if err := r.fill(p, at, true); err != nil {
			return err
		}
		m := p.mark(at)
		m.Begins, m.Branch = true, true
		p.at = at
		if err := r.w.Write(m); err != nil {
			return err
		}
	}
	return r.fill(p, next, end)
}

// fill is advance without branches.
func (r *reader) fill(p *part, next int64, end bool) error {
	for _, hole := range p.holes {
		if hole[1] <= p.at || hole[0] >= next {
			continue
		}
		if err := r.scanned(p, hole[0], false); err != nil {
			return err
		}
		if end && hole[1] >= next { // nothing is said of what lies behind
			return r.scanned(p, hole[0], true)
		}
		p.at = min(hole[1], next)
		m := p.mark(p.at)
		m.Begins = true
		if err := r.w.Write(m); err != nil {
			return err
		}
	}
	return r.scanned(p, next, end)
}

// scanned writes marks up to next, if it is further than what was written or always says
// so: one for each range that was filtered in the same way.
func (r *reader) scanned(p *part, next int64, always bool) error {
	for first := true; p.at < next || first && always; first = false {
		filters, until := p.filtered(p.at)
		if p.at >= next { // nothing is left to be said
			filters = p.filters
		}
		if err := r.announce(p, filters); err != nil {
			return err
		}
		at := p.at
		m := p.mark(max(p.at, min(next, until)))
		m.Filters = filters
		for _, l := range p.plan.Lost {
			if from, to := max(l[0], at), min(l[1], m.Next); from < to {
				m.Lost = append(m.Lost, [2]int64{from, to})
			}
		}
		if m.Next == p.plan.Next {
			m.LeaderEpoch = p.plan.Epoch
		}
		p.at = m.Next
		if err := r.w.Write(m); err != nil {
			return err
		}
	}
	return nil
}

// announce says how what comes next was filtered, where that is not as it was before: a
// mark speaks of the offsets before it, and whoever packs records again has to know it
// before they come.
func (r *reader) announce(p *part, filters []string) error {
	if slices.Equal(p.filters, filters) {
		return nil
	}
	p.filters = filters
	m := p.mark(p.at)
	m.Filters = filters
	return r.w.Write(m)
}

// A part is a partition that is being written.
type part struct {
	plan     *commitlog.Plan
	at       int64      // the stream has said all of the offsets below
	holes    [][2]int64 // of which the stream is to say nothing; sorted
	branches []int64    // where branches begin that the stream has not come to
	filters  []string   // of what the stream has said last
	reduced  []reduced
}

// A reduced range was read from another segment than the one that has all of it, which could
// not be read.
type reduced struct {
	from, next int64
	filters    []string // of the segment that was read; none: what compaction left may be less
}

func newPart(plan *commitlog.Plan) *part {
	p := &part{plan: plan, at: plan.From, holes: join(plan.Holes, plan.Pruned), branches: plan.Branches}
	p.filters, _ = p.filtered(p.at)
	return p
}

// join is the ranges of both, sorted.
func join(a, b [][2]int64) [][2]int64 {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y [2]int64) int { return cmp.Compare(x[0], y[0]) })
	var out [][2]int64
	for _, r := range all {
		if n := len(out); n > 0 && out[n-1][1] >= r[0] {
			out[n-1][1] = max(out[n-1][1], r[1])
		} else {
			out = append(out, r)
		}
	}
	return out
}

// filtered returns the filters that left what is there from an offset on, and up to where.
func (p *part) filtered(at int64) (filters []string, until int64) {
	for _, f := range p.plan.Filtered {
		switch {
		case at < f.From:
			return nil, f.From
		case at < f.Next:
			return f.Filters, f.Next
		}
	}
	return nil, math.MaxInt64
}

func (p *part) mark(next int64) *format.Mark {
	return &format.Mark{Topic: p.plan.Topic, Partition: p.plan.Partition, Next: next, MarkInfo: format.MarkInfo{TopicID: p.plan.TopicID}}
}

// losses says, in a line for people each, what is not in the stream of what was asked for.
func (p *part) losses() []string {
	all := slices.Clone(p.plan.Losses)
	say := func(ranges [][2]int64, why string) {
		for _, r := range ranges {
			told := func(line string) bool { return commitlog.TellsOf(line, p.plan.Topic, p.plan.Partition, r) }
			if !slices.ContainsFunc(p.plan.Losses, told) {
				all = append(all, fmt.Sprintf("%s/%d: offsets %d to %d %s", p.plan.Topic, p.plan.Partition, r[0], r[1]-1, why))
			}
		}
	}
	say(p.plan.Lost, "were deleted before they were backed up")
	say(p.plan.Holes, "are not in the backup: no run has read them")
	say(without(without(p.holes, p.plan.Holes), p.plan.Pruned), "are in objects of the backup that could not be read")
	for _, r := range p.reduced {
		why := "could not be read as the backup has them, and are here as another run has read them: Kafka may have compacted records away between the two runs"
		if len(r.filters) > 0 {
			why = "could not be read as the backup has them, and are here only as " + strings.Join(r.filters, ", ") + " left them"
		}
		say([][2]int64{{r.from, r.next}}, why)
	}
	for _, h := range p.plan.Hidden {
		say([][2]int64{{h.From, h.Next}}, h.Why())
	}
	return all
}

// without is what of ranges is in none of others. Both are sorted, and the ranges of each
// do not overlap.
func without(ranges, others [][2]int64) (left [][2]int64) {
	for _, r := range ranges {
		for _, o := range others {
			if o[1] <= r[0] || o[0] >= r[1] {
				continue
			}
			if r[0] < o[0] {
				left = append(left, [2]int64{r[0], o[0]})
			}
			r[0] = o[1]
		}
		if r[0] < r[1] {
			left = append(left, r)
		}
	}
	return left
}

// leaveOut makes a hole of [from, next).
func (p *part) leaveOut(from, next int64) {
	holes := append(slices.Clone(p.holes), [2]int64{from, next})
	slices.SortFunc(holes, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	p.holes = holes[:1]
	for _, h := range holes[1:] { // two that touch are one
		if last := &p.holes[len(p.holes)-1]; last[1] == h[0] {
			last[1] = h[1]
		} else {
			p.holes = append(p.holes, h)
		}
	}
}

func writeSegment(w *format.Writer, seg commitlog.Chosen, data []byte) error {
	m := seg.Frame()
	if seg.DropBelow > seg.From {
		m.DropBelow = seg.DropBelow
	}
	if seg.DropFrom < seg.Next { // also where it drops no record: it says where the segment ends in this stream
		m.DropFrom = seg.DropFrom
	}
	return w.WriteSegment(m, data)
}
