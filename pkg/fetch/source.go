package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics"
)

const (
	lookEvery = 250 * time.Millisecond // at partitions that are stuck, and at what is due

	// soon is when to look again at what may be a change.
	soon = time.Second

	// heldLong is how long the stages downstream may hold a broker up before timeouts take
	// note.
	heldLong = 10 * time.Millisecond

	// fetchPause is how long to leave a broker alone that answers at once and without
	// records.
	fetchPause = 100 * time.Millisecond
)

// A source reads partitions from their leaders. All of its state belongs to the goroutine
// of run, which waits for messages and for nothing else: each broker is asked for records
// by a goroutine of its own, with one request at a time for all idle partitions that it
// leads (broker.go); other requests have one each (ask); and what goes into the stream is
// put there by the queue's (queue.go). What to do is decided in decide.go.
type source struct {
	cl   *kgo.Client
	adm  *kadm.Client
	cfg  Config
	log  *slog.Logger
	stop <-chan struct{}

	parts    []*partition
	unplaced []unplaced   // while following: to be read once their offsets can be had
	begun    int          // how many of them are, the first ones
	ended    bool         // some of the active ones are done
	active   []*partition // begun and not done
	brokers  map[int32]*broker
	ready    bool // there may be something to fetch
	finding  bool // the metadata of stuck partitions are being asked for
	queue    *queue

	follower *follower                // nil where the run has an end
	member   *member                  // nil where the run is in no group
	taking   bool                     // partitions that the group gave are being looked at
	past     map[topicPartition]int64 // see planner

	lost    *losses
	count   *metrics.Counters
	stopped bool // before all was read

	reading context.Context // ends when no more is to be read
	answers chan *answer
	replies chan func() error // see ask
	events  chan event        // of member
	over    chan struct{}     // nobody takes messages any more
	working sync.WaitGroup
}

func newSource(cl *kgo.Client, cfg Config, env *command.Env, p *plan, e *encoder) *source {
	return &source{
		cl: cl, adm: kadm.NewClient(cl), cfg: cfg, log: env.Log, stop: env.Stop,
		parts: p.parts, unplaced: p.unplaced, brokers: make(map[int32]*broker), queue: newQueue(e, cfg), lost: e.lost, count: e.count,
		answers: make(chan *answer), replies: make(chan func() error), over: make(chan struct{}),
	}
}

// run reads until every partition is at its end, or until it is told to stop. What is on
// its way from a broker is then given up at once; what has come is kept.
func (s *source) run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	reading, halt := context.WithCancel(ctx)
	defer halt()
	s.reading = reading
	queued := make(chan error, 1)
	go func() { queued <- s.queue.run(ctx, reading, s.over) }()
	err := s.loop(ctx)
	halt()
	close(s.over)
	for _, b := range s.brokers {
		close(b.orders)
	}
	if err == nil {
		s.queue.last()
	} else {
		fail(err) // the stages downstream are not waited for
	}
	close(s.queue.parcels)
	s.working.Wait()
	if qerr := <-queued; err == nil {
		err = qerr
	}
	return err
}

// loop takes messages until the run is over.
func (s *source) loop(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := s.begin(); err != nil {
			return err
		}
		s.dispatch()
		s.queue.flush()
		if s.finished() {
			return nil
		}
		events := s.events
		if s.taking { // one after another
			events = nil
		}
		if s.awaiting() {
			s.count.Input.Begin()
		}
		var err error
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-s.stop:
			s.stopped = true
		case a := <-s.answers:
			err = s.answered(a)
		case b := <-s.queue.free:
			s.freed(b)
		case reply := <-s.replies:
			err = reply()
		case ev := <-events:
			err = s.assigned(ev)
		case now := <-tick.C:
			err = s.tick(now)
		}
		s.count.Input.End()
		if err != nil || s.stopped {
			return err
		}
	}
}

// awaiting tells whether the brokers are what the run waits for: one has been asked, and all
// that came before is in the queue.
func (s *source) awaiting() bool {
	if s.queue.putting {
		return false
	}
	for _, b := range s.brokers {
		if b.busy && b.held.IsZero() {
			return true
		}
	}
	return false
}

