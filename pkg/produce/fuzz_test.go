package produce

import (
	"testing"
	"time"
)

// FuzzNote joins any note that lies in a group, and leaves it again. What is written is a
// note, and no other run's word for what a config was is lost while that run lives.
func FuzzNote(f *testing.F) {
	f.Add(`{"kbk":2,"cluster":"c","topic_id":"t","was":{"retention.ms":"604800000","cleanup.policy":null},"holders":[{"run":"a","host":"h","pid":7,"renewed":1764000000000,"producer":3,"epoch":1,"markers":-1},{"run":"b","host":"other","pid":7,"renewed":1763999990000}]}`)
	f.Add(`{"kbk":2}`)
	f.Add(`{"kbk":3,"cluster":"c","topic_id":"t"}`)
	w := &witness{now: time.UnixMilli(1_764_000_010_000), run: "me", host: "h", pid: 9, alive: func(pid int) bool { return pid == 7 }}
	settings := map[string]setting{"retention.ms": {value: "-1", own: true}, "cleanup.policy": {value: "delete"}}
	f.Fuzz(func(t *testing.T, meta string) {
		n, ours := parseNote(meta, "c", "t")
		if !ours {
			n = note{Version: noteVersion, Cluster: "c", TopicID: "t"}
		}
		others := n.leave(w)
		joined, _ := n.join(holder{Run: "me", Host: "h", PID: 9, Renewed: w.now.UnixMilli()}, w, settings, map[string]string{"retention.ms": "-1"})
		again, ours := parseNote(joined.encode(), "c", "t")
		if !ours {
			t.Fatalf("%q became %q, which is no note", meta, joined.encode())
		}
		if left := again.leave(w); len(left) != len(others) {
			t.Fatalf("%q: %d others, and then %d", meta, len(others), len(left))
		}
	})
}

// FuzzFlags reads any partition map and any names.
func FuzzFlags(f *testing.F) {
	f.Add("0=2,1=0", "p-")
	f.Add("^a(.)=b$1", "")
	f.Fuzz(func(t *testing.T, text, prefix string) {
		if m, err := parsePartitionMap(text); err == nil {
			for from, to := range m {
				if from < 0 || to < 0 {
					t.Fatalf("%q: %d to %d", text, from, to)
				}
			}
		}
		if n, err := parseNaming([]string{text}, prefix); err == nil {
			n.Target(text)
		}
	})
}
