package push

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
)

// maxMoments is how many bytes of restore points from another backup an entry gets.
const maxMoments = 4 << 20

// moment takes in a restore point of the backup that the stream was copied from: as far as
// the stream has spoken of what it has.
func (p *pusher) moment(ctx context.Context, raw []byte) error {
	f, err := format.DecodeMoment(raw)
	if err != nil {
		return command.Input(err)
	}
	p.mu.Lock()
	known := p.state.HasPoint(f.ID)
	p.mu.Unlock()
	point, err := format.DecodePoint(f.Point)
	if err != nil {
		return command.Input(err)
	}
	lacks := append(f.Lacks, p.endsBelow(f)...)
	if known { // it was copied before, and may have been whole then
		if len(lacks) > 0 {
			p.copiedBefore[f.ID] = copiedPoint{point.Time, lacks}
		}
		return nil
	}
	p.lacking.add(lacks, point.Time)
	if len(f.Lacks) > 0 && !slices.ContainsFunc(f.Topics, func(t format.MomentTopic) bool { return len(t.Partitions) > 0 }) {
		return nil
	}
	m, err := commitlog.MomentOf(f, func(topic, id string, partition int32, next int64) bool {
		at, spoken := p.position[key{topic, id, partition}]
		return spoken && next <= at
	})
	if err != nil {
		return command.Input(err)
	}
	if m == nil {
		p.foreign++
		return nil
	}
	e := &p.current.entry
	e.Points = append(e.Points, commitlog.Point{Time: point.Time, Frame: f.Point, Without: point.Without, Moment: m})
	if p.current.moments += int64(len(raw)); p.current.moments >= maxMoments {
		return p.checkpoint(ctx)
	}
	return nil
}

// endsBelow are the partitions of a point that the stream speaks of, but not as far as the point.
func (p *pusher) endsBelow(f *format.Moment) (lacks []format.MomentLack) {
	for _, t := range f.Topics {
		var short []int32
		for n, at := range t.Partitions {
			if next, spoken := p.position[key{t.Name, t.ID, n}]; spoken && next < at[1] {
				short = append(short, n)
			}
		}
		if len(short) > 0 {
			lacks = append(lacks, format.MomentLack{Topic: t.Name, Partitions: short, Why: "the last offsets below the point were pruned, or are missing"})
		}
	}
	return lacks
}

// A copiedPoint is a restore point that the backup had before, and what a copy that is made now
// would lack of it.
type copiedPoint struct {
	time  int64 // in milliseconds since the epoch
	lacks []format.MomentLack
}

// lookBack finds out what the points that were copied before do not have.
func (p *pusher) lookBack(ctx context.Context) error {
	if len(p.copiedBefore) == 0 {
		return nil
	}
	// The log may have been compacted since it was read.
	log, err := p.store.ReadLog(ctx, p.cfg.logOptions())
	if err != nil {
		return err
	}
	skip := func(error) error { return nil }
	return p.store.EachMoment(ctx, log.State, skip, func(m *commitlog.Moment) error {
		if had, ok := p.copiedBefore[m.Entry]; ok {
			p.lacking.add(had.without(m), had.time)
		}
		return nil
	})
}

// without is what the point lacks in the copy, which has it as m.
func (c copiedPoint) without(m *commitlog.Moment) (left []format.MomentLack) {
	for _, l := range c.lacks {
		l.Partitions = slices.DeleteFunc(slices.Clone(l.Partitions), func(n int32) bool {
			return slices.ContainsFunc(m.Topics, func(t commitlog.MomentTopic) bool {
				_, has := t.Partitions[n]
				return has && t.Name == l.Topic
			})
		})
		if len(l.Partitions) > 0 {
			left = append(left, l)
		}
	}
	return left
}

// lacking are partitions of restore points that a copy cannot have, by topic and reason.
type lacking map[lackingOf]*lackingPoints

type lackingOf struct{ topic, why string }

type lackingPoints struct {
	partitions map[int32]bool
	points     int64
	newest     int64 // of the points: its time in milliseconds since the epoch
}

// add takes in what a restore point of this time lacks.
func (l lacking) add(lacks []format.MomentLack, at int64) {
	for _, one := range lacks {
		of := lackingOf{one.Topic, one.Why}
		if l[of] == nil {
			l[of] = &lackingPoints{partitions: make(map[int32]bool), newest: at}
		}
		have := l[of]
		have.points++
		have.newest = max(have.newest, at)
		for _, n := range one.Partitions {
			have.partitions[n] = true
		}
	}
}

// err says what is lacking, or is nil.
func (l lacking) err() error {
	if len(l) == 0 {
		return nil
	}
	var lines []string
	for _, of := range slices.SortedFunc(maps.Keys(l), func(a, b lackingOf) int {
		return cmp.Or(strings.Compare(a.topic, b.topic), strings.Compare(a.why, b.why))
	}) {
		have := l[of]
		lines = append(lines, fmt.Sprintf("%s, %s: not part of %s, the newest of %s: %s", of.topic, command.Partitions(slices.Sorted(maps.Keys(have.partitions))),
			command.Count(have.points, "restore point"), time.UnixMilli(have.newest).UTC().Format(time.RFC3339), of.why))
	}
	return command.WithHint(command.WithStatus(command.Loss, errors.New("done, but the copy's restore points have less than those of the backup: "+strings.Join(lines, "; "))),
		"to have all of them, copy the backup's folder as it is, for example with rclone copy")
}