// finished tells whether all was read, and the limits let it pass.
func (s *source) finished() bool {
	if s.follower != nil || s.begun < len(s.parts) {
		return false
	}
	for _, p := range s.active {
		if p.state != done {
			return false
		}
	}
	for _, b := range s.brokers {
		if b.busy && !b.held.IsZero() {
			return false
		}
	}
	return true
}

// ask does work that takes time, in a goroutine. The function that it returns is called
// in the source's own.
func (s *source) ask(work func(ctx context.Context) func() error) {
	s.working.Go(func() {
		reply := work(s.reading)
		select {
		case s.replies <- reply:
		case <-s.over:
		}
	})
}

// begin takes up partitions while fewer than the limit are active.
func (s *source) begin() error {
	limit := s.cfg.Concurrency
	if s.cfg.Follow {
		limit = math.MaxInt
	}
	if s.ended { // there may be thousands, and this is after each message
		s.active = slices.DeleteFunc(s.active, func(p *partition) bool { return p.state == done })
		s.ended = false
	}
	for ; len(s.active) < limit && s.begun < len(s.parts); s.begun++ {
		p := s.parts[s.begun]
		if p.resumed.epoch >= 0 && !p.branch {
			p.seen = []epochStart{{epoch: p.resumed.epoch}}
		}
		m := p.newMark(p.pos, -1)
		m.Begins, m.Branch = p.begins, p.branch
		j := &job{p: p, epoch: p.lastEpoch(), always: true}
		var err error
		if j.head, err = m.AppendFrame(nil); err != nil {
			return err
		}
		if p.lost[0] < p.lost[1] {
			p.pos = p.lost[1]
			s.count.Lost.Add(p.lost[1] - p.lost[0])
			m := p.newMark(p.pos, -1)
			m.Lost = [][2]int64{p.lost}
			if j.head, err = m.AppendFrame(j.head); err != nil {
				return err
			}
		}
		j.next, p.marked, p.local = p.pos, p.pos, -1
		p.taken = time.Now()
		p.moved, p.advanced = p.taken, p.taken
		p.latest, p.shown = p.stable, s.count.Partitions.Open(p.topic, p.num)
		p.show()
		if p.pos >= p.end {
			if err := s.finish(p, j, p.newMark(p.pos, p.lastEpoch())); err != nil {
				return err
			}
			continue
		}
		s.queue.add(parcel{job: j})
		if s.active = append(s.active, p); p.leader < 0 {
			s.setStuck(p, kerr.LeaderNotAvailable)
		} else {
			s.setIdle(p)
		}
	}
	return nil
}

func (s *source) setIdle(p *partition) { p.state, s.ready = idle, true }

func (s *source) setStuck(p *partition, why error) { p.state, p.why, p.empty = stuck, why, 0 }

// finish puts in a partition's last job, with its last mark.
func (s *source) finish(p *partition, j *job, m *format.Mark) error {
	var err error
	if j.tail, err = m.AppendFrame(j.tail); err != nil {
		return err
	}
	j.ends, p.state, s.ended = true, done, true
	s.queue.add(parcel{job: j})
	return nil
}

// dispatch gives orders to the brokers that are free.
func (s *source) dispatch() {
	if !s.ready {
		return
	}
	s.ready = false
	for id, parts := range nextFetches(s.active, func(id int32) bool { b := s.brokers[id]; return b == nil || !b.busy }) {
		b := s.brokers[id]
		if b == nil {
			b = &broker{id: id, orders: make(chan *order, 1)}
			s.brokers[id] = b
			s.working.Go(func() {
				b.serve(s.reading, s.cl, s.cfg, func(a *answer) {
					select {
					case s.answers <- a:
					case <-s.over:
					}
				})
			})
		}
		for _, p := range parts {
			p.state = fetching
		}
		b.busy = true
		// A partition that goes alone is asked for all that the broker knows of it.
		b.orders <- newOrder(parts, s.follower != nil && parts[0].empty == 0, b.pause)
	}
}

