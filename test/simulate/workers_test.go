package simulate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/fetch"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
)

const workersGroup = "kbk-workers"

// A worker is fetch --group, pack and push, and the receipts from the last to the first.
type worker struct {
	all               sync.WaitGroup
	r                 *reading
	push              *pushing
	raw               bytes.Buffer // of fetch
	receipts          *os.File
	brokers           *line
	stop              chan struct{}
	cancel            context.CancelFunc
	cut               bool // off from the brokers, at some time
	fetchErr, packErr error
}

// An output ends with the pipe that it writes to.
type output struct {
	io.Writer
	io.Closer
}

// workers are members of a group that back up while things happen, up to two at once: they come
// and go, are killed, and are cut off from the brokers. Their push works in the cluster's own
// time, since what it has stored comes back to the group.
func (w *world) workers() {
	v := w.vaults[0]
	if w.open != nil { // what it hides is not committed
		return
	}
	floors := make(map[part]int64)
	for topic := range w.topics {
		for n := range int32(partitionCount) {
			floors[part{topic, w.topics[topic], n}] = w.fake.PartitionInfo(topic, n).LogStartOffset
		}
	}
	if !v.begun { // as in twoAtOnce
		defer v.listWhole()()
	}
	running := []*worker{w.newWorker(v)}
	all := slices.Clone(running)
	for range 1 + w.rng.IntN(5) {
		w.pass(time.Duration(1+w.rng.IntN(60)) * time.Second)
		i := w.rng.IntN(len(running))
		switch kind := w.rng.IntN(10); {
		case kind < 3 && len(running) == 1:
			running = append(running, w.newWorker(v))
			all = append(all, running[len(running)-1])
		case kind == 3 && len(running) > 1:
			running[i].end(w)
			running = slices.Delete(running, i, i+1)
		case kind == 4 && len(running) > 1 && v.begun:
			running[i].kill(w)
			running = slices.Delete(running, i, i+1)
		case kind == 5:
			running[i].cutOff(w, time.Duration(1+w.rng.IntN(40))*time.Second)
		case kind == 6:
			w.lead()
		default:
			w.produce()
			if w.open != nil {
				w.endTransaction()
			}
		}
	}
	w.pass(4 * time.Minute)
	whole := true
	for _, c := range running {
		c.end(w)
		whole = whole && c.push.process.hurt == 0
	}
	for _, c := range all {
		c.book(w, floors)
	}
	w.readOnce(all)
	w.groupIsStored(v, floors, whole)
}

// newWorker starts a worker.
func (w *world) newWorker(v *vault) *worker {
	r := w.newReading(v)
	r.filter, r.groups, r.cfg.Groups = nil, nil, nil
	r.cfg.Topics, r.selected = []string{"^"}, slices.Sorted(maps.Keys(w.topics))
	r.cfg.Follow, r.cfg.Refresh = true, time.Duration(5+w.rng.IntN(40))*time.Second
	r.cfg.Group, r.cfg.SessionTimeout = workersGroup, 10*time.Second
	r.pack.SegmentAge = time.Duration(1+w.rng.IntN(20)) * time.Second
	r.how = "--group"
	c := &worker{r: r, brokers: &line{w: w}, stop: make(chan struct{})}
	r.cfg.Kafka.Dial = c.brokers.dial
	w.say("a worker of a group:")
	c.push = w.newPushing(v, &fetched{packed: make([]byte, 1), status: command.Interrupted})
	c.push.cut = false
	if !v.begun { // where the run before was killed as it began the backup, too
		c.push.faults.Kill, c.push.faults.Fail = 0, 0
	}
	c.push.faults.Pauses = w.rng.IntN(2) == 0
	c.push.cfg.Checkpoint = time.Duration(1+w.rng.IntN(10)) * time.Second
	name := filepath.Join(w.t.TempDir(), "receipts")
	var err error
	c.receipts, err = os.Create(name)
	w.must(err)
	r.cfg.Receipts = name
	c.start(w)
	return c
}

func (c *worker) start(w *world) {
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(w.ctx)
	env := w.env("kbk-fetch")
	env.Stop = c.stop
	records, toPack := io.Pipe()
	segments, toPush := io.Pipe()
	c.push.cfg.Remote, c.push.process = c.push.v.attach(c.push.faults, w.seedOf())
	c.all.Go(func() {
		c.fetchErr = fetch.Run(ctx, c.r.cfg, env, output{io.MultiWriter(&c.raw, toPack), toPack})
		toPack.Close()
	})
	c.all.Go(func() {
		c.packErr = pack.Pack(ctx, c.r.pack, w.env("kbk-pack"), records, toPush)
		toPush.Close()
		records.CloseWithError(io.ErrClosedPipe)
	})
	c.all.Go(func() {
		c.push.err = push.Run(ctx, c.push.cfg, w.env("kbk-push"), segments, io.MultiWriter(&c.push.receipts, c.receipts))
		segments.CloseWithError(io.ErrClosedPipe)
	})
}

