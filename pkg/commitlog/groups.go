package commitlog

import (
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/pattern"
)

// A Group is a consumer group's committed offsets, by topic and partition.
type Group struct {
	ID      string                           `json:"id"`
	Offsets map[string]map[int32]GroupOffset `json:"offsets,omitempty"`
	// Topics are those that it speaks for, with their topic ids, "" where one is not
	// known: a partition of theirs without an offset has no commit. Nil: those that it has
	// offsets in. In an entry it speaks for the topics of the lists that name it, too.
	Topics map[string]string `json:"topics,omitempty"`
	Frame  []byte            `json:"frame,omitempty"`
}

// A GroupOffset is one committed offset.
type GroupOffset struct {
	Offset      int64   `json:"offset"`
	LeaderEpoch *int32  `json:"leader_epoch,omitempty"`
	Metadata    *string `json:"metadata,omitempty"`
}

// A GroupList says which consumer groups a run asked for, and which it found.
type GroupList struct {
	IDs     []string          `json:"ids"`
	Include []string          `json:"include,omitempty"`
	Exclude []string          `json:"exclude,omitempty"`
	Topics  map[string]string `json:"topics,omitempty"` // as in [Group]
	Frame   []byte            `json:"frame,omitempty"`
}

// asksFor returns what tells whether a group was asked for. Patterns that are not
// understood ask for none.
func (l *GroupList) asksFor() func(id string) bool {
	include, err := pattern.Compile(l.Include)
	if err != nil {
		return func(string) bool { return false }
	}
	exclude, err := pattern.Compile(l.Exclude)
	if err != nil {
		return func(string) bool { return false }
	}
	return func(id string) bool { return include(id) && !exclude(id) }
}

// A groupSet is what is known of consumer groups. For each group, topic and topic id it is
// what the newest frame says that speaks for them.
type groupSet struct {
	// groups are as they were written, the newest last. What newer ones speak for is taken
	// out of Topics, which is never nil here; one that is left with nothing is taken out.
	groups []Group
	lists  []GroupList // likewise
}

// topicIDs are the topics that a frame speaks for. Where it does not tell a topic's id, it is the
// one that id knows.
func topicIDs(said map[string]string, offsets map[string]map[int32]GroupOffset, id func(topic string) string) map[string]string {
	topics := make(map[string]string)
	for name, topicID := range said {
		if topicID == "" {
			topicID = id(name)
		}
		topics[name] = topicID
	}
	if said == nil {
		for name := range offsets {
			topics[name] = id(name)
		}
	}
	return topics
}

// fold takes what one entry, or one moment, says. id knows the current topic ids of the
// run.
func (s *groupSet) fold(lists []GroupList, groups []Group, id func(topic string) string) {
	here := make(map[string]bool) // a group without a frame here keeps what it has: its run was killed before it came
	for i := range groups {
		here[groups[i].ID] = true
	}
	for _, l := range lists {
		s.list(l, id)
		listed := make(map[string]bool)
		for _, group := range l.IDs {
			listed[group] = here[group]
		}
		if topics := topicIDs(l.Topics, nil, id); len(topics) > 0 {
			s.forget(func(known string) bool { return listed[known] }, topics)
		}
	}
	for _, g := range groups {
		s.add(g, id)
	}
}

// add puts a group into the set.
func (s *groupSet) add(g Group, id func(topic string) string) {
	g.Topics = topicIDs(g.Topics, g.Offsets, id)
	s.forget(func(known string) bool { return known == g.ID }, g.Topics)
	s.groups = append(s.groups, g)
}

// list takes out of the set what a run asked for and did not find.
func (s *groupSet) list(l GroupList, id func(topic string) string) {
	l.Topics = topicIDs(l.Topics, nil, id)
	asked := l.asksFor()
	s.forget(func(known string) bool { return asked(known) && !slices.Contains(l.IDs, known) }, l.Topics)
	s.lists = slices.DeleteFunc(slices.Clone(s.lists), func(old GroupList) bool {
		return slices.Equal(old.Include, l.Include) && slices.Equal(old.Exclude, l.Exclude) && contains(l.Topics, old.Topics)
	})
	s.lists = append(s.lists, l)
}

// contains tells whether all of the topics in some are in all.
func contains(all, some map[string]string) bool {
	for name, id := range some {
		if known, ok := all[name]; !ok || known != id {
			return false
		}
	}
	return true
}

// forget takes topics out of the groups whose ids match says.
func (s *groupSet) forget(match func(id string) bool, topics map[string]string) {
	kept := s.groups[:0:0]
	for _, g := range s.groups {
		if match(g.ID) {
			left := make(map[string]string)
			for name, id := range g.Topics {
				if gone, ok := topics[name]; !ok || gone != id {
					left[name] = id
				}
			}
			// A group without a topic says that there is one: only its own next frame takes that back.
			if len(left) == 0 && (len(g.Topics) > 0 || len(topics) == 0) {
				continue
			}
			g.Topics = left
		}
		kept = append(kept, g)
	}
	s.groups = kept
}

