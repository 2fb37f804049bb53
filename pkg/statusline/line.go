package statusline

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// A field is one thing that a line may show, in several forms: the first is the shortest.
type field struct{ forms []string }

// The fields, in the order in which they are shown.
const (
	percent = iota
	records
	size
	rate
	left
	commit
	waiting
	elapsed
	fields
)

// wishes are the forms of fields, the most important first. What does not fit is left out, and
// what comes behind it may be shown still.
var wishes = []struct{ field, form int }{
	{percent, 0}, {records, 0}, {left, 0}, {rate, 0}, {waiting, 0}, {size, 0}, {commit, 0},
	{records, 1}, {waiting, 1}, {rate, 1}, {size, 1}, {commit, 1}, {percent, 1}, {elapsed, 0},
}

// Separator is between the fields of a line.
const Separator = " · "

// Line lays a view out on a line of at most width characters, which begins with name.
func Line(v *View, name string, width int) string {
	all := v.fields()
	shown := [fields]string{}
	line := func() string {
		var parts []string
		for _, s := range shown {
			if s != "" {
				parts = append(parts, s)
			}
		}
		return name + ": " + strings.Join(parts, Separator)
	}
	for _, w := range wishes {
		forms := all[w.field].forms
		if w.form >= len(forms) || forms[w.form] == "" {
			continue
		}
		was := shown[w.field]
		shown[w.field] = forms[w.form]
		if utf8.RuneCountInString(line()) > width {
			shown[w.field] = was
		}
	}
	return cut(line(), width)
}

// cut is s, or the beginning of it where it is wider than width.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width, 0)])
}

func (v *View) fields() [fields]field {
	var all [fields]field
	set := func(at int, forms ...string) { all[at] = field{forms} }
	if v.Elapsed >= time.Second {
		set(elapsed, "in "+Duration(v.Elapsed))
	}
	if v.Doing != "" {
		set(percent, v.Doing)
		return all
	}
	if v.Stopping {
		set(percent, "stopping")
	} else if v.Fraction >= 0 {
		share := fmt.Sprintf("%d%%", int(100*v.Fraction))
		set(percent, share)
		if v.Plan.Records == 0 && v.Plan.Offsets > 0 {
			set(percent, share, share+" of "+humanize.Comma(v.Plan.Offsets)+" offsets")
		}
	}
	set(records, v.count())
	if v.Plan.Records > 0 {
		set(records, v.count(), humanize.Comma(v.Sample.Records)+" of "+humanize.Comma(v.Plan.Records)+" records")
	}
	v.sizes(&all[size])
	per := humanize.Comma(int64(math.Round(v.RecordRate))) + "/s"
	if v.Sample.Records > 0 {
		set(rate, per, humanize.Comma(int64(math.Round(v.RecordRate)))+" records/s, "+Bytes(int64(v.ByteRate))+"/s")
	} else if v.ByteRate > 0 {
		set(rate, Bytes(int64(v.ByteRate))+"/s")
	}
	switch {
	case v.Follow && v.Behind >= 0:
		set(left, Duration(v.Behind)+" behind")
	case !v.Follow && !v.Stopping && v.Left >= 0:
		set(left, Duration(v.Left)+" left")
	}
	if v.SinceCommit >= 0 {
		ago := Duration(v.SinceCommit) + " ago"
		set(commit, "commit "+ago, humanize.Comma(v.Committed)+" committed "+ago)
	}
	if v.Waits != "" {
		set(waiting, "waits for "+strings.TrimPrefix(v.Waits, "the "), "waiting for "+v.Waits)
	}
	return all
}

// count is the records that are done; nothing for a stage that counts none.
func (v *View) count() string {
	switch {
	case v.Sample.Records == 0 && v.Plan.Records == 0 && v.Plan.Offsets == 0 && !v.Follow:
		return ""
	case v.Sample.Records == 1:
		return "1 record"
	}
	return humanize.Comma(v.Sample.Records) + " records"
}

// sizes are the bytes on their way from the source to the store or the cluster.
func (v *View) sizes(f *field) {
	var chain []string
	for _, size := range v.Flow {
		if n := size.Of(&v.Sample); n > 0 {
			chain = append(chain, Bytes(n)+" "+size.Name)
		}
	}
	if len(chain) == 0 {
		return
	}
	if len(v.Flow) == 1 && v.Plan.Bytes > 0 {
		chain[0] = Bytes(v.flow(v.Plan)) + " of " + Bytes(v.Plan.Bytes) + " " + v.Flow[0].Name
	}
	f.forms = []string{chain[len(chain)-1], strings.Join(chain, " → ")}
}

// Bytes writes a size as all messages do, in binary units.
func Bytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// Duration writes a time as long as people say it: 7s, 3m05s, 2h10m, 3d04h.
func Duration(d time.Duration) string {
	d = d.Round(time.Second)
	s := int64(d / time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", s)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

// ASCII writes a line for a terminal that knows no other characters.
func ASCII(line string) string { return strings.NewReplacer("·", "|", "→", ">").Replace(line) }
