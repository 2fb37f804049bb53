package offsets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// How a translation finds the target offsets.
const (
	byMap       = "map"
	byHeaders   = "headers"
	byContent   = "content"
	byTimestamp = "timestamp"
	byIdentity  = "identity"
)

var methods = []string{byMap, byHeaders, byContent, byTimestamp, byIdentity}

// TranslateConfig says how offsets are translated.
type TranslateConfig struct {
	Kafka        kafka.Config // the target; for headers, content and timestamp only
	By           string
	Maps         []string // files of map streams
	Records      []string // files of record streams
	Topics       *pattern.Renames
	RenameGroups *pattern.Renames
	Groups       func(id string) bool
	MaxFrame     int64
}

// A translation is the work of one run.
type translation struct {
	cfg TranslateConfig
	log *slog.Logger
	*input
	rule   *rule
	failed map[place]map[int64]string // offsets that cannot be placed, and why
	direct map[place]map[int64]int64  // what the method says without runs
	bounds map[place][2]int64         // of the target's partitions, where it is asked
}

// Translate reads consumer groups, from in or, where that is nil, from the maps, and
// writes them to out as they are to be in the target.
func Translate(ctx context.Context, cfg TranslateConfig, env *command.Env, in io.Reader, out io.Writer) error {
	began := time.Now()
	t := &translation{cfg: cfg, log: env.Log, input: newInput(), rule: newRule(),
		failed: make(map[place]map[int64]string), direct: make(map[place]map[int64]int64)}
	defer t.close()
	if in != nil {
		if err := t.read(ctx, in, "standard input", cfg.MaxFrame, true); err != nil {
			return err
		}
	}
	for _, files := range [][]string{cfg.Maps, cfg.Records} {
		for _, name := range files {
			if err := t.readFile(ctx, name, in == nil); err != nil {
				return err
			}
		}
	}
	maps.DeleteFunc(t.groups, func(id string, _ *format.Group) bool { return !cfg.Groups(id) })
	if len(t.groups) == 0 {
		return command.WithHint(errors.New("no consumer group to translate"), "is there one in what was read? kbk-fetch --groups puts them into a backup, kbk-offsets snapshot reads them from a cluster")
	}
	if cfg.By == byMap && t.maps.f == nil && (len(t.coverage) == 0 || t.records.n > 0) { // marks alone are the map of empty topics
		return command.WithHint(command.Usagef("there is no map to translate by"), "give what kbk-produce wrote with --map FILE, or choose another way with --by")
	}
	for _, g := range t.groups {
		for p, o := range each(g) {
			t.rule.ask(p, o.Offset)
		}
	}
	t.rule.ready()
	if err := t.find(ctx); err != nil {
		return err
	}
	t.rule.settle()
	var done []*format.Group
	for _, g := range sorted(t.groups) {
		done = append(done, t.group(g))
	}
	slices.SortStableFunc(done, func(a, b *format.Group) int { return cmp.Compare(a.ID, b.ID) })
	for i := 1; i < len(done); i++ {
		if done[i].ID == done[i-1].ID {
			return command.Usagef("groups %s and %s would both become %s", original(done[i-1]), original(done[i]), done[i].ID)
		}
	}
	if err := t.tellRecords(done); err != nil {
		return err
	}
	w := format.NewWriter(out)
	if err := w.WriteHeader(&format.Header{Created: time.Now().UnixMilli(), Content: format.ContentRecords}); err != nil {
		return err
	}
	for _, raw := range t.others {
		if err := w.WriteRaw(raw); err != nil {
			return err
		}
	}
	n := int64(0)
	for _, g := range done {
		if err := w.Write(g); err != nil {
			return fmt.Errorf("group %s: %w", g.ID, err)
		}
		for range each(g) {
			n++
		}
	}
	if err := w.Close(&format.End{Interrupted: t.interrupted, Lost: t.lost}); err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("translated %s of %s", command.Count(n, "offset"), command.Count(int64(len(done)), "group")),
		slog.String("by", cfg.By), slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	if t.interrupted {
		tell(env.Log, done)
		return command.Stopped("what is translated by was stopped before its end, and is not all")
	}
	return loss(env.Log, done)
}

