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
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// How a translation finds the target offsets.
const (
	byMap       = "map"
	byTimestamp = "timestamp"
	byIdentity  = "identity"
)

var methods = []string{byMap, byTimestamp, byIdentity}

// TranslateConfig says how offsets are translated.
type TranslateConfig struct {
	Kafka        kafka.Config // the target; for timestamp only
	By           string
	MaySkip      bool     // by timestamp, without the backup's records
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
	rule  *rule
	times times // of a translation by timestamp
}

// Translate reads consumer groups, from in or, where that is nil, from the maps, and
// writes them to out as they are to be in the target.
func Translate(ctx context.Context, cfg TranslateConfig, env *command.Env, in io.Reader, out io.Writer) error {
	began := time.Now()
	t := &translation{cfg: cfg, log: env.Log, input: newInput(), rule: newRule()}
	defer t.close()
	var others [][]byte // frames of kinds that this version does not know, and points
	t.pass = func(f *format.Frame) error {
		if f.Kind == format.KindUnknown || f.Kind == format.KindPoint {
			others = append(others, slices.Clone(f.Raw))
		}
		return nil
	}
	read := t.readAll(ctx, in, cfg.MaxFrame, env.Log, slices.Concat(cfg.Maps, cfg.Records)...)
	w, err := begin(out, read)
	if err != nil {
		return err
	}
	if err := t.choose(cfg.Groups); err != nil {
		return err
	}
	if err := t.find(ctx); err != nil {
		return err
	}
	done, err := t.all()
	if err != nil {
		return err
	}
	if err := t.tellRecords(done); err != nil {
		return err
	}
	n, err := t.write(w, others, done)
	if err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("translated %s of %s", command.Count(n, "offset"), command.Count(int64(len(done)), "group")),
		slog.String("by", cfg.By), slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	return endStatus(&t.end, "the input was stopped before its end, so the translation is incomplete", loss(env.Log, done))
}

// begin writes the header of the output once the input was read, with the error read or none. If
// the command fails from then on, or has failed already, the next stage learns why. Without any
// input there is no output, so that the last stage says that nothing came.
func begin(out io.Writer, read error) (*format.Writer, error) {
	if errors.Is(read, format.ErrEmpty) {
		return nil, read
	}
	w := command.NewWriter(out)
	if err := w.WriteHeader(&format.Header{Created: time.Now().UnixMilli(), Content: format.ContentRecords}); err != nil {
		return nil, err
	}
	return w, read
}

// choose leaves the groups that are wanted.
func (in *input) choose(wanted func(id string) bool) error {
	maps.DeleteFunc(in.groups.byID, func(id string, _ *format.Group) bool { return !wanted(id) })
	if len(in.groups.byID) == 0 {
		return command.WithHint(errors.New("no consumer group to translate"), "is there one in what was read? kbk-fetch --groups puts them into a backup, kbk-offsets snapshot reads them from a cluster")
	}
	return nil
}

// askFor tells the rule which offsets it is going to place.
func (r *rule) askFor(groups map[string]*format.Group) {
	for _, g := range groups {
		for p, o := range each(g) {
			r.ask(p, o.Offset)
		}
	}
	r.ready()
}

// find looks for what the method takes the target offsets from.
func (t *translation) find(ctx context.Context) error {
	switch t.cfg.By {
	case byMap:
		if t.maps.f == nil && len(t.targets) == 0 && (len(t.coverage) == 0 || t.records.n > 0) { // marks alone are the map of empty topics
			return command.WithHint(command.Usagef("there is no map to translate by"), "give what kbk-produce or kbk-offsets map wrote with --map FILE, or choose another way with --by")
		}
		t.rule.askFor(t.groups.byID)
		if err := t.eachMap(t.rule.add); err != nil {
			return err
		}
		t.rule.finish()
	case byTimestamp:
		var err error
		t.times, err = t.findTimes(ctx)
		return err
	}
	return nil
}

