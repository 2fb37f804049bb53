package filter

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/timespec"
)

// meaning changes when the same flags come to do something else.
const meaning = "kbk-filter 1"

// digest is eight hexadecimal digits of what the filter was told to do. Two that have the
// same did the same to the same records: times are taken as they were meant when the
// filter was started, and files as what was in them.
func digest(c *cli.Context, ch *change, now time.Time) (string, error) {
	told := [][]string{{meaning}}
	for _, flag := range slices.Concat(pickFlags(), changeFlags()) {
		name := flag.Names()[0]
		if !c.IsSet(name) {
			continue
		}
		values := []string{c.String(name)}
		if _, several := flag.(*cli.StringSliceFlag); several {
			values = c.StringSlice(name)
		}
		switch name {
		case "since", "until":
			t, err := timespec.Parse(values[0], now)
			if err != nil {
				return "", err
			}
			values[0] = strconv.FormatInt(t.UnixMilli(), 10)
		case "mask-key":
			if ch.maskKey == nil {
				continue // no mask needs it
			}
			values[0] = fmt.Sprintf("%x", sha256.Sum256(ch.maskKey))
		case "schema-id-map":
			values[0] = fmt.Sprint(ch.valueIDs) // sorted
		case "key-schema-id-map":
			values[0] = fmt.Sprint(ch.keyIDs)
		}
		told = append(told, append([]string{name}, values...))
	}
	text, err := json.Marshal(told)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return fmt.Sprintf("%x", sum[:4]), nil
}
