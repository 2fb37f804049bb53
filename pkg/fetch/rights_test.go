package fetch

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// connectionOf is what the flags of a user of an embedded cluster say.
func connectionOf(t *testing.T, brokers []string, user string) kafka.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.properties")
	properties := "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username=\"" + user + "\" password=\"secret\";\n"
	if err := os.WriteFile(file, []byte(properties), 0o600); err != nil {
		t.Fatal(err)
	}
	var cfg kafka.Config
	app := &cli.App{Flags: kafka.Flags(), Action: func(c *cli.Context) (err error) {
		cfg, err = kafka.FromFlags(c)
		return err
	}}
	if err := app.Run([]string{"test", "-b", strings.Join(brokers, ","), "--command-config", file}); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// newWorldOfRights has topics t and u of two partitions, and a user that may read t, and
// see u.
func newWorldOfRights(t *testing.T) *world {
	allow := func(topic string, op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: topic, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	w := newWorldOf(t, []kfake.Opt{kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "secret"),
		kfake.User("PLAIN", "reader", "secret", allow("t", kmsg.ACLOperationRead), allow("u", kmsg.ACLOperationDescribe))},
		"t", 2, kgo.SASL(plain.Auth{User: "admin", Pass: "secret"}.AsMechanism()))
	w.create("u", 2)
	w.produce("t", 0, 3)
	w.produce("t", 1, 4)
	w.produce("u", 0, 5)
	w.produce("u", 1, 6)
	return w
}

// TestUnreadable has a topic that the user may DESCRIBE and not READ: an expression does
// without it, and a name is an error before anything is written.
func TestUnreadable(t *testing.T) {
	w := newWorldOfRights(t)
	user := connectionOf(t, w.fake.ListenAddrs(), "reader")
	what := "topic u is left out: the user has no right to READ it"
	for name, topics := range map[string][]string{"an expression": {"^"}, "beside a name": {"t", "^u"}} {
		r := w.fetch(func(c *Config) { c.Kafka, c.Topics, c.NoConfigs = user, topics, true }, nil)
		if command.StatusOf(r.err) != command.Loss || r.end == nil || !slices.Equal(r.end.Losses, []string{what}) || strings.Count(r.log, what) != 1 {
			t.Errorf("%s: %v, end %+v\n%s", name, r.err, r.end, r.log)
		}
		if r.point == nil || !reflect.DeepEqual(r.point.Without, map[string][]int32{"u": {0, 1}}) || !strings.Contains(r.log, "read 7 records of 1 topic") {
			t.Errorf("%s: point %+v\n%s", name, r.point, r.log)
		}
		r.err = nil
		w.want(r, "t/0", upTo(3), 0, 3)
		w.want(r, "t/1", upTo(4), 0, 4)
		w.want(r, "u/0", nil, 0, 0)
		w.want(r, "u/1", nil, 0, 0)
	}
	r := w.fetch(func(c *Config) { c.Kafka, c.Topics, c.FailOnLoss = user, []string{"^"}, true }, nil)
	if command.StatusOf(r.err) != command.Loss || r.end != nil || !strings.Contains(r.err.Error(), what) {
		t.Errorf("to fail on loss: %v, end %+v", r.err, r.end)
	}
	for name, topics := range map[string][]string{"a name": {"u"}, "a partition": {"t", "u:1"}, "beside an expression": {"u", "^"}} {
		r := w.fetch(func(c *Config) { c.Kafka, c.Topics = user, topics }, nil)
		if command.StatusOf(r.err) != command.Failed || !strings.Contains(r.err.Error(), `topic "u": not authorized`) || r.header != nil {
			t.Errorf("%s: %v, frames %q", name, r.err, r.kinds)
		}
	}
	if r := w.fetch(func(c *Config) { c.Kafka, c.Topics, c.NoConfigs = user, []string{"t"}, true }, nil); r.err != nil || strings.Contains(r.log, "left out") {
		t.Errorf("what may be read alone: %v\n%s", r.err, r.log)
	}
}

// TestRightTakenAway takes the right to READ away while a run follows.
func TestRightTakenAway(t *testing.T) {
	for _, topics := range [][]string{{"^"}, {"^t", "u"}} {
		w := newWorldOfRights(t)
		user := connectionOf(t, w.fake.ListenAddrs(), "reader")
		read := func() *kadm.ACLBuilder {
			return kadm.NewACLs().Topics("u").ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:reader").AllowHosts("*").Operations(kadm.OpRead)
		}
		if _, err := w.adm.CreateACLs(t.Context(), read()); err != nil {
			t.Fatal(err)
		}
		var fetches, taken atomic.Int64
		var change sync.WaitGroup
		w.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
			w.fake.KeepControl()
			if fetches.Add(1) == 4 {
				change.Go(func() {
					if got, err := w.adm.DeleteACLs(t.Context(), read()); err != nil || len(got) != 1 || got[0].Err != nil || len(got[0].Deleted) != 1 {
						t.Error(got, err)
					}
					w.produce("u", 0, 2)
					w.produce("t", 0, 2)
					taken.Store(fetches.Load())
				})
			}
			return nil, nil, false
		})
		stop := make(chan struct{})
		go func() {
			for t.Context().Err() == nil && (taken.Load() == 0 || fetches.Load() < taken.Load()+10) {
				time.Sleep(10 * time.Millisecond)
			}
			close(stop)
		}()
		r := w.fetch(func(c *Config) {
			c.Kafka, c.Topics, c.NoConfigs, c.Follow, c.Refresh, c.PointEvery = user, topics, true, true, time.Hour, time.Hour
		}, stop)
		change.Wait()
		if topics[len(topics)-1] == "u" { // by name
			if command.StatusOf(r.err) != command.Failed || !strings.Contains(r.err.Error(), "fetch u/") || !strings.Contains(r.err.Error(), "TOPIC_AUTHORIZATION_FAILED") || r.end != nil {
				t.Errorf("by name: %v, end %+v", r.err, r.end)
			}
			continue
		}
		want := []string{"u/0: the user no longer has the right to READ it: what comes from offset 5 on was not read", "u/1: the user no longer has the right to READ it: what comes from offset 6 on was not read"}
		if r.end == nil || !r.end.Lost || len(r.end.Losses) != 2 {
			t.Fatalf("%v, end %+v\n%s", r.err, r.end, r.log)
		}
		if slices.Sort(r.end.Losses); !slices.Equal(r.end.Losses, want) {
			t.Errorf("losses %q", r.end.Losses)
		}
		if !reflect.DeepEqual(r.offsets, map[string][]int64{"t/0": upTo(5), "t/1": upTo(4), "u/0": upTo(5), "u/1": upTo(6)}) {
			t.Errorf("records %v", r.offsets)
		}
	}
}
