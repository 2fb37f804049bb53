package fetch

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// What is decided while a run reads is decided here, from plain values, and done in
// source.go and follow.go.

// confirmEmpty is how many times a broker has to answer a request for one partition with
// nothing, before it is asked why.
const confirmEmpty = 3

// nextFetches returns what to ask the free brokers for: all idle partitions that a broker
// leads, those first of which least was heard, as a broker fills a response in the order
// of the request. One of which an answer has to tell whether there is nothing left goes
// alone.
func nextFetches(active []*partition, free func(broker int32) bool) map[int32][]*partition {
	next := make(map[int32][]*partition)
	alone := make(map[int32]bool)
	for _, p := range active {
		if p.state != idle || p.leader < 0 || alone[p.leader] || !free(p.leader) {
			continue
		}
		if p.empty > 0 {
			next[p.leader], alone[p.leader] = []*partition{p}, true
			continue
		}
		next[p.leader] = append(next[p.leader], p)
	}
	for _, parts := range next {
		slices.SortStableFunc(parts, func(a, b *partition) int { return a.moved.Compare(b.moved) })
	}
	return next
}

// allRead tells whether all that brokers have told of is read, of the partitions that can be.
func allRead(active []*partition) bool {
	for _, p := range active {
		if p.state != done && !p.absent && p.pos < p.latest {
			return false
		}
	}
	return true
}

// A verdict is what to do about a partition after an answer.
type verdict struct {
	do   step
	next int64 // where advance, skip, lose, branch and shrink lead
	end  int64 // where a branch ends
	why  error // that it does not go on, or that it ends
}

// A step is what can be done.
type step uint8

const (
	again   step = iota // fetch again
	quiet               // fetch again: the broker has all that is wanted of it told
	alone               // fetch again, and nothing else in that request
	lookUp              // look the metadata up
	inspect             // ask the leader about the partition
	advance             // there are records
	skip                // up to next there is nothing left: compaction took it
	lose                // up to next all was deleted before it was read
	branch              // from next on the leader has other records than were read
	shrink              // the partition ends at next now, before its end of before
	forget              // the leader does not know the leader epoch of what was read
	refuse              // the user has no right to read it
	fail
)

// judge decides what an answer for a partition means. Alone says that the partition was
// the only one asked for, and no quota held the answer back.
//
// No records where there should be some can mean that there are none: compaction removes
// a tombstone, and with it perhaps the last batch below the last stable offset; then a
// broker answers with nothing for ever (LocalLog.read: "all messages with offset greater
// than start offset have been deleted"). It can also mean that the response was full, that
// a quota held the records back, that a new leader is behind, or that they are in remote
// storage, which was too slow. So the partition is asked for alone, several times, and
// then diagnose asks for proof.
func judge(p *partition, a *partAnswer, wasAlone bool, now time.Time) verdict {
	if a.err != nil {
		return judgeError(a.err)
	}
	if a.next > p.pos {
		return verdict{do: advance, next: min(a.next, p.end)}
	}
	wanted := p.wanted()
	switch {
	case p.pos >= wanted:
		return verdict{do: quiet}
	case a.partial && wasAlone:
		return verdict{do: again, why: fmt.Errorf("the record batch at offset %d is cut short, or says that it is longer than it is", p.pos)}
	case a.partial:
		return verdict{do: again}
	case a.high < wanted:
		why := fmt.Errorf("the partition ended at offset %d before and ends at %d now", wanted, a.high)
		if p.why != nil && now.Sub(p.moved) > soon {
			return verdict{do: inspect, why: why} // truncated, or a new leader is behind
		}
		return verdict{do: again, why: why}
	case a.stable < wanted:
		return verdict{do: again}
	case p.local > p.pos:
		return verdict{do: again, why: remoteError(p.pos, p.local)}
	case !wasAlone || p.empty < confirmEmpty:
		return verdict{do: alone}
	}
	return verdict{do: inspect, why: errors.New("the broker's answer has no records")}
}

// nothingNew decides what it means that a broker has nothing to say of a partition: its
// high watermark is the same as before.
func nothingNew(p *partition) verdict {
	switch {
	case p.pos >= p.wanted():
		return verdict{do: quiet}
	case p.local > p.pos:
		return verdict{do: again, why: remoteError(p.pos, p.local)}
	}
	return verdict{do: alone}
}

func remoteError(pos, local int64) error {
	return fmt.Errorf("the broker's answer lacks the records of offsets %d to %d, which are in remote storage", pos, local-1)
}

