package pull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/store"
)

// A backup is what is read from: a backup with a log, or loose segments.
type backup struct {
	store   *store.Store
	options store.LogOptions
	damage  []store.Damage // what was left out of the log
	state   *commitlog.State
	matcher *partitions.Matcher
	paths   map[string]string // of loose segments: where each is, by where it would be in a backup
	notes   []string          // on how they were put in order
}

// open reads the log at cfg's remote, or takes its place where there is none.
func open(ctx context.Context, cfg Config, log *slog.Logger, count *metrics.Counters) (b *backup, err error) {
	b = new(backup)
	opts := store.Options{Counters: count}
	if b.matcher, err = cfg.Selection.Compile(); err != nil {
		return nil, command.WithStatus(command.Usage, err)
	}
	if file, dir, ok := looseFile(cfg.Remote); ok {
		if cfg.Signers != nil {
			return nil, unsigned(cfg.Remote)
		}
		if b.store, err = store.OpenWith(ctx, dir, opts); err != nil {
			return nil, err
		}
		return b, b.orClose(b.loose(ctx, []string{file}))
	}
	if b.store, err = store.OpenWith(ctx, cfg.Remote, opts); err != nil {
		return nil, err
	}
	// Segments of what is not selected need not be kept.
	b.options = store.LogOptions{Keep: b.matcher.Matches, SkipDamaged: cfg.SkipDamaged, Signed: cfg.Signers.Check()}
	err = b.load(ctx, log)
	if store.IsDamage(err) {
		err = command.WithHint(command.WithStatus(command.Corrupt, err), "kbk-catalog verify shows all that is wrong, kbk-catalog repair what can be done; --skip-damaged continues without it")
	}
	if err == nil && b.state.Entries() == 0 && len(b.damage) == 0 {
		if err = b.looseFolder(ctx); err == nil && cfg.Signers != nil {
			err = unsigned(b.store.Name())
		}
	}
	return b, b.orClose(err)
}

// unsigned is the error for segments without a log, where signatures are asked for.
func unsigned(remote string) error {
	return command.WithStatus(command.Corrupt, fmt.Errorf("%s: there is no log, and so no signature: %w", remote, store.ErrUnsigned))
}

// load reads the log.
func (b *backup) load(ctx context.Context, to *slog.Logger) error {
	log, err := b.store.ReadLog(ctx, b.options)
	if err != nil {
		return err
	}
	log.Warn(to)
	b.state, b.damage = log.State, log.Damage
	return nil
}

func (b *backup) orClose(err error) error {
	if err != nil {
		err = errors.Join(err, b.store.Close())
	}
	return err
}

// Close lets go of the store.
func (b *backup) Close() error { return b.store.Close() }

// A selection is what to write.
type selection struct {
	plans   []commitlog.Plan
	window  *format.Window
	topics  [][]byte // frames
	trailer [][]byte // frames behind all segments
	moments []byte   // frames of the restore points that a copy is to have, compressed
	losses  []string // what was asked for and is not here, beside what partitions lack
	notes   []string // what the user should know before it is read

	snapshots []commitlog.ClusterSnapshot
	leftOut   string // what to say of snapshots that are left out as they should be
}

// choose finds out what cfg asks for.
func (b *backup) choose(ctx context.Context, cfg Config) (*selection, error) {
	if cfg.Cluster == ClusterOnly {
		return b.chooseCluster(cfg)
	}
	selected := make(map[string]bool)
	for _, name := range b.state.Topics() {
		for _, id := range b.state.Incarnations(name) {
			for _, number := range b.state.Partitions(name, id) {
				if b.matcher.Matches(name, number) {
					selected[name] = true
				}
			}
		}
	}
	if err := b.matcher.Missing(); err != nil {
		return nil, command.WithHint(fmt.Errorf("in %s: %w", b.store.Name(), err), "kbk-catalog show lists what the backup has")
	}
	asked, err := b.asked(cfg.TopicIDs)
	if err != nil {
		return nil, err
	}
	sel := &selection{notes: b.notes}
	if cfg.Point != "" || cfg.At != nil {
		err = b.chooseAt(ctx, cfg, sel, selected, asked)
	} else {
		err = b.chooseNow(ctx, cfg, sel, selected, asked)
	}
	if err != nil {
		return nil, err
	}
	if len(sel.plans) == 0 && (len(cfg.Selection.Topics) > 0 || cfg.Selection.Numbers != nil) {
		return nil, errors.New("the selection leaves no partition to read")
	}
	if err := b.addSnapshots(cfg, sel); err != nil {
		return nil, err
	}
	sel.note()
	return sel, nil
}

