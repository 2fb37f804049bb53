package recordbatch

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Aborted tells which batches of an answer hold committed records, as the Java client does
// it (CompletedFetch.nextFetchedRecord).
type Aborted struct {
	later     []kmsg.FetchResponseTopicPartitionAbortedTransaction
	producers map[int64]bool // whose transaction here was aborted
}

// NewAborted is of one answer at isolation level read_committed, whose batches are then
// asked about in order.
func NewAborted(all []kmsg.FetchResponseTopicPartitionAbortedTransaction) *Aborted {
	slices.SortFunc(all, func(a, b kmsg.FetchResponseTopicPartitionAbortedTransaction) int {
		return cmp.Compare(a.FirstOffset, b.FirstOffset)
	})
	return &Aborted{all, make(map[int64]bool)}
}

// Data tells whether a batch holds committed records. Where it does not, d may be used up
// to read its marker.
func (a *Aborted) Data(t Batch, d *Decoder) (bool, error) {
	for len(a.later) > 0 && a.later[0].FirstOffset <= t.Last {
		a.producers[a.later[0].ProducerID] = true
		a.later = a.later[1:]
	}
	switch ends := a.producers[t.ProducerID]; {
	case !t.Control():
		return !t.Transactional() || !ends, nil
	case !ends:
		return false, nil
	}
	if err := d.Open(t); err != nil {
		return false, err
	}
	aborts, err := d.Aborts()
	if aborts {
		delete(a.producers, t.ProducerID)
	}
	return false, err
}