func judgeError(err error) verdict {
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange), errors.Is(err, errDiverging):
		return verdict{do: inspect, why: err}
	case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID), kerr.IsRetriable(err):
		return verdict{do: lookUp, why: err}
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return verdict{do: refuse, why: err}
	}
	return verdict{do: fail, why: err}
}

// diagnose decides what the facts mean for a partition that cannot be read on, or whose
// leader is another.
func diagnose(p *partition, f facts) verdict {
	if r := resume(p.position(), f.known); r.branch {
		next := max(r.from, f.start)
		end := p.wanted()
		if f.current.End >= 0 {
			end = min(end, f.current.End)
		}
		return verdict{do: branch, next: next, end: max(next, end), why: errors.New(r.why)}
	}
	wanted := p.wanted()
	outOfRange := errors.Is(p.why, kerr.OffsetOutOfRange)
	switch {
	case f.start > p.pos:
		return verdict{do: lose, next: min(f.start, p.end)}
	case f.current.End >= 0 && f.current.End < wanted:
		return verdict{do: shrink, next: max(p.pos, f.current.End)}
	case outOfRange && p.lastEpoch() >= 0 && f.last.Epoch < 0:
		return verdict{do: forget}
	case outOfRange:
		return verdict{do: lookUp, why: fmt.Errorf("offset %d is past the end that the leader knows, %d: it may be behind", p.pos, f.high)}
	case p.empty < confirmEmpty || f.end < wanted:
		return verdict{do: again}
	case f.local < 0:
		return verdict{do: again, why: errors.New("the broker's answer has no records, and does not say whether they are in remote storage or were compacted away")}
	case f.local > p.pos:
		return verdict{do: again, why: remoteError(p.pos, f.local)}
	}
	return verdict{do: skip, next: wanted}
}

// A finding is what the metadata say of a partition.
type finding uint8

const (
	uncertain finding = iota // nothing
	led                      // it has a leader
	unled                    // it has none
	missing                  // its topic is not there
	replaced                 // its topic is another of the same name
)

// find looks a partition up in the metadata of all topics, or of its own.
func find(p *partition, topics kadm.TopicDetails) finding {
	t, there := topics[p.topic]
	switch {
	case !there || errors.Is(t.Err, kerr.UnknownTopicOrPartition):
		return missing
	case t.Err != nil:
		return uncertain
	case p.id != [16]byte{} && t.ID != [16]byte{} && p.id != [16]byte(t.ID):
		return replaced
	}
	d, there := t.Partitions[p.num]
	switch {
	case !there: // partitions do not go away: this broker has not heard of it yet
		return uncertain
	case d.Leader < 0:
		return unled
	}
	return led
}

// gone tells whether a partition's topic is gone, which its metadata must have said twice
// with some time between: a broker that has just started may not know it yet.
func gone(p *partition, f finding, now time.Time, confirm time.Duration) (gone bool, since time.Time) {
	switch {
	case f != missing && f != replaced:
		return false, time.Time{}
	case p.missing.IsZero():
		return false, now
	}
	return now.Sub(p.missing) >= confirm, p.missing
}

// pointDue tells whether to begin a restore point: not while nothing is followed.
func pointDue(parts []*partition, next, now time.Time) bool {
	return !now.Before(next) && slices.ContainsFunc(parts, func(p *partition) bool { return p.state != done })
}

// pointReached tells whether every partition that can be read is past its target.
func pointReached(parts []*partition) bool {
	return !slices.ContainsFunc(parts, func(p *partition) bool { return p.state != done && !p.absent && p.pos < p.target })
}

// without returns the partitions that are no part of a restore point: the unplaced, those
// left out and those given up, unless a topic of the same name is read instead.
func without(parts []*partition, unplaced []unplaced) map[string][]int32 {
	read := make(map[topicPartition]bool)
	for _, p := range parts {
		if p.left == whole && !p.absent {
			read[topicPartition{p.topic, p.num}] = true
		}
	}
	var out map[string][]int32
	leaveOut := func(p *partition) {
		key := topicPartition{p.topic, p.num}
		if read[key] {
			return
		}
		read[key] = true // said once
		if out == nil {
			out = make(map[string][]int32)
		}
		out[p.topic] = append(out[p.topic], p.num)
	}
	for _, p := range parts {
		leaveOut(p)
	}
	for _, u := range unplaced {
		leaveOut(u.partition)
	}
	for _, nums := range out {
		slices.Sort(nums)
	}
	return out
}
