package produce

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/kbkio/kbk/pkg/command"
)

// A naming says which topic of the target a topic goes to.
type naming struct {
	names    map[string]string // --rename OLD=NEW
	patterns []pattern         // --rename ^…=…, in order
	prefix   string            // of topics that none of these name
}

type pattern struct {
	match *regexp.Regexp
	to    string
}

// group is a reference to a group as people write it: $1_x is group 1 and then _x,
// where package regexp would look for a group of the name 1_x.
var group = regexp.MustCompile(`\$(\d+)`)

// parseNaming reads what --rename and --prefix say.
func parseNaming(renames []string, prefix string) (naming, error) {
	n := naming{names: make(map[string]string), prefix: prefix}
	for _, r := range renames {
		at := strings.LastIndexByte(r, '=') // no topic has one in its name, but a pattern may
		if at <= 0 || at == len(r)-1 {
			return n, command.Usagef("--rename %q is not OLD=NEW", r)
		}
		from, to := r[:at], r[at+1:]
		if strings.HasPrefix(from, "^") {
			match, err := regexp.Compile(from)
			if err != nil {
				return n, command.Usagef("--rename %q: %v", r, err)
			}
			n.patterns = append(n.patterns, pattern{match, group.ReplaceAllString(to, "$${$1}")})
			continue
		}
		if had, ok := n.names[from]; ok && had != to {
			return n, command.Usagef("--rename: topic %s to both %s and %s", from, had, to)
		}
		n.names[from] = to
	}
	return n, nil
}

// target is the name of the topic that a topic goes to.
func (n *naming) target(topic string) string {
	if to, ok := n.names[topic]; ok {
		return to
	}
	for _, p := range n.patterns {
		if p.match.MatchString(topic) {
			return p.match.ReplaceAllString(topic, p.to)
		}
	}
	return n.prefix + topic
}

// parsePartitionMap reads 0=2,1=0.
func parsePartitionMap(s string) (map[int32]int32, error) {
	m := make(map[int32]int32)
	if s == "" {
		return m, nil
	}
	for pair := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(pair, "=")
		a, errA := strconv.ParseUint(strings.TrimSpace(from), 10, 31)
		b, errB := strconv.ParseUint(strings.TrimSpace(to), 10, 31)
		if _, twice := m[int32(a)]; !ok || errA != nil || errB != nil || twice {
			return nil, command.Usagef("--partition-map %q is not a list such as 0=2,1=0", s)
		}
		m[int32(a)] = int32(b)
	}
	return m, nil
}
