package produce

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/partitionlog"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/throttle"
)

// A producer takes a stream apart into what goes to each partition of the target, and
// puts the map together from what has got there.
type producer struct {
	cfg      *Config
	env      *command.Env
	counters *metrics.Counters
	targets  *targets
	logs     *partitionlog.Logs
	writer   *partitionlog.Writer
	fail     context.CancelCauseFunc

	// Of the stream's side.
	batches bool // the stream may hold them
	batched batch
	order   segment.Order
	editor  editor
	hasher  *hasher
	filler  filler
	bytes   *throttle.Limit
	records *throttle.Limit
	lanes   []*lane // that the stream has something for
	began   bool    // the target topics are being prepared as they come
	early   []*format.Mark
	there   int64  // records that the target had already
	came    int64  // records of the stream, and
	scanned int64  // offsets that it has scanned
	spoken  spoken // what target frames are written of
	mayMark *bool  // the cluster lets markers be written; nil: nobody has asked
	check   tooLargeCount
	mirror  *mirror // nil: the stream is not that of a cluster that goes on

	workers    errgroup.Group // one goroutine a lane
	memory     *semaphore.Weighted
	memorySize int64
	batchSize  int
	builders   sync.Pool
	scratch    sync.Pool

	gathering sync.Mutex
	open      map[*lane]struct{} // with a batch that grows

	mu      sync.Mutex // what acknowledgements and the stream share
	maps    *format.Writer
	acked   int64
	unsure  bool // it is not known of all batches whether they are in the log
	stamped stamps
	routes  []*route
}

func newProducer(cfg *Config, env *command.Env, t *targets, logs *partitionlog.Logs, maps *format.Writer) *producer {
	p := &producer{
		cfg: cfg, env: env, counters: &env.Counters, targets: t, logs: logs, maps: maps, hasher: newHasher(),
		editor:     newEditor(cfg.OffsetHeaders, cfg.StripHeaders),
		bytes:      throttle.New(cfg.MaxRate),
		records:    throttle.New(cfg.MaxRecords),
		spoken:     make(spoken),
		memorySize: cfg.Memory / 2, // the rest is for what goes over the wire, and what is read
		builders:   sync.Pool{New: func() any { return new(recordbatch.Builder) }},
		scratch:    sync.Pool{New: func() any { return new([]byte) }},
		open:       make(map[*lane]struct{}),
		stamped:    make(stamps),
		batched:    batch{decoder: recordbatch.NewDecoder(), first: recordbatch.NewDecoder()},
	}
	p.memory = semaphore.NewWeighted(p.memorySize)
	p.batchSize = int(min(largeBatch, max(p.memorySize/8, 32<<10)))
	p.filler.sum = p.hasher.sum(&format.Record{})
	return p
}

// A partition is a partition of the stream.
type partition struct {
	source      *source
	num         int32
	first, next int64  // of its first mark and its last; -1: there was none
	logStart    int64  // of its log, as the first mark says; 0 where it does not
	scanned     int64  // how far the stream has come; -1: nowhere yet
	fixed       *route // where all of its records go; or, by target partition:
	shown       *metrics.Partition
	routes      []*route
}

// A route is a partition of the stream on its way to a partition of the target.
type route struct {
	from *partition
	to   *lane
	done format.Map // the run of records in the target that grows; under the producer's lock
}

