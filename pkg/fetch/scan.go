package fetch

import (
	"errors"
	"fmt"

	"github.com/kbkio/kbk/pkg/recordbatch"
)

// A place is where a fetch of a partition began.
type place struct {
	offset int64
	// aligned says that a batch ended there, so that the next one cannot begin before.
	aligned bool
	epoch   int32 // leader epoch of that batch, -1 where it is not known
}

// A span is what the whole batches of a response cover.
type span struct {
	next    int64        // the offset behind the last of them; place.offset where there is none
	seen    []epochStart // the leader epochs that begin in them
	size    int          // bytes
	records int64
}

// scan looks at the batches of a response, up to the one that takes it to the offset
// end. Every checksum is right then, and every offset is one that can be there:
// the checksums do not cover the offsets, which have to ascend, and are below the high
// watermark. A batch above it is left for the next response: the broker looks the high
// watermark up before it reads, and what was written in between is in the response
// (Partition.readFromLocalLog).
func scan(b []byte, from place, end, highWatermark int64) (span, error) {
	s := span{next: from.offset}
	epoch := from.epoch
	for s.size < len(b) {
		t, _, err := recordbatch.Cut(b[s.size:])
		if errors.Is(err, recordbatch.ErrPartial) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		switch before := from.aligned || s.size > 0; {
		case t.Last < s.next, before && t.First < s.next:
			return s, fmt.Errorf("corrupt record batch at offset %d: it ends at offset %d, and the next one should begin at offset %d", t.First, t.Last, s.next)
		case highWatermark >= 0 && t.First > max(s.next, highWatermark):
			return s, fmt.Errorf("corrupt record batch at offset %d: the partition ends before that, at %d", t.First, highWatermark)
		case highWatermark >= 0 && t.Last >= highWatermark:
			return s, nil
		}
		if s.next >= end { // the batch behind the last one has told that the last one may be so
			break
		}
		if t.LeaderEpoch > epoch { // it never goes down, and no checksum covers it
			epoch = t.LeaderEpoch
			s.seen = append(s.seen, epochStart{epoch, max(t.First, from.offset)})
		}
		s.next, s.size, s.records = t.Last+1, s.size+t.Size(), s.records+int64(t.Records)
	}
	return s, nil
}
