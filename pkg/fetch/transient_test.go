package fetch

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/kafka/kafkatest"
)

// TestTransientErrors has each kind of request that a fetch sends refused once, by errors that
// are over in a moment. What is fetched is the same then, and nothing is said.
func TestTransientErrors(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) *world {
		w := newWorld(t, 1, "t", 2)
		w.produce("t", 0, 7)
		w.produce("t", 1, 2)
		w.create("u", 1)
		offsets := make(kadm.Offsets)
		offsets.AddOffset("t", 0, 3, 0)
		if err := w.adm.CommitAllOffsets(t.Context(), "g", offsets); err != nil {
			t.Fatal(err)
		}
		return w
	}
	change := func(cfg *Config) { cfg.Topics, cfg.Groups = []string{"t", "u"}, []string{"g"} }
	w := begin(t)
	sent := kafkatest.Count(w.fake)
	want := w.fetch(change, nil)
	w.want(want, "t/0", upTo(7), 0, 7)
	delete(sent, kmsg.ApiVersions) // no broker refuses it for a moment only
	delete(sent, kmsg.Metadata)    // nor what this asks for: it leaves out what it does not know

	leaveOut := func(key kmsg.Key, whole bool) bool { return whole && key == kmsg.OffsetFetch } // which has no such error since version 8
	kafkatest.RefuseEach(t, sent, leaveOut, func(t *testing.T, fault kfake.Fault) {
		w := begin(t)
		w.fake.Fault(fault)
		got := w.fetch(change, nil)
		if got.err != nil || got.end == nil || !reflect.DeepEqual(got.end.Losses, want.end.Losses) || warns(got.log) {
			t.Fatalf("%v, at the end %+v\n%s", got.err, got.end, got.log)
		}
		for name, topic := range want.topics {
			has := got.topics[name]
			if has == nil {
				t.Fatalf("topic %s is not there", name)
			}
			if !reflect.DeepEqual(topic.Configs, has.Configs) || topic.Partitions != has.Partitions {
				t.Errorf("topic %s is %+v, not %+v", name, has, topic)
			}
		}
		if !reflect.DeepEqual(got.offsets, want.offsets) || !reflect.DeepEqual(got.marks, want.marks) || !slices.Equal(slices.Sorted(slices.Values(got.kinds)), slices.Sorted(slices.Values(want.kinds))) {
			t.Errorf("it has %v, marks %v, frames %v\n%s", got.offsets, got.marks, got.kinds, got.log)
		}
	})
}

// TestMemberCursorWaits has a worker begin where its group has come to, while brokers still name
// a coordinator that is dead.
func TestMemberCursorWaits(t *testing.T) {
	w := newWorld(t, 3, "t", 1)
	offsets := make(kadm.Offsets)
	offsets.AddOffset("t", 0, 3, 0)
	if err := w.adm.CommitAllOffsets(t.Context(), "g", offsets); err != nil {
		t.Fatal(err)
	}
	w.connect() // to all three, with no coordinator known
	if _, err := w.adm.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	victim := w.fake.CoordinatorFor("g")
	if err := w.fake.RemoveNode(victim); err != nil {
		t.Fatal(err)
	}
	w.fake.ControlKey(int16(kmsg.FindCoordinator), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
		resp.Coordinators = []kmsg.FindCoordinatorResponseCoordinator{{Key: "g", NodeID: victim, Host: "127.0.0.1", Port: 1}}
		return resp, nil, true
	})
	got, err := (&member{adm: w.adm, group: "g"}).cursor(t.Context(), nil, []string{"t"})
	if err != nil || got.Topics["t"].Partitions[0] != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}

// warns tells whether a log has a warning other than that something is waited for.
func warns(log string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "level=WARN") && !strings.Contains(line, "waiting up to") {
			return true
		}
	}
	return false
}
