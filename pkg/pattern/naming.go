package pattern

import (
	"fmt"
	"strings"
)

// A Naming says which name of a target stands for a name of the source: what a rule says, or
// else the name behind a prefix. The zero value changes no name.
type Naming struct {
	Renames *Renames
	Prefix  string // of the names that no rule is for
}

// Target is the name that a name becomes.
func (n Naming) Target(name string) string {
	if to, ok := n.Renames.Lookup(name); ok {
		return to
	}
	return n.Prefix + name
}

// Changes tells whether there may be a name that becomes another.
func (n Naming) Changes() bool {
	return n.Prefix != "" || n.Renames != nil && len(n.Renames.names)+len(n.Renames.exprs) > 0
}

// OnlyPrefix tells whether every name gets the prefix.
func (n Naming) OnlyPrefix() bool {
	return n.Renames == nil || len(n.Renames.names)+len(n.Renames.exprs) == 0
}

// Begin returns how the names begin that the names with the beginning old become, so that
// they have it and no others do. An error says why there is none. Expressions are tried on
// the names that are known.
func (n Naming) Begin(old string, known []string) (to string, err error) {
	to = n.Prefix + old
	if n.Renames == nil {
		return to, nil
	}
	for _, e := range n.Renames.exprs {
		if e.match.MatchString(old) {
			to = e.match.ReplaceAllString(old, e.to)
			break
		}
	}
	if len(n.Renames.exprs) > 0 && len(known) == 0 {
		return "", fmt.Errorf("no names are known to try the expressions on")
	}
	check := func(name string) error {
		became := n.Target(name)
		switch had, has := strings.HasPrefix(name, old), strings.HasPrefix(became, to); {
		case had && !has:
			return fmt.Errorf("%s becomes %s, which does not begin with %s", name, became, to)
		case !had && has:
			return fmt.Errorf("%s becomes %s, which begins with %s too", name, became, to)
		}
		return nil
	}
	for _, name := range known {
		if err := check(name); err != nil {
			return "", err
		}
	}
	for name := range n.Renames.names {
		if err := check(name); err != nil {
			return "", err
		}
	}
	return to, nil
}
