// Package statusline decides what is shown of a run: rates and estimates of what a stage has
// counted, and their layout on a line. It has no clock and no terminal.
package statusline

import (
	"time"
)

// A Sample is what a stage has counted until now. What is 0 is not known, or is not there yet.
type Sample struct {
	Doing   string // what comes before the work, or behind it: opening a remote, say
	Records int64  // done: stored or acknowledged, or written where the stage is in the middle of a pipe
	Pending int64  // records that have come, and are not done
	Offsets int64  // scanned, as far as that is done

	// Bytes: that came in and went out as a stream or from brokers or a store; of segments, as they
	// were before compression and as they are; that the store or the cluster has taken.
	In, Out, Raw, Packed, Stored int64

	Commits    int64
	Committed  int64 // records
	LastCommit time.Time
	Point      time.Time // the newest restore point that is committed

	// How long the stage has waited for its input, and for what it writes to.
	WaitedIn, WaitedOut time.Duration
}

// A Plan is what is known of a run when it begins. What is 0 is not known.
type Plan struct {
	Offsets, Records, Bytes int64  // that are to come
	Flow                    []Size // the bytes to show, on their way from the source to the end
	Input, Output           string // what is waited for: "the input", "the store"
	Follow                  bool   // the run has no end
}

// A Size is bytes that a run shows.
type Size struct {
	Of   func(*Sample) int64
	Name string // "read", "stored"
}

// The sizes that there are to show.
func In(s *Sample) int64     { return s.In }
func Out(s *Sample) int64    { return s.Out }
func Raw(s *Sample) int64    { return s.Raw }
func Packed(s *Sample) int64 { return s.Packed }
func Stored(s *Sample) int64 { return s.Stored }

// A View is what there is to show at one moment.
type View struct {
	Sample
	Plan
	Elapsed time.Duration

	Fraction float64       // of the run that is done; negative: not known
	Left     time.Duration // until the end; negative: not known
	Behind   time.Duration // how old the newest restore point is; negative: there is none

	RecordRate, ByteRate float64 // a second, over the last while
	SinceCommit          time.Duration
	Waits                string // what is waited for most, or ""
	Stopping             bool
}

// Rates are taken over the last window. Where less than a few changes are in it, as when segments
// are large and the store is slow, they are taken over a longer one.
const (
	window  = 20 * time.Second
	longest = 2 * time.Minute
	changes = 3
)

// A Meter makes views of samples. The zero value is not of use: see [NewMeter].
type Meter struct {
	began time.Time
	past  []moment // the oldest first
}

type moment struct {
	at time.Time
	Sample
}

// NewMeter returns a meter of a run that begins at a time.
func NewMeter(began time.Time) *Meter { return &Meter{began: began, past: []moment{{at: began}}} }

// View takes in a sample.
func (m *Meter) View(now time.Time, s Sample, plan Plan) View {
	v := View{Sample: s, Plan: plan, Elapsed: now.Sub(m.began), Fraction: -1, Left: -1, Behind: -1, SinceCommit: -1}
	m.past = append(m.past, moment{now, s})
	for len(m.past) > 2 && m.forgets(now) {
		m.past = m.past[1:]
	}
	old := m.past[0]
	took := now.Sub(old.at).Seconds()
	if took > 0 {
		v.RecordRate = float64(s.Records-old.Records) / took
		v.ByteRate = float64(s.flow(plan)-old.flow(plan)) / took
		v.Waits = waits(took, (s.WaitedIn - old.WaitedIn).Seconds(), (s.WaitedOut - old.WaitedOut).Seconds(), plan)
	}
	if !s.LastCommit.IsZero() {
		v.SinceCommit = max(0, now.Sub(s.LastCommit))
	}
	if plan.Follow {
		if !s.Point.IsZero() {
			v.Behind = max(0, now.Sub(s.Point))
		}
		return v
	}
	done, total := s.part(plan)
	if total > 0 {
		v.Fraction = min(1, float64(done)/float64(total))
		was, _ := old.part(plan)
		if gained := done - was; gained > 0 && total >= done {
			v.Left = time.Duration(float64(total-done) / float64(gained) * took * float64(time.Second))
		}
	}
	return v
}

// part is how much of a run is done, and of how much, in the unit that tells best: every
// offset is scanned once, whatever a filter drops; records are next.
func (s *Sample) part(plan Plan) (done, total int64) {
	switch {
	case plan.Offsets > 0:
		return s.Offsets, plan.Offsets
	case plan.Records > 0:
		return s.Records, plan.Records
	}
	return s.flow(plan), plan.Bytes
}

// forgets tells whether the oldest moment is not needed any more.
func (m *Meter) forgets(now time.Time) bool {
	age := now.Sub(m.past[1].at)
	if age < window || age >= longest {
		return age >= longest
	}
	n := 0
	for i := 2; i < len(m.past); i++ {
		if m.past[i].Records != m.past[i-1].Records || m.past[i].Stored != m.past[i-1].Stored || m.past[i].In != m.past[i-1].In {
			if n++; n == changes {
				return true
			}
		}
	}
	return false
}

// flow is the bytes that rates are of: the first that are shown.
func (s *Sample) flow(plan Plan) int64 {
	if len(plan.Flow) == 0 {
		return 0
	}
	return plan.Flow[0].Of(s)
}

// waits names what a stage has waited for in the most of the time. Whoever waits for both in
// turn is held up by neither alone.
func waits(took, in, out float64, plan Plan) string {
	switch half := took / 2; {
	case out >= half && out > in:
		return plan.Output
	case in >= half:
		return plan.Input
	}
	return ""
}