// answered does what an answer calls for.
func (s *source) answered(a *answer) error {
	if s.reading.Err() != nil {
		return nil
	}
	now := time.Now()
	alone := len(a.order.parts) == 1 && !a.order.session && !a.throttled
	for i := range a.parts {
		part := &a.parts[i]
		if part.p.state != fetching || a.err != nil { // it was given up meanwhile
			continue
		}
		s.setIdle(part.p)
		if part.err == nil {
			part.p.latest = part.stable
			part.p.show()
		}
		if err := s.obey(part.p, judge(part.p, part, alone, now), part); err != nil {
			return err
		}
	}
	for i := range a.order.parts {
		p := a.order.parts[i].p
		switch {
		case p.state != fetching:
		case a.err != nil:
			s.setStuck(p, a.err)
		case a.order.session && !a.throttled:
			s.setIdle(p)
			if err := s.obey(p, nothingNew(p), nil); err != nil {
				return err
			}
		default:
			s.setIdle(p)
		}
	}
	if a.err != nil {
		s.count.Retries.Add(kafka.ErrorKind(a.err))
	}
	s.count.BytesIn.Add(a.bytes)
	b := a.from
	b.held, b.pause = now, 0
	if a.bytes == 0 && a.took < min(fetchPause, s.cfg.FetchWait) {
		b.pause = fetchPause
	}
	s.queue.add(parcel{from: b, bytes: a.bytes, records: a.records})
	return nil
}

// freed lets a broker fetch again, as what it brought is in the queue. The time that this
// took was no fault of the partitions.
func (s *source) freed(b *broker) {
	if b == nil {
		s.queue.putting = false
		return
	}
	if held := time.Since(b.held); held > heldLong {
		for _, p := range s.active {
			if p.leader == b.id {
				p.moved = p.moved.Add(held)
			}
		}
	}
	b.busy, b.held, s.ready = false, time.Time{}, true
}

// obey does what was decided about a partition. The answer is nil where there is none.
func (s *source) obey(p *partition, v verdict, a *partAnswer) error {
	if v.do != alone && v.do != inspect {
		p.empty = 0
	}
	switch v.do {
	case again:
		if v.why != nil {
			p.why = v.why
		}
	case quiet:
		p.moved, p.why = time.Now(), nil
	case alone:
		p.empty++
	case lookUp:
		s.count.Retries.Add(kafka.ErrorKind(v.why))
		s.setStuck(p, v.why)
	case inspect:
		s.inspect(p, v.why)
	case advance:
		for _, e := range a.seen {
			p.remember(e)
		}
		p.aligned = true
		return s.advance(p, &job{p: p, from: p.pos, next: v.next, batches: a.batches, aborted: a.aborted, mark: *p.newMark(v.next, p.lastEpoch())})
	case skip:
		s.log.Info(fmt.Sprintf("%s: offsets %d to %d no longer hold records: they were compacted away", p, p.pos, v.next-1))
		return s.advance(p, &job{p: p, next: v.next})
	case lose:
		return s.lose(p, v.next)
	case branch:
		return s.branch(p, v)
	case shrink:
		return s.shrink(p, v.next)
	case forget:
		p.seen = nil
	case refuse:
		return s.refuse(p, v.why)
	case fail:
		return fmt.Errorf("fetch %s: %w", p, v.why)
	}
	return nil
}

// maxSeen bounds how many leader epochs are remembered of a partition.
const maxSeen = 16

// remember notes a leader epoch that begins. The earliest ones are thought of as one.
func (p *partition) remember(e epochStart) {
	if len(p.seen) == maxSeen {
		first := p.seen[0].from
		p.seen = slices.Delete(p.seen, 0, 1)
		p.seen[0].from = first
	}
	p.seen = append(p.seen, e)
}

