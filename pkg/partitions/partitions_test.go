package partitions

import (
	"fmt"
	"strconv"
	"testing"
)

// TestShard wants every partition in exactly one shard, and the shards about equal.
func TestShard(t *testing.T) {
	for _, n := range []string{"1", "2", "3", "7"} {
		counts := make(map[string]int)
		for topic := range 50 {
			for part := range int32(topic%5 + 1) {
				holders := 0
				for i := 1; strconv.Itoa(i-1) != n; i++ {
					name := strconv.Itoa(i) + "/" + n
					s, err := ParseShard(name)
					if err != nil {
						t.Fatal(err)
					}
					if s.Holds(fmt.Sprint("topic-", topic), part) {
						holders++
						counts[name]++
					}
				}
				if holders != 1 {
					t.Fatalf("topic-%d/%d is in %d of %s shards", topic, part, holders, n)
				}
			}
		}
		for name, got := range counts {
			if of, _ := strconv.Atoi(n); got < 150/of/2 || got > 150/of*2 {
				t.Errorf("shard %s has %d of 150 partitions", name, got)
			}
		}
	}
	for _, in := range []string{"", "1", "0/3", "4/3", "1/", "/3", "1/0", "-1/3", "1/2/3", "a/b"} {
		if s, err := ParseShard(in); err == nil {
			t.Errorf("%q was taken as %v", in, s)
		}
	}
}

func TestSelection(t *testing.T) {
	m, err := Selection{Topics: []string{"orders:0,3-5", "^audit"}, Exclude: []string{"audit-x"}, Numbers: map[int32]bool{0: true, 3: true}}.Compile()
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string][]bool{
		"orders":  {true, false, false, true},
		"audit-a": {true, false, false, true},
		"audit-x": {false, false, false, false},
		"other":   {false, false, false, false},
	} {
		for n, want := range want {
			if got := m.Matches(topic, int32(n)); got != want {
				t.Errorf("%s/%d: %v", topic, n, got)
			}
		}
	}
	if err := m.Missing(); err == nil || err.Error() != "-t orders:0,3-5: there is no partition 4" && err.Error() != "-t orders:0,3-5: there is no partition 5" {
		t.Errorf("got %v", err)
	}
	for in, want := range map[string]string{"none": `topic "none" is not there`, "none:1": `topic "none" is not there`, "^none": `no topic matches "^none"`} {
		m, err := Selection{Topics: []string{in}}.Compile()
		if err != nil || m.Matches("orders", 0) {
			t.Errorf("%s: matched, %v", in, err)
		}
		if err := m.Missing(); err == nil || err.Error() != want {
			t.Errorf("%s: got %v", in, err)
		}
	}
	if m, err := (Selection{}).Compile(); err != nil || !m.Matches("any", 7) || m.Missing() != nil {
		t.Errorf("nothing selected is not all: %v", err)
	}
	for _, bad := range []Selection{{Topics: []string{"^("}}, {Exclude: []string{"^("}}, {Topics: []string{"a:x"}}} {
		if _, err := bad.Compile(); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