// total is what the stream will have. The records are known where none are cut off.
func (sel *selection) total() *format.Total {
	t := new(format.Total)
	whole := sel.window == nil
	for i := range sel.plans {
		p := &sel.plans[i]
		t.Offsets += p.Next - p.From
		t.Bytes += p.Size()
		for n := range p.Len() {
			c := p.Segment(n)
			whole = whole && c.DropBelow <= c.From && c.DropFrom >= c.Next
			t.Records += c.Records
		}
	}
	if !whole {
		t.Records = 0
	}
	return t
}

// chooseNow takes everything that the backup has of the selected topics.
func (b *backup) chooseNow(ctx context.Context, cfg Config, sel *selection, selected map[string]bool, asked map[string]string) error {
	ids := make(map[string]string)
	for _, name := range b.state.Topics() {
		all := b.state.Incarnations(name)
		if ids[name] = all[len(all)-1]; asked[name] != "" {
			ids[name] = asked[name]
		}
		if !selected[name] {
			continue
		}
		if err := b.incarnation(cfg, sel, name, ids[name], asked[name] != ""); err != nil {
			return err
		}
		n := len(sel.plans)
		for _, number := range b.state.Partitions(name, ids[name]) {
			if !b.matcher.Matches(name, number) {
				continue
			}
			plan, _ := b.state.Plan(name, ids[name], number)
			sel.bound(cfg, &plan, math.MaxInt64, false)
			sel.plans = append(sel.plans, plan)
		}
		sel.describe(b.state.Description(name, ids[name]), n)
	}
	sel.trail(b.state.Groups(func(topic string) string { return ids[topic] }), b.state.GroupLists(), b.state.Others())
	if sel.window != nil || b.paths != nil { // a part of a backup has no restore points
		return nil
	}
	return b.copyMoments(ctx, cfg, sel)
}

// chooseAt takes what belongs to restore points: one, or for each partition the last one at
// a time that includes it.
func (b *backup) chooseAt(ctx context.Context, cfg Config, sel *selection, selected map[string]bool, asked map[string]string) error {
	stands, err := b.stands(ctx, cfg)
	if err != nil {
		return err
	}
	parts := make(map[string][]placement)
	ids := make(map[string]string)
	for _, name := range b.state.Topics() {
		if !selected[name] {
			continue
		}
		in := stands.topic(name, asked[name])
		if in == nil {
			sel.lacks(b, cfg, name)
			continue
		}
		ids[name] = in.id
		if err := b.incarnation(cfg, sel, name, in.id, asked[name] != ""); err != nil {
			return err
		}
		n := len(sel.plans)
		for _, number := range slices.Sorted(maps.Keys(in.parts)) {
			p := in.parts[number]
			plan, ok := b.state.PlanOf(name, in.id, number, b.state.BranchAt(name, in.id, number, p.moment))
			if !ok {
				return fmt.Errorf("%w: nothing is known of %s/%d, which is part of restore point %s", commitlog.ErrCorrupt, name, number, p.moment.Entry)
			}
			sel.bound(cfg, &plan, p.at[1], true)
			sel.plans = append(sel.plans, plan)
			parts[name] = append(parts[name], p)
		}
		sel.lacksPartitions(b, cfg, name, in)
		description := b.state.Description(name, in.id)
		if in.description != nil {
			description = *in.description
		}
		sel.describe(description, n)
	}
	moments := inOrder(parts)
	groups, lists, others := commitlog.MergeMoments(moments, func(topic string) string { return ids[topic] })
	sel.trail(groups, lists, others)
	if len(moments) == 1 { // several are no moment of the cluster
		sel.trailer = append(sel.trailer, moments[0].Points[0].Frame)
	}
	sel.notes = append(sel.notes, used(parts)...)
	return nil
}

// inOrder are the moments of placements, in the order of the log.
func inOrder(parts map[string][]placement) (moments []*commitlog.Moment) {
	order := make(map[*commitlog.Moment]int)
	for _, list := range parts {
		for _, p := range list {
			order[p.moment] = p.order
		}
	}
	for m := range order {
		moments = append(moments, m)
	}
	slices.SortFunc(moments, func(a, b *commitlog.Moment) int { return cmp.Compare(order[a], order[b]) })
	return moments
}

// describe adds the topic frame of plans from n on.
func (sel *selection) describe(t commitlog.Topic, n int) {
	if len(sel.plans) > n && len(t.Frame) > 0 {
		sel.topics = append(sel.topics, t.Frame)
	}
}

