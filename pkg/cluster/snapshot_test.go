package cluster

import (
	"bytes"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/admin"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

func fake(t *testing.T, opts ...kfake.Opt) (*kfake.Cluster, Where) {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, Where{Kafka: kafka.Config{Brokers: c.ListenAddrs()}}
}

// refuse answers a request with an error from now on.
func refuse(c *kfake.Cluster, key kmsg.Key, err *kerr.Error) {
	c.ControlKey(key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := req.ResponseKind()
		switch resp := resp.(type) {
		case *kmsg.DescribeACLsResponse:
			resp.ErrorCode = err.Code
		case *kmsg.DescribeClientQuotasResponse:
			resp.ErrorCode = err.Code
		case *kmsg.DescribeUserSCRAMCredentialsResponse:
			resp.ErrorCode = err.Code
		case *kmsg.DescribeConfigsResponse:
			for _, r := range req.(*kmsg.DescribeConfigsRequest).Resources {
				resp.Resources = append(resp.Resources, kmsg.DescribeConfigsResponseResource{ErrorCode: err.Code, ResourceType: r.ResourceType, ResourceName: r.ResourceName})
			}
		}
		return resp, nil, true
	})
}

// TestSnapshotLacks takes snapshots of clusters that do not have something, or do not tell.
func TestSnapshotLacks(t *testing.T) {
	for name, c := range map[string]struct {
		refuse map[kmsg.Key]*kerr.Error
		opts   []kfake.Opt
		cfg    SnapshotConfig
		status int
		kinds  []string
		said   []string
	}{
		"no authorizer": {
			refuse: map[kmsg.Key]*kerr.Error{kmsg.DescribeACLs: kerr.SecurityDisabled},
			kinds:  admin.Kinds[1:], said: []string{"left out: acls: the brokers have no authorizer"},
		},
		"no authorizer, and strict": {
			refuse: map[kmsg.Key]*kerr.Error{kmsg.DescribeACLs: kerr.SecurityDisabled}, cfg: SnapshotConfig{Strict: true},
			status: command.Loss, kinds: admin.Kinds[1:], said: []string{"the brokers have no authorizer"},
		},
		"no authorizer, and ACLs are asked for": {
			refuse: map[kmsg.Key]*kerr.Error{kmsg.DescribeACLs: kerr.SecurityDisabled}, cfg: SnapshotConfig{Named: true},
			status: command.Loss, kinds: admin.Kinds[1:], said: []string{"the brokers have no authorizer"},
		},
		"no right": {
			refuse: map[kmsg.Key]*kerr.Error{kmsg.DescribeClientQuotas: kerr.ClusterAuthorizationFailed, kmsg.DescribeUserSCRAMCredentials: kerr.ClusterAuthorizationFailed},
			status: command.Loss, kinds: []string{format.ClusterACLs, format.ClusterConfigs}, said: []string{"quotas cannot be read: CLUSTER_AUTHORIZATION_FAILED", "users cannot be read: CLUSTER_AUTHORIZATION_FAILED"},
		},
		"no right to configs": {
			refuse: map[kmsg.Key]*kerr.Error{kmsg.DescribeConfigs: kerr.ClusterAuthorizationFailed},
			status: command.Loss, kinds: admin.Kinds[:3], said: []string{"configs cannot be read: those of brokers: all brokers: "},
		},
		"no right to anything": {
			refuse: map[kmsg.Key]*kerr.Error{kmsg.DescribeACLs: kerr.ClusterAuthorizationFailed, kmsg.DescribeClientQuotas: kerr.ClusterAuthorizationFailed,
				kmsg.DescribeUserSCRAMCredentials: kerr.ClusterAuthorizationFailed, kmsg.DescribeConfigs: kerr.ClusterAuthorizationFailed},
			status: command.Failed,
		},
		"old brokers": {
			opts:   []kfake.Opt{kfake.MaxVersions(kversion.V2_5_0())},
			status: command.Loss, kinds: []string{format.ClusterACLs, format.ClusterConfigs}, said: []string{"brokers before Kafka 2.6 (KIP-546)", "brokers before Kafka 2.7 (KIP-554)"},
		},
	} {
		cluster, where := fake(t, c.opts...)
		for key, err := range c.refuse {
			refuse(cluster, key, err)
		}
		var out, said bytes.Buffer
		c.cfg.Where, c.cfg.Kinds = where, admin.Kinds
		err := Snapshot(t.Context(), c.cfg, &command.Env{Log: logger(&said)}, &out)
		if command.StatusOf(err) != c.status {
			t.Errorf("%s: %v\n%s", name, err, &said)
		}
		for _, text := range c.said {
			if !strings.Contains(said.String(), text) {
				t.Errorf("%s: %q is not said:\n%s", name, text, &said)
			}
		}
		if c.kinds == nil {
			continue
		}
		in, err := readSnapshot(t.Context(), &out, 1<<20)
		if err != nil || !slices.Equal(in.Kinds, c.kinds) {
			t.Errorf("%s: %+v, %v", name, in, err)
			continue
		}
		for _, text := range c.said { // it is in the snapshot, and a loss at the end of the stream
			if !strings.Contains(strings.Join(in.LeftOut, "\n"), strings.TrimPrefix(text, "left out: ")) {
				t.Errorf("%s: the snapshot does not say %q: %q", name, text, in.LeftOut)
			}
			if c.status == command.Loss && !strings.Contains(strings.Join(in.end.Losses, "\n"), text) {
				t.Errorf("%s: the end does not say %q: %q", name, text, in.end.Losses)
			}
		}
	}
}

