package produce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/partitionlog"
)

// A mirror is what a run keeps up beside the records, where they come from a cluster that
// goes on and keep their offsets. At each restore point, once all before it is in the
// target, it gives retention and compaction back to the topics, commits the groups'
// offsets, and notes what the topics are mirrors of.
type mirror struct {
	p       *producer
	adm     *kadm.Client
	cluster string // of the source

	// Of the stream's side: what has come since the last point.
	groups  []*format.Group
	deleted map[string]bool // topics that the source has no more, and that were named

	next  chan *moment // of one place: a point that waits
	ended chan struct{}

	// Of the goroutine that carries points over.
	ours    map[string]placed // what this run has committed, by group
	renewed time.Time         // when all was committed, whether it was there or not
	told    map[string]bool   // what was said of groups
	failed  error             // of the last point: it is to be tried again at the next
}

// placed are committed offsets by the partitions of the target.
type placed map[partitionlog.Partition]format.GroupOffset

// A moment is a point of the stream, and what the target must have before it is reached.
type moment struct {
	time    time.Time
	at      map[*lane]int64
	groups  map[string]placed
	origins map[string]groups.Origin // of the topics, by their names in the target
	ids     map[string]string
}

const (
	// renewEvery is how often offsets are committed that have not changed: a cluster
	// forgets those of groups without members after a while (offsets.retention.minutes).
	renewEvery = time.Hour
	// momentTick is how often to look whether a point is reached.
	momentTick = 20 * time.Millisecond
)

func newMirror(p *producer, source *format.Source) *mirror {
	m := &mirror{
		p: p, adm: p.targets.adm, deleted: make(map[string]bool),
		next: make(chan *moment, 1), ended: make(chan struct{}),
		ours: make(map[string]placed), told: make(map[string]bool),
	}
	if source != nil {
		m.cluster = source.Cluster
	}
	return m
}

// topic refuses another topic of the name of one that is mirrored.
func (m *mirror) topic(s *source, about *format.Topic) error {
	if s == nil || s.about == nil || !another(s.about.ID, about.ID) {
		return nil
	}
	return command.WithHint(fmt.Errorf("topic %s was deleted and created again in the source: %s has the records of the one before", about.Name, m.p.cfg.Naming.Target(about.Name)),
		"delete topic "+m.p.cfg.Naming.Target(about.Name)+" in the target, or leave it out with kbk-fetch --exclude, and run the same line again")
}

// mark refuses what does not go on where the target is.
func (m *mirror) mark(part *partition, mark *format.Mark) error {
	l := part.fixed.to
	switch {
	case mark.Deleted && !m.deleted[mark.Topic]:
		m.deleted[mark.Topic] = true
		m.p.env.Log.Warn(fmt.Sprintf("topic %s was deleted in the source: %s stays as it is in the target", mark.Topic, l.target.name))
	case mark.Branch && mark.Next < max(l.exact.next, l.bounds.End):
		return diverged(l, fmt.Errorf("the source was cut off at offset %d, and the log goes to %d", mark.Next, max(l.exact.next, l.bounds.End)))
	case mark.Begins && !mark.Branch && part.next >= 0 && mark.Next > part.next:
		return fmt.Errorf("topic %s, partition %d: the stream leaves out offsets %d to %d", l.target.name, l.num, part.next, mark.Next-1)
	}
	return nil
}

func diverged(l *lane, why error) error {
	return command.WithHint(fmt.Errorf("topic %s, partition %d, is not a mirror of the source: %w", l.target.name, l.num, why),
		"docs/mirror.md says how to find the records that only one side has; then delete the topic in the target, and run the same line again")
}

// open decides where a lane goes on: within the log or at its end, or, false, where the
// stream begins. What the log has below the stream's beginning is left alone.
func (m *mirror) open(l *lane) (within bool, err error) {
	at, first := l.bounds, l.from.first
	switch {
	case at.End == 0 || first < 0:
		return false, nil
	case first > at.End && (at.Start > 0 || l.existing == nil):
		return false, missing(l)
	case first < at.Start:
		return false, command.WithHint(fmt.Errorf("topic %s, partition %d: the stream begins at offset %d, and the log at %d, so that they cannot be compared", l.target.name, l.num, first, at.Start), hintCursor)
	case first > at.End || first == at.Start: // or an earlier run was killed while it took the log there
		return false, nil
	}
	if l.existing != nil {
		l.existing.bounds.Start = first
	}
	return true, nil
}

