package cluster

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/admin"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka/kafkatest"
)

// TestTransientErrors has each kind of request that the commands send refused once, by errors
// that are over in a moment. What comes of it is the same then.
func TestTransientErrors(t *testing.T) {
	t.Parallel()
	frames := []format.Encoder{
		&format.Cluster{ID: "1", Time: 1, ClusterInfo: format.ClusterInfo{Kinds: admin.Kinds}},
		acl("User:a", "TOPIC", "READ", "ALLOW"),
		&format.Quota{Entity: []format.QuotaEntity{{Type: "user", Name: ptr("u")}}, Values: map[string]float64{"consumer_byte_rate": 1024}},
		&format.Config{ResourceType: "topic", Name: "t", Values: map[string]*string{"retention.ms": ptr("1000")}},
		&format.Config{ResourceType: "broker", Name: "0", Values: map[string]*string{"log.cleaner.threads": ptr("2")}},
	}
	snapshot := func(t *testing.T, where Where) string {
		var out, said bytes.Buffer
		if err := Snapshot(t.Context(), SnapshotConfig{Where: where, Kinds: admin.Kinds}, &command.Env{Log: logger(&said)}, &out); err != nil {
			t.Fatalf("%v\n%s", err, &said)
		}
		in, err := readSnapshot(t.Context(), &out, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%v %q %x", slices.Sorted(slices.Values(in.Kinds)), in.LeftOut, stream(t, format.ContentRecords, in.frames...).Bytes())
	}
	apply := func(t *testing.T, where Where, save string) {
		var out, said bytes.Buffer
		cfg := ApplyConfig{PlanConfig: PlanConfig{Where: where, Kinds: admin.Kinds, MaxFrame: 1 << 20}, Save: save, Password: new(Passwords)}
		env := &command.Env{Log: logger(&said), Stop: make(chan struct{})}
		if err := Apply(t.Context(), cfg, env, stream(t, format.ContentRecords, frames...), &out); err != nil {
			t.Fatalf("%v\n%s", err, &said)
		}
	}
	for name, c := range map[string]struct {
		applied bool // before
		do      func(t *testing.T, where Where, save string)
	}{
		"snapshot": {true, nil},
		"apply":    {false, apply},
		"rollback": {true, func(t *testing.T, where Where, save string) {
			var out, said bytes.Buffer
			env := &command.Env{Log: logger(&said), Stop: make(chan struct{})}
			if err := Rollback(t.Context(), RollbackConfig{Where: where, File: save, MaxFrame: 1 << 20, Password: new(Passwords)}, env, &out); err != nil {
				t.Fatalf("%v\n%s", err, &said)
			}
		}},
	} {
		// run returns what the cluster has in the end.
		run := func(t *testing.T, begin func(*kfake.Cluster) (end func())) string {
			cluster, where := fake(t)
			save := filepath.Join(t.TempDir(), "saved")
			if c.applied {
				apply(t, where, save)
			}
			end := begin(cluster)
			if c.do == nil {
				defer end()
			} else {
				c.do(t, where, save)
				end()
			}
			return snapshot(t, where)
		}
		t.Run(name, func(t *testing.T) {
			var sent map[kmsg.Key]int
			want := run(t, func(cluster *kfake.Cluster) func() {
				all := kafkatest.Count(cluster)
				return func() { sent = maps.Clone(all) }
			})
			for _, key := range []kmsg.Key{
				kmsg.ApiVersions, kmsg.GetTelemetrySubscriptions, kmsg.PushTelemetry, // no broker refuses these for a moment only
				kmsg.Metadata, // which leaves out what a broker does not know
			} {
				delete(sent, key)
			}
			kafkatest.RefuseEach(t, sent, func(kmsg.Key, bool) bool { return false }, func(t *testing.T, fault kfake.Fault) {
				got := run(t, func(cluster *kfake.Cluster) func() { return cluster.Fault(fault).Remove })
				if got != want {
					t.Errorf("the cluster has\n%s\nand not\n%s", got, want)
				}
			})
		})
	}
}

// TestTopicUnknown has a broker not know a topic that another one has listed: for a moment, or
// for longer than a broker may need to learn of it.
func TestTopicUnknown(t *testing.T) {
	t.Parallel()
	topics := func(req kmsg.Request) bool {
		return req.(*kmsg.DescribeConfigsRequest).Resources[0].ResourceType == kmsg.ConfigResourceTypeTopic
	}
	for count, status := range map[int]int{2: 0, -1: command.Loss} {
		cluster, where := fake(t)
		cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.UnknownTopicOrPartition, Count: count, When: topics})
		var out, said bytes.Buffer
		err := Snapshot(t.Context(), SnapshotConfig{Where: where, Kinds: admin.Kinds}, &command.Env{Log: logger(&said)}, &out)
		if command.StatusOf(err) != status {
			t.Errorf("%v\n%s", err, &said)
		}
		in, err := readSnapshot(t.Context(), &out, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if has := slices.ContainsFunc(in.frames, func(f format.Encoder) bool {
			c, ok := f.(*format.Config)
			return ok && c.Name == "t"
		}); has != (status == 0) {
			t.Errorf("unknown %d times: has the topic: %t\n%s", count, has, &said)
		}
		if lost := strings.Join(in.end.Losses, "\n"); (status != 0) != strings.Contains(lost, "configs cannot be read: those of topics: topic t: UNKNOWN_TOPIC_OR_PARTITION") {
			t.Errorf("unknown %d times: the end says %q", count, lost)
		}
	}
}
