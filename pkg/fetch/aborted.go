package fetch

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/recordbatch"
)

// aborted tells which of a response's batches belong to aborted transactions, as the
// Java client does it (CompletedFetch.nextFetchedRecord).
type aborted struct {
	transactions []kmsg.FetchResponseTopicPartitionAbortedTransaction // that begin later
	producers    map[int64]bool                                       // whose transaction here was aborted
}

func newAborted(all []kmsg.FetchResponseTopicPartitionAbortedTransaction) *aborted {
	slices.SortFunc(all, func(a, b kmsg.FetchResponseTopicPartitionAbortedTransaction) int {
		return cmp.Compare(a.FirstOffset, b.FirstOffset)
	})
	return &aborted{all, make(map[int64]bool)}
}

// meaning is what to do with a batch.
type meaning uint8

const (
	isNothing meaning = iota // aborted data, or a marker that changes nothing
	isData                   // committed, or in no transaction
	isMarker                 // it may end an aborted transaction
)

func (a *aborted) meaning(t *recordbatch.Batch) meaning {
	for len(a.transactions) > 0 && a.transactions[0].FirstOffset <= t.Last {
		a.producers[a.transactions[0].ProducerID] = true
		a.transactions = a.transactions[1:]
	}
	switch ends := a.producers[t.ProducerID]; {
	case t.Control() && ends:
		return isMarker
	case t.Control(), t.Transactional() && ends:
		return isNothing
	}
	return isData
}

// marker takes the marker that d has open.
func (a *aborted) marker(d *recordbatch.Decoder, t *recordbatch.Batch) error {
	aborts, err := d.Aborts()
	if aborts {
		delete(a.producers, t.ProducerID)
	}
	return err
}
