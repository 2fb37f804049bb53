package fetch

import (
	"fmt"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics"
)

// A partition is one of those that are read. The plan fills it in; from then on it
// belongs to the source's goroutine, but for what is written, which is the encoder's.
type partition struct {
	topic    string
	id       [16]byte
	num      int32
	logStart int64
	pos      int64    // the next offset to fetch
	aligned  bool     // a batch ended there
	end      int64    // the first offset not to read; openEnd while following
	target   int64    // a restore point needs what is below it
	stable   int64    // the last stable offset when the run began
	high     int64    // and the high watermark
	lost     [2]int64 // offsets below the first to read that are gone; empty if equal
	resumed  position // where earlier runs have come to
	begins   bool     // a mark has to say that it may not be the stream's first time
	branch   bool     // what earlier runs have read from the first offset on is not there any more

	leader int32        // -1: none
	epoch  int32        // the leader's, or -1
	seen   []epochStart // leader epochs of what was read, the latest last

	progress
	written written
}

// progress is how the reading of a partition goes.
type progress struct {
	state    state
	moved    time.Time // when pos last went on, or a broker said that there is no more; timeouts count from here
	taken    time.Time // when it was begun
	advanced time.Time // when pos last went on
	why      error     // why it does not
	empty    int       // fetches of it alone that brought nothing, in a row
	local    int64     // the first offset on the leader's own disk, -1 where that is not known
	marked   int64     // the last mark's offset
	missing  time.Time // when its topic was first not found, zero where it is there
	absent   bool      // given up until it has a leader again
	left     leftOut   // why it is not part of a restore point
	latest   int64     // the last stable offset that a broker told
	shown    *metrics.Partition
}

// written is what the encoder has passed on of a partition.
type written struct {
	seq   int64 // of the job
	next  int64 // offset below which all is written
	epoch int32 // leader epoch there
	ended bool  // the last mark is written
}

type state uint8

const (
	waiting  state = iota // not begun
	idle                  // to be fetched
	fetching              // in a request
	stuck                 // until the metadata is looked up
	checked               // while its leader is asked about it
	done
)

// leftOut is why a partition is not read to its end.
type leftOut uint8

const (
	whole leftOut = iota
	topicDeleted
	leaderless
	unreadable
)

func (p *partition) String() string { return fmt.Sprintf("%s/%d", p.topic, p.num) }

// wanted is the offset that p has to reach next: its end, or a restore point's while it
// is followed.
func (p *partition) wanted() int64 {
	if p.end == openEnd {
		return p.target
	}
	return p.end
}

// show lets others see how far p was read, and how far it goes.
func (p *partition) show() {
	end := p.end
	if end == openEnd {
		end = p.latest
	}
	p.shown.Read(p.pos, end)
}

// position is how far p was read, and in which leader epochs.
func (p *partition) position() position { return position{p.pos, p.lastEpoch(), p.seen} }

// lastEpoch is the leader epoch of the last batch read, -1 before the first.
func (p *partition) lastEpoch() int32 {
	if len(p.seen) == 0 {
		return -1
	}
	return p.seen[len(p.seen)-1].epoch
}

// newMark is a mark at next. The leader epoch is that of the last batch.
func (p *partition) newMark(next int64, epoch int32) *format.Mark {
	m := &format.Mark{Topic: p.topic, Partition: p.num, Next: next}
	start, end := p.logStart, p.end // which change, and the mark may be elsewhere
	m.TopicID, m.LogStart = kafka.FormatTopicID(p.id), &start
	if end != openEnd {
		m.End = &end
	}
	if epoch >= 0 {
		m.LeaderEpoch = &epoch
	}
	return m
}