// trail puts frames behind the segments. A list of groups is about frames that come behind
// it.
func (sel *selection) trail(groups []commitlog.Group, lists []commitlog.GroupList, others [][]byte) {
	for _, l := range lists {
		sel.trailer = append(sel.trailer, l.Frame)
	}
	for _, g := range groups {
		sel.trailer = append(sel.trailer, g.Frame)
	}
	sel.trailer = append(sel.trailer, others...)
}

// lacks says that no restore point includes a topic. It is a loss where the topic was
// asked for, or has records that are not newer than the point.
func (sel *selection) lacks(b *backup, cfg Config, name string) {
	old := false
	for _, id := range b.state.Incarnations(name) {
		for _, n := range b.state.Partitions(name, id) {
			old = old || b.matcher.Matches(name, n) && notNewer(b.state.Summary(name, id, n), cfg.At)
		}
	}
	line := fmt.Sprintf("%s: %s", name, cfg.noPoint())
	if len(cfg.Selection.Topics) > 0 || old {
		sel.losses = append(sel.losses, line)
	} else {
		sel.notes = append(sel.notes, line)
	}
}

// lacksPartitions says the same of partitions of an incarnation.
func (sel *selection) lacksPartitions(b *backup, cfg Config, name string, in *incarnationAt) {
	for _, n := range b.state.Partitions(name, in.id) {
		if _, placed := in.parts[n]; !placed && b.matcher.Matches(name, n) && notNewer(b.state.Summary(name, in.id, n), cfg.At) {
			sel.losses = append(sel.losses, fmt.Sprintf("%s/%d: %s", name, n, cfg.noPoint()))
		}
	}
}

// notNewer tells whether a partition has records of a time or before.
func notNewer(p commitlog.ManifestPartition, at *time.Time) bool {
	return at != nil && p.Segments > 0 && p.MinTimestamp <= at.UnixMilli()
}

func (cfg *Config) noPoint() string {
	if cfg.At == nil {
		return "restore point " + cfg.Point + " does not include it"
	}
	return "no restore point at " + cfg.At.UTC().Format(time.RFC3339) + " or before includes it"
}

// stands reads what restore points say of what is selected.
func (b *backup) stands(ctx context.Context, cfg Config) (standing, error) {
	s, err := b.findStands(ctx, cfg)
	if store.IsDamage(err) { // or somebody has compacted the backup since the log was read
		if err = b.load(ctx, slog.New(slog.DiscardHandler)); err != nil {
			return nil, err
		}
		s, err = b.findStands(ctx, cfg)
	}
	return s, err
}

func (b *backup) findStands(ctx context.Context, cfg Config) (standing, error) {
	s := make(standing)
	if cfg.Point != "" {
		point, err := b.state.Find(cfg.Point)
		if err != nil {
			return nil, command.WithHint(fmt.Errorf("in %s: %w", b.store.Name(), err), "kbk-catalog show lists them")
		}
		m, err := b.store.LoadMoment(ctx, b.state, point)
		if err != nil {
			return nil, err
		}
		s.add(0, m, b.matcher.Matches)
		return s, nil
	}
	order := make(map[string]int)
	for i, p := range b.state.Points() {
		if p.Time <= cfg.At.UnixMilli() {
			order[p.Entry] = i
		}
	}
	if len(order) == 0 {
		return nil, command.WithHint(fmt.Errorf("%s has no restore point at %s or before", b.store.Name(), cfg.At.UTC().Format(time.RFC3339)),
			"kbk-catalog show lists them; --until takes all records up to a time")
	}
	err := b.store.EachMoment(ctx, b.state, func(err error) error { return err }, func(m *commitlog.Moment) error {
		if i, wanted := order[m.Entry]; wanted {
			s.add(i, m, b.matcher.Matches)
		}
		return nil
	})
	return s, err
}

// asked returns the topic ids that were asked for, by topic.
func (b *backup) asked(ids []string) (map[string]string, error) {
	chosen := make(map[string]string)
	found := make(map[string]bool)
	for _, name := range b.state.Topics() {
		for _, id := range b.state.Incarnations(name) {
			if !slices.Contains(ids, id) || id == "" {
				continue
			}
			if chosen[name] != "" {
				return nil, command.Usagef("--topic-id: %s and %s are both of topic %s", chosen[name], id, name)
			}
			chosen[name], found[id] = id, true
		}
	}
	for _, id := range ids {
		if !found[id] {
			return nil, command.WithHint(fmt.Errorf("%s has no topic of id %q", b.store.Name(), id), "kbk-catalog show lists the incarnations")
		}
	}
	return chosen, nil
}

