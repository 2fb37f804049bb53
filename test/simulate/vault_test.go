package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"github.com/kbkio/kbk/pkg/catalog"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/receipt"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/store"
)

// A vault is a backup's storage, and what must be in it.
type vault struct {
	*storage
	signs    bool
	promised map[part]map[int64]bool // true: as it was, false: perhaps as a filter has left it
	perhaps  map[part]map[int64]bool // as it was; nobody has promised it
	hollow   map[part]int64          // below it there may be holes, by windows, retention and prune
	points   []*point                // in the order of the log
	holes    bool                    // windows and the like may have left some
	losses   bool                    // a run was told of a loss
	begun    bool                    // an entry was written, perhaps
	newest   *groupsAt               // of the run that has read groups last; nil: it may not be known

	snapshots map[string]snapshot // of what the cluster has besides records, by id
}

// groupsAt are the offsets that groups had committed in some topics.
type groupsAt struct {
	groups map[string]map[string]map[int32]int64
	ids    map[string]string // of the topics
}

// A point is a restore point.
type point struct {
	time   int64
	at     map[part][2]int64 // where Kafka's log began, and the first offset that is not part of it
	groups map[string]map[string]map[int32]int64
	asked  bool                    // the groups are all that there were
	had    map[part]map[int64]bool // see reread
}

func newVault(rng *rand.Rand) *vault {
	storage := newStorage(rng.IntN(2) == 0)
	storage.late = rng.IntN(4) == 0
	return &vault{storage: storage, signs: rng.IntN(4) == 0, promised: make(map[part]map[int64]bool), perhaps: make(map[part]map[int64]bool), hollow: make(map[part]int64), snapshots: make(map[string]snapshot)}
}

// promise notes that a record is in the vault, as it was or as a filter has left it.
func promise(to map[part]map[int64]bool, p part, offset int64, whole bool) {
	if to[p] == nil {
		to[p] = make(map[int64]bool)
	}
	to[p][offset] = to[p][offset] || whole
}

// signers are whose log entries count.
func (v *vault) signers() sign.Signers {
	if !v.signs {
		return nil
	}
	return signingKey.Signers()
}

// key signs log entries, or nil.
func (v *vault) key() *sign.Key {
	if !v.signs {
		return nil
	}
	return signingKey
}

// bubble runs do with a clock of its own, which goes on when nothing else can: what is
// waited for in it takes no time. The cluster's clock stands still meanwhile.
func (w *world) bubble(do func()) {
	days := days(w.rng)
	var failed any
	w.outside <- func() {
		defer func() { w.done <- struct{}{} }()
		synctest.Test(w.t, func(*testing.T) {
			time.Sleep(days)
			defer func() { failed = recover() }()
			do()
			time.Sleep(time.Hour) // what a command that failed has left in a call to the store comes to its end
		})
	}
	<-w.done
	if failed != nil {
		panic(failed)
	}
}

// days are how long after the year 2000 a clock begins.
func days(rng *rand.Rand) time.Duration { return time.Duration(9800+rng.IntN(60)) * 24 * time.Hour }

// faults draws what happens to the calls of a process.
func (w *world) faults() faults {
	var f faults
	if w.calm {
		return f
	}
	switch w.rng.IntN(10) {
	case 0, 1, 2:
		f.Kill = 1 + w.rng.IntN(60)
	case 3:
		f.Fail = 0.15
	}
	return f
}

func (w *world) seedOf() *rand.Rand { return rand.New(rand.NewPCG(w.rng.Uint64(), 1)) }

func status(err error) int { return command.StatusOf(err) }

// open opens a vault as a process without faults, and closes it.
func (w *world) openVault(v *vault, remote string, do func(st *store.Store) error) error {
	var opts store.Options
	if v.signs {
		opts.Sign = signingKey.Sign
	}
	st, err := store.OpenWith(context.Background(), remote, opts)
	if err != nil {
		return err
	}
	return errors.Join(do(st), st.Close())
}