// TestPlanWithoutAuthorizer names each ACL that a target without an authorizer cannot have.
func TestPlanWithoutAuthorizer(t *testing.T) {
	cluster, where := fake(t)
	refuse(cluster, kmsg.DescribeACLs, kerr.SecurityDisabled)
	snap := &format.Cluster{ID: "1", Time: 1, ClusterInfo: format.ClusterInfo{Kinds: []string{format.ClusterACLs}}}
	var out, said bytes.Buffer
	cfg := PlanConfig{Where: where, Kinds: admin.Kinds, MaxFrame: 1 << 20}
	in := func() io.Reader {
		return stream(t, format.ContentRecords, snap, acl("User:a", "TOPIC", "READ", "ALLOW"))
	}
	env := &command.Env{Log: logger(&said), Stop: make(chan struct{})}
	if err := Plan(t.Context(), cfg, false, env, in(), &out); err != nil || !strings.Contains(out.String(), "this cluster does not support it: the brokers have no authorizer") {
		t.Errorf("%v\n%s%s", err, &out, &said)
	}
	err := Apply(t.Context(), ApplyConfig{PlanConfig: cfg, Password: new(Passwords)}, env, in(), &out)
	if command.StatusOf(err) != command.Loss {
		t.Errorf("%v", err)
	}
	err = Verify(t.Context(), cfg, env, in(), &out)
	if command.StatusOf(err) != command.Failed {
		t.Errorf("%v", err)
	}
}

// TestApplyFails has one change fail, and wants the others to be made, and taken back.
func TestApplyFails(t *testing.T) {
	t.Chdir(t.TempDir())
	_, where := fake(t)
	snap := &format.Cluster{ID: "1", Time: 1, ClusterInfo: format.ClusterInfo{Kinds: []string{format.ClusterACLs, format.ClusterConfigs}}}
	frames := []format.Encoder{snap, acl("User:a", "TOPIC", "READ", "ALLOW"), acl("User:a", "TOPIC", "FLY", "ALLOW"),
		&format.Config{ResourceType: "topic", Name: "t", Values: map[string]*string{"retention.ms": ptr("1000")}}}
	var out, said bytes.Buffer
	cfg := ApplyConfig{PlanConfig: PlanConfig{Where: where, Kinds: admin.Kinds, MaxFrame: 1 << 20}, Save: "saved", Password: new(Passwords)}
	env := &command.Env{Log: logger(&said), Stop: make(chan struct{})}
	err := Apply(t.Context(), cfg, env, stream(t, format.ContentRecords, frames...), &out)
	if command.StatusOf(err) != command.Failed || !strings.Contains(err.Error(), "1 of 3 changes failed") || !strings.Contains(command.HintOf(err), "rollback saved") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(said.String(), `FLY on TOPIC r: \"FLY\" is not known`) || !strings.Contains(out.String(), "+ User:a READ on TOPIC r\n") || !strings.Contains(out.String(), "retention.ms") {
		t.Errorf("%s\n%s", &out, &said)
	}
	said.Reset()
	if err := Rollback(t.Context(), RollbackConfig{Where: where, File: "saved", MaxFrame: 1 << 20, Password: new(Passwords)}, env, &out); err != nil {
		t.Errorf("%v\n%s", err, &said)
	}
	out.Reset()
	if err := Plan(t.Context(), cfg.PlanConfig, false, env, stream(t, format.ContentRecords, frames...), &out); err != nil || !strings.Contains(out.String(), "3 to add, 0 to change") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// TestApplyStopped makes nothing once it is told to stop.
func TestApplyStopped(t *testing.T) {
	t.Chdir(t.TempDir())
	_, where := fake(t)
	snap := &format.Cluster{ID: "1", Time: 1, ClusterInfo: format.ClusterInfo{Kinds: []string{format.ClusterACLs}}}
	stop := make(chan struct{})
	close(stop)
	cfg := ApplyConfig{PlanConfig: PlanConfig{Where: where, Kinds: admin.Kinds, MaxFrame: 1 << 20}, Save: "saved", Password: new(Passwords)}
	var out bytes.Buffer
	err := Apply(t.Context(), cfg, &command.Env{Log: slog.New(slog.DiscardHandler), Stop: stop}, stream(t, format.ContentRecords, snap, acl("User:a", "TOPIC", "READ", "ALLOW")), &out)
	if command.StatusOf(err) != command.Interrupted || !strings.Contains(err.Error(), "0 changes of 1 made") || out.Len() > 0 {
		t.Errorf("%v\n%s", err, &out)
	}
}
