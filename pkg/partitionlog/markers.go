package partitionlog

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// MaxMarkers is how many markers one request may write.
const MaxMarkers = 2000

// MaxMarkerEpoch is the highest epoch that a marker may have: one below is left for the
// producer itself (ProducerIdAndEpoch, Short.MAX_VALUE).
const MaxMarkerEpoch = 1<<15 - 2

// WriteMarkers writes n transaction markers (WriteTxnMarkers, KIP-98) to a partition:
// control records, one offset each, which no consumer is shown. They abort a transaction
// of a producer that has none, and change nothing. Each has an epoch of its own, from
// epoch on: the broker loses count of markers that are equal, and may take one for a
// retry of the last (KIP-890 strictly so); and it refuses one with an epoch below the
// last that it has seen of the producer.
//
// It tries once, with the leader as it is known to be since. After an error that is not
// the broker's it is not known how many were written.
func (g *Logs) WriteMarkers(ctx context.Context, p Partition, since time.Time, producer int64, epoch int16, n int) error {
	answer, err := g.request(ctx, p, since, func([16]byte) kmsg.Request {
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		req.Markers = make([]kmsg.WriteTxnMarkersRequestMarker, n)
		topics := []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: p.Topic, Partitions: []int32{p.Num}}}
		for i := range req.Markers {
			mk := &req.Markers[i]
			mk.ProducerID, mk.ProducerEpoch, mk.Topics = producer, epoch+int16(i), topics
		}
		return req
	})
	if err != nil {
		return err
	}
	answers := 0
	for _, mk := range answer.(*kmsg.WriteTxnMarkersResponse).Markers {
		for _, t := range mk.Topics {
			for _, part := range t.Partitions {
				if err := kerr.ErrorForCode(part.ErrorCode); err != nil {
					return err
				}
				answers++
			}
		}
	}
	if answers == 0 {
		return errNoAnswer
	}
	return nil
}