func (w *world) cursor(v *vault) (c *cursor.Cursor) {
	at, _ := v.attach(faults{}, nil)
	w.bubble(func() {
		var out bytes.Buffer
		read := func() error {
			return w.openVault(v, at, func(st *store.Store) error {
				return catalog.Cursor(context.Background(), st, store.LogOptions{Signed: v.signers().Check()}, false, w.env("kbk-catalog"), &out)
			})
		}
		err := read()
		if err != nil && v.late { // as one would try again
			v.becomeConsistent()
			out.Reset()
			err = read()
		}
		if err != nil {
			w.breaks("cursor: %v", err)
		}
		c, err = cursor.Read(&out)
		w.must(err)
	})
	for _, p := range sortedParts(w.truth) {
		if c.Topics[p.topic].ID != p.id {
			continue
		}
		at := c.Topics[p.topic].Partitions[p.n]
		for offset := range w.truth[p] {
			if offset < at && offset >= v.hollow[p] && !v.promised[p][offset] && !v.perhaps[p][offset] && !w.compacted[p][offset] {
				w.breaks("cursor: %s: it is at %d, and record %d is not there as it was", p, at, offset)
			}
		}
	}
	return c
}

// A pushing is a push that is to be done.
type pushing struct {
	v        *vault
	f        *fetched
	cut      bool
	input    []byte
	faults   faults
	cfg      push.Config
	process  *process
	receipts bytes.Buffer
	err      error
}

func (w *world) newPushing(v *vault, f *fetched) *pushing {
	p := &pushing{v: v, f: f, input: f.packed, faults: w.faults()}
	if !w.calm && w.rng.IntN(10) == 0 {
		p.cut, p.input = true, p.input[:w.rng.IntN(len(p.input))]
	}
	p.cfg = push.Config{
		Key: v.key(), Signers: v.signers(),
		Transfers: 1 + w.rng.IntN(3), Checkpoint: time.Duration(20+w.rng.IntN(200)) * time.Millisecond, CheckpointSegments: 1 + w.rng.IntN(4),
		RetryFor: 5 * time.Minute, MaxFrame: 1 << 20, NoManifest: w.rng.IntN(2) == 0,
	}
	if v.late { // known: without a manifest the next run may not see what this one has written
		p.cfg.NoManifest = false
	}
	if !p.cfg.NoManifest && w.rng.IntN(2) == 0 {
		p.cfg.CompactAfter = 2 + w.rng.IntN(5)
	}
	return p
}

// run is done in a bubble.
func (p *pushing) run(w *world, pauses bool) {
	p.faults.Pauses = pauses
	p.cfg.Remote, p.process = p.v.attach(p.faults, w.seedOf())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	in := &paced{began: time.Now(), b: p.input, pace: slices.Clone(p.f.pace)}
	p.err = push.Run(ctx, p.cfg, w.env("kbk-push"), in, &p.receipts)
}

// book takes in what the receipts and the status promise.
func (p *pushing) book(w *world) {
	v, s, got := p.v, p.f.stream, status(p.err)
	whole := func(key part, offset int64) bool { return !p.f.filtered || p.f.whole != nil && p.f.whole(key, offset) }
	for key, rs := range s.records {
		for offset := range rs {
			if whole(key, offset) {
				promise(v.perhaps, key, offset, true)
			}
		}
	}
	for key, at := range s.hollow {
		v.hollow[key] = max(v.hollow[key], at)
	}
	if !p.f.filtered {
		v.reread(w, s)
	}
	final, n := false, 0
	lines := json.NewDecoder(&p.receipts)
	for {
		var r receipt.Receipt
		if err := lines.Decode(&r); err == io.EOF {
			break
		} else if err != nil {
			w.breaks("push: receipts: %v", err)
		}
		n++
		final = final || r.Final
		for _, at := range r.Partitions {
			key := part{at.Topic, at.TopicID, at.Partition}
			for offset := range s.records[key] {
				if offset < at.Next {
					promise(v.promised, key, offset, whole(key, offset))
				}
			}
		}
	}
	done := got == p.f.status
	if p.f.groups != nil || s.asked || len(s.groups) > 0 {
		if v.newest = nil; done && p.f.groups != nil {
			v.newest = &groupsAt{p.f.groups, s.ids}
		}
	}
	w.say("pushed (%+v, cut %v, compact after %d): status %d, %d receipts: %v", p.faults, p.cut, p.cfg.CompactAfter, got, n, p.err)
	if n > 0 || p.process.hurt > 0 {
		v.begun = v.begun || n > 0
	}
	v.holes = v.holes || p.f.holes || p.cut
	v.losses = v.losses || len(s.end.Losses) > 0
	switch {
	case done && !final:
		w.breaks("push: status %d without a final receipt", got)
	case p.cut && done:
		w.breaks("push: status %d of a stream that is cut short", got)
	case !p.cut && p.process.hurt == 0 && got != p.f.status && !v.late:
		w.breaks("push: status %d, and the source's was %d: %v", got, p.f.status, p.err)
	case !done && !p.cut && p.faults.Kill == 0 && p.faults.Fail == 0 && !v.late:
		w.breaks("push: %v", p.err)
	}
	for _, made := range s.points {
		pt := &point{time: made.time, at: maps.Clone(made.at), groups: made.groups}
		if p.f.groups != nil {
			pt.groups, pt.asked = p.f.groups, true
		}
		if !done && !final { // its entry may be there, and its receipt not
			pt.time = -pt.time
		}
		v.points = append(v.points, pt)
	}
	if !done && !final {
		return
	}
	for key, rs := range s.records {
		for offset := range rs {
			promise(v.promised, key, offset, whole(key, offset))
		}
	}
}

