// Package partitions chooses among the partitions of topics, as flags say it.
package partitions

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// A Shard is one of several equal parts of all partitions, the same on every machine:
// nothing has to be agreed on but how many there are. The zero Shard is all of them.
type Shard struct{ part, of uint64 } // part counts from 0

// ParseShard reads I/N, I from 1 to N.
func ParseShard(s string) (Shard, error) {
	a, b, _ := strings.Cut(s, "/")
	part, err1 := strconv.ParseUint(a, 10, 31)
	of, err2 := strconv.ParseUint(b, 10, 31)
	if err1 != nil || err2 != nil || part < 1 || part > of {
		return Shard{}, fmt.Errorf("%q is not I/N with I from 1 to N, such as 1/3", s)
	}
	return Shard{part - 1, of}, nil
}

// IsAll says that there are no other shards.
func (s Shard) IsAll() bool { return s.of == 0 }

// Holds says whether a partition belongs to the shard. The topic's partitions are
// dealt out in turn, each topic's beginning elsewhere (FNV-1a of its name), so that
// topics of one partition spread too.
func (s Shard) Holds(topic string, partition int32) bool {
	if s.of == 0 {
		return true
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(topic)) // never fails
	return (uint64(h.Sum32())+uint64(partition))%s.of == s.part
}
