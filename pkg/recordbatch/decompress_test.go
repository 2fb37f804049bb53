package recordbatch

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/pierrec/lz4/v4"
)

// lz4Frames are frames of LZ4 with every flag, and what is in them.
func lz4Frames(t testing.TB, plain []byte) [][]byte {
	t.Helper()
	var frames [][]byte
	for _, options := range [][]lz4.Option{
		{},
		{lz4.ChecksumOption(false)},
		{lz4.BlockChecksumOption(true), lz4.BlockSizeOption(lz4.Block64Kb)},
		{lz4.SizeOption(uint64(len(plain))), lz4.BlockSizeOption(lz4.Block64Kb)},
	} {
		var buf bytes.Buffer
		w := lz4.NewWriter(&buf)
		if err := w.Apply(options...); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		frames = append(frames, buf.Bytes())
	}
	return frames
}

// half is n bytes, of which every other four are noise.
func half(n int) []byte {
	b := make([]byte, n)
	for at := 0; at+4 <= n; at += 8 {
		binary.LittleEndian.PutUint32(b[at:], rand.Uint32())
	}
	return b
}

// TestLz4Whole holds the decoder of whole frames against the library's: it decodes the same
// or leaves it alone, also where the frame is cut or changed.
func TestLz4Whole(t *testing.T) {
	read := func(frame []byte) ([]byte, error) { return io.ReadAll(lz4.NewReader(bytes.NewReader(frame))) }
	for _, plain := range [][]byte{{}, []byte("x"), half(1000), half(150_000)} {
		for i, frame := range lz4Frames(t, plain) {
			room := make([]byte, 0, len(plain)+1)
			if got, ok := lz4Whole(frame, room); !ok || !bytes.Equal(got, plain) {
				t.Errorf("frame %d of %d bytes: %d bytes, %v", i, len(plain), len(got), ok)
			}
			if len(plain) > 0 {
				if _, ok := lz4Whole(frame, room[:0:len(plain)-1]); ok {
					t.Errorf("frame %d of %d bytes: decoded into less", i, len(plain))
				}
			}
			if _, ok := lz4Whole(slices.Concat(frame, frame), make([]byte, 0, 2*len(plain))); ok {
				t.Errorf("frame %d of %d bytes: the second is left out", i, len(plain))
			}
			for cut := 0; cut < len(frame); cut += 1 + len(frame)/2000*40 { // a large one in 50 places
				if _, ok := lz4Whole(frame[:cut], room); ok {
					t.Errorf("frame %d of %d bytes: decoded what is cut at %d", i, len(plain), cut)
				}
			}
			if len(plain) == 1000 {
				for at := range frame {
					changed := slices.Clone(frame)
					bit := 8*at + at%8
					changed[at] ^= 1 << (at % 8)
					want, err := read(changed)
					if got, ok := lz4Whole(changed, room); ok && err == nil && !bytes.Equal(got, want) {
						t.Fatalf("frame %d, bit %d: decodes to something else", i, bit)
					}
				}
			}
		}
	}
	// A block that refers to the one before.
	linked := []byte{0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0xc0}
	linked = append(linked, 8, 0, 0, 0x80, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')
	linked = append(linked, 10, 0, 0, 0, 0x14, 'X', 9, 0, 0x50, '1', '2', '3', '4', '5')
	linked = append(linked, 0, 0, 0, 0)
	want, err := read(linked)
	if got, ok := lz4Whole(linked, make([]byte, 0, 100)); err != nil || !ok || string(got) != "abcdefghXabcdefgh12345" || !bytes.Equal(got, want) {
		t.Errorf("linked blocks: %q, and %q, %v", got, want, err)
	}
}

// TestXerialWhole decodes blocks of snappy as Java's producer frames them.
func TestXerialWhole(t *testing.T) {
	for _, plain := range [][]byte{{}, []byte("x"), half(1000), half(150_000)} {
		var framed []byte
		for part := range slices.Chunk(plain, 32<<10) {
			block := s2.EncodeSnappy(nil, part)
			framed = append(binary.BigEndian.AppendUint32(framed, uint32(len(block))), block...)
		}
		room := make([]byte, 0, len(plain))
		if got, ok := xerialWhole(framed, room); !ok || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %d bytes, %v", len(plain), len(got), ok)
		}
		if len(plain) == 0 {
			continue
		}
		if _, ok := xerialWhole(framed, room[:0:len(plain)-1]); ok {
			t.Errorf("%d bytes: decoded into less", len(plain))
		}
		for _, cut := range []int{1, 3, 4, 5, len(framed) - 1} {
			got, ok := xerialWhole(framed[:min(cut, len(framed))], room)
			if ok && cut < len(framed) {
				t.Errorf("%d bytes: decoded %d of what is cut at %d", len(plain), len(got), cut)
			}
		}
	}
}