// reread takes back what a run has read again when Kafka had compacted it away: the newest state
// need not have it any more. The points that were made before it do.
func (v *vault) reread(w *world, s *stream) {
	for key, next := range s.next {
		for offset, whole := range v.promised[key] {
			if _, ok := s.records[key][offset]; ok || offset < s.first[key] || offset >= next || !w.compacted[key][offset] {
				continue
			}
			delete(v.promised[key], offset)
			promise(v.perhaps, key, offset, whole)
			for _, pt := range v.points {
				if at, ok := pt.at[key]; ok && offset < at[1] {
					if pt.had == nil {
						pt.had = make(map[part]map[int64]bool)
					}
					promise(pt.had, key, offset, whole)
				}
			}
		}
	}
}

func clone(g map[string]map[string]map[int32]int64) map[string]map[string]map[int32]int64 {
	c := make(map[string]map[string]map[int32]int64)
	for id, topics := range g {
		c[id] = make(map[string]map[int32]int64)
		for t, ps := range topics {
			c[id][t] = maps.Clone(ps)
		}
	}
	return c
}

// backUp is a run of fetch | pack | push.
func (w *world) backUp() {
	v := w.vaults[0]
	p := w.newPushing(v, w.fetch(v))
	w.bubble(func() { p.run(w, false) })
	p.book(w)
}

// twoAtOnce has two commands work on a vault at the same time.
func (w *world) twoAtOnce() {
	v := w.vaults[0]
	first := w.newPushing(v, w.fetch(v))
	var second *pushing
	var beside *chore
	if w.rng.IntN(2) == 0 {
		w.say("at once with a push:")
		beside = w.newChore(v)
	} else {
		w.say("at once with a push, a push:")
		second = w.newPushing(v, w.fetch(v))
	}
	if !v.begun && second != nil {
		// Known: where two runs begin a backup at once, and the later one is killed before it has
		// written that both are one, or their entries are not listed until both have ended,
		// readers refuse the log.
		defer v.listWhole()()
		first.faults.Kill, second.faults.Kill, first.faults.Fail, second.faults.Fail = 0, 0, 0, 0
	}
	w.bubble(func() {
		var all sync.WaitGroup
		all.Go(func() { first.run(w, true) })
		all.Go(func() {
			if second != nil {
				second.run(w, true)
			} else {
				beside.run(w, true)
			}
		})
		all.Wait()
	})
	first.book(w)
	if second != nil {
		second.book(w)
		v.newest = nil // nobody knows which is newer
		v.sortPoints(w.listed(v))
	} else {
		beside.book(w)
	}
}

// sortPoints puts the points in the order of the log, which listed has: of two writers at once
// nobody else knows who was first.
func (v *vault) sortPoints(listed []catalog.ReportPoint) {
	place := make(map[int64]int)
	for i, p := range listed {
		place[p.Time] = i + 1
	}
	slices.SortStableFunc(v.points, func(a, b *point) int {
		at, bt := place[max(a.time, -a.time)], place[max(b.time, -b.time)]
		if at == 0 || bt == 0 {
			return 0
		}
		return at - bt
	})
}

// maintain compacts or prunes.
func (w *world) maintain() {
	c := w.newChore(w.vaults[w.rng.IntN(2)])
	if c.v != w.vaults[0] { // the points of a copy are not followed
		c.keep = 0
	}
	w.bubble(func() { c.run(w, false) })
	c.book(w)
}

