package produce

import (
	"strconv"
	"strings"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pattern"
)

// parseNaming reads what --rename and --prefix say.
func parseNaming(renames []string, prefix string) (pattern.Naming, error) {
	r, err := pattern.CompileRenames(renames)
	if err != nil {
		return pattern.Naming{}, command.Usagef("--rename: %v", err)
	}
	return pattern.Naming{Renames: r, Prefix: prefix}, nil
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
