package command

import (
	"math"
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
func (s *Size) String() string {
	text := humanize.Bytes(uint64(*s))
	if *s%1024 == 0 {
		text = humanize.IBytes(uint64(*s))
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

// MaxFrameFlag bounds the frames that a stage accepts.
func MaxFrameFlag() cli.Flag {
	return SizeFlag("max-frame", 1<<30, "refuse frames in the input that are larger than `SIZE`")
}