// incarnation says which other incarnations of a topic with records there are. Where the
// one that is to be read has none, and nobody has asked for it, it is an error: a topic
// that was deleted by mistake, and created again by a client, is that.
func (b *backup) incarnation(cfg Config, sel *selection, name, id string, asked bool) error {
	records, _ := b.records(name, id)
	for _, other := range b.state.Incarnations(name) {
		if other == id {
			break // what comes behind it was made later
		}
		n, last := b.records(name, other)
		if n == 0 || asked {
			continue
		}
		had := fmt.Sprintf("an older one, %s, has %s, the last of %s", id0(other), command.Count(n, "record"), time.UnixMilli(last).UTC().Format(time.RFC3339))
		if records == 0 && !cfg.Newest {
			return command.WithHint(command.Usagef("topic %s was deleted and created again: its newest incarnation, %s, has no records, and %s", name, id0(id), had),
				"--topic-id "+other+" reads the older one, --newest the empty one")
		}
		sel.notes = append(sel.notes, fmt.Sprintf("topic %s was deleted and created again: %s is read, with %s; %s; --topic-id reads that one",
			name, id0(id), command.Count(records, "record"), had))
	}
	return nil
}

// id0 is a topic id for people.
func id0(id string) string { return cmp.Or(id, "of unknown id") }

// records returns how many records an incarnation has, and the time of the newest.
func (b *backup) records(name, id string) (n, last int64) {
	last = math.MinInt64
	for _, number := range b.state.Partitions(name, id) {
		if p := b.state.Summary(name, id, number); p.Segments > 0 {
			n += p.Records
			last = max(last, p.MaxTimestamp)
		}
	}
	return n, last
}

// note tells what of the plans is not as it was in Kafka, and is no loss.
func (sel *selection) note() {
	for _, p := range sel.plans {
		for _, r := range p.Pruned {
			sel.notes = append(sel.notes, fmt.Sprintf("%s/%d: offsets %d to %d were pruned from the backup", p.Topic, p.Partition, r[0], r[1]-1))
		}
		for _, at := range p.Branches {
			sel.notes = append(sel.notes, fmt.Sprintf("%s/%d: from offset %d on other records took the place of ones that were read before", p.Topic, p.Partition, at))
		}
	}
	sel.notes = append(sel.notes, filteredNotes(sel.plans)...)
}

// filteredNotes says of each topic what the backup has only as filters have left it.
func filteredNotes(plans []commitlog.Plan) (notes []string) {
	for i := 0; i < len(plans); {
		topic, first, offsets := plans[i].Topic, "", int64(0)
		filters := make(map[string]bool)
		for ; i < len(plans) && plans[i].Topic == topic; i++ {
			for _, f := range plans[i].Filtered {
				if first == "" {
					first = fmt.Sprintf("%s/%d: offsets %d to %d", topic, plans[i].Partition, f.From, f.Next-1)
				}
				offsets += f.Next - f.From
				filters[strings.Join(f.Filters, ", ")] = true
			}
		}
		if offsets > 0 {
			notes = append(notes, fmt.Sprintf("%s: the backup has %s only as filters have left them (%s; the first: %s)",
				topic, command.Count(offsets, "offset"), strings.Join(slices.Sorted(maps.Keys(filters)), "; "), first))
		}
	}
	return notes
}

// bound cuts a plan to what cfg asks for, below position, and says so in the window.
func (sel *selection) bound(cfg Config, plan *commitlog.Plan, position int64, always bool) {
	from, next := cfg.From, cmp.Or(cfg.To, math.MaxInt64)
	next = min(next, position)
	since, until := int64(math.MinInt64), int64(math.MaxInt64)
	if cfg.Since != nil || cfg.Until != nil || from > 0 || next < math.MaxInt64 || always {
		if sel.window == nil {
			sel.window = new(format.Window)
		}
	}
	if cfg.Since != nil {
		since = ceilMilli(*cfg.Since)
		sel.window.Since = &since
	}
	if cfg.Until != nil {
		until = cfg.Until.UnixMilli()
		sel.window.Until = &until
	}
	if from > 0 || next < math.MaxInt64 {
		if sel.window.Offsets == nil {
			sel.window.Offsets = make(map[string]map[int32][2]int64)
		}
		if sel.window.Offsets[plan.Topic] == nil {
			sel.window.Offsets[plan.Topic] = make(map[int32][2]int64)
		}
		sel.window.Offsets[plan.Topic][plan.Partition] = [2]int64{from, max(from, next)}
	}
	plan.Cut(from, max(from, next), since, until)
}

// ceilMilli is the first millisecond at t or behind.
func ceilMilli(t time.Time) int64 {
	ms := t.UnixMilli()
	if time.UnixMilli(ms).Before(t) {
		ms++
	}
	return ms
}
