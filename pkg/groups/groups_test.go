package groups

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
)

// TestRead has groups of every kind, kbk's own among them.
func TestRead(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "a", "b", "c"))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	commit := func(group, topic string, partition int32, metadata string) {
		t.Helper()
		var o kadm.Offsets
		o.Add(kadm.Offset{Topic: topic, Partition: partition, At: 7, LeaderEpoch: -1, Metadata: metadata})
		if err := adm.CommitAllOffsets(t.Context(), group, o); err != nil {
			t.Fatal(err)
		}
	}
	commit("app-1", "a", 0, "")
	commit("app-1", "b", 1, "its own")
	commit("app-1", "c", 1, "") // not asked for
	commit("app-2", "c", 0, "")
	commit("other", "a", 0, "")
	commit(Produce, "a", 0, `{"retention.ms": "1"}`)
	commit("nightly", "a", 0, fetchMetadata)
	commit("mixed", "a", 0, fetchMetadata)
	commit("mixed", "a", 1, "")
	fake.ControlKey(int16(kmsg.ListGroups), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
		for _, id := range []string{"app-1", "app-2", "other", Produce, "nightly", "mixed", "sharing"} {
			g := kmsg.NewListGroupsResponseGroup()
			if g.Group, g.ProtocolType = id, "consumer"; id == "sharing" {
				g.ProtocolType = "share"
			}
			resp.Groups = append(resp.Groups, g)
		}
		return resp, nil, true
	})
	topics := map[string]string{"a": "id-a", "b": ""}
	for name, c := range map[string]struct {
		Request
		ids     []string
		include []string
		leftOut []string
	}{
		"all":      {Request{Topics: topics}, []string{"app-1", "mixed", "other"}, []string{"^"}, []string{"left out: sharing"}},
		"some":     {Request{Include: []string{"^app", "other"}, Exclude: []string{"^o"}, Topics: topics}, []string{"app-1"}, []string{"^app", "other"}, nil},
		"nothing":  {Request{Include: []string{"other", "missing", "^no"}, Topics: topics}, []string{"other"}, []string{"other", "missing", "^no"}, []string{`"missing"`, `"^no"`}},
		"kbk's":    {Request{Include: []string{Produce, "nightly"}, Topics: topics}, []string{}, []string{Produce, "nightly"}, []string{"its own notes are left out: kbk-produce, nightly"}},
		"no topic": {Request{}, []string{}, []string{"^"}, []string{"sharing"}},
	} {
		s, err := Read(t.Context(), adm, c.Request)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !slices.Equal(s.Asked.IDs, c.ids) || !slices.Equal(s.Asked.Include, c.include) || !slices.Equal(s.Asked.Exclude, c.Exclude) || !maps.Equal(s.Asked.Topics, c.Topics) {
			t.Errorf("%s: asked %+v", name, s.Asked)
		}
		if len(s.LeftOut) != len(c.leftOut) {
			t.Errorf("%s: left out %q", name, s.LeftOut)
		}
		for i, what := range c.leftOut {
			if i < len(s.LeftOut) && !strings.Contains(s.LeftOut[i], what) {
				t.Errorf("%s: left out %q", name, s.LeftOut)
			}
		}
		for i, g := range s.Groups {
			has := make(map[string]string) // of the others, the list speaks
			for topic := range g.Offsets {
				has[topic] = topics[topic]
			}
			if g.ID != c.ids[i] || len(has) == 0 || !maps.Equal(g.Topics, has) {
				t.Errorf("%s: group %+v", name, g)
			}
		}
		if name == "all" {
			its := "its own"
			want := map[string]map[int32]format.GroupOffset{"a": {0: {Offset: 7}}, "b": {1: {Offset: 7, Metadata: &its}}}
			if !reflect.DeepEqual(s.Groups[0].Offsets, want) {
				t.Errorf("app-1 has %+v", s.Groups[0].Offsets)
			}
			if got := s.Groups[1].Offsets["a"]; len(got) != 1 || got[1].Offset != 7 {
				t.Errorf("mixed has %+v", got)
			}
		}
		var out bytes.Buffer
		w := format.NewWriter(&out)
		if err := w.WriteHeader(&format.Header{Content: format.ContentRecords}); err != nil {
			t.Fatal(err)
		}
		for _, f := range s.Frames() {
			if err := w.Write(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(new(format.End)); err != nil {
			t.Fatal(err)
		}
		r := format.NewReader(&out, 0)
		f, err := r.Next()
		if err != nil || f.Kind != format.KindGroups {
			t.Errorf("%s: the first frame is %q, %v", name, f.Name, err)
		}
	}
}

// TestDropOwn takes what is kbk's own out of groups of earlier backups.
func TestDropOwn(t *testing.T) {
	note, theirs := fetchMetadata, "a note"
	group := func(id string, metadata ...*string) *format.Group {
		g := &format.Group{ID: id, Offsets: map[string]map[int32]format.GroupOffset{"t": {}}}
		for i, m := range metadata {
			g.Offsets["t"][int32(i)] = format.GroupOffset{Offset: 1, Metadata: m}
		}
		return g
	}
	for _, c := range []struct {
		g    *format.Group
		stay bool
		left int
	}{
		{group(Produce, nil), false, 1}, {group("a", nil, &theirs), true, 2}, {group("a", &note, nil), true, 1}, {group("a", &note, &note), false, 0},
		{&format.Group{ID: "only without a place"}, true, 0},
	} {
		if got := DropOwn(c.g); got != c.stay || len(c.g.Offsets["t"]) != c.left {
			t.Errorf("%v, %+v", got, c.g)
		}
	}
}
