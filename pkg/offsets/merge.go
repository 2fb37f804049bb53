package offsets

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/pattern"
)

// merged are consumer groups as the frames of one or more streams have them, by id. A
// frame speaks for some topics; of these it replaces what earlier frames say, and of
// others it does not.
type merged map[string]*format.Group

// add takes the next group frame.
func (m merged) add(g *format.Group) {
	had := m[g.ID]
	if had == nil {
		had = &format.Group{ID: g.ID, Offsets: make(map[string]map[int32]format.GroupOffset), GroupInfo: g.GroupInfo}
		had.Topics, had.Unplaced = make(map[string]string), nil
		m[g.ID] = had
	}
	for topic := range g.Topics {
		delete(had.Offsets, topic)
		had.Unplaced = slices.DeleteFunc(had.Unplaced, func(u format.Unplaced) bool { return u.Topic == topic })
	}
	maps.Copy(had.Topics, g.Topics)
	for topic, offsets := range g.Offsets {
		had.Offsets[topic] = offsets
		if _, known := g.Topics[topic]; !known { // of a stream that names no topics
			had.Topics[topic] = ""
		}
	}
	had.Unplaced = append(had.Unplaced, g.Unplaced...)
}

// asked takes the next groups frame: groups that its run was asked for, and did not
// find, have no offsets in its topics any more.
func (m merged) asked(f *format.Groups) error {
	include, err := pattern.Compile(f.Include)
	if err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	exclude, err := pattern.Compile(f.Exclude)
	if err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	for id, g := range m {
		if !include(id) || exclude(id) || slices.Contains(f.IDs, id) {
			continue
		}
		for topic := range f.Topics {
			delete(g.Offsets, topic)
		}
		if len(g.Offsets) == 0 && len(g.Unplaced) == 0 {
			delete(m, id)
		}
	}
	return nil
}

// sorted returns the groups by id.
func (m merged) sorted() []*format.Group {
	var out []*format.Group
	for _, id := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[id])
	}
	return out
}
