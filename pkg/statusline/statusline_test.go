package statusline

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// push is a run of kbk-push that has gone on for a minute.
func push() View {
	return View{
		Sample: Sample{Records: 1_234_567, Pending: 61_000, Offsets: 1_234_600, Raw: 3435973836, Packed: 1181116006, Stored: 985661440,
			Commits: 3, Committed: 1_173_567},
		Plan:    Plan{Offsets: 2_000_000, Flow: []Size{{Raw, "read"}, {Packed, "packed"}, {Stored, "stored"}}, Input: "the input", Output: "the store"},
		Elapsed: 62 * time.Second, Fraction: 0.6173, Left: 38 * time.Second, Behind: -1,
		RecordRate: 19912.4, ByteRate: 55418932, SinceCommit: 12 * time.Second, Waits: "the store",
	}
}

// TestLine has what a line shows at a width: the most important at any, all at 200.
func TestLine(t *testing.T) {
	pull := push()
	pull.Plan = Plan{Records: 2_000_000, Offsets: 2_100_000, Bytes: 1363148800, Flow: []Size{{In, "read"}}, Input: "the store", Output: "the stage behind"}
	pull.In, pull.SinceCommit, pull.Waits = 985661440, -1, ""
	follow := push()
	follow.Follow, follow.Plan.Offsets, follow.Fraction, follow.Left, follow.Behind = true, 0, -1, -1, 7*time.Second
	stopping := push()
	stopping.Stopping = true
	opening := View{Sample: Sample{Doing: "opening s3:bucket/nightly"}, Elapsed: 4 * time.Second, Fraction: -1, Left: -1, Behind: -1, SinceCommit: -1}
	nothing := View{Plan: push().Plan, Fraction: 0, Left: -1, Behind: -1, SinceCommit: -1}
	verify := View{Sample: Sample{In: 1 << 30}, Plan: Plan{Bytes: 4 << 30, Flow: []Size{{In, "verified"}}}, Elapsed: time.Minute, Fraction: 0.25, Left: 3 * time.Minute, Behind: -1, SinceCommit: -1, ByteRate: 1 << 24}
	for _, test := range []struct {
		name  string
		v     View
		width int
		want  string
	}{
		{"push", push(), 200, "kbk-push: 61% of 2,000,000 offsets · 1,234,567 records · 3.2 GiB read → 1.1 GiB packed → 940 MiB stored · 19,912 records/s, 53 MiB/s · 38s left · 1,173,567 committed 12s ago · waiting for the store"},
		{"push", push(), 80, "kbk-push: 61% · 1,234,567 records · 19,912/s · 38s left · waiting for the store"},
		{"push", push(), 60, "kbk-push: 61% · 1,234,567 records · 19,912/s · 38s left"},
		{"push", push(), 40, "kbk-push: 61% · 1,234,567 records"},
		{"push", push(), 20, "kbk-push: 61%"},
		{"push", push(), 5, "kbk-p"},
		{"push", push(), 0, ""},
		{"pull", pull, 80, "kbk-push: 61% · 1,234,567 of 2,000,000 records · 19,912/s · 38s left · in 1m02s"},
		{"pull", pull, 200, "kbk-push: 61% · 1,234,567 of 2,000,000 records · 940 MiB of 1.3 GiB read · 19,912 records/s, 53 MiB/s · 38s left · in 1m02s"},
		{"follow", follow, 80, "kbk-push: 1,234,567 records · 19,912/s · 7s behind · waiting for the store"},
		{"stopping", stopping, 80, "kbk-push: stopping · 1,234,567 records · 19,912/s · waiting for the store"},
		{"opening", opening, 80, "kbk-push: opening s3:bucket/nightly · in 4s"},
		{"nothing yet", nothing, 80, "kbk-push: 0% of 2,000,000 offsets · 0 records"},
		{"verify", verify, 80, "kbk-push: 25% · 1.0 GiB of 4.0 GiB verified · 16 MiB/s · 3m00s left · in 1m00s"},
	} {
		got := Line(&test.v, "kbk-push", test.width)
		if got != test.want {
			t.Errorf("%s at %d:\n got %s\nwant %s", test.name, test.width, got, test.want)
		}
	}
	full := push()
	for width := range 300 {
		if n := utf8.RuneCountInString(Line(&full, "kbk-push", width)); n > width {
			t.Errorf("%d characters at a width of %d", n, width)
		}
	}
	if got := ASCII("a · b → c"); got != "a | b > c" {
		t.Errorf("%q", got)
	}
}

