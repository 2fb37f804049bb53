package commitlog

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
)

// committed is a group as a run has read it: its offsets by topic, all in partition 0, with the topics that its frame names.
func committed(t *testing.T, id string, topics map[string]string, offsets map[string]int64) Group {
	t.Helper()
	f := &format.Group{ID: id, Offsets: make(map[string]map[int32]format.GroupOffset), GroupInfo: format.GroupInfo{Topics: topics}}
	for topic, o := range offsets {
		f.Offsets[topic] = map[int32]format.GroupOffset{0: {Offset: o}}
	}
	frame, err := f.AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := GroupOf(frame)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func askedFor(t *testing.T, topics map[string]string, include string, ids ...string) GroupList {
	t.Helper()
	frame, err := (&format.Groups{IDs: ids, GroupsInfo: format.GroupsInfo{Include: []string{include}, Topics: topics}}).AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := GroupListOf(frame)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// saying is what groups say, in their fields and in their frames.
func saying(t *testing.T, all []Group) string {
	t.Helper()
	var out []string
	for _, g := range all {
		f, err := format.DecodeGroup(g.Frame)
		if err != nil {
			t.Fatal(err)
		}
		for _, topic := range slices.Sorted(maps.Keys(g.Offsets)) {
			out = append(out, fmt.Sprintf("%s %s%s %d", g.ID, topic, g.Topics[topic], g.Offsets[topic][0].Offset))
			if f.Offsets[topic][0].Offset != g.Offsets[topic][0].Offset || f.Topics[topic] != g.Topics[topic] {
				t.Errorf("group %s: its frame says %+v", g.ID, f)
			}
		}
		if len(f.Offsets) != len(g.Offsets) {
			t.Errorf("group %s: its frame says %+v, and not %+v", g.ID, f.Offsets, g.Offsets)
		}
	}
	return strings.Join(out, ", ")
}

// TestGroups folds what runs say of groups. Of the topics that a run's list names, a group
// that it lists has what its frame has, and no more; frames of earlier versions name all
// topics themselves.
func TestGroups(t *testing.T) {
	type ids = map[string]string
	type at = map[string]int64
	all := ids{"a": "1", "b": "2"}
	first := Entry{GroupLists: []GroupList{askedFor(t, all, "^", "g", "h")}, Groups: []Group{
		committed(t, "g", all, at{"a": 5, "b": 6}), committed(t, "h", ids{"a": "1"}, at{"a": 7}),
	}}
	for name, c := range map[string]struct {
		next Entry
		now  ids // "" is the newest
		want string
	}{
		"its list names the topic": {
			Entry{GroupLists: []GroupList{askedFor(t, all, "^", "g")}, Groups: []Group{committed(t, "g", ids{"b": "2"}, at{"b": 8})}}, nil, "g b2 8",
		},
		"its frame does, as those of earlier versions": {
			Entry{GroupLists: []GroupList{askedFor(t, all, "^g", "g")}, Groups: []Group{committed(t, "g", all, at{"b": 8})}}, nil, "g b2 8, h a1 7",
		},
		"neither does": {
			Entry{GroupLists: []GroupList{askedFor(t, ids{"b": "2"}, "^", "g", "h")}, Groups: []Group{committed(t, "g", ids{"b": "2"}, at{"b": 8})}}, nil, "g a1 5, g b2 8, h a1 7",
		},
		"a list of others": {
			Entry{GroupLists: []GroupList{askedFor(t, all, "^h", "h")}, Groups: []Group{committed(t, "g", ids{"b": "2"}, at{"b": 8})}}, nil, "g a1 5, g b2 8, h a1 7",
		},
		"two lists": {
			Entry{GroupLists: []GroupList{askedFor(t, ids{"a": "1"}, "^", "g", "h"), askedFor(t, ids{"b": "2"}, "^", "g")}, Groups: []Group{committed(t, "g", ids{"c": "3"}, at{"c": 1})}}, nil, "g c3 1, h a1 7",
		},
		"the run was killed before the frame": {
			Entry{GroupLists: []GroupList{askedFor(t, all, "^", "g")}}, nil, "g a1 5, g b2 6",
		},
		"the topic is another now": {
			Entry{Topics: []Topic{{Name: "a", ID: "9"}}, GroupLists: []GroupList{askedFor(t, ids{"a": "9", "b": "2"}, "^", "g", "h")}, Groups: []Group{committed(t, "g", ids{"b": "2"}, at{"b": 8})}},
			ids{"a": "9", "b": "2"}, "g b2 8",
		},
		"and nobody has looked": {
			Entry{Topics: []Topic{{Name: "a", ID: "9"}}, GroupLists: []GroupList{askedFor(t, ids{"a": "9", "b": "2"}, "^x")}},
			ids{"a": "9", "b": "2"}, "g a1 5, g b2 6, h a1 7",
		},
		"the one before is wanted": {
			Entry{Topics: []Topic{{Name: "a", ID: "9"}}, GroupLists: []GroupList{askedFor(t, ids{"a": "9", "b": "2"}, "^", "g", "h")}, Groups: []Group{committed(t, "g", ids{"b": "2"}, at{"b": 8})}},
			all, "g a1 5, g b2 8, h a1 7",
		},
	} {
		id := func(topic string) string {
			if c.now == nil {
				return all[topic]
			}
			return c.now[topic]
		}
		var set groupSet
		for _, e := range []Entry{first, c.next} {
			set.fold(e.GroupLists, e.Groups, id)
		}
		if got := saying(t, slices.DeleteFunc(set.merged(id), func(g Group) bool { return len(g.Offsets) == 0 })); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		// As moments of two runs.
		var moments []*Moment
		for _, e := range []Entry{first, c.next} {
			m := new(Moment)
			m.Add(&e)
			moments = append(moments, m)
		}
		merged, _, _ := MergeMoments(moments, id)
		if got := saying(t, slices.DeleteFunc(merged, func(g Group) bool { return len(g.Offsets) == 0 })); got != c.want {
			t.Errorf("%s: moments: %s, want %s", name, got, c.want)
		}
	}
}

// TestGroupsStaySmall has many groups and topics: what is kept of a group is of the topics
// that it has offsets in.
func TestGroupsStaySmall(t *testing.T) {
	topics := make(map[string]string)
	for i := range 300 {
		topics[fmt.Sprintf("topic-%03d", i)] = "0123456789abcdef012345"
	}
	var ids []string
	e := Entry{}
	for i := range 300 {
		id := fmt.Sprintf("group-%03d", i)
		ids = append(ids, id)
		e.Groups = append(e.Groups, committed(t, id, map[string]string{"topic-007": topics["topic-007"]}, map[string]int64{"topic-007": 5}))
	}
	e.GroupLists = []GroupList{askedFor(t, topics, "^", ids...)}
	m := new(Moment)
	m.Add(&e)
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) > 300*500 {
		t.Errorf("a moment of %d bytes", len(out))
	}
}
