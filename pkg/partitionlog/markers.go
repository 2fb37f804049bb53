package partitionlog

import (
	"context"
	"errors"
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
//
// Markers of several partitions that are waited for at the same time go to their broker
// together: a request costs more than what is in it.
func (g *Logs) WriteMarkers(ctx context.Context, p Partition, since time.Time, producer int64, epoch int16, n int) error {
	broker, _, err := g.leader(ctx, p, since)
	if err != nil {
		return err
	}
	job := &markerJob{p: p, producer: producer, epoch: epoch, n: n, done: make(chan error, 1)}
	select {
	case g.markersTo(broker) <- job:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-job.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A markerJob is some markers of one partition.
type markerJob struct {
	p        Partition
	producer int64
	epoch    int16
	n        int
	done     chan error
}

// markersTo is where the markers for a broker go.
func (g *Logs) markersTo(broker int32) chan<- *markerJob {
	g.mu.Lock()
	defer g.mu.Unlock()
	jobs := g.markers[broker]
	if jobs == nil {
		jobs = make(chan *markerJob, maxMarkerJobs)
		g.markers[broker] = jobs
		go g.sendMarkers(broker, jobs)
	}
	return jobs
}

const maxMarkerJobs = 64

// sendMarkers sends one request after the other, with all that has come meanwhile.
func (g *Logs) sendMarkers(broker int32, jobs <-chan *markerJob) {
	for {
		var some []*markerJob
		select {
		case job := <-jobs:
			some = append(some, job)
		case <-g.ctx.Done():
			return
		}
		for n := some[0].n; n < MaxMarkers && len(some) < maxMarkerJobs && len(jobs) > 0; {
			job := <-jobs
			some = append(some, job)
			n += job.n
		}
		errs := g.writeMarkers(broker, some)
		for _, job := range some {
			job.done <- errs[job.p]
		}
	}
}

// writeMarkers sends the markers of some jobs, of which no two are of one partition, and
// returns the errors by partition.
func (g *Logs) writeMarkers(broker int32, jobs []*markerJob) map[Partition]error {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	errs := make(map[Partition]error)
	for _, job := range jobs {
		errs[job.p] = errNoAnswer
		topics := []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: job.p.Topic, Partitions: []int32{job.p.Num}}}
		for i := range job.n {
			mk := kmsg.NewWriteTxnMarkersRequestMarker()
			mk.ProducerID, mk.ProducerEpoch, mk.Topics = job.producer, job.epoch+int16(i), topics
			req.Markers = append(req.Markers, mk)
		}
	}
	answer, err := g.cl.Broker(int(broker)).Request(g.ctx, req)
	if err != nil {
		for p := range errs {
			errs[p] = err
		}
		return errs
	}
	for _, mk := range answer.(*kmsg.WriteTxnMarkersResponse).Markers {
		for _, t := range mk.Topics {
			for _, part := range t.Partitions {
				p := Partition{t.Topic, part.Partition}
				if err := kerr.ErrorForCode(part.ErrorCode); err != nil || errors.Is(errs[p], errNoAnswer) {
					errs[p] = err
				}
			}
		}
	}
	return errs
}