// follow produces records until the end of the stream.
func (p *producer) follow(ctx context.Context, r *format.Reader) (*format.End, error) {
	var rec format.Record
	var last *partition
	for {
		f, err := r.Next()
		if err != nil {
			return nil, command.Input(err)
		}
		switch f.Kind {
		case format.KindTopic:
			err = p.topic(ctx, f.Raw)
		case format.KindMark:
			err = p.mark(ctx, f.Raw)
		case format.KindRec:
			if err := f.Record(&rec); err != nil {
				return nil, command.Input(err)
			}
			if err := p.order.Record(rec.Topic, rec.Partition, rec.Offset); err != nil {
				return nil, command.Input(err)
			}
			if last == nil || last.num != rec.Partition || last.source.name != rec.Topic {
				if last, err = p.partition(ctx, rec.Topic, rec.Partition); err != nil {
					return nil, err
				}
			}
			p.passed(last, rec.Offset, rec.Offset+1, 1)
			err = p.record(ctx, last, &rec, last.source.target.compressor)
		case format.KindPoint:
			err = p.point(ctx, f.Raw)
		case format.KindGroup, format.KindGroups:
			if err = p.pass(f.Raw); err == nil && p.mirror != nil && f.Kind == format.KindGroup {
				err = p.mirror.group(f.Raw)
			}
		case format.KindCluster:
			p.env.Log.Info("the snapshot of the cluster in the input is not restored here: kbk-cluster plan shows it, and kbk-cluster apply restores it")
		case format.KindSeg:
			err = command.WithStatus(command.Corrupt, errors.New("standard input: a segment in a stream of records"))
		case format.KindBatch:
			if !p.batches {
				err = command.WithStatus(command.Corrupt, errors.New("standard input: a batch in a stream of records"))
				break
			}
			err = p.batch(ctx, f.Raw)
		case format.KindEnd:
			return format.DecodeEnd(f.Raw)
		}
		if err != nil {
			return nil, err
		}
	}
}

