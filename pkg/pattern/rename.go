package pattern

import (
	"fmt"
	"regexp"
	"strings"
)

// Renames gives names for names.
type Renames struct {
	names map[string]string
	exprs []rename
}

type rename struct {
	match *regexp.Regexp
	to    string
}

// reference is $1 as people write it: $1_x is what group 1 matched, and then _x, where
// package regexp would look for a group of the name 1_x.
var reference = regexp.MustCompile(`\$(\d+)`)

// CompileRenames reads OLD=NEW, where OLD is a name, or a regular expression if it begins
// with ^: then $1 in NEW is what its first group matched. An error names the one that is
// wrong.
func CompileRenames(rules []string) (*Renames, error) {
	r := &Renames{names: make(map[string]string)}
	for _, rule := range rules {
		at := strings.LastIndexByte(rule, '=') // an expression may have one, too
		if at <= 0 || at == len(rule)-1 {
			return nil, fmt.Errorf("%q is not OLD=NEW", rule)
		}
		from, to := rule[:at], rule[at+1:]
		if IsRegexp(from) {
			re, err := regexp.Compile(from)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", rule, err)
			}
			r.exprs = append(r.exprs, rename{re, reference.ReplaceAllString(to, "$${$1}")})
			continue
		}
		if had, ok := r.names[from]; ok && had != to {
			return nil, fmt.Errorf("%s to both %s and %s", from, had, to)
		}
		r.names[from] = to
	}
	return r, nil
}

// Name returns the new name of a name; it is the same where no rule is for it.
func (r *Renames) Name(name string) string {
	to, _ := r.Lookup(name)
	return to
}

// Lookup is [Renames.Name], and tells whether there is a rule for the name: the name
// itself, or else the first expression that matches it.
func (r *Renames) Lookup(name string) (to string, ok bool) {
	if r == nil {
		return name, false
	}
	if to, ok := r.names[name]; ok {
		return to, true
	}
	for _, e := range r.exprs {
		if e.match.MatchString(name) {
			return e.match.ReplaceAllString(name, e.to), true
		}
	}
	return name, false
}

// Names tells whether there is a rule for exactly this name, and not only an expression.
func (r *Renames) Names(name string) bool {
	if r == nil {
		return false
	}
	_, ok := r.names[name]
	return ok
}