// A chore is to compact a vault, or to prune it.
type chore struct {
	v       *vault
	keep    int // restore points; 0: compact
	faults  faults
	rng     *rand.Rand
	process *process
	err     error
}

func (w *world) newChore(v *vault) *chore {
	c := &chore{v: v, faults: w.faults(), rng: w.seedOf()}
	if w.rng.IntN(2) == 0 {
		c.keep = 1 + w.rng.IntN(3)
	}
	return c
}

// run is done in a bubble.
func (c *chore) run(w *world, pauses bool) {
	c.faults.Pauses = pauses
	at, p := c.v.attach(c.faults, c.rng)
	c.process = p
	signing := catalog.Signing{Signs: c.v.signs, Signers: c.v.signers()}
	c.err = w.openVault(c.v, at, func(st *store.Store) error {
		if c.keep == 0 {
			return catalog.Compact(context.Background(), st, signing, w.env("kbk-catalog"))
		}
		keep := commitlog.Retention{Policy: commitlog.Policy{Last: c.keep}}
		return catalog.Prune(context.Background(), st, catalog.PruneConfig{Retention: keep, Really: true, Signing: signing}, w.env("kbk-catalog"), io.Discard)
	})
}

func (c *chore) book(w *world) {
	w.say("compacted, or pruned to %d points (%+v): %v", c.keep, c.faults, c.err)
	if c.keep > 0 {
		c.v.pruned(c.keep)
	}
	if c.err != nil && c.process.hurt == 0 && c.v.begun && !c.faults.Pauses && !c.v.late {
		w.breaks("compact, or prune to %d points: %v", c.keep, c.err)
	}
}

// pruned takes back what pruning to the last points of each partition may have deleted: what
// is below the end of the newest one, and not in the log as any of them saw it.
func (v *vault) pruned(keep int) {
	v.pruneSnapshots()
	left := make(map[part]int)
	all, sure := make(map[part][][2]int64), make(map[part][][2]int64) // the newest first
	for _, pt := range slices.Backward(v.points) {
		for key, at := range pt.at {
			if left[key] == keep {
				delete(pt.at, key)
				continue
			}
			left[key]++
			if all[key] = append(all[key], at); pt.time > 0 {
				sure[key] = append(sure[key], at)
			}
		}
	}
	for key, logs := range all {
		from := neededFrom(logs)
		// One that is perhaps not there may have pushed out others, and keeps nothing.
		if len(sure[key]) > 0 {
			from = max(from, neededFrom(sure[key]))
		}
		v.hollow[key] = max(v.hollow[key], from)
		below := func(offset int64, _ bool) bool { return offset < from }
		maps.DeleteFunc(v.promised[key], below)
		for _, pt := range v.points {
			maps.DeleteFunc(pt.had[key], below)
		}
	}
}

// neededFrom is the offset from which on a partition's points, the newest first, need all records.
// A record may have come behind one point and have expired before the next.
func neededFrom(logs [][2]int64) int64 {
	from := logs[0][0]
	for _, at := range logs[1:] {
		if at[1] < from {
			break
		}
		from = min(from, at[0])
	}
	return from
}

// pull reads a vault and unpacks it.
func (w *world) pull(v *vault, cfg pull.Config) (packed, records []byte, err error) {
	v.becomeConsistent()
	cfg.Remote, _ = v.attach(faults{}, nil)
	cfg.Transfers, cfg.Memory, cfg.Signers = 1+w.rng.IntN(4), 64<<20, v.signers()
	var out, unpacked bytes.Buffer
	w.bubble(func() { err = pull.Run(context.Background(), cfg, w.env("kbk-pull"), &out) })
	packed = bytes.Clone(out.Bytes())
	if got := status(err); got != command.OK && got != command.Loss {
		return packed, nil, err
	}
	unpackErr := pack.Unpack(w.ctx, pack.Config{Memory: 64 << 20, MaxFrame: 1 << 20, Batches: w.rng.IntN(3) == 0, Identities: []age.Identity{identity}}, w.env("kbk-pack"), &out, &unpacked)
	if status(unpackErr) != status(err) {
		w.breaks("pull: %v; unpack: %v", err, unpackErr)
	}
	return packed, unpacked.Bytes(), err
}

