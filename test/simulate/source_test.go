package simulate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/fetch"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/segment"
)

// fetched is the stream of a fetch, and what became of it.
type fetched struct {
	packed   []byte
	pace     []chunk // of packed
	stream   *stream
	status   int
	groups   map[string]map[string]map[int32]int64 // nil: as the stream has them
	holes    bool
	filtered bool
	whole    func(p part, offset int64) bool // of a filtered stream; nil: nothing is
}

// A chunk is some bytes of a stream, and when they came.
type chunk struct {
	at time.Duration
	n  int
}

// pacer takes a stream, and notes when each part of it came.
type pacer struct {
	began time.Time
	b     bytes.Buffer
	pace  []chunk
}

// Write implements io.Writer.
func (p *pacer) Write(b []byte) (int, error) {
	p.pace = append(p.pace, chunk{time.Since(p.began), len(b)})
	return p.b.Write(b)
}

// paced gives a stream as it came.
type paced struct {
	began time.Time
	b     []byte
	pace  []chunk
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	for len(p.pace) > 0 && p.pace[0].n == 0 {
		p.pace = p.pace[1:]
	}
	n := min(len(b), len(p.b))
	if len(p.pace) > 0 {
		time.Sleep(p.pace[0].at - time.Since(p.began))
		n = min(n, p.pace[0].n)
		p.pace[0].n -= n
	}
	copy(b, p.b[:n])
	p.b = p.b[n:]
	return n, nil
}

// A reading is one run of kbk-fetch, a filter perhaps, and kbk-pack, and what it should read.
type reading struct {
	how      string
	cfg      fetch.Config
	pack     pack.Config
	filter   *filter
	selected []string
	groups   map[string]map[string]map[int32]int64 // nil: not asked for
	begin    func(p part, start, end int64) int64  // the first offset that is to be read
	to       int64                                 // 0: to the end
	since    int64                                 // of the records behind begin those of these times are to be read, and others may; 0: all
	until    int64
	expired  bool // what the cursor wants is gone
	holes    bool
}

