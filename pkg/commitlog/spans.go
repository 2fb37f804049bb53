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

// addAll puts all of other into the set.
func (s *spans) addAll(other spans) {
	for _, r := range other {
		s.add(r[0], r[1])
	}
}

// covers tells whether all of [from, next) is in the set.
func (s spans) covers(from, next int64) bool {
	if from >= next {
		return true
	}
	i, _ := slices.BinarySearchFunc(s, from, func(r [2]int64, from int64) int { return cmp.Compare(r[1], from+1) })
	return i < len(s) && s[i][0] <= from && next <= s[i][1]
}

// touches tells whether any offset of [from, next) is in the set.
func (s spans) touches(from, next int64) bool {
	i, _ := slices.BinarySearchFunc(s, from, func(r [2]int64, from int64) int { return cmp.Compare(r[1], from+1) })
	return from < next && i < len(s) && s[i][0] < next
}

// without returns what of the set is not in other.
func (s spans) without(other spans) spans {
	if len(other) == 0 {
		return s
	}
	var out spans
	j := 0
	for _, r := range s {
		from := r[0]
		for j > 0 && other[j-1][1] > from {
			j--
		}
		for ; j < len(other) && other[j][0] < r[1]; j++ {
			if from < other[j][0] {
				out = append(out, [2]int64{from, other[j][0]})
			}
			from = max(from, other[j][1])
		}
		if from < r[1] {
			out = append(out, [2]int64{from, r[1]})
		}
	}
	return out
}

// clip returns what of the set lies in [from, next).
func (s spans) clip(from, next int64) spans {
	if len(s) == 0 || s[0][0] >= from && s[len(s)-1][1] <= next {
		return s
	}
	var out spans
	for _, r := range s {
		if a, b := max(r[0], from), min(r[1], next); a < b {
			out = append(out, [2]int64{a, b})
		}
	}
	return out
}

// gaps returns what of [from, next) is not in the set.
func (s spans) gaps(from, next int64) spans {
	if from >= next {
		return nil
	}
	return spans{{from, next}}.without(s)
}