// all translates the groups, and returns them by the ids that they are to have.
func (t *translation) all() ([]*format.Group, error) {
	var done []*format.Group
	for _, g := range t.groups.sorted() {
		done = append(done, t.group(g))
	}
	slices.SortStableFunc(done, func(a, b *format.Group) int { return cmp.Compare(a.ID, b.ID) })
	for i := 1; i < len(done); i++ {
		if done[i].ID == done[i-1].ID {
			return nil, command.Usagef("groups %s and %s would both become %s", original(done[i-1]), original(done[i]), done[i].ID)
		}
	}
	return done, nil
}

// write writes the translated groups, and returns how many offsets they have.
func (t *translation) write(w *format.Writer, others [][]byte, done []*format.Group) (n int64, err error) {
	for _, raw := range others {
		if err := w.WriteRaw(raw); err != nil {
			return 0, err
		}
	}
	for _, g := range done {
		if err := w.Write(g); err != nil {
			return 0, fmt.Errorf("group %s: %w", g.ID, err)
		}
		for range each(g) {
			n++
		}
	}
	t.end.Records = 0
	return n, w.Close(&t.end)
}

// A plannedGroup is a group on its way to the target.
type plannedGroup struct{ *format.Group }

func (g plannedGroup) put(p place, o format.GroupOffset) {
	if g.Offsets[p.topic] == nil {
		g.Offsets[p.topic] = make(map[int32]format.GroupOffset)
	}
	g.Offsets[p.topic][p.num] = o
}

// putLowest is put where several partitions of the source became one: the group goes on
// at the lowest of the places, so that it skips nothing.
func (g plannedGroup) putLowest(p place, o format.GroupOffset) {
	if had, ok := g.Offsets[p.topic][p.num]; ok {
		from := append(had.From, o.From...)
		if o.AtEnd || !had.AtEnd && had.Offset < o.Offset {
			o = had
		}
		o.From = from
	}
	g.put(p, o)
}

func (g plannedGroup) leaveOut(p place, offset int64, why string) {
	g.Unplaced = append(g.Unplaced, format.Unplaced{Topic: p.topic, Partition: p.num, Offset: offset, Why: why})
}

// group translates one group.
func (t *translation) group(g *format.Group) *format.Group {
	out := plannedGroup{&format.Group{ID: t.cfg.RenameGroups.Name(g.ID), Offsets: make(map[string]map[int32]format.GroupOffset)}}
	out.By, out.Unplaced = t.cfg.By, slices.Clone(g.Unplaced)
	if out.ID != g.ID {
		out.Source = g.ID
	}
	for _, topic := range slices.Sorted(maps.Keys(g.Offsets)) {
		offsets := make(map[int32]format.GroupOffset) // that may have a place
		for num, o := range g.Offsets[topic] {
			if why := t.refusal(g, place{topic, num}, o); why != "" {
				out.leaveOut(place{topic, num}, o.Offset, why)
			} else {
				offsets[num] = o
			}
		}
		switch t.cfg.By {
		case byIdentity:
			for num, o := range offsets {
				out.put(t.namesake(place{topic, num}), t.alone(place{topic, num}, o, o.Offset))
			}
		case byTimestamp:
			t.placeByTime(out, topic, offsets)
		default:
			t.placeByRuns(out, g, topic, offsets)
		}
	}
	slices.SortFunc(out.Unplaced, func(a, b format.Unplaced) int {
		return place{a.Topic, a.Partition}.compare(place{b.Topic, b.Partition})
	})
	out.Topics = t.targetIDs(out.Offsets)
	return out.Group
}

