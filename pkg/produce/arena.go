package produce

import (
	"bytes"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
)

// An arena holds copies of records, many to an allocation.
type arena struct {
	strip    map[string]bool // names of headers to leave out
	origin   bool            // add headers that say where a record was
	bytes    []byte
	records  []kgo.Record
	headers  []kgo.RecordHeader
	names    map[string]string
	decimals []byte
}

const (
	arenaBytes   = 1 << 20
	arenaRecords = 512
	arenaNames   = 1 << 12
)

// Headers that --offset-headers adds, with the topic and decimal numbers as text.
const (
	headerTopic     = "kbk.source.topic"
	headerPartition = "kbk.source.partition"
	headerOffset    = "kbk.source.offset"
	headerTimestamp = "kbk.source.timestamp"
	originHeaders   = 4
)

// record copies all of rec but its topic and partition.
func (a *arena) record(rec *format.Record) *kgo.Record {
	if len(a.records) == 0 {
		a.records = make([]kgo.Record, arenaRecords)
	}
	out := &a.records[0]
	a.records = a.records[1:]
	out.Key, out.Value = a.copy(rec.Key), a.copy(rec.Value)
	out.Timestamp = time.UnixMilli(rec.Timestamp)
	n := len(rec.Headers)
	if a.origin {
		n += originHeaders
	}
	if n == 0 {
		return out
	}
	if len(a.headers) < n {
		a.headers = make([]kgo.RecordHeader, max(n, arenaRecords))
	}
	headers := a.headers[:0:n]
	a.headers = a.headers[n:]
	for _, h := range rec.Headers {
		name := a.name(h.Name)
		if len(a.strip) > 0 && a.strip[name] {
			continue
		}
		headers = append(headers, kgo.RecordHeader{Key: name, Value: a.copy(h.Value)})
	}
	if a.origin {
		headers = append(headers,
			kgo.RecordHeader{Key: headerTopic, Value: a.text(append(a.decimals[:0], rec.Topic...))},
			kgo.RecordHeader{Key: headerPartition, Value: a.decimal(int64(rec.Partition))},
			kgo.RecordHeader{Key: headerOffset, Value: a.decimal(rec.Offset)},
			kgo.RecordHeader{Key: headerTimestamp, Value: a.decimal(rec.Timestamp)})
	}
	out.Headers = headers
	return out
}

func (a *arena) copy(b []byte) []byte {
	if b == nil || len(b) > arenaBytes/4 {
		return bytes.Clone(b)
	}
	if len(a.bytes) < len(b) || a.bytes == nil {
		a.bytes = make([]byte, arenaBytes)
	}
	out := a.bytes[:len(b):len(b)]
	a.bytes = a.bytes[len(b):]
	copy(out, b)
	return out
}

// text copies b, which is the arena's scratch.
func (a *arena) text(b []byte) []byte {
	a.decimals = b
	return a.copy(b)
}

func (a *arena) decimal(n int64) []byte { return a.text(strconv.AppendInt(a.decimals[:0], n, 10)) }

// name returns a header's name as a string; there are few, many times over.
func (a *arena) name(b []byte) string {
	if s, ok := a.names[string(b)]; ok {
		return s
	}
	if a.names == nil || len(a.names) >= arenaNames {
		a.names = make(map[string]string)
	}
	s := string(b)
	a.names[s] = s
	return s
}