// check restores the newest state of a vault, and each older incarnation, and holds it
// against what was promised.
func (w *world) check(name string, v *vault) {
	words := w.texts.Len()
	_, records, err := w.pull(v, pull.Config{Newest: true})
	if !v.begun && len(v.promised) == 0 {
		return
	}
	silent := err == nil && w.texts.Len() == words
	if err != nil && status(err) != command.Loss {
		w.breaks("%s: pull: %v", name, err)
	}
	s := w.read(name+": restore", records)
	seen := make(map[part]bool)
	w.compare(name+": restore", v, s, seen)
	w.compareSnapshots(name+": restore", v, s)
	if v.newest != nil {
		if err := w.groupsAre(s, v.newest); err != nil {
			w.breaks("%s: restore: %v", name, err)
		}
	}
	if silent {
		w.whole(name+": restore", s)
	}
	w.cursor(v)
	for _, p := range sortedParts(v.promised) {
		if seen[part{p.topic, p.id, 0}] || len(v.promised[p]) == 0 {
			continue
		}
		_, records, err := w.pull(v, pull.Config{Newest: true, TopicIDs: []string{p.id}, Selection: partitions.Selection{Topics: []string{p.topic}}})
		if err != nil && status(err) != command.Loss {
			w.breaks("%s: pull --topic-id %s: %v", name, p.id, err)
		}
		what := fmt.Sprintf("%s: restore of %s", name, p.id)
		w.compare(what, v, w.read(what, records), seen)
		if !seen[part{p.topic, p.id, 0}] {
			w.breaks("%s: nothing of %s, %s", name, p.topic, p.id)
		}
	}
	w.verify(name, v)
}

func sortedParts[V any](m map[part]V) []part {
	return slices.SortedFunc(maps.Keys(m), func(a, b part) int { return strings.Compare(a.String(), b.String()) })
}

// whole looks for what a restore without a word of warning has left out, or has as a filter
// has left it.
func (w *world) whole(what string, s *stream) {
	for _, p := range sortedParts(s.next) {
		for offset, want := range w.truth[p] {
			if offset < s.first[p] || offset >= s.next[p] {
				continue
			}
			if got, ok := s.records[p][offset]; !ok && !w.compacted[p][offset] || ok && got != want {
				w.breaks("%s: %s: record %d is there: %v, as it was: %v, and nobody says so", what, p, offset, ok, got == want)
			}
		}
	}
}

// compare looks for each record that was promised of the incarnations in s.
func (w *world) compare(what string, v *vault, s *stream, seen map[part]bool) {
	for topic, id := range s.ids {
		seen[part{topic, id, 0}] = true
		for n := range int32(partitionCount) {
			p := part{topic, id, n}
			for offset, whole := range v.promised[p] {
				got, ok := s.records[p][offset]
				if !ok && (whole || !s.hides(p, offset)) {
					w.breaks("%s: %s: record %d is not there", what, p, offset)
				}
				if whole && got != w.truth[p][offset] {
					w.breaks("%s: %s: record %d is not as it was, and a whole run has stored it", what, p, offset)
				}
			}
		}
	}
}

// problem is one of verify's.
type problem struct{ Kind, What, Why string }

func (w *world) verified(v *vault) (found []problem, err error) {
	v.becomeConsistent()
	at, _ := v.attach(faults{}, nil)
	var out bytes.Buffer
	w.bubble(func() {
		err = w.openVault(v, at, func(st *store.Store) error {
			return catalog.Verify(context.Background(), st, catalog.VerifyConfig{Deep: true, Identities: []age.Identity{identity}, Signers: v.signers(), Transfers: 4, Memory: 64 << 20, JSON: true}, w.env("kbk-catalog"), &out)
		})
	})
	lines := json.NewDecoder(&out)
	for {
		var p problem
		if lines.Decode(&p) != nil {
			return found, err
		}
		if p.Kind != "" { // the last line is a summary
			found = append(found, p)
		}
	}
}

// verify is to find nothing.
func (w *world) verify(name string, v *vault) {
	found, err := w.verified(v)
	for _, p := range found {
		if strings.HasPrefix(p.Why, "it lists no segment") { // what a killed run left cannot be told from a log that is gone
			continue
		}
		if !(p.Kind == "hole" && v.holes || p.Kind == "lost" && (v.holes || v.losses)) {
			w.breaks("%s: verify finds %v in a whole store", name, p)
		}
	}
	if err != nil && len(found) == 0 {
		w.breaks("%s: verify: %v", name, err)
	}
}

