package timespec

import "time"

// MaxApart is how far clocks of machines that work together may be apart before it is to be
// said: times of restore points are told by the clock of the machine that backs up.
const MaxApart = 5 * time.Second

// Apart is how far a clock is from this machine's at least, which was read at a time between
// two moments of this one.
func Apart(at, before, after time.Time) time.Duration {
	switch {
	case at.Before(before):
		return before.Sub(at)
	case at.After(after):
		return at.Sub(after)
	}
	return 0
}