// advance puts in a job that takes p to an offset.
func (s *source) advance(p *partition, j *job) error {
	j.epoch = p.lastEpoch()
	s.count.Offsets.Add(j.next - p.pos)
	now := time.Now()
	p.pos, p.moved, p.advanced, p.why = j.next, now, now, nil
	p.show()
	if p.pos >= p.end {
		return s.finish(p, j, p.newMark(p.pos, j.epoch))
	}
	s.queue.add(parcel{job: j})
	return nil
}

// mark puts in a mark where p is.
func (s *source) mark(p *partition, change func(*format.Mark)) error {
	m := p.newMark(p.pos, p.lastEpoch())
	if change != nil {
		change(m)
	}
	head, err := m.AppendFrame(nil)
	if err != nil {
		return err
	}
	p.marked = p.pos
	s.queue.add(parcel{job: &job{p: p, next: p.pos, epoch: p.lastEpoch(), head: head}})
	return nil
}

// loss notes what is lost, or ends the run with it.
func (s *source) loss(what string) error {
	if s.cfg.FailOnLoss {
		return lossError(what)
	}
	s.lost.add(what)
	return nil
}

// lose records that the offsets up to next were deleted before they were read.
func (s *source) lose(p *partition, next int64) error {
	if err := s.loss(deleted(p, p.pos, next)); err != nil {
		return err
	}
	s.count.Lost.Add(next - p.pos)
	m := p.newMark(next, p.lastEpoch())
	m.Lost = [][2]int64{{p.pos, next}}
	j := &job{p: p, next: next}
	var err error
	if j.head, err = m.AppendFrame(nil); err != nil {
		return err
	}
	p.aligned = false
	return s.advance(p, j)
}

// branch goes back to where the leader has other records than were read, and reads those.
func (s *source) branch(p *partition, v verdict) error {
	if err := s.loss(fmt.Sprintf("%s: %v", p, v.why)); err != nil {
		return err
	}
	p.seen = slices.DeleteFunc(p.seen, func(e epochStart) bool { return e.from >= v.next })
	p.pos, p.aligned, p.moved, p.why = v.next, false, time.Now(), nil
	if p.target = v.end; p.end != openEnd {
		p.end = v.end
	}
	begins := func(m *format.Mark) { m.Begins, m.Branch = true, true }
	if err := s.mark(p, begins); err != nil {
		return err
	}
	if p.pos >= p.end {
		return s.retire(p, nil)
	}
	// The leader may have to be asked again, about the epoch that ended there.
	s.inspect(p, nil)
	return nil
}

// shrink takes note that a partition ends at the offset next, before its end of before.
func (s *source) shrink(p *partition, next int64) error {
	if err := s.loss(fmt.Sprintf("%s: it ended at offset %d before and ends at %d now (unclean leader election?): what was between is lost", p, p.wanted(), next)); err != nil {
		return err
	}
	s.count.Lost.Add(p.wanted() - next)
	if p.target = next; p.end == openEnd {
		return nil
	}
	p.end = next
	if p.pos < p.end {
		return nil
	}
	return s.advance(p, &job{p: p, next: p.pos})
}

// inspect asks a partition's leader about it, and does what follows.
func (s *source) inspect(p *partition, why error) {
	p.state = checked
	if why != nil {
		p.why = why
	}
	q := question{topic: p.topic, num: p.num, leaderEpoch: p.epoch, read: p.lastEpoch(), uncommitted: s.cfg.Uncommitted, local: p.empty >= confirmEmpty}
	s.ask(func(ctx context.Context) func() error {
		f, err := q.ask(ctx, s.cl)
		return func() error {
			switch {
			case p.state != checked: // given up meanwhile
				return nil
			case err != nil:
				s.log.Debug(fmt.Sprintf("%s: %v", p, err))
				s.count.Retries.Add(kafka.ErrorKind(err))
				s.setStuck(p, errors.Join(p.why, err))
				return nil
			}
			p.local, p.logStart = f.local, f.start
			empty := p.empty
			s.setIdle(p)
			v := diagnose(p, f)
			if err := s.obey(p, v, nil); err != nil {
				return err
			}
			if v.do == again && f.local < 0 {
				p.empty = empty // ask again after the next answer
			}
			return nil
		}
	})
}

