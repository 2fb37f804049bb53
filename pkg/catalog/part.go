package catalog

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
)

// A Part says which segments of a backup [Verify] reads. The zero value is all of them.
//
// Groups are dealt out by a hash of the object's name, which is the same each time: who
// reads each of them once has read every segment once, also where segments were added
// meanwhile. A sample is another one with each seed.
type Part struct {
	group, groups uint64  // the group, from 1 on, of so many
	share         float64 // of the segments, in percent
	size          int64   // about so many bytes
	seed          uint64  // of a sample
}

// ParsePart reads N/T, the N-th of T groups; X%, a sample of the segments; or a size, a
// sample of about as many bytes. Behind an @ a sample may have a seed, so that it is the
// same again; without one it gets a random one.
func ParsePart(s string) (Part, error) {
	wrong := command.Usagef("%q is not a part such as 2/7, 5%% or 10GiB", s)
	if a, b, ok := strings.Cut(s, "/"); ok {
		n, err1 := strconv.ParseUint(a, 10, 31)
		of, err2 := strconv.ParseUint(b, 10, 31)
		if err1 != nil || err2 != nil || n < 1 || n > of {
			return Part{}, wrong
		}
		return Part{group: n, groups: of}, nil
	}
	p := Part{seed: rand.Uint64()}
	what, seed, given := strings.Cut(s, "@")
	var err error
	if given {
		if p.seed, err = strconv.ParseUint(seed, 10, 64); err != nil {
			return Part{}, wrong
		}
	}
	if number, ok := strings.CutSuffix(what, "%"); ok {
		if p.share, err = strconv.ParseFloat(number, 64); err != nil || !(p.share > 0 && p.share <= 100) {
			return Part{}, wrong
		}
		return p, nil
	}
	var size command.Size
	if err := size.Set(what); err != nil || size < 1 {
		return Part{}, wrong
	}
	p.size = int64(size)
	return p, nil
}

// String is what [ParsePart] reads as the same part, "" where it is all.
func (p Part) String() string {
	switch {
	case p.groups > 0:
		return fmt.Sprintf("%d/%d", p.group, p.groups)
	case p.share > 0:
		return fmt.Sprintf("%s%%@%d", strconv.FormatFloat(p.share, 'f', -1, 64), p.seed)
	case p.size > 0:
		return fmt.Sprintf("%d@%d", p.size, p.seed)
	}
	return ""
}

// describe says for people which part it is.
func (p Part) describe() string {
	if p.groups > 0 {
		return fmt.Sprintf("part %d of %d", p.group, p.groups)
	}
	return fmt.Sprintf("a random sample (--deep=%s reads the same again)", p)
}

// choose returns what tells by its name whether a segment is in the part.
func (p Part) choose(segments iter.Seq[commitlog.Segment]) func(path string) bool {
	switch {
	case p.groups > 0:
		return func(path string) bool { return p.place(path)%p.groups == p.group-1 }
	case p.share > 0 || p.size > 0:
		last := p.lastOf(segments)
		return func(path string) bool { return p.place(path) <= last }
	}
	return func(string) bool { return true }
}

// lastOf is the place of the last segment of a sample, by place: there is at least one.
func (p Part) lastOf(segments iter.Seq[commitlog.Segment]) uint64 {
	type placed struct {
		at   uint64
		size int64
	}
	var all []placed
	for seg := range segments {
		all = append(all, placed{p.place(seg.Path), seg.Size})
	}
	slices.SortFunc(all, func(a, b placed) int { return cmp.Compare(a.at, b.at) })
	count, bytes := int(math.Ceil(float64(len(all))*p.share/100)), int64(0)
	for i, s := range all {
		bytes += s.size
		if i+1 >= count && bytes >= p.size {
			return s.at
		}
	}
	return math.MaxUint64
}

// place is where a segment is in the order by which parts are dealt out, which a seed mixes
// anew (MurmurHash3's finalizer).
func (p Part) place(path string) uint64 {
	key := keyOf(path)
	x := binary.LittleEndian.Uint64(key[:]) ^ p.seed
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// deepFlag is --deep, which stands alone or has a part behind a =, as no flag of the
// library does.
type deepFlag struct{ cli.GenericFlag }

func newDeepFlag() *deepFlag {
	return &deepFlag{cli.GenericFlag{
		Name: "deep", Value: new(deepValue),
		Usage: "read the content of the segments; `[=PART]` names a part of them: the N-th of T groups (2/7), or a random sample (5%, 10GiB)",
	}}
}

// TakesValue implements cli.DocGenerationFlag.
func (*deepFlag) TakesValue() bool { return false }

// deepValue is the value of --deep as it was given. It is read later: package flag would
// say of a wrong one that it is no boolean.
type deepValue string

// Set implements flag.Value.
func (v *deepValue) Set(s string) error {
	*v = deepValue(s)
	return nil
}

// String implements flag.Value.
func (v *deepValue) String() string { return string(*v) }

// IsBoolFlag tells package flag that what comes behind --deep is not its value.
func (*deepValue) IsBoolFlag() bool { return true }

// deepFrom reads --deep: whether segments are read, and which part of them.
func deepFrom(c *cli.Context) (on bool, part Part, err error) {
	text := string(*c.Generic("deep").(*deepValue))
	if text == "" {
		return false, Part{}, nil
	}
	if on, err := strconv.ParseBool(text); err == nil { // alone it is "true"
		return on, Part{}, nil
	}
	if part, err = ParsePart(text); err != nil {
		return false, Part{}, command.Usagef("--deep: %w", err)
	}
	return true, part, nil
}
