package recordbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
)

// TestRecompress decompresses batches of every codec, compares them byte for byte with what
// was compressed, and compresses them again with every codec.
func TestRecompress(t *testing.T) {
	large := []format.Record{{Offset: 70, Timestamp: 1000, Value: half(atOnce + atOnce/4)}}
	for name, recs := range map[string][]format.Record{"many": dense(500), "one": dense(1), "large": large} {
		const attributes = logAppendTime | transactional | 0x40 // kept
		plain := build(70, attributes, 1000, 5000, nil, recs...)
		for codec, compress := range compressors(t) {
			raw := build(70, attributes|codec, 1000, 5000, compress, recs...)
			b, _, err := Cut(raw)
			if err != nil {
				t.Fatal(err)
			}
			d := NewDecoder()
			got, err := d.Uncompressed([]byte("before"), b)
			if err != nil || !bytes.Equal(got, append([]byte("before"), plain...)) {
				t.Errorf("%s, codec %d: not what was compressed: %v", name, codec, err)
			}
			for _, to := range allCodecs {
				again, err := testCompressor(t, to).Recompress([]byte("before"), plain)
				if err != nil {
					t.Fatal(err)
				}
				again, ok := bytes.CutPrefix(again, []byte("before"))
				b, rest, err := Cut(again)
				if !ok || err != nil || len(rest) > 0 || CodecName(b.Codec()) != strings.TrimPrefix(to, "none") {
					t.Fatalf("%s: %v, %d bytes left, codec %d", to, err, len(rest), b.Codec())
				}
				if got, err := d.Uncompressed(nil, b); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%s, %s: not what was compressed: %v", name, to, err)
				}
			}
		}
	}
}

func TestRecompressRefuses(t *testing.T) {
	c := testCompressor(t, "lz4")
	plain := build(70, 0, 1000, 1012, nil, dense(20)...)
	flipped := slices.Clone(plain)
	flipped[80] ^= 1
	for name, raw := range map[string][]byte{
		"compressed": build(70, 3, 1000, 1012, compressors(t)[3], dense(20)...),
		"two":        slices.Concat(plain, plain),
		"cut":        plain[:len(plain)-1],
		"changed":    flipped,
	} {
		if _, err := c.Recompress(nil, raw); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestUncompressedRefuses has batches that cannot be decompressed, or to more than the limit.
func TestUncompressedRefuses(t *testing.T) {
	zeros := format.Record{Offset: 70, Value: make([]byte, 1<<20)}
	for codec, compress := range compressors(t) {
		d := NewDecoder()
		b, _, err := Cut(build(70, codec, 0, 0, compress, zeros))
		if err != nil {
			t.Fatal(err)
		}
		d.MaxSize = 1 << 20 // a record is more than its value
		if _, err := d.Uncompressed(nil, b); !errors.Is(err, ErrTooLarge) {
			t.Errorf("codec %d: %v", codec, err)
		}
		d.MaxSize += 100
		if _, err := d.Uncompressed(nil, b); err != nil {
			t.Errorf("codec %d: %v", codec, err)
		}
		b, _, err = Cut(build(70, codec, 0, 0, func([]byte) []byte { return []byte("no codec's bytes") }, zeros))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Uncompressed(nil, b); err == nil {
			t.Errorf("codec %d: decompressed what is not compressed", codec)
		}
	}
	b, _, err := Cut(build(70, 7, 0, 0, nil, zeros))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewDecoder().Uncompressed(nil, b); err == nil || !strings.Contains(err.Error(), "unknown codec 7") {
		t.Error(err)
	}
	if binary.BigEndian.Uint16(b.Raw()[atAttributes:]) != 7 || b.Codec() != kgo.CompressionCodecType(7) {
		t.Error("the batch was changed")
	}
}
