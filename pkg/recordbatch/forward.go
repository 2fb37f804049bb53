package recordbatch

import (
	"bytes"
	"encoding/binary"
)

// AppendUnsent appends the batch to dst as a producer sends it: without what a broker or an
// earlier producer has put into it, but for the records and their codec. It lacks a
// producer and a checksum: see [Stamp]. The records keep their times only where they are
// not [Batch.LogAppendTime].
func (t *Batch) AppendUnsent(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, t.raw...)
	h := dst[at:]
	binary.BigEndian.PutUint64(h, 0)
	binary.BigEndian.PutUint32(h[atEpoch:], 1<<32-1) // unknown: the broker puts its own
	// Of the bits for a transaction and for a delete horizon a broker refuses the one, and
	// keeps the other: the new topic would drop tombstones as early as the old one.
	binary.BigEndian.PutUint16(h[atAttributes:], t.attributes&codecMask)
	return dst
}

// SameRecords says that two batches have the same records with the same times: the same
// bytes with the same codec. Where it says no they may be the same all the same.
func (t *Batch) SameRecords(o *Batch) bool {
	return t.Records == o.Records && t.Last-t.First == o.Last-o.First && t.baseTime == o.baseTime &&
		(t.attributes^o.attributes)&(codecMask|logAppendTime) == 0 &&
		(!t.LogAppendTime() || t.MaxTimestamp == o.MaxTimestamp) &&
		bytes.Equal(t.raw[headerSize:], o.raw[headerSize:])
}
