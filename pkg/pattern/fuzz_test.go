package pattern

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// FuzzPartitions reads any list of partitions. One that is read is the same written out.
func FuzzPartitions(f *testing.F) {
	for _, s := range []string{"0,3-5", "7", "1-1,0", "0-99", "2147483647"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Count(s, "-") > 3 {
			return // a million each
		}
		got, err := Partitions(s)
		if err != nil || len(got) > 1000 {
			return
		}
		var list []string
		for _, n := range slices.Sorted(maps.Keys(got)) {
			list = append(list, fmt.Sprint(n))
		}
		if again, err := Partitions(strings.Join(list, ",")); err != nil || !maps.Equal(got, again) {
			t.Fatalf("%q is %v, and that is %v, %v", s, got, again, err)
		}
	})
}

// FuzzRenames renames any name by any rule.
func FuzzRenames(f *testing.F) {
	f.Add("orders=bought", "orders")
	f.Add("^(a|b)-(.*)$=$2_$1", "a-one")
	f.Add("^x=$$1${1}$9", "xy")
	f.Fuzz(func(t *testing.T, rule, name string) {
		r, err := CompileRenames([]string{rule})
		if err != nil {
			return
		}
		if to, ok := r.Lookup(name); !ok && to != name {
			t.Fatalf("%q became %q without a rule", name, to)
		}
		if from := rule[:strings.LastIndexByte(rule, '=')]; !IsRegexp(from) && r.Name(from) != rule[len(from)+1:] {
			t.Fatalf("%q: %q became %q", rule, from, r.Name(from))
		}
	})
}