// dropFillers deletes the fillers that a log begins with: a broker that has crashed may have
// forgotten that they were deleted. They are below where the source's log begins, too.
func (m *mirror) dropFillers(ctx context.Context, l *lane) error {
	below := min(l.from.logStart, l.bounds.End)
	if l.bounds.Start > 0 || below == 0 || m.p.cfg.DryRun {
		return nil
	}
	s := newScan(m.p.logs, l.at, 1<<10, m.p.hasher)
	s.committed = true
	end := int64(0)
	for more := true; more && end < below; {
		c := s.read(ctx, end, below)
		if c.err != nil {
			return c.err
		}
		for _, span := range c.spans {
			if more = more && span.offset == end && span.sum == m.p.filler.sum; more {
				end += span.count
			}
		}
		more = more && c.next == end
	}
	if end == 0 {
		return nil
	}
	return m.p.logs.DeleteBelow(ctx, l.at, end)
}

const hintCursor = "let kbk-fetch begin where the target ends: kbk-offsets cursor -b TARGET | kbk-fetch --from - …"

// missing says that there are offsets between the end of a log and where the stream begins.
func missing(l *lane) error {
	return command.WithHint(fmt.Errorf("topic %s, partition %d: the stream begins at offset %d, and the log ends at %d: what is between is missing", l.target.name, l.num, l.from.first, l.bounds.End), hintCursor)
}

// compacted tells whether records may be missing on one side because compaction took them.
func (l *lane) compacted() bool {
	about := l.target.source.about
	return strings.Contains(l.target.settings["cleanup.policy"].value, "compact") || about != nil && strings.Contains(about.Configs["cleanup.policy"], "compact")
}

// found is [producer.found] for a log that may have been compacted since, on either side:
// a record may be missing then, and none may be another one.
func (m *mirror) found(ctx context.Context, r *route, rec *format.Record) (bool, error) {
	for l := r.to; ; l.existing.pop() {
		is, ok, err := l.existing.peek(ctx)
		switch {
		case err != nil:
			return false, err
		case !ok && rec.Offset >= l.bounds.End: // from here on it is new
			l.finishExisting()
			return false, nil
		case !ok && !l.compacted():
			return false, diverged(l, fmt.Errorf("it goes to offset %d, and lacks the record of offset %d", l.bounds.End, rec.Offset))
		case !ok:
			return true, nil
		case is.offset == rec.Offset && is.sum != m.p.hasher.sum(rec):
			return false, diverged(l, fmt.Errorf("it has another record at offset %d", is.offset))
		case is.offset == rec.Offset:
			l.existing.pop()
			m.p.there++
			m.p.counters.There.Add(1)
			m.p.mu.Lock()
			defer m.p.mu.Unlock()
			return true, m.p.mapped(run{r, rec.Offset, 1}, is.offset)
		case !l.compacted():
			return false, diverged(l, fmt.Errorf("its next record is that of offset %d, and the source's that of %d", is.offset, rec.Offset))
		case is.offset > rec.Offset:
			return true, nil
		}
	}
}

// own leaves of those that have written to a log only the run that was killed, as whom to
// go on: the log may be that of a source before the mirror was turned round, and nobody
// may go on as a producer that is somebody's. Markers are not known of all that it has:
// others than those that are seen are begun anew.
func (m *mirror) own(l *lane) {
	if m == nil {
		return
	}
	dead := m.p.targets.keeper.inherited(l.target.name)
	if dead == nil || l.came.producer.id != dead.Producer {
		l.came.producer.id = -1
	}
	if dead == nil || l.came.marker.id != dead.Markers {
		l.came.marker.id = -1
	}
}

// reach takes a lane to where its last mark is. The log must have nothing that was not in
// the stream.
func (p *producer) reach(ctx context.Context, l *lane) error {
	next := l.from.next
	if next < 0 {
		return nil
	}
	if !l.exact.opened {
		if err := p.openExact(ctx, l, next); err != nil {
			return err
		}
	}
	for p.mirror != nil && l.existing != nil {
		is, ok, err := l.existing.peek(ctx)
		if err != nil {
			return err
		}
		if !ok {
			l.finishExisting()
			break
		}
		if is.offset >= next || !l.compacted() {
			return diverged(l, fmt.Errorf("it has a record at offset %d, and the source has none there", is.offset))
		}
		l.existing.pop()
	}
	switch x := l.exact; {
	case next > x.next:
		if err := p.align(ctx, l, next, next); err != nil {
			return err
		}
		x.next = next // nothing comes behind it
	case next < x.next && p.mirror != nil:
		return diverged(l, fmt.Errorf("it goes to offset %d, and the source to %d", x.next, next))
	case next < x.next:
		return fmt.Errorf("topic %s, partition %d: the log goes to offset %d, and this restore to %d: somebody else has written to it", l.target.name, l.num, x.next, next)
	}
	return nil
}

// group keeps a group frame for the point behind it.
func (m *mirror) group(raw []byte) error {
	g, err := format.DecodeGroup(raw)
	if err != nil {
		return command.Input(err)
	}
	if groups.DropOwn(g) {
		m.groups = append(m.groups, g)
	}
	return nil
}