// listed are the restore points as kbk-catalog show lists them.
func (w *world) listed(v *vault) (points []catalog.ReportPoint) {
	v.becomeConsistent()
	at, _ := v.attach(faults{}, nil)
	var out bytes.Buffer
	var err error
	w.bubble(func() {
		all, compileErr := partitions.Selection{}.Compile()
		w.must(compileErr)
		err = w.openVault(v, at, func(st *store.Store) error {
			return catalog.Show(context.Background(), st, store.LogOptions{Signed: v.signers().Check()}, all, false, true, w.env("kbk-catalog"), &out)
		})
	})
	if err != nil {
		if v.begun {
			w.breaks("show: %v", err)
		}
		return nil
	}
	var r catalog.Report
	w.must(json.Unmarshal(out.Bytes(), &r))
	return r.Points
}

// restorePoint restores a vault as of one of its points.
func (w *world) restorePoint() {
	v := w.vaults[0]
	ids := make(map[int64]string)
	for _, p := range w.listed(v) {
		ids[p.Time] = p.ID
	}
	var sure []*point
	for _, p := range v.points {
		if p.time > 0 && len(p.at) > 0 {
			sure = append(sure, p)
		}
	}
	if len(sure) == 0 {
		return
	}
	p := sure[w.rng.IntN(len(sure))]
	id := ids[p.time]
	if id == "" {
		for _, q := range v.points {
			w.say("point %d: %v", q.time, q.at)
		}
		w.say("listed: %v", w.listed(v))
		w.breaks("show lists no point of %d", p.time)
	}
	cfg, what := pull.Config{Point: id, Newest: true}, "restore of point "+id
	byTime := w.rng.IntN(2) == 0
	if byTime {
		at := time.UnixMilli(p.time)
		cfg, what = pull.Config{At: &at, Newest: true}, "restore at the time of point "+id
	}
	_, records, err := w.pull(v, cfg)
	if err != nil && status(err) != command.Loss {
		w.breaks("%s: %v", what, err)
	}
	s := w.read(what, records)
	for _, key := range sortedParts(p.at) {
		if byTime && v.lastAt(key, p.time) != p {
			continue
		}
		next := p.at[key][1]
		for _, had := range []map[int64]bool{v.promised[key], p.had[key]} {
			for offset, whole := range had {
				if _, ok := s.records[key][offset]; !ok && offset < next && (whole || !s.hides(key, offset)) {
					w.breaks("%s: %s: record %d is not there, and %d is its end", what, key, offset, next)
				}
			}
		}
		for offset := range s.records[key] {
			if offset >= next {
				w.breaks("%s: %s: record %d is there, and %d is its end", what, key, offset, next)
			}
		}
	}
	w.compareSnapshotAt(what, v, s, p.time)
	if err := w.sameGroups(s, p.groups); err != nil && !byTime {
		w.breaks("%s: %v", what, err)
	}
	if err := s.noMoreGroups(p.groups, s.ids); err != nil && !byTime && p.asked {
		w.breaks("%s: %v", what, err)
	}
	w.say("%s", what)
}

// lastAt is the last point up to a time that speaks of the topic's partition, in whichever
// incarnation.
func (v *vault) lastAt(key part, time int64) (last *point) {
	for _, p := range v.points {
		for k := range p.at {
			if k.topic == key.topic && k.n == key.n && max(p.time, -p.time) <= time {
				last = p
			}
		}
	}
	return last
}

// sameGroups holds the groups of a restore against what was committed.
func (w *world) sameGroups(s *stream, want map[string]map[string]map[int32]int64) error {
	for id, topics := range want {
		for topic, offsets := range topics {
			if s.ids[topic] == "" {
				continue
			}
			for n, at := range offsets {
				if _, ok := s.next[part{topic, s.ids[topic], n}]; !ok {
					continue
				}
				g := s.groups[id]
				if g == nil {
					return fmt.Errorf("no group %s, which has committed in %s", id, topic)
				}
				if got, ok := g.Offsets[topic][n]; !ok || got.Offset != at {
					return fmt.Errorf("group %s: %s/%d at %v instead of %d", id, topic, n, got, at)
				}
			}
		}
	}
	return nil
}

