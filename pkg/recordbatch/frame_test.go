package recordbatch

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
)

// dense are records without holes between their offsets; the timestamps go up and down.
func dense(n int) []format.Record {
	recs := make([]format.Record, n)
	for i := range recs {
		recs[i] = format.Record{Offset: 70 + int64(i), Timestamp: 1000 + int64(i*7%13), Value: fmt.Append(nil, "value ", i)}
	}
	return recs
}

func TestOpen(t *testing.T) {
	raw := build(70, 0, 1000, 1012, nil, dense(20)...)
	with := func(change func(*format.Batch)) format.Batch {
		b, rest, err := Cut(raw)
		if err != nil || len(rest) > 0 || !b.Dense() {
			t.Fatal(err, len(rest), b)
		}
		f := b.Frame("orders", 3)
		change(&f)
		return f
	}
	for name, c := range map[string]struct {
		frame format.Batch
		want  string
	}{
		"right":        {with(func(*format.Batch) {}), ""},
		"first":        {with(func(f *format.Batch) { f.First-- }), "and its frame says"},
		"last":         {with(func(f *format.Batch) { f.Last++ }), "and its frame says"},
		"records":      {with(func(f *format.Batch) { f.Records++ }), "and its frame says"},
		"time":         {with(func(f *format.Batch) { f.MaxTimestamp++ }), "and its frame says"},
		"cut":          {with(func(f *format.Batch) { f.Data = f.Data[:len(f.Data)-1] }), "partial"},
		"two":          {with(func(f *format.Batch) { f.Data = slices.Concat(f.Data, f.Data) }), "bytes behind the record batch"},
		"empty":        {with(func(f *format.Batch) { f.Data = nil }), "partial"},
		"bit":          {with(func(f *format.Batch) { f.Data = slices.Clone(f.Data); f.Data[70] ^= 1 }), "checksum"},
		"control":      {with(func(f *format.Batch) { f.Data = build(70, control, 1000, 1012, nil, dense(20)...) }), "control batch"},
		"not the base": {with(func(f *format.Batch) { f.Data = build(71, 0, 1000, 1012, nil, dense(20)...) }), "and its frame says"},
	} {
		_, err := Open(&c.frame)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "orders/3: batch of offsets ")) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if errors.Is(err, format.ErrCorrupt) != (c.want != "") {
			t.Errorf("%s: %v is not an ErrCorrupt", name, err)
		}
	}
}

// TestOpenVectors wants the batches of the format's golden stream to be batches.
func TestOpenVectors(t *testing.T) {
	file, err := os.Open("../../format/testdata/good/batches.kbk")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found := 0
	for r := format.NewReader(file, 0); ; {
		f, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch f.Kind {
		case format.KindEnd:
			if found != 2 {
				t.Errorf("%d batches", found)
			}
			return
		case format.KindBatch:
			found++
			frame, err := format.DecodeBatch(f.Raw)
			if err != nil {
				t.Fatal(err)
			}
			b, err := Open(frame)
			if err != nil {
				t.Fatal(err)
			}
			var values string
			err = NewDecoder().Records(b, func(r *format.Record) error {
				values += fmt.Sprintf("%d@%d=%s ", r.Offset-frame.First, r.Timestamp-1_700_000_000_000, r.Value)
				return nil
			})
			if values != "0@0=0 1@1=1 2@2=2 " || err != nil {
				t.Error(values, err)
			}
		}
	}
}

// TestRecords reads batches that are as they should be, and forged ones.
func TestRecords(t *testing.T) {
	recs := dense(500)
	swapped := slices.Clone(recs)
	swapped[3].Offset, swapped[4].Offset = swapped[4].Offset, swapped[3].Offset
	late := slices.Clone(recs)
	for i := range late[:499] {
		late[i].Offset += 1
	}
	more := slices.Concat(recs[:499], []format.Record{recs[499], recs[499]})
	for codec, compress := range compressors(t) {
		for name, c := range map[string]struct {
			raw  []byte
			want string // an error, where it is not empty
			last int64
		}{
			"right":             {build(70, codec, 1000, 1012, compress, recs...), "", 1012},
			"broker's time":     {build(70, codec|logAppendTime, 1000, 5000, compress, recs...), "", 5000},
			"two change places": {build(70, codec, 1000, 1012, compress, swapped...), "corrupt record", 0},
			"all one later":     {build(70, codec, 1000, 1012, compress, late...), "corrupt record", 0},
			"a record more":     {uncounted(build(70, codec, 1000, 1012, compress, more...)), "more in the batch", 0},
		} {
			b, _, err := CutChecked(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			d := NewDecoder()
			count, first, last := int64(0), int64(1<<62), int64(0)
			err = d.Records(b, func(r *format.Record) error {
				count++
				first, last = min(first, r.Timestamp), max(last, r.Timestamp)
				return nil
			})
			gotFirst, gotLast, timesErr := d.Times(b)
			if c.want != "" {
				if err == nil || timesErr == nil || !strings.Contains(err.Error(), c.want) || err.Error() != timesErr.Error() {
					t.Errorf("codec %d, %s: %v, and of times %v", codec, name, err, timesErr)
				}
				continue
			}
			if err != nil || timesErr != nil || count != 500 || last != c.last || gotFirst != first || gotLast != last {
				t.Errorf("codec %d, %s: %d records of times %d to %d, %v; times %d to %d, %v", codec, name, count, first, last, err, gotFirst, gotLast, timesErr)
			}
		}
	}
}

// uncounted makes the last record of a batch one that its header does not count.
func uncounted(raw []byte) []byte {
	raw[atCount+3]--
	return raw
}

// TestUnpack gives the records of a frame their topic and partition, and says of what cannot
// be read where it is.
func TestUnpack(t *testing.T) {
	want := dense(20)
	frame := func(raw []byte) *format.Batch {
		b, _, err := Cut(raw)
		if err != nil {
			t.Fatal(err)
		}
		f := b.Frame("orders", 3)
		return &f
	}
	good := frame(build(70, 0, 1000, 1012, nil, want...))
	d := NewDecoder()
	n := 0
	err := d.Unpack(good, func(r *format.Record) error {
		if r.Topic != "orders" || r.Partition != 3 || r.Offset != want[n].Offset || string(r.Value) != string(want[n].Value) {
			t.Errorf("record %d is %+v", n, r)
		}
		n++
		return nil
	})
	if err != nil || n != len(want) {
		t.Errorf("%d records, %v", n, err)
	}
	enough := errors.New("enough")
	if err := d.Unpack(good, func(*format.Record) error { return enough }); err != enough {
		t.Errorf("an error of each became %v", err)
	}
	forged := slices.Clone(want)
	forged[5].Offset++ // two records of one offset
	const where = "orders/3: batch of offsets 70 to 89: "
	if err := d.Unpack(frame(build(70, 0, 1000, 1012, nil, forged...)), func(*format.Record) error { return nil }); !errors.Is(err, format.ErrCorrupt) || !strings.HasPrefix(err.Error(), where) {
		t.Errorf("a hole: %v", err)
	}
	d.MaxSize = 100
	if err := d.Unpack(good, func(*format.Record) error { return nil }); !errors.Is(err, ErrTooLarge) || errors.Is(err, format.ErrCorrupt) || !strings.HasPrefix(err.Error(), where) {
		t.Errorf("too large: %v", err)
	}
}
