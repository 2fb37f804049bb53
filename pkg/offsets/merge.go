package offsets

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/pattern"
)

// merged are consumer groups as the frames of one or more streams have them. A frame
// speaks for some topics; of these it replaces what earlier frames say, and of others it
// does not.
type merged struct {
	byID map[string]*format.Group

	lists  []list // those that the group frames that come belong to
	listed bool   // the first of these has come
}

// A list is a groups frame.
type list struct {
	ids    map[string]bool
	topics map[string]string
}

func newMerged() *merged { return &merged{byID: make(map[string]*format.Group)} }

// begin says that another stream begins.
func (m *merged) begin() { m.lists, m.listed = nil, false }

// add takes the next group frame.
func (m *merged) add(g *format.Group) {
	m.listed = true
	had := m.byID[g.ID]
	if had == nil {
		had = &format.Group{ID: g.ID, Offsets: make(map[string]map[int32]format.GroupOffset), GroupInfo: g.GroupInfo}
		had.Topics, had.Unplaced = make(map[string]string), nil
		m.byID[g.ID] = had
	}
	for _, l := range m.lists {
		if l.ids[g.ID] {
			clearTopics(had, l.topics)
		}
	}
	clearTopics(had, g.Topics)
	maps.Copy(had.Topics, g.Topics)
	for topic, offsets := range g.Offsets {
		had.Offsets[topic] = offsets
		if _, known := g.Topics[topic]; !known { // of a stream that names no topics
			had.Topics[topic] = ""
		}
	}
	had.Unplaced = append(had.Unplaced, g.Unplaced...)
}

// clearTopics takes out what was said of topics.
func clearTopics(g *format.Group, topics map[string]string) {
	for topic := range topics {
		delete(g.Offsets, topic)
	}
	g.Unplaced = slices.DeleteFunc(g.Unplaced, func(u format.Unplaced) bool { _, ok := topics[u.Topic]; return ok })
}

// asked takes the next groups frame: groups that its run was asked for, and did not
// find, have no offsets in its topics any more.
func (m *merged) asked(f *format.Groups) error {
	include, err := pattern.Compile(f.Include)
	if err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	exclude, err := pattern.Compile(f.Exclude)
	if err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	if m.listed {
		m.begin()
	}
	l := list{make(map[string]bool), f.Topics}
	for _, id := range f.IDs {
		l.ids[id] = true
	}
	m.lists = append(m.lists, l)
	for id, g := range m.byID {
		if !include(id) || exclude(id) || l.ids[id] {
			continue
		}
		for topic := range f.Topics {
			delete(g.Offsets, topic)
		}
		if len(g.Offsets) == 0 && len(g.Unplaced) == 0 {
			delete(m.byID, id)
		}
	}
	return nil
}

// sorted returns the groups by id.
func (m *merged) sorted() []*format.Group {
	var out []*format.Group
	for _, id := range slices.Sorted(maps.Keys(m.byID)) {
		out = append(out, m.byID[id])
	}
	return out
}
