// Package kafkatest has what tests of commands that talk to Kafka share.
package kafkatest

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var everyError = flag.Bool("every-error", false, "have each request refused by each error, not by one of them; make soak does")

// transient are errors that are over in a moment.
var transient = []*kerr.Error{
	kerr.RequestTimedOut, kerr.NotController, kerr.UnknownTopicOrPartition, kerr.LeaderNotAvailable, kerr.NotLeaderForPartition,
	kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.NetworkException, kerr.KafkaStorageError,
}

// Count counts the requests that a cluster gets from now on, by kind.
func Count(c *kfake.Cluster) map[kmsg.Key]int {
	sent := make(map[kmsg.Key]int)
	c.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		sent[kmsg.Key(req.Key())]++
		return nil, nil, false
	})
	return sent
}

// RefuseEach runs a test for each of the first three requests of each kind in sent. Its fault
// refuses that request once, by an error that is over in a moment; if whole, the error is that of
// the whole answer. It leaves out what no broker answers.
func RefuseEach(t *testing.T, sent map[kmsg.Key]int, leaveOut func(key kmsg.Key, whole bool) bool, test func(t *testing.T, fault kfake.Fault)) {
	for i, key := range slices.Sorted(maps.Keys(sent)) {
		for nth := range min(sent[key], 3) {
			errs, wholes := transient, []bool{false, true}
			if !*everyError {
				errs, wholes = errs[(i+nth)%len(errs):][:1], wholes[(i+nth)%2:][:1]
			}
			for _, e := range errs {
				for _, whole := range wholes {
					if leaveOut(key, whole) {
						continue
					}
					t.Run(fmt.Sprintf("%s %d/%s, whole=%v", key.Name(), nth, e.Message, whole), func(t *testing.T) {
						t.Parallel()
						n := -1
						test(t, kfake.Fault{Keys: []kmsg.Key{key}, Err: e, TopLevel: whole, When: func(kmsg.Request) bool {
							n++
							return n == nth
						}})
					})
				}
			}
		}
	}
}
