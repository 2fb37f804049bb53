package fetch

import (
	"math"
	"runtime/debug"
)

// ownMemory is what a run takes besides the responses that are on their way: those that
// wait to be decoded, what is decoded ahead of the writer, and the largest records.
const ownMemory = 144 << 20

// limitMemory keeps the garbage collector to what a run needs: left to itself it would
// let what is not needed any more grow to the same again.
func limitMemory(cfg Config, brokers int) {
	if debug.SetMemoryLimit(-1) != math.MaxInt64 { // GOMEMLIMIT is set
		return
	}
	debug.SetMemoryLimit(ownMemory + 2*int64(cfg.FetchBytes)*int64(max(brokers, 1)))
}
