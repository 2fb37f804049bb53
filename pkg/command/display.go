package command

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/statusline"
)

const (
	firstDraw = 300 * time.Millisecond // a run that is over sooner shows nothing
	drawEvery = 200 * time.Millisecond

	// heartbeat is how often a run says how it goes where nobody watches it.
	heartbeat = time.Minute
)

// clearLine takes what is drawn off a terminal. Each stage of a pipe does so before it says
// something: another stage may have drawn there.
const clearLine = "\r\x1b[J"

// redraw is for a line in the place of another one of the same width. Where the line is the
// terminal's first, tmux and others keep all that clearLine clears as history.
const redraw = "\r\x1b[K"

// A screen is a terminal to draw on.
type screen struct {
	w     io.Writer
	width func() int  // columns, as they are now
	ours  func() bool // whether it may be drawn on now
	ascii bool
	drawn int // columns when it was drawn on last
}

// terminal is standard error where a person may watch it, or nil.
var terminal = sync.OnceValue(func() *screen {
	fd := int(os.Stderr.Fd())
	if !term.IsTerminal(fd) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return &screen{
		w: os.Stderr,
		width: func() int {
			if w, _, err := term.GetSize(fd); err == nil && w > 0 {
				return w
			}
			return 80
		},
		ours:  func() bool { return mayDraw(fd) },
		ascii: !utf8Locale(os.Getenv),
	}
})

// utf8Locale tells by the environment whether a terminal shows UTF-8.
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToUpper(getenv(name)); v != "" {
			return strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8")
		}
	}
	return false
}

// A Display shows how a run goes: a line on the terminal that is drawn again and again, or,
// where there is none, a message each minute. A nil Display shows nothing.
type Display struct {
	env *Env

	mu       sync.Mutex
	plan     statusline.Plan
	doing    string
	kept     func() string
	stopping bool
	meter    *statusline.Meter

	over  chan struct{}
	ended chan struct{}
}

// displayed is the Display of this process, for signals, also when it is closed.
var displayed atomic.Pointer[Display]

// NewDisplay begins to show a run. One stage of a pipe does: the last one, which alone knows what
// is committed. out is what a stage writes a stream to: where that is a pipe there is a stage
// behind this one, and the Display is nil. It is nil, too, for those that are the last in any case.
func (e *Env) NewDisplay(out io.Writer, plan statusline.Plan) *Display {
	if out != nil && isPipe(out) {
		return nil
	}
	d := &Display{
		env: e, plan: plan, meter: statusline.NewMeter(time.Now()),
		over: make(chan struct{}), ended: make(chan struct{}),
	}
	displayed.Store(d)
	go d.run()
	return d
}

// Expect says what a stream's header says of how much is to come.
func (d *Display) Expect(h *format.Header) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := h.Total; t != nil {
		d.plan.Offsets, d.plan.Records, d.plan.Bytes = max(t.Offsets, 0), max(t.Records, 0), max(t.Bytes, 0)
	}
	d.plan.Follow = h.Follow
}

// Doing says what is being done that is not counted: "opening the remote". With "" it is over.
func (d *Display) Doing(what string) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.doing = Printable(what)
}

// Kept sets what says, at a second Ctrl-C, what of the run is kept and what is not.
func (d *Display) Kept(kept func() string) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept = kept
}

// Beside returns a writer to w that takes what is drawn off the terminal first, where w is one, too.
func (d *Display) Beside(w io.Writer) io.Writer {
	if d == nil || d.env.screen == nil || w != io.Writer(os.Stdout) || !StdoutIsTerminal() {
		return w
	}
	return beside{w}
}

type beside struct{ w io.Writer }

// Write implements io.Writer.
func (b beside) Write(p []byte) (int, error) {
	n, err := b.w.Write(append([]byte(clearLine), p...))
	return max(0, n-len(clearLine)), err
}

// Close takes what is drawn off the terminal.
func (d *Display) Close() {
	if d == nil {
		return
	}
	close(d.over)
	<-d.ended
}

func (d *Display) run() {
	defer close(d.ended)
	var draw, beat <-chan time.Time
	first := time.NewTimer(firstDraw)
	defer first.Stop()
	on := d.env.screen
	if on != nil {
		draw = first.C
	}
	if d.env.heartbeat > 0 {
		ticker := time.NewTicker(d.env.heartbeat)
		defer ticker.Stop()
		beat = ticker.C
	}
	drawn := false
	for {
		select {
		case now := <-draw:
			if on.ours() {
				on.draw(d.view(now), d.env.Name)
				drawn = true
			}
			first.Reset(drawEvery)
		case now := <-beat:
			d.beat(now)
		case <-d.over:
			if drawn && on.ours() {
				_, _ = io.WriteString(on.w, clearLine)
			}
			return
		}
	}
}

