package simulate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
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
	stop              chan struct{}
	fetchErr, packErr error
}

// An output ends with the pipe that it writes to.
type output struct {
	io.Writer
	io.Closer
}

// workers are members of a group, one after the other, that back up while things happen. Their
// push works in the cluster's own time, since what it has stored comes back to the group. Two at
// once would have kgo wait for a mutex, at which virtual time stands still.
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
	whole := false
	for range 1 + w.rng.IntN(2) {
		worker := w.newWorker(v)
		worker.start(w)
		for range w.rng.IntN(3) {
			w.pass(time.Duration(1+w.rng.IntN(60)) * time.Second)
			w.produce()
			if w.open != nil {
				w.endTransaction()
			}
		}
		w.pass(2 * time.Minute)
		close(worker.stop)
		worker.all.Wait()
		w.must(worker.receipts.Close())
		whole = worker.book(w, floors)
	}
	w.groupIsStored(v, floors, whole)
}

func (w *world) newWorker(v *vault) *worker {
	r := w.newReading(v)
	r.filter, r.groups, r.cfg.Groups = nil, nil, nil
	r.cfg.Topics, r.selected = []string{"^"}, slices.Sorted(maps.Keys(w.topics))
	r.cfg.Follow, r.cfg.Refresh = true, time.Duration(5+w.rng.IntN(40))*time.Second
	r.cfg.Group, r.cfg.SessionTimeout = workersGroup, 10*time.Second
	r.pack.SegmentAge = time.Duration(1+w.rng.IntN(20)) * time.Second
	r.how = "--group"
	c := &worker{r: r, stop: make(chan struct{})}
	w.say("a worker of a group:")
	c.push = w.newPushing(v, &fetched{packed: make([]byte, 1), status: command.Interrupted})
	c.push.cut = false
	if !v.begun { // where the run before was killed as it began the backup, too
		c.push.faults.Kill, c.push.faults.Fail = 0, 0
	}
	c.push.cfg.Checkpoint = time.Duration(1+w.rng.IntN(10)) * time.Second
	name := filepath.Join(w.t.TempDir(), "receipts")
	var err error
	c.receipts, err = os.Create(name)
	w.must(err)
	r.cfg.Receipts = name
	return c
}

func (c *worker) start(w *world) {
	env := w.env("kbk-fetch")
	env.Stop = c.stop
	records, toPack := io.Pipe()
	segments, toPush := io.Pipe()
	c.push.cfg.Remote, c.push.process = c.push.v.attach(c.push.faults, w.seedOf())
	c.all.Go(func() {
		c.fetchErr = fetch.Run(w.ctx, c.r.cfg, env, output{io.MultiWriter(&c.raw, toPack), toPack})
		toPack.Close()
	})
	c.all.Go(func() {
		c.packErr = pack.Pack(w.ctx, c.r.pack, w.env("kbk-pack"), records, toPush)
		toPush.Close()
		records.CloseWithError(io.ErrClosedPipe)
	})
	c.all.Go(func() {
		ctx, cancel := context.WithCancel(w.ctx)
		defer cancel()
		c.push.err = push.Run(ctx, c.push.cfg, w.env("kbk-push"), segments, io.MultiWriter(&c.push.receipts, c.receipts))
		segments.CloseWithError(io.ErrClosedPipe)
	})
}

// book takes in what the receipts promise, and tells whether nothing went wrong.
func (c *worker) book(w *world, floors map[part]int64) bool {
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
	return done
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