// pass puts a frame into the map: by the marks it is known that an offset behind a
// partition's last record is in the backup too, and the groups are what the map is for.
func (p *producer) pass(raw []byte) error {
	if p.cfg.DryRun { // there is no map
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.maps.WriteRaw(raw); err != nil {
		return fmt.Errorf("write the map: %w", err)
	}
	return nil
}

// topic takes a topic frame. One in mid-stream may tell of partitions that are new.
func (p *producer) topic(ctx context.Context, raw []byte) error {
	about, err := format.DecodeTopic(raw)
	if err != nil {
		return command.Input(err)
	}
	if p.mirror != nil {
		if err := p.mirror.topic(p.targets.sources[about.Name], about); err != nil {
			return err
		}
	}
	p.order.Topic(about)
	p.targets.describe(about)
	s := p.targets.sources[about.Name]
	if s.target == nil || !p.cfg.AddPartitions {
		return nil
	}
	if n := needs(p.cfg, wish{about: about}); n > s.target.partitions {
		return p.targets.grow(ctx, s.target, n)
	}
	return nil
}

// mark takes a mark: the first of a partition says where its log is to start, the last
// where it is to end.
func (p *producer) mark(ctx context.Context, raw []byte) error {
	m, err := format.DecodeMark(raw)
	if err == nil {
		err = p.order.Mark(m)
	}
	if err != nil {
		return command.Input(err)
	}
	if err := p.pass(raw); err != nil {
		return err
	}
	p.spoken.add(m.Topic, m.Partition)
	if !p.began { // more topics may be named before the first record
		s := p.targets.named(m.Topic)
		s.highest = max(s.highest, int(p.cfg.partition(m.Partition))+1)
		p.early = append(p.early, m)
		return nil
	}
	return p.marked(ctx, m)
}

func (p *producer) marked(ctx context.Context, m *format.Mark) error {
	part, err := p.partition(ctx, m.Topic, m.Partition)
	if err != nil {
		return err
	}
	if p.mirror != nil {
		if err := p.mirror.mark(part, m); err != nil {
			return err
		}
	}
	if part.first < 0 {
		if part.first = m.Next; m.LogStart != nil {
			part.logStart = *m.LogStart
		}
	}
	part.next = max(part.next, m.Next)
	p.passed(part, m.Next, m.Next, 0)
	return nil
}

// passed counts offsets of the stream below next, and the records among them. at is where the stream
// begins if it has said nothing of the partition before.
func (p *producer) passed(part *partition, at, next, records int64) {
	if part.scanned < 0 {
		part.scanned = at
	}
	p.scanned += max(0, next-part.scanned)
	part.scanned = next
	p.came += records
	if records == 1 && p.came%countEvery != 0 {
		return
	}
	p.counters.Offsets.Store(p.scanned)
	p.counters.Taken.Store(p.came)
	if p.cfg.DryRun { // then nothing else is done with them
		p.counters.Records.Store(p.came)
	}
}

// countEvery is after how many records that come one by one the counters are told.
const countEvery = 64

// begin prepares the topics that have been named so far, so that what is wrong with the
// last is known before the first record is written.
func (p *producer) begin(ctx context.Context) error {
	if p.began {
		return nil
	}
	p.began = true
	if !p.cfg.DryRun {
		me := &p.targets.keeper.me
		var err error
		if me.Producer, me.Epoch, err = p.logs.ProducerID(ctx); err != nil {
			return err
		}
		if p.cfg.Exact {
			if me.Markers, _, err = p.logs.ProducerID(ctx); err != nil {
				return err
			}
		}
	}
	if err := p.targets.prepare(ctx); err != nil {
		return err
	}
	early := p.early
	p.early = nil
	for _, m := range early {
		if err := p.marked(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// partition returns a partition of the stream, ready to be produced.
func (p *producer) partition(ctx context.Context, topic string, num int32) (*partition, error) {
	s := p.targets.named(topic)
	s.highest = max(s.highest, int(p.cfg.partition(num))+1)
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	if s.target == nil {
		if err := p.targets.prepare(ctx); err != nil {
			return nil, err
		}
	}
	part := s.parts[num]
	if part != nil {
		return part, nil
	}
	part = &partition{source: s, num: num, first: -1, next: -1, scanned: -1, shown: p.counters.Partitions.Open(topic, num)}
	if p.cfg.Partitioner == "" {
		var err error
		if part.fixed, err = p.route(ctx, part, p.cfg.partition(num)); err != nil {
			return nil, err
		}
	}
	s.parts[num] = part
	p.spoken.add(topic, num)
	return part, nil
}

// route begins the way from a partition to one of the target's.
func (p *producer) route(ctx context.Context, from *partition, to int32) (*route, error) {
	target := from.source.target
	if int(to) >= target.partitions {
		if err := p.targets.grow(ctx, target, int(to)+1); err != nil {
			return nil, err
		}
	}
	r := &route{from: from, to: target.lanes[to]}
	if p.cfg.Exact {
		if other := r.to.from; other != nil {
			return nil, command.Usagef("--offsets exact: partitions %d and %d of topic %s would both go to partition %d", other.num, from.num, from.source.name, to)
		}
		r.to.from = from
	}
	if err := p.enter(ctx, r.to); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.routes = append(p.routes, r)
	return r, nil
}

// enter makes a lane ready that the stream has something for.
func (p *producer) enter(ctx context.Context, l *lane) error {
	if l.opened {
		return nil
	}
	l.opened = true
	l.came = adopted{producer: sequence{id: -1}, marker: sequence{id: -1}}
	p.lanes = append(p.lanes, l)
	if p.cfg.Exact {
		if err := p.enterExact(ctx, l); err != nil {
			return err
		}
	}
	if p.cfg.IfNotEmpty == appending {
		l.due = -1
		return nil
	}
	if l.target.missing {
		return nil
	}
	// It may have been a while since the topics were looked at.
	end, err := p.logs.End(ctx, l.at)
	if err != nil {
		return err
	}
	if end != l.bounds.End {
		at, err := p.logs.Bounds(ctx, []string{l.target.name})
		if err != nil {
			return err
		}
		l.bounds = at[l.at]
	}
	l.due = l.bounds.End
	if l.bounds.Start < l.bounds.End {
		l.existing = newExisting(p.logs, l.at, l.bounds, int32(min(max(p.cfg.Memory/16, 64<<10), 1<<20)), p.hasher, p.batches)
		l.existing.scan.committed = p.mirror != nil
	}
	return nil
}

// way is the route of a record.
func (p *producer) way(ctx context.Context, part *partition, key []byte) (*route, error) {
	if part.fixed != nil {
		return part.fixed, nil
	}
	target := part.source.target
	to := target.turn
	if p.cfg.Partitioner == murmur2 && key != nil {
		to = target.spread.Partition(&kgo.Record{Key: key}, target.partitions)
	} else if target.turn++; target.turn >= target.partitions {
		target.turn = 0
	}
	for len(part.routes) <= to {
		part.routes = append(part.routes, nil)
	}
	var err error
	if part.routes[to] == nil {
		part.routes[to], err = p.route(ctx, part, int32(to))
	}
	return part.routes[to], err
}

// record produces rec, unless an earlier run has, in batches of a codec; it waits while the
// memory is full.
func (p *producer) record(ctx context.Context, part *partition, rec *format.Record, codec *recordbatch.Compressor) error {
	p.editor.edit(rec)
	r, err := p.way(ctx, part, rec.Key)
	if err != nil {
		return err
	}
	l := r.to
	l.target.oldest = min(l.target.oldest, rec.Timestamp)
	if rec.Attributes&format.LogAppendTime != 0 {
		l.target.appendTime++
	}
	if p.cfg.Exact && !l.exact.opened {
		if err := p.openExact(ctx, l, rec.Offset); err != nil {
			return err
		}
	}
	if part.next >= 0 {
		part.next = max(part.next, rec.Offset+1) // it may have no mark behind it
	}
	if l.existing != nil {
		if found, err := p.found(ctx, r, rec); err != nil || found {
			return err
		}
	}
	size := recordbatch.RecordSize(rec)
	if p.cfg.DryRun {
		return p.weigh(ctx, r, rec, size, codec)
	}
	if err := p.records.Wait(ctx, 1); err != nil {
		return err
	}
	if err := p.bytes.Wait(ctx, int64(size)); err != nil {
		return err
	}
	if p.cfg.Exact {
		if err := p.align(ctx, l, rec.Offset, rec.Offset); err != nil {
			return err
		}
		l.exact.sample(p.hasher, rec)
	}
	if err := p.start(ctx, l); err != nil {
		return err
	}
	if err := p.add(ctx, l, r, rec, codec); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// found tells whether the target has the record from an earlier run. What is there
// must be, record by record, what this run would have produced there.
func (p *producer) found(ctx context.Context, r *route, rec *format.Record) (bool, error) {
	if p.mirror != nil {
		return p.mirror.found(ctx, r, rec)
	}
	l := r.to
	is, ok, err := l.existing.peek(ctx)
	if err != nil {
		return false, err
	}
	if !ok { // from here on it is new
		l.finishExisting()
		return false, nil
	}
	if is.sum != p.hasher.sum(rec) || p.cfg.Exact && is.offset != rec.Offset {
		return false, notEmpty(l, is.offset, fmt.Sprintf("it is not the record of offset %d that this restore has there", rec.Offset))
	}
	l.existing.pop()
	p.there++
	p.counters.There.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	return true, p.mapped(run{r, rec.Offset, 1}, is.offset)
}

// finishExisting says that all that was there has been gone through.
func (l *lane) finishExisting() {
	l.came = l.existing.came
	l.written = l.existing.size // no batch is on its way yet
	l.existing = nil
}

func notEmpty(l *lane, offset int64, why string) error {
	return command.WithHint(fmt.Errorf("topic %s is not empty: partition %d, offset %d: %s", l.target.name, l.num, offset, why),
		"write to another topic with --rename, or after what is there with --if-not-empty append")
}

// finish waits until all is written that the stream had, and wants the target to hold
// no more than that.
func (p *producer) finish(ctx context.Context, end *format.End) error {
	if err := p.begin(ctx); err != nil { // there was no record
		return err
	}
	if err := p.targets.prepare(ctx); err != nil { // nor of topics that were named since
		return err
	}
	if p.cfg.Exact {
		if err := p.closeExact(ctx, end); err != nil {
			return err
		}
	}
	if err := p.drain(ctx); err != nil {
		return err
	}
	if end.Interrupted {
		return nil
	}
	return p.nothingLeft(ctx)
}

// drain waits until all that was read is written.
func (p *producer) drain(ctx context.Context) error {
	p.sealAll()
	for _, l := range p.lanes {
		if l.working {
			l.queue.change(func() { l.queue.closed = true })
		}
	}
	_ = p.workers.Wait() // each has told the context
	for _, l := range p.lanes {
		if err := p.rest(ctx, l); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// nothingLeft wants that all which was in the partitions that the stream speaks of was in
// the stream. Others may be the business of another run.
func (p *producer) nothingLeft(ctx context.Context) error {
	if p.cfg.Partitioner != "" { // records may go to any
		for _, t := range p.targets.topics {
			for _, l := range t.lanes {
				if err := p.enter(ctx, l); err != nil {
					return err
				}
			}
		}
	}
	for _, l := range p.lanes {
		if err := p.wantNoMore(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// wantNoMore wants that all which was in a lane was in the stream.
func (p *producer) wantNoMore(ctx context.Context, l *lane) error {
	if l.existing == nil {
		return nil
	}
	is, ok, err := l.existing.peek(ctx)
	if err != nil {
		return err
	}
	if ok {
		return notEmpty(l, is.offset, "this restore ends before it")
	}
	l.finishExisting()
	return nil
}

// mapped notes which offsets became which. The lock is held.
func (p *producer) mapped(r run, target int64) error {
	m := &r.route.done
	if m.Count > 0 && r.first == m.SourceFirst+m.Count && target == m.TargetFirst+m.Count {
		m.Count += r.count
		return nil
	}
	if err := p.writeRun(r.route); err != nil {
		return err
	}
	from, to := r.route.from, r.route.to
	*m = format.Map{
		Topic: from.source.name, Partition: from.num, SourceFirst: r.first,
		TargetTopic: to.target.name, TargetPartition: to.num, TargetFirst: target, Count: r.count,
	}
	return nil
}

// writeRun writes what a route's run has grown to. The lock is held.
func (p *producer) writeRun(r *route) error {
	if r.done.Count == 0 || p.cfg.DryRun {
		return nil
	}
	err := p.maps.Write(&r.done)
	r.done.Count = 0
	if err != nil {
		return fmt.Errorf("write the map: %w", err)
	}
	return nil
}

func (p *producer) writeRuns() error {
	for _, r := range p.routes {
		if err := p.writeRun(r); err != nil {
			return err
		}
	}
	return nil
}

// since is how long something took, as messages have it.
func since(began time.Time) time.Duration { return time.Since(began).Round(time.Millisecond) }

// Headers that --offset-headers adds, with the topic and decimal numbers as text.
var (
	headerTopic     = []byte("kbk.source.topic")
	headerPartition = []byte("kbk.source.partition")
	headerOffset    = []byte("kbk.source.offset")
	headerTimestamp = []byte("kbk.source.timestamp")
)

// An editor changes records' headers as the flags say.
type editor struct {
	strip   map[string]bool // names of headers to leave out
	origin  bool            // add headers that say where a record was
	headers []format.RecordHeader
	text    []byte
}

func newEditor(origin bool, strip []string) editor {
	e := editor{origin: origin, strip: make(map[string]bool)}
	for _, name := range strip {
		e.strip[name] = true
	}
	return e
}

// edits says whether there is anything to do.
func (e *editor) edits() bool { return len(e.strip) > 0 || e.origin }

// edit gives rec its new headers. They hold until the next call.
func (e *editor) edit(rec *format.Record) {
	if len(e.strip) > 0 {
		e.headers = e.headers[:0]
		for _, h := range rec.Headers {
			if !e.strip[string(h.Name)] {
				e.headers = append(e.headers, h)
			}
		}
		rec.Headers = e.headers
	}
	if !e.origin {
		return
	}
	e.headers = append(e.headers[:0], rec.Headers...)
	text := append(e.text[:0], rec.Topic...)
	ends := []int{len(text)}
	for _, n := range []int64{int64(rec.Partition), rec.Offset, rec.Timestamp} {
		text = strconv.AppendInt(text, n, 10)
		ends = append(ends, len(text))
	}
	e.text = text
	from := 0
	for i, name := range [][]byte{headerTopic, headerPartition, headerOffset, headerTimestamp} {
		e.headers = append(e.headers, format.RecordHeader{Name: name, Value: text[from:ends[i]]})
		from = ends[i]
	}
	rec.Headers = e.headers
}
