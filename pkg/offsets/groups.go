package offsets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
)

// each yields a group's offsets in order.
func each(g *format.Group) iter.Seq2[place, format.GroupOffset] {
	return func(yield func(place, format.GroupOffset) bool) {
		for _, topic := range slices.Sorted(maps.Keys(g.Offsets)) {
			for _, num := range slices.Sorted(maps.Keys(g.Offsets[topic])) {
				if !yield(place{topic, num}, g.Offsets[topic][num]) {
					return
				}
			}
		}
	}
}

// sources yields where translated offsets come from. They may be changed.
func sources(groups []*format.Group) iter.Seq[*format.GroupSource] {
	return func(yield func(*format.GroupSource) bool) {
		for _, g := range groups {
			for _, o := range each(g) {
				for i := range o.From {
					if !yield(&o.From[i]) {
						return
					}
				}
			}
		}
	}
}

// original is the id that a group had in the source.
func original(g *format.Group) string { return cmp.Or(g.Source, g.ID) }

// readGroups reads a stream of groups to its end.
func readGroups(ctx context.Context, in io.Reader, maxFrame int64) ([]*format.Group, *format.End, error) {
	r := format.NewReader(command.Interruptible(ctx, in), int(maxFrame))
	h, err := r.Header()
	if err != nil {
		return nil, nil, command.Input(err)
	}
	if err := command.Takes(h, "standard input", format.ContentRecords, format.ContentBatches); err != nil {
		return nil, nil, err
	}
	found := newMerged()
	for {
		f, err := r.Next()
		if err != nil {
			return nil, nil, command.Input(err)
		}
		switch f.Kind {
		case format.KindGroup:
			g, err := format.DecodeGroup(f.Raw)
			if err != nil {
				return nil, nil, command.Input(err)
			}
			found.add(g)
		case format.KindEnd:
			end, err := format.DecodeEnd(f.Raw)
			return found.sorted(), end, err
		}
	}
}

// readTranslated is readGroups for what translate has written, kbk's own left out.
func readTranslated(ctx context.Context, in io.Reader, maxFrame int64) ([]*format.Group, *format.End, error) {
	all, end, err := readGroups(ctx, in, maxFrame)
	if err != nil {
		return nil, nil, command.WithNothingDone(err)
	}
	all = slices.DeleteFunc(all, func(g *format.Group) bool { return !groups.DropOwn(g) })
	for _, g := range all {
		if g.By == "" {
			return nil, nil, command.WithHint(command.Usagef("the offsets of group %s are those of its own cluster", g.ID), "put kbk-offsets translate before this command")
		}
	}
	return all, end, nil
}

// told is how many things of one kind are named one by one.
const told = 20

// tell warns of what could not be placed, of what is missing before the next record and
// of what is read twice. It returns how many offsets are without a place, or have
// something missing.
func tell(log *slog.Logger, groups []*format.Group) (unplaced, missing int64) {
	warn := func(n int64, f string, args ...any) {
		if n <= told {
			log.Warn(fmt.Sprintf(f, args...))
		}
	}
	var again int64
	for _, g := range groups {
		for _, u := range g.Unplaced {
			unplaced++
			warn(unplaced, "group %s: offset %d of %s/%d has no place: %s", original(g), u.Offset, u.Topic, u.Partition, u.Why)
		}
		for p, o := range each(g) {
			for _, s := range o.From {
				if s.Missing > 0 {
					missing++
					warn(missing, "group %s: of %s/%d, %s from %d on are not in the backup", original(g), s.Topic, s.Partition, command.Count(s.Missing, "offset"), s.Offset)
				}
			}
			if o.Again > 0 {
				again++
				warn(again, "group %s: up to %s of %s from offset %d on will be read again", g.ID, command.Count(o.Again, "record"), p, o.Offset)
			}
		}
	}
	if more := max(0, unplaced-told) + max(0, missing-told) + max(0, again-told); more > 0 {
		log.Warn(fmt.Sprintf("and %s more of these: kbk-offsets plan lists them all", command.Count(more, "warning")))
	}
	return unplaced, missing
}

// count is tell without a word.
func count(groups []*format.Group) (unplaced, missing int64) {
	return tell(slog.New(slog.DiscardHandler), groups)
}

func names(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

// loss warns as tell does, and makes the exit status of it.
func loss(log *slog.Logger, groups []*format.Group) error {
	return lossOf(tell(log, groups))
}

func lossOf(unplaced, missing int64) error {
	switch {
	case unplaced > 0:
		return command.WithStatus(command.Loss, fmt.Errorf("done, but without a place in the target for %s", command.Count(unplaced, "offset")))
	case missing > 0:
		return command.WithStatus(command.Loss, errors.New("done, but the backup lacks records that groups had not read"))
	}
	return nil
}
