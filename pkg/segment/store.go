package segment

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// What is in a frame of zstd (RFC 8878, section 3.1.1).
const (
	zstdMagic = 0xfd2fb528
	// zstdDescriptor says that a window descriptor follows, then 4 bytes of content size, and
	// that there is a checksum at the end.
	zstdDescriptor = 2<<6 | 1<<2
	zstdWindow     = 7 << 3    // 2^(10+7) bytes, as large as a block may be
	zstdBlock      = 128 << 10 // the most that a block holds
	zstdHead       = 4 + 1 + 1 + 4
	zstdBlockHead  = 3
	zstdSum        = 4
)

// storeZstd makes a frame of zstd of b, of blocks that are not compressed. It does so in b's
// own memory, if that has room.
func storeZstd(b []byte) []byte {
	n := len(b)
	sum := uint32(xxhash.Sum64(b))
	blocks := max(1, (n+zstdBlock-1)/zstdBlock)
	b = slices.Grow(b, zstdHead+blocks*zstdBlockHead+zstdSum)[:n+zstdHead+blocks*zstdBlockHead+zstdSum]
	last := uint32(1)
	for i := blocks - 1; i >= 0; i-- { // from the end: each moves to where another was
		from, to := i*zstdBlock, min(n, (i+1)*zstdBlock)
		at := zstdHead + i*(zstdBlock+zstdBlockHead)
		copy(b[at+zstdBlockHead:], b[from:to])
		head := uint32(to-from)<<3 | last
		b[at], b[at+1], b[at+2] = byte(head), byte(head>>8), byte(head>>16)
		last = 0
	}
	binary.LittleEndian.PutUint32(b, zstdMagic)
	b[4], b[5] = zstdDescriptor, zstdWindow
	binary.LittleEndian.PutUint32(b[6:], uint32(n))
	binary.LittleEndian.PutUint32(b[len(b)-zstdSum:], sum)
	return b
}
