package fetch

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/receipt"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// FuzzScan looks at any batches with right checksums, as a broker could answer. What it
// passes covers offsets from where the fetch began, in ascending order.
func FuzzScan(f *testing.F) {
	plain, err := recordbatch.NewCompressor("none", 0)
	if err != nil {
		f.Fatal(err)
	}
	var answer []byte
	for first := range int64(3) {
		var b recordbatch.Builder
		b.Append(&format.Record{Timestamp: 5, Value: []byte("a")})
		b.Append(&format.Record{Timestamp: 6, Value: []byte("b")})
		raw, err := b.Build(nil, plain)
		if err != nil {
			f.Fatal(err)
		}
		binary.BigEndian.PutUint64(raw, uint64(2*first))
		answer = append(answer, raw...)
	}
	f.Add(answer, int64(0), false, int64(100), int64(6))
	f.Add(answer[:len(answer)-5], int64(1), false, int64(3), int64(5))
	f.Add(answer[len(answer)/3:], int64(2), true, int64(100), int64(-1))
	f.Fuzz(func(t *testing.T, b []byte, from int64, aligned bool, end, high int64) {
		if from < 0 {
			return
		}
		for rest := b; len(rest) > 21; { // checksums are the broker's
			size := int(int32(binary.BigEndian.Uint32(rest[8:]))) + 12
			if size < 22 || size > len(rest) {
				break
			}
			binary.BigEndian.PutUint32(rest[17:], crc32.Checksum(rest[21:size], crc32.MakeTable(crc32.Castagnoli)))
			rest = rest[size:]
		}
		got, err := scan(b, place{offset: from, aligned: aligned, epoch: -1}, end, high)
		if err != nil {
			return
		}
		if got.next < from || got.size > len(b) || got.size == 0 && got.next != from || got.records < 0 {
			t.Fatalf("%+v of %d bytes from %d on", got, len(b), from)
		}
		next := from
		for rest := b[:got.size]; len(rest) > 0; {
			var batch recordbatch.Batch
			if batch, rest, err = recordbatch.Cut(rest); err != nil {
				t.Fatal(err)
			}
			if batch.Last < next || high >= 0 && batch.Last >= high {
				t.Fatalf("a batch of %d to %d passes where %d is due and the log ends at %d", batch.First, batch.Last, next, high)
			}
			next = batch.Last + 1
		}
		if next != got.next {
			t.Fatalf("read to %d, and said %d", next, got.next)
		}
	})
}

// FuzzBounds reads any --from, --to and -o.
func FuzzBounds(f *testing.F) {
	for _, s := range []string{"beginning", "-5", "17", "s@1764000000000", "e@2026-11-20T22:00:00Z", "@2026-11-20T22:00:00Z:2026-11-20T23:00:00Z", "3:7", ":7", "24h", "@1d:@1h"} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 20, 22, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		for _, b := range []func() (Bound, Bound, error){
			func() (from, to Bound, err error) { from, err = ParseBound(s, now); return from, from, err },
			func() (from, to Bound, err error) { err = parseOffsets(s, now, &from, &to); return from, to, err },
		} {
			from, to, err := b()
			if err != nil {
				continue
			}
			for _, b := range []Bound{from, to} {
				if (b.kind == atOffset || b.kind == atLast) && b.n < 0 {
					t.Fatalf("%q is %+v", s, b)
				}
				if at := b.offsetOf(10, 20, 15); b.kind != atOffset && (at < 10 || at > 20) || at > 20 {
					t.Fatalf("%q is offset %d of a partition that holds 10 to 19", s, at)
				}
			}
		}
	})
}

// FuzzReceipt reads any receipt. One that is read is the same when it is written.
func FuzzReceipt(f *testing.F) {
	f.Add([]byte(`{"entry":"20261120T213700.123Z-00000000-000001","sha256":"00","segments":1,"partitions":[{"topic":"t","topic_id":"id","partition":0,"next":9}],"final":true}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var got, again receipt.Receipt
		if json.Unmarshal(line, &got) != nil {
			return
		}
		text, err := json.Marshal(&got)
		if err == nil {
			err = json.Unmarshal(text, &again)
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(again) {
			t.Fatalf("%q: %+v became %+v, %v", line, got, again, err)
		}
	})
}