// draw draws a view. The cursor stays where the line begins: when a terminal that becomes narrower
// folds the line, or another stage writes a message, the line begins there still.
func (s *screen) draw(v statusline.View, name string) {
	width := s.width()
	line := statusline.Line(&v, name, width-1)
	if s.ascii {
		line = statusline.ASCII(line)
	}
	before := redraw
	if width != s.drawn { // the line before may be folded
		before, s.drawn = clearLine, width
	}
	_, _ = io.WriteString(s.w, before+line+"\r") // what cannot be drawn stops nothing
}

func (d *Display) view(now time.Time) statusline.View {
	s := sample(d.env.Counters.Snapshot())
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Doing = d.doing
	v := d.meter.View(now, s, d.plan)
	v.Stopping = d.stopping
	return v
}

// sample is what a display shows of counters. What has come in and is not done has been scanned,
// and counts for nothing yet.
func sample(c metrics.Snapshot) statusline.Sample {
	done := c.Records + c.There
	s := statusline.Sample{
		Records: done, Offsets: max(0, c.Offsets-max(0, c.Taken-done)), Pending: max(0, c.Taken-c.Committed-c.There),
		In: c.BytesIn, Out: c.BytesOut, Raw: c.BytesRaw, Packed: c.BytesPacked, Stored: c.BytesStored,
		Commits: c.Commits, Committed: c.Committed, LastCommit: c.LastCommit, Point: c.Point,
		WaitedIn: c.InputWait, WaitedOut: c.OutputWait,
	}
	return s
}

// beatWidth is the width of a line where no terminal sets one.
const beatWidth = 400

// beat says in the log how the run goes.
func (d *Display) beat(now time.Time) {
	v := d.view(now)
	if asJSON.Load() {
		d.env.Log.Info("progress", fields(&v)...)
		return
	}
	d.env.Log.Info(strings.TrimPrefix(statusline.Line(&v, "", beatWidth), ": "))
}

// fields are the numbers of a view, for machines: sizes in bytes, times in seconds. What is not
// known is not there.
func fields(v *statusline.View) []any {
	seconds := func(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
	all := []any{slog.Float64("elapsed", seconds(v.Elapsed)), slog.Int64("records", v.Sample.Records),
		slog.Float64("records_per_second", v.RecordRate), slog.Float64("bytes_per_second", v.ByteRate)}
	for _, n := range []struct {
		name string
		n    int64
	}{
		{"total_records", v.Plan.Records}, {"total_offsets", v.Plan.Offsets}, {"total_bytes", v.Plan.Bytes}, {"offsets", v.Sample.Offsets},
		{"pending_records", v.Pending}, {"in_bytes", v.In}, {"out_bytes", v.Out}, {"raw_bytes", v.Raw}, {"packed_bytes", v.Packed}, {"stored_bytes", v.Stored},
		{"commits", v.Commits}, {"committed_records", v.Committed},
	} {
		if n.n > 0 {
			all = append(all, slog.Int64(n.name, n.n))
		}
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"left", v.Left}, {"behind", v.Behind}, {"since_commit", v.SinceCommit}} {
		if t.d >= 0 {
			all = append(all, slog.Float64(t.name, seconds(t.d)))
		}
	}
	if v.Fraction >= 0 {
		all = append(all, slog.Float64("fraction", v.Fraction))
	}
	for _, s := range [][2]string{{"doing", v.Doing}, {"waits_for", v.Waits}} {
		if s[1] != "" {
			all = append(all, slog.String(s[0], s[1]))
		}
	}
	return all
}

// stop answers the first signal. The other stages of the pipe got it, too, and are silent.
func (d *Display) stop() {
	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	what := "what was read"
	if n := sample(d.env.Counters.Snapshot()).Pending; n > 0 {
		what = Count(n, "record")
	}
	d.env.Log.Info(fmt.Sprintf("finishing %s; again to stop now", what))
}

// keeps is what is said at the second signal.
func (d *Display) keeps() string {
	d.mu.Lock()
	kept := d.kept
	d.mu.Unlock()
	if kept == nil {
		return ""
	}
	return kept()
}
