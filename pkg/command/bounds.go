package command

import (
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/timespec"
)

// OffsetsFromFlags reads --from and --to, offsets [from, to) of each partition. to is 0
// where it is not given.
func OffsetsFromFlags(c *cli.Context) (from, to int64, err error) {
	for name, at := range map[string]*int64{"from": &from, "to": &to} {
		if !c.IsSet(name) {
			continue
		}
		if *at, err = strconv.ParseInt(c.String(name), 10, 64); err != nil || *at < 0 {
			return 0, 0, WithHint(Usagef("--%s %q is not an offset", name, c.String(name)), "for times there are --since and --until")
		}
	}
	if c.IsSet("to") && to <= from {
		return 0, 0, Usagef("--to %d is not above --from %d", to, from)
	}
	return from, to, nil
}

// TimesFromFlags reads --since and --until, nil where they are not given. Records' times are
// milliseconds: since is the first one that is not before what was given.
func TimesFromFlags(c *cli.Context, now time.Time) (since, until *time.Time, err error) {
	if since, err = TimeFromFlag(c, "since", now); err != nil {
		return nil, nil, err
	}
	if until, err = TimeFromFlag(c, "until", now); err != nil {
		return nil, nil, err
	}
	if since != nil && until != nil && until.Before(*since) {
		return nil, nil, Usagef("--until is before --since")
	}
	if since != nil && since.Nanosecond()%1e6 != 0 {
		*since = since.Truncate(time.Millisecond).Add(time.Millisecond)
	}
	return since, until, nil
}

// TimeFromFlag reads a flag that is a time as [timespec.Parse] has it, nil where it is not
// given.
func TimeFromFlag(c *cli.Context, name string, now time.Time) (*time.Time, error) {
	if !c.IsSet(name) {
		return nil, nil
	}
	t, err := timespec.Parse(c.String(name), now)
	if err != nil {
		return nil, Usagef("--%s: %w", name, err)
	}
	return &t, nil
}