func (t *translation) readFile(ctx context.Context, name string, withGroups bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return t.read(ctx, f, name, t.cfg.MaxFrame, withGroups)
}

// find looks for what the method takes the target offsets from.
func (t *translation) find(ctx context.Context) error {
	switch t.cfg.By {
	case byMap:
		return t.eachMap(t.rule.add)
	case byIdentity:
		return nil
	}
	cl, err := kafka.NewClient(ctx, t.cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	topics := make(map[string]bool)
	for _, g := range t.groups {
		for topic := range g.Offsets {
			topics[t.cfg.Topics.Name(topic)] = true
		}
	}
	r, err := newReader(ctx, cl, slices.Collect(maps.Keys(topics)))
	if err != nil {
		return err
	}
	if t.bounds, err = r.committed(ctx); err != nil {
		return err
	}
	switch t.cfg.By {
	case byHeaders:
		return t.scanHeaders(ctx, r)
	case byContent:
		return t.scanContent(ctx, r)
	default:
		return t.searchTimestamps(ctx, r)
	}
}

// group translates one group.
func (t *translation) group(g *format.Group) *format.Group {
	out := &format.Group{ID: t.cfg.RenameGroups.Name(g.ID), Offsets: make(map[string]map[int32]format.GroupOffset)}
	out.By = t.cfg.By
	if out.ID != g.ID {
		out.Source = g.ID
	}
	put := func(p place, o format.GroupOffset) {
		if out.Offsets[p.topic] == nil {
			out.Offsets[p.topic] = make(map[int32]format.GroupOffset)
		}
		out.Offsets[p.topic][p.num] = o
	}
	unplaced := func(p place, offset int64, why string) {
		out.Unplaced = append(out.Unplaced, format.Unplaced{Topic: p.topic, Partition: p.num, Offset: offset, Why: why})
	}
	for _, topic := range slices.Sorted(maps.Keys(g.Offsets)) {
		placed, committed := make(map[int32]bool), make(map[int32]int64)
		for _, num := range slices.Sorted(maps.Keys(g.Offsets[topic])) {
			p, o := place{topic, num}, g.Offsets[topic][num]
			committed[num] = o.Offset
			why, known := t.failed[p][o.Offset]
			if !known {
				why = t.beyond(p, o)
			}
			if why != "" {
				unplaced(p, o.Offset, why)
				continue
			}
			switch t.cfg.By {
			case byIdentity:
				put(place{t.cfg.Topics.Name(topic), num}, t.alone(p, o, o.Offset))
			case byTimestamp:
				to := place{t.cfg.Topics.Name(topic), num}
				if at, ok := t.direct[p][o.Offset]; ok {
					put(to, t.alone(p, o, at))
				} else {
					put(to, t.atEnd(p, o))
				}
			default:
				placed[num] = true
			}
		}
		if len(placed) == 0 {
			continue
		}
		targets := t.rule.targets(topic, committed, placed)
		with := make(map[int32]bool) // partitions with a record that was restored
		for _, to := range slices.SortedFunc(maps.Keys(targets), place.compare) {
			f := targets[to]
			var all format.GroupOffset
			for _, num := range slices.Sorted(maps.Keys(f.next)) {
				o, ok := g.Offsets[topic][num] // none: as 0
				s := t.source(place{topic, num}, o, f.next[num])
				if !ok {
					s.Missing = 0
				}
				all.From = append(all.From, s)
				if all.Metadata == nil {
					all.Metadata = o.Metadata
				}
				with[num] = true
			}
			all.Offset, all.Again = f.offset, f.again
			put(to, all)
		}
		// Of what is left, nothing was restored, and nothing was there to be restored.
		name, moved := t.nameOf(topic)
		for num := range placed {
			p := place{topic, num}
			switch {
			case with[num]:
			case moved: // the group has nothing to read from it, wherever it would be
				t.log.Debug(fmt.Sprintf("group %s: offset %d of %s needs no place: it had no records, and the topic is partitioned anew", g.ID, committed[num], p))
			default:
				put(place{name, num}, t.atEnd(p, g.Offsets[topic][num]))
			}
		}
	}
	slices.SortFunc(out.Unplaced, func(a, b format.Unplaced) int {
		return place{a.Topic, a.Partition}.compare(place{b.Topic, b.Partition})
	})
	return out
}

// beyond says why an offset is not in the backup, if it is not. An exact restore, and
// timestamps, need no word of it where there are no marks.
func (t *translation) beyond(p place, o format.GroupOffset) string {
	c := t.coverage[p]
	switch {
	case c != nil && o.Offset > c.through:
		return fmt.Sprintf("the backup ends at offset %d", c.through)
	case c == nil && t.cfg.By != byIdentity && t.cfg.By != byTimestamp:
		return "it is not in the backup, or was not restored"
	}
	return ""
}

// nameOf returns the target topic that records of a topic went to, and whether any
// changed its partition.
func (t *translation) nameOf(topic string) (name string, moved bool) {
	name = t.cfg.Topics.Name(topic)
	for _, p := range t.rule.topics[topic] {
		for to := range t.rule.asked[p].to {
			name, moved = to.topic, moved || to.num != p.num
		}
	}
	return name, moved
}

// source says where an offset in the target is from. next is the offset of the first
// record that was restored.
func (t *translation) source(p place, o format.GroupOffset, next int64) format.GroupSource {
	s := format.GroupSource{Topic: p.topic, Partition: p.num, Offset: o.Offset, End: o.End, Record: o.Record}
	c := t.coverage[p]
	if s.End == nil && c != nil {
		s.End = &c.through
	}
	if t.cfg.By == byIdentity || t.cfg.By == byTimestamp { // neither has looked for records
		return s
	}
	to := c.through // what is placed is in the backup
	if next != math.MaxInt64 {
		s.Next, to = &next, next
	}
	s.Missing = c.missing(o.Offset, to)
	return s
}

// alone is an offset in the target that comes from one in the source. A leader epoch is
// not carried over: the source's say nothing of the target, whose brokers would find a
// consumer's position truncated by it.
func (t *translation) alone(p place, o format.GroupOffset, at int64) format.GroupOffset {
	return format.GroupOffset{Offset: at, Metadata: o.Metadata, From: []format.GroupSource{t.source(p, o, math.MaxInt64)}}
}

// atEnd is an offset with nothing behind it that was restored.
func (t *translation) atEnd(p place, o format.GroupOffset) format.GroupOffset {
	out := t.alone(p, o, 0)
	out.AtEnd = true
	return out
}

// tellRecords notes, of each offset, which record comes next: by the records that were
// read, where there are any.
func (t *translation) tellRecords(done []*format.Group) error {
	if t.records.n == 0 {
		return nil
	}
	return withRecords(done, t.eachRecord)
}

// withRecords gives offsets that were translated the record that comes next: the first
// restored one or, where that is not known, the first in the backup.
func withRecords(done []*format.Group, records func(func(place, format.NextRecord)) error) error {
	wanted := make(map[place][]int64)
	for s := range sources(done) {
		p := place{s.Topic, s.Partition}
		wanted[p] = append(wanted[p], next(s))
	}
	found, err := firstRecords(wanted, records)
	for s := range sources(done) {
		if r, ok := found[place{s.Topic, s.Partition}][next(s)]; ok {
			s.Record = &r
		}
	}
	return err
}

// firstRecords returns, for each offset of each partition, the first record that is not
// below it. The records of a partition come in ascending order.
func firstRecords(wanted map[place][]int64, records func(func(place, format.NextRecord)) error) (map[place]map[int64]format.NextRecord, error) {
	found := make(map[place]map[int64]format.NextRecord)
	for p, offsets := range wanted {
		slices.Sort(offsets)
		wanted[p] = slices.Compact(offsets)
		found[p] = make(map[int64]format.NextRecord)
	}
	err := records(func(p place, r format.NextRecord) {
		offsets := wanted[p]
		if len(offsets) == 0 || offsets[0] > r.Offset {
			return
		}
		r.Digest = slices.Clone(r.Digest)
		for len(offsets) > 0 && offsets[0] <= r.Offset {
			found[p][offsets[0]] = r
			offsets = offsets[1:]
		}
		wanted[p] = offsets
	})
	return found, err
}

// next is the source offset of the record that a group reads next, or one below it.
func next(s *format.GroupSource) int64 {
	if s.Next != nil {
		return *s.Next
	}
	return s.Offset
}