// refusal says why an offset cannot have a place, if it cannot. An exact restore, and
// timestamps, need no word of it where there are no marks.
func (t *translation) refusal(g *format.Group, p place, o format.GroupOffset) string {
	c, to, ids := t.coverage[p], t.targets[p], t.ids[p.topic]
	switch id := g.Topics[p.topic]; {
	case id != "" && len(ids) > 0 && !ids[id]:
		return fmt.Sprintf("it is of another topic of this name (topic id %s) than the one that was restored (%s)", id, strings.Join(names(ids), ", "))
	case c != nil && o.Offset > c.through:
		return fmt.Sprintf("the backup ends at offset %d", c.through)
	case c == nil && t.cfg.By == byMap:
		return "it is not in the backup, or was not restored"
	case t.cfg.By == byMap && to != nil && len(to.Offsets) > 0 && !slices.Contains(to.Offsets, o.Offset):
		return "the map was made for other offsets: make it again with this group"
	}
	return ""
}

// placeByRuns goes by the rule.
func (t *translation) placeByRuns(out plannedGroup, g *format.Group, topic string, offsets map[int32]format.GroupOffset) {
	if len(offsets) == 0 {
		return
	}
	committed, placed := make(map[int32]int64), make(map[int32]bool)
	for num, o := range g.Offsets[topic] {
		committed[num] = o.Offset
	}
	for num := range offsets {
		placed[num] = true
	}
	with := make(map[int32]bool) // partitions with a record that was restored
	for to, f := range t.rule.targets(topic, committed, placed) {
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
		out.put(to, all)
	}
	// Of what is left, nothing was restored, and nothing was there to be restored.
	for num, o := range offsets {
		p := place{topic, num}
		if with[num] {
			continue
		}
		switch to, found := t.became(p); found {
		case inPartition:
			out.put(to, t.atEnd(p, o))
		case spread: // the group has nothing to read from it, wherever it would be
			t.log.Debug(fmt.Sprintf("group %s: offset %d of %s needs no place: it had no records, and the topic is partitioned anew", g.ID, o.Offset, p))
		default:
			out.leaveOut(p, o.Offset, "it had no records, and the map does not say what became of it: --rename says what its topic is in the target")
		}
	}
}

type fate uint8

const (
	unknown     fate = iota
	inPartition      // of the target
	spread           // over the partitions of the target
)

// became says what became of a partition without restored records: by the map, by what
// the user says, or by what became of the topic's records where these changed their
// partition. It does not guess.
func (t *translation) became(p place) (place, fate) {
	if to := t.targets[p]; to != nil {
		if to.TargetPartition < 0 {
			return place{}, spread
		}
		return place{to.TargetTopic, to.TargetPartition}, inPartition
	}
	if name, ok := t.cfg.Topics.Lookup(p.topic); ok {
		return place{name, p.num}, inPartition
	}
	for _, o := range t.rule.topics[p.topic] {
		for to := range t.rule.asked[o].to {
			if to.num != o.num {
				return place{}, spread
			}
		}
	}
	return place{}, unknown
}

// namesake is the partition of the target that is to be like one of the source: as the
// map says, or as the user does, or else of the same name.
func (t *translation) namesake(p place) place {
	if to := t.targets[p]; to != nil && to.TargetPartition >= 0 {
		return place{to.TargetTopic, to.TargetPartition}
	}
	return place{t.cfg.Topics.Name(p.topic), p.num}
}

// targetIDs returns the topic ids, as far as the map has them, of topics in the target.
func (t *translation) targetIDs(offsets map[string]map[int32]format.GroupOffset) map[string]string {
	ids := make(map[string]string)
	for topic := range offsets {
		ids[topic] = ""
	}
	for _, to := range t.targets {
		if _, ok := ids[to.TargetTopic]; ok {
			ids[to.TargetTopic] = to.TargetID
		}
	}
	return ids
}

// source says where an offset in the target is from. next is the offset of the first
// record that was restored.
func (t *translation) source(p place, o format.GroupOffset, next int64) format.GroupSource {
	s := format.GroupSource{Topic: p.topic, Partition: p.num, Offset: o.Offset, End: o.End, Record: o.Record}
	c := t.coverage[p]
	if s.End == nil && c != nil {
		s.End = &c.through
	}
	if t.cfg.By != byMap { // neither has looked for records
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