// point takes the lanes to a point of the stream, and hands it to the goroutine that carries it over.
func (p *producer) point(ctx context.Context, raw []byte) error {
	m := p.mirror
	if m == nil {
		if !p.began {
			return nil
		}
		return p.targets.prepare(ctx) // what came before it is one moment, topics without records included
	}
	pt, err := format.DecodePoint(raw)
	if err != nil {
		return command.Input(err)
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	if err := p.targets.prepare(ctx); err != nil {
		return err
	}
	at := make(map[*lane]int64)
	for _, l := range p.lanes {
		if slices.Contains(pt.Without[l.from.source.name], l.from.num) {
			continue
		}
		if err := p.reach(ctx, l); err != nil {
			return err
		}
		if l.exact.opened {
			at[l] = l.exact.next
		}
	}
	p.sealAll()
	all := m.groups
	m.groups = nil
	if p.cfg.DryRun {
		return nil
	}
	mo := &moment{time: time.UnixMilli(pt.Time), at: at, groups: placeGroups(all, p.targets.sources, p.cfg.partition, at)}
	mo.origins, mo.ids = m.origins()
	select {
	case <-m.next: // one that nothing was done about yet: this one says more
	default:
	}
	m.next <- mo
	return nil
}

// origins are what the topics are mirrors of.
func (m *mirror) origins() (out map[string]groups.Origin, ids map[string]string) {
	out, ids = make(map[string]groups.Origin), make(map[string]string)
	for name, t := range m.p.targets.topics {
		o := groups.Origin{Cluster: m.cluster, Topic: t.source.name}
		if t.source.about != nil {
			o.TopicID = t.source.about.ID
		}
		out[name], ids[name] = o, t.id
	}
	return out, ids
}

// placeGroups says what groups' offsets are in the target: the same, and no further than the
// target is at the point. at is where its partitions are then; what it does not know is
// left out.
func placeGroups(all []*format.Group, sources map[string]*source, partition func(int32) int32, at map[*lane]int64) map[string]placed {
	out := make(map[string]placed)
	for _, g := range all {
		for topic, parts := range g.Offsets {
			s := sources[topic]
			if s == nil || s.target == nil || s.about != nil && another(s.about.ID, g.Topics[topic]) {
				continue
			}
			for num, o := range parts {
				if num = partition(num); int(num) >= len(s.target.lanes) {
					continue
				}
				l := s.target.lanes[num]
				end, known := at[l]
				if !known {
					continue
				}
				if out[g.ID] == nil {
					out[g.ID] = make(placed)
				}
				out[g.ID][l.at] = format.GroupOffset{Offset: min(o.Offset, end), Metadata: o.Metadata}
			}
		}
	}
	return out
}

// run carries points over, until there are no more.
func (m *mirror) run(ctx context.Context) {
	defer close(m.ended)
	for {
		select {
		case mo, ok := <-m.next:
			if !ok {
				return
			}
			if m.reached(ctx, mo) {
				m.carryOver(ctx, mo)
			}
		case <-ctx.Done():
			return
		}
	}
}

// end waits until the last point is carried over, and notes what could not be done about it.
func (m *mirror) end(ctx context.Context, end *format.End) error {
	close(m.next)
	select {
	case <-m.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if m.failed != nil {
		end.Lose(fmt.Sprintf("the last restore point was not carried over completely: %v", m.failed))
	}
	return nil
}

// reached waits until all that was before a point is acknowledged.
func (m *mirror) reached(ctx context.Context, mo *moment) bool {
	tick := time.NewTicker(momentTick)
	defer tick.Stop()
	for !m.has(mo) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (m *mirror) has(mo *moment) bool {
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	for l, next := range mo.at {
		if l.due < next {
			return false
		}
		delete(mo.at, l)
	}
	return true
}

// carryOver does what is to be done at a point. What fails is said, and tried again at the
// next.
func (m *mirror) carryOver(ctx context.Context, mo *moment) {
	now := time.Now()
	renew := now.Sub(m.renewed) >= renewEvery
	err := m.p.targets.keeper.giveBackRetention(ctx, sortedNames(mo.origins))
	committed, groupsErr := m.commitGroups(ctx, mo.groups, renew)
	err = errors.Join(err, groupsErr)
	if renew && err == nil {
		err = groups.WriteOrigins(ctx, m.adm, mo.origins, mo.ids)
	}
	if m.failed = err; err != nil {
		if ctx.Err() == nil {
			m.p.env.Log.Warn(fmt.Sprintf("at the restore point of %s; it will be tried again at the next one: %v", mo.time.UTC().Format(time.RFC3339), err))
		}
		return
	}
	if renew {
		m.renewed = now
	}
	m.p.counters.Commit()
	m.p.counters.Point(mo.time.UnixMilli())
	m.p.env.Log.Info(fmt.Sprintf("the target has all of the restore point; committed %s", command.Count(committed, "offset")),
		"at", mo.time.UTC().Format(time.RFC3339), "behind", since(mo.time))
}