// noMoreGroups looks for offsets of groups that had not committed any.
func (s *stream) noMoreGroups(want map[string]map[string]map[int32]int64, ids map[string]string) error {
	for id, g := range s.groups {
		for topic, offsets := range g.Offsets {
			for n, at := range offsets {
				if _, ok := want[id][topic][n]; !ok && s.ids[topic] != "" && s.ids[topic] == ids[topic] {
					return fmt.Errorf("group %s: %s/%d at %d, and it has committed nothing there", id, topic, n, at.Offset)
				}
			}
		}
	}
	return nil
}

// groupsAre holds the groups of a restore against those that were read last.
func (w *world) groupsAre(s *stream, newest *groupsAt) error {
	want := clone(newest.groups)
	for _, topics := range want {
		maps.DeleteFunc(topics, func(topic string, _ map[int32]int64) bool { return s.ids[topic] != newest.ids[topic] })
	}
	return errors.Join(w.sameGroups(s, want), s.noMoreGroups(want, newest.ids))
}

// recovery restores the newest state of the first vault into a cluster.
func (w *world) recovery() {
	_, records, err := w.pull(w.vaults[0], pull.Config{Newest: true})
	if records != nil {
		w.recover("recovery", records, status(err))
	}
}

// copyOver copies the first vault into the second one.
func (w *world) copyOver() {
	from, to := w.vaults[0], w.vaults[1]
	packed, records, err := w.pull(from, pull.Config{Newest: true})
	if records == nil {
		if from.begun {
			w.breaks("copy: pull: %v", err)
		}
		return
	}
	f := &fetched{packed: packed, stream: w.read("copy", records), status: status(err), holes: true, filtered: true}
	f.whole = func(p part, offset int64) bool { return from.promised[p][offset] }
	for p, offsets := range from.perhaps { // what looks whole may be what a filter has left
		for offset := range offsets {
			if got, ok := f.stream.records[p][offset]; ok && got == w.truth[p][offset] {
				promise(to.perhaps, p, offset, true)
			}
		}
	}
	f.stream.points = nil
	for key, at := range from.hollow {
		to.hollow[key] = max(to.hollow[key], at)
	}
	p := w.newPushing(to, f)
	words := w.texts.Len()
	w.bubble(func() { p.run(w, false) })
	said := w.texts.String()[words:]
	if p.err != nil {
		said += p.err.Error()
	}
	if strings.Contains(said, pointsLack) && f.status == command.OK && status(p.err) == command.Loss {
		w.say("copy: %v", p.err)
		p.err = nil
	}
	p.book(w)
	to.keepSnapshots(f.stream, status(p.err) == f.status)
	w.check("copy", to)
	if status(p.err) == f.status {
		w.copiedPoints(from, to, f.stream, said)
	}
}

// pointsLack is how kbk-push begins to say what a copy's points lack.
const pointsLack = "the copy's restore points have less than those of the backup"

// copiedPoints holds restores of some points of a copy against those of its original: what a
// point lacks in the copy is no part of it, and was reported.
func (w *world) copiedPoints(from, to *vault, copied *stream, said string) {
	points := w.listed(from)
	for range min(2, len(points)) {
		id := points[w.rng.IntN(len(points))].ID
		_, had, err := w.pull(from, pull.Config{Point: id, Newest: true})
		if had == nil {
			w.breaks("point %s: pull: %v", id, err)
		}
		want := w.read("point "+id, had)
		got := new(stream)
		if _, has, err := w.pull(to, pull.Config{Point: id, Newest: true}); has != nil {
			got = w.read("point "+id+" of the copy", has)
		} else if status(err) != command.Failed { // there is no such point
			w.breaks("point %s of the copy: pull: %v", id, err)
		}
		for _, key := range sortedParts(want.next) {
			if copied.ids[key.topic] != key.id { // another incarnation is copied
				continue
			}
			if _, ok := got.next[key]; !ok {
				lacks := strings.Contains(said, pointsLack) && strings.Contains(said, key.topic+", partition")
				hole := strings.Contains(said, fmt.Sprintf("%s/%d: offsets", key.topic, key.n))
				if !lacks && !hole {
					w.breaks("point %s of the copy does not include %s, and nobody says so", id, key)
				}
				continue
			}
			for offset := range want.records[key] {
				if _, ok := got.records[key][offset]; !ok && !got.hides(key, offset) {
					w.breaks("point %s of the copy: %s: record %d is not there", id, key, offset)
				}
			}
		}
	}
}

