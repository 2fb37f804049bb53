package produce

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/kafka/kafkatest"
)

// TestTransientErrors has each kind of request that a restore sends refused once, by errors
// that are over in a moment. A broker that has hung or restarted, a controller that moves and
// a topic that was just created cause them.
func TestTransientErrors(t *testing.T) {
	t.Parallel()
	frames := join(frameList{topic("t", 2)}, records("t", 0, 3, 8), records("t", 0, 14, 5), records("t", 1, 2, 8))
	in := stream(t, &format.End{}, frames...)
	for name, c := range map[string]struct {
		had   int32 // partitions of the topic before; 0: it is created
		exact bool
	}{
		"new topic, exact": {0, true},
		"new topic":        {0, false},
		"too small":        {1, false},
	} {
		t.Run(name, func(t *testing.T) {
			begin := func(t *testing.T) *rig {
				r := newRig(t)
				if c.had > 0 {
					r.create("t", c.had, "retention.ms=86400000")
				}
				return r
			}
			change := func(cfg *Config) { cfg.Exact, cfg.AddPartitions = c.exact, true }
			r := begin(t)
			sent := kafkatest.Count(r.fake)
			r.produce(in, change).want(t, 0)
			configs := r.own("t")
			delete(sent, kmsg.ApiVersions) // is never refused for a moment only
			kafkatest.RefuseEach(t, sent, func(kmsg.Key, bool) bool { return false }, func(t *testing.T, fault kfake.Fault) {
				r := begin(t)
				r.fake.Fault(fault)
				o := r.produce(in, change)
				o.want(t, 0)
				if strings.Contains(o.said, "level=WARN") {
					t.Errorf("it warns:\n%s", o.said)
				}
				r.same("t", 2, wanted(c.exact, frames, 2))
				if got := r.own("t"); got != configs {
					t.Errorf("its configs are %q, not %q", got, configs)
				}
			})
		})
	}
}
