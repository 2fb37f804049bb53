package groups

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/kafka"
)

// TestCoordinatorGone has a client learn that a group is with a broker that is dead: it must
// not go on asking that one.
func TestCoordinatorGone(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kafka.NewClient(t.Context(), kafka.Config{Brokers: c.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	adm := kadm.NewClient(cl)
	if _, err := adm.Metadata(t.Context()); err != nil { // of all three
		t.Fatal(err)
	}
	set := make(kadm.Offsets)
	set.Add(kadm.Offset{Topic: "t", Partition: 0, At: 7, LeaderEpoch: -1})
	other, err := kafka.NewClient(t.Context(), kafka.Config{Brokers: c.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := kadm.NewClient(other).CommitAllOffsets(t.Context(), "g", set); err != nil {
		t.Fatal(err)
	}
	victim := c.CoordinatorFor("g")
	if err := c.RemoveNode(victim); err != nil {
		t.Fatal(err)
	}
	// Others name it for a moment, as brokers do until it is known to be dead.
	c.ControlKey(int16(kmsg.FindCoordinator), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
		resp.Coordinators = []kmsg.FindCoordinatorResponseCoordinator{{Key: "g", NodeID: victim, Host: "127.0.0.1", Port: 1}}
		return resp, nil, true
	})
	began := time.Now()
	got, err := Fetch(t.Context(), adm, []string{"g"})
	if err != nil || got["g"].Err != nil {
		t.Errorf("%v, %v", err, got["g"].Err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}