// restoreWindow restores a part of the first vault.
func (w *world) restoreWindow() {
	v := w.vaults[0]
	cfg, what := pull.Config{Newest: true}, ""
	in := func(int64, content) bool { return true }
	switch w.rng.IntN(3) {
	case 0:
		cfg.From = w.rng.Int64N(10)
		cfg.To = cfg.From + 1 + w.rng.Int64N(10)
		what = fmt.Sprintf("restore of offsets %d to %d", cfg.From, cfg.To)
		in = func(offset int64, _ content) bool { return offset >= cfg.From && offset < cfg.To }
	case 1:
		since := time.Now().Add(time.Duration(w.rng.IntN(2000)-1000) * time.Minute)
		until := since.Add(time.Duration(w.rng.IntN(1000)) * time.Minute)
		cfg.Since, cfg.Until = &since, &until
		what = fmt.Sprintf("restore of times %s to %s", since, until)
		in = func(_ int64, c content) bool {
			at := time.UnixMilli(c.time)
			return !at.Before(since) && at.UnixMilli() <= until.UnixMilli()
		}
	default:
		topic := w.anyTopic()
		cfg.Selection = partitions.Selection{Topics: []string{topic + ":1"}}
		what = "restore of " + topic + "/1"
	}
	_, records, err := w.pull(v, cfg)
	if records == nil {
		if got := status(err); v.begun && got != command.Usage && len(cfg.Selection.Topics) == 0 {
			w.breaks("%s: %v", what, err)
		}
		return
	}
	s := w.read(what, records)
	for _, p := range sortedParts(s.records) {
		for offset, c := range s.records[p] {
			if !in(offset, c) || len(cfg.Selection.Topics) > 0 && p.n != 1 {
				w.breaks("%s: %s: record %d is there: %v", what, p, offset, c)
			}
		}
	}
	for topic, id := range s.ids {
		for n := range int32(partitionCount) {
			p := part{topic, id, n}
			for offset, whole := range v.promised[p] {
				if _, ok := s.records[p][offset]; !ok && (whole || !s.hides(p, offset)) && in(offset, w.truth[p][offset]) && (len(cfg.Selection.Topics) == 0 || n == 1) {
					w.breaks("%s: %s: record %d is not there", what, p, offset)
				}
			}
		}
	}
	w.say("%s", what)
}

// damage harms a copy of a vault, and looks who notices.
func (w *world) damage() {
	v := *w.vaults[0]
	v.storage = v.storage.copied()
	var names []string
	compacted := false
	for _, name := range v.names() {
		if !strings.HasSuffix(name, ".tmp") && name != commitlog.ManifestName {
			names = append(names, name)
		}
		compacted = compacted || strings.HasSuffix(name, ".snapshot.json")
	}
	if len(names) == 0 {
		return
	}
	before, _ := w.verified(&v)
	name := names[w.rng.IntN(len(names))]
	o := v.objects[name]
	how := "removed"
	inLog := strings.HasPrefix(name, commitlog.LogDir+"/")
	signature := strings.HasSuffix(name, ".sig") // not all of its text is looked at, nor what nobody's entry has
	switch n := w.rng.IntN(4); {
	case n == 0 && !inLog: // nothing names the entry that was written last
		delete(v.objects, name)
	case n == 1:
		how = "cut"
		v.objects[name] = &stored{o.data[:w.rng.IntN(len(o.data))], o.at}
	default:
		how = "a byte changed in"
		data := bytes.Clone(o.data)
		at := w.rng.IntN(len(data))
		data[at] ^= byte(1 + w.rng.IntN(255))
		v.objects[name] = &stored{data, o.at}
	}
	after, verifyErr := w.verified(&v)
	if inLog && !compacted && !signature && len(after) == 0 {
		w.breaks("damage: %s %s, and verify finds nothing", how, name)
	}
	_, records, err := w.pull(&v, pull.Config{Newest: true})
	w.say("damage: %s %s: %d problems, pull: %v", how, name, len(after)-len(before), err)
	if status(err) == command.OK {
		s := w.read("restore after damage", records)
		what := fmt.Sprintf("restore with status 0 after damage: %s %s", how, name)
		w.compare(what, &v, s, make(map[part]bool))
		w.compareSnapshots(what, &v, s)
	} else if len(after) == 0 && verifyErr == nil { // of a folder without a log it says that there is no backup
		w.breaks("damage: %s %s: pull says %v, and verify nothing", how, name, err)
	}
}