// TestMeter takes a run through time.
func TestMeter(t *testing.T) {
	plan := Plan{Offsets: 10_000, Flow: []Size{{In, "read"}}, Input: "the input", Output: "the store"}
	m := NewMeter(noon)
	v := m.View(noon.Add(time.Second), Sample{}, plan)
	if v.Fraction != 0 || v.Left != -1 || v.RecordRate != 0 || v.SinceCommit != -1 || v.Waits != "" {
		t.Errorf("at first: %+v", v)
	}
	for s := 2; s <= 60; s++ { // a hundred a second, half of the time for the store
		at := time.Duration(s) * time.Second
		n := int64(100 * (s - 1))
		v = m.View(noon.Add(at), Sample{Records: n / 2, Offsets: n, In: 10 * n, LastCommit: noon.Add(50 * time.Second), WaitedOut: at * 6 / 10, WaitedIn: at / 10}, plan)
	}
	if v.Fraction != 0.59 || v.Left.Round(time.Second) != 41*time.Second || v.RecordRate < 49 || v.RecordRate > 51 || v.ByteRate < 990 || v.ByteRate > 1010 {
		t.Errorf("after a minute: %+v", v)
	}
	if v.SinceCommit != 10*time.Second || v.Waits != "the store" || v.Elapsed != time.Minute {
		t.Errorf("after a minute: %+v", v)
	}
	last := v.Sample
	for s := 61; s <= 100; s++ { // and then nothing comes
		last.WaitedIn += time.Second
		v = m.View(noon.Add(time.Duration(s)*time.Second), last, plan)
	}
	if v.RecordRate > 5 || v.Left < 9*time.Minute || v.Waits != "the input" {
		t.Errorf("while nothing comes: %+v", v)
	}
	if n := len(m.past); n > 50 {
		t.Errorf("%d moments are kept", n)
	}
	for s := 101; s <= 300; s++ {
		v = m.View(noon.Add(time.Duration(s)*time.Second), last, plan)
	}
	if v.RecordRate != 0 || v.Left != -1 || len(m.past) > 125 {
		t.Errorf("when nothing has come for long: %+v, %d moments", v, len(m.past))
	}
	over := m.View(noon.Add(301*time.Second), Sample{Offsets: 12_000}, plan)
	if over.Fraction != 1 || over.Left != -1 {
		t.Errorf("past the end: %+v", over)
	}
	following := m.View(noon.Add(302*time.Second), Sample{Point: noon.Add(295 * time.Second)}, Plan{Follow: true})
	if following.Behind != 7*time.Second || following.Fraction != -1 {
		t.Errorf("following: %+v", following)
	}
}

// TestLargeSegments has a store that takes a segment in half a minute.
func TestLargeSegments(t *testing.T) {
	m := NewMeter(noon)
	for s := 0; s <= 300; s++ {
		n := int64(s / 30 * 3000)
		v := m.View(noon.Add(time.Duration(s)*time.Second), Sample{Records: n, Offsets: n}, Plan{Offsets: 60_000})
		if s > 120 && (v.RecordRate < 60 || v.RecordRate > 160) {
			t.Errorf("after %d s: %.0f a second", s, v.RecordRate)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1499 * time.Millisecond: "1s", 59600 * time.Millisecond: "1m00s", 185 * time.Second: "3m05s",
		2*time.Hour + 10*time.Minute + 59*time.Second: "2h10m", 76 * time.Hour: "3d04h",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%s: %s, not %s", d, got, want)
		}
	}
}

// TestUnits: sizes are in binary units everywhere.
func TestUnits(t *testing.T) {
	v := push()
	if line := Line(&v, "x", 300); strings.Contains(line, " MB") || strings.Contains(line, " GB") {
		t.Error(line)
	}
}
