package offsets

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
)

func offsetsOf(m *merged) map[string]map[string]map[int32]int64 {
	out := make(map[string]map[string]map[int32]int64)
	for id, g := range m.byID {
		out[id] = make(map[string]map[int32]int64)
		for p, o := range each(g) {
			if out[id][p.topic] == nil {
				out[id][p.topic] = make(map[int32]int64)
			}
			out[id][p.topic][p.num] = o.Offset
		}
	}
	return out
}

func TestMerge(t *testing.T) {
	group := func(topics map[string]string, offsets map[string]map[int32]int64) *format.Group {
		g := &format.Group{ID: "g", Offsets: make(map[string]map[int32]format.GroupOffset), GroupInfo: format.GroupInfo{Topics: topics}}
		for topic, parts := range offsets {
			g.Offsets[topic] = make(map[int32]format.GroupOffset)
			for num, o := range parts {
				g.Offsets[topic][num] = format.GroupOffset{Offset: o}
			}
		}
		return g
	}
	list := func(ids []string, topics map[string]string) *format.Groups {
		return &format.Groups{IDs: ids, GroupsInfo: format.GroupsInfo{Include: []string{"^"}, Exclude: []string{"^."}, Topics: topics}}
	}
	type offsets = map[string]map[int32]int64
	for _, c := range []struct {
		name   string
		frames []format.Encoder
		want   map[string]map[string]map[int32]int64
	}{
		{"two runs of different topics", []format.Encoder{
			group(map[string]string{"a": "1"}, offsets{"a": {0: 5}}), group(map[string]string{"b": "2"}, offsets{"b": {0: 7}}),
		}, map[string]map[string]map[int32]int64{"g": {"a": {0: 5}, "b": {0: 7}}}},
		{"the newest counts", []format.Encoder{
			group(map[string]string{"a": "1"}, offsets{"a": {0: 5, 1: 6}}), group(map[string]string{"a": "1"}, offsets{"a": {0: 8}}),
		}, map[string]map[string]map[int32]int64{"g": {"a": {0: 8}}}},
		{"a commit that is gone does not come back", []format.Encoder{
			group(map[string]string{"a": "1", "b": "2"}, offsets{"a": {0: 5}, "b": {0: 7}}), group(map[string]string{"a": "1"}, nil),
		}, map[string]map[string]map[int32]int64{"g": {"b": {0: 7}}}},
		{"frames that name no topics speak for those they have", []format.Encoder{
			group(nil, offsets{"a": {0: 5}}), group(nil, offsets{"b": {0: 7}}), group(nil, offsets{"b": {1: 8}}),
		}, map[string]map[string]map[int32]int64{"g": {"a": {0: 5}, "b": {1: 8}}}},
		{"a group that is gone does not come back", []format.Encoder{
			group(map[string]string{"a": "1"}, offsets{"a": {0: 5}}), &format.Groups{IDs: []string{"h"}, GroupsInfo: format.GroupsInfo{Include: []string{"^"}, Topics: map[string]string{"a": "1"}}},
		}, map[string]map[string]map[int32]int64{}},
		{"it keeps what the run did not ask for", []format.Encoder{
			group(map[string]string{"a": "1", "b": "2"}, offsets{"a": {0: 5}, "b": {0: 7}}),
			&format.Groups{GroupsInfo: format.GroupsInfo{Include: []string{"^"}, Topics: map[string]string{"a": "1"}}},
			&format.Groups{GroupsInfo: format.GroupsInfo{Include: []string{"^x"}, Topics: map[string]string{"b": "2"}}},
			&format.Groups{GroupsInfo: format.GroupsInfo{Include: []string{"^"}, Exclude: []string{"g"}, Topics: map[string]string{"b": "2"}}},
			&format.Groups{IDs: []string{"g"}, GroupsInfo: format.GroupsInfo{Include: []string{"^"}, Topics: map[string]string{"b": "2"}}},
		}, map[string]map[string]map[int32]int64{"g": {"b": {0: 7}}}},
		{"a commit is gone of which the run's list speaks alone", []format.Encoder{
			group(map[string]string{"a": "1", "b": "2", "c": "3"}, offsets{"a": {0: 5}, "b": {0: 7}, "c": {0: 9}}),
			list([]string{"x", "g"}, map[string]string{"a": "1"}), list([]string{"g"}, map[string]string{"b": "2"}), list([]string{"x"}, map[string]string{"c": "3"}),
			group(map[string]string{"a": "1"}, offsets{"a": {1: 6}}),
		}, map[string]map[string]map[int32]int64{"g": {"a": {1: 6}, "c": {0: 9}}}},
		{"a list without the group's frame behind it takes nothing", []format.Encoder{
			group(map[string]string{"a": "1"}, offsets{"a": {0: 5}}), list([]string{"g"}, map[string]string{"a": "1"}),
		}, map[string]map[string]map[int32]int64{"g": {"a": {0: 5}}}},
		{"a list is of the frames up to the next", []format.Encoder{
			group(map[string]string{"a": "1", "b": "2"}, offsets{"a": {0: 5}, "b": {0: 7}}),
			list([]string{"g"}, map[string]string{"b": "2"}), &format.Group{ID: "x", Offsets: map[string]map[int32]format.GroupOffset{}},
			list([]string{"g"}, map[string]string{"a": "1"}), group(nil, nil),
		}, map[string]map[string]map[int32]int64{"g": {"b": {0: 7}}, "x": {}}},
		{"a list is of its own stream", []format.Encoder{
			group(map[string]string{"a": "1"}, offsets{"a": {0: 5}}), list([]string{"g"}, map[string]string{"a": "1"}),
			nil, group(map[string]string{"b": "2"}, offsets{"b": {0: 7}}),
		}, map[string]map[string]map[int32]int64{"g": {"a": {0: 5}, "b": {0: 7}}}},
	} {
		m := newMerged()
		for _, f := range c.frames {
			switch f := f.(type) {
			case nil:
				m.begin()
			case *format.Group:
				m.add(f)
			case *format.Groups:
				if err := m.asked(f); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := offsetsOf(m); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if err := newMerged().asked(&format.Groups{GroupsInfo: format.GroupsInfo{Include: []string{"^("}}}); err == nil {
		t.Error("an expression that is none was taken")
	}
}

// TestOwnGroup has kbk-produce's group in a backup of an earlier version: it is not
// translated.
func TestOwnGroup(t *testing.T) {
	own := &format.Group{ID: groups.Produce, Offsets: at("t", 0)}
	all := []format.Encoder{&format.Mark{Topic: "t"}, &format.Mark{Topic: "t", Next: 5}, own}
	var out bytes.Buffer
	fails(t, Translate(t.Context(), newTranslateConfig(t, byIdentity), quiet(), frames(t, all...), &out), command.Failed, "no consumer group to translate")
	out.Reset()
	ok(t, Translate(t.Context(), newTranslateConfig(t, byIdentity), quiet(), frames(t, append(all, &format.Group{ID: "g", Offsets: at("t", 1)})...), &out))
	if got, _ := read(t, &out); len(got) != 1 || got[0].ID != "g" {
		t.Errorf("%+v", got)
	}
}
