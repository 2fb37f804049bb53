package pull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
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
}

// open reads the log at cfg's remote, or takes its place where there is none.
func open(ctx context.Context, cfg Config, log *slog.Logger) (b *backup, err error) {
	b = new(backup)
	if b.matcher, err = cfg.Selection.Compile(); err != nil {
		return nil, command.WithStatus(command.Usage, err)
	}
	if file, dir, ok := looseFile(cfg.Remote); ok {
		if b.store, err = store.Open(ctx, dir); err != nil {
			return nil, err
		}
		return b, b.orClose(b.loose(ctx, []string{file}))
	}
	if b.store, err = store.Open(ctx, cfg.Remote); err != nil {
		return nil, err
	}
	// Segments of what is not selected need not be kept.
	b.options = store.LogOptions{Keep: b.matcher.Matches, SkipDamaged: cfg.SkipDamaged, Signed: cfg.Signers.Check()}
	err = b.load(ctx, log)
	if store.IsDamage(err) {
		err = command.WithHint(command.WithStatus(command.Corrupt, err), "kbk-catalog verify shows all that is wrong, kbk-catalog repair what can be done; --skip-damaged goes on without it")
	}
	if err == nil && b.state.Entries() == 0 && len(b.damage) == 0 {
		err = b.looseFolder(ctx)
	}
	return b, b.orClose(err)
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
}

// choose finds out what cfg asks for.
func (b *backup) choose(ctx context.Context, cfg Config) (*selection, error) {
	sel := new(selection)
	moment, point, err := b.moment(ctx, cfg)
	if err != nil {
		return nil, err
	}
	ids, err := b.incarnations(cfg.TopicIDs)
	if err != nil {
		return nil, err
	}
	for _, name := range b.state.Topics() {
		id := ids[name]
		description := b.state.Description(name, id)
		var at map[int32][2]int64
		if moment != nil {
			t, ok := moment.Topic(name)
			if !ok {
				continue
			}
			if len(cfg.TopicIDs) > 0 && slices.Contains(cfg.TopicIDs, id) && t.ID != id {
				return nil, command.Usagef("--topic-id %s: at the restore point topic %s was another", id, name)
			}
			id, at = t.ID, t.Partitions
			if t.Topic != nil {
				description = *t.Topic
			} else {
				description = b.state.Description(name, id)
			}
		}
		n := len(sel.plans)
		for _, number := range b.state.Partitions(name, id) {
			plan, _ := b.state.Plan(name, id, number)
			position, within := at[number]
			if !b.matcher.Matches(name, number) || moment != nil && !within {
				continue
			}
			if moment == nil {
				position[1] = math.MaxInt64
			}
			sel.bound(cfg, &plan, position[1], moment != nil)
			sel.plans = append(sel.plans, plan)
		}
		if len(sel.plans) > n && len(description.Frame) > 0 {
			sel.topics = append(sel.topics, description.Frame)
		}
	}
	if err := b.matcher.Missing(); err != nil {
		return nil, command.WithHint(fmt.Errorf("in %s: %w", b.store.Name(), err), "kbk-catalog show lists what the backup has")
	}
	if len(sel.plans) == 0 && (len(cfg.Selection.Topics) > 0 || cfg.Selection.Numbers != nil) {
		return nil, errors.New("the selection leaves no partition to read")
	}
	groups, others := b.state.Groups(func(topic string) string { return ids[topic] }), b.state.Others()
	if moment != nil {
		groups, others = moment.MergedGroups(), moment.Others
	}
	for _, g := range groups {
		sel.trailer = append(sel.trailer, g.Frame)
	}
	sel.trailer = append(sel.trailer, others...)
	if moment != nil {
		sel.trailer = append(sel.trailer, point.Frame)
	}
	return sel, nil
}

// moment returns the restore point that cfg names and what belongs to it, or nil.
func (b *backup) moment(ctx context.Context, cfg Config) (*commitlog.Moment, commitlog.RestorePoint, error) {
	m, point, err := b.findMoment(ctx, cfg)
	if store.IsDamage(err) { // or somebody has compacted the backup since the log was read
		if err = b.load(ctx, slog.New(slog.DiscardHandler)); err != nil {
			return nil, point, err
		}
		m, point, err = b.findMoment(ctx, cfg)
	}
	return m, point, err
}

func (b *backup) findMoment(ctx context.Context, cfg Config) (*commitlog.Moment, commitlog.RestorePoint, error) {
	var point commitlog.RestorePoint
	switch {
	case cfg.At != nil:
		ok := false
		for _, p := range slices.Backward(b.state.Points()) {
			if p.Time <= cfg.At.UnixMilli() {
				point, ok = p, true
				break
			}
		}
		if !ok {
			return nil, point, command.WithHint(fmt.Errorf("%s has no restore point at %s or before", b.store.Name(), cfg.At.UTC().Format(time.RFC3339)),
				"kbk-catalog show lists them; --until takes all records up to a time")
		}
	case cfg.Point != "":
		var err error
		if point, err = b.state.Find(cfg.Point); err != nil {
			return nil, point, command.WithHint(fmt.Errorf("in %s: %w", b.store.Name(), err), "kbk-catalog show lists them")
		}
	default:
		return nil, point, nil
	}
	m, err := b.store.LoadMoment(ctx, b.state, point)
	return m, point, err
}

// incarnations returns the id to read of every topic: the newest, or the one asked for.
func (b *backup) incarnations(asked []string) (map[string]string, error) {
	chosen := make(map[string]string)
	found := make(map[string]bool)
	for _, name := range b.state.Topics() {
		ids := b.state.Incarnations(name)
		chosen[name] = ids[len(ids)-1]
		some := false
		for _, id := range ids {
			if !slices.Contains(asked, id) || id == "" {
				continue
			}
			if some {
				return nil, command.Usagef("--topic-id: %s and %s are both of topic %s", chosen[name], id, name)
			}
			chosen[name], found[id], some = id, true, true
		}
	}
	for _, id := range asked {
		if !found[id] {
			return nil, command.WithHint(fmt.Errorf("%s has no topic of id %q", b.store.Name(), id), "kbk-catalog show lists the incarnations")
		}
	}
	return chosen, nil
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