// end stops a worker as Ctrl-C does.
func (c *worker) end(w *world) {
	w.say("a worker is stopped")
	close(c.stop)
	c.all.Wait()
}

// kill ends a worker at once: the group and the store hear nothing of it any more.
func (c *worker) kill(w *world) {
	w.say("a worker is killed")
	c.push.process.kill()
	c.brokers.cut()
	c.cancel()
}

// cutOff lets a worker reach no broker for some time.
func (c *worker) cutOff(w *world, d time.Duration) {
	w.say("a worker is cut off for %s", d)
	c.cut = true
	c.brokers.cut()
	w.pass(d)
	c.brokers.mend()
}

// book waits for the end of a worker, and takes in what its receipts promise.
func (c *worker) book(w *world, floors map[part]int64) {
	c.all.Wait()
	c.cancel()
	w.must(c.receipts.Close())
	s := w.readPart("fetch --group", c.raw.Bytes(), true)
	done := s.end != nil && status(c.push.err) == command.Interrupted
	if s.end == nil {
		s.end = &format.End{}
	}
	s.points = nil
	for p, at := range s.hollow { // where it begins the group has come to, or Kafka's log begins
		s.hollow[p] = min(at, floors[p])
	}
	c.push.f.stream = s
	c.push.cut = !done
	if !done {
		c.push.f.status = -1
	}
	w.say("a worker: fetch %v, pack %v", c.fetchErr, c.packErr)
	c.push.book(w)
	if c.push.process.hurt == 0 && !done {
		w.breaks("a worker: fetch: %v, pack: %v, push: %v", c.fetchErr, c.packErr, c.push.err)
	}
}

// readOnce looks whether workers that nothing has happened to have read a record twice.
func (w *world) readOnce(all []*worker) {
	if slices.ContainsFunc(all, func(c *worker) bool { return c.cut || c.push.process.hurt > 0 }) {
		return
	}
	read := make(map[part]map[int64]bool)
	for _, c := range all {
		for p, rs := range c.push.f.stream.records {
			for offset := range rs {
				if read[p][offset] {
					w.breaks("workers: %s: record %d was read by two of them", p, offset)
				}
			}
		}
		for p, rs := range c.push.f.stream.records {
			for offset := range rs {
				promise(read, p, offset, true)
			}
		}
	}
}

// groupIsStored looks whether the backup has all that the group need not read again, and where
// the last worker was not killed whether that is all.
func (w *world) groupIsStored(v *vault, floors map[part]int64, whole bool) {
	committed, err := w.adm.FetchOffsets(w.ctx, workersGroup)
	if err != nil {
		w.say("the group: %v", err)
	}
	_, records, err := w.pull(v, pull.Config{Newest: true})
	if records == nil {
		if v.begun {
			w.breaks("workers: pull: %v", err)
		}
		return
	}
	s := w.read("what workers have stored", records)
	for p, floor := range floors {
		if w.topics[p.topic] != p.id {
			continue
		}
		if v.late && s.ids[p.topic] != p.id {
			// Known: a run does not see the entries of one that was killed while the store does
			// not list them. If its clock is behind, too, the older incarnation counts as newer.
			continue
		}
		c, ok := committed.Lookup(p.topic, p.n)
		end := w.fake.PartitionInfo(p.topic, p.n).LastStableOffset
		for offset := range w.truth[p] {
			if offset < max(floor, v.hollow[p]) || offset >= end || w.compacted[p][offset] {
				continue
			}
			if ok && offset < c.At {
				if _, there := s.records[p][offset]; !there && !s.hides(p, offset) {
					w.breaks("workers: %s: record %d is not there, and the group is at %d", p, offset, c.At)
				}
			} else if whole {
				w.breaks("workers: %s: the group is at %d, and record %d has been there for minutes", p, c.At, offset)
			}
		}
	}
	w.say("the group is at %s", fmt.Sprint(committed))
}

// A line is a worker's way to the brokers.
type line struct {
	w     *world
	mu    sync.Mutex
	down  bool
	conns []*connection
}

// A connection is one that may be reset.
type connection struct {
	net.Conn
	reset atomic.Bool
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	down := l.down
	l.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	conn, err := l.w.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, c)
	return c, nil
}

// cut resets all connections, and lets no new ones be made.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for _, c := range l.conns {
		c.reset.Store(true)
		_ = c.Close()
	}
	l.conns = nil
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

// Read implements net.Conn.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.told("read", err)
}

// Write implements net.Conn.
func (c *connection) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.told("write", err)
}

// told is an error as the network has it.
func (c *connection) told(op string, err error) error {
	if err != nil && c.reset.Load() {
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.ECONNRESET)}
	}
	return err
}
