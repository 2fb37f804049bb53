package offsets

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/kafka/kafkatest"
)

// TestTransientErrors has each kind of request that the commands send refused once, by errors
// that are over in a moment. What comes of it is the same then.
func TestTransientErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(t *testing.T, w *world) (string, error)
		want string // what that says, or else what is committed then
	}{
		"snapshot": {func(t *testing.T, w *world) (string, error) {
			var out bytes.Buffer
			err := Snapshot(t.Context(), SnapshotConfig{Kafka: w.kafka(), Topics: everybody, Next: true, JSON: true}, w.env, &out)
			return out.String(), err
		}, `{"group":"a","offsets":{"t":{"0":{"offset":1,"leader_epoch":0,"metadata":"note","end":5,"record":{"offset":1,"timestamp":1001,"digest":"41bZYm2pTeZXKwKctOrBOt/BmOjWlhD38Fnp599zJss="}}}}}` + "\n"},
		"apply": {func(t *testing.T, w *world) (string, error) {
			_, err := w.apply(planned(t, format.End{}, group("a", "t", numbers{0: 2, 1: 1})), filepath.Join(t.TempDir(), "undo"))
			return "", err
		}, "a t/0 2old note, a t/1 1old note"},
		"rollback": {func(t *testing.T, w *world) (string, error) {
			undo := filepath.Join(t.TempDir(), "undo")
			if _, err := w.apply(planned(t, format.End{}, group("a", "t", numbers{0: 2, 1: 1}), group("b", "t", numbers{1: 2})), undo); err != nil {
				return "", err
			}
			return "", w.rollback(undo)
		}, "a t/0 1note"},
	} {
		begin := func(t *testing.T) *world {
			w := newWorld(t, "t")
			w.produce("t", 0, "abcde")
			w.produce("t", 1, "xyz")
			w.commit("a", "t", 0, 1)
			return w
		}
		t.Run(name, func(t *testing.T) {
			w := begin(t)
			sent := kafkatest.Count(w.c)
			_, err := c.do(t, w)
			ok(t, err)
			for _, key := range []kmsg.Key{
				kmsg.ApiVersions, kmsg.GetTelemetrySubscriptions, kmsg.PushTelemetry, // no broker refuses these for a moment only
				kmsg.Metadata, // which leaves out what a broker does not know
			} {
				delete(sent, key)
			}
			leaveOut := func(key kmsg.Key, whole bool) bool {
				if whole { // later versions have no such error
					return key == kmsg.OffsetFetch || key == kmsg.FindCoordinator
				}
				return key == kmsg.ListGroups // a group that may not be seen
			}
			kafkatest.RefuseEach(t, sent, leaveOut, func(t *testing.T, fault kfake.Fault) {
				w := begin(t)
				installed := w.c.Fault(fault)
				got, err := c.do(t, w)
				ok(t, err)
				installed.Remove()
				if got == "" {
					got = w.committed()
				}
				if got != c.want {
					t.Errorf("it has %s, not %s", got, c.want)
				}
			})
		})
	}
}