// tick does what is due: it looks up the partitions that are stuck, and gives up on those
// that have made no progress for the timeout.
func (s *source) tick(now time.Time) error {
	var names []string
	for _, p := range s.active {
		if p.state == done {
			continue
		}
		if b := s.brokers[p.leader]; !p.absent && now.Sub(p.moved) > s.cfg.Timeout && (b == nil || b.held.IsZero()) {
			if err := s.giveUp(p); err != nil {
				return err
			}
		}
		if p.state == stuck && !slices.Contains(names, p.topic) {
			names = append(names, p.topic)
		}
	}
	if len(names) > 0 && !s.finding {
		s.finding = true
		s.ask(func(ctx context.Context) func() error {
			meta, err := s.adm.Metadata(ctx, names...)
			return func() error {
				s.finding = false
				if err != nil {
					s.log.Debug("metadata: " + err.Error())
					return nil // the timeout decides
				}
				return s.found(meta.Topics, func(p *partition) bool { return p.state == stuck && slices.Contains(names, p.topic) })
			}
		})
	}
	if s.follower == nil {
		return nil
	}
	s.count.Idle(allRead(s.active))
	return s.follow(now)
}

// giveUp is what the timeout does to a partition: one without a leader is left out, or
// while following until it has one.
func (s *source) giveUp(p *partition) error {
	if p.leader >= 0 || p.state != stuck {
		why := p.why
		if why == nil {
			why = errors.New("the broker sends nothing")
		}
		return fmt.Errorf("fetch %s: no progress at offset %d for %s: %w", p, p.pos, s.cfg.Timeout, why)
	}
	if s.cfg.Follow && !s.cfg.FailOnLoss {
		p.absent = true
		s.log.Warn(fmt.Sprintf("%s: no leader for %s: continuing without it until it has one", p, s.cfg.Timeout))
		return nil
	}
	p.left = leaderless
	what := fmt.Sprintf("%s: no leader for %s: what comes from offset %d on was not read", p, s.cfg.Timeout, p.pos)
	if p.end != openEnd {
		what = fmt.Sprintf("%s: no leader for %s: offsets %d to %d were not read", p, s.cfg.Timeout, p.pos, p.end-1)
	}
	if err := s.loss(what); err != nil {
		return err
	}
	if p.end != openEnd {
		s.count.Lost.Add(p.end - p.pos)
	}
	return s.retire(p, nil)
}

// refuse leaves out a partition that the user has no right to read. Whoever names its topic
// wants that one and no other run.
func (s *source) refuse(p *partition, why error) error {
	if named(s.cfg)[p.topic] {
		return command.WithHint(fmt.Errorf("fetch %s: %w", p, why), needsRead)
	}
	p.left = unreadable
	if what := refused(p, s.parts); what != "" {
		if err := s.loss(what); err != nil {
			return err
		}
	}
	return s.retire(p, nil)
}

// refused says what is not read of a partition, of all parts. Of a topic of which nothing
// was read it is said once, and is empty from then on.
func refused(p *partition, parts []*partition) string {
	if len(p.seen) > 0 {
		return fmt.Sprintf("%s: the user no longer has the right to READ it: what comes from offset %d on was not read", p, p.pos)
	}
	for _, other := range parts {
		if other != p && other.topic == p.topic && other.id == p.id && other.left == unreadable && len(other.seen) == 0 {
			return ""
		}
	}
	return fmt.Sprintf("topic %s is left out: the user has no right to READ it", p.topic)
}

