package commitlog

import (
	"cmp"
	"slices"
)

// spans is a set of offsets as [from, next) ranges: sorted, not empty, and no two
// of them touch.
type spans [][2]int64

// add puts [from, next) into the set. What arrives in order is added at the end, in
// constant time.
func (s *spans) add(from, next int64) {
	if from >= next {
		return
	}
	// [i, j) are those that the new range touches.
	i, _ := slices.BinarySearchFunc(*s, from, func(r [2]int64, from int64) int { return cmp.Compare(r[1], from) })
	j := i
	for j < len(*s) && (*s)[j][0] <= next {
		from, next = min(from, (*s)[j][0]), max(next, (*s)[j][1])
		j++
	}
	*s = slices.Replace(*s, i, j, [2]int64{from, next})
}

// covers tells whether all of [from, next) is in the set.
func (s spans) covers(from, next int64) bool {
	if from >= next {
		return true
	}
	i, _ := slices.BinarySearchFunc(s, from, func(r [2]int64, from int64) int { return cmp.Compare(r[1], from+1) })
	return i < len(s) && s[i][0] <= from && next <= s[i][1]
}

// gaps returns what of [from, next) is not in the set, which has nothing outside of it.
func (s spans) gaps(from, next int64) [][2]int64 {
	var gaps [][2]int64
	for _, r := range s {
		if from < r[0] {
			gaps = append(gaps, [2]int64{from, r[0]})
		}
		from = r[1]
	}
	if from < next {
		gaps = append(gaps, [2]int64{from, next})
	}
	return gaps
}
