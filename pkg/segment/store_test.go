package segment

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kbkio/kbk/test/need"
)

// TestStoreZstd opens frames of blocks that are not compressed with the library, which
// compares the checksum, and with the public tool.
func TestStoreZstd(t *testing.T) {
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	need.Tools(t, "zstd")
	noise := rand.NewChaCha8([32]byte{1})
	for _, n := range []int{0, 1, zstdBlock - 1, zstdBlock, zstdBlock + 1, 2 * zstdBlock, 3*zstdBlock + 5, ChunkSize + ChunkSize/16 - 10} {
		plain := make([]byte, n)
		_, _ = noise.Read(plain)
		for _, room := range []int{n, n + 20, n + n/16 + 100} {
			b := append(make([]byte, 0, room), plain...)
			stored := storeZstd(b)
			if got, err := d.DecodeAll(stored, nil); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%d bytes with room for %d: %d bytes, %v", n, room, len(got), err)
			}
			var h zstd.Header
			if err := h.Decode(stored); err != nil || !h.HasFCS || h.FrameContentSize != uint64(n) || !h.HasCheckSum || h.WindowSize != zstdBlock {
				t.Errorf("%d bytes: %+v, %v", n, h, err)
			}
			if fits := room >= n+n/16+100; fits && n > 0 && &stored[0] != &b[0] {
				t.Errorf("%d bytes were copied elsewhere", n)
			}
		}
		cmd := exec.Command("zstd", "-d", "-q", "-c")
		cmd.Stdin = bytes.NewReader(append(storeZstd(bytes.Clone(plain)), storeZstd([]byte("behind"))...)) // two are one file
		cmd.Stderr = os.Stderr
		if got, err := cmd.Output(); err != nil || !bytes.Equal(got, append(plain, "behind"...)) {
			t.Errorf("zstd -d: %d bytes of %d, %v", len(got), n, err)
		}
		changed := storeZstd(append(bytes.Clone(plain), 'x'))
		changed[len(changed)-zstdSum-1] ^= 1
		if _, err := d.DecodeAll(changed, nil); err == nil {
			t.Errorf("%d bytes: a changed byte went unseen", n+1)
		}
	}
}

func BenchmarkStoreZstd(b *testing.B) {
	buf := make([]byte, ChunkSize, ChunkSize+ChunkSize/16)
	b.SetBytes(ChunkSize)
	for b.Loop() {
		storeZstd(buf)
	}
}
