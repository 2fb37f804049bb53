// Package pattern matches names of topics and consumer groups as librdkafka and kcat
// do: a pattern is a name, or a regular expression if it begins with ^. And it reads
// lists of partitions.
package pattern

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// IsRegexp tells whether a pattern is a regular expression.
func IsRegexp(pattern string) bool { return strings.HasPrefix(pattern, "^") }

// Compile returns what tells whether a name matches one of the patterns. Without
// patterns no name does. An error names the pattern that is not a regular expression.
func Compile(patterns []string) (matches func(name string) bool, err error) {
	names := make(map[string]bool)
	var exprs []*regexp.Regexp
	for _, p := range patterns {
		if !IsRegexp(p) {
			names[p] = true
			continue
		}
		re, err := regexp.Compile(p)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", p, err)
		}
		exprs = append(exprs, re)
	}
	return func(name string) bool {
		return names[name] || slices.ContainsFunc(exprs, func(re *regexp.Regexp) bool { return re.MatchString(name) })
	}, nil
}

// Partitions reads a list of partitions and ranges of them: 0,3-5.
func Partitions(s string) (map[int32]bool, error) {
	out := make(map[int32]bool)
	for _, part := range strings.Split(s, ",") {
		a, b, isRange := strings.Cut(part, "-")
		if !isRange {
			b = a
		}
		first, err1 := strconv.ParseUint(a, 10, 31)
		last, err2 := strconv.ParseUint(b, 10, 31)
		if err1 != nil || err2 != nil || first > last || last-first > 1<<20 {
			return nil, fmt.Errorf("%q is not a list of partitions such as 0,3-5", s)
		}
		for n := first; n <= last; n++ {
			out[int32(n)] = true
		}
	}
	return out, nil
}