// newReading draws what to read for a vault.
func (w *world) newReading(v *vault) *reading {
	time.Sleep(time.Millisecond) // no two of them make points of the same time
	r := &reading{
		cfg: fetch.Config{
			Kafka: w.kafka(w.fake), Concurrency: 64, Timeout: time.Minute,
			FetchBytes: 16 << 20, FetchPartitionBytes: 256 << 10, FetchWait: 5 * time.Second, Topics: []string{"^"},
		},
		pack:     pack.Config{SegmentSize: int64(300 + w.rng.IntN(3000)), Memory: 64 << 20, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd"), Level: 1},
		selected: slices.Sorted(maps.Keys(w.topics)),
		begin:    func(_ part, start, _ int64) int64 { return start },
	}
	if w.rng.IntN(4) == 0 {
		r.pack.Recipients = []age.Recipient{identity.Recipient()}
	}
	if w.rng.IntN(3) == 0 {
		r.selected = []string{r.selected[w.rng.IntN(len(r.selected))]}
		r.cfg.Topics = r.selected
	}
	r.how = strings.Join(r.cfg.Topics, ",")
	if w.rng.IntN(2) == 0 {
		r.cfg.Groups, r.groups = []string{"^"}, clone(w.groups)
		r.how += " with groups"
	}
	if w.rng.IntN(4) == 0 {
		r.filter = &w.filters[w.rng.IntN(len(w.filters))]
		r.how += " through " + r.filter.name
	} else if w.rng.IntN(3) == 0 {
		r.cfg.Batches = true
		r.how += " as batches"
	}
	return r
}

// bound draws where a run begins and ends.
func (w *world) bound(v *vault, r *reading) {
	switch w.rng.IntN(10) {
	case 0, 1, 2, 3, 4:
		w.fromCursor(v, r)
	case 5:
		n := int64(1 + w.rng.IntN(10))
		r.cfg.From = w.parsed(fmt.Sprint(-n))
		r.how += fmt.Sprintf(" from -%d", n)
		r.begin = func(p part, start, end int64) int64 { return max(start, end-n) }
		r.holes = true
	case 6:
		r.to = 1 + w.rng.Int64N(12)
		r.cfg.To = w.parsed(fmt.Sprint(r.to))
		r.how += fmt.Sprintf(" to %d", r.to)
	case 7:
		at := time.Now().Add(time.Duration(w.rng.IntN(2000)-1000) * time.Minute).UnixMilli()
		r.holes = true
		if w.rng.IntN(2) == 0 {
			r.since = at
			r.cfg.From = w.parsed(fmt.Sprintf("@%d", at))
			r.how += fmt.Sprintf(" from @%d", at)
			return
		}
		r.until = at
		r.cfg.To = w.parsed(fmt.Sprintf("@%d", at))
		r.how += fmt.Sprintf(" to @%d", at)
	}
}

func (w *world) parsed(bound string) fetch.Bound {
	b, err := fetch.ParseBound(bound, time.Now())
	w.must(err)
	return b
}

func (w *world) fromCursor(v *vault, r *reading) {
	c := w.cursor(v)
	for name, t := range c.Topics { // the fake cluster forgets the epochs of what it has compacted away
		maps.DeleteFunc(t.Epochs, func(n, _ int32) bool { return len(w.compacted[part{name, t.ID, n}]) > 0 })
	}
	r.cfg.Cursor = c
	r.how += " from a cursor"
	r.begin = func(p part, start, end int64) int64 {
		t, ok := c.Topics[p.topic]
		at, named := t.Partitions[p.n]
		if !ok || !named || t.ID != "" && t.ID != p.id {
			return start
		}
		if at < start {
			r.expired = true
			return start
		}
		return at
	}
}

// A pipe is fetch, a filter perhaps, and pack, over pipes.
type pipe struct {
	all               sync.WaitGroup
	raw               bytes.Buffer // of fetch
	packed            pacer
	fetchErr, packErr error
	stop              chan struct{}
}

func (w *world) start(r *reading) *pipe {
	p := &pipe{stop: make(chan struct{})}
	p.packed.began = time.Now()
	env := w.env("kbk-fetch")
	env.Stop = p.stop
	read, write := io.Pipe()
	p.all.Go(func() {
		p.fetchErr = fetch.Run(w.ctx, r.cfg, env, io.MultiWriter(&p.raw, write))
		write.Close()
	})
	var in io.Reader = read
	if r.filter != nil {
		filtered, to := io.Pipe()
		p.all.Go(func() { to.CloseWithError(r.filter.stage(read, to)) })
		in = filtered
	}
	p.all.Go(func() {
		p.packErr = pack.Pack(w.ctx, r.pack, w.env("kbk-pack"), in, &p.packed)
		_, _ = io.Copy(io.Discard, in)
	})
	return p
}

// fetch reads the cluster and packs it, and checks the stream against the truth.
func (w *world) fetch(v *vault) *fetched {
	r := w.newReading(v)
	w.bound(v, r)
	p := w.start(r)
	p.all.Wait()
	f := w.fetched(r, p)
	if f.status != command.OK && f.status != command.Loss {
		w.breaks("fetch %s: %v", r.how, p.fetchErr)
	}
	w.readAll(r, f.stream)
	bounded := r.to > 0 || r.until > 0
	hidden := w.hides(r.selected) && !bounded
	if loss := r.expired || hidden; loss != (f.status == command.Loss) && !(bounded && w.hides(r.selected)) {
		w.breaks("fetch %s: %v, and loss: %v", r.how, p.fetchErr, loss)
	}
	if r.groups != nil {
		f.groups = r.groups
		if err := errors.Join(w.sameGroups(f.stream, r.groups), f.stream.noMoreGroups(r.groups, f.stream.ids)); err != nil {
			w.breaks("fetch %s: %v", r.how, err)
		}
	} else if len(f.stream.groups) > 0 {
		w.breaks("fetch %s: groups that nobody asked for", r.how)
	}
	w.filtered(r, f)
	w.say("fetched %s: status %d, %d records", r.how, f.status, f.stream.count())
	return f
}

// fetched reads what came out of a pipe.
func (w *world) fetched(r *reading, p *pipe) *fetched {
	f := &fetched{status: status(p.fetchErr), packed: p.packed.b.Bytes(), pace: p.packed.pace, holes: r.holes, filtered: r.filter != nil || r.since > 0 || r.until > 0}
	if status(p.packErr) != f.status {
		w.breaks("fetch %s: status %d (%v), pack: %v", r.how, f.status, p.fetchErr, p.packErr)
	}
	f.stream = w.read("fetch "+r.how, p.raw.Bytes())
	return f
}

// filtered takes from the stream what the filter took.
func (w *world) filtered(r *reading, f *fetched) {
	if r.filter == nil {
		return
	}
	for _, rs := range f.stream.records {
		maps.DeleteFunc(rs, func(_ int64, c content) bool { _, ok := r.filter.apply(c); return !ok })
	}
}

// readAll looks whether a run has read what it should, and nothing else.
func (w *world) readAll(r *reading, s *stream) {
	for _, topic := range r.selected {
		for n := range int32(partitionCount) {
			p := part{topic, w.topics[topic], n}
			info := w.fake.PartitionInfo(topic, n)
			begin, end := r.begin(p, info.LogStartOffset, info.LastStableOffset), info.LastStableOffset
			if r.to > 0 {
				end = min(end, r.to)
			}
			for offset, c := range w.truth[p] {
				_, got := s.records[p][offset]
				want := offset >= begin && offset < end && !w.compacted[p][offset]
				if r.since > 0 && c.time < r.since || r.until > 0 && c.time > r.until {
					continue
				}
				if got != want {
					w.breaks("fetch %s: %s: record %d is read: %v, and should be: %v (log from %d, stable to %d)", r.how, p, offset, got, want, info.LogStartOffset, info.LastStableOffset)
				}
			}
		}
	}
}

// hides tells whether the open transaction hides something in the topics that is to be said.
// What one hides that has just begun is left to the next run, without a word.
func (w *world) hides(topics []string) bool {
	if w.open == nil || time.Since(w.open.since) <= time.Minute {
		return false
	}
	for p := range w.open.records {
		if slices.Contains(topics, p.topic) {
			return true
		}
	}
	return false
}

// follow is a run of fetch --follow while things happen, stopped when it has read what there is.
func (w *world) follow() {
	v := w.vaults[0]
	r := w.newReading(v)
	w.fromCursorOrBeginning(v, r)
	r.cfg.Follow, r.cfg.Refresh = true, time.Duration(5+w.rng.IntN(40))*time.Second
	if w.rng.IntN(4) > 0 {
		r.cfg.PointEvery = time.Duration(1+w.rng.IntN(5)) * time.Minute
	}
	r.pack.SegmentAge = time.Duration(w.rng.IntN(3)) * time.Minute
	w.say("following %s, points every %s:", r.how, r.cfg.PointEvery)
	floors := w.floors(r)
	lost := r.expired
	p := w.start(r)
	for range 2 + w.rng.IntN(5) {
		w.pass(time.Duration(1+w.rng.IntN(120)) * time.Second)
		lost = lost || w.hides(r.selected)
		lost = w.beside(r) || lost
	}
	w.pass(2*r.cfg.Refresh + time.Minute)
	lost = lost || w.hides(r.selected)
	close(p.stop)
	p.all.Wait()
	f := w.fetched(r, p)
	if f.status != command.Interrupted {
		w.breaks("fetch --follow %s: %v", r.how, p.fetchErr)
	}
	for _, topic := range r.selected {
		for n := range int32(partitionCount) {
			p := part{topic, w.topics[topic], n}
			if w.topics[topic] == "" {
				continue
			}
			end := w.fake.PartitionInfo(topic, n).LastStableOffset
			for offset := range w.truth[p] {
				if _, got := f.stream.records[p][offset]; !got && offset < end && offset >= floors[p] && !w.compacted[p][offset] {
					w.breaks("fetch --follow %s: %s: record %d is not read, stable to %d", r.how, p, offset, end)
				}
			}
		}
	}
	if r.expired && len(f.stream.end.Losses) == 0 {
		w.breaks("fetch --follow %s: nothing is said of what has expired", r.how)
	}
	if !lost && len(f.stream.end.Losses) > 0 {
		w.breaks("fetch --follow %s: losses out of nothing: %v", r.how, f.stream.end.Losses)
	}
	w.filtered(r, f)
	w.say("followed: %d records, %d points, %v", f.stream.count(), len(f.stream.points), f.stream.end.Losses)
	push := w.newPushing(v, f)
	w.bubble(func() { push.run(w, false) })
	push.book(w)
	if status(push.err) == f.status {
		w.listsPoints(v, f.stream.points)
	}
}

// listsPoints looks whether each point that has just been made is listed, with its topics.
func (w *world) listsPoints(v *vault, points []*point) {
	topics := make(map[int64]map[string]int)
	for _, p := range w.listed(v) {
		topics[p.Time] = p.Topics
	}
	for _, p := range points {
		want := make(map[string]int)
		for key := range p.at {
			want[key.topic]++
		}
		if !maps.Equal(topics[p.time], want) {
			w.breaks("show says that point %d is of %v, and it is of %v", p.time, topics[p.time], want)
		}
	}
}

// floors are where a run begins in each partition.
func (w *world) floors(r *reading) map[part]int64 {
	floors := make(map[part]int64)
	for _, topic := range r.selected {
		for n := range int32(partitionCount) {
			p, info := part{topic, w.topics[topic], n}, w.fake.PartitionInfo(topic, n)
			floors[p] = r.begin(p, info.LogStartOffset, info.LastStableOffset)
		}
	}
	return floors
}

func (w *world) fromCursorOrBeginning(v *vault, r *reading) {
	if w.rng.IntN(3) > 0 {
		w.fromCursor(v, r)
	}
}

// beside is what happens while a run follows. It tells whether records may be lost.
func (w *world) beside(r *reading) bool {
	switch w.rng.IntN(9) {
	case 8:
		w.deleteGroup()
	case 0:
		w.lead()
	case 1:
		w.commit()
	case 2:
		w.expire()
		return true
	case 3:
		if r.cfg.Topics[0] == "^" { // all topics, whichever there are
			w.recreate()
			r.selected = slices.Sorted(maps.Keys(w.topics))
			w.pass(2 * r.cfg.Refresh)
			return true
		}
	default:
		w.produce()
	}
	return false
}

func (s *stream) count() (n int) {
	for _, rs := range s.records {
		n += len(rs)
	}
	return n
}

// A filter is a stage that drops records or masks them.
type filter struct {
	name string
	// apply returns what is left of a record.
	apply func(c content) (content, bool)
}

// keepOnly passes on the records with a key.
func keepOnly(key string) filter {
	return filter{"simulated:keep " + key, func(c content) (content, bool) { return c, c.key == key }}
}

const masked = "masked"

// mask masks the values of the records with a key.
func mask(key string) filter {
	return filter{"simulated:mask " + key, func(c content) (content, bool) {
		if c.key == key {
			c.value = masked
		}
		return c, true
	}}
}

// stage is the filter as a process.
func (f *filter) stage(in io.Reader, out io.Writer) error {
	r, w := format.NewReader(in, 0), format.NewWriter(out)
	h, err := r.Header()
	if err != nil {
		return err
	}
	h.Filters = append(h.Filters, f.name)
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	for {
		frame, err := r.Next()
		if err != nil {
			return err
		}
		switch frame.Kind {
		case format.KindRec:
			var rec format.Record
			if err := frame.Record(&rec); err != nil {
				return err
			}
			left, ok := f.apply(content{string(rec.Key), string(rec.Value), rec.Timestamp})
			if !ok {
				continue
			}
			if left.value != string(rec.Value) {
				rec.Topic, rec.Partition, rec.Offset, rec.Value = frame.Topic, frame.Partition, frame.Offset, []byte(left.value)
				frame.Raw = format.AppendRecord(nil, &rec)
			}
		case format.KindEnd:
			end, err := format.DecodeEnd(frame.Raw)
			if err != nil {
				return err
			}
			return w.Close(end)
		}
		if err := w.WriteRaw(frame.Raw); err != nil {
			return err
		}
	}
}

// compact has Kafka compact its compacted topics, and notes what is gone.
func (w *world) compact() {
	if w.open != nil {
		return
	}
	w.fake.Compact()
	for _, v := range w.vaults { // where the first batches are gone the log begins later
		v.holes = true
	}
	gone := 0
	for p, rs := range w.truth {
		if w.topics[p.topic] != p.id || !compacts(p.topic) {
			continue
		}
		info := w.fake.PartitionInfo(p.topic, p.n)
		left := make(map[int64]bool)
		for _, r := range w.consumed(w.fake, p.topic, info) {
			left[r.offset] = true
		}
		for offset := range rs {
			if offset >= info.LogStartOffset && !left[offset] {
				if w.compacted[p] == nil {
					w.compacted[p] = make(map[int64]bool)
				}
				w.compacted[p][offset] = true
				gone++
			}
		}
	}
	w.say("Kafka has compacted: %d records less", gone)
}

func compacts(topic string) bool { return topic == "users" }