// forgetTopics takes topics out of all groups.
func (s *groupSet) forgetTopics(forgotten func(topic, id string) bool) {
	for _, g := range s.groups {
		for name, id := range g.Topics {
			if forgotten(name, id) {
				s.forget(func(string) bool { return true }, map[string]string{name: id})
			}
		}
	}
}

// count is how many groups there are.
func (s *groupSet) count() int {
	ids := make(map[string]bool)
	for _, g := range s.groups {
		ids[g.ID] = true
	}
	return len(ids)
}

// merged returns every group once, by id. Where a group has offsets in two incarnations of a
// topic they are those in the one that id names; where a run that asked for the group has
// looked at that one, offsets in others are left out.
func (s *groupSet) merged(id func(topic string) string) []Group {
	asks := make([]func(string) bool, len(s.lists))
	for i := range s.lists {
		asks[i] = s.lists[i].asksFor()
	}
	byID := make(map[string][]Group)
	var ids []string
	for _, g := range s.groups {
		if byID[g.ID] == nil {
			ids = append(ids, g.ID)
		}
		byID[g.ID] = append(byID[g.ID], g)
	}
	slices.Sort(ids)
	out := make([]Group, 0, len(ids))
	for _, group := range ids {
		old := func(name, topicID string) bool {
			now := id(name)
			if now == "" || now == topicID {
				return false
			}
			for i := range s.lists {
				if s.lists[i].Topics[name] == now && asks[i](group) {
					return true
				}
			}
			return false
		}
		out = append(out, merge(byID[group], id, old))
	}
	return out
}

// merge makes one group of what several frames say of it, the newest last, but for old
// topics. A single one is given back as it came, unless something newer has taken topics
// out of it.
func merge(frames []Group, id func(topic string) string, old func(name, topicID string) bool) Group {
	g := frames[len(frames)-1]
	if len(frames) == 1 && speaksForAll(g, old) {
		return g
	}
	merged := Group{ID: g.ID, Offsets: make(map[string]map[int32]GroupOffset), Topics: make(map[string]string)}
	stream := &format.Group{ID: g.ID, Offsets: make(map[string]map[int32]format.GroupOffset)}
	for _, g := range frames {
		frame, err := format.DecodeGroup(g.Frame)
		for name, topicID := range g.Topics {
			if had, ok := merged.Topics[name]; old(name, topicID) || ok && had == id(name) && topicID != had {
				continue
			}
			merged.Topics[name] = topicID
			delete(merged.Offsets, name)
			delete(stream.Offsets, name)
			if parts, ok := g.Offsets[name]; ok {
				merged.Offsets[name] = parts
			}
			if err != nil {
				continue
			}
			if parts, ok := frame.Offsets[name]; ok {
				stream.Offsets[name] = parts
			}
		}
	}
	stream.Topics = merged.Topics
	if frame, err := stream.AppendFrame(nil); err == nil {
		merged.Frame = frame
	}
	return merged
}

// speaksForAll tells whether a group still has all the topics that its frame has, and
// none of them is old.
func speaksForAll(g Group, old func(name, topicID string) bool) bool {
	for name, id := range g.Topics {
		if old(name, id) {
			return false
		}
	}
	for name := range g.Offsets {
		if _, ok := g.Topics[name]; !ok {
			return false
		}
	}
	frame, err := format.DecodeGroup(g.Frame)
	return err != nil || len(frame.Topics) == 0 || len(frame.Topics) == len(g.Topics)
}

// GroupOf is what the log says of a group frame.
func GroupOf(frame []byte) (Group, error) {
	f, err := format.DecodeGroup(frame)
	if err != nil {
		return Group{}, err
	}
	g := Group{ID: f.ID, Offsets: make(map[string]map[int32]GroupOffset), Topics: f.Topics, Frame: frame}
	for topic, parts := range f.Offsets {
		g.Offsets[topic] = make(map[int32]GroupOffset)
		for n, o := range parts {
			g.Offsets[topic][n] = GroupOffset{Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata}
		}
	}
	return g, nil
}

// GroupListOf is what the log says of a groups frame.
func GroupListOf(frame []byte) (GroupList, error) {
	f, err := format.DecodeGroups(frame)
	if err != nil {
		return GroupList{}, err
	}
	return GroupList{IDs: f.IDs, Include: f.Include, Exclude: f.Exclude, Topics: f.Topics, Frame: frame}, nil
}