// found does what the metadata call for, of the partitions that they are about.
func (s *source) found(topics kadm.TopicDetails, about func(*partition) bool) error {
	now := time.Now()
	confirm := soon
	if s.cfg.Follow {
		confirm = min(soon, s.cfg.Refresh)
	}
	lost := make(map[string][]*partition)
	for _, p := range s.parts[:s.begun] {
		if p.state == done || !about(p) {
			continue
		}
		f := find(p, topics)
		isGone, since := gone(p, f, now, confirm)
		if p.missing = since; isGone {
			lost[p.topic] = append(lost[p.topic], p)
			continue
		}
		if p.state != stuck {
			continue
		}
		switch f {
		case unled:
			p.leader, p.why = -1, kerr.LeaderNotAvailable
		case led:
			d := topics[p.topic].Partitions[p.num]
			s.setLeader(p, d.Leader, d.LeaderEpoch)
		}
	}
	for topic, parts := range lost {
		_, again := topics[topic]
		if err := s.drop(topic, parts, again && topics[topic].Err == nil); err != nil {
			return err
		}
	}
	return nil
}

// setLeader lets a partition be fetched from its leader. One that was elected since may
// have another log than the one that was read.
func (s *source) setLeader(p *partition, leader, epoch int32) {
	s.log.Debug(fmt.Sprintf("%s: %v; asking broker %d", p, p.why, leader))
	if p.absent {
		p.absent, p.moved = false, time.Now()
		s.log.Info(fmt.Sprintf("%s: has a leader again", p))
	}
	elected := epoch != p.epoch
	p.leader, p.epoch, p.local = leader, epoch, -1
	if elected && len(p.seen) > 0 {
		s.inspect(p, nil)
		return
	}
	s.setIdle(p)
}

// drop gives up partitions whose topic was deleted.
func (s *source) drop(topic string, parts []*partition, again bool) error {
	text := "was deleted: it was read as far as possible"
	switch {
	case again && s.cfg.Follow:
		text = "was deleted and created again: reading the new one from its beginning"
	case again:
		text = "was deleted and created again: the old one was read as far as possible"
	}
	s.log.Warn(fmt.Sprintf("topic %s %s", topic, text), "was", kafka.FormatTopicID(parts[0].id))
	for _, p := range parts {
		p.left = topicDeleted
		if wanted := p.wanted(); p.pos < wanted {
			if err := s.loss(fmt.Sprintf("%s: the topic was deleted before offsets %d to %d were read", p, p.pos, wanted-1)); err != nil {
				return err
			}
			s.count.Lost.Add(wanted - p.pos)
		}
		if err := s.retire(p, func(m *format.Mark) { m.Deleted = true }); err != nil {
			return err
		}
	}
	if s.follower != nil {
		s.follower.refresh = time.Now()
	}
	return nil
}

// retire writes the last mark of a partition before its end, and is done with it. What
// may still come of it from a broker is not wanted.
func (s *source) retire(p *partition, change func(*format.Mark)) error {
	if p.state == done {
		return nil
	}
	if p.left == whole || p.left == topicDeleted { // of others it is to be seen that they are left behind
		p.shown.Close()
	}
	p.end = p.pos // so that the stages downstream know that no more comes
	m := p.newMark(p.pos, p.lastEpoch())
	if change != nil {
		change(m)
	}
	return s.finish(p, &job{p: p, next: p.pos, epoch: p.lastEpoch()}, m)
}

// planner plans as cfg says.
func (s *source) planner(cfg Config) *planner {
	return &planner{cl: s.cl, adm: s.adm, cfg: cfg, log: s.log, lost: s.lost, past: s.past}
}

// noteAbsent notes the partitions that were followed no more, or not yet, when the run
// ended.
func (s *source) noteAbsent() {
	if !s.cfg.Follow { // the plan has noted those
		return
	}
	for _, u := range s.unplaced {
		s.lost.add(fmt.Sprintf("%s is left out: its offsets could not be read: %v", u.partition, u.why))
	}
	for _, p := range s.active {
		if p.absent {
			s.lost.add(fmt.Sprintf("%s: it has lost its leader: what comes from offset %d on was not read", p, p.pos))
		}
	}
}

// lastMarks are the marks of the partitions that were begun and not ended: where the run
// was told to stop. The queue must be done.
func (s *source) lastMarks() []*format.Mark {
	var marks []*format.Mark
	for _, p := range s.parts[:s.begun] {
		if !p.written.ended {
			marks = append(marks, p.newMark(p.written.next, p.written.epoch))
		}
	}
	return marks
}
