package partitionlog

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestLeaderWaits has a broker that does not answer for the leaders. A caller whose context is cancelled
// returns at once, whoever asked first; and the others get the answer when it comes.
func TestLeaderWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, time.Minute)
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	w.fake.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if topics := req.(*kmsg.MetadataRequest).Topics; len(topics) != 1 {
			return nil, nil, false
		}
		asked <- struct{}{}
		w.fake.SleepControl(func() { <-answer })
		return nil, nil, false
	})
	type result struct {
		broker int32
		err    error
	}
	find := func(ctx context.Context, partition int32) <-chan result {
		out := make(chan result, 1)
		go func() {
			broker, _, err := w.logs.leader(ctx, Partition{"t", partition}, time.Time{})
			out <- result{broker, err}
		}()
		return out
	}
	gone := errors.New("gone")
	first, cancelFirst := context.WithCancelCause(t.Context())
	defer cancelFirst(nil)
	one := find(first, 0)
	<-asked
	waiting := find(t.Context(), 1)
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	for _, c := range []struct {
		name string
		got  <-chan result
	}{
		{"a second one", find(cancelled, 0)},
		{"the first one", one},
	} {
		select {
		case r := <-c.got:
			if !errors.Is(r.err, gone) {
				t.Errorf("%s: %v", c.name, r.err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s does not hear that it is cancelled", c.name)
		}
		cancelFirst(gone)
	}
	close(answer)
	if r := <-waiting; r.err != nil || r.broker < 0 {
		t.Errorf("broker %d, %v", r.broker, r.err)
	}
	if len(asked) > 0 {
		t.Errorf("the cluster was asked %d times more", len(asked))
	}
}
