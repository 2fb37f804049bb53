package command

import (
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
)

// A Size is a number of bytes as a flag: 64MiB, 10MB, 4096.
type Size int64

// Set implements cli.Generic.
func (s *Size) Set(v string) error {
	n, err := humanize.ParseBytes(v)
	if err != nil || n > math.MaxInt64 {
		return Usagef("%q is not a size such as 64MiB or 10MB", v)
	}
	*s = Size(n)
	return nil
}

// String implements cli.Generic.
func (s *Size) String() string { return s.text() }

func (s Size) text() string {
	text := humanize.Bytes(uint64(s))
	if s%1024 == 0 {
		text = humanize.IBytes(uint64(s))
	}
	return strings.NewReplacer(" ", "", ".0", "").Replace(text)
}

// SizeFlag is a flag that takes a size in bytes.
func SizeFlag(name string, value int64, usage string) cli.Flag {
	s := Size(value)
	return &cli.GenericFlag{Name: name, Value: &s, Usage: usage}
}

// SizeOf is the value of a [SizeFlag] in bytes.
func SizeOf(c *cli.Context, name string) int64 { return int64(*c.Generic(name).(*Size)) }

// A perSecond is a number a second as a flag, with or without /s: of bytes 50MB/s, of
// other things 10000/s. 0 is no limit.
type perSecond struct {
	n     int64
	bytes bool
}

// Set implements cli.Generic.
func (r *perSecond) Set(v string) error {
	text := strings.TrimSuffix(v, "/s")
	if r.bytes {
		var s Size
		if err := s.Set(text); err != nil {
			return Usagef("%q is not a rate such as 50MB/s", v)
		}
		r.n = int64(s)
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return Usagef("%q is not a rate such as 10000/s", v)
	}
	r.n = n
	return nil
}

// String implements cli.Generic.
func (r *perSecond) String() string {
	switch {
	case r.n == 0:
		return ""
	case r.bytes:
		return Size(r.n).text() + "/s"
	}
	return strconv.FormatInt(r.n, 10) + "/s"
}

// MaxRateFlag is --max-rate alone, of bytes.
func MaxRateFlag(what string) cli.Flag {
	return &cli.GenericFlag{Name: "max-rate", Value: &perSecond{bytes: true}, DefaultText: "no limit", Usage: "limit what is " + what + " to `SIZE/s`, such as 50MB/s"}
}

// MaxRate is the value of a [MaxRateFlag] in bytes a second. 0 is no limit.
func MaxRate(c *cli.Context) int64 { return c.Generic("max-rate").(*perSecond).n }

// RateFlags are --max-rate and --max-records. What is limited goes into their usage:
// "read from the brokers".
func RateFlags(what string) []cli.Flag {
	return []cli.Flag{
		MaxRateFlag(what),
		&cli.GenericFlag{Name: "max-records", Value: &perSecond{}, DefaultText: "no limit", Usage: "limit the records that are " + what + " to `N/s`"},
	}
}

// Rates are the values of [RateFlags], a second. 0 is no limit.
func Rates(c *cli.Context) (bytes, records int64) {
	return MaxRate(c), c.Generic("max-records").(*perSecond).n
}

// MaxFrameFlag bounds the frames that a stage accepts.
func MaxFrameFlag() cli.Flag {
	return SizeFlag("max-frame", 1<<30, "refuse frames in the input that are larger than `SIZE`")
}
