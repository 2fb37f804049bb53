package partitions

import (
	"fmt"
	"testing"
)

// FuzzShard reads any shard. Of all that are like it exactly one holds a partition.
func FuzzShard(f *testing.F) {
	f.Add("1/3", "orders", int32(0))
	f.Add("7/7", "", int32(2147483647))
	f.Fuzz(func(t *testing.T, s, topic string, partition int32) {
		shard, err := ParseShard(s)
		if err != nil || shard.of > 100 || partition < 0 {
			return
		}
		if shard.IsAll() {
			t.Fatalf("%q is all of them", s)
		}
		holders := 0
		for i := range shard.of {
			one, err := ParseShard(fmt.Sprintf("%d/%d", i+1, shard.of))
			if err != nil {
				t.Fatal(err)
			}
			if one.Holds(topic, partition) {
				holders++
			}
		}
		if holders != 1 {
			t.Fatalf("%d of %d hold %s/%d", holders, shard.of, topic, partition)
		}
	})
}

// FuzzSelection selects by any text: what matches is not missing.
func FuzzSelection(f *testing.F) {
	for _, s := range []string{"orders", "orders:0,3-5", "^or.*", "a:1"} {
		f.Add(s, "", "orders", int32(3))
	}
	f.Fuzz(func(t *testing.T, text, exclude, topic string, partition int32) {
		s := Selection{Topics: []string{text}}
		if exclude != "" {
			s.Exclude = []string{exclude}
		}
		m, err := s.Compile()
		if err != nil {
			return
		}
		if m.Matches(topic, partition) && len(m.selectors[0].numbers) < 2 {
			if err := m.Missing(); err != nil {
				t.Fatalf("%q matches %s/%d: %v", text, topic, partition, err)
			}
		}
	})
}
