// Package pattern matches names of topics and consumer groups as librdkafka and kcat
// do: a pattern is a name, or a regular expression if it begins with ^.
package pattern

import (
	"fmt"
	"regexp"
	"slices"
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
